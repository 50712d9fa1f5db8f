//! A mistake in the configuration: where it stands, what is wrong, what would be right.

use std::fmt;
use std::sync::Arc;

use kafka_batcher_core::nearest::nearest;

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody said anything: the built-in value.
    #[default]
    BuiltIn,
    /// The program.
    Code,
    /// A file.
    File {
        /// As it was given.
        name: Arc<str>,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// A variable of the environment.
    Environment(Arc<str>),
    /// An option of the command line.
    Option(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built-in"),
            Origin::Code => f.write_str("the program"),
            Origin::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Origin::Environment(name) | Origin::Option(name) => f.write_str(name),
        }
    }
}

/// A setting that cannot be, with what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mistake {
    /// The setting, as it was written; empty where the file itself cannot be read.
    pub key: String,
    /// The table it belongs to, e.g. `spool`; empty: the top level, or a collector.
    pub table: &'static str,
    /// The topic whose collector it belongs to; `None`: application-wide.
    pub topic: Option<String>,
    /// Where it was said; of a limit that another value breaks: where that was said, too, in the message.
    pub origin: Origin,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The setting that it contradicts; where only that one was said, the mistake is there.
    pub(super) against: Option<&'static str>,
}

impl Mistake {
    pub(crate) fn of(key: impl Into<String>, message: String) -> Self {
        let key = key.into();
        Mistake { key, table: "", topic: None, origin: Origin::Code, message, against: None }
    }

    pub(super) fn against(self, other: &'static str) -> Self {
        Mistake { against: Some(other), ..self }
    }

    pub(crate) fn in_collector(self, topic: impl Into<String>) -> Self {
        Mistake { topic: Some(topic.into()), ..self }
    }

    pub(crate) fn in_spool(self) -> Self {
        self.in_table("spool")
    }

    pub(crate) fn in_table(self, table: &'static str) -> Self {
        Mistake { table, ..self }
    }

    pub(super) fn at(self, origin: Origin) -> Self {
        Mistake { origin, ..self }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !matches!(self.origin, Origin::BuiltIn | Origin::Code) {
            write!(f, "{}: ", self.origin)?;
        }
        match (self.table, self.key.as_str()) {
            // The option is its name.
            _ if matches!(self.origin, Origin::Option(_)) => return f.write_str(&self.message),
            ("", "") => {}
            ("", key) => write!(f, "{key}")?,
            (table, key) => write!(f, "{table}.{key}")?,
        }
        if let Some(topic) = &self.topic {
            write!(f, " of topic {topic:?}")?;
        }
        if !self.key.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadConfigError(pub Vec<Mistake>);

impl std::error::Error for BadConfigError {}

impl fmt::Display for BadConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "a mistake in the settings: {one}"),
            all => {
                write!(f, "{} mistakes in the settings:", all.len())?;
                all.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

/// What is wrong with the table `[sasl]`, alone: the Elixir library's SASLConfigError.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslConfigError(pub Vec<Mistake>);

impl std::error::Error for SaslConfigError {}

impl fmt::Display for SaslConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(Mistake::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

/// No collector of that topic is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no collector of topic {topic:?}{}", Known(.known))]
pub struct CollectorMissingError {
    /// What was asked for.
    pub topic: String,
    /// The topics that have one.
    pub known: Vec<String>,
}

struct Known<'a>(&'a [String]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("; there is none at all"),
            known => write!(f, "; there are those of {}", known.join(", ")),
        }
    }
}

/// `did you mean ...?`, where a name looks like one of these.
pub(super) fn suggestion<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wanted, known).map_or(String::new(), |name| format!("; did you mean {name}?"))
}
