//! The events of a spool as lines of JSON.

use std::io::{BufWriter, Write, stdout};

use base64::Engine;
use kafka_batcher::storage::disk::{Spool, TopicScan, dead_letter_headers};
use kafka_batcher::storage::{Stored, UNASSIGNED};
use serde_json::{Map, Value, json};

use crate::exit::{self, UsageError};

/// Text where it is text, else base64; null is null.
fn value(bytes: Option<&[u8]>) -> Value {
    match bytes.map(std::str::from_utf8) {
        None => Value::Null,
        Some(Ok(text)) => Value::from(text),
        Some(Err(_)) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes.unwrap_or_default());
            json!({ "base64": encoded })
        }
    }
}

/// Milliseconds since 1970 as people write a time (UTC).
pub(super) fn time(ms: i64) -> String {
    let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let s = in_day / 1_000;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", s / 3_600, s / 60 % 60, s % 60)
}

/// The topics that are asked for; one that is not there is the user's mistake.
pub(super) fn topics(spool: &Spool, only: Option<&str>) -> anyhow::Result<Vec<String>> {
    let topics = spool.topics()?;
    let Some(only) = only else { return Ok(topics) };
    if topics.iter().any(|name| name == only) {
        return Ok(vec![only.to_owned()]);
    }
    let there = if topics.is_empty() { "none".to_owned() } else { topics.join(", ") };
    Err(UsageError(format!("the spool has no topic {only:?}; there are: {there}")).into())
}

/// Prints what waits.
pub(super) fn dump(spool: &Spool, only: Option<&str>) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(stdout().lock());
    write(spool, only, &mut out)?;
    out.flush()?;
    Ok(exit::OK)
}

/// Writes what waits; answers how many events that are, and how many damages were met.
pub(super) fn write(spool: &Spool, only: Option<&str>, out: &mut impl Write) -> anyhow::Result<(u64, usize)> {
    let (mut events, mut damaged) = (0, 0);
    for topic in topics(spool, only)? {
        let scan = spool.scan(&topic)?;
        for batch in scan.batches.iter().filter(|batch| batch.whole) {
            for stored in scan.waiting(batch)? {
                write_all(out, &topic, batch.partition, &stored, |_| {})?;
                events += u64::from(stored.batch.count());
            }
        }
        damaged += tell_damage(&scan);
    }
    Ok((events, damaged))
}

/// Writes what was put aside.
pub(super) fn dead_letters(spool: &Spool, only: Option<&str>) -> anyhow::Result<u8> {
    let reserved = [
        (dead_letter_headers::REASON, "reason"),
        (dead_letter_headers::CODE, "code"),
        (dead_letter_headers::MESSAGE, "message"),
        (dead_letter_headers::TIME, "time"),
        (dead_letter_headers::POSITION, "was_at"),
    ];
    let mut out = BufWriter::new(stdout().lock());
    for topic in topics(spool, only)? {
        let scan = spool.dead_letters(&topic)?;
        for batch in scan.batches.iter().filter(|batch| batch.whole) {
            for stored in scan.waiting(batch)? {
                // What we added stands out of what the user sent.
                write_all(&mut out, &topic, batch.partition, &stored, |object| {
                    let Some(Value::Array(headers)) = object.get_mut("headers") else { return };
                    let mut ours = Vec::new();
                    headers.retain_mut(|header| {
                        let name = header["name"].as_str().unwrap_or_default();
                        let known = reserved.iter().find(|(reserved, _)| *reserved == name);
                        ours.extend(known.map(|(_, field)| (*field, header["value"].take())));
                        known.is_none()
                    });
                    for (field, value) in ours {
                        object.insert(field.to_owned(), value);
                    }
                })?;
            }
        }
        tell_damage(&scan);
    }
    out.flush()?;
    Ok(exit::OK)
}

/// Names every damage, and says how many.
pub(super) fn tell_damage(scan: &TopicScan) -> usize {
    for damage in &scan.damage {
        eprintln!("warning: {damage}");
    }
    scan.damage.len()
}

fn write_all(
    out: &mut impl Write,
    topic: &str,
    partition: i32,
    stored: &Stored,
    change: impl Fn(&mut Map<String, Value>),
) -> anyhow::Result<()> {
    let records = stored.batch.records()?;
    for (at, record) in (stored.position..).zip(records) {
        let headers: Vec<Value> = record
            .headers
            .iter()
            .map(|header| json!({ "name": header.name, "value": value(header.value.as_deref()) }))
            .collect();
        let mut object = Map::new();
        object.insert("topic".to_owned(), Value::from(topic));
        let known = (partition != UNASSIGNED).then_some(partition);
        object.insert("partition".to_owned(), json!(known));
        object.insert("position".to_owned(), Value::from(at));
        object.insert("timestamp".to_owned(), Value::from(record.timestamp));
        object.insert("key".to_owned(), value(record.key.as_deref()));
        object.insert("value".to_owned(), value(record.value.as_deref()));
        object.insert("headers".to_owned(), Value::from(headers));
        change(&mut object);
        serde_json::to_writer(&mut *out, &object).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(1_709_210_096_789), "2024-02-29 12:34:56 UTC");
        assert_eq!(time(-1), "1969-12-31 23:59:59 UTC");
        assert_eq!(time(4_107_542_399_000), "2100-02-28 23:59:59 UTC");
    }

    #[test]
    fn bytes_that_are_no_text_are_base64_and_null_is_null() {
        assert_eq!(value(Some(b"a\"b")), json!("a\"b"));
        assert_eq!(value(Some(&[0xff, 0])), json!({ "base64": "/wA=" }));
        assert_eq!(value(None), Value::Null);
    }
}
