//! Which requests this broker serves, and in which versions.
//!
//! One table. What is not in it is not advertised, and a client that sends it all the same loses its connection, as with Kafka.

use kafka_protocol::messages::ApiKey;

/// A request that this broker serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Api {
    /// Write record batches.
    Produce,
    /// Read record batches.
    Fetch,
    /// Find an offset by time, or either end of a log.
    ListOffsets,
    /// Brokers, topics, leaders.
    Metadata,
    /// Always answered 15 `COORDINATOR_NOT_AVAILABLE`: there are no consumer groups here. It is advertised because librdkafka takes its
    /// presence as the sign that LZ4 is understood.
    FindCoordinator,
    /// What this broker serves.
    ApiVersions,
    /// Make topics.
    CreateTopics,
    /// Remove topics.
    DeleteTopics,
    /// A fresh id for an idempotent producer.
    InitProducerId,
    /// Where a leader epoch ended (consumers ask it after a change of leader).
    OffsetForLeaderEpoch,
    /// Settings of topics and brokers.
    DescribeConfigs,
    /// Cluster id, controller, brokers.
    DescribeCluster,
    /// What a partition remembers of its producers (KIP-664).
    DescribeProducers,
}

/// One row of the table: the api, the lowest and highest version served, and the lowest one *said* to be served.
pub(crate) struct Served {
    pub(crate) api: Api,
    pub(crate) key: i16,
    pub(crate) min: i16,
    pub(crate) max: i16,
    /// Kafka 4 says that it serves Produce from 0 although it refuses 0 to 2: librdkafka before 2.9 reads "no version 2" as "no
    /// compression" (KAFKA-18659). So do we.
    pub(crate) advertised_min: i16,
}

const fn served(api: Api, key: ApiKey, min: i16, max: i16) -> Served {
    Served { api, key: key as i16, min, max, advertised_min: min }
}

/// Every api served.
pub(crate) const SERVED: [Served; Api::ALL.len()] = [
    Served { advertised_min: 0, ..served(Api::Produce, ApiKey::Produce, 3, 13) },
    served(Api::Fetch, ApiKey::Fetch, 4, 17),
    served(Api::ListOffsets, ApiKey::ListOffsets, 1, 10),
    served(Api::Metadata, ApiKey::Metadata, 0, 13),
    served(Api::FindCoordinator, ApiKey::FindCoordinator, 0, 6),
    served(Api::ApiVersions, ApiKey::ApiVersions, 0, 4),
    served(Api::CreateTopics, ApiKey::CreateTopics, 2, 7),
    served(Api::DeleteTopics, ApiKey::DeleteTopics, 1, 6),
    served(Api::InitProducerId, ApiKey::InitProducerId, 0, 5),
    served(Api::OffsetForLeaderEpoch, ApiKey::OffsetForLeaderEpoch, 2, 4),
    served(Api::DescribeConfigs, ApiKey::DescribeConfigs, 1, 4),
    served(Api::DescribeCluster, ApiKey::DescribeCluster, 0, 2),
    served(Api::DescribeProducers, ApiKey::DescribeProducers, 0, 0),
];

impl Api {
    /// Every api, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::Produce,
        Self::Fetch,
        Self::ListOffsets,
        Self::Metadata,
        Self::FindCoordinator,
        Self::ApiVersions,
        Self::CreateTopics,
        Self::DeleteTopics,
        Self::InitProducerId,
        Self::OffsetForLeaderEpoch,
        Self::DescribeConfigs,
        Self::DescribeCluster,
        Self::DescribeProducers,
    ];

    /// The api key on the wire.
    #[must_use]
    pub fn key(self) -> i16 {
        self.row().key
    }

    /// The versions served, lowest and highest.
    #[must_use]
    pub fn versions(self) -> (i16, i16) {
        let row = self.row();
        (row.min, row.max)
    }

    pub(crate) fn row(self) -> &'static Served {
        &SERVED[self.index()]
    }

    /// Position in [`Api::ALL`] and in [`SERVED`], which are in the order of the declaration.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn from_key(key: i16) -> Option<Self> {
        SERVED.iter().find(|row| row.key == key).map(|row| row.api)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_stands_at_its_own_place_in_the_table() {
        for (at, api) in Api::ALL.into_iter().enumerate() {
            assert_eq!(api.index(), at);
            assert_eq!(SERVED[at].api, api);
            assert_eq!(Api::from_key(api.key()), Some(api));
        }
    }
}
