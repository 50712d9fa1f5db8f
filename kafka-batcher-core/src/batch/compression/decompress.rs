//! The way back. Every codec's output is bounded while it comes out, not by what its input says about itself.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::get_frame_content_size;

use super::compressor::XERIAL;
use super::{Codec, MAX_UNCOMPRESSED};
use crate::error::DecodeError;

/// The records of a compressed body, at most `limit` bytes of them.
pub(in crate::batch) fn decompress(codec: Codec, body: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let limit = limit.min(MAX_UNCOMPRESSED);
    let mut out = Bounded { bytes: Vec::new(), limit };
    let done = match codec {
        Codec::None => out.extend(body),
        Codec::Gzip => gzip(body, &mut out),
        Codec::Snappy => snappy(body, &mut out),
        Codec::Lz4 => lz4(body, &mut out),
        Codec::Zstd => zstd(body, &mut out),
    };
    match done {
        Ok(()) => Ok(out.bytes),
        Err(Bad::TooLarge) => Err(DecodeError::HoldsTooMuch { codec, limit }),
        Err(Bad::Broken(what)) => Err(DecodeError::BadCompression { codec, what }),
    }
}

enum Bad {
    TooLarge,
    Broken(String),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Bad::Broken(error.to_string())
    }
}

fn broken(what: &str) -> Bad {
    Bad::Broken(what.to_owned())
}

/// What came out so far.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    fn left(&self) -> usize {
        self.limit - self.bytes.len()
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), Bad> {
        if bytes.len() > self.left() {
            return Err(Bad::TooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// All that a decoder gives.
    fn read_all(&mut self, decoder: &mut impl Read) -> Result<(), Bad> {
        // One byte more tells a stream that ends here from one that goes on.
        let most = self.limit as u64 + 1;
        decoder.take(most).read_to_end(&mut self.bytes)?;
        if self.bytes.len() > self.limit { Err(Bad::TooLarge) } else { Ok(()) }
    }
}

fn gzip(body: &[u8], out: &mut Bounded) -> Result<(), Bad> {
    let mut decoder = GzDecoder::new(body);
    out.read_all(&mut decoder)?;
    match decoder.into_inner() {
        [] => Ok(()),
        rest => Err(Bad::Broken(format!("{} bytes follow the stream", rest.len()))),
    }
}

/// xerial's blocks; or one block without any framing, as librdkafka writes it and snappy-java reads it.
fn snappy(body: &[u8], out: &mut Bounded) -> Result<(), Bad> {
    let Some(mut rest) = body.strip_prefix(&XERIAL) else { return snappy_block(body, out) };
    while !rest.is_empty() {
        let (length, after) =
            rest.split_first_chunk().ok_or_else(|| broken("a block's length is cut off"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) =
            after.split_at_checked(length).ok_or_else(|| broken("a block is longer than the batch"))?;
        snappy_block(block, out)?;
        rest = after;
    }
    Ok(())
}

fn snappy_block(block: &[u8], out: &mut Bounded) -> Result<(), Bad> {
    let claimed = snap::raw::decompress_len(block).map_err(io::Error::from)?;
    // A copy of three bytes gives 64 at most: what claims more lies.
    if claimed > out.left() || claimed / 32 > block.len() {
        return Err(Bad::TooLarge);
    }
    let at = out.bytes.len();
    out.bytes.resize(at + claimed, 0);
    let room = out.bytes.get_mut(at..).unwrap_or_default();
    snap::raw::Decoder::new().decompress(block, room).map_err(io::Error::from)?;
    Ok(())
}

fn lz4(body: &[u8], out: &mut Bounded) -> Result<(), Bad> {
    // The decoder takes the input's end for the end of the frame. If it is not it asks for more than there is, and gets this.
    const BEYOND: [u8; 8] = [0xff; 8];
    if body.first_chunk() != Some(&[0x04, 0x22, 0x4d, 0x18]) {
        return Err(broken("it is no LZ4 frame"));
    }
    let mut decoder = FrameDecoder::new(body.chain(&BEYOND[..]));
    // Not `read_to_end`, which would begin another frame behind this one.
    loop {
        let block = decoder.fill_buf()?;
        let given = block.len();
        if given == 0 {
            break;
        }
        out.extend(block)?;
        decoder.consume(given);
    }
    match decoder.into_inner().into_inner() {
        ([], beyond) if beyond.len() == BEYOND.len() => Ok(()),
        ([], _) => Err(broken("its end is missing")),
        (rest, _) => Err(Bad::Broken(format!("{} bytes follow the frame", rest.len()))),
    }
}

/// In one go, into the result itself: a decoder of streams takes as much memory as the frame says that it needs.
fn zstd(body: &[u8], out: &mut Bounded) -> Result<(), Bad> {
    let known = get_frame_content_size(body).map_err(|_| broken("it is no zstd frame"))?;
    if known.is_some_and(|known| known > out.limit as u64) {
        return Err(Bad::TooLarge);
    }
    let mut decoder = Decompressor::new()?;
    // Java's producer does not say how much it is: what does not fit is tried again with more room.
    let mut room = known.map_or(4 * body.len(), |known| known as usize).clamp(1024, out.limit.max(1024));
    loop {
        out.bytes.clear();
        out.bytes.reserve_exact(room);
        match decoder.decompress_to_buffer(body, &mut out.bytes) {
            Ok(_) if out.bytes.len() > out.limit => return Err(Bad::TooLarge),
            Ok(_) => return Ok(()),
            Err(error) if !error.to_string().contains("too small") => return Err(error.into()),
            Err(_) if room >= out.limit => return Err(Bad::TooLarge),
            Err(_) => room = (4 * room).min(out.limit),
        }
    }
}
