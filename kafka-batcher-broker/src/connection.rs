//! One connection: frames in, answers out, one exchange after another as Kafka does it.
//!
//! Kafka reads the next request of a connection only when it has answered the one before, so pipelined requests are answered in order and a
//! Fetch that waits holds back what is behind it. The same here. The faults of a request act at two points, before it is served and before
//! it is answered.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

use crate::builder::Storage;
use crate::cluster::EmbeddedKafka;
use crate::discard;
use crate::faults::Ending;
use crate::handlers::{self, Context, Request};
use crate::state::{Connection, Shared};

/// Accepts connections of broker `id` until that life of it ends.
pub(crate) async fn accept(shared: Weak<Shared>, id: i32, generation: u64) {
    loop {
        let accepted = poll_fn(|cx| {
            let Some(shared) = shared.upgrade() else { return Poll::Ready(None) };
            let state = shared.lock_live(id, generation);
            match state.as_ref().and_then(|state| state.brokers.get(&id)?.listener.as_ref()) {
                Some(listener) => listener.poll_accept(cx).map(Some),
                None => Poll::Ready(None),
            }
        });
        let stream = match accepted.await {
            None => return,
            Some(Ok((stream, _))) => Arc::new(stream),
            Some(Err(error)) => {
                // Out of descriptors, most likely; trying again at once would spin.
                tracing::warn!(broker = id, %error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        // Without it a small answer waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let number = {
            let Some(mut state) = shared.lock_live(id, generation) else { return };
            state.next_connection += 1;
            let number = state.next_connection;
            let Some(broker) = state.brokers.get_mut(&id) else { return };
            broker.connections.insert(number, Connection { stream: Arc::clone(&stream), task: None });
            number
        };
        shared.counters.connections.fetch_add(1, Relaxed);
        let life = Life { shared: Arc::clone(&shared), broker: id, generation, number };
        // Not under the lock: a runtime that is shutting down drops the task at once, and dropping it takes the lock. If a stop comes in
        // between, the task finds its stream shut down.
        let task = shared.runtime.spawn(serve(life, stream)).abort_handle();
        let mut state = shared.lock();
        let connection = state.brokers.get_mut(&id).and_then(|broker| broker.connections.get_mut(&number));
        if let Some(connection) = connection {
            connection.task = Some(task);
        }
    }
}

/// Who this connection belongs to; dropping it takes the connection off the broker's list.
pub(crate) struct Life {
    pub(crate) shared: Arc<Shared>,
    pub(crate) broker: i32,
    pub(crate) generation: u64,
    number: u64,
}

impl Drop for Life {
    fn drop(&mut self) {
        // `close_connections` holds the lock while it aborts this task, but an aborted task is dropped by its runtime, not there.
        if let Some(broker) = self.shared.lock().brokers.get_mut(&self.broker) {
            broker.connections.remove(&self.number);
        }
    }
}

async fn serve(life: Life, stream: Arc<TcpStream>) {
    let served = match life.shared.settings.storage {
        Storage::Memory => serve_frames(&life, &stream).await,
        Storage::Discard => discard::serve(&life, &stream).await,
    };
    if let Err(error) = served {
        tracing::debug!(broker = life.broker, %error, "connection closed");
    }
    // The broker's list still holds the stream; without this the peer would wait for as long.
    let _ = socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Both);
}

pub(crate) async fn serve_frames(life: &Life, stream: &TcpStream) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    loop {
        let Some(frame) = read_frame(stream, &mut buffer, life.shared.settings.max_request_bytes).await?
        else {
            return Ok(());
        };
        match exchange(life, stream, frame).await? {
            Next::Read => {}
            Next::Close => return Ok(()),
        }
    }
}

/// What follows an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Read,
    Close,
}

/// Reads more bytes to the end of `buffer`; 0 at the end of the stream.
pub(crate) async fn read_some(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    loop {
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            done => return done,
        }
    }
}

/// Writes all of `bytes`.
pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The size of a frame that begins with these four bytes.
///
/// # Errors
/// It is negative or over the limit: not Kafka's protocol, or not meant seriously. Kafka closes the connection.
pub(crate) fn frame_size(length: i32, max: usize) -> io::Result<usize> {
    usize::try_from(length)
        .ok()
        .filter(|size| *size <= max)
        .ok_or_else(|| io::Error::other(format!("a request of {length} bytes; at most {max} are taken")))
}

async fn read_frame(stream: &TcpStream, buffer: &mut BytesMut, max: usize) -> io::Result<Option<Bytes>> {
    loop {
        let mut head = &buffer[..];
        if let Ok(length) = head.try_get_i32() {
            let size = frame_size(length, max)?;
            if buffer.len() >= size + 4 {
                buffer.advance(4);
                return Ok(Some(buffer.split_to(size).freeze()));
            }
            buffer.reserve(size + 4 - buffer.len());
        } else {
            buffer.reserve(64 * 1024);
        }
        if read_some(stream, buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// Waits while the broker is frozen.
pub(crate) async fn thawed(life: &Life) {
    let frozen = life.shared.lock().brokers.get(&life.broker).map(|broker| broker.frozen.subscribe());
    if let Some(mut frozen) = frozen {
        // An error means that the broker is gone; then there is nothing to wait for.
        let _ = frozen.wait_for(|frozen| !frozen).await;
    }
}

/// Serves one request: faults, service, faults, answer.
pub(crate) async fn exchange(life: &Life, stream: &TcpStream, frame: Bytes) -> io::Result<Next> {
    let shared = &life.shared;
    thawed(life).await;
    let request = match Request::decode(frame) {
        Ok(request) => request,
        Err(handlers::Undecodable::Answer(answer)) => {
            write_all(stream, &answer).await?;
            return Ok(Next::Read);
        }
        Err(handlers::Undecodable::Close(why)) => return Err(io::Error::other(why)),
    };
    shared.counters.request(request.api);
    let verdict = {
        let mut state = shared.lock();
        let touches = request.touches(&state);
        let (verdict, effects) = state.faults.judge(request.api, life.broker, &touches);
        shared.counters.faults.fetch_add(effects, Relaxed);
        shared.faults_armed.store(state.faults.armed(), std::sync::atomic::Ordering::Release);
        verdict
    };
    for action in &verdict.call_before {
        action(&EmbeddedKafka::borrowed(shared));
    }
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    match verdict.before {
        Ending::GoOn => {}
        Ending::Close => return Ok(Next::Close),
        Ending::FallSilent => return silence(stream).await,
    }
    // A freeze that came meanwhile counts: the request is not served yet.
    thawed(life).await;
    let context = Context { shared, broker: life.broker, generation: life.generation, verdict: &verdict };
    let reply = handlers::serve(&context, request).await;
    for action in &verdict.call_after {
        action(&EmbeddedKafka::borrowed(shared));
    }
    if !verdict.delay_answer.is_zero() {
        tokio::time::sleep(verdict.delay_answer).await;
    }
    match verdict.after {
        Ending::GoOn => {}
        Ending::Close => return Ok(Next::Close),
        Ending::FallSilent => return silence(stream).await,
    }
    match reply.map_err(io::Error::other)? {
        handlers::Reply::Answer(answer) => {
            thawed(life).await;
            if shared.lock_live(life.broker, life.generation).is_none() {
                return Ok(Next::Close);
            }
            write_all(stream, &answer).await?;
        }
        handlers::Reply::Nothing => {}
        handlers::Reply::Close => return Ok(Next::Close),
    }
    if !verdict.throttle.is_zero() {
        tokio::time::sleep(verdict.throttle).await;
    }
    Ok(Next::Read)
}

/// Reads and forgets until the peer gives up, so that it can go on writing and never hears anything.
async fn silence(stream: &TcpStream) -> io::Result<Next> {
    let mut scrap = BytesMut::with_capacity(64 * 1024);
    while read_some(stream, &mut scrap).await? > 0 {
        scrap.clear();
    }
    Ok(Next::Close)
}
