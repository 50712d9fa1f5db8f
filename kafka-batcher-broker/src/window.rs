//! The bytes of a connection, seen through a small window: for parsing a request while it arrives and dropping what nobody looks at.
//!
//! Refuses a field that reaches beyond its request. Never holds more than the window, whatever a length says.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::connection::write_all;

/// What is read at once. Small, for what lies behind a batch's header is to be dropped and not copied: with batches of 64 KiB, 16 KiB cost the
/// broker 33 CPU ticks where 64 and 256 KiB cost 46; with batches of 1 and 8 KiB there was no difference.
const WINDOW: usize = 16 * 1024;

/// A larger name or key than this in a Produce request is no Kafka client's: names of topics end at 249.
const MAX_FIELD: usize = 8 * 1024;

/// The bytes of a connection, seen through a window.
pub(crate) struct Window<'a> {
    stream: &'a TcpStream,
    pub(crate) buffer: Vec<u8>,
    pub(crate) start: usize,
    end: usize,
    /// What is left of the frame that is being parsed.
    pub(crate) frame: usize,
    /// Answers that were not sent yet.
    pub(crate) out: Vec<u8>,
    /// Where the answer to the request that is being parsed grows: `out` itself goes out whenever more must be read.
    pub(crate) answer: Vec<u8>,
}

pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<'a> Window<'a> {
    pub(crate) fn new(stream: &'a TcpStream) -> Self {
        let out = Vec::with_capacity(4096);
        Self {
            stream,
            buffer: vec![0; WINDOW],
            start: 0,
            end: 0,
            frame: 0,
            out,
            answer: Vec::with_capacity(4096),
        }
    }

    /// Sends what is answered, then reads what there is; `false` at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        if !self.out.is_empty() {
            write_all(self.stream, &self.out).await?;
            self.out.clear();
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            let free = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.stream.try_read(free) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.end += read;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes `n` bytes visible, of this frame or not; `false` if the stream ends before.
    pub(crate) async fn need(&mut self, n: usize) -> io::Result<bool> {
        while self.end - self.start < n {
            if !self.fill().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next `n` bytes of the frame.
    pub(crate) async fn take(&mut self, n: usize) -> io::Result<&[u8]> {
        if n > MAX_FIELD || n > self.frame {
            return Err(malformed("a field reaches beyond its request"));
        }
        if !self.need(n).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let at = self.start;
        self.start += n;
        self.frame -= n;
        self.buffer.get(at..at + n).ok_or_else(|| malformed("unreachable: the bytes were read"))
    }

    pub(crate) async fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N).await?.try_into().map_err(|_| malformed("unreachable: so many bytes were taken"))
    }

    pub(crate) async fn i16(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes(self.array().await?))
    }

    pub(crate) async fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.array().await?))
    }

    async fn uvarint(&mut self) -> io::Result<u32> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array().await?;
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a varint of more than 5 bytes"))
    }

    /// The length of an array, string or bytes: -1 is null. `short`: with 16 bits where the version is not flexible.
    pub(crate) async fn length(&mut self, flexible: bool, short: bool) -> io::Result<i64> {
        Ok(match (flexible, short) {
            (true, _) => i64::from(self.uvarint().await?) - 1,
            (false, true) => i64::from(self.i16().await?),
            (false, false) => i64::from(self.i32().await?),
        })
    }

    /// Drops `n` bytes of the frame unseen.
    pub(crate) async fn skip(&mut self, n: usize) -> io::Result<()> {
        self.frame =
            self.frame.checked_sub(n).ok_or_else(|| malformed("a field reaches beyond its request"))?;
        let here = n.min(self.end - self.start);
        self.start += here;
        let mut left = n - here;
        if left > WINDOW && !self.out.is_empty() {
            write_all(self.stream, &self.out).await?;
            self.out.clear();
        }
        while left > WINDOW {
            left -= drop_bytes(self.stream, left - WINDOW / 2, &mut self.buffer).await?;
        }
        while left > 0 {
            if !self.need(1).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = left.min(self.end - self.start);
            self.start += here;
            left -= here;
        }
        Ok(())
    }

    pub(crate) async fn skip_tags(&mut self, flexible: bool) -> io::Result<()> {
        if flexible {
            for _ in 0..self.uvarint().await? {
                self.uvarint().await?;
                let size = self.uvarint().await?;
                self.skip(size as usize).await?;
            }
        }
        Ok(())
    }

    /// The whole frame, for the ordinary way.
    pub(crate) async fn frame(&mut self) -> io::Result<Bytes> {
        let mut frame = BytesMut::with_capacity(self.frame);
        while self.frame > 0 {
            if !self.need(1).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = self.frame.min(self.end - self.start);
            frame.extend_from_slice(self.buffer.get(self.start..self.start + here).unwrap_or_default());
            self.start += here;
            self.frame -= here;
        }
        Ok(frame.freeze())
    }
}

/// Drops at most `n` bytes, and at least one, from a stream of which nothing is buffered.
///
/// On Linux `recv` with `MSG_TRUNC` on a TCP socket discards without copying (tcp(7)); the buffer only says how much. Elsewhere the flag means
/// something else, so the bytes are read and forgotten.
async fn drop_bytes(stream: &TcpStream, n: usize, _scratch: &mut [u8]) -> io::Result<usize> {
    loop {
        #[cfg(target_os = "linux")]
        let dropped = {
            const MSG_TRUNC: i32 = 0x20;
            // Never touched, neither here nor by the kernel.
            let mut nowhere = [const { std::mem::MaybeUninit::uninit() }; 256 * 1024];
            let wanted = n.min(nowhere.len());
            stream.try_io(Interest::READABLE, || {
                let nowhere = nowhere.get_mut(..wanted).unwrap_or_default();
                socket2::SockRef::from(stream).recv_with_flags(nowhere, MSG_TRUNC)
            })
        };
        #[cfg(not(target_os = "linux"))]
        let dropped = {
            let wanted = n.min(_scratch.len());
            stream.try_io(Interest::READABLE, || stream.try_read(&mut _scratch[..wanted]))
        };
        match dropped {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(dropped) => return Ok(dropped),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
}
