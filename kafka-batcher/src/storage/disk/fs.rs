//! The seam to the file system: as little of it as the storage needs, so that tests can make each step fail and lose
//! what was not yet durable.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use kafka_batcher_core::StorageError;

use crate::clock::Clock;

/// A file system.
pub(super) trait Fs: fmt::Debug + Send + Sync {
    /// A new, empty file for reading and writing, mode 0600; it must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// The same, for what is appended here and read elsewhere, if ever: past the page cache, where that can be. Behind its bytes the
    /// file may have zeros, fewer than [`BLOCK`], until it is cut.
    fn create_direct(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// An existing file for reading and, if so asked, cutting.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>>;
    /// A directory, mode 0700, with those above it; it may exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes durable which files a directory has.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that may still be written to the disk that holds `path`, and its size.
    fn space(&self, path: &Path) -> io::Result<(u64, u64)>;
    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> i64;
}

/// An open file.
pub(super) trait File: fmt::Debug + Send + Sync {
    /// Writes all pieces at the file's end.
    fn append(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Whether zeros may lie behind what was appended.
    fn is_padded(&self) -> bool;
    /// Fills `buffer` from `at` on.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;
    /// Whether it still has a name: otherwise it goes with this process, however durable its bytes are.
    fn has_name(&self) -> io::Result<bool>;
    /// Cuts it to this length.
    fn cut(&self, length: u64) -> io::Result<()>;
}

/// All of a file.
pub(super) fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A directory with those above it; those that are made are durable in the ones that they lie in.
pub(super) fn make_dir(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    let missing = |dir: &&Path| {
        let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        !dir.as_os_str().is_empty() && fs.list(dir).is_err_and(gone)
    };
    let made: Vec<&Path> = path.ancestors().take_while(missing).collect();
    fs.create_dir(path)?;
    for dir in made.iter().rev() {
        match dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => fs.sync_dir(Path::new("."))?,
            Some(parent) => fs.sync_dir(parent)?,
            None => {}
        }
    }
    Ok(())
}

/// What a disk that fails gives or refuses at a time, and what is written at a time past the page cache.
pub(super) const BLOCK: u64 = 4 << 10;

/// All of a file that the disk gives, zeros for what it does not; which stretches those are, and its words.
pub(super) fn read_what_it_gives(file: &dyn File) -> io::Result<(Vec<u8>, Unread)> {
    loop {
        let length = file.len()?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        match read_in_blocks(file, &mut bytes, 0) {
            // Zeros were cut off its end meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && file.len()? < length => {}
            unread => return Ok((bytes, unread?)),
        }
    }
}

/// What could not be read.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) stretches: Vec<Range<u64>>,
    /// The disk's words for the first of them.
    pub(super) error: Option<io::Error>,
}

/// Fills `buffer` from `at` on as far as the disk gives it: all at once, or, where that fails, block by block.
///
/// # Errors
/// If the file ends before.
pub(super) fn read_in_blocks(file: &dyn File, buffer: &mut [u8], at: u64) -> io::Result<Unread> {
    let mut unread = Unread::default();
    match file.read_at(buffer, at) {
        Ok(()) => return Ok(unread),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
        Err(_) => {}
    }
    let end = at + buffer.len() as u64;
    let mut from = at;
    while from < end {
        let to = ((from / BLOCK + 1) * BLOCK).min(end);
        let block = buffer.get_mut((from - at) as usize..(to - at) as usize).unwrap_or_default();
        match file.read_at(block, from) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
            Err(error) => {
                block.fill(0);
                unread.error.get_or_insert(error);
                match unread.stretches.last_mut().filter(|last| last.end == from) {
                    Some(last) => last.end = to,
                    None => unread.stretches.push(from..to),
                }
            }
        }
        from = to;
    }
    Ok(unread)
}

/// Whether the disk gives anything of a file but what lies in there; true of one that is too small to tell.
pub(super) fn gives_the_rest(file: &dyn File, but: Range<u64>) -> io::Result<bool> {
    let length = file.len()?;
    let (before, behind) = (but.start / BLOCK, but.end.div_ceil(BLOCK) * BLOCK);
    let mut block = [0; BLOCK as usize];
    let mut gives = |from: u64| {
        let some = length.saturating_sub(from).min(BLOCK) as usize;
        block.get_mut(..some).is_some_and(|block| file.read_at(block, from).is_ok())
    };
    let before = (before > 0).then_some(0);
    let behind = (behind < length).then(|| (length - 1) / BLOCK * BLOCK);
    Ok(match (before, behind) {
        (None, None) => true,
        (before, behind) => before.is_some_and(&mut gives) || behind.is_some_and(gives),
    })
}

/// Writes a file that is whole or not there: under another name, synced, renamed.
pub(super) fn replace(fs: &dyn Fs, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    remove_if_there(fs, &temporary)?;
    let file = fs.create(&temporary)?;
    file.append(&mut [IoSlice::new(bytes)])?;
    file.sync()?;
    fs.rename(&temporary, &dir.join(name))?;
    fs.sync_dir(dir)
}

pub(super) fn remove_if_there(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether it says that the disk has no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The words for an error of the file system.
pub(super) fn failed(doing: &str, path: &Path, error: &io::Error) -> StorageError {
    let path = path.display();
    if is_full(error) {
        StorageError::Full(format!(
            "cannot {doing} {path}: {error}; free some room on that disk: nothing is lost meanwhile, \
             events wait in memory"
        ))
    } else {
        StorageError::Failed(format!("cannot {doing} {path}: {error}"))
    }
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct RealFs;

impl Fs for RealFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile::create(path)?))
    }

    #[cfg(target_os = "linux")]
    fn create_direct(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(super::direct::DirectFile::or(path, RealFile::create(path)?))
    }

    #[cfg(not(target_os = "linux"))]
    fn create_direct(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.create(path)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).append(write).open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            // Nothing of ours has a name that is no UTF-8.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(path)?;
        Ok((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
    }

    fn unix_ms(&self) -> i64 {
        Clock::start().unix_ms()
    }
}

#[derive(Debug)]
pub(super) struct RealFile(pub(super) std::fs::File);

impl RealFile {
    pub(super) fn create(path: &Path) -> io::Result<RealFile> {
        let mut options = OpenOptions::new();
        Ok(RealFile(options.read(true).append(true).create_new(true).mode(0o600).open(path)?))
    }
}

impl File for RealFile {
    fn append(&self, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        // IOV_MAX on Linux and macOS.
        const AT_ONCE: usize = 1024;
        while !pieces.is_empty() {
            let some = pieces.get(..pieces.len().min(AT_ONCE)).unwrap_or_default();
            match (&self.0).write_vectored(some) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut pieces, n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_padded(&self) -> bool {
        false
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, at)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        // fdatasync covers the length as well; on macOS std asks the disk itself (F_FULLFSYNC).
        self.0.sync_data()
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.nlink() > 0)
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}
