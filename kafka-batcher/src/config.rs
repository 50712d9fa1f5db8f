//! The configuration: from code, a file (TOML), the environment and the command line, merged by presence, checked as a whole.
//!
//! [`Config`] holds what was said and where; [`Config::resolve`] merges it and tells every mistake at once, each with its
//! place. Later ones win: built-in < application-wide < collector < environment < command line; what counts is whether a
//! value was given, not what it is. [`Settings`], [`CollectorSettings`] and [`SpoolConfig`] are what comes out, and what
//! programs set directly; their one table of names, defaults, units and words is `config/table.rs`, and CONFIGURATION.md is
//! generated from it.
//!
//! ```
//! use kafka_batcher::config::Config;
//!
//! let config = Config::from_toml(
//!     r#"
//!     endpoints = ["kafka-1:9092", "kafka-2:9092"]
//!     memory = "128MiB"
//!     max_wait_time = "20ms"             # for every collector that says nothing else
//!
//!     [spool]
//!     dir = "/var/spool/flights"
//!
//!     [[collectors]]
//!     topic_name = "flights"
//!     batch_size = 500
//!     "#,
//!     "kafka-batcher.toml",
//! );
//! let resolved = config.resolve()?;
//! assert_eq!(resolved.collectors["flights"].batch_size, 500);
//! assert_eq!(resolved.collectors["flights"].max_wait_time, std::time::Duration::from_millis(20));
//! # Ok::<(), kafka_batcher::config::BadConfigError>(())
//! ```

mod buckets;
mod check;
mod document;
mod environment;
mod mistake;
mod reference;
mod resolved;
mod table;
#[cfg(test)]
mod tests;
pub mod units;
mod value;

use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _};

pub use buckets::ProducerBuckets;
pub(crate) use check::AT_LEAST_ONCE;
pub use mistake::{BadConfigError, CollectorMissingError, Mistake, Origin, SaslConfigError};
pub use reference::{commented_file, reference};
pub use resolved::Resolved;
pub(crate) use resolved::{Places, change};
pub use table::{CollectorSettings, MetricsConfig, SaslConfig, SettingRow, Settings, SpoolConfig, SslConfig};
pub(crate) use table::{LOG, NATIVE, RDKAFKA};
pub use value::Value;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The top level: application-wide settings, and what collectors start from.
    Application,
    Spool,
    Ssl,
    Sasl,
    Metrics,
    /// So many-th of the collectors.
    Collector(usize),
}

/// What `ssl = true` and a table `[ssl]` say.
const ENABLED: &str = "enabled";

impl Place {
    /// The tables with a name of their own.
    const TABLES: [(&str, Place); 4] = [
        (document::SPOOL, Place::Spool),
        (document::SSL, Place::Ssl),
        (document::SASL, Place::Sasl),
        (document::METRICS, Place::Metrics),
    ];

    fn of_table(name: &str) -> Option<Place> {
        Place::TABLES.iter().find(|(table, _)| *table == name).map(|(_, place)| *place)
    }

    /// The table's name; empty: the top level, or a collector.
    fn table(self) -> &'static str {
        Place::TABLES.iter().find(|(_, place)| *place == self).map_or("", |(table, _)| *table)
    }
}

/// Who says it; later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// A file, or the program.
    File,
    Environment,
    CommandLine,
}

/// One thing that was said.
#[derive(Clone, PartialEq)]
struct Entry {
    layer: Layer,
    place: Place,
    key: String,
    value: Value,
    origin: Origin,
}

/// What was said about the settings, and where; not yet merged, not yet checked.
///
/// Deserialized (from any format of serde's that says what its values are: TOML, YAML, JSON) it has the shape of the file;
/// nothing but that shape is checked then, so that all mistakes are told at once by [`Config::resolve`].
#[derive(Clone, Default)]
pub struct Config {
    entries: Vec<Entry>,
    /// Where each collector was begun.
    collectors: Vec<Origin>,
    /// What was found wrong while reading.
    mistakes: Vec<Mistake>,
}

impl Config {
    /// Nothing said: the built-in values, no collectors.
    pub fn new() -> Self {
        Config::default()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read. What is wrong in it, [`Config::resolve`] says.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, BadConfigError> {
        let path = path.as_ref();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Config::from_toml(&text, &path.to_string_lossy())),
            Err(error) => {
                let message = format!("{} cannot be read: {error}", path.display());
                Err(BadConfigError(vec![Mistake::of("", message)]))
            }
        }
    }

    /// Reads the text of a file; `name` is how it is called in messages.
    pub fn from_toml(text: &str, name: &str) -> Self {
        let document::Document { entries, collectors, mistakes } = document::read(text, name);
        Config { entries, collectors, mistakes }
    }

    /// Adds what the environment of this process says: `KAFKA_BATCHER__KEY`, `KAFKA_BATCHER__SPOOL__KEY` (and `SSL`, `SASL`, `METRICS`) and
    /// `KAFKA_BATCHER__COLLECTORS__<n>__KEY`, n from 0. Nothing else is read.
    #[must_use]
    pub fn with_environment(self) -> Self {
        // A variable that is not Unicode cannot be one of ours.
        self.with_environment_from(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }))
    }

    /// The same, with variables of the caller's.
    #[must_use]
    pub fn with_environment_from(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        environment::read(&mut self, variables);
        self
    }

    /// Says one thing more, with the rank of the command line: over everything else, for every collector. A key of a
    /// table is `spool.dir`. `option` is how the option is called in messages.
    pub fn set_option(&mut self, key: &str, value: impl Into<Value>, option: &str) {
        let (place, key) = place(key);
        self.entries.push(Entry {
            layer: Layer::CommandLine,
            place,
            key: key.to_owned(),
            value: value.into(),
            origin: Origin::Option(option.into()),
        });
    }

    /// Whether anything was said about this key of the top level, or of a table: `spool.dir`.
    pub fn says(&self, key: &str) -> bool {
        let (place, key) = place(key);
        self.entries.iter().any(|entry| entry.place == place && entry.key == key)
    }

    /// The topics that collectors are named for, in the order of the file.
    pub fn topics(&self) -> Vec<String> {
        let places = (0..self.collectors.len()).map(Place::Collector);
        places.filter_map(|place| resolved::topic_name(self, place)?.0.ok()).collect()
    }

    /// Adds a collector of this topic, if there is none yet.
    pub fn ensure_collector(&mut self, topic: &str, origin: Origin) {
        if !self.topics().iter().any(|known| known == topic) {
            let place = Place::Collector(self.collectors.len());
            self.collectors.push(origin.clone());
            self.entries.push(Entry {
                layer: Layer::File,
                place,
                key: resolved::TOPIC_NAME.to_owned(),
                value: topic.into(),
                origin,
            });
        }
    }

    /// Merges and checks everything.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn resolve(&self) -> Result<Resolved, BadConfigError> {
        resolved::resolve(self)
    }

    /// The settings in effect for a topic's collector, as the Elixir library's `get_collector_config/1`.
    ///
    /// # Errors
    /// [`ConfigError::BadConfig`] as [`Config::resolve`]; [`ConfigError::CollectorMissing`] with the topics that have one.
    pub fn get_collector_config(&self, topic: &str) -> Result<CollectorSettings, ConfigError> {
        let mut resolved = self.resolve()?;
        match resolved.collectors.remove(topic) {
            Some(settings) => Ok(settings),
            None => Err(resolved.missing(topic).into()),
        }
    }

    /// The settings in effect of every collector by its topic, as the Elixir library's `get_configs_by_topic/0`.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn get_configs_by_topic(
        &self,
    ) -> Result<std::collections::BTreeMap<String, CollectorSettings>, BadConfigError> {
        self.resolve().map(|resolved| resolved.collectors)
    }
}

/// The table and the key in it.
fn place(key: &str) -> (Place, &str) {
    let (table, name) = key.split_once('.').unwrap_or((key, ENABLED));
    match Place::of_table(table) {
        Some(Place::Spool) if name == ENABLED => (Place::Application, key),
        Some(place) => (place, name),
        None => (Place::Application, key),
    }
}

/// Why there is no configuration of a collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Settings that cannot be; all of them.
    #[error(transparent)]
    BadConfig(#[from] BadConfigError),
    /// Nobody configured one.
    #[error(transparent)]
    CollectorMissing(#[from] CollectorMissingError),
}

impl std::fmt::Debug for Config {
    /// Without values: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.entries.iter().map(|entry| &entry.key);
        f.debug_struct("Config").field("keys", &keys.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = toml::Table::deserialize(deserializer)?;
        // One way to read: what a value is, and where tables belong, is decided over text alone.
        let text = toml::to_string(&table).map_err(D::Error::custom)?;
        let mut config = Config::from_toml(&text, "");
        let origins = config.entries.iter_mut().map(|entry| &mut entry.origin);
        let origins = origins.chain(&mut config.collectors);
        origins
            .chain(config.mistakes.iter_mut().map(|mistake| &mut mistake.origin))
            .for_each(|o| *o = Origin::Code);
        Ok(config)
    }
}
