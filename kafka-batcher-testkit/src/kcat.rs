//! kcat, a C client over librdkafka: a reader and writer that shares no line with Kafka's own clients or with ours.

use std::process::{Command, Stdio};

use crate::cluster::run_program;
use crate::{Error, Outcome};

/// kcat, known to be installed.
#[derive(Debug, Clone)]
pub struct Kcat(());

/// One record, as kcat read it. It has no way to print headers without loss, so they are absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KcatMessage {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The key; `None`: null.
    pub key: Option<Vec<u8>>,
    /// The value; `None`: null.
    pub value: Option<Vec<u8>>,
}

/// Lengths before bytes: any byte may stand in a key or value.
const FORMAT: &str = "%p %o %T %K %S %k%s\n";

impl Kcat {
    /// kcat, or what a test should return without it.
    ///
    /// # Errors
    /// The [`Outcome`] of a test that cannot be tried here: ignored, or failed where everything must be there.
    pub fn find() -> Result<Kcat, Outcome> {
        let answer = Command::new("kcat").arg("-V").stdin(Stdio::null()).output();
        if answer.is_ok_and(|o| o.status.success()) {
            return Ok(Kcat(()));
        }
        Err(Outcome::lacks("kcat is not installed (Debian: apt-get install kcat)"))
    }

    /// `kcat ARGS` with `input`; its standard output.
    ///
    /// # Errors
    /// Its words, when it ends with an error.
    pub fn run(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut command = Command::new("kcat");
        command.args(args);
        run_program(command, input)
    }

    /// Sends each line of `input` as a message; `args` are more options, e.g. `-K`, `\t`, `-z`, `zstd`.
    ///
    /// # Errors
    /// kcat's words.
    pub fn produce(&self, bootstrap: &str, topic: &str, args: &[&str], input: &[u8]) -> Result<(), Error> {
        let fixed = ["-q", "-P", "-b", bootstrap, "-t", topic];
        self.run(&[&fixed[..], args].concat(), input).map(drop)
    }

    /// Everything that stands in the topic now, by partition and offset; CRCs are checked.
    ///
    /// # Errors
    /// kcat's words, or an output that is not understood.
    pub fn consume(&self, bootstrap: &str, topic: &str) -> Result<Vec<KcatMessage>, Error> {
        let args = ["-q", "-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e"];
        let more = ["-X", "check.crcs=true", "-f", FORMAT];
        let mut messages = parse(&self.run(&[&args[..], &more].concat(), &[])?)?;
        messages.sort_by_key(|m| (m.partition, m.offset));
        Ok(messages)
    }
}

fn parse(mut output: &[u8]) -> Result<Vec<KcatMessage>, Error> {
    let mut messages = Vec::new();
    while !output.is_empty() {
        let (message, rest) = message(output).ok_or_else(|| Error::NotUnderstood {
            what: "kcat's output",
            text: String::from_utf8_lossy(output.get(..200).unwrap_or(output)).into_owned(),
        })?;
        messages.push(message);
        output = rest;
    }
    Ok(messages)
}

fn message(text: &[u8]) -> Option<(KcatMessage, &[u8])> {
    let (partition, text) = number(text)?;
    let (offset, text) = number(text)?;
    let (timestamp, text) = number(text)?;
    let (key_len, text) = number(text)?;
    let (value_len, text) = number(text)?;
    let (key, text) = bytes(text, key_len)?;
    let (value, text) = bytes(text, value_len)?;
    let rest = text.strip_prefix(b"\n")?;
    Some((KcatMessage { partition: i32::try_from(partition).ok()?, offset, timestamp, key, value }, rest))
}

/// A decimal number and the space behind it.
fn number(text: &[u8]) -> Option<(i64, &[u8])> {
    let space = text.iter().position(|b| *b == b' ')?;
    let (digits, rest) = text.split_at_checked(space)?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest.get(1..)?))
}

/// `len` bytes; -1: null, which takes no room.
fn bytes(text: &[u8], len: i64) -> Option<(Option<Vec<u8>>, &[u8])> {
    if len == -1 {
        return Some((None, text));
    }
    let (bytes, rest) = text.split_at_checked(usize::try_from(len).ok()?)?;
    Some((Some(bytes.to_vec()), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_hold_any_byte_and_null_differs_from_empty() {
        let messages = parse(b"1 7 99 3 4 a\n ba\nb\n0 0 5 -1 0 \n0 1 5 0 -1 \n").expect("parses");
        let message = |partition, offset, timestamp, key: Option<&[u8]>, value: Option<&[u8]>| KcatMessage {
            partition,
            offset,
            timestamp,
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
        };
        assert_eq!(
            messages,
            vec![
                message(1, 7, 99, Some(b"a\n "), Some(b"ba\nb")),
                message(0, 0, 5, None, Some(b"")),
                message(0, 1, 5, Some(b""), None),
            ]
        );
    }

    #[test]
    fn an_output_cut_in_the_middle_is_an_error_and_no_shorter_list() {
        for cut in ["1 7 99 3", "1 7 99 3 2 abc", "1 7 99 3 2 abcde", "x 7 99 3 2 abcde\n"] {
            assert!(parse(cut.as_bytes()).is_err(), "{cut:?}");
        }
    }
}
