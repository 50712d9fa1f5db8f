//! Code of the program's own by name, so that a configuration can choose it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kafka_batcher_core::Interceptor;
use kafka_batcher_core::flusher::BatchFlusher;
use kafka_batcher_core::partitioner::Partitioner;

use crate::client::TokenProvider;
use crate::config::{CollectorSettings, Mistake};
use crate::error_notifier::ErrorNotifier;
use crate::producer::Producer;
use crate::storage::TempStorage;

/// What was registered of one kind.
pub(crate) struct Named<T: ?Sized> {
    /// "partitioner", as messages call it.
    kind: &'static str,
    by_name: BTreeMap<String, Arc<T>>,
}

impl<T: ?Sized> Named<T> {
    fn new(kind: &'static str) -> Self {
        Named { kind, by_name: BTreeMap::new() }
    }

    /// A later one of the same name takes the place of the earlier one.
    pub(crate) fn insert(&mut self, name: impl Into<String>, value: Arc<T>) {
        self.by_name.insert(name.into(), value);
    }

    /// What is registered under this name; `key` is the setting that asks for it.
    pub(crate) fn find(&self, key: &str, name: &str, mistakes: &mut Vec<Mistake>) -> Option<Arc<T>> {
        let found = self.by_name.get(name).cloned();
        if found.is_none() {
            let names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
            let known = match names.as_slice() {
                [] => "the program registered none".to_owned(),
                names => format!("registered are: {}", names.join(", ")),
            };
            let (kind, method) = (self.kind, self.kind.replace(' ', "_"));
            mistakes.push(Mistake::of(
                key,
                format!("no {kind} is registered as {name:?}; {known} (Builder::register_{method})"),
            ));
        }
        found
    }
}

/// Everything that was registered.
pub(crate) struct Registry {
    pub(crate) partitioners: Named<dyn Partitioner>,
    pub(crate) flushers: Named<dyn BatchFlusher>,
    pub(crate) interceptors: Named<dyn Interceptor>,
    pub(crate) notifiers: Named<dyn ErrorNotifier>,
    pub(crate) storages: Named<dyn TempStorage>,
    pub(crate) producers: Named<dyn Producer>,
    pub(crate) token_providers: Named<dyn TokenProvider>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            partitioners: Named::new("partitioner"),
            flushers: Named::new("flusher"),
            interceptors: Named::new("interceptor"),
            notifiers: Named::new("error notifier"),
            storages: Named::new("storage"),
            producers: Named::new("producer"),
            token_providers: Named::new("token provider"),
        }
    }
}

/// What a collector's settings name, or its builder was given.
#[derive(Default)]
pub(crate) struct Chosen {
    pub(crate) partitioner: Option<Arc<dyn Partitioner>>,
    pub(crate) flusher: Option<Arc<dyn BatchFlusher>>,
    pub(crate) interceptor: Option<Arc<dyn Interceptor>>,
}

impl Chosen {
    /// What `self` lacks is taken from `other`.
    pub(crate) fn or(self, other: Chosen) -> Chosen {
        Chosen {
            partitioner: self.partitioner.or(other.partitioner),
            flusher: self.flusher.or(other.flusher),
            interceptor: self.interceptor.or(other.interceptor),
        }
    }
}

impl Registry {
    /// What these settings name; every name that is not there is a mistake.
    pub(crate) fn choose(&self, settings: &CollectorSettings, mistakes: &mut Vec<Mistake>) -> Chosen {
        let CollectorSettings { partition_fn, batch_flusher, interceptor, .. } = settings;
        let (partitioner, flusher) = (partition_fn.as_deref(), batch_flusher.as_deref());
        Chosen {
            partitioner: partitioner.and_then(|name| self.partitioners.find("partition_fn", name, mistakes)),
            flusher: flusher.and_then(|name| self.flushers.find("batch_flusher", name, mistakes)),
            interceptor: interceptor
                .as_deref()
                .and_then(|name| self.interceptors.find("interceptor", name, mistakes)),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}
