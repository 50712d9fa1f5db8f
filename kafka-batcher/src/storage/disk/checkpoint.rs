//! The checkpoint: through which position each partition is settled. A hint: without it events are sent again, none is
//! lost. Whole or not there; it is read back only if its CRC and version fit.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::bytes::POSITIONS;
use super::control::Cursor;
use super::fs::{Fs, read_all, replace};

pub(super) const NAME: &str = "checkpoint";
const MAGIC: &[u8; 8] = b"kbspoolc";
const VERSION: u32 = 1;

/// What the checkpoint of a topic says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The next position to be given: all below are used up.
    pub(super) next: u64,
    /// Where the last durable group ended.
    pub(super) end: u64,
    /// How many partitions the topic has, if known.
    pub(super) partitions: Option<i32>,
    /// Everything of the partition below is settled.
    pub(super) through: BTreeMap<i32, u64>,
}

impl Checkpoint {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.next.to_be_bytes());
        out.extend_from_slice(&self.end.to_be_bytes());
        out.extend_from_slice(&self.partitions.unwrap_or(-1).to_be_bytes());
        out.extend_from_slice(&(self.through.len() as u32).to_be_bytes());
        for (partition, through) in &self.through {
            out.extend_from_slice(&partition.to_be_bytes());
            out.extend_from_slice(&through.to_be_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Checkpoint, &'static str> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or("it is cut off")?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return Err("its CRC does not fit");
        }
        let mut cursor = Cursor(body);
        if cursor.array() != Some(*MAGIC) || cursor.u32() != Some(VERSION) {
            return Err("it is of another version");
        }
        let checkpoint = Checkpoint::fields(&mut cursor).filter(|_| cursor.0.is_empty());
        let checkpoint = checkpoint.ok_or("it is cut off")?;
        let Checkpoint { next, end, through, .. } = &checkpoint;
        if through.values().chain([next, end]).any(|position| *position >= POSITIONS) {
            return Err("it names a position that no log has");
        }
        Ok(checkpoint)
    }

    fn fields(cursor: &mut Cursor<'_>) -> Option<Checkpoint> {
        let (next, end, partitions) = (cursor.u64()?, cursor.u64()?, cursor.i32()?);
        let mut through = BTreeMap::new();
        for _ in 0..cursor.u32()? {
            through.insert(cursor.i32()?, cursor.u64()?);
        }
        Some(Checkpoint { next, end, partitions: (partitions >= 0).then_some(partitions), through })
    }

    pub(super) fn write(&self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        replace(fs, dir, NAME, &self.encode())
    }

    /// Reads it; `None` if there is none, the words if it is damaged: what the disk does not give is no better.
    pub(super) fn read(fs: &dyn Fs, dir: &Path) -> io::Result<Option<Result<Checkpoint, String>>> {
        match fs.open(&dir.join(NAME), false) {
            Ok(file) => Ok(Some(match read_all(file.as_ref()) {
                Ok(bytes) => Checkpoint::decode(&bytes).map_err(str::to_owned),
                Err(error) => Err(format!("it cannot be read: {error}")),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
