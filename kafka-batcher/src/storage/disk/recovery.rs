//! Brings a topic's directory into order at the start: what a crash left unfinished is cut, what is damaged is kept
//! aside, and all that stays is made durable before it is called so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kafka_batcher_core::StorageError;

use super::fs::{File, failed, remove_if_there, replace};
use super::load::{Damage, Loaded, Nobody, load};
use super::log::Log;
use super::place::SpoolDir;
use super::topic::State;

/// A topic's log, ready to be written.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) damage: Vec<Damage>,
    pub(super) log: Log,
}

/// Recovers a log.
pub(super) fn recover(place: &SpoolDir, dir: &Path, segment_bytes: u64) -> Result<Recovered, StorageError> {
    let fs = &place.fs;
    let Loaded { mut state, damage, bad, tails, leftovers, next_id, .. } =
        load(fs.as_ref(), dir, false, &mut Nobody)?;
    for path in leftovers {
        remove_if_there(fs.as_ref(), &path).map_err(|error| failed("remove", &path, &error))?;
    }
    let mut only_here = BTreeSet::new();
    for (id, offset, length) in bad {
        if let Some(segment) = state.segments.get(&id)
            && !quarantine(place, &segment.path, None, offset, length)
        {
            only_here.insert((id, offset));
        }
    }
    for (id, tail) in tails {
        let Some(segment) = state.segments.get_mut(&id) else { continue };
        if !tail.torn && only_here.contains(&(id, tail.offset)) {
            // The new segment's name says that nothing valid follows; the next start tries again.
            tracing::warn!(file = %segment.path.display(), "damaged bytes stay where they are until they can be kept aside");
            continue;
        }
        if !tail.padding {
            tracing::info!(
                file = %segment.path.display(), bytes = tail.length, torn = tail.torn,
                "cut off what was never acknowledged"
            );
        }
        let cut = fs.open(&segment.path, true).and_then(|file| file.cut(tail.offset));
        cut.map_err(|error| failed("cut", &segment.path, &error))?;
        segment.length = tail.offset;
        place.freed(tail.length);
    }
    // Before any file goes: the name of an empty one may say of another that the rest does not exist which was just cut off.
    for segment in state.segments.values() {
        let synced = fs.open(&segment.path, true).and_then(|file| file.sync());
        synced.map_err(|error| failed("fsync", &segment.path, &error))?;
    }
    let empty: Vec<u32> =
        state.segments.iter().filter(|(_, segment)| segment.length == 0).map(|(id, _)| *id).collect();
    for segment in empty.iter().filter_map(|id| state.segments.remove(id)) {
        remove_if_there(fs.as_ref(), &segment.path)
            .map_err(|error| failed("remove", &segment.path, &error))?;
    }
    fs.sync_dir(dir).map_err(|error| failed("fsync", dir, &error))?;
    let taken = state.segments.values().map(|segment| segment.base).max();
    // One that holds nothing but damage may stay, if that could not be kept aside; no other gets its name.
    if let Some(taken) = taken {
        state.next = state.next.max(taken + 1);
    }
    let log = Log::new(fs.clone(), dir, (state.next, taken), next_id, segment_bytes);
    Ok(Recovered { state, damage, log })
}

/// How the names of files with damaged bytes end.
pub(super) const DAMAGED: &str = ".damaged";

/// Where damaged bytes are kept.
pub(super) fn quarantine_path(segment: &Path, offset: u64) -> PathBuf {
    segment.with_extension(format!("{offset}{DAMAGED}"))
}

/// Copies damaged bytes beside the segment, once, durably; as well as it goes, since a damaged disk may not give them. False
/// if there is no copy.
pub(super) fn quarantine(
    place: &SpoolDir,
    segment: &Path,
    file: Option<&dyn File>,
    offset: u64,
    length: u64,
) -> bool {
    let (path, fs) = (quarantine_path(segment, offset), place.fs.as_ref());
    if fs.open(&path, false).and_then(|copy| copy.len()).is_ok_and(|known| known >= length) {
        return true;
    }
    let copy = || {
        let mut bytes = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
        match file {
            Some(file) => file.read_at(&mut bytes, offset)?,
            None => fs.open(segment, false)?.read_at(&mut bytes, offset)?,
        }
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        replace(fs, path.parent().unwrap_or(&path), name, &bytes)
    };
    match copy() {
        Err(error) => tracing::warn!(file = %path.display(), %error, "cannot keep damaged bytes aside"),
        Ok(()) => {
            place.added(length);
            tracing::warn!(file = %path.display(), "damaged bytes are kept aside");
            return true;
        }
    }
    false
}
