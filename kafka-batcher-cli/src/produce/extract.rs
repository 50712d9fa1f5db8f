//! What of a line is the key and what the value. Nothing is allocated for a line, and nothing copied unless a JSON
//! string has escapes.

use std::fmt;

use memchr::memmem;

use crate::json::{Found, NotJson, Path, find};

/// Where keys come from.
#[derive(Debug)]
pub(super) enum KeySource {
    None,
    Field(Path),
    Separator(Box<memmem::Finder<'static>>),
}

impl KeySource {
    /// What stands before the first of these bytes, which are not empty.
    pub(super) fn separated_by(bytes: &[u8]) -> KeySource {
        KeySource::Separator(Box::new(memmem::Finder::new(bytes).into_owned()))
    }
}

/// Makes events of lines.
#[derive(Debug)]
pub(super) struct Extractor {
    key: KeySource,
    value: Option<Path>,
    null_value: Option<Vec<u8>>,
    key_scratch: Vec<u8>,
    value_scratch: Vec<u8>,
}

/// Key and value, either of which may be null.
pub(super) type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Why a line cannot be an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadLine {
    NotJson { error: NotJson, option: &'static str, path: String },
    NoValue { path: String },
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadLine::NotJson { error, option, path } => {
                write!(f, "the line is not JSON, so it has no {path:?} ({option}): {error}")
            }
            BadLine::NoValue { path } => write!(f, "the line has no {path:?} (--value-field)"),
        }
    }
}

fn located<'a>(line: &'a [u8], path: &Path, option: &'static str) -> Result<Found<'a>, BadLine> {
    find(line, path).map_err(|error| BadLine::NotJson { error, option, path: path.to_string() })
}

fn decoded<'b>(
    found: Found<'b>,
    scratch: &'b mut Vec<u8>,
    path: &Path,
    option: &'static str,
) -> Result<Option<&'b [u8]>, BadLine> {
    found.bytes(scratch).map_err(|error| BadLine::NotJson { error, option, path: path.to_string() })
}

impl Extractor {
    pub(super) fn new(key: KeySource, value: Option<Path>, null_value: Option<Vec<u8>>) -> Extractor {
        Extractor { key, value, null_value, key_scratch: Vec::new(), value_scratch: Vec::new() }
    }

    /// Key and value of a line.
    #[inline]
    pub(super) fn split<'a>(&'a mut self, line: &'a [u8]) -> Result<KeyValue<'a>, BadLine> {
        let (key, rest) = match &self.key {
            KeySource::None => (None, line),
            KeySource::Field(path) => {
                let found = located(line, path, "--key-field")?;
                (decoded(found, &mut self.key_scratch, path, "--key-field")?, line)
            }
            KeySource::Separator(finder) => match finder.find(line) {
                None => (None, line),
                Some(at) => {
                    let behind = at + finder.needle().len();
                    (line.get(..at), line.get(behind..).unwrap_or_default())
                }
            },
        };
        let value = match &self.value {
            None => rest,
            Some(path) => {
                let found = located(line, path, "--value-field")?;
                decoded(found, &mut self.value_scratch, path, "--value-field")?
                    .ok_or_else(|| BadLine::NoValue { path: path.to_string() })?
            }
        };
        let null = self.null_value.as_deref() == Some(value);
        Ok((key, if null { None } else { Some(value) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &str) -> Path {
        Path::parse(text).expect("a path")
    }

    fn split(extractor: &mut Extractor, line: &str) -> Result<(Option<String>, Option<String>), String> {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        match extractor.split(line.as_bytes()) {
            Ok((key, value)) => Ok((text(key), text(value))),
            Err(bad) => Err(bad.to_string()),
        }
    }

    fn some(key: Option<&str>, value: Option<&str>) -> Result<(Option<String>, Option<String>), String> {
        Ok((key.map(str::to_owned), value.map(str::to_owned)))
    }

    #[test]
    fn without_options_the_line_is_the_value() {
        let mut plain = Extractor::new(KeySource::None, None, None);
        assert_eq!(split(&mut plain, "not json"), some(None, Some("not json")));
        assert_eq!(split(&mut plain, ""), some(None, Some("")));
    }

    #[test]
    fn a_field_is_the_key_and_the_whole_line_stays_the_value() {
        let mut keyed = Extractor::new(KeySource::Field(field("origin")), None, None);
        let line = r#"{"origin":"D\u0054W"}"#;
        assert_eq!(split(&mut keyed, line), some(Some("DTW"), Some(line)));
        assert_eq!(split(&mut keyed, r#"{"origin":7}"#), some(Some("7"), Some(r#"{"origin":7}"#)));
        assert_eq!(split(&mut keyed, r#"{"origin":""}"#), some(Some(""), Some(r#"{"origin":""}"#)));
        assert_eq!(split(&mut keyed, "{}"), some(None, Some("{}")));
        let error = split(&mut keyed, "DTW").expect_err("not JSON");
        assert!(error.contains("origin") && error.contains("--key-field"), "{error}");
    }

    #[test]
    fn the_value_may_be_a_field_too_and_must_be_there() {
        let mut both = Extractor::new(KeySource::Field(field("k")), Some(field("/v/0")), None);
        assert_eq!(split(&mut both, r#"{"k":"a","v":["x\ny"]}"#), some(Some("a"), Some("x\ny")));
        assert_eq!(split(&mut both, r#"{"k":"a","v":[{"b":1}]}"#), some(Some("a"), Some(r#"{"b":1}"#)));
        assert!(split(&mut both, r#"{"k":"a"}"#).is_err_and(|error| error.contains("/v/0")));
    }

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        let mut pairs = Extractor::new(KeySource::separated_by(b"::"), None, None);
        assert_eq!(split(&mut pairs, "k::v::w"), some(Some("k"), Some("v::w")));
        assert_eq!(split(&mut pairs, "::v"), some(Some(""), Some("v")));
        assert_eq!(split(&mut pairs, "k::"), some(Some("k"), Some("")));
        assert_eq!(split(&mut pairs, "k:v"), some(None, Some("k:v")));
    }

    #[test]
    fn the_null_value_is_null_and_differs_from_empty() {
        let mut nulls = Extractor::new(KeySource::separated_by(b"="), None, Some(b"NULL".to_vec()));
        assert_eq!(split(&mut nulls, "k=NULL"), some(Some("k"), None));
        assert_eq!(split(&mut nulls, "k="), some(Some("k"), Some("")));
        let mut json = Extractor::new(KeySource::None, Some(field("v")), Some(b"null".to_vec()));
        assert_eq!(split(&mut json, r#"{"v":null}"#), some(None, None));
    }
}
