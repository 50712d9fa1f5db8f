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
