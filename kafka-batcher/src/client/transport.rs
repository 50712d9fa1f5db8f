//! The bytes of a connection, as they are or through TLS, for who reads and who writes.
//!
//! Without TLS they are the two halves of a socket: a write is one `writev`, a read one `read`. With it both share a
//! [`ClientConnection`] that does no I/O itself: the writer hands it as much as it takes and moves what comes out to the socket as far as
//! that goes, never waiting; the reader moves what the socket has into it. Either may find that TLS itself has something to say (an
//! answer to a key update), and sends it.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ClientConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::tls::{TlsError, Words};

/// A connection while one task has all of it.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Arc<TlsStream>),
}

impl Transport {
    pub(super) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.read(into).await,
            Transport::Tls(stream) => stream.read(into).await,
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Transport::Plain(stream) => stream.write_all(bytes).await,
            Transport::Tls(stream) => stream.write_all(bytes).await,
        }
    }

    pub(super) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Transport::Plain(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Transport::Tls(stream) => (ReadHalf::Tls(stream.clone()), WriteHalf::Tls(Closing(stream))),
        }
    }
}

pub(super) enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(Arc<TlsStream>),
}

impl ReadHalf {
    /// Cancel-safe. 0: the other side has ended it.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            ReadHalf::Plain(half) => half.read(into).await,
            ReadHalf::Tls(stream) => stream.read(into).await,
        }
    }
}

pub(super) enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(Closing),
}

impl WriteHalf {
    /// Resolves when the socket takes more. Cancel-safe.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            WriteHalf::Plain(half) => half.writable().await,
            WriteHalf::Tls(Closing(stream)) => stream.socket.writable().await,
        }
    }

    /// Writes what can be written now. An error, `WouldBlock` included, means that nothing of these bytes was taken.
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            WriteHalf::Plain(half) => half.try_write_vectored(slices),
            WriteHalf::Tls(Closing(stream)) => stream.try_write_vectored(slices),
        }
    }

    /// Moves to the socket what was taken and is not there yet; `WouldBlock` while the socket does not take it.
    pub(super) fn try_flush(&self) -> io::Result<()> {
        match self {
            WriteHalf::Plain(_) => Ok(()),
            WriteHalf::Tls(Closing(stream)) => stream.try_flush(&mut stream.lock()),
        }
    }
}

/// A socket with TLS over it.
pub(super) struct TlsStream {
    socket: TcpStream,
    session: Mutex<ClientConnection>,
    words: Words,
}

/// Says goodbye when it goes, as far as the socket takes it: the broker then knows that nothing was cut off.
pub(super) struct Closing(Arc<TlsStream>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut session = self.0.lock();
        session.send_close_notify();
        let _ = self.0.try_flush(&mut session);
    }
}

/// The socket as rustls wants it.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl TlsStream {
    /// Agrees with the broker upon TLS.
    pub(super) async fn agree(
        socket: TcpStream,
        session: ClientConnection,
        words: Words,
    ) -> Result<Arc<TlsStream>, TlsError> {
        let stream = TlsStream { socket, session: Mutex::new(session), words };
        loop {
            let flushed = stream.try_flush(&mut stream.lock());
            match flushed {
                Err(error) if would_block(&error) => {
                    stream.socket.writable().await.map_err(|error| stream.failed(&error))?;
                    continue;
                }
                flushed => flushed.map_err(|error| stream.failed(&error))?,
            }
            if !stream.lock().is_handshaking() {
                return Ok(Arc::new(stream));
            }
            match stream.pull() {
                Ok(0) => return Err(stream.words.ended()),
                Ok(_) => {}
                Err(error) if would_block(&error) => {
                    stream.socket.readable().await.map_err(|error| stream.failed(&error))?;
                }
                Err(error) => return Err(stream.failed(&error)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &io::Error) -> TlsError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
            Some(error) => error.clone(),
            None if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                self.words.ended()
            }
            None => TlsError::broke(format!("the connection broke while TLS was agreed upon: {error}")),
        }
    }

    /// Moves what the socket has into the session; 0: it has ended.
    fn pull(&self) -> io::Result<usize> {
        let mut session = self.lock();
        // What failed before fails again, also where the socket has nothing more.
        session.process_new_packets().map_err(|error| self.words.of(&error))?;
        let n = session.read_tls(&mut Now(&self.socket))?;
        let processed = session.process_new_packets().map(drop).map_err(|error| self.words.of(&error));
        // An alert that says why, or an answer to a key update. What the socket does not take goes with the next write, and what fails shows
        // there: what was read until then is still good.
        let _ = self.try_flush(&mut session);
        processed?;
        Ok(n)
    }

    fn try_flush(&self, session: &mut ClientConnection) -> io::Result<()> {
        while session.wants_write() {
            match session.write_tls(&mut Now(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.lock();
        self.try_flush(&mut session)?;
        // Encrypted at once, and bounded by the session's own limit (64 KiB), so that the reader never waits long for the lock.
        let taken = session.writer().write_vectored(slices)?;
        // It was taken, whatever becomes of it: a failure shows at the next call.
        let _ = self.try_flush(&mut session);
        Ok(taken)
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let outcome = match bytes {
                [] => self.try_flush(&mut self.lock()).map(|()| 0),
                bytes => self.try_write_vectored(&[IoSlice::new(bytes)]),
            };
            match outcome {
                Ok(0) => return Ok(()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(error) if would_block(&error) => self.socket.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.lock().reader().read(into);
            match read {
                Err(error) if would_block(&error) => {}
                // Cut off without a goodbye: an ordinary end. Kafka's answers say their own length, so nothing can be cut short unseen.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            match self.pull() {
                Ok(_) => {}
                Err(error) if would_block(&error) => self.socket.readable().await?,
                // What came whole before what is broken is good, and is given first: the session keeps the error for the next call.
                Err(error) => match self.lock().reader().read(into) {
                    Ok(n) if n > 0 => return Ok(n),
                    _ => return Err(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
