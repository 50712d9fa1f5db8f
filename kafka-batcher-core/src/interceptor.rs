//! [`Interceptor`]: headers that every event gets, such as the trace it belongs to.
//!
//! As the producer interceptors of Java's client (KIP-42), less what would let one change or drop an event: an interceptor sees
//! the event as its caller gave it and adds headers behind the caller's own.
//!
//! It runs before the event is accepted, by the thread that adds the event, outside any lock, once for each event. If it
//! panics, that event is refused; what was accepted before is not touched.

use std::borrow::Cow;
use std::sync::Arc;

use crate::record::{Header, Record};

/// Adds headers to events.
///
/// ```
/// # extern crate kafka_batcher_core as kafka_batcher;
/// use kafka_batcher::{AddedHeaders, Interceptor, Record};
///
/// /// W3C trace context, as OpenTelemetry's messaging conventions have it.
/// struct Traced;
///
/// impl Interceptor for Traced {
///     fn on_event(&self, _event: &Record<'_>, headers: &mut AddedHeaders) {
///         headers.add("traceparent", Some(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
///     }
/// }
/// # let mut headers = AddedHeaders::default();
/// # Traced.on_event(&Record::value("v"), &mut headers);
/// # assert_eq!(headers.behind(&[]).len(), 1);
/// ```
pub trait Interceptor: Send + Sync {
    /// Called for each event before it is accepted. What is added counts in the event's size.
    fn on_event(&self, event: &Record<'_>, headers: &mut AddedHeaders);
}

impl<T: Interceptor + ?Sized> Interceptor for Arc<T> {
    fn on_event(&self, event: &Record<'_>, headers: &mut AddedHeaders) {
        (**self).on_event(event, headers);
    }
}

/// The headers that an [`Interceptor`] adds to one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddedHeaders {
    added: Vec<(Cow<'static, str>, Option<Vec<u8>>)>,
}

impl AddedHeaders {
    /// One more. Names may repeat, order is kept, a `None` value is null.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, value: Option<&[u8]>) {
        self.added.push((name.into(), value.map(<[u8]>::to_vec)));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
    }

    /// All headers of an event whose own are these.
    pub fn behind<'a>(&'a self, own: &[Header<'a>]) -> Vec<Header<'a>> {
        let added = self.added.iter().map(|(name, value)| Header { name, value: value.as_deref() });
        own.iter().copied().chain(added).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_stands_behind_the_events_own_headers_in_order() {
        let mut added = AddedHeaders::default();
        assert!(added.is_empty());
        added.add("a", Some(b"2"));
        added.add("null", None);
        let own = [Header::new("a", "1")];
        assert_eq!(added.behind(&own), [Header::new("a", "1"), Header::new("a", "2"), Header::null("null")]);
    }
}
