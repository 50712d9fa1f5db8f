//! The environment as entries: `KAFKA_BATCHER__KEY`, `KAFKA_BATCHER__SPOOL__KEY` (and `SSL`, `SASL`, `METRICS`),
//! `KAFKA_BATCHER__COLLECTORS__<n>__KEY`.
//! An unknown name behind the prefix is a mistake: whoever wrote it meant something.

use super::document::COLLECTORS;
use super::mistake::{Mistake, Origin};
use super::value::Value;
use super::{Config, ENABLED, Entry, Layer, Place};

const PREFIX: &str = "KAFKA_BATCHER__";

/// Adds what these variables say.
pub(super) fn read(config: &mut Config, variables: impl IntoIterator<Item = (String, String)>) {
    // In the order of names, so that a new collector's variables are told in the same order wherever they come from.
    let mut found: Vec<_> =
        variables.into_iter().filter_map(|(name, value)| Some((path(&name)?, name, value))).collect();
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    for (path, name, value) in found {
        let origin = Origin::Environment(name.as_str().into());
        match place(config, &path, &origin) {
            Ok((place, key)) => {
                let value = Value::Text(value);
                config.entries.push(Entry { layer: Layer::Environment, place, key, value, origin });
            }
            Err(message) => config.mistakes.push(Mistake::of("", message).at(origin)),
        }
    }
}

/// What lies behind the prefix, in lower case, numbers as numbers so that 10 comes behind 9.
fn path(name: &str) -> Option<Vec<(usize, String)>> {
    let parts = name.strip_prefix(PREFIX)?.split("__");
    Some(parts.map(|part| (part.parse().unwrap_or(0), part.to_ascii_lowercase())).collect())
}

fn place(config: &mut Config, path: &[(usize, String)], origin: &Origin) -> Result<(Place, String), String> {
    match path {
        [(_, key)] => Ok(match Place::of_table(key) {
            Some(place @ (Place::Ssl | Place::Sasl)) => (place, ENABLED.to_owned()),
            _ => (Place::Application, key.clone()),
        }),
        [(_, table), (_, key)] if Place::of_table(table).is_some() => {
            Ok((Place::of_table(table).unwrap_or(Place::Application), key.clone()))
        }
        [(_, table), (n, digits), (_, key)] if table == COLLECTORS => {
            let known = config.collectors.len();
            if digits.parse::<usize>().is_err() {
                return Err(format!("{digits:?} is no number; collectors are counted from 0"));
            }
            if *n == known {
                config.collectors.push(origin.clone());
            } else if *n > known {
                return Err(format!("there are {known} collectors so far; the next one is number {known}"));
            }
            Ok((Place::Collector(*n), key.clone()))
        }
        _ => Err(format!(
            "this names no setting; write {PREFIX}KEY, {PREFIX}SPOOL__KEY (or SSL, SASL, METRICS) or {PREFIX}COLLECTORS__0__KEY"
        )),
    }
}
