//! A process that is killed, where it is a batcher in this one: what counts is what lies on disk at that moment. A batcher that
//! is dropped would still save what it has in memory, and write down how far it was.

use std::fs;
use std::path::Path;

/// A copy of a spool's directory as it is now: what the next process finds after a SIGKILL at this moment. The process that
/// uses the directory may go on; whatever it still does is not in the copy.
pub(crate) fn what_a_kill_leaves(dir: &Path) -> tempfile::TempDir {
    let left = tempfile::tempdir().expect("a directory");
    copy(dir, left.path());
    left
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            fs::create_dir(&target).expect("a directory");
            copy(&path, &target);
        } else if let Err(error) = fs::copy(&path, &target) {
            // A temporary file may have got its name meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", path.display());
        }
    }
}
