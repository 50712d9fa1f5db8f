//! The answer to a Produce request, matched with the batches that were sent: one answer for each, in their order.

use kafka_batcher_core::wire::{ProduceVisitor, ProducedPartition, TopicRef, WireError, read_produce};
use kafka_batcher_core::{ErrorCode, ProduceAnswer, ProduceResult, Refusal};

use super::cluster::Cluster;
use super::metadata::Leadership;
use super::sink::{Piece, PieceItem};

/// Reads the answer of the broker at `name` to `piece`. What it says about leaders is told to `cluster`. Returns an answer for each batch and
/// for how long to send nothing, in milliseconds; an error if the bytes are no answer, with what was read until then.
pub(super) fn read(
    name: &str,
    frame: &[u8],
    version: i16,
    piece: &Piece,
    cluster: Option<&Cluster>,
) -> (Vec<ProduceAnswer>, Result<i32, WireError>) {
    let mut matcher =
        Matcher { piece, cluster, answers: unanswered(piece), next: 0, sorted: Vec::new(), stale: false };
    let result = read_produce(frame, version, &mut matcher);
    let Matcher { mut answers, stale, .. } = matcher;
    if stale && let Some(cluster) = cluster {
        cluster.want_refresh();
    }
    say_why(&mut answers, || match &result {
        Ok(_) => format!("the answer of {name} leaves this partition out"),
        Err(error) => format!("the answer of {name} could not be read: {error}"),
    });
    (answers, result)
}

/// The same answer for each batch: written, without an offset (acks = 0).
pub(super) fn written(piece: &Piece) -> Vec<ProduceAnswer> {
    let acked = |item: &PieceItem| ProduceAnswer {
        result: ProduceResult::Acked { base_offset: None },
        leader: Some(item.leader),
    };
    piece.items.iter().map(acked).collect()
}

/// Every batch is lost, for this reason.
pub(crate) fn lost(piece: &Piece, why: &str) -> Vec<ProduceAnswer> {
    let mut answers = unanswered(piece);
    say_why(&mut answers, || why.to_owned());
    answers
}

/// No batch was sent, for this reason.
pub(crate) fn not_sent(piece: &Piece, why: &str) -> Vec<ProduceAnswer> {
    let not_sent = |_: &PieceItem| ProduceAnswer {
        result: ProduceResult::NotSent { message: why.to_owned() },
        leader: None,
    };
    piece.items.iter().map(not_sent).collect()
}

/// Lost, and not yet said why: an empty message takes no memory, and mostly it is replaced at once.
fn unanswered(piece: &Piece) -> Vec<ProduceAnswer> {
    let lost = |item: &PieceItem| ProduceAnswer {
        result: ProduceResult::Lost { message: String::new() },
        leader: Some(item.leader),
    };
    piece.items.iter().map(lost).collect()
}

fn say_why(answers: &mut [ProduceAnswer], why: impl Fn() -> String) {
    for answer in answers {
        if let ProduceResult::Lost { message } = &mut answer.result
            && message.is_empty()
        {
            *message = why();
        }
    }
}

struct Matcher<'a> {
    piece: &'a Piece,
    cluster: Option<&'a Cluster>,
    answers: Vec<ProduceAnswer>,
    /// Where the next answer belongs if the broker keeps our order, as it mostly does.
    next: usize,
    /// The items' places ordered by partition, made when an answer is out of order.
    sorted: Vec<usize>,
    stale: bool,
}

impl Matcher<'_> {
    fn place(&mut self, topic: TopicRef<'_>, partition: i32) -> Option<usize> {
        let items = &self.piece.items;
        let fits = |at: usize| items.get(at).is_some_and(|item| is(item, topic, partition));
        if fits(self.next) {
            self.next += 1;
            return Some(self.next - 1);
        }
        let number = |at: &usize| items.get(*at).map_or(-1, |item| item.batch.partition);
        if self.sorted.is_empty() {
            self.sorted = (0..items.len()).collect();
            self.sorted.sort_by_key(number);
        }
        let first = self.sorted.partition_point(|at| number(at) < partition);
        let same = self.sorted.iter().skip(first).take_while(|at| number(at) == partition);
        let at = same.copied().find(|at| fits(*at))?;
        self.next = at + 1;
        Some(at)
    }
}

fn is(item: &PieceItem, topic: TopicRef<'_>, partition: i32) -> bool {
    item.batch.partition == partition
        && match topic {
            TopicRef::Name(name) => *item.batch.topic == *name,
            TopicRef::Id(id) => item.leader.topic_id == id,
        }
}

impl ProduceVisitor for Matcher<'_> {
    fn partition(&mut self, found: ProducedPartition<'_>) {
        let Some(at) = self.place(found.topic, found.partition) else {
            tracing::debug!(
                partition = found.partition,
                "a broker answered for a partition that was not sent"
            );
            return;
        };
        let (Some(answer), Some(item)) = (self.answers.get_mut(at), self.piece.items.get(at)) else { return };
        if found.code.0 == 0 {
            let base_offset = (found.base_offset >= 0).then_some(found.base_offset);
            answer.result = ProduceResult::Acked { base_offset };
            return;
        }
        self.stale |= means_stale_metadata(found.code);
        if let (Some((node, epoch)), Some(cluster)) = (found.current_leader, self.cluster) {
            let id = item.leader.topic_id;
            cluster.moved(&item.batch.topic, id, found.partition, Leadership { node, epoch });
        }
        let record_errors = found.record_errors.into_iter();
        answer.result = ProduceResult::Refused(Refusal {
            code: found.code,
            message: found.message.map(str::to_owned),
            record_errors: record_errors
                .filter_map(|(index, message)| Some((u32::try_from(index).ok()?, message.map(str::to_owned))))
                .collect(),
        });
    }

    fn broker(&mut self, node: i32, host: &str, port: i32) {
        if let Some(cluster) = self.cluster {
            cluster.broker(node, host, port);
        }
    }
}

/// Errors that say that this client's idea of the cluster is wrong: `InvalidMetadataException` and its kin in Kafka's
/// own client.
fn means_stale_metadata(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::LEADER_NOT_AVAILABLE
            | ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::REPLICA_NOT_AVAILABLE
            | ErrorCode::BROKER_NOT_AVAILABLE
            | ErrorCode::NETWORK_EXCEPTION
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::LISTENER_NOT_FOUND
            | ErrorCode::FENCED_LEADER_EPOCH
            | ErrorCode::UNKNOWN_LEADER_EPOCH
            | ErrorCode::UNKNOWN_TOPIC_ID
            | ErrorCode::INCONSISTENT_TOPIC_ID
            | ErrorCode::NEW_LEADER_ELECTED
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;
    use kafka_batcher_core::wire::{MetadataAnswer, PartitionMetadata, TopicMetadata};
    use kafka_batcher_core::{BackoffSettings, RecordBatch, TopicId};
    use kafka_protocol::messages::produce_response::{
        BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
        TopicProduceResponse,
    };
    use kafka_protocol::messages::{BrokerId, ProduceResponse, ResponseHeader, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;
    use crate::producer::PartitionBatch;

    const VERSION: i16 = 12;

    fn id(topic: &str) -> TopicId {
        TopicId([topic.as_bytes()[0]; 16])
    }

    /// A batch of one event, null key and null value, written by hand.
    fn batch() -> RecordBatch {
        let mut after_crc = vec![0; 40];
        after_crc[22..36].fill(0xff);
        after_crc[39] = 1;
        after_crc.extend_from_slice(&[12, 0, 0, 0, 1, 1, 0]);
        let mut bytes = vec![0; 17];
        bytes[11] = 9 + after_crc.len() as u8;
        bytes[16] = 2;
        bytes.extend_from_slice(&crc32c::crc32c(&after_crc).to_be_bytes());
        bytes.extend_from_slice(&after_crc);
        RecordBatch::decode(&bytes).unwrap().0
    }

    pub(crate) fn piece(places: &[(&str, i32)]) -> Piece {
        let item = |(topic, partition): &(&str, i32)| PieceItem {
            batch: PartitionBatch {
                topic: Arc::from(*topic),
                partition: *partition,
                batch: batch(),
                leader: None,
            },
            leader: kafka_batcher_core::Leader { node: 1, epoch: 4, topic_id: id(topic), connection: 3 },
        };
        Piece { acks: -1, timeout_ms: 1, items: places.iter().map(item).collect() }
    }

    fn text(text: &str) -> StrBytes {
        StrBytes::from_string(text.to_owned())
    }

    fn partition(index: i32, offset: i64) -> PartitionProduceResponse {
        PartitionProduceResponse::default().with_index(index).with_base_offset(offset)
    }

    fn topic(name: &str, partitions: Vec<PartitionProduceResponse>) -> TopicProduceResponse {
        TopicProduceResponse::default().with_name(TopicName(text(name))).with_partition_responses(partitions)
    }

    fn frame(answer: &ProduceResponse) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        ResponseHeader::default().encode(&mut bytes, 1).unwrap();
        answer.encode(&mut bytes, VERSION).unwrap();
        bytes.to_vec()
    }

    #[test]
    fn each_batch_gets_its_own_answer_in_whatever_order_they_come() {
        let places = [("a", 0), ("a", 7), ("a", 3), ("b", 3), ("b", 0), ("c", 1)];
        let answer = ProduceResponse::default().with_responses(vec![
            topic("c", vec![partition(1, 60)]),
            topic("b", vec![partition(0, 50), partition(3, 40), partition(9, 1)]),
            topic("a", vec![partition(7, 20), partition(0, 10)]),
            topic("unasked", vec![partition(0, 1)]),
            topic("a", vec![partition(3, 30)]),
        ]);
        let (answers, throttle) = read("here", &frame(&answer), VERSION, &piece(&places), None);
        assert_eq!(throttle, Ok(0));
        let acked = |offset| ProduceResult::Acked { base_offset: Some(offset) };
        let found: Vec<ProduceResult> = answers.into_iter().map(|answer| answer.result).collect();
        assert_eq!(found, [10, 20, 30, 40, 50, 60].map(acked));
    }

    #[test]
    fn a_partition_that_the_answer_leaves_out_is_lost() {
        let answer = ProduceResponse::default().with_responses(vec![topic("a", vec![partition(1, 5)])]);
        let (answers, _) = read("here", &frame(&answer), VERSION, &piece(&[("a", 0), ("a", 1)]), None);
        let message = "the answer of here leaves this partition out".to_owned();
        assert_eq!(answers[0].result, ProduceResult::Lost { message });
        assert_eq!(answers[1].result, ProduceResult::Acked { base_offset: Some(5) });
    }

    #[test]
    fn a_refusal_says_everything_that_the_broker_said() {
        let at_fault = BatchIndexAndErrorMessage::default()
            .with_batch_index(2)
            .with_batch_index_error_message(Some(text("too late")));
        let refused = partition(0, -1)
            .with_error_code(32)
            .with_error_message(Some(text("bad times")))
            .with_record_errors(vec![at_fault]);
        let answer = ProduceResponse::default().with_responses(vec![topic("a", vec![refused])]);
        let (answers, _) = read("here", &frame(&answer), VERSION, &piece(&[("a", 0)]), None);
        let expected = Refusal {
            code: ErrorCode::INVALID_TIMESTAMP,
            message: Some("bad times".to_owned()),
            record_errors: vec![(2, Some("too late".to_owned()))],
        };
        assert_eq!(answers[0].result, ProduceResult::Refused(expected));
    }

    /// KIP-951: no metadata is needed to go on.
    #[test]
    fn a_redirect_with_the_new_leaders_address_is_learned_from_the_answer() {
        let cluster = Cluster::new(BackoffSettings::default());
        let known = PartitionMetadata { code: ErrorCode(0), partition: 0, leader: 1, leader_epoch: 4 };
        let described =
            TopicMetadata { code: ErrorCode(0), name: "a".to_owned(), id: id("a"), partitions: vec![known] };
        cluster.learn(&MetadataAnswer {
            throttle_ms: 0,
            code: ErrorCode(0),
            brokers: Vec::new(),
            cluster_id: None,
            topics: vec![described],
        });
        let version = cluster.version();
        let leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(8)).with_leader_epoch(5);
        let moved = partition(0, -1).with_error_code(6).with_current_leader(leader);
        let endpoint = NodeEndpoint::default().with_node_id(BrokerId(8)).with_host(text("h")).with_port(1);
        let answer = ProduceResponse::default()
            .with_responses(vec![topic("a", vec![moved])])
            .with_node_endpoints(vec![endpoint]);
        let _ = read("here", &frame(&answer), VERSION, &piece(&[("a", 0)]), Some(&cluster));
        let leader = cluster.leader("a", 0).unwrap();
        assert_eq!((leader.node, leader.epoch), (8, 5));
        assert!(version.has_changed().unwrap());
    }
}
