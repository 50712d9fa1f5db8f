//! One event as the caller holds it: a borrowed view, copied exactly once, into its place in a batch.
//!
//! Kafka tells null from empty in keys, values and header values, keeps duplicate headers and their order; so
//! does [`Record`]. Nothing here owns memory.

use std::fmt;
use std::sync::Arc;

/// A header of a [`Record`]: names may repeat, order is kept, a `None` value is null (not empty).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, UTF-8 as the protocol demands; may be empty.
    pub name: &'a str,
    /// The value; `None` is null.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header with a value.
    pub fn new(name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { name, value: Some(value.as_ref()) }
    }

    /// A header whose value is null.
    pub fn null(name: &'a str) -> Self {
        Self { name, value: None }
    }
}

/// One event, borrowed from the caller for the duration of one call.
///
/// Made from a value, `(key, value)` or `(headers, key, value)` by `into()`, or with the methods below:
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::{Header, Record};
///
/// let plain: Record<'_> = "payload".into();
/// let keyed: Record<'_> = ("SEA", b"payload").into();
/// let headers = [Header::new("trace", "4bf92f")];
/// let full = Record::from((&headers[..], "SEA", "payload")).with_timestamp(1_517_966_773_840);
/// assert_eq!(plain.key, None);
/// assert_eq!(keyed.key, Some(&b"SEA"[..]));
/// assert_eq!(full.headers.len(), 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key; `None` is null (not the same as empty).
    pub key: Option<&'a [u8]>,
    /// The value; `None` is null: a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Headers, duplicates and order kept.
    pub headers: &'a [Header<'a>],
    /// Milliseconds since the Unix epoch (CreateTime); `None`: the time of acceptance.
    pub timestamp: Option<i64>,
    /// An explicit partition; `None`: the partitioner decides.
    pub partition: Option<i32>,
}

impl<'a> Record<'a> {
    /// A record with a value and no key.
    pub fn value(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { value: Some(value.as_ref()), ..Self::default() }
    }

    /// A record with a key and a value.
    pub fn keyed(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key: Some(key.as_ref()), value: Some(value.as_ref()), ..Self::default() }
    }

    /// A record with a key and a null value: deletes the key on a compacted topic.
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key: Some(key.as_ref()), ..Self::default() }
    }

    /// The same record with these headers.
    pub fn with_headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// The same record with its own time, in milliseconds since the Unix epoch.
    pub fn with_timestamp(mut self, unix_ms: i64) -> Self {
        self.timestamp = Some(unix_ms);
        self
    }

    /// The same record for an explicit partition.
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

impl<'a, V: AsRef<[u8]> + ?Sized> From<&'a V> for Record<'a> {
    fn from(value: &'a V) -> Self {
        Record::value(value)
    }
}

impl<'a, K: AsRef<[u8]> + ?Sized, V: AsRef<[u8]> + ?Sized> From<(&'a K, &'a V)> for Record<'a> {
    fn from((key, value): (&'a K, &'a V)) -> Self {
        Record::keyed(key, value)
    }
}

impl<'a> From<(Option<&'a [u8]>, Option<&'a [u8]>)> for Record<'a> {
    fn from((key, value): (Option<&'a [u8]>, Option<&'a [u8]>)) -> Self {
        Record { key, value, ..Record::default() }
    }
}

impl<'a, K: AsRef<[u8]> + ?Sized, V: AsRef<[u8]> + ?Sized> From<(&'a [Header<'a>], &'a K, &'a V)>
    for Record<'a>
{
    fn from((headers, key, value): (&'a [Header<'a>], &'a K, &'a V)) -> Self {
        Record::keyed(key, value).with_headers(headers)
    }
}

/// A topic and one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: i32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_stay_apart_in_every_form() {
        assert_eq!(Record::from("").value, Some(&b""[..]));
        assert_eq!(Record::from((None, Some(&b"v"[..]))).key, None);
        assert_eq!(Record::tombstone("k").value, None);
        assert_eq!(Record::keyed("", "").key, Some(&b""[..]));
        assert_eq!(Header::null("h").value, None);
        assert_eq!(Header::new("h", "").value, Some(&b""[..]));
    }

    #[test]
    fn owned_payloads_are_borrowed_not_copied() {
        let (key, value) = (String::from("SEA"), vec![1u8, 2, 3]);
        let record = Record::from((&key, &value));
        assert_eq!(record.value.map(<[u8]>::as_ptr), Some(value.as_ptr()));
        assert_eq!(record.key.map(<[u8]>::as_ptr), Some(key.as_ptr()));
    }
}
