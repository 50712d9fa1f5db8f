//! One connection to a broker: requests go out in the order in which they were handed over, answers come in the same
//! order and are matched by their correlation ids.
//!
//! Promises: every request is answered exactly once, also when the connection ends: [`ProduceResult::Lost`] if a byte of
//! it was written, [`ProduceResult::NotSent`] if none was. By the time somebody hears of a loss, the cluster already
//! knows that the connection is gone. Nothing that a broker sends wedges it: an answer late, out of order or unreadable
//! ends the connection with a reason.
//!
//! [`ProduceResult::Lost`]: kafka_batcher_core::ProduceResult::Lost
//! [`ProduceResult::NotSent`]: kafka_batcher_core::ProduceResult::NotSent
//!
//! Who writes: the caller of [`Connection::produce`], while nobody else does; it also writes what others queue in the
//! meantime. Only what the socket does not take at once, or what must wait for a throttle's end (KIP-219), gets a task.
//! So a request costs one `writev`, one `read`, and one wake-up of who waits for the answer.
//!
//! What happens when a broker believes a login for a limited time only is in `connection/renewal.rs`.

mod renewal;

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use kafka_batcher_core::ProduceAnswer;
use kafka_batcher_core::wire::{Api, ApiVersions, FrameBuffer, ProduceHead, correlation_of, set_correlation};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::renewal::Login;
use super::answers;
use super::cluster::Cluster;
use super::sasl::Sasl;
use super::sink::{Piece, Progress, Sink};
use super::transport::{ReadHalf, Transport};
use crate::clock::later;

/// What a connection is for, and how it is told apart from earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Questions about the cluster, to whichever broker answered.
    Control,
    /// Everything for a partition's leader.
    Node {
        /// The broker's node id.
        node: i32,
        /// Which connection to that node this is.
        generation: u64,
    },
}

/// What a connection is made of, once the broker has said which versions it speaks.
pub(super) struct Established {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) versions: ApiVersions,
    pub(super) client_id: Arc<str>,
    pub(super) request_timeout: Duration,
    pub(super) cluster: Weak<Cluster>,
    /// How to log in again.
    pub(super) sasl: Option<Arc<Sasl>>,
}

pub(crate) struct Connection {
    about: Established,
    runtime: Handle,
    reader: OnceLock<AbortHandle>,
    /// The task that logs in again.
    prover: OnceLock<AbortHandle>,
    state: Mutex<State>,
}

struct State {
    life: Life,
    queue: VecDeque<Request>,
    login: Login,
    in_flight: VecDeque<InFlight>,
    next_correlation: i32,
    muted_until: Option<Instant>,
    /// When a request that gets no answer must have been written.
    unanswered_deadline: Option<Instant>,
    /// The last request in flight waits for the socket, and no byte of it has left.
    last_untouched: bool,
    /// Whether a request was sent that gets no answer.
    unasked: bool,
    /// Whether the broker has answered anything since it said its versions.
    heard: bool,
}

/// Who writes.
enum Life {
    /// Nobody: the next caller takes the sink.
    Resting(Box<Sink>),
    /// A caller, in the middle of `drive`.
    Driven,
    /// A task, waiting for the socket or for a throttle's end.
    Pumped(AbortHandle),
    /// It is over, for this reason.
    Closed(Arc<str>),
}

enum Request {
    Produce(Arc<Piece>, oneshot::Sender<Vec<ProduceAnswer>>),
    Ask(Vec<u8>, oneshot::Sender<Result<Vec<u8>, Lost>>),
}

struct InFlight {
    correlation: i32,
    deadline: Instant,
    waiting: Waiting,
}

enum Waiting {
    Produce { piece: Arc<Piece>, version: i16, reply: oneshot::Sender<Vec<ProduceAnswer>> },
    Ask(oneshot::Sender<Result<Vec<u8>, Lost>>),
}

/// No answer came, and why.
#[derive(Clone, Debug)]
pub(crate) enum Lost {
    /// The connection ended.
    Closed(Arc<str>),
    /// It took too long.
    TimedOut(Arc<str>),
}

impl Lost {
    fn why(&self) -> &Arc<str> {
        match self {
            Lost::Closed(why) | Lost::TimedOut(why) => why,
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.why())
    }
}

/// Why `drive` stopped.
enum Pause {
    /// Nothing left to write, or the connection is closed.
    Over,
    Blocked(Box<Sink>),
    Muted(Box<Sink>, Instant),
}

impl Pause {
    /// A request waits for the socket of which no byte has left.
    fn is_untouched(&self) -> bool {
        matches!(self, Pause::Blocked(sink) if sink.is_untouched())
    }
}

impl Connection {
    /// Takes over a connection whose broker has said its versions. `frames` may hold what was read too much.
    pub(super) fn start(about: Established, transport: Transport, frames: FrameBuffer) -> Arc<Connection> {
        let (read, write) = transport.into_split();
        let connection = Arc::new(Connection {
            about,
            runtime: Handle::current(),
            reader: OnceLock::new(),
            prover: OnceLock::new(),
            state: Mutex::new(State {
                life: Life::Resting(Box::new(Sink::new(write))),
                queue: VecDeque::new(),
                login: Login::Done,
                in_flight: VecDeque::new(),
                next_correlation: 1,
                muted_until: None,
                unanswered_deadline: None,
                unasked: false,
                last_untouched: false,
                heard: false,
            }),
        });
        let reader = tokio::spawn(read_answers(connection.clone(), read, frames));
        let _ = connection.reader.set(reader.abort_handle());
        connection
    }

    /// The address, as it was given or advertised.
    pub(crate) fn name(&self) -> &str {
        &self.about.name
    }

    /// Which connection to its node this is; 0 for one that belongs to no node.
    pub(crate) fn generation(&self) -> u64 {
        match self.about.role {
            Role::Control => 0,
            Role::Node { generation, .. } => generation,
        }
    }

    /// The newest version of `api` that both sides speak.
    pub(crate) fn version(&self, api: Api) -> Option<i16> {
        self.about.versions.common(api)
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.lock().life, Life::Closed(_))
    }

    /// Requests written or waiting to be.
    pub(crate) fn in_flight(&self) -> usize {
        let state = self.lock();
        state.in_flight.len() + state.queue.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a Produce request; the receiver gets an answer for each of its batches. A receiver whose sender is gone
    /// means lost.
    pub(crate) fn produce(self: &Arc<Self>, piece: Arc<Piece>) -> oneshot::Receiver<Vec<ProduceAnswer>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Produce(piece, reply));
        answer
    }

    /// Sends a request that lies ready but for its correlation id, and waits for the bytes of the answer.
    pub(crate) async fn ask(self: &Arc<Self>, request: Vec<u8>) -> Result<Vec<u8>, Lost> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Ask(request, reply));
        answer.await.unwrap_or_else(|_| Err(Lost::Closed(self.describe("closed").into())))
    }

    /// Sends nothing for so long (KIP-219): a broker that throttles does not read meanwhile. Not for longer than
    /// `request_timeout`, whatever is asked for: one answer must not silence a connection for good.
    pub(crate) fn throttle(&self, ms: i32) {
        if let Some(ms) = u64::try_from(ms).ok().filter(|ms| *ms > 0) {
            let (asked, most) = (Duration::from_millis(ms), self.about.request_timeout);
            if asked > most {
                let what = format!("the broker asks for a silence of {asked:?}");
                tracing::warn!("{}; it gets {most:?} (request_timeout)", self.describe(&what));
            }
            if let Some(cluster) = self.about.cluster.upgrade() {
                cluster.throttled(self.about.role, asked.min(most));
            }
            let until = Instant::now() + asked.min(most);
            let mut state = self.lock();
            state.muted_until = state.muted_until.max(Some(until));
        }
    }

    fn send(self: &Arc<Self>, request: Request) {
        let mut state = self.lock();
        if let Life::Closed(why) = &state.life {
            let why = why.clone();
            drop(state);
            return request.not_sent(&why);
        }
        state.queue.push_back(request);
        self.push(state);
    }

    /// Writes what waits, unless somebody is at it.
    fn push(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        match std::mem::replace(&mut state.life, Life::Driven) {
            Life::Resting(sink) => {
                drop(state);
                self.settle(self.drive(sink));
            }
            other => state.life = other,
        }
    }

    /// Writes until there is nothing left, or nothing more goes.
    fn drive(&self, mut sink: Box<Sink>) -> Pause {
        loop {
            if sink.is_writing() {
                match sink.advance() {
                    Ok(Progress::Blocked) => return Pause::Blocked(sink),
                    Ok(Progress::Done(None)) => {}
                    Ok(Progress::Done(Some((piece, reply)))) => {
                        self.lock().unanswered_deadline = None;
                        let _ = reply.send(answers::written(&piece));
                    }
                    Err(error) => {
                        self.close(&self.describe(&format!("writing failed: {error}")), sink.is_untouched());
                        return Pause::Over;
                    }
                }
            }
            let mut state = self.lock();
            if matches!(state.life, Life::Closed(_)) {
                return Pause::Over;
            }
            if !state.has_next() {
                state.life = Life::Resting(sink);
                return Pause::Over;
            }
            let now = Instant::now();
            match state.muted_until {
                Some(until) if until > now => return Pause::Muted(sink, until),
                _ => state.muted_until = None,
            }
            self.begin(&mut sink, state, now);
        }
    }

    /// Takes the next request to the socket's edge: numbered, in flight, its framing written.
    fn begin(&self, sink: &mut Sink, mut state: MutexGuard<'_, State>, now: Instant) {
        let Some(request) = state.next() else { return };
        let correlation = state.next_correlation;
        state.next_correlation = correlation.wrapping_add(1);
        let deadline: Instant = later(now.into_std(), self.about.request_timeout).into();
        match request {
            Request::Ask(mut bytes, reply) => {
                state.in_flight.push_back(InFlight { correlation, deadline, waiting: Waiting::Ask(reply) });
                drop(state);
                set_correlation(&mut bytes, correlation);
                sink.begin_plain(&bytes);
            }
            Request::Produce(piece, reply) => {
                let version = self.produce_version(&piece);
                let unanswered = match piece.acks {
                    0 => {
                        state.unanswered_deadline = Some(deadline);
                        state.unasked = true;
                        Some(reply)
                    }
                    _ => {
                        let waiting = Waiting::Produce { piece: piece.clone(), version, reply };
                        state.in_flight.push_back(InFlight { correlation, deadline, waiting });
                        None
                    }
                };
                drop(state);
                let (acks, timeout_ms, client_id) = (piece.acks, piece.timeout_ms, &*self.about.client_id);
                let head = ProduceHead { version, correlation, client_id, acks, timeout_ms };
                sink.begin_produce(&head, piece, unanswered);
            }
        }
    }

    /// The newest version both speak; without topic ids, the newest that goes by name.
    fn produce_version(&self, piece: &Piece) -> i16 {
        let newest = self.version(Api::Produce).unwrap_or(3);
        if newest >= 13 && !piece.has_topic_ids() { 12 } else { newest }
    }

    /// Hands what could not be written yet to a task of its own.
    fn settle(self: &Arc<Self>, pause: Pause) {
        if matches!(pause, Pause::Over) {
            return;
        }
        // Held while spawning, so that the task cannot rest before it is known that it works.
        let mut state = self.lock();
        if !matches!(state.life, Life::Closed(_)) {
            state.last_untouched = pause.is_untouched();
            let pump = self.runtime.spawn(pump(self.clone(), pause));
            state.life = Life::Pumped(pump.abort_handle());
        }
    }

    fn describe(&self, what: &str) -> String {
        match self.about.role {
            Role::Control => format!("connection to {}: {what}", self.about.name),
            Role::Node { node, .. } => format!("connection to broker {node} at {}: {what}", self.about.name),
        }
    }

    /// Ends the connection, once. Whatever is in flight is lost, whatever waits is not sent. `last_untouched`: of the
    /// last request in flight no byte was written.
    fn close(&self, why: &str, last_untouched: bool) {
        self.close_as(Lost::Closed(why.into()), last_untouched);
    }

    fn close_as(&self, lost: Lost, last_untouched: bool) {
        let mut state = self.lock();
        let before = match &state.life {
            Life::Closed(_) => return,
            _ => std::mem::replace(&mut state.life, Life::Closed(lost.why().clone())),
        };
        let last_untouched = last_untouched || state.last_untouched;
        let mut in_flight = std::mem::take(&mut state.in_flight);
        let mut queue = std::mem::take(&mut state.queue);
        if let Login::UnderWay(Some(request)) = std::mem::replace(&mut state.login, Login::Done) {
            queue.push_front(request);
        }
        drop(state);
        self.reader.get().into_iter().chain(self.prover.get()).for_each(AbortHandle::abort);
        if let Life::Pumped(pump) = &before {
            pump.abort();
        }
        let idle = in_flight.is_empty() && queue.is_empty();
        match idle {
            true => tracing::debug!(why = %lost.why(), "idle connection closed"),
            false => tracing::warn!(why = %lost.why(), in_flight = in_flight.len(), "connection lost"),
        }
        // First the cluster, then the answers: whoever hears of a loss must find another connection's number.
        if let Some(cluster) = self.about.cluster.upgrade() {
            cluster.connection_closed(self.about.role, idle);
        }
        let untouched = if last_untouched { in_flight.pop_back() } else { None };
        in_flight.into_iter().for_each(|request| request.lost(&lost));
        if let Some(request) = untouched {
            request.not_sent(lost.why());
        }
        queue.into_iter().for_each(|request| request.not_sent(lost.why()));
    }

    /// Ends it because the client is told to.
    pub(crate) fn shut(&self) {
        self.close(&self.describe("closed by this client"), false);
    }

    /// An answer came.
    fn answered(&self, frame: &[u8]) -> Result<(), String> {
        let correlation = correlation_of(frame).map_err(|error| error.to_string())?;
        let mut state = self.lock();
        state.heard = true;
        let request = match state.in_flight.front() {
            None => {
                return Err(format!("an answer came that nobody waits for (correlation id {correlation})"));
            }
            Some(first) if first.correlation != correlation => {
                let expected = first.correlation;
                return Err(format!(
                    "an answer came out of order: correlation id {correlation} where {expected} was due"
                ));
            }
            Some(_) => state.in_flight.pop_front(),
        };
        drop(state);
        match request.map(|request| request.waiting) {
            Some(Waiting::Ask(reply)) => {
                let _ = reply.send(Ok(frame.to_vec()));
            }
            Some(Waiting::Produce { piece, version, reply }) => {
                let cluster = self.about.cluster.upgrade();
                let (answers, read) =
                    answers::read(&self.about.name, frame, version, &piece, cluster.as_deref());
                match read {
                    Ok(throttle_ms) => self.throttle(throttle_ms),
                    Err(error) => {
                        let what = format!("the answer to Produce version {version} is broken: {error}");
                        self.close(&self.describe(&what), false);
                    }
                }
                let _ = reply.send(answers);
            }
            None => {}
        }
        Ok(())
    }

    /// When to look again whether an answer is late; an error if one is.
    fn late(&self, now: Instant) -> Result<Instant, String> {
        let state = self.lock();
        let first = state.in_flight.front().map(|request| request.deadline);
        match first.into_iter().chain(state.unanswered_deadline).min() {
            Some(deadline) if deadline <= now => {
                let waited = self.about.request_timeout;
                Err(format!("no answer within {waited:?} (request_timeout)"))
            }
            Some(deadline) => Ok(deadline),
            // Whatever is sent from now on is due later than this.
            None => Ok(later(now.into_std(), self.about.request_timeout).into()),
        }
    }

    fn ended(&self, result: io::Result<usize>) -> String {
        let what = match result {
            Ok(_) => "the broker closed it".to_owned(),
            Err(error) => format!("reading failed: {error}"),
        };
        let state = self.lock();
        let silent = !state.heard && !state.in_flight.is_empty();
        let hint = match self.about.sasl {
            _ if state.is_logging_in() => " while this client logged in again",
            _ if silent && state.unasked => {
                "; with required_acks = 0 it has no other way to refuse, mostly because it does not lead the partition any more"
            }
            Some(_) if silent => " without answering anything but its versions and the login",
            None if silent => {
                " without answering anything but its versions; does this listener want SASL? Then say who this client is ([sasl])"
            }
            _ => "",
        };
        drop(state);
        self.describe(&format!("{what}{hint}"))
    }
}

impl Request {
    fn not_sent(self, why: &Arc<str>) {
        match self {
            Request::Produce(piece, reply) => drop(reply.send(answers::not_sent(&piece, why))),
            Request::Ask(_, reply) => drop(reply.send(Err(Lost::Closed(why.clone())))),
        }
    }
}

impl InFlight {
    fn lost(self, lost: &Lost) {
        match self.waiting {
            Waiting::Produce { piece, reply, .. } => drop(reply.send(answers::lost(&piece, lost.why()))),
            Waiting::Ask(reply) => drop(reply.send(Err(lost.clone()))),
        }
    }

    fn not_sent(self, why: &Arc<str>) {
        match self.waiting {
            Waiting::Produce { piece, reply, .. } => Request::Produce(piece, reply).not_sent(why),
            Waiting::Ask(reply) => Request::Ask(Vec::new(), reply).not_sent(why),
        }
    }
}

/// The connection's own task: reads answers, and looks whether one is late. Its timer is set again only when it rings,
/// to when the oldest request is due, so that a request costs no timer.
async fn read_answers(connection: Arc<Connection>, mut half: ReadHalf, mut frames: FrameBuffer) {
    let mut timer = pin!(tokio::time::sleep(connection.about.request_timeout));
    loop {
        loop {
            let outcome = match frames.next_frame() {
                Ok(Some(frame)) => connection.answered(frame),
                Ok(None) => break,
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = outcome {
                return connection.close(&connection.describe(&why), false);
            }
        }
        tokio::select! {
            biased;
            read = half.read(frames.space()) => match read {
                Ok(n) if n > 0 => frames.filled(n),
                over => {
                    // A broker that refuses a renewal says why, and closes. Who renews was told just now, and closes with those words.
                    if connection.lock().is_logging_in() {
                        tokio::task::yield_now().await;
                    }
                    return connection.close(&connection.ended(over), false);
                }
            },
            () = &mut timer => match connection.late(Instant::now()) {
                Ok(next) => timer.as_mut().reset(next),
                Err(why) => {
                    return connection.close_as(Lost::TimedOut(connection.describe(&why).into()), false);
                }
            },
        }
    }
}

/// Writes on when the socket takes more, or the throttle is over.
async fn pump(connection: Arc<Connection>, mut pause: Pause) {
    loop {
        let sink = match pause {
            Pause::Over => return,
            Pause::Muted(sink, until) => {
                tokio::time::sleep_until(until).await;
                sink
            }
            Pause::Blocked(sink) => {
                if let Err(error) = sink.writable().await {
                    let why = connection.describe(&format!("writing failed: {error}"));
                    return connection.close(&why, sink.is_untouched());
                }
                sink
            }
        };
        {
            // From here on bytes may leave; if the connection was closed before, none may.
            let mut state = connection.lock();
            if matches!(state.life, Life::Closed(_)) {
                return;
            }
            state.last_untouched = false;
        }
        pause = connection.drive(sink);
        connection.lock().last_untouched = pause.is_untouched();
    }
}

#[cfg(test)]
pub(super) mod testing {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

    /// A connection with this number to a peer that says nothing; with a second handle of its socket, and the peer.
    pub(in crate::client) async fn connection(
        generation: u64,
    ) -> (Arc<Connection>, std::net::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
        let socket = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        stream.writable().await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        let about = Established {
            name: "test:9092".to_owned(),
            role: Role::Node { node: 1, generation },
            versions: ApiVersions::default(),
            client_id: "test".into(),
            request_timeout: REQUEST_TIMEOUT,
            cluster: Weak::new(),
            sasl: None,
        };
        (Connection::start(about, Transport::Plain(stream), FrameBuffer::default()), socket, peer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpStream};

    use kafka_batcher_core::ProduceResult;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn piece(acks: i16) -> Arc<Piece> {
        Arc::new(Piece { acks, ..answers::tests::piece(&[("t", 0)]) })
    }

    /// A request is written; `hinder` sees to it that no byte of the next one leaves, which gets no answer; then the
    /// connection ends.
    async fn written_before_an_unanswered_one(hinder: impl FnOnce(&mut TcpStream)) {
        let (connection, mut socket, mut peer) = testing::connection(1).await;
        let first = connection.produce(piece(-1));
        let length = peer.read_u32().await.unwrap() as usize;
        peer.read_exact(&mut vec![0; length]).await.unwrap();
        hinder(&mut socket);
        let second = connection.produce(piece(0));
        connection.shut();
        let first = first.await.unwrap();
        assert!(matches!(first[0].result, ProduceResult::Lost { .. }), "{first:?}");
        let second = second.await.unwrap_or_default();
        assert!(!second.iter().any(|answer| matches!(answer.result, ProduceResult::Acked { .. })));
    }

    #[tokio::test]
    async fn a_written_request_is_in_doubt_although_writing_an_unanswered_one_after_it_failed() {
        written_before_an_unanswered_one(|socket| socket.shutdown(Shutdown::Write).unwrap()).await;
    }

    #[tokio::test]
    async fn a_written_request_is_in_doubt_although_an_unanswered_one_after_it_waits_for_the_socket() {
        written_before_an_unanswered_one(|socket| while socket.write(&[0; 65_536]).is_ok() {}).await;
    }

    #[tokio::test]
    async fn a_request_of_which_no_byte_left_is_not_sent() {
        let (connection, socket, _peer) = testing::connection(1).await;
        socket.shutdown(Shutdown::Write).unwrap();
        let only = connection.produce(piece(-1)).await.unwrap();
        assert!(matches!(only[0].result, ProduceResult::NotSent { .. }), "{only:?}");
    }

    #[tokio::test]
    async fn a_throttle_of_an_hour_is_kept_for_request_timeout_only() {
        let (connection, _socket, _peer) = testing::connection(1).await;
        let muted_until = || connection.lock().muted_until.unwrap();
        connection.throttle(1000);
        assert!(muted_until() <= Instant::now() + Duration::from_secs(1));
        let before = Instant::now();
        connection.throttle(3_600_000);
        assert!(muted_until() >= before + testing::REQUEST_TIMEOUT);
        assert!(muted_until() <= Instant::now() + testing::REQUEST_TIMEOUT);
    }
}
