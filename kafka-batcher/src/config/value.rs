//! A value as a file, the environment or a program gives it, and how each type of setting reads it and is written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kafka_batcher_core::partitioner::Strategy;
use kafka_batcher_core::{Codec, OnExpiredTimestamp, OnFull, SpoolMode};

use crate::client::SaslMechanism;
use crate::secret::Secret;

use super::units::{duration, duration_text, size, size_text};

/// A value, not yet of a setting's type. The environment gives [`Value::Text`] for everything.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `true`, `false`.
    Bool(bool),
    /// A whole number: a count, milliseconds or bytes.
    Integer(i64),
    /// A text, also a number with its unit: `"20s"`, `"10MiB"`.
    Text(String),
    /// Several, as for `endpoints`.
    List(Vec<Value>),
    /// Names and their values, as for `kafka_topic_aliases`.
    Table(Vec<(String, Value)>),
    /// What no setting takes; named by its type.
    Other(&'static str),
}

impl Value {
    /// What it is, for who gave something else than was wanted. Never the value itself: it may be a secret.
    fn kind(&self) -> &'static str {
        match self {
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }

    fn no(&self, wanted: &str) -> String {
        format!("expected {wanted}, found {}", self.kind())
    }

    /// The text, or the digits of a number.
    fn text(&self, wanted: &str) -> Result<String, String> {
        match self {
            Value::Text(text) => Ok(text.trim().to_owned()),
            Value::Integer(n) => Ok(n.to_string()),
            _ => Err(self.no(wanted)),
        }
    }

    /// One of a few words.
    fn word<T: Copy + std::fmt::Display>(&self, known: &[T]) -> Result<T, String> {
        let list = || known.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
        let text = self.text(&format!("one of {}", list()))?;
        let found = known.iter().find(|word| word.to_string().eq_ignore_ascii_case(&text));
        found.copied().ok_or_else(|| format!("{text:?} is none of {}", list()))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Integer(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(values: Vec<V>) -> Self {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

/// A type that a setting may have.
pub(super) trait Setting: Sized {
    /// What is wrong with the value, and what would be right.
    fn read(value: &Value) -> Result<Self, String>;

    /// As it is written in a file; what stands for "unset" otherwise.
    fn written(&self) -> Written;
}

/// How a value is written down.
pub(super) enum Written {
    /// As TOML.
    Toml(String),
    /// There is none.
    Unset,
    /// There is one, and it is not shown.
    Hidden,
}

impl Written {
    pub(super) fn quoted(text: &str) -> Written {
        Written::Toml(quoted(text))
    }
}

/// A basic string of TOML.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            '\t' => out += "\\t",
            c if c.is_control() => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(value) => Ok(*value),
            // `KAFKA_BATCHER__SASL=login:password` lands here: what is neither is not repeated.
            Value::Text(text) => text.trim().parse().map_err(|_| "this is neither true nor false".to_owned()),
            other => Err(other.no("true or false")),
        }
    }

    fn written(&self) -> Written {
        Written::Toml(self.to_string())
    }
}

impl Setting for u32 {
    fn read(value: &Value) -> Result<Self, String> {
        let text = value.text("a whole number")?;
        text.parse().map_err(|_| format!("{text:?} is no whole number from 0 to {}", u32::MAX))
    }

    fn written(&self) -> Written {
        Written::Toml(self.to_string())
    }
}

impl Setting for i16 {
    fn read(value: &Value) -> Result<Self, String> {
        let text = value.text("-1, 0 or 1")?;
        match text.as_str() {
            "all" => Ok(-1),
            _ => text.parse().map_err(|_| format!("{text:?} is none of -1 (or \"all\"), 0 and 1")),
        }
    }

    fn written(&self) -> Written {
        Written::Toml(self.to_string())
    }
}

impl Setting for i32 {
    fn read(value: &Value) -> Result<Self, String> {
        let text = value.text("a whole number")?;
        text.parse().map_err(|_| format!("{text:?} is no whole number"))
    }

    fn written(&self) -> Written {
        Written::Toml(self.to_string())
    }
}

impl Setting for usize {
    fn read(value: &Value) -> Result<Self, String> {
        size(&value.text("a size: bytes, or a text such as \"10MiB\"")?)
    }

    fn written(&self) -> Written {
        (*self as u64).written()
    }
}

impl Setting for u64 {
    fn read(value: &Value) -> Result<Self, String> {
        usize::read(value).map(|bytes| bytes as u64)
    }

    fn written(&self) -> Written {
        let text = size_text(*self);
        if text.ends_with(|c: char| c.is_ascii_digit()) {
            Written::Toml(text)
        } else {
            Written::quoted(&text)
        }
    }
}

impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        duration(&value.text("a time: milliseconds, or a text such as \"20s\"")?)
    }

    fn written(&self) -> Written {
        match duration_text(*self) {
            zero if zero == "0" => Written::Toml(zero),
            text => Written::quoted(&text),
        }
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(other.no("a text")),
        }
    }

    fn written(&self) -> Written {
        Written::quoted(self)
    }
}

impl Setting for Vec<String> {
    fn read(value: &Value) -> Result<Self, String> {
        let split = |text: &str| text.split(',').map(|part| part.trim().to_owned()).collect();
        match value {
            Value::Text(text) => Ok(split(text)),
            Value::List(values) => values.iter().map(String::read).collect(),
            other => Err(other.no("a list of texts")),
        }
    }

    fn written(&self) -> Written {
        match self.is_empty() {
            true => Written::Unset,
            false => {
                Written::Toml(format!("[{}]", self.iter().map(|s| quoted(s)).collect::<Vec<_>>().join(", ")))
            }
        }
    }
}

impl Setting for Secret {
    fn read(value: &Value) -> Result<Self, String> {
        match String::read(value)? {
            empty if empty.is_empty() => Err("it is empty".to_owned()),
            text => Ok(text.into()),
        }
    }

    fn written(&self) -> Written {
        Written::Hidden
    }
}

impl Setting for SaslMechanism {
    fn read(value: &Value) -> Result<Self, String> {
        // What is no mechanism may be a secret in the wrong place, and is not repeated.
        let text = value.text("the name of a mechanism")?;
        text.parse().map_err(|()| format!("this is none of {}", SaslMechanism::names()))
    }

    fn written(&self) -> Written {
        Written::quoted(&self.to_string())
    }
}

impl Setting for BTreeMap<String, String> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Table(pairs) => {
                pairs.iter().map(|(name, value)| Ok((name.clone(), String::read(value)?))).collect()
            }
            Value::Text(text) => {
                let pair = |part: &str| match part.split_once('=') {
                    Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                    None => Err(format!("{part:?} has no '='; write name=value,name=value")),
                };
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(pair).collect()
            }
            other => Err(other.no("a table of texts")),
        }
    }

    fn written(&self) -> Written {
        match self.is_empty() {
            true => Written::Unset,
            false => {
                let pairs = self.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)));
                Written::Toml(format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", ")))
            }
        }
    }
}

/// A setting that may be off; the word for that, wherever a value is wanted.
const OFF: &str = "off";

macro_rules! or_off {
    ($($type:ty)*) => { $(
        impl Setting for Option<$type> {
            fn read(value: &Value) -> Result<Self, String> {
                match value {
                    Value::Text(text) if text.trim() == OFF => Ok(None),
                    value => <$type>::read(value).map(Some),
                }
            }

            fn written(&self) -> Written {
                self.as_ref().map_or(Written::Unset, Setting::written)
            }
        }
    )* };
}
or_off! { Duration u64 i32 bool String Secret SaslMechanism }

impl Setting for Option<PathBuf> {
    fn read(value: &Value) -> Result<Self, String> {
        match String::read(value)? {
            empty if empty.is_empty() => Err("the path is empty".to_owned()),
            path => Ok(Some(path.into())),
        }
    }

    fn written(&self) -> Written {
        self.as_ref().map_or(Written::Unset, |path| Written::quoted(&path.to_string_lossy()))
    }
}

impl Setting for Codec {
    fn read(value: &Value) -> Result<Self, String> {
        value.word(&Codec::ALL)
    }

    fn written(&self) -> Written {
        Written::quoted(self.name())
    }
}

impl Setting for Strategy {
    fn read(value: &Value) -> Result<Self, String> {
        value.text("the name of a strategy")?.parse().map_err(|error| format!("{error}"))
    }

    fn written(&self) -> Written {
        Written::quoted(self.name())
    }
}

macro_rules! words {
    ($($type:ident: $($word:ident)*;)*) => { $(
        impl Setting for $type {
            fn read(value: &Value) -> Result<Self, String> {
                value.word(&[$($type::$word),*])
            }

            fn written(&self) -> Written {
                Written::quoted(&self.to_string())
            }
        }
    )* };
}
words! {
    OnExpiredTimestamp: Hold RestampTime DeadLetter;
    OnFull: Backpressure Reject DropOldest;
    SpoolMode: OnFailure Always;
}

/// `off` is a mode to whoever chooses one.
impl Setting for Option<SpoolMode> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.trim() == OFF => Ok(None),
            value => SpoolMode::read(value).map(Some).map_err(|message| format!("{message}, {OFF}")),
        }
    }

    fn written(&self) -> Written {
        self.as_ref().map_or_else(|| Written::quoted(OFF), Setting::written)
    }
}
