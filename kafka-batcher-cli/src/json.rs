//! Finds one value in a JSON text without building a tree: the whole text is validated (RFC 8259), the value is
//! borrowed from it, nothing is allocated.
//!
//! Where a name is repeated in an object the last one counts, as in JavaScript and `serde_json`. Refuses nesting deeper
//! than [`MAX_DEPTH`].

use std::fmt;

/// As deep as `serde_json` goes.
const MAX_DEPTH: u32 = 127;

/// Which value of a text: a name at the top level, or a JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    spelled: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    name: String,
    /// What it means in an array.
    index: Option<usize>,
}

impl Path {
    /// `origin`, or `/properties/net`.
    ///
    /// An escape in a pointer that is none, or an empty name, is an error.
    pub(crate) fn parse(text: &str) -> Result<Path, String> {
        let steps = match text.strip_prefix('/') {
            None if text.is_empty() => return Err("the name of a field cannot be empty".to_owned()),
            None => vec![Step { name: text.to_owned(), index: None }],
            Some(pointer) => pointer.split('/').map(step).collect::<Result<_, _>>()?,
        };
        Ok(Path { spelled: text.to_owned(), steps })
    }
}

fn step(escaped: &str) -> Result<Step, String> {
    let mut name = String::new();
    let mut rest = escaped.chars();
    while let Some(c) = rest.next() {
        name.push(match (c, c == '~') {
            (_, false) => c,
            _ => match rest.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(format!("in {escaped:?}, '~' must be written ~0 (RFC 6901; '/' is ~1)")),
            },
        });
    }
    let decimal = name == "0" || (!name.starts_with('0') && name.bytes().all(|b| b.is_ascii_digit()));
    let index = if decimal { name.parse().ok() } else { None };
    Ok(Step { name, index })
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled)
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Absent,
    /// A string, as it is written between its quotes.
    Str {
        written: &'a str,
        has_escapes: bool,
    },
    /// The text of anything else.
    Other(&'a str),
}

impl<'a> Found<'a> {
    /// The bytes: a string's own, the text of anything else; `None` if it was absent. `scratch` takes what must be
    /// decoded.
    pub(crate) fn bytes<'b>(self, scratch: &'b mut Vec<u8>) -> Result<Option<&'b [u8]>, NotJson>
    where
        'a: 'b,
    {
        match self {
            Found::Absent => Ok(None),
            Found::Other(text) => Ok(Some(text.as_bytes())),
            Found::Str { written, has_escapes: false } => Ok(Some(written.as_bytes())),
            Found::Str { written, has_escapes: true } => {
                scratch.clear();
                unescape(written, scratch)?;
                Ok(Some(scratch))
            }
        }
    }
}

/// Why a text is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotJson {
    /// Byte of the text, from 0; `None`: within the value that was looked for.
    at: Option<usize>,
    what: &'static str,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{} at byte {}", self.what, at + 1),
            None => f.write_str(self.what),
        }
    }
}

/// Finds the value at `path`.
pub(crate) fn find<'a>(text: &'a [u8], path: &Path) -> Result<Found<'a>, NotJson> {
    let text = std::str::from_utf8(text)
        .map_err(|error| NotJson { at: Some(error.valid_up_to()), what: "invalid UTF-8" })?;
    let mut scanner = Scanner { text, bytes: text.as_bytes(), at: 0 };
    scanner.space();
    let found = scanner.descend(&path.steps, 0)?;
    scanner.space();
    if scanner.at < scanner.bytes.len() {
        return Err(scanner.error("something follows the JSON value"));
    }
    Ok(found)
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn error(&self, what: &'static str) -> NotJson {
        let what = if self.at >= self.bytes.len() { "the text ends too early" } else { what };
        NotJson { at: Some(self.at.min(self.bytes.len())), what }
    }

    #[inline]
    fn peek(&self) -> u8 {
        // 0 is nowhere allowed, so it can stand for the end.
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), NotJson> {
        if self.peek() != byte {
            return Err(self.error(what));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads one value, and finds what lies at `steps` in it.
    fn descend(&mut self, steps: &[Step], depth: u32) -> Result<Found<'a>, NotJson> {
        let start = self.at;
        let Some((step, rest)) = steps.split_first() else {
            if self.peek() == b'"' {
                let has_escapes = self.string()?;
                let written = self.text.get(start + 1..self.at - 1).unwrap_or_default();
                return Ok(Found::Str { written, has_escapes });
            }
            self.skip(depth)?;
            return Ok(Found::Other(self.text.get(start..self.at).unwrap_or_default()));
        };
        match (self.peek(), step.index) {
            (b'{', _) => self.in_object(step, rest, depth),
            (b'[', Some(index)) => self.in_array(index, rest, depth),
            _ => self.skip(depth).map(|()| Found::Absent),
        }
    }

    fn in_object(&mut self, step: &Step, rest: &[Step], depth: u32) -> Result<Found<'a>, NotJson> {
        let mut found = Found::Absent;
        self.at += 1;
        self.space();
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(found);
        }
        loop {
            let start = self.at;
            let has_escapes = self.name()?;
            let written = self.text.get(start + 1..self.at - 1).unwrap_or_default();
            self.colon()?;
            let matches = match has_escapes {
                false => written == step.name,
                true => {
                    let mut name = Vec::new();
                    unescape(written, &mut name)?;
                    name == step.name.as_bytes()
                }
            };
            if matches {
                found = self.descend(rest, deeper(depth).ok_or_else(|| self.too_deep())?)?;
            } else {
                self.skip(depth + 1)?;
            }
            self.space();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(found);
                }
                _ => return Err(self.error("expected ',' or '}'")),
            }
            self.space();
        }
    }

    fn in_array(&mut self, index: usize, rest: &[Step], depth: u32) -> Result<Found<'a>, NotJson> {
        let mut found = Found::Absent;
        self.at += 1;
        self.space();
        if self.peek() == b']' {
            self.at += 1;
            return Ok(found);
        }
        for element in 0.. {
            if element == index {
                found = self.descend(rest, deeper(depth).ok_or_else(|| self.too_deep())?)?;
            } else {
                self.skip(depth + 1)?;
            }
            self.space();
            match self.peek() {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    break;
                }
                _ => return Err(self.error("expected ',' or ']'")),
            }
            self.space();
        }
        Ok(found)
    }

    fn too_deep(&self) -> NotJson {
        NotJson { at: Some(self.at), what: "nested deeper than 127 levels" }
    }

    /// Reads one value that lies `outer` levels deep. Not recursive: the input decides how deep it is.
    fn skip(&mut self, outer: u32) -> Result<(), NotJson> {
        // One bit a level, the lowest is the innermost: 1 is an object, 0 an array.
        let mut objects: u128 = 0;
        let mut depth = 0;
        loop {
            match self.peek() {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    let object = self.peek() == b'{';
                    if outer + depth >= MAX_DEPTH {
                        return Err(self.too_deep());
                    }
                    self.at += 1;
                    self.space();
                    let empty = self.peek() == if object { b'}' } else { b']' };
                    if !empty {
                        depth += 1;
                        objects = objects << 1 | u128::from(object);
                        if object {
                            self.name()?;
                            self.colon()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => return Err(self.error("expected a JSON value")),
            }
            // A value is complete; so may be what it lies in.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                self.space();
                let object = objects & 1 == 1;
                match (self.peek(), object) {
                    (b',', _) => {
                        self.at += 1;
                        self.space();
                        if object {
                            self.name()?;
                            self.colon()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        depth -= 1;
                        objects >>= 1;
                    }
                    (_, true) => return Err(self.error("expected ',' or '}'")),
                    (_, false) => return Err(self.error("expected ',' or ']'")),
                }
            }
        }
    }

    fn name(&mut self) -> Result<bool, NotJson> {
        if self.peek() != b'"' {
            return Err(self.error("expected a name in quotes"));
        }
        self.string()
    }

    fn colon(&mut self) -> Result<(), NotJson> {
        self.space();
        self.expect(b':', "expected ':'")?;
        self.space();
        Ok(())
    }

    /// Reads a string, quotes included; says whether it has escapes.
    fn string(&mut self) -> Result<bool, NotJson> {
        self.at += 1;
        let mut has_escapes = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            self.at += rest.iter().take_while(|byte| PLAIN[usize::from(**byte)]).count();
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(has_escapes);
                }
                b'\\' => {
                    has_escapes = true;
                    self.at += 1;
                    match self.peek() {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
                        b'u' => {
                            let digits = self.bytes.get(self.at + 1..self.at + 5).unwrap_or_default();
                            if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err(self.error("expected four hexadecimal digits"));
                            }
                            self.at += 5;
                        }
                        _ => return Err(self.error("unknown escape")),
                    }
                }
                _ => return Err(self.error("control character in a string")),
            }
        }
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        if !self.peek().is_ascii_digit() {
            return Err(self.error("expected a digit"));
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotJson> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            // Digits behind a leading zero are found by whoever reads on.
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return Err(self.error("expected a JSON value"));
        }
        self.at += word.len();
        Ok(())
    }
}

fn deeper(depth: u32) -> Option<u32> {
    (depth < MAX_DEPTH).then_some(depth + 1)
}

/// Bytes of a string that stand for themselves.
static PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

/// Decodes what stands between the quotes of a valid string.
fn unescape(written: &str, into: &mut Vec<u8>) -> Result<(), NotJson> {
    let lone = NotJson { at: None, what: "half of a surrogate pair in a string" };
    let mut rest = written;
    while let Some(backslash) = rest.find('\\') {
        let (plain, escape) = rest.split_at(backslash);
        into.extend_from_slice(plain.as_bytes());
        let kind = escape.as_bytes().get(1).copied().unwrap_or(b'\\');
        let mut length = 2;
        let decoded = match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = unit(escape).ok_or(lone)?;
                length = 6;
                if (0xd800..0xdc00).contains(&first) {
                    let second = escape.get(6..).and_then(unit).ok_or(lone)?;
                    length = 12;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(lone);
                    }
                    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(lone)?
                } else {
                    char::from_u32(first).ok_or(lone)?
                }
            }
            other => char::from(other),
        };
        into.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
        rest = escape.get(length..).unwrap_or_default();
    }
    into.extend_from_slice(rest.as_bytes());
    Ok(())
}

/// The number of `\uXXXX`.
fn unit(escape: &str) -> Option<u32> {
    u32::from_str_radix(escape.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn at(text: &str, path: &str) -> Result<Option<Vec<u8>>, NotJson> {
        let path = Path::parse(path).expect("a path");
        let mut scratch = Vec::new();
        Ok(find(text.as_bytes(), &path)?.bytes(&mut scratch)?.map(<[u8]>::to_vec))
    }

    fn text_at(text: &str, path: &str) -> Option<String> {
        at(text, path).expect("JSON").map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }

    #[test]
    fn a_string_gives_its_bytes_and_anything_else_its_text() {
        let flight = r#"{"date":"2001/01/01 00:47","delay":66, "x" : [1, {"a":null}] ,"t":true,"n":null}"#;
        assert_eq!(text_at(flight, "date").as_deref(), Some("2001/01/01 00:47"));
        assert_eq!(text_at(flight, "delay").as_deref(), Some("66"));
        assert_eq!(text_at(flight, "x").as_deref(), Some(r#"[1, {"a":null}]"#));
        assert_eq!(text_at(flight, "t").as_deref(), Some("true"));
        assert_eq!(text_at(flight, "n").as_deref(), Some("null"));
        assert_eq!(text_at(flight, "origin"), None);
        assert_eq!(text_at("[1,2]", "origin"), None);
        assert_eq!(text_at(" 7 ", "origin"), None);
    }

    #[test]
    fn a_pointer_goes_into_objects_and_arrays() {
        let text = r#"{"a":{"b":[10,{"c/d":"x","e~f":"y"}],"":1}, "a/b":2}"#;
        assert_eq!(text_at(text, "/a/b/0").as_deref(), Some("10"));
        assert_eq!(text_at(text, "/a/b/1/c~1d").as_deref(), Some("x"));
        assert_eq!(text_at(text, "/a/b/1/e~0f").as_deref(), Some("y"));
        assert_eq!(text_at(text, "/a/").as_deref(), Some("1"));
        assert_eq!(text_at(text, "a/b").as_deref(), Some("2"));
        for absent in ["/a/b/2", "/a/b/00", "/a/b/-", "/a/b/x", "/a/b/0/c", "/x/y"] {
            assert_eq!(text_at(text, absent), None, "{absent}");
        }
        assert!(Path::parse("/a~2").is_err() && Path::parse("").is_err());
    }

    #[test]
    fn the_last_of_a_repeated_name_counts_and_names_may_be_escaped() {
        assert_eq!(text_at(r#"{"k":1,"k":"two"}"#, "k").as_deref(), Some("two"));
        assert_eq!(text_at(r#"{"\u006b":"x"}"#, "k").as_deref(), Some("x"));
    }

    #[test]
    fn escapes_are_decoded_as_serde_json_does() {
        let written = r#"{"k":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z ä"}"#;
        let value: Value = serde_json::from_str(written).expect("JSON");
        assert_eq!(text_at(written, "k").as_deref(), value["k"].as_str());
        assert!(at(r#"{"k":"\ud83d"}"#, "k").is_err());
        assert!(at(r#"{"k":"\ud83dx\ude00"}"#, "k").is_err());
        assert!(at(r#"{"k":"\ude00"}"#, "k").is_err());
    }

    #[test]
    fn what_serde_json_accepts_and_refuses_so_do_we() {
        let good = [
            "{}",
            "[]",
            "0",
            "-0.5e+10",
            "1E5",
            "\"\"",
            "true",
            "[[],{}, [{}]]",
            " {\"a\" : [ 1 , 2 ] } ",
            "null",
        ];
        let bad = [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "{\"a\":}",
            "{\"a\"}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "tru",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\n\"",
            "[1 2]",
            "{\"a\":1,}",
            "{,}",
            "[}",
            "{]",
            "1 2",
            "[1]]",
            "NaN",
            "'a'",
            "{\"a\":1 \"b\":2}",
            "\u{0}",
            "\"\u{1}\"",
            "{\"k\":1}x",
            "[\"a\\",
            "{\"a\":\"\\u00",
        ];
        for (list, is_json) in [(&good[..], true), (&bad[..], false)] {
            for text in list {
                assert_eq!(serde_json::from_str::<Value>(text).is_ok(), is_json, "{text:?}");
                assert_eq!(at(text, "k").is_ok(), is_json, "{text:?}");
                assert_eq!(at(text, "/0/k").is_ok(), is_json, "{text:?}");
            }
        }
    }

    #[test]
    fn every_prefix_of_a_real_line_is_refused_and_every_line_agrees_with_serde_json() {
        let data = include_str!("../../data/earthquakes.ndjson");
        let first = data.lines().next().expect("a line");
        for end in 0..first.len() {
            if first.is_char_boundary(end) {
                assert!(at(&first[..end], "id").is_err(), "{end}");
            }
        }
        for line in data.lines() {
            let value: Value = serde_json::from_str(line).expect("JSON");
            let expected = value.pointer("/properties/net").and_then(Value::as_str);
            assert_eq!(text_at(line, "/properties/net").as_deref(), expected);
        }
    }

    #[test]
    fn a_deep_text_is_refused_where_serde_json_refuses_it_and_costs_no_stack() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        // The fuzzer's story: it was one level more than serde_json takes.
        for levels in 126..130 {
            let theirs = serde_json::from_str::<Value>(&deep(levels)).is_ok();
            assert_eq!(at(&deep(levels), "k").is_ok(), theirs, "{levels}");
            assert_eq!(at(&deep(levels), "/0/0").is_ok(), theirs, "{levels}");
        }
        assert!(at(&deep(1_000_000), "k").is_err());
        let path = "/0".repeat(200);
        assert!(at(&deep(200), &path).is_err());
        let under = format!("{{\"k\":{}}}", deep(127));
        assert!(at(&under, "k").is_err());
    }

    #[test]
    fn the_message_says_where() {
        let path = Path::parse("k").expect("a path");
        assert_eq!(at(r#"{"k":1 x"#, "k").unwrap_err().to_string(), "expected ',' or '}' at byte 8");
        assert_eq!(at(r#"{"k":"#, "k").unwrap_err().to_string(), "the text ends too early at byte 6");
        assert_eq!(find(b"\"\xff\"", &path).unwrap_err().to_string(), "invalid UTF-8 at byte 2");
    }
}
