//! Cuts a stream of bytes into answers: each is a length of 4 bytes and as many bytes.
//!
//! Promises: memory follows the bytes that really came, not the length that was announced. A length that no Kafka
//! broker would send is an error that says who is probably speaking there.

use std::fmt;

/// The longest answer that is read: far above what brokers send, far below what the first 4 bytes of HTTP, of TLS or of
/// any other text would announce.
pub const MAX_FRAME: usize = 100 << 20;

/// Free room kept for the next read. Produce answers are a few hundred bytes; many fit one read.
const READ_SIZE: usize = 16 << 10;

/// Collects what was read and gives out whole answers.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        FrameBuffer { bytes: vec![0; READ_SIZE], start: 0, end: 0 }
    }
}

impl FrameBuffer {
    /// Where to read the next bytes into; never empty. Then tell [`FrameBuffer::filled`] how many they were.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // A big answer is rare; its memory is not kept.
            if self.bytes.len() > 4 * READ_SIZE {
                self.bytes = vec![0; READ_SIZE];
            }
        } else if self.bytes.len() - self.end < READ_SIZE / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.bytes.len() - self.end < READ_SIZE / 2 {
                self.bytes.resize(self.bytes.len().saturating_mul(2), 0);
            }
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// `n` bytes were read into the space.
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// The next whole answer, without its length. Call until it is `None`, then read on.
    ///
    /// # Errors
    /// If what came is no answer of a Kafka broker; nothing can be read of the stream any more.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let came = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some(length) = came.first_chunk().map(|bytes| i32::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        // An answer holds at least its correlation id.
        let length = match usize::try_from(length) {
            Ok(n) if (4..=MAX_FRAME).contains(&n) => n,
            _ => return Err(FrameError::new(length, came)),
        };
        match came.get(4..4 + length) {
            Some(frame) => {
                self.start += 4 + length;
                Ok(Some(frame))
            }
            None => Ok(None),
        }
    }

    /// Whether an answer has come in part.
    pub fn is_within_frame(&self) -> bool {
        self.start != self.end
    }
}

/// What came is not an answer of a Kafka broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    length: i32,
    first: Vec<u8>,
}

impl FrameError {
    fn new(length: i32, came: &[u8]) -> Self {
        FrameError { length, first: came.iter().take(16).copied().collect() }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first.escape_ascii();
        match self.first.as_slice() {
            [b'H', b'T', b'T', b'P', ..] => write!(
                f,
                "an HTTP server answered (its first bytes: \"{first}\"); give the address of a Kafka broker's listener, \
                 usually port 9092"
            ),
            // TLS records: alert, handshake, and their version's major number.
            [0x15 | 0x16, 3, ..] => write!(
                f,
                "a TLS endpoint answered (its first bytes: \"{first}\"); this client speaks without TLS: turn it \
                 on (ssl = true, or the table [ssl]), or give the address of a PLAINTEXT listener"
            ),
            _ => write!(
                f,
                "no Kafka broker answered there: the answer's length would be {} bytes (its first bytes: \"{first}\"); \
                 give the address of a Kafka broker's listener, usually port 9092",
                self.length
            ),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(buffer: &mut FrameBuffer, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = buffer.space();
            let n = rest.len().min(space.len());
            space[..n].copy_from_slice(&rest[..n]);
            buffer.filled(n);
            rest = &rest[n..];
        }
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes(), body].concat()
    }

    #[test]
    fn answers_come_out_whole_however_the_stream_is_cut() {
        let bodies: Vec<Vec<u8>> = (4..60usize).map(|n| vec![n as u8; n * n * 11]).collect();
        let stream: Vec<u8> = bodies.iter().flat_map(|b| framed(b)).collect();
        for step in [1, 3, 4, 1000, 16_384, 100_000, stream.len()] {
            let mut buffer = FrameBuffer::default();
            let mut found = Vec::new();
            for piece in stream.chunks(step) {
                feed(&mut buffer, piece);
                while let Some(frame) = buffer.next_frame().unwrap() {
                    found.push(frame.to_vec());
                }
            }
            assert_eq!(found, bodies, "in pieces of {step}");
            assert!(!buffer.is_within_frame());
        }
    }

    #[test]
    fn memory_follows_the_bytes_that_came_not_the_length_announced() {
        let mut buffer = FrameBuffer::default();
        feed(&mut buffer, &(MAX_FRAME as u32).to_be_bytes());
        feed(&mut buffer, &[7; 50_000]);
        assert!(buffer.next_frame().unwrap().is_none());
        assert!(buffer.bytes.capacity() < 300_000, "{}", buffer.bytes.capacity());
    }

    #[test]
    fn what_is_not_kafka_is_called_by_its_name() {
        let said = |bytes: &[u8]| {
            let mut buffer = FrameBuffer::default();
            feed(&mut buffer, bytes);
            buffer.next_frame().unwrap_err().to_string()
        };
        assert!(said(b"HTTP/1.1 400 Bad Request\r\n").contains("an HTTP server answered"));
        assert!(said(&[0x15, 3, 3, 0, 2, 2, 0x16]).contains("a TLS endpoint answered"));
        assert!(said(&[0x80, 0, 0, 0]).contains("-2147483648 bytes"));
        assert!(said(&[0x7f, 0xff, 0xff, 0xff, 1]).contains("2147483647 bytes"));
        assert!(said(b"SSH-2.0-OpenSSH_9").contains("\"SSH-2.0-OpenSSH_\""));
        assert!(said(&[0, 0, 0, 3, 1, 2, 3]).contains("3 bytes"));
    }
}
