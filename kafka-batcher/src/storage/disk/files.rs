//! The segments that are open for being read: few, however many there are. A partition that is stuck keeps a segment for
//! every 64 MiB that flow past it, so that one descriptor each would use all up that a process may have.
//!
//! A file opened by its name may be another than was meant: a segment is deleted, or cleaned, which moves its batches. So
//! a segment counts how often it was, and it is asked again once its file is open.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fs::{File, Fs};
use super::topic::{Segment, Topic};

/// So many are open at once for all topics together, those that are being written apart. Replay of one partition needs one.
pub(super) const OPEN: usize = 16;

/// Which bytes are meant: where, whose, after how many cleanings.
type Key = (PathBuf, u32, u32);

/// Open segments, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<VecDeque<(Key, Arc<dyn File>)>>);

impl Files {
    /// The file in which the batches of a segment lie as `segment` says, a copy from the topic's state; `None` if that is so
    /// no more.
    pub(super) fn of(
        &self,
        fs: &dyn Fs,
        topic: &Topic,
        segment: &Segment,
    ) -> io::Result<Option<Arc<dyn File>>> {
        if let Some(pinned) = &segment.pinned {
            return Ok(Some(pinned.clone()));
        }
        let key = (segment.path.clone(), segment.id, segment.cleaned);
        let mut open = self.lock();
        if let Some(at) = open.iter().position(|(other, _)| *other == key) {
            let known = open.remove(at);
            let file = known.as_ref().map(|(_, file)| file.clone());
            open.extend(known);
            return Ok(file);
        }
        drop(open);
        let opened = fs.open(&segment.path, false);
        if let Ok(file) = &opened {
            let mut open = self.lock();
            open.push_back((key, file.clone()));
            if open.len() > OPEN {
                open.pop_front();
            }
        }
        // First it was looked up, then cleaned, then opened: what was opened is the cleaned one. Who cleans counts first and
        // renames then; so what has not been counted by now had not been renamed.
        let now = topic.state().segments.get(&segment.id).map(|segment| segment.cleaned);
        if now != Some(segment.cleaned) {
            self.forget(&segment.path);
            return Ok(None);
        }
        opened.map(Some)
    }

    /// Closes a file that was deleted or replaced: its room comes back then.
    pub(super) fn forget(&self, path: &Path) {
        self.lock().retain(|((other, ..), _)| other != path);
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Key, Arc<dyn File>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
