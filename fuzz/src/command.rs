//! What the command reads, given to its readers as `lib.rs` does with those of the library. They are the command's own files: whoever
//! includes this one includes them, too (`crate::json`, `crate::lines`).

use std::io::Read;
use std::ops::ControlFlow;

use serde_json::Value;

use crate::json::{Found, NotJson, Path, find};
use crate::lines::{Filled, Line, LineReader};

/// A byte for the longest line and one for how much a read gives; then lines, of which a field and what lies deeper are looked for as
/// JSON: the same as serde_json finds.
pub(crate) fn lines(input: &[u8]) {
    let Some(([limit, step], input)) = input.split_first_chunk() else { return };
    let (limit, step) = (usize::from(*limit) * 16, usize::from(*step) * 4 + 1);
    let paths = ["key", "/a/b", "/0/key"].map(|path| Path::parse(path).expect("a path"));
    let mut reader = LineReader::new(Trickle { rest: input, step }, limit);
    let mut seen = Vec::new();
    let mut take = |line: Line<'_>| {
        seen.push(match line {
            Line::Bytes(bytes) => {
                paths.iter().for_each(|path| field(path, bytes));
                Ok(bytes.to_vec())
            }
            Line::TooLong(length) => Err(length),
        });
        ControlFlow::<()>::Continue(())
    };
    while let Filled::More(_) = reader.fill().expect("memory can be read") {
        let _ = reader.each_line(&mut take);
    }
    reader.last_line().map(&mut take);
    assert_eq!(seen, split(input, limit));
}

/// Gives at most `step` bytes at a time.
struct Trickle<'a> {
    rest: &'a [u8],
    step: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let step = self.step.min(into.len());
        (&mut self.rest).take(step as u64).read(into)
    }
}

/// The lines as whoever has all of them in memory finds them; of one that is too long its length.
fn split(input: &[u8], limit: usize) -> Vec<Result<Vec<u8>, u64>> {
    let (lines, last) = match input.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => (input[..at].split(|byte| *byte == b'\n').collect(), &input[at + 1..]),
        None => (Vec::new(), input),
    };
    let judge = |line: &[u8]| if line.len() > limit { Err(line.len() as u64) } else { Ok(line.to_vec()) };
    let ended = |line: &[u8]| judge(line.strip_suffix(b"\r").unwrap_or(line));
    let mut all: Vec<_> = lines.into_iter().map(ended).collect();
    if !last.is_empty() {
        all.push(judge(last));
    }
    all
}

fn field(path: &Path, line: &[u8]) {
    let mut scratch = Vec::new();
    let ours = find(line, path);
    match (ours, serde_json::from_slice::<Value>(line)) {
        (Ok(found), Ok(value)) => {
            let name = path.to_string();
            let theirs = if name.starts_with('/') { value.pointer(&name) } else { value.get(&name) };
            let bytes = found.bytes(&mut scratch).expect("serde_json has decoded it");
            match (found, theirs) {
                (Found::Absent, None) => {}
                (Found::Str { .. }, Some(Value::String(text))) => assert_eq!(bytes, Some(text.as_bytes())),
                (Found::Other(text), Some(value)) => {
                    assert_eq!(&serde_json::from_str::<Value>(text).expect("a value"), value);
                }
                (found, theirs) => panic!("{path}: {found:?} {theirs:?}"),
            }
        }
        (Err(_), Err(_)) => {}
        (Ok(found), Err(error)) => {
            // A number that no f64 holds, and half of a surrogate pair where nobody looks, are only text to us.
            let said = error.to_string();
            let known = ["number out of range", "surrogate", "unexpected end of hex escape"];
            assert!(known.iter().any(|known| said.contains(known)), "{path}: {found:?}, but {error}");
            let _: Result<_, NotJson> = found.bytes(&mut scratch);
        }
        (Err(error), Ok(_)) => panic!("{path}: refused what is JSON: {error}"),
    }
}
