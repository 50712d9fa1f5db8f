//! `TypedCollector<T>`: events as values of a type, encoded as JSON; partitioner and flusher see the value itself.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use kafka_batcher_core::Record;
use kafka_batcher_core::partitioner::{PartitionKey, Placement};
use serde::Serialize;

use crate::collector::Collector;
use crate::error::AddError;
use crate::receipt::Receipt;
use crate::topic::{Chosen, contained};

type KeyFn<T> = dyn for<'a> Fn(&'a T) -> Option<Cow<'a, [u8]>> + Send + Sync;
type PlaceFn<T> = dyn for<'a> Fn(&'a T) -> PartitionKey<'a> + Send + Sync;
type FlushFn<T> = dyn Fn(&T) -> bool + Send + Sync;

thread_local! {
    /// Where values are encoded; kept so that an event costs no allocation. Taken out while it is used: the user's
    /// encoder may add an event of its own, and another task may run here while one waits for memory.
    static ENCODED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A collector of values of one type.
///
/// ```no_run
/// # async fn run(batcher: kafka_batcher::KafkaBatcher) -> Result<(), Box<dyn std::error::Error>> {
/// #[derive(serde::Serialize)]
/// struct Flight { origin: String, delay: i32 }
///
/// let flights = batcher
///     .collector("flights")
///     .build()?
///     .typed::<Flight>()
///     .key(|flight| Some(flight.origin.as_bytes().into()))
///     .flush_when(|flight| flight.delay > 600);
/// flights.add_event(&Flight { origin: "SEA".into(), delay: 66 }).await?;
/// # Ok(()) }
/// ```
pub struct TypedCollector<T: ?Sized> {
    collector: Collector,
    rules: Arc<Rules<T>>,
    of: PhantomData<fn(&T)>,
}

struct Rules<T: ?Sized> {
    key: Option<Arc<KeyFn<T>>>,
    place: Option<Arc<PlaceFn<T>>>,
    flush: Option<Arc<FlushFn<T>>>,
}

impl<T: ?Sized> Clone for Rules<T> {
    fn clone(&self) -> Self {
        Rules { key: self.key.clone(), place: self.place.clone(), flush: self.flush.clone() }
    }
}

impl<T: ?Sized> Clone for TypedCollector<T> {
    fn clone(&self) -> Self {
        TypedCollector { collector: self.collector.clone(), rules: self.rules.clone(), of: PhantomData }
    }
}

impl<T: ?Sized> fmt::Debug for TypedCollector<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedCollector").field("topic", &self.collector.topic()).finish_non_exhaustive()
    }
}

/// What a value's own rules say of it.
struct Encoded<'a> {
    key: Option<Cow<'a, [u8]>>,
    placement: Option<Placement>,
    flush: bool,
}

impl Collector {
    /// This collector for values of type `T`, encoded as JSON, without a key until [`TypedCollector::key`] gives one.
    pub fn typed<T: Serialize + ?Sized>(&self) -> TypedCollector<T> {
        let rules = Rules { key: None, place: None, flush: None };
        TypedCollector { collector: self.clone(), rules: Arc::new(rules), of: PhantomData }
    }
}

impl<T: Serialize + ?Sized> TypedCollector<T> {
    fn with(mut self, change: impl FnOnce(&mut Rules<T>)) -> Self {
        change(Arc::make_mut(&mut self.rules));
        self
    }

    /// The record's key, from the value; `None` is no key. A key that is part of the value (`bytes.into()`) costs no
    /// allocation; one that has to be made (`vec.into()`) costs that.
    pub fn key(self, key: impl for<'a> Fn(&'a T) -> Option<Cow<'a, [u8]>> + Send + Sync + 'static) -> Self {
        self.with(|rules| rules.key = Some(Arc::new(key)))
    }

    /// What decides about the partition, from the value: bytes or a number to be spread over the partitions, an
    /// explicit partition, or nothing. Bytes are hashed as the collector's `partition_strategy` hashes a key, with
    /// murmur2 where it looks at none. Without it the collector's strategy decides by the key.
    pub fn partition_by(
        self,
        place: impl for<'a> Fn(&'a T) -> PartitionKey<'a> + Send + Sync + 'static,
    ) -> Self {
        self.with(|rules| rules.place = Some(Arc::new(place)))
    }

    /// Send the batch at once when this is true: the value itself and everything before it in its partition.
    pub fn flush_when(self, flush: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.with(|rules| rules.flush = Some(Arc::new(flush)))
    }

    /// As [`Collector::add_event`].
    ///
    /// # Errors
    /// As there; also [`AddError::Encode`] and [`AddError::Panicked`].
    pub async fn add_event(&self, value: &T) -> Result<(), AddError> {
        self.add(value, false).await.map(|_| ())
    }

    /// As [`Collector::send`].
    ///
    /// # Errors
    /// As [`TypedCollector::add_event`].
    pub async fn send(&self, value: &T) -> Result<Receipt, AddError> {
        self.add(value, true).await?.ok_or(AddError::Closed)
    }

    /// As [`Collector::try_add_event`].
    ///
    /// # Errors
    /// As there; also [`AddError::Encode`] and [`AddError::Panicked`].
    pub fn try_add_event(&self, value: &T) -> Result<(), AddError> {
        self.add_here(value, false, Collector::add_now).map(|_| ())
    }

    /// As [`Collector::try_send`].
    ///
    /// # Errors
    /// As [`TypedCollector::try_add_event`].
    pub fn try_send(&self, value: &T) -> Result<Receipt, AddError> {
        self.add_here(value, true, Collector::add_now)?.ok_or(AddError::Closed)
    }

    /// As [`Collector::blocking_add_event`].
    ///
    /// # Errors
    /// As [`TypedCollector::add_event`].
    pub fn blocking_add_event(&self, value: &T) -> Result<(), AddError> {
        self.add_here(value, false, Collector::add_blocking).map(|_| ())
    }

    /// As [`Collector::blocking_send`].
    ///
    /// # Errors
    /// As [`TypedCollector::add_event`].
    pub fn blocking_send(&self, value: &T) -> Result<Receipt, AddError> {
        self.add_here(value, true, Collector::add_blocking)?.ok_or(AddError::Closed)
    }

    /// Encodes the value and adds it, all on this thread.
    fn add_here(
        &self,
        value: &T,
        want_receipt: bool,
        add: impl FnOnce(&Collector, &Chosen<'_>, &Record<'_>, bool) -> Result<Option<Receipt>, AddError>,
    ) -> Result<Option<Receipt>, AddError> {
        let mut buffer = ENCODED.take();
        let added = self.encode(value, &mut buffer).and_then(|Encoded { key, placement, flush }| {
            let record = Record { key: key.as_deref(), value: Some(&buffer), ..Record::default() };
            if let Some(taken) = self.add_short(&record, placement, flush, want_receipt) {
                return Ok(taken);
            }
            let chosen = self.collector.topic.choose_typed(&record, placement, flush)?;
            add(&self.collector, &chosen, &record, want_receipt)
        });
        ENCODED.set(buffer);
        added
    }

    /// The collector below, for [`Collector::flush`] and for events that are bytes already.
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    async fn add(&self, value: &T, want_receipt: bool) -> Result<Option<Receipt>, AddError> {
        let mut buffer = ENCODED.take();
        let added = self.add_encoded(value, &mut buffer, want_receipt).await;
        ENCODED.set(buffer);
        added
    }

    async fn add_encoded(
        &self,
        value: &T,
        buffer: &mut Vec<u8>,
        want_receipt: bool,
    ) -> Result<Option<Receipt>, AddError> {
        let topic = &self.collector.topic;
        let Encoded { key, placement, flush } = self.encode(value, buffer)?;
        let record = Record { key: key.as_deref(), value: Some(buffer), ..Record::default() };
        if let Some(taken) = self.add_short(&record, placement, flush, want_receipt) {
            return Ok(taken);
        }
        let chosen = topic.choose_typed(&record, placement, flush)?;
        match topic.push(&chosen, &record, &mut None, want_receipt) {
            Ok(receipt) => Ok(receipt),
            Err(full) => self.collector.add_slowly(full, &chosen, &record, want_receipt).await,
        }
    }

    /// [`Topic::take_short`], where the value's own rules say nothing against it. `None`: not taken.
    #[inline]
    fn add_short(
        &self,
        record: &Record<'_>,
        placement: Option<Placement>,
        flush: bool,
        want_receipt: bool,
    ) -> Option<Option<Receipt>> {
        let topic = &self.collector.topic;
        if flush || placement.is_some() {
            return None;
        }
        match want_receipt {
            true => topic.take_short_with_receipt(record).map(Some),
            false => topic.take_short(record).then_some(None),
        }
    }

    /// Asks the value's rules, and encodes it into `buffer`.
    fn encode<'a>(&self, value: &'a T, buffer: &mut Vec<u8>) -> Result<Encoded<'a>, AddError> {
        let refuse = |error| self.collector.topic.refuse(error);
        let rules = &*self.rules;
        let key =
            contained("partitioner", || rules.key.as_ref().and_then(|key| key(value))).map_err(refuse)?;
        // For one that looks at no key, what the default does.
        let hash = self.collector.topic.settings.partition_strategy.key_hash().unwrap_or_default();
        let place = || rules.place.as_ref().map(|place| place(value).placement(hash));
        let placement = contained("partitioner", place).map_err(refuse)?;
        let flush = contained("flusher", || rules.flush.as_ref().is_some_and(|flush| flush(value)))
            .map_err(refuse)?;
        buffer.clear();
        let encoded = contained("encoder", || serde_json::to_writer(&mut *buffer, value)).map_err(refuse)?;
        encoded.map_err(|error| refuse(AddError::Encode(Box::new(error))))?;
        Ok(Encoded { key, placement, flush })
    }
}
