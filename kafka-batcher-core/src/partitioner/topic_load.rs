//! [`TopicLoad`]: a [`TopicView`] over atomics, for the driver that keeps it up to date and for tests of partitioners.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::TopicView;

/// What is known of each partition of a topic. The number of partitions is fixed: a topic that grows gets a new one.
#[derive(Debug)]
pub struct TopicLoad {
    partitions: Box<[PartitionLoad]>,
}

#[derive(Debug)]
struct PartitionLoad {
    queued_bytes: AtomicU64,
    available: AtomicBool,
}

impl TopicLoad {
    /// A topic whose partitions all have a leader and nothing queued. 0 means: not known yet.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let idle = || PartitionLoad { queued_bytes: AtomicU64::new(0), available: AtomicBool::new(true) };
        Self { partitions: std::iter::repeat_with(idle).take(count as usize).collect() }
    }

    /// Notes whether a partition has a leader. A partition that does not exist is ignored.
    pub fn set_available(&self, partition: i32, available: bool) {
        if let Some(load) = self.load(partition) {
            load.available.store(available, Ordering::Relaxed);
        }
    }

    /// Notes how many bytes wait or are in flight. A partition that does not exist is ignored.
    pub fn set_queued_bytes(&self, partition: i32, bytes: u64) {
        if let Some(load) = self.load(partition) {
            load.queued_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    fn load(&self, partition: i32) -> Option<&PartitionLoad> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }
}

impl TopicView for TopicLoad {
    fn partition_count(&self) -> u32 {
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    fn is_available(&self, partition: i32) -> bool {
        self.load(partition).is_some_and(|load| load.available.load(Ordering::Relaxed))
    }

    fn queued_bytes(&self, partition: i32) -> u64 {
        self.load(partition).map_or(0, |load| load.queued_bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_does_not_exist_is_unavailable_and_changes_nothing() {
        let topic = TopicLoad::new(2);
        for partition in [-1, 2, i32::MAX, i32::MIN] {
            topic.set_available(partition, true);
            topic.set_queued_bytes(partition, 5);
            assert!(!topic.is_available(partition));
            assert_eq!(topic.queued_bytes(partition), 0);
        }
        assert!(topic.is_available(0) && topic.is_available(1));
    }
}
