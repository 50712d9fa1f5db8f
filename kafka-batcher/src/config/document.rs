//! A file's text as entries: what stands where, not yet what it means. Syntax errors do not end the reading: whoever has
//! three mistakes in a file is told of three.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Origin};
use super::value::Value;
use super::{ENABLED, Entry, Layer, Place};

/// The table that each collector has one of.
pub(super) const COLLECTORS: &str = "collectors";
/// The table of the spool.
pub(super) const SPOOL: &str = "spool";
/// The table of TLS.
pub(super) const SSL: &str = "ssl";
/// The table of SASL.
pub(super) const SASL: &str = "sasl";

/// The table of the metrics.
pub(super) const METRICS: &str = "metrics";

/// What a file says.
#[derive(Default)]
pub(super) struct Document {
    pub(super) entries: Vec<Entry>,
    /// Where each collector's table begins.
    pub(super) collectors: Vec<Origin>,
    pub(super) mistakes: Vec<Mistake>,
}

/// Where a byte of the text stands, for people.
struct Text<'a> {
    name: Arc<str>,
    text: &'a str,
}

impl Text<'_> {
    fn at(&self, byte: usize) -> Origin {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Origin::File { name: self.name.clone(), line, column }
    }
}

/// Reads TOML; `name` is how the file is called in messages.
pub(super) fn read(text: &str, name: &str) -> Document {
    let source = Text { name: name.into(), text };
    let mut document = Document::default();
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = source.at(error.span().map_or(0, |span| span.start));
        let message = error.message().trim().replace('\n', ", ");
        document.mistakes.push(Mistake::of("", message).at(at));
    }
    for (key, value) in root.get_ref() {
        let at = source.at(key.span().start);
        match (key.get_ref().as_ref(), value.get_ref()) {
            (SPOOL, DeValue::Table(table)) => document.table(table, Place::Spool, &source),
            (METRICS, DeValue::Table(table)) => document.table(table, Place::Metrics, &source),
            (COLLECTORS, DeValue::Array(tables)) => {
                for table in tables {
                    let at = source.at(table.span().start);
                    match table.get_ref() {
                        DeValue::Table(table) => {
                            let place = Place::Collector(document.collectors.len());
                            document.collectors.push(at);
                            document.table(table, place, &source);
                        }
                        _ => document.wrong(COLLECTORS, at, "each collector is a table, [[collectors]]"),
                    }
                }
            }
            (SPOOL, _) => document.wrong(SPOOL, at, "this is a table: [spool], and then dir = \"...\""),
            (METRICS, _) => {
                document.wrong(METRICS, at, "this is a table: [metrics], and then prefix = \"...\"");
            }
            (name @ (SSL | SASL), value) => {
                let place = if name == SSL { Place::Ssl } else { Place::Sasl };
                match value {
                    DeValue::Table(table) => {
                        // That it is there says something, also when it is empty.
                        document.entry(place, ENABLED, &DeValue::Boolean(true), at);
                        document.table(table, place, &source);
                    }
                    value @ DeValue::Boolean(_) => document.entry(place, ENABLED, value, at),
                    _ => document.wrong(name, at, "this is true, or a table with its name in brackets"),
                }
            }
            (COLLECTORS, _) => {
                document.wrong(COLLECTORS, at, "these are tables: write [[collectors]], with two brackets");
            }
            (name, value) => document.entry(Place::Application, name, value, at),
        }
    }
    document.forget_guesses();
    document
}

impl Document {
    /// What was made of a line that is not TOML would be a mistake about a mistake.
    fn forget_guesses(&mut self) {
        let line = |origin: &Origin| match origin {
            Origin::File { line, .. } => Some(*line),
            _ => None,
        };
        let broken: Vec<_> =
            self.mistakes.iter().filter(|m| m.key.is_empty()).map(|m| line(&m.origin)).collect();
        self.entries.retain(|entry| !broken.contains(&line(&entry.origin)));
    }

    fn wrong(&mut self, key: &str, at: Origin, message: &str) {
        self.mistakes.push(Mistake::of(key, message.to_owned()).at(at));
    }

    fn table(&mut self, table: &DeTable<'_>, place: Place, source: &Text<'_>) {
        for (key, value) in table {
            self.entry(place, key.get_ref(), value.get_ref(), source.at(key.span().start));
        }
    }

    fn entry(&mut self, place: Place, key: &str, value: &DeValue<'_>, origin: Origin) {
        self.entries.push(Entry {
            layer: Layer::File,
            place,
            key: key.to_owned(),
            value: plain(value),
            origin,
        });
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number beyond 64 bits"),
        },
        // Its digits are what a time or a size may have: 1.5 milliseconds.
        DeValue::Float(digits) => Value::Text(digits.as_str().to_owned()),
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Array(values) => Value::List(values.iter().map(|value| plain(value.get_ref())).collect()),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(table) => {
            let pair = |(key, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
                (AsRef::<str>::as_ref(key.get_ref()).to_owned(), plain(value.get_ref()))
            };
            Value::Table(table.iter().map(pair).collect())
        }
    }
}
