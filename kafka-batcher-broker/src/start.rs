//! How a cluster starts and ends: its thread, its ports, its timer.
//!
//! When start returns every broker listens; when the last owner is dropped nothing does.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::builder::Settings;
use crate::cluster::EmbeddedKafka;
use crate::connection;
use crate::error_code::ErrorCode;
use crate::state::{Broker, Phase, Shared};

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A broker's address could not be had.
    #[error("broker {broker} cannot listen on {address}: {source}")]
    Listen {
        /// The broker's id.
        broker: i32,
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A topic of the builder cannot be made.
    #[error("topic {topic:?} cannot be created: {message} (error {code})")]
    Topic {
        /// Its name.
        topic: String,
        /// Kafka's code for it.
        code: ErrorCode,
        /// Kafka's words for it.
        message: String,
    },
    /// The thread or its runtime could not be made.
    #[error("the broker's thread could not be started: {0}")]
    Thread(#[source] io::Error),
}

/// The thread of a cluster that was started with [`Builder::start`]; it ends with its last owner.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    thread: Option<(tokio::sync::oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        for broker in self.shared.lock().brokers.values_mut() {
            broker.halt(Phase::Stopped);
        }
        if let Some((stop, thread)) = self.thread.take() {
            let _ = stop.send(());
            // A fault's action may hold the last owner; a thread cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl EmbeddedKafka {
    pub(crate) fn start_on_thread(settings: Settings) -> Result<Self, StartError> {
        let (started, answer) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let body = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(StartError::Thread(error)))),
            };
            let shared = Self::launch(settings, runtime.handle().clone());
            if started.send(shared).is_ok() {
                // An error means that the owner is gone, which is the same message.
                let _ = runtime.block_on(stopped);
            }
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new()
            .name("kafka-broker".to_owned())
            .spawn(body)
            .map_err(StartError::Thread)?;
        let died = || StartError::Thread(io::Error::other("the thread ended before it answered"));
        let shared = answer.recv().map_err(|_| died())??;
        Ok(Self::owned(shared, Some((stop, thread))))
    }

    pub(crate) fn start_on_runtime(
        settings: Settings,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, StartError> {
        Self::launch(settings, runtime).map(|shared| Self::owned(shared, None))
    }

    fn owned(
        shared: Arc<Shared>,
        thread: Option<(tokio::sync::oneshot::Sender<()>, JoinHandle<()>)>,
    ) -> Self {
        let owner = Owner { shared: Arc::clone(&shared), thread };
        Self { shared, _owner: Some(Arc::new(owner)) }
    }

    /// The cluster without the duty to keep it alive.
    pub(crate) fn borrowed(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), _owner: None }
    }

    fn launch(settings: Settings, runtime: tokio::runtime::Handle) -> Result<Arc<Shared>, StartError> {
        let shared = Arc::new(Shared::new(settings, runtime));
        {
            let settings = &shared.settings;
            let mut state = shared.lock();
            state.cluster_id = new_cluster_id();
            state.next_producer_id = settings.first_producer_id;
            for index in 0..settings.brokers {
                let id = i32::try_from(index + 1).unwrap_or(i32::MAX);
                let wanted = SocketAddr::new(settings.bind, settings.ports.get(index).copied().unwrap_or(0));
                let failed = |source| StartError::Listen { broker: id, address: wanted, source };
                let (addr, port) = reserve(wanted).map_err(failed)?;
                let given = settings.advertised.iter().find(|(broker, ..)| *broker == id);
                let advertised = given
                    .map(|(_, host, port)| (host.clone(), *port))
                    .or_else(|| settings.advertised_host.clone().map(|host| (host, addr.port())));
                let mut broker = Broker::new(addr, port, advertised);
                listen(&shared, &mut broker, id).map_err(failed)?;
                state.brokers.insert(id, broker);
            }
            for topic in &settings.topics {
                state.create_topic(topic, settings, false).map_err(|(code, message)| StartError::Topic {
                    topic: topic.name.clone(),
                    code,
                    message,
                })?;
            }
        }
        // Weak, or the timer would keep a cluster alive on a runtime that is not its own.
        let (weak, every) = (Arc::downgrade(&shared), shared.settings.producer_id_expiration_check);
        shared.runtime.spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(shared) = weak.upgrade() else { return };
                Self::borrowed(&shared).expire_producers();
            }
        });
        Ok(shared)
    }
}

/// 22 characters, as Kafka's own: 16 random bytes in URL-safe base 64.
pub(crate) fn new_cluster_id() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = Uuid::new_v4().as_u128();
    (0..22)
        .map(|n| {
            let digit = (bits >> (n * 6)) & 63;
            DIGITS.get(digit as usize).map_or('A', |byte| char::from(*byte))
        })
        .collect()
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows the same option would let two programs listen on one port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Finds the address to listen on. On Linux the port is kept while the broker is down, by a second socket that is bound and never listens,
/// so that no other program is given it meanwhile; elsewhere two such sockets are not allowed.
fn reserve(wanted: SocketAddr) -> io::Result<(SocketAddr, Option<Socket>)> {
    let socket = bound(wanted)?;
    let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok((address, cfg!(target_os = "linux").then_some(socket)))
}

/// Begins a life of a broker: it listens and accepts.
pub(crate) fn listen(shared: &Arc<Shared>, broker: &mut Broker, id: i32) -> io::Result<()> {
    let socket = bound(broker.addr)?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    let _runtime = shared.runtime.enter();
    broker.listener = Some(TcpListener::from_std(socket.into())?);
    broker.generation += 1;
    broker.phase = Phase::Running;
    let acceptor = connection::accept(Arc::downgrade(shared), id, broker.generation);
    broker.acceptor = Some(shared.runtime.spawn(acceptor).abort_handle());
    Ok(())
}
