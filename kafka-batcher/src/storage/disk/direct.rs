//! A file that is appended to past the page cache (`O_DIRECT`), for what is written to be durable and hardly ever read: the
//! kernel neither copies it nor makes pages for it. Of 1 GiB in groups of 8 MiB with an fdatasync each, segments of 64 MiB, the
//! copy into the buffer here included: 0.10 CPU s and 0.50 s, and through the page cache 0.26 to 0.57 CPU s and 0.6 to 0.98 s
//! (ext4, Linux 6.18, a C program).
//!
//! The disk takes whole blocks, so that zeros fill the last one up until more comes, or [`File::finish`] cuts them off; a
//! crash leaves them, and recovery knows them. What is durable of that block is written again with the same bytes, as it is through
//! the page cache.

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::fs::{BLOCK, File, RealFile};

/// Bytes that are written at once, and held in memory for each topic. Between 1, 2 and 4 MiB a whole process's CPU does not differ (0.70,
/// 0.68, 0.68 s for 10^6 events of 1 KiB, on Kafka, means of four).
const BUFFER: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct DirectFile {
    /// Written through this, and what else is asked goes to the other.
    direct: std::fs::File,
    file: RealFile,
    end: Mutex<End>,
}

/// The end of the file: what of it fills no block yet.
#[derive(Debug)]
struct End {
    buffer: Box<[u8]>,
    /// Where in the buffer the first address is that the disk takes.
    start: usize,
    /// From there on so many bytes, which lie in the file from byte `at` on.
    held: usize,
    at: u64,
}

impl DirectFile {
    /// The file just made under this name, to be appended to so; as it is where its file system cannot.
    pub(super) fn open_or(path: &Path, file: RealFile) -> Arc<dyn File> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(direct) => Arc::new(DirectFile { direct, file, end: Mutex::new(End::new()) }),
            Err(error) => {
                tracing::debug!(file = %path.display(), %error, "no direct I/O here; it is written through the page cache");
                Arc::new(file)
            }
        }
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self.direct.write_all_at(bytes, at) {
            // Its blocks are larger than ours, or it found out only now.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                fcntl_setfl(&self.direct, fcntl_getfl(&self.direct)? - OFlags::DIRECT)?;
                self.direct.write_all_at(bytes, at)
            }
            written => written,
        }
    }
}

impl End {
    fn new() -> End {
        let block = BLOCK as usize;
        // Not touched here: the kernel gives the pages that are written to.
        let buffer = vec![0; BUFFER + block].into_boxed_slice();
        // "Cannot be done" only if evaluated by a compiler.
        let start = buffer.as_ptr().align_offset(block).min(block);
        End { buffer, start, held: 0, at: 0 }
    }

    /// Takes as much of it as fits; how much.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let room = self.buffer.get_mut(self.start + self.held..self.start + BUFFER).unwrap_or_default();
        let some = bytes.len().min(room.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..some), bytes.get(..some)) {
            room.copy_from_slice(bytes);
        }
        self.held += some;
        some
    }

    /// All that is held, in whole blocks, filled up with zeros.
    fn blocks(&mut self) -> &[u8] {
        let whole = self.held.next_multiple_of(BLOCK as usize);
        if let Some(rest) = self.buffer.get_mut(self.start + self.held..self.start + whole) {
            rest.fill(0);
        }
        self.buffer.get(self.start..self.start + whole).unwrap_or_default()
    }

    /// All that is held was written: what fills no block is kept, to be written again with what comes.
    fn written(&mut self) {
        let whole = self.held - self.held % BLOCK as usize;
        self.buffer.copy_within(self.start + whole..self.start + self.held, self.start);
        self.held -= whole;
        self.at += whole as u64;
    }
}

impl File for DirectFile {
    fn append(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let some = end.take(rest);
                rest = rest.get(some..).unwrap_or_default();
                if end.held == BUFFER {
                    let at = end.at;
                    self.write(end.blocks(), at)?;
                    end.written();
                }
            }
        }
        let at = end.at;
        self.write(end.blocks(), at)?;
        end.written();
        Ok(())
    }

    fn finish(&self, length: u64) -> io::Result<()> {
        self.cut(length)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_at(buffer, at)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn has_name(&self) -> io::Result<bool> {
        self.file.has_name()
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.file.cut(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::fs::{Fs, RealFs};
    use super::*;

    /// Bytes of which no two neighbouring blocks are alike.
    fn bytes(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).map(|n| (n / 7 + n / 4_096) as u8 | 1).collect()
    }

    fn story(dir: &Path) -> bool {
        let path = dir.join("log");
        let (block, file) = (BLOCK as usize, RealFs.create_direct(&path).unwrap());
        let mut written = Vec::new();
        // A few bytes, up to a block's end, over it, blocks alone, nothing, more than the buffer, from within a block.
        let groups: [&[usize]; 9] = [
            &[1, 99],
            &[block - 100],
            &[block + 1, 3],
            &[block - 4],
            &[],
            &[2 * block],
            &[BUFFER - 1, 2, BUFFER, 5],
            &[61; 200],
            &[3 * BUFFER],
        ];
        let mut direct = false;
        for group in groups {
            let pieces: Vec<Vec<u8>> = group
                .iter()
                .scan(written.len(), |at, count| {
                    let piece = bytes(*at, *count);
                    *at += count;
                    Some(piece)
                })
                .collect();
            let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            file.append(&mut slices).unwrap();
            file.sync().unwrap();
            written.extend(pieces.concat());
            let there = std::fs::read(&path).unwrap();
            assert!(there.starts_with(&written), "{group:?}");
            let padding = &there[written.len()..];
            assert!(padding.len() < block && padding.iter().all(|byte| *byte == 0), "{group:?}");
            direct |= !padding.is_empty();
        }
        file.finish(written.len() as u64).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), written);
        direct
    }

    #[test]
    fn what_is_appended_is_there_with_zeros_up_to_a_block_behind_it_and_a_finished_file_ends_with_its_bytes()
    {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        println!("direct I/O here: {}", story(dir.path()));
    }

    #[test]
    fn who_reads_through_the_page_cache_what_is_durable_sees_all_of_it_while_more_is_appended() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("log");
        let (writer, reader) = (RealFs.create_direct(&path).unwrap(), RealFs.open(&path, false).unwrap());
        let durable = AtomicUsize::new(0);
        const ALL: usize = 4 << 20;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0;
                while at < ALL {
                    let some = 1 + at * 31 % 9_001;
                    writer.append(&mut [IoSlice::new(&bytes(at, some))]).unwrap();
                    at += some;
                    durable.store(at, Ordering::Release);
                }
            });
            let mut looks = 0;
            loop {
                let end = durable.load(Ordering::Acquire);
                // The block in which it ends was read before, when less of it was written.
                let from = end.saturating_sub(10_000);
                let mut seen = vec![0; end - from];
                reader.read_at(&mut seen, from as u64).unwrap();
                assert_eq!(seen, bytes(from, end - from), "up to {end}");
                looks += 1;
                if end >= ALL {
                    break;
                }
            }
            println!("{looks} looks");
        });
    }

    #[test]
    fn a_file_that_suddenly_takes_no_direct_io_is_written_all_the_same() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("log");
        let file = RealFile::create(&path).unwrap();
        let direct =
            OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(&path);
        let Ok(direct) = direct else { return };
        let mut end = End::new();
        // From an address and of a length that no disk takes.
        end.start += 1;
        let file = DirectFile { direct, file, end: Mutex::new(end) };
        file.append(&mut [IoSlice::new(&bytes(0, 5_000))]).unwrap();
        file.append(&mut [IoSlice::new(&bytes(5_000, 100))]).unwrap();
        assert!(std::fs::read(&path).unwrap().starts_with(&bytes(0, 5_100)));
        assert!(!fcntl_getfl(&file.direct).unwrap().contains(OFlags::DIRECT));
    }
}
