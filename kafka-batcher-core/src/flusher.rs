//! [`BatchFlusher`]: the user's word that a batch must go out now.
//!
//! A flusher looks at one event and may ask that it is sent at once. The flush covers the event itself and everything
//! accepted before it in its partition (with `collect_by_partition = false`: in its topic), even when another limit
//! fires on the same event: if the event overflows the batch, both the batch before it and its own go out. Events
//! accepted later are not part of it, and `min_delay` does not hold it back.
//!
//! It runs before the event is accepted, by the thread that adds the event and outside any lock. If it fails, that
//! event is refused with its error; what was accepted before is not touched, and nothing is flushed.

use std::sync::Arc;

use crate::partitioner::BoxError;

/// Decides whether an event is sent at once; one of the five seams that users may fill.
///
/// The Elixir library's `flush?(key, value)`. A collector of typed events asks a closure over the typed value instead.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::flusher::{BatchFlusher, FlushError};
///
/// /// A trade that closes the day must not wait for the batch to fill.
/// struct AtClose;
///
/// impl BatchFlusher for AtClose {
///     fn should_flush(&self, _key: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, FlushError> {
///         Ok(value.is_some_and(|value| value.ends_with(b"CLOSE")))
///     }
/// }
/// # assert!(AtClose.should_flush(None, Some(b"CLOSE")).unwrap());
/// ```
pub trait BatchFlusher: Send + Sync {
    /// Whether the batch is to be sent with this event as its last. `None` is null, which differs from empty.
    ///
    /// # Errors
    /// Whatever it cannot decide: the event is refused with this error, its neighbours are unharmed.
    fn should_flush(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, FlushError>;
}

impl<T: BatchFlusher + ?Sized> BatchFlusher for Arc<T> {
    fn should_flush(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, FlushError> {
        (**self).should_flush(key, value)
    }
}

/// Never flushes: batches go out when they are full or due. The default, as in the Elixir library.
#[derive(Debug, Clone, Copy, Default)]
pub struct NeverFlush;

impl BatchFlusher for NeverFlush {
    fn should_flush(&self, _key: Option<&[u8]>, _value: Option<&[u8]>) -> Result<bool, FlushError> {
        Ok(false)
    }
}

/// A closure as flusher.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::flusher::{BatchFlusher, FlushFn};
///
/// let urgent = FlushFn::new(|key, _value| key == Some(b"urgent"));
/// assert!(urgent.should_flush(Some(b"urgent"), None)?);
///
/// let by_number = FlushFn::fallible(|_key, value| {
///     let number: i32 = std::str::from_utf8(value.unwrap_or_default())?.parse()?;
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(number > 100)
/// });
/// assert!(by_number.should_flush(None, Some(b"250"))?);
/// assert!(by_number.should_flush(None, Some(b"a lot")).is_err());
/// # Ok::<_, kafka_batcher_core::flusher::FlushError>(())
/// ```
pub struct FlushFn {
    decide: Box<Decide>,
}

type Decide = dyn Fn(Option<&[u8]>, Option<&[u8]>) -> Result<bool, FlushError> + Send + Sync;

impl FlushFn {
    /// A closure of key and value that always knows.
    pub fn new<F>(decide: F) -> Self
    where
        F: Fn(Option<&[u8]>, Option<&[u8]>) -> bool + Send + Sync + 'static,
    {
        Self { decide: Box::new(move |key, value| Ok(decide(key, value))) }
    }

    /// A closure that may fail; its error refuses that event alone.
    pub fn fallible<F, E>(decide: F) -> Self
    where
        F: Fn(Option<&[u8]>, Option<&[u8]>) -> Result<bool, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        Self { decide: Box::new(move |key, value| decide(key, value).map_err(FlushError::new)) }
    }
}

impl std::fmt::Debug for FlushFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlushFn").finish_non_exhaustive()
    }
}

impl BatchFlusher for FlushFn {
    fn should_flush(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<bool, FlushError> {
        (self.decide)(key, value)
    }
}

/// The flusher could not decide. The event was not accepted.
#[derive(Debug, thiserror::Error)]
#[error("the batch flusher failed: {source}")]
pub struct FlushError {
    /// What it said.
    source: BoxError,
}

impl FlushError {
    /// A failure, from any error or message.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self { source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_never_flushes() {
        assert!(!NeverFlush.should_flush(Some(b"key"), Some(b"value")).expect("it never fails"));
    }

    #[test]
    fn a_flusher_tells_null_from_empty() {
        let tombstones: Arc<dyn BatchFlusher> = Arc::new(FlushFn::new(|_, value| value.is_none()));
        assert!(tombstones.should_flush(Some(b"key"), None).expect("decided"));
        assert!(!tombstones.should_flush(Some(b"key"), Some(b"")).expect("decided"));
    }

    #[test]
    fn a_failing_flusher_says_why() {
        let failing = FlushFn::fallible(|_, _| Err::<bool, _>("no idea"));
        let error = failing.should_flush(None, None).expect_err("it fails");
        assert_eq!(error.to_string(), "the batch flusher failed: no idea");
        assert!(std::error::Error::source(&error).is_some());
    }
}
