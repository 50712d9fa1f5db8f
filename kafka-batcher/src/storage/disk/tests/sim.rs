//! A file system in memory that fails where it is told to, and forgets what was not made durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::fs::{BLOCK, File, Fs};

/// What a failing step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing of it happens.
    Clean(ErrorKind),
    /// A write is cut short in the middle; all of the rest as `Clean`.
    Short(ErrorKind),
    /// It happens, and is answered with an error all the same.
    Done(ErrorKind),
}

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// An fsync failed: what was dirty then is gone, and the next fsync says that all is well.
    betrayed: bool,
    /// It ends with so many zeros that fill its last block up; `durable` with so many.
    padding: usize,
    durable_padding: usize,
    /// It is written by whole blocks.
    direct: bool,
}

impl Inode {
    /// What was appended and is durable.
    fn kept(&self) -> &[u8] {
        &self.durable[..self.durable.len() - self.durable_padding]
    }

    /// Where bytes of a write end or begin that reached the disk apart from the others: at any byte, or where a sector does.
    fn torn_at(&self, byte: usize) -> usize {
        if self.direct { byte - byte % SECTOR } else { byte }
    }

    fn after_power_loss(&self, left: Left) -> Vec<u8> {
        let (bytes, old, from) = (&self.bytes, &self.durable, self.kept().len());
        let mut kept = old.clone();
        if !bytes.starts_with(self.kept()) {
            return kept;
        }
        match left {
            Left::Nothing | Left::Names => {}
            Left::Bytes(more) => {
                let new = self.torn_at((from + more).min(bytes.len()));
                if new > from || new == bytes.len() {
                    kept = [&bytes[..new], old.get(new..).unwrap_or_default()].concat();
                }
            }
            Left::Middle(first, zeros) => {
                let start = self.torn_at(from + first).min(bytes.len());
                let end = from.saturating_add(first).saturating_add(zeros).min(bytes.len());
                let end = if end < bytes.len() && self.direct { end.next_multiple_of(SECTOR) } else { end };
                kept.clone_from(bytes);
                for (at, byte) in kept.iter_mut().enumerate().take(end).skip(start) {
                    *byte = old.get(at).copied().unwrap_or(0);
                }
            }
        }
        kept
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    inodes: Vec<Inode>,
    live: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    durable_dirs: BTreeSet<PathBuf>,
    /// Steps that change something, so far.
    pub(super) steps: u64,
    /// The first step that fails, how many do, and how.
    pub(super) fault: Option<(u64, u64, Fault)>,
    /// Bytes of files that the disk does not give.
    unreadable: Vec<(usize, Range<usize>)>,
    /// Files that cannot be opened.
    pub(super) locked: BTreeSet<PathBuf>,
    /// No file can be cut.
    pub(super) refuses_cuts: bool,
    /// Bytes that were read.
    pub(super) read: usize,
    /// The most bytes that were written at once.
    pub(super) largest: usize,
    /// Bytes that fit.
    pub(super) capacity: Option<u64>,
    /// What the clock on the wall shows.
    pub(super) unix_ms: i64,
    /// The disk as it was before each step, if that is asked for.
    pub(super) history: Option<Vec<Disk>>,
}

/// What a power loss leaves of what was not durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    Nothing,
    /// The names of files, but not their bytes.
    Names,
    /// Of each file so many of the bytes that were not durable.
    Bytes(usize),
    /// All of them, but zeros in the middle: so many from the first on that is named. A disk writes in the order that it likes.
    Middle(usize, usize),
}

impl Disk {
    fn used(&self) -> u64 {
        self.live.values().map(|inode| self.inodes[*inode].bytes.len() as u64).sum()
    }

    /// The disk after a power loss.
    pub(super) fn after_power_loss(&self, left: Left) -> Disk {
        let nothing = matches!(left, Left::Nothing);
        let names = if nothing { &self.durable } else { &self.live };
        let mut dirs = if nothing { self.durable_dirs.clone() } else { self.dirs.clone() };
        // What lies in a directory goes with it.
        let there = |dirs: &BTreeSet<PathBuf>, path: &Path| {
            path.ancestors().skip(1).all(|dir| dir == Path::new("/") || dirs.contains(dir))
        };
        let all = dirs.clone();
        dirs.retain(|dir| there(&all, dir));
        let mut disk =
            Disk { dirs: dirs.clone(), durable_dirs: dirs.clone(), unix_ms: self.unix_ms, ..Disk::default() };
        for (path, inode) in names.iter().filter(|(path, _)| there(&dirs, path)) {
            let kept = self.inodes[*inode].after_power_loss(left);
            disk.live.insert(path.clone(), disk.inodes.len());
            disk.inodes.push(Inode { bytes: kept.clone(), durable: kept, ..Inode::default() });
        }
        disk.durable = disk.live.clone();
        disk
    }

    /// The disk as it is, all of it durable.
    pub(super) fn all_durable(&self) -> Disk {
        let mut disk = self.after_kill();
        disk.durable = disk.live.clone();
        disk.durable_dirs = disk.dirs.clone();
        disk.inodes.iter_mut().for_each(|inode| {
            (inode.durable, inode.durable_padding) = (inode.bytes.clone(), inode.padding);
        });
        disk
    }

    /// The disk as it is, for another process.
    pub(super) fn after_kill(&self) -> Disk {
        Disk { fault: None, refuses_cuts: false, ..self.clone() }
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.live.keys().cloned().collect()
    }

    pub(super) fn bytes(&mut self, path: &Path) -> &mut Vec<u8> {
        let inode = self.live[path];
        &mut self.inodes[inode].bytes
    }

    /// The disk does not give these bytes of a file any more.
    pub(super) fn refuse(&mut self, path: &Path, bytes: Range<usize>) {
        self.unreadable.push((self.live[path], bytes));
    }

    /// It gives all again.
    pub(super) fn heal(&mut self) {
        self.unreadable.clear();
    }

    /// Somebody removes a directory with all that is in it.
    pub(super) fn remove_dir(&mut self, path: &Path) {
        self.live.retain(|file, _| !file.starts_with(path));
        self.durable.retain(|file, _| !file.starts_with(path));
        self.dirs.retain(|dir| !dir.starts_with(path));
        self.durable_dirs.retain(|dir| !dir.starts_with(path));
    }

    /// What was written to this file was never fsynced.
    pub(super) fn never_synced(&mut self, path: &Path) {
        let inode = self.live[path];
        (self.inodes[inode].durable, self.inodes[inode].durable_padding) = (Vec::new(), 0);
    }

    /// Counts a step; the fault it is to meet.
    fn step(&mut self) -> Option<Fault> {
        if let Some(mut history) = self.history.take() {
            history.push(self.clone());
            self.history = Some(history);
        }
        self.steps += 1;
        let (at, times, fault) = self.fault?;
        (self.steps >= at && self.steps - at < times).then_some(fault)
    }
}

/// A handle on a [`Disk`].
#[derive(Clone, Debug, Default)]
pub(super) struct SimFs(Arc<Mutex<Disk>>, Arc<AtomicUsize>, Arc<Mutex<Option<Asked>>>);

/// Told when it is asked how much room there is.
#[derive(Clone)]
pub(super) struct Asked(pub(super) Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}

impl SimFs {
    pub(super) fn new(mut disk: Disk) -> Self {
        disk.unix_ms = disk.unix_ms.max(1_700_000_000_000);
        SimFs(Arc::new(Mutex::new(disk)), Arc::default(), Arc::default())
    }

    /// Calls this whenever it is asked how much room there is.
    pub(super) fn when_asked_for_room(&self, call: impl Fn() + Send + Sync + 'static) {
        *self.2.lock().unwrap() = Some(Asked(Arc::new(call)));
    }

    /// Files that are open.
    pub(super) fn open_files(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    fn file(&self, inode: usize) -> Arc<dyn File> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Arc::new(SimFile(self.clone(), inode))
    }

    fn made(&self, path: &Path, direct: bool) -> io::Result<Arc<dyn File>> {
        let inode = self.change(|disk| {
            if disk.live.contains_key(path) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            if !path.parent().is_some_and(|dir| disk.dirs.contains(dir)) {
                return Err(missing());
            }
            let inode = disk.inodes.len();
            disk.inodes.push(Inode { direct, ..Inode::default() });
            disk.live.insert(path.to_owned(), inode);
            Ok(inode)
        })?;
        Ok(self.file(inode))
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    fn change<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk();
        match disk.step() {
            None => act(&mut disk),
            Some(Fault::Clean(kind) | Fault::Short(kind)) => Err(kind.into()),
            Some(Fault::Done(kind)) => {
                act(&mut disk)?;
                Err(kind.into())
            }
        }
    }
}

fn missing() -> io::Error {
    ErrorKind::NotFound.into()
}

impl Fs for SimFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.made(path, false)
    }

    fn create_direct(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.made(path, true)
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn File>> {
        let inode = *self.disk().live.get(path).ok_or_else(missing)?;
        if self.disk().locked.contains(path) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        Ok(self.file(inode))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if !self.disk().dirs.contains(path) {
            self.change(|disk| {
                disk.dirs.extend(path.ancestors().map(Path::to_owned));
                Ok(())
            })?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        if !disk.dirs.contains(path) {
            return Err(missing());
        }
        let children = disk.live.keys().chain(&disk.dirs).filter(|child| child.parent() == Some(path));
        let names: BTreeSet<String> =
            children.map(|child| child.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        Ok(names.into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|disk| {
            let inode = disk.live.remove(from).ok_or_else(missing)?;
            disk.live.insert(to.to_owned(), inode);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.disk().live.contains_key(path) {
            return Err(missing());
        }
        self.change(|disk| disk.live.remove(path).map(drop).ok_or_else(missing))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|disk| {
            let here = |child: &PathBuf| child.parent() == Some(path);
            disk.durable.retain(|child, _| !here(child));
            disk.durable_dirs.retain(|child| !here(child));
            let dirs: Vec<_> = disk.dirs.iter().filter(|child| here(child)).cloned().collect();
            disk.durable_dirs.extend(dirs);
            let live: Vec<_> =
                disk.live.iter().filter(|(child, _)| here(child)).map(|(c, i)| (c.clone(), *i)).collect();
            disk.durable.extend(live);
            Ok(())
        })
    }

    fn space(&self, _: &Path) -> io::Result<(u64, u64)> {
        let asked = self.2.lock().unwrap().clone();
        if let Some(Asked(call)) = asked {
            call();
        }
        let disk = self.disk();
        let total = disk.capacity.unwrap_or(1 << 40);
        Ok((total.saturating_sub(disk.used()), total))
    }

    fn unix_ms(&self) -> i64 {
        self.disk().unix_ms
    }
}

#[derive(Debug)]
struct SimFile(SimFs, usize);

impl Drop for SimFile {
    fn drop(&mut self) {
        self.0.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl File for SimFile {
    fn append(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let mut disk = self.0.disk();
        disk.largest = disk.largest.max(bytes.len());
        let fault = disk.step();
        let room = disk.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used()));
        let (take, error) = match fault {
            Some(Fault::Clean(kind)) => (0, Some(kind)),
            Some(Fault::Short(kind)) => (bytes.len() / 2, Some(kind)),
            Some(Fault::Done(kind)) => (bytes.len(), Some(kind)),
            None if (bytes.len() as u64) > room => (room as usize, Some(ErrorKind::StorageFull)),
            None => (bytes.len(), None),
        };
        let inode = &mut disk.inodes[self.1];
        let before = inode.bytes.len() - inode.padding;
        let mut new = [&inode.bytes[..before], &bytes[..take]].concat();
        if inode.direct && take < bytes.len() {
            // Of what was cut short there are whole sectors; what lay behind them lies there still.
            new.truncate(inode.torn_at(new.len()));
            if new.len() > before {
                new.extend(inode.bytes.iter().skip(new.len()));
                (inode.bytes, inode.padding) = (new, 0);
            }
        } else {
            let whole = if inode.direct { new.len().next_multiple_of(BLOCK as usize) } else { new.len() };
            inode.padding = whole - new.len();
            new.resize(whole, 0);
            inode.bytes = new;
        }
        error.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn is_padded(&self) -> bool {
        self.0.disk().inodes[self.1].direct
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let mut disk = self.0.disk();
        let wanted = at as usize..at as usize + buffer.len();
        let refused = |bytes: &Range<usize>| bytes.start < wanted.end && wanted.start < bytes.end;
        if disk.unreadable.iter().any(|(inode, bytes)| *inode == self.1 && refused(bytes)) {
            return Err(ErrorKind::Other.into());
        }
        disk.read += buffer.len();
        let bytes = disk.inodes[self.1].bytes.get(at as usize..at as usize + buffer.len());
        buffer.copy_from_slice(bytes.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.disk().inodes[self.1].bytes.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.0.disk();
        let fault = disk.step();
        let inode = &mut disk.inodes[self.1];
        match fault {
            Some(Fault::Clean(kind) | Fault::Short(kind)) => {
                inode.betrayed = true;
                Err(kind.into())
            }
            fault => {
                if inode.betrayed {
                    let kept = inode.kept().len();
                    inode.durable.truncate(inode.bytes.len());
                    inode.durable_padding = inode.durable.len().saturating_sub(kept);
                } else {
                    inode.durable = inode.bytes.clone();
                    inode.durable_padding = inode.padding;
                }
                fault.map_or(Ok(()), |fault| match fault {
                    Fault::Done(kind) | Fault::Clean(kind) | Fault::Short(kind) => Err(kind.into()),
                })
            }
        }
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.0.disk().live.values().any(|inode| *inode == self.1))
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.0.change(|disk| {
            if disk.refuses_cuts {
                return Err(ErrorKind::Other.into());
            }
            let inode = &mut disk.inodes[self.1];
            inode.bytes.truncate(length as usize);
            inode.padding = 0;
            Ok(())
        })
    }
}
