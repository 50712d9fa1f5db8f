//! Lines out of a stream of bytes, borrowed from large blocks.
//!
//! LF ends a line, one CR before it is not part of it, an empty line is an empty line, and what stands behind the last
//! LF is a line, too. Lines are bytes: any encoding, or none. Memory is bounded by the longest line allowed plus a
//! block: of a longer line only its length is kept.

use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;

use memchr::memchr_iter;

/// Read at once: some 2 700 lines of 97 bytes for one system call. Chosen, not tuned; larger only costs memory.
const BLOCK: usize = 256 * 1024;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Bytes(&'a [u8]),
    /// Longer than allowed: its length, and nothing else.
    TooLong(u64),
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// So many bytes.
    More(usize),
    /// The stream is over.
    End,
}

/// Splits `input` into lines of at most `limit` bytes.
pub(crate) struct LineReader<R> {
    input: R,
    limit: usize,
    /// `buffer[start..end]` was read and not given out.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes dropped of the line that is being read, once it was too long.
    dropped: u64,
}

impl<R: Read> LineReader<R> {
    pub(crate) fn new(input: R, limit: usize) -> Self {
        LineReader { input, limit, buffer: Vec::new(), start: 0, end: 0, dropped: 0 }
    }

    /// Reads once; blocks as long as `input` does. Lines that were not taken yet are kept.
    pub(crate) fn fill(&mut self) -> io::Result<Filled> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // Every whole line was taken, so this is the beginning of one. One byte more than allowed may be a CR.
        if self.dropped > 0 || self.end > self.limit + 1 {
            // A CR at the end is kept: whether the line ends with it only the next byte tells.
            let cr = self.buffer.get(..self.end).is_some_and(|read| read.ends_with(b"\r"));
            let dropped = self.end - usize::from(cr);
            self.dropped += dropped as u64;
            self.buffer.copy_within(dropped..self.end, 0);
            self.end -= dropped;
        }
        if self.buffer.len() < self.end + BLOCK / 4 {
            self.buffer.resize(self.end + BLOCK, 0);
        }
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.input.read(free) {
                Ok(0) => return Ok(Filled::End),
                Ok(read) => {
                    self.end += read;
                    return Ok(Filled::More(read));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives out every line that is complete, in order, until `take` breaks.
    pub(crate) fn each_line<B>(
        &mut self,
        mut take: impl FnMut(Line<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let base = self.start;
        let block = self.buffer.get(base..self.end).unwrap_or_default();
        let mut from = 0;
        for newline in memchr_iter(b'\n', block) {
            let line = block.get(from..newline).unwrap_or_default();
            from = newline + 1;
            self.start = base + from;
            take(judge(line.strip_suffix(b"\r").unwrap_or(line), &mut self.dropped, self.limit))?;
        }
        ControlFlow::Continue(())
    }

    /// What stands behind the last LF, once the stream is over.
    pub(crate) fn last_line(&mut self) -> Option<Line<'_>> {
        let line = self.buffer.get(self.start..self.end).unwrap_or_default();
        self.start = self.end;
        if line.is_empty() && self.dropped == 0 {
            return None;
        }
        Some(judge(line, &mut self.dropped, self.limit))
    }
}

#[inline]
fn judge<'a>(line: &'a [u8], dropped: &mut u64, limit: usize) -> Line<'a> {
    if *dropped > 0 {
        return Line::TooLong(std::mem::take(dropped) + line.len() as u64);
    }
    if line.len() > limit { Line::TooLong(line.len() as u64) } else { Line::Bytes(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out at most `step` bytes a read.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn lines(input: &[u8], step: usize, limit: usize) -> Vec<Result<Vec<u8>, u64>> {
        let mut reader = LineReader::new(Trickle(input, step), limit);
        let mut all = Vec::new();
        let keep = |line: Line<'_>| match line {
            Line::Bytes(bytes) => Ok(bytes.to_vec()),
            Line::TooLong(length) => Err(length),
        };
        loop {
            let filled = reader.fill().expect("reads");
            let flow: ControlFlow<()> = reader.each_line(|line| {
                all.push(keep(line));
                ControlFlow::Continue(())
            });
            assert!(flow.is_continue());
            if filled == Filled::End {
                all.extend(reader.last_line().map(keep));
                return all;
            }
        }
    }

    fn texts(list: &[&str]) -> Vec<Result<Vec<u8>, u64>> {
        list.iter().map(|text| Ok(text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn lf_ends_a_line_and_one_cr_before_it_is_stripped() {
        for step in [1, 2, 3, 1000] {
            assert_eq!(lines(b"a\r\nb\r\r\n\r\n\nc\rd\n", step, 9), texts(&["a", "b\r", "", "", "c\rd"]));
        }
    }

    #[test]
    fn the_last_line_counts_without_lf_and_nothing_is_no_line() {
        for step in [1, 1000] {
            assert_eq!(lines(b"a\nb", step, 9), texts(&["a", "b"]));
            assert_eq!(lines(b"a\nb\r", step, 9), texts(&["a", "b\r"]));
            assert_eq!(lines(b"a\n", step, 9), texts(&["a"]));
            assert_eq!(lines(b"\n", step, 9), texts(&[""]));
            assert_eq!(lines(b"", step, 9), texts(&[]));
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_passes_and_one_byte_more_is_refused_whatever_the_reads() {
        for step in [1, 2, 5, 7, 1000] {
            assert_eq!(lines(b"1234\r\n1234\nx", step, 4), texts(&["1234", "1234", "x"]));
            assert_eq!(lines(b"12345\nx\n", step, 4), [Err(5), Ok(b"x".to_vec())]);
            assert_eq!(lines(b"12345", step, 4), [Err(5)]);
        }
    }

    /// The fuzzer's story: the CR counted if the line had come in several reads, and did not if it had come in one.
    #[test]
    fn the_length_of_a_long_line_is_without_its_end_whatever_the_reads() {
        for step in [1, 2, 3, 4, 5, 6, 7, 1000] {
            for limit in [0, 1, 2, 4] {
                assert_eq!(lines(b"12345\r\n\n", step, limit), [Err(5), Ok(Vec::new())], "{step} {limit}");
                assert_eq!(lines(b"12345\r\r6\r\n", step, limit), [Err(8)], "{step} {limit}");
                assert_eq!(lines(b"12345\r", step, limit), [Err(6)], "{step} {limit}");
            }
        }
    }

    #[test]
    fn a_long_line_is_measured_and_not_kept() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let n = into.len().min(usize::try_from(self.0).unwrap_or(usize::MAX));
                into[..n].fill(b'x');
                self.0 -= n as u64;
                Ok(n)
            }
        }
        let mut reader = LineReader::new(Endless(1 << 30).chain(&b"\nnext\n"[..]), 1000);
        let mut seen = Vec::new();
        while reader.fill().expect("reads") != Filled::End {
            let _: ControlFlow<()> = reader.each_line(|line| {
                seen.push(format!("{line:?}"));
                ControlFlow::Continue(())
            });
        }
        assert_eq!(seen[0], format!("{:?}", Line::TooLong(1 << 30)));
        assert_eq!(seen[1], format!("{:?}", Line::Bytes(b"next")));
        assert!(reader.buffer.len() <= 1000 + 2 * BLOCK, "{}", reader.buffer.len());
    }

    #[test]
    fn what_follows_a_break_is_still_there() {
        let mut reader = LineReader::new(&b"a\nb\nc\n"[..], 9);
        assert_eq!(reader.fill().expect("reads"), Filled::More(6));
        assert_eq!(reader.each_line(|_| ControlFlow::Break(1)), ControlFlow::Break(1));
        let mut rest = Vec::new();
        let flow: ControlFlow<()> = reader.each_line(|line| {
            rest.push(format!("{line:?}"));
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        assert_eq!(rest, [format!("{:?}", Line::Bytes(b"b")), format!("{:?}", Line::Bytes(b"c"))]);
    }
}
