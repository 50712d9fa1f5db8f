//! Kafka's protocol as bytes: what a producer asks, what a broker answers, and how a stream is cut into answers.
//!
//! Only the eight requests that a producer needs are here, each in every version from Kafka 0.11 (June 2017) to the
//! latest known one. Written by hand, for two reasons. Produce must go out in one vectored write, straight from the
//! batches' memory ([`ProduceFrame`]). And answers come from a network that may hold anything: a reader here believes
//! no count that the bytes at hand cannot hold, where a generated codec reserves whatever an array's length field says
//! (two billion elements end the process). The tests compare every message in every version with kafka-protocol.
//!
//! Promises: nothing here panics or allocates more than a small multiple of the bytes it was given, whatever they are.
//! Refuses: requests a producer does not send.

mod api_versions;
mod describe_configs;
mod describe_producers;
mod frame;
mod init_producer_id;
mod metadata;
mod produce;
mod produce_response;
mod reader;
mod sasl;
mod writer;

pub use api_versions::{ApiVersions, api_versions_request, read_api_versions};
pub use describe_configs::{TopicConfigs, describe_configs_request, read_topic_configs};
pub use describe_producers::{DescribedPartition, describe_producers_request, read_described_partition};
pub use frame::{FrameBuffer, FrameError, MAX_FRAME};
pub use init_producer_id::{InitProducerIdAnswer, init_producer_id_request, read_init_producer_id};
pub use metadata::{
    BrokerMetadata, MetadataAnswer, PartitionMetadata, TopicMetadata, metadata_request, read_metadata,
};
pub use produce::{ProduceFrame, ProduceHead, ProduceItem, REQUEST_OVERHEAD, item_overhead};
pub use produce_response::{ProduceVisitor, ProducedPartition, TopicRef, read_produce};
pub use reader::WireError;
pub(crate) use reader::{Encoding, Reader};
pub use sasl::{
    SaslAuthenticateAnswer, SaslHandshakeAnswer, read_sasl_authenticate, read_sasl_handshake,
    sasl_authenticate_request, sasl_handshake_request,
};
pub(crate) use writer::Writer;

/// A request that this crate can write and whose answer it can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// Produce: writes batches.
    Produce,
    /// Metadata: who leads which partition.
    Metadata,
    /// SaslHandshake: which mechanism (KIP-43).
    SaslHandshake,
    /// ApiVersions: what the broker speaks (KIP-35).
    ApiVersions,
    /// InitProducerId: an id of one's own (KIP-98).
    InitProducerId,
    /// DescribeConfigs: how long a topic keeps events (KIP-133).
    DescribeConfigs,
    /// SaslAuthenticate: who one is (KIP-152).
    SaslAuthenticate,
    /// DescribeProducers: what a partition knows of producers (KIP-664).
    DescribeProducers,
}

impl Api {
    /// All of them.
    pub const ALL: [Api; 8] = [
        Api::Produce,
        Api::Metadata,
        Api::SaslHandshake,
        Api::ApiVersions,
        Api::InitProducerId,
        Api::DescribeConfigs,
        Api::SaslAuthenticate,
        Api::DescribeProducers,
    ];

    /// Its number in the protocol.
    pub const fn key(self) -> i16 {
        match self {
            Api::Produce => 0,
            Api::Metadata => 3,
            Api::SaslHandshake => 17,
            Api::ApiVersions => 18,
            Api::InitProducerId => 22,
            Api::DescribeConfigs => 32,
            Api::SaslAuthenticate => 36,
            Api::DescribeProducers => 61,
        }
    }

    /// Its name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Api::Produce => "Produce",
            Api::Metadata => "Metadata",
            Api::SaslHandshake => "SaslHandshake",
            Api::ApiVersions => "ApiVersions",
            Api::InitProducerId => "InitProducerId",
            Api::DescribeConfigs => "DescribeConfigs",
            Api::SaslAuthenticate => "SaslAuthenticate",
            Api::DescribeProducers => "DescribeProducers",
        }
    }

    /// The oldest and the newest version spoken here. Record batches of format 2 need Produce 3, that is Kafka 0.11.
    pub const fn versions(self) -> (i16, i16) {
        match self {
            Api::Produce => (3, 13),
            Api::Metadata => (4, 13),
            Api::SaslHandshake => (1, 1),
            Api::ApiVersions => (0, 3),
            Api::InitProducerId => (0, 5),
            Api::DescribeConfigs => (1, 1),
            Api::SaslAuthenticate => (0, 2),
            Api::DescribeProducers => (0, 0),
        }
    }

    /// How a message of this version writes lengths, and whether it has tagged fields (KIP-482).
    pub(crate) const fn encoding(self, version: i16) -> Encoding {
        let flexible_from = match self {
            Api::Produce | Api::Metadata => 9,
            Api::ApiVersions => 3,
            Api::InitProducerId | Api::SaslAuthenticate => 2,
            Api::DescribeConfigs => 4,
            Api::DescribeProducers => 0,
            Api::SaslHandshake => i16::MAX,
        };
        if version >= flexible_from { Encoding::Flexible } else { Encoding::Classic }
    }

    /// How the header of an answer is written: ApiVersions is always answered the old way, since the broker does not
    /// know yet what the client understands.
    const fn answer_header(self, version: i16) -> Encoding {
        match self {
            Api::ApiVersions => Encoding::Classic,
            _ => self.encoding(version),
        }
    }
}

/// Starts a request: length (0 until [`finish_request`]), key, version, correlation id, client id.
pub(crate) fn start_request<'a>(
    out: &'a mut Vec<u8>,
    api: Api,
    version: i16,
    correlation: i32,
    client_id: &str,
) -> Writer<'a> {
    let mut writer = Writer::new(out, Encoding::Classic);
    writer.i32(0);
    writer.i16(api.key());
    writer.i16(version);
    writer.i32(correlation);
    // The client id stays in the old encoding even in a flexible header, so that every broker can read it.
    writer.string(client_id);
    writer.encoding = api.encoding(version);
    writer.tags();
    writer
}

/// Writes the length of a request that lies whole in `out`.
pub(crate) fn finish_request(out: &mut [u8]) {
    let length = (out.len().saturating_sub(4)) as i32;
    if let Some(place) = out.first_chunk_mut() {
        *place = length.to_be_bytes();
    }
}

/// The place of the correlation id in a request.
const CORRELATION: std::ops::Range<usize> = 8..12;

/// Gives a request, as any `*_request` function made it, its correlation id.
pub fn set_correlation(request: &mut [u8], correlation: i32) {
    if let Some(place) = request.get_mut(CORRELATION) {
        place.copy_from_slice(&correlation.to_be_bytes());
    }
}

/// The correlation id with which an answer begins.
///
/// # Errors
/// If there are fewer than 4 bytes.
pub fn correlation_of(answer: &[u8]) -> Result<i32, WireError> {
    Reader::new(answer, Encoding::Classic).i32("correlation id")
}

/// A reader behind the header of an answer.
pub(crate) fn open_answer(answer: &[u8], api: Api, version: i16) -> Result<Reader<'_>, WireError> {
    let mut reader = Reader::new(answer, api.answer_header(version));
    reader.i32("correlation id")?;
    reader.skip_tags()?;
    reader.set_encoding(api.encoding(version));
    Ok(reader)
}

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
