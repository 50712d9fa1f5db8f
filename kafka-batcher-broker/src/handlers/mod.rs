//! From a frame to an answer: which request it is, what it touches, who serves it.

mod cluster;
mod configs;
mod fetch;
mod offsets;
mod produce;
mod producers;
mod topics;

use std::sync::{Arc, MutexGuard};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeProducersRequest, FetchRequest, FindCoordinatorRequest,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

use crate::api::Api;
use crate::error_code::ErrorCode;
use crate::faults::Verdict;
use crate::state::{Shared, State};

/// A decoded request body.
enum Body {
    ApiVersions,
    Produce(ProduceRequest),
    Fetch(FetchRequest),
    ListOffsets(ListOffsetsRequest),
    Metadata(MetadataRequest),
    FindCoordinator(FindCoordinatorRequest),
    CreateTopics(CreateTopicsRequest),
    DeleteTopics(DeleteTopicsRequest),
    InitProducerId(InitProducerIdRequest),
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest),
    DescribeConfigs(DescribeConfigsRequest),
    DescribeCluster(DescribeClusterRequest),
    DescribeProducers(DescribeProducersRequest),
}

/// A request that this broker serves.
pub(crate) struct Request {
    pub(crate) api: Api,
    version: i16,
    correlation_id: i32,
    body: Body,
}

/// Why a frame is no request.
pub(crate) enum Undecodable {
    /// An ApiVersions in a version from the future: answered in version 0 with error 35, so that the client can ask again (KIP-511).
    Answer(BytesMut),
    /// Anything else: the connection is closed, as Kafka does.
    Close(String),
}

/// What is written back.
pub(crate) enum Reply {
    Answer(BytesMut),
    /// acks = 0.
    Nothing,
    /// acks = 0 and an error, or a broker that was stopped meanwhile.
    Close,
}

impl Request {
    pub(crate) fn decode(mut frame: Bytes) -> Result<Self, Undecodable> {
        let close = |why: String| Undecodable::Close(why);
        let number = |at: usize| {
            let two = frame.get(at..at + 2).and_then(|two| two.try_into().ok());
            two.map(i16::from_be_bytes).ok_or_else(|| close("a request shorter than its header".to_owned()))
        };
        let (key, version) = (number(0)?, number(2)?);
        let correlation = frame.get(4..8).and_then(|four| four.try_into().ok()).map(i32::from_be_bytes);
        let correlation_id =
            correlation.ok_or_else(|| close("a request shorter than its header".to_owned()))?;
        let api = Api::from_key(key).ok_or_else(|| close(format!("api key {key} is not served")))?;
        let (min, max) = api.versions();
        if !(min..=max).contains(&version) {
            if api == Api::ApiVersions {
                let body = cluster::api_versions_unsupported();
                return Err(encode(correlation_id, 0, &body).map_or_else(close, Undecodable::Answer));
            }
            return Err(close(format!("version {version} of {api:?} is not served, only {min} to {max}")));
        }
        let header_version = ApiKey::try_from(key).map_or(1, |key| key.request_header_version(version));
        RequestHeader::decode(&mut frame, header_version).map_err(|error| close(error.to_string()))?;
        let body = Body::decode(api, &mut frame, version)
            .map_err(|error| close(format!("{api:?} version {version}: {error}")))?;
        Ok(Self { api, version, correlation_id, body })
    }

    /// The topics and partitions that the request is about; partition -1: the topic as a whole.
    pub(crate) fn touches(&self, state: &State) -> Vec<(String, i32)> {
        let mut touched = Vec::new();
        let mut add = |name: &str, partition: i32| touched.push((name.to_owned(), partition));
        let by_id = |id, name: &TopicName| match state.topic_by_id(id) {
            Some((known, _)) => known.to_owned(),
            None => name.to_string(),
        };
        match &self.body {
            Body::Produce(request) => {
                for topic in &request.topic_data {
                    let name = by_id(topic.topic_id, &topic.name);
                    topic.partition_data.iter().for_each(|partition| add(&name, partition.index));
                }
            }
            Body::Fetch(request) => {
                for topic in &request.topics {
                    let name = by_id(topic.topic_id, &topic.topic);
                    topic.partitions.iter().for_each(|partition| add(&name, partition.partition));
                }
            }
            Body::ListOffsets(request) => {
                for topic in &request.topics {
                    topic.partitions.iter().for_each(|partition| add(&topic.name, partition.partition_index));
                }
            }
            Body::OffsetForLeaderEpoch(request) => {
                for topic in &request.topics {
                    topic.partitions.iter().for_each(|partition| add(&topic.topic, partition.partition));
                }
            }
            Body::DescribeProducers(request) => {
                for topic in &request.topics {
                    topic.partition_indexes.iter().for_each(|partition| add(&topic.name, *partition));
                }
            }
            Body::Metadata(request) => match &request.topics {
                Some(topics) => {
                    for topic in topics {
                        let name = topic.name.clone().unwrap_or_default();
                        add(&by_id(topic.topic_id, &name), -1);
                    }
                }
                None => state.topics.keys().for_each(|name| add(name, -1)),
            },
            Body::CreateTopics(request) => request.topics.iter().for_each(|topic| add(&topic.name, -1)),
            Body::DeleteTopics(request) => {
                request.topic_names.iter().for_each(|name| add(name, -1));
                for topic in &request.topics {
                    add(&by_id(topic.topic_id, &topic.name.clone().unwrap_or_default()), -1);
                }
            }
            Body::ApiVersions
            | Body::FindCoordinator(_)
            | Body::InitProducerId(_)
            | Body::DescribeConfigs(_)
            | Body::DescribeCluster(_) => {}
        }
        touched
    }
}

impl Body {
    fn decode(api: Api, frame: &mut Bytes, version: i16) -> Result<Self, String> {
        let wrong = |error| format!("{error:#}");
        Ok(match api {
            Api::ApiVersions => {
                ApiVersionsRequest::decode(frame, version).map_err(wrong)?;
                Self::ApiVersions
            }
            Api::Produce => Self::Produce(Decodable::decode(frame, version).map_err(wrong)?),
            Api::Fetch => Self::Fetch(Decodable::decode(frame, version).map_err(wrong)?),
            Api::ListOffsets => Self::ListOffsets(Decodable::decode(frame, version).map_err(wrong)?),
            Api::Metadata => Self::Metadata(Decodable::decode(frame, version).map_err(wrong)?),
            Api::FindCoordinator => Self::FindCoordinator(Decodable::decode(frame, version).map_err(wrong)?),
            Api::CreateTopics => Self::CreateTopics(Decodable::decode(frame, version).map_err(wrong)?),
            Api::DeleteTopics => Self::DeleteTopics(Decodable::decode(frame, version).map_err(wrong)?),
            Api::InitProducerId => Self::InitProducerId(Decodable::decode(frame, version).map_err(wrong)?),
            Api::OffsetForLeaderEpoch => {
                Self::OffsetForLeaderEpoch(Decodable::decode(frame, version).map_err(wrong)?)
            }
            Api::DescribeConfigs => Self::DescribeConfigs(Decodable::decode(frame, version).map_err(wrong)?),
            Api::DescribeCluster => Self::DescribeCluster(Decodable::decode(frame, version).map_err(wrong)?),
            Api::DescribeProducers => {
                Self::DescribeProducers(Decodable::decode(frame, version).map_err(wrong)?)
            }
        })
    }
}

/// Who serves, and what shall go wrong.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) broker: i32,
    pub(crate) generation: u64,
    pub(crate) verdict: &'a Verdict,
}

impl Context<'_> {
    /// The state, unless this broker was stopped meanwhile.
    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.shared.lock_live(self.broker, self.generation)
    }
}

/// A frame of size, header and body.
fn encode<T: Encodable + HeaderVersion>(
    correlation_id: i32,
    version: i16,
    body: &T,
) -> Result<BytesMut, String> {
    let wrong = |error| format!("an answer could not be encoded: {error:#}");
    let mut frame = BytesMut::with_capacity(256);
    frame.extend_from_slice(&[0; 4]);
    ResponseHeader::default()
        .with_correlation_id(correlation_id)
        .encode(&mut frame, T::header_version(version))
        .map_err(wrong)?;
    body.encode(&mut frame, version).map_err(wrong)?;
    let size = i32::try_from(frame.len() - 4).map_err(|_| "an answer of more than 2 GiB".to_owned())?;
    if let Some(place) = frame.get_mut(..4) {
        place.copy_from_slice(&size.to_be_bytes());
    }
    Ok(frame)
}

/// Serves a request; an error is a bug of this crate, or an answer that is too large.
pub(crate) async fn serve(context: &Context<'_>, request: Request) -> Result<Reply, String> {
    let Request { version, correlation_id, body, .. } = request;
    macro_rules! answer {
        ($answer:expr) => {
            match $answer {
                Some(answer) => encode(correlation_id, version, &answer).map(Reply::Answer),
                None => Ok(Reply::Close),
            }
        };
    }
    match body {
        Body::Produce(request) => match produce::produce(context, &request, version) {
            produce::Outcome::Answer(answer) => encode(correlation_id, version, &answer).map(Reply::Answer),
            produce::Outcome::Nothing => Ok(Reply::Nothing),
            produce::Outcome::Close => Ok(Reply::Close),
        },
        Body::Fetch(request) => answer!(fetch::fetch(context, &request, version).await),
        Body::ApiVersions => answer!(Some(cluster::api_versions(context))),
        Body::ListOffsets(request) => answer!(offsets::list_offsets(context, &request, version)),
        Body::OffsetForLeaderEpoch(request) => answer!(offsets::offset_for_leader_epoch(context, &request)),
        Body::Metadata(request) => answer!(cluster::metadata(context, &request, version)),
        Body::FindCoordinator(request) => {
            answer!(Some(cluster::find_coordinator(context, &request, version)))
        }
        Body::CreateTopics(request) => answer!(topics::create(context, &request)),
        Body::DeleteTopics(request) => answer!(topics::delete(context, &request, version)),
        Body::InitProducerId(request) => answer!(producers::init(context, &request)),
        Body::DescribeProducers(request) => answer!(producers::describe(context, &request)),
        Body::DescribeConfigs(request) => answer!(configs::describe(context, &request)),
        Body::DescribeCluster(request) => answer!(cluster::describe(context, &request)),
    }
}

fn text(words: impl Into<String>) -> StrBytes {
    StrBytes::from_string(words.into())
}

fn words(code: ErrorCode) -> Option<StrBytes> {
    code.is_error().then(|| text(code.name().unwrap_or("an error that the test ordered")))
}
