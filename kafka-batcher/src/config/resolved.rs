//! The merge: layer by layer, by presence; then what cannot be. Each value keeps where it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::document::{COLLECTORS, METRICS, SASL, SPOOL, SSL};
use super::mistake::{BadConfigError, CollectorMissingError, Mistake, Origin, suggestion};
use super::table::{
    ALIASES, CollectorSettings, MetricsConfig, RDKAFKA, SaslConfig, Settings, SpoolConfig, SslConfig, Table,
};
use super::value::{Value, Written};
use super::{Config, Entry, Layer, Place};

/// Names its collector; each has one of its own.
pub(super) const TOPIC_NAME: &str = "topic_name";

/// Where the values of one table come from.
pub(crate) type Origins = BTreeMap<&'static str, Origin>;

/// The program changes settings: what it has changed comes from no configuration any more.
pub(crate) fn change<T: Table + Clone>(origins: &mut Origins, settings: &mut T, change: impl FnOnce(&mut T)) {
    let before = settings.clone();
    change(settings);
    settings.changed_since(&before).into_iter().for_each(|name| drop(origins.remove(name)));
}

/// The settings in effect.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Resolved {
    /// Of the whole batcher.
    pub settings: Settings,
    /// Of the spool.
    pub spool: SpoolConfig,
    /// Of TLS.
    pub ssl: SslConfig,
    /// Of SASL.
    pub sasl: SaslConfig,
    /// Of the metrics.
    pub metrics: MetricsConfig,
    /// What a collector starts from that nobody configured.
    pub defaults: CollectorSettings,
    /// Of the configured collectors, by topic.
    pub collectors: BTreeMap<String, CollectorSettings>,
    /// What can be, and is hardly meant: told by `config check`, starts all the same.
    pub warnings: Vec<Mistake>,
    pub(crate) places: Places,
}

/// Where the values in effect come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) whole: Origins,
    pub(crate) spool: Origins,
    pub(crate) ssl: Origins,
    pub(crate) sasl: Origins,
    pub(crate) metrics: Origins,
    defaults: Origins,
    collectors: BTreeMap<String, Origins>,
}

impl Places {
    /// The mistake where it was made, if that is a place of a configuration.
    pub(crate) fn place(&self, mistake: Mistake) -> Mistake {
        let origins = match (&mistake.topic, mistake.table) {
            (Some(topic), _) => self.collectors.get(topic),
            (None, SPOOL) => Some(&self.spool),
            (None, SSL) => Some(&self.ssl),
            (None, SASL) => Some(&self.sasl),
            (None, METRICS) => Some(&self.metrics),
            (None, _) => Some(&self.whole),
        };
        match origins {
            Some(origins) if origins.contains_key(mistake.key.as_str()) => placed(mistake, &[origins]),
            _ => mistake,
        }
    }
}

impl Resolved {
    pub(super) fn missing(&self, topic: &str) -> CollectorMissingError {
        let known = self.collectors.keys().cloned().collect();
        CollectorMissingError { topic: topic.to_owned(), known }
    }

    /// The values in effect as a file that gives just these, each with where it came from. With a topic: of its collector
    /// alone; otherwise of everything.
    ///
    /// # Errors
    /// Nobody configured a collector of that topic.
    pub fn show(&self, topic: Option<&str>) -> Result<String, CollectorMissingError> {
        let mut out = String::new();
        let collector = |out: &mut String, topic: &str, settings: &CollectorSettings| {
            let _ = writeln!(out, "[[{COLLECTORS}]]\n{TOPIC_NAME} = {}", super::value::quoted(topic));
            show(out, settings.written(), self.places.collectors.get(topic).unwrap_or(&Origins::new()));
        };
        if let Some(topic) = topic {
            let settings = self.collectors.get(topic).ok_or_else(|| self.missing(topic))?;
            collector(&mut out, topic, settings);
            return Ok(out);
        }
        show(&mut out, self.settings.written(), &self.places.whole);
        show(&mut out, self.defaults.written(), &self.places.defaults);
        let _ = writeln!(out, "\n[{SPOOL}]");
        show(&mut out, self.spool.written(), &self.places.spool);
        if self.ssl.is_on() {
            let _ = writeln!(out, "\n[{SSL}]");
            show(&mut out, self.ssl.written(), &self.places.ssl);
        }
        if self.sasl.is_on() {
            let _ = writeln!(out, "\n[{SASL}]");
            show(&mut out, self.sasl.written(), &self.places.sasl);
        }
        let _ = writeln!(out, "\n[{METRICS}]");
        show(&mut out, self.metrics.written(), &self.places.metrics);
        for (topic, settings) in &self.collectors {
            out.push('\n');
            collector(&mut out, topic, settings);
        }
        Ok(out)
    }
}

fn show(out: &mut String, values: Vec<(&'static str, Written)>, origins: &Origins) {
    let lines = values.into_iter().map(|(name, value)| {
        let origin = origins.get(name).cloned().unwrap_or_default();
        let line = match value {
            Written::Toml(value) => format!("{name} = {value}"),
            Written::Unset => format!("# {name}: unset"),
            Written::Hidden => format!("# {name}: set, not shown"),
        };
        (line, origin)
    });
    let lines: Vec<_> = lines.collect();
    // A long list must not push everything else to the right.
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|n| *n <= 48).max().unwrap_or(0);
    for (line, origin) in lines {
        let _ = writeln!(out, "{line:width$}  # {origin}");
    }
}

/// The setting's own name, where this is another name of it.
fn own_name<T: Table>(key: &str) -> Option<&'static str> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name);
    T::NAMES.iter().find(|name| **name == alias).copied()
}

/// Every name that may stand in this place.
fn known(place: Place) -> BTreeSet<&'static str> {
    let mut names: BTreeSet<&'static str> = match place {
        Place::Application => {
            [Settings::NAMES, CollectorSettings::NAMES, &[SPOOL, SSL, SASL, METRICS, COLLECTORS]]
                .concat()
                .into_iter()
                .collect()
        }
        Place::Spool => SpoolConfig::NAMES.iter().copied().collect(),
        Place::Ssl => SslConfig::NAMES.iter().copied().collect(),
        Place::Sasl => SaslConfig::NAMES.iter().copied().collect(),
        Place::Metrics => MetricsConfig::NAMES.iter().copied().collect(),
        Place::Collector(_) => [CollectorSettings::NAMES, &[TOPIC_NAME]].concat().into_iter().collect(),
    };
    let aliases: Vec<_> = ALIASES.iter().filter(|(_, name)| names.contains(name)).collect();
    names.extend(aliases.into_iter().map(|(alias, _)| *alias));
    names
}

pub(super) fn resolve(config: &Config) -> Result<Resolved, BadConfigError> {
    let mut found = config.mistakes.clone();
    found.extend(config.entries.iter().filter_map(unknown));
    found.extend(twice(&config.entries));
    let mut resolved = Resolved::default();
    merge(&mut resolved.settings, &mut resolved.places.whole, config, &[Place::Application], &mut found);
    merge(&mut resolved.spool, &mut resolved.places.spool, config, &[Place::Spool], &mut found);
    merge(&mut resolved.ssl, &mut resolved.places.ssl, config, &[Place::Ssl], &mut found);
    merge(&mut resolved.sasl, &mut resolved.places.sasl, config, &[Place::Sasl], &mut found);
    merge(&mut resolved.metrics, &mut resolved.places.metrics, config, &[Place::Metrics], &mut found);
    merge(&mut resolved.defaults, &mut resolved.places.defaults, config, &[Place::Application], &mut found);
    let whole = resolved.settings.check().into_iter().map(|m| placed(m, &[&resolved.places.whole]));
    let spool = resolved.spool.check(false).into_iter().map(|m| placed(m, &[&resolved.places.spool]));
    let ssl = resolved.ssl.check().into_iter().map(|m| placed_in_table(m, &resolved.places.ssl));
    let sasl = resolved.sasl.check(&resolved.ssl).err().map_or_else(Vec::new, |error| error.0);
    let sasl = sasl.into_iter().map(|m| placed_in_table(m, &resolved.places.sasl));
    let metrics = resolved.metrics.check().into_iter().map(|m| placed(m, &[&resolved.places.metrics]));
    let told: Vec<_> = whole
        .chain(spool)
        .chain(ssl)
        .chain(sasl)
        .chain(metrics)
        .filter(|m| !found.iter().any(|known| same_key(known, m)))
        .collect();
    found.extend(told);
    let mut topics: BTreeMap<String, Origin> = BTreeMap::new();
    for (n, begun) in config.collectors.iter().enumerate() {
        let place = Place::Collector(n);
        let (mut settings, mut origins) = (CollectorSettings::default(), Origins::new());
        let mut own = Vec::new();
        merge(&mut settings, &mut origins, config, &[Place::Application, place], &mut own);
        own.retain(|mistake| !found.contains(mistake));
        let (topic, named_at) = match topic_name(config, place) {
            Some((topic, origin)) => (topic, origin),
            None => (Err("missing; every collector has one".to_owned()), begun.clone()),
        };
        let topic = match topic {
            Ok(topic) => topic,
            Err(message) => {
                own.push(Mistake::of(TOPIC_NAME, message).at(named_at));
                found.append(&mut own);
                continue;
            }
        };
        if let Some(first) = topics.get(&topic) {
            let message = format!("{topic:?} has a collector already, at {first}");
            own.push(Mistake::of(TOPIC_NAME, message).at(named_at.clone()));
        }
        topics.entry(topic.clone()).or_insert(named_at.clone());
        origins.insert(TOPIC_NAME, named_at);
        own.iter_mut().for_each(|mistake| mistake.topic = Some(topic.clone()));
        let checked = settings.check(&topic, &resolved.settings);
        own.extend(checked.into_iter().map(|mistake| placed(mistake, &[&origins, &resolved.places.whole])));
        for mistake in own {
            // The same wrong value of all collectors is told once.
            if !found.iter().any(|known| same(known, &mistake)) {
                found.push(mistake);
            }
        }
        resolved.collectors.insert(topic.clone(), settings);
        resolved.places.collectors.insert(topic, origins);
    }
    match found.is_empty() {
        true => {
            resolved.warnings = warnings(&resolved);
            Ok(resolved)
        }
        false => {
            found.sort_by_key(|mistake| order(&mistake.origin));
            Err(BadConfigError(found))
        }
    }
}

fn warnings(resolved: &Resolved) -> Vec<Mistake> {
    let whole = resolved.settings.warnings().into_iter();
    let mut found: Vec<_> = whole.map(|warning| placed(warning, &[&resolved.places.whole])).collect();
    for (topic, settings) in &resolved.collectors {
        let origins = resolved.places.collectors.get(topic).cloned().unwrap_or_default();
        if resolved.settings.producer == RDKAFKA && settings.enable_idempotence == Some(true) {
            let message = "librdkafka numbers its messages itself, so this does nothing".to_owned();
            let warning = Mistake::of("enable_idempotence", message).in_collector(topic);
            found.push(placed(warning, &[&origins]));
        }
        let warnings = settings.warnings().into_iter().map(|warning| warning.in_collector(topic));
        found.extend(warnings.map(|warning| placed(warning, &[&origins])));
    }
    let nowhere = resolved.spool.dir.is_none() && resolved.spool.storage.is_none();
    if let Some((key, origin)) = resolved.places.spool.iter().find(|_| nowhere) {
        let message = "there is no spool without a dir, so this does nothing".to_owned();
        found.push(Mistake::of(*key, message).in_spool().at(origin.clone()));
    }
    found
}

/// A file from top to bottom, then the rest as it was found.
fn order(origin: &Origin) -> (u8, usize, usize) {
    match origin {
        Origin::File { line, column, .. } => (0, *line, *column),
        Origin::Environment(_) => (1, 0, 0),
        Origin::Option(_) => (2, 0, 0),
        Origin::BuiltIn | Origin::Code => (3, 0, 0),
    }
}

/// One place, one thing: told once although several collectors share it.
fn same(known: &Mistake, mistake: &Mistake) -> bool {
    known.origin == mistake.origin && known.key == mistake.key && known.message == mistake.message
}

/// A value that cannot be read is not judged as if it were the default.
fn same_key(known: &Mistake, mistake: &Mistake) -> bool {
    known.key == mistake.key && known.table == mistake.table
}

/// What nobody said, and ought to have, is told where the table begins.
fn placed_in_table(mistake: Mistake, origins: &Origins) -> Mistake {
    match placed(mistake, &[origins]) {
        nowhere @ Mistake { origin: Origin::BuiltIn, .. } => {
            let begun = origins.values().min_by_key(|origin| order(origin)).cloned();
            nowhere.at(begun.unwrap_or_default())
        }
        placed => placed,
    }
}

fn placed(mistake: Mistake, origins: &[&Origins]) -> Mistake {
    let said = |key: &str| origins.iter().find_map(|origins| origins.get(key)).cloned();
    match (said(&mistake.key), mistake.against.and_then(|other| Some((other, said(other)?)))) {
        (Some(origin), _) => mistake.at(origin),
        (None, Some((other, origin))) => Mistake {
            message: format!("{}: {}", mistake.key, mistake.message),
            key: other.to_owned(),
            topic: None,
            ..mistake
        }
        .at(origin),
        (None, None) => mistake.at(Origin::BuiltIn),
    }
}

fn unknown(entry: &Entry) -> Option<Mistake> {
    let key = entry.key.as_str();
    let known = known(entry.place);
    if known.contains(key) {
        return None;
    }
    let elsewhere = || {
        Some(match () {
            () if own_name::<SpoolConfig>(key).is_some() => format!("it belongs into the table [{SPOOL}]"),
            () if own_name::<MetricsConfig>(key).is_some() => {
                format!("it belongs into the table [{METRICS}]")
            }
            () if own_name::<Settings>(key).is_some() => {
                "it is application-wide: write it above the first table".to_owned()
            }
            () if own_name::<SslConfig>(key).is_some() => format!("it belongs into the table [{SSL}]"),
            () if own_name::<SaslConfig>(key).is_some() => format!("it belongs into the table [{SASL}]"),
            () if key == TOPIC_NAME => format!("it belongs into a table [[{COLLECTORS}]]"),
            () if own_name::<CollectorSettings>(key).is_some() => {
                format!("it belongs into a table [[{COLLECTORS}]], or above the first table for all of them")
            }
            () => return None,
        })
    };
    let message = match elsewhere() {
        Some(elsewhere) => format!("not a setting here; {elsewhere}"),
        None => format!("not a setting{}", suggestion(key, known)),
    };
    let mistake = Mistake::of(key, message).at(entry.origin.clone());
    Some(mistake.in_table(entry.place.table()))
}

/// A setting and another name of it in one place.
fn twice(entries: &[Entry]) -> Vec<Mistake> {
    let name = |key: &str| ALIASES.iter().find(|(alias, _)| *alias == key).map(|(_, name)| *name);
    let aliased = entries.iter().filter_map(|entry| Some((entry, name(&entry.key)?)));
    let clashes = aliased.filter_map(|(entry, name)| {
        let same = |other: &&Entry| {
            (other.layer, other.place) == (entry.layer, entry.place)
                && other.key != entry.key
                && (other.key == name || self::twice_named(&other.key, name) && other.key < entry.key)
        };
        let other = entries.iter().find(same)?;
        let message = format!("another name of {name}, which is given at {}, too; one must go", other.origin);
        Some(Mistake::of(entry.key.as_str(), message).at(entry.origin.clone()))
    });
    clashes.collect()
}

fn twice_named(key: &str, name: &str) -> bool {
    ALIASES.iter().any(|(alias, of)| *alias == key && *of == name)
}

/// Applies what concerns this table, layer by layer, within a layer place by place.
fn merge<T: Table>(
    table: &mut T,
    origins: &mut Origins,
    config: &Config,
    places: &[Place],
    mistakes: &mut Vec<Mistake>,
) {
    for layer in [Layer::File, Layer::Environment, Layer::CommandLine] {
        for place in places {
            for entry in config.entries.iter().filter(|e| e.layer == layer && e.place == *place) {
                let Some(name) = own_name::<T>(&entry.key) else { continue };
                match table.set(name, &entry.value) {
                    Some(Ok(())) => drop(origins.insert(name, entry.origin.clone())),
                    Some(Err(message)) => {
                        let mistake = Mistake::of(entry.key.as_str(), message).at(entry.origin.clone());
                        mistakes.push(mistake.in_table(place.table()));
                    }
                    None => {}
                }
            }
        }
    }
}

/// The topic that a collector is named for; what is wrong with the name.
pub(super) fn topic_name(config: &Config, place: Place) -> Option<(Result<String, String>, Origin)> {
    let named = |entry: &&Entry| entry.place == place && entry.key == TOPIC_NAME;
    let entry = config.entries.iter().filter(named).max_by_key(|entry| entry.layer)?;
    let topic = match &entry.value {
        Value::Text(topic) => Ok(topic.clone()),
        _ => Err("expected a text".to_owned()),
    };
    Some((topic, entry.origin.clone()))
}
