//! A file that is appended to past the page cache (`O_DIRECT`), for what is written to be durable and hardly ever read: the
//! kernel neither copies it nor makes pages for it. Of 1 GiB in groups of 8 MiB with an fdatasync each, segments of 64 MiB, the
//! copy into the buffer here included: 0.10 CPU s and 0.50 s, and through the page cache 0.26 to 0.57 CPU s and 0.6 to 0.98 s
//! (ext4, Linux 6.18, a C program).
//!
//! The disk takes whole blocks, so that zeros fill the last one up until more comes, or the segment is done and they are cut off; a
//! crash leaves them, and recovery knows them. What is durable of that block is written again with the same bytes, as it is through
//! the page cache. Who reads the file meanwhile does so through another descriptor, which the kernel keeps in step.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::fs::{BLOCK, File, RealFile};

/// Bytes that are written at once. Between 1, 2 and 4 MiB a whole process's CPU does not differ (0.70, 0.68, 0.68 s for 10^6 events of
/// 1 KiB, on Kafka, means of four).
const BUFFER: usize = 1 << 20;

thread_local! {
    /// One for all files of a thread: a spool has one that writes, and while dead letters are put back another.
    static ALIGNED: RefCell<Aligned> = RefCell::new(Aligned::new());
}

/// Memory that begins where the disk takes it.
struct Aligned {
    bytes: Box<[u8]>,
    start: usize,
}

impl Aligned {
    fn new() -> Aligned {
        let block = BLOCK as usize;
        let bytes = vec![0; BUFFER + block].into_boxed_slice();
        // `usize::MAX` only while a compiler evaluates it.
        let start = bytes.as_ptr().align_offset(block).min(block);
        Aligned { bytes, start }
    }

    fn get(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + BUFFER).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct DirectFile {
    file: RealFile,
    end: Mutex<End>,
}

/// The end of the file.
#[derive(Debug, Default)]
struct End {
    /// What of it fills no block yet, and where in the file that begins.
    rest: Vec<u8>,
    at: u64,
}

impl DirectFile {
    /// A new file, to be appended to so; as it is where its file system cannot.
    pub(super) fn or(path: &Path, file: RealFile) -> Arc<dyn File> {
        match DirectFile::set(&file) {
            Ok(()) => Arc::new(DirectFile::of(file)),
            Err(error) => {
                tracing::debug!(file = %path.display(), %error, "no direct I/O; it is written through the page cache");
                Arc::new(file)
            }
        }
    }

    fn set(file: &RealFile) -> rustix::io::Result<()> {
        // And not opened to be appended to: pwrite would not heed where, on Linux.
        fcntl_setfl(&file.0, (fcntl_getfl(&file.0)? - OFlags::APPEND) | OFlags::DIRECT)
    }

    fn of(file: RealFile) -> DirectFile {
        DirectFile { file, end: Mutex::default() }
    }

    /// Writes whole blocks at the beginning of one.
    fn write(&self, blocks: &[u8], at: u64) -> io::Result<()> {
        let file = &self.file.0;
        match file.write_all_at(blocks, at) {
            // Its blocks are larger than ours, or it finds out only now.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
                tracing::debug!(%error, "no direct I/O after all; what comes is written through the page cache");
                fcntl_setfl(file, fcntl_getfl(file)? - OFlags::DIRECT)?;
                file.write_all_at(blocks, at)
            }
            written => written,
        }
    }

    fn append_by(&self, buffer: &mut [u8], pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let End { rest, at } = &mut *end;
        let mut held = 0;
        for mut piece in std::iter::once(rest.as_slice()).chain(pieces.iter().map(|piece| &**piece)) {
            while !piece.is_empty() {
                let room = buffer.get_mut(held..).unwrap_or_default();
                let (now, later) = piece.split_at(piece.len().min(room.len()));
                if let Some(room) = room.get_mut(..now.len()) {
                    room.copy_from_slice(now);
                }
                (held, piece) = (held + now.len(), later);
                if held == buffer.len() {
                    self.write(buffer, *at)?;
                    *at += held as u64;
                    held = 0;
                }
            }
        }
        let block = BLOCK as usize;
        let (whole, padded) = (held - held % block, held.next_multiple_of(block));
        buffer.get_mut(held..padded).unwrap_or_default().fill(0);
        self.write(buffer.get(..padded).unwrap_or_default(), *at)?;
        *rest = buffer.get(whole..held).unwrap_or_default().to_vec();
        *at += whole as u64;
        Ok(())
    }
}

impl File for DirectFile {
    fn append(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        ALIGNED.with_borrow_mut(|buffer| self.append_by(buffer.get(), pieces))
    }

    fn is_padded(&self) -> bool {
        true
    }

    /// Nobody does: the kernel would want whole blocks here, too.
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
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
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::fs::{Fs, RealFs};
    use super::*;

    /// Bytes of which no two neighbouring blocks are alike.
    fn bytes(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).map(|n| (n / 7 + n / 4_096) as u8 | 1).collect()
    }

    /// Without direct I/O nothing is tested here: `.ci/run` asks for it where there is any.
    fn must(direct: bool) {
        let wanted = std::env::var_os("KAFKA_BATCHER_REQUIRE_DIRECT_IO").is_some();
        assert!(direct || !wanted, "the file system of this checkout has direct I/O, and it was not used");
    }

    /// In the build's directory, since one for temporary files may lie in memory; the file, if there is direct I/O.
    fn made() -> (tempfile::TempDir, PathBuf, Option<DirectFile>) {
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = dir.path().join("log");
        let file = RealFile::create(&path).unwrap();
        let direct = DirectFile::set(&file).is_ok();
        must(direct);
        (dir, path, direct.then(|| DirectFile::of(file)))
    }

    fn is_direct(file: &DirectFile) -> bool {
        fcntl_getfl(&file.file.0).unwrap().contains(OFlags::DIRECT)
    }

    #[test]
    fn what_is_appended_is_there_with_zeros_up_to_a_block_behind_it() {
        let (_dir, path, Some(file)) = made() else { return };
        let block = BLOCK as usize;
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
        }
        // No write was given up and made through the page cache.
        must(is_direct(&file));
    }

    #[test]
    fn who_reads_through_the_page_cache_what_is_durable_sees_all_of_it_while_more_is_appended() {
        let (_dir, path, Some(writer)) = made() else { return };
        let reader = RealFs.open(&path, false).unwrap();
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
        let (_dir, path, Some(file)) = made() else { return };
        // From an address that a disk hardly takes; some file systems copy for it.
        let mut aligned = Aligned::new();
        aligned.start += 1;
        file.append_by(aligned.get(), &[IoSlice::new(&bytes(0, 5_000))]).unwrap();
        file.append_by(aligned.get(), &[IoSlice::new(&bytes(5_000, 100))]).unwrap();
        assert!(std::fs::read(&path).unwrap().starts_with(&bytes(0, 5_100)));
    }
}
