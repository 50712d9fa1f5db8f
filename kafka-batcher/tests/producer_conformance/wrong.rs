//! Producers that are wrong on purpose: the native one, and one mistake each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_batcher::producer::conformance::OwnedRecord;
use kafka_batcher::producer::{
    BoxFuture, ClusterInfo, MissingTopic, PartitionBatch, ProduceRequest, Producer, ProducerError, TopicInfo,
};
use kafka_batcher::{Codec, RecordBatch};
use kafka_batcher_core::{
    Accumulator, AccumulatorSettings, BufferPool, ErrorCode, FlushReason, Leader, Offer, ProduceAnswer,
    ProduceResult, ProducerIdentity, ProducerState, PushError, Refusal, Share, Time, TopicId,
};
use tokio::sync::watch;

/// What is wrong with a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Nothing: all cases must pass.
    Not,
    Loses,
    LosesWithoutAcks,
    Doubles,
    DoublesStamped,
    SwapsAnswers,
    SwapsBatches,
    SwapsRequests,
    OneAnswerTooFew,
    OneAnswerTooMany,
    NeverAnswers,
    OtherOffset,
    NoOffset,
    OffsetWithoutAcks,
    NoLeaderInTheAnswer,
    OtherPartition,
    AcksWhatIsRefused,
    OtherCode,
    RefusesTheNeighboursToo,
    LostInsteadOfRefused,
    AcksWhatIsNowhere,
    AcksWhileNobodyAnswers,
    ForgetsHeaders,
    HeadersBackwards,
    EmptyHeadersAreNull,
    ForgetsKeys,
    EmptyKeysAreNull,
    NullValuesAreEmpty,
    EmptyValuesAreNull,
    TimeOfNow,
    FirstTimeForAll,
    RecordsBackwards,
    ForgetsTheLastEvent,
    PlainInsteadOfCompressed,
    IgnoresTheLeader,
    IgnoresTheConnection,
    ConnectsElsewhere,
    NoBrokers,
    InventsTopics,
    ForgetsTheTopicsName,
    OnePartitionTooMany,
    KnowsNoLeader,
    LeadersBeyondTheEnd,
    VersionNeverMoves,
    StampsAnew,
    OneIdForAll,
    KnowsNoProducer,
    OtherSequence,
    NotBackAfterAnOutage,
    OpenAfterClose,
    CloseHangs,
    NeverAnswersWhenClosed,
}

/// All mistakes.
pub(crate) const WRONG: &[Wrong] = &[
    Wrong::Loses,
    Wrong::LosesWithoutAcks,
    Wrong::Doubles,
    Wrong::DoublesStamped,
    Wrong::SwapsAnswers,
    Wrong::SwapsBatches,
    Wrong::SwapsRequests,
    Wrong::OneAnswerTooFew,
    Wrong::OneAnswerTooMany,
    Wrong::NeverAnswers,
    Wrong::OtherOffset,
    Wrong::NoOffset,
    Wrong::OffsetWithoutAcks,
    Wrong::NoLeaderInTheAnswer,
    Wrong::OtherPartition,
    Wrong::AcksWhatIsRefused,
    Wrong::OtherCode,
    Wrong::RefusesTheNeighboursToo,
    Wrong::LostInsteadOfRefused,
    Wrong::AcksWhatIsNowhere,
    Wrong::AcksWhileNobodyAnswers,
    Wrong::ForgetsHeaders,
    Wrong::HeadersBackwards,
    Wrong::EmptyHeadersAreNull,
    Wrong::ForgetsKeys,
    Wrong::EmptyKeysAreNull,
    Wrong::NullValuesAreEmpty,
    Wrong::EmptyValuesAreNull,
    Wrong::TimeOfNow,
    Wrong::FirstTimeForAll,
    Wrong::RecordsBackwards,
    Wrong::ForgetsTheLastEvent,
    Wrong::PlainInsteadOfCompressed,
    Wrong::IgnoresTheLeader,
    Wrong::IgnoresTheConnection,
    Wrong::ConnectsElsewhere,
    Wrong::NoBrokers,
    Wrong::InventsTopics,
    Wrong::ForgetsTheTopicsName,
    Wrong::OnePartitionTooMany,
    Wrong::KnowsNoLeader,
    Wrong::LeadersBeyondTheEnd,
    Wrong::VersionNeverMoves,
    Wrong::StampsAnew,
    Wrong::OneIdForAll,
    Wrong::KnowsNoProducer,
    Wrong::OtherSequence,
    Wrong::NotBackAfterAnOutage,
    Wrong::OpenAfterClose,
    Wrong::CloseHangs,
    Wrong::NeverAnswersWhenClosed,
];

pub(crate) struct WrongProducer {
    inner: Box<dyn Producer>,
    wrong: Wrong,
    connects: AtomicI32,
    /// Somebody was not answered once.
    was_away: AtomicBool,
    closed: AtomicBool,
    calls: AtomicU32,
    identity: Mutex<Option<ProducerIdentity>>,
    still: watch::Sender<u64>,
}

impl WrongProducer {
    pub(crate) fn wrap(inner: Box<dyn Producer>, wrong: Wrong) -> Box<dyn Producer> {
        if wrong == Wrong::Not {
            return inner;
        }
        Box::new(WrongProducer {
            inner,
            wrong,
            connects: AtomicI32::new(100),
            was_away: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            calls: AtomicU32::new(0),
            identity: Mutex::default(),
            still: watch::Sender::new(0),
        })
    }

    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == wrong
    }

    /// What it does to the events of a batch.
    fn change(&self, records: &mut Vec<OwnedRecord>) {
        let first = records.first().map_or(0, |record| record.timestamp);
        match self.wrong {
            Wrong::RecordsBackwards => records.reverse(),
            Wrong::ForgetsTheLastEvent if records.len() > 2 => drop(records.pop()),
            _ => {}
        }
        for record in records {
            match self.wrong {
                Wrong::ForgetsHeaders => record.headers.clear(),
                Wrong::HeadersBackwards => record.headers.reverse(),
                Wrong::EmptyHeadersAreNull => {
                    record.headers.iter_mut().for_each(|header| null_if_empty(&mut header.value));
                }
                Wrong::ForgetsKeys => record.key = None,
                Wrong::EmptyKeysAreNull => null_if_empty(&mut record.key),
                Wrong::NullValuesAreEmpty => drop(record.value.get_or_insert_default()),
                Wrong::EmptyValuesAreNull => null_if_empty(&mut record.value),
                Wrong::TimeOfNow => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                    record.timestamp = now.as_millis() as i64 + 1;
                }
                Wrong::FirstTimeForAll => record.timestamp = first,
                _ => {}
            }
        }
    }

    /// What it does to a request before it is sent.
    fn spoil(&self, request: &mut ProduceRequest) {
        if self.is(Wrong::SwapsBatches)
            && let [first, .., last] = &mut request.batches[..]
        {
            std::mem::swap(&mut first.batch, &mut last.batch);
        }
        for batch in &mut request.batches {
            match self.wrong {
                Wrong::OtherPartition => batch.partition = 0,
                Wrong::IgnoresTheLeader => batch.leader = None,
                Wrong::IgnoresTheConnection => {
                    let now = self.inner.leader(&batch.topic, batch.partition);
                    if let (Some(meant), Some(now)) = (&mut batch.leader, now) {
                        meant.connection = now.connection;
                    }
                }
                Wrong::StampsAnew if batch.batch.stamp().producer_id >= 0 => {
                    batch.batch = batch.batch.unstamped()
                }
                Wrong::PlainInsteadOfCompressed if batch.batch.codec() != Codec::None => {
                    // As if the compressed bytes were an event.
                    let body: Vec<u8> = batch.batch.body().flatten().copied().collect();
                    batch.batch = sealed(&[OwnedRecord {
                        timestamp: batch.batch.base_timestamp(),
                        key: None,
                        value: Some(body),
                        headers: Vec::new(),
                    }]);
                }
                _ if batch.batch.stamp().producer_id < 0 && batch.batch.codec() == Codec::None => {
                    let before = batch.batch.records().expect("records");
                    let mut records = before.clone();
                    self.change(&mut records);
                    if records != before {
                        batch.batch = sealed(&records);
                    }
                }
                _ => {}
            }
        }
    }

    /// What it makes of the answers.
    fn twist(&self, acks: i16, asked: &[PartitionBatch], answers: &mut Vec<ProduceAnswer>) {
        match self.wrong {
            Wrong::SwapsAnswers => answers.reverse(),
            Wrong::OneAnswerTooFew if answers.len() > 1 => drop(answers.pop()),
            Wrong::OneAnswerTooMany => answers.extend(answers.first().cloned()),
            Wrong::RefusesTheNeighboursToo => {
                let refused =
                    answers.iter().find(|answer| matches!(answer.result, ProduceResult::Refused(_)));
                if let Some(refused) = refused.cloned() {
                    answers.iter_mut().for_each(|answer| *answer = refused.clone());
                }
            }
            _ => {}
        }
        for (answer, batch) in answers.iter_mut().zip(asked) {
            let code = match &answer.result {
                ProduceResult::Refused(refusal) => Some(refusal.code),
                _ => None,
            };
            let nowhere = self.inner.leader(&batch.topic, batch.partition).is_none();
            let acked = ProduceResult::Acked { base_offset: Some(0) };
            match (self.wrong, &mut answer.result) {
                (Wrong::OtherOffset, ProduceResult::Acked { base_offset: Some(offset) }) => *offset += 1,
                (Wrong::NoOffset, ProduceResult::Acked { base_offset }) => *base_offset = None,
                (Wrong::OffsetWithoutAcks, ProduceResult::Acked { base_offset }) if acks == 0 => {
                    *base_offset = Some(0)
                }
                (Wrong::AcksWhatIsRefused, result) if code.is_some() => *result = acked,
                (Wrong::OtherCode, ProduceResult::Refused(refusal)) => {
                    *refusal = Refusal::code(ErrorCode::NOT_LEADER_OR_FOLLOWER);
                }
                (Wrong::LostInsteadOfRefused, result) if code.is_some() => {
                    *result = ProduceResult::Lost { message: String::new() };
                }
                (Wrong::AcksWhatIsNowhere, result) if nowhere => *result = acked,
                (
                    Wrong::AcksWhileNobodyAnswers,
                    result @ (ProduceResult::Lost { .. } | ProduceResult::NotSent { .. }),
                ) => *result = acked,
                _ => {}
            }
            if self.is(Wrong::NoLeaderInTheAnswer) {
                answer.leader = None;
            }
            if matches!(answer.result, ProduceResult::Lost { .. } | ProduceResult::NotSent { .. }) {
                self.was_away.store(true, Ordering::SeqCst);
            }
        }
    }

    fn says(&self, result: &ProduceResult, request: &ProduceRequest) -> Vec<ProduceAnswer> {
        let leader =
            request.batches.first().and_then(|batch| self.inner.leader(&batch.topic, batch.partition));
        request.batches.iter().map(|_| ProduceAnswer { result: result.clone(), leader }).collect()
    }
}

fn null_if_empty(bytes: &mut Option<Vec<u8>>) {
    if bytes.as_ref().is_some_and(Vec::is_empty) {
        *bytes = None;
    }
}

/// A batch of these events.
fn sealed(records: &[OwnedRecord]) -> RecordBatch {
    let settings = AccumulatorSettings {
        batch_size: u32::MAX,
        max_batch_bytesize: 1 << 20,
        max_wait_time: Duration::from_secs(1),
        min_delay: Duration::ZERO,
    };
    let (pool, share) = (BufferPool::new(1 << 20), Share::new(1 << 20));
    let (mut accumulator, mut spare) = (Accumulator::new(settings, 0), None);
    for owned in records {
        owned.view(|record| {
            let offer = Offer {
                lane: 0,
                record,
                timestamp: owned.timestamp,
                flush_after: false,
                want_receipt: false,
            };
            while let Err(error) = accumulator.push(offer, &mut spare, || Time::from_millis(1)) {
                let PushError::NeedsChunk { size, .. } = error else { panic!("{error}") };
                spare = Some(pool.acquire_reserve(&share, size));
            }
        });
    }
    accumulator.seal(FlushReason::Flush, Time::from_millis(1));
    accumulator.poll_sealed().expect("a batch").batch
}

impl Producer for WrongProducer {
    fn connect(&self) -> BoxFuture<'_, Result<ClusterInfo, ProducerError>> {
        Box::pin(async {
            let mut info = self.inner.connect().await?;
            match self.wrong {
                // Another cluster each time.
                Wrong::ConnectsElsewhere => {
                    info.brokers.push((self.connects.fetch_add(1, Ordering::SeqCst), String::new()))
                }
                Wrong::NoBrokers => info.brokers.clear(),
                _ => {}
            }
            Ok(info)
        })
    }

    fn topic<'a>(
        &'a self,
        topic: &'a str,
        missing: MissingTopic,
    ) -> BoxFuture<'a, Result<TopicInfo, ProducerError>> {
        Box::pin(async move {
            let answer = self.inner.topic(topic, missing).await;
            match (self.wrong, answer) {
                (Wrong::InventsTopics, Err(_)) => {
                    Ok(TopicInfo { topic_id: TopicId::default(), partitions: 1 })
                }
                (Wrong::ForgetsTheTopicsName, Err(error)) => {
                    Err(ProducerError { message: "no".to_owned(), ..error })
                }
                (Wrong::OnePartitionTooMany, Ok(info)) => {
                    Ok(TopicInfo { partitions: info.partitions + 1, ..info })
                }
                (_, answer) => answer,
            }
        })
    }

    fn init_producer_id(&self) -> BoxFuture<'_, Result<ProducerIdentity, ProducerError>> {
        Box::pin(async {
            let kept = *self.identity.lock().expect("not poisoned");
            if let (Wrong::OneIdForAll, Some(kept)) = (self.wrong, kept) {
                return Ok(kept);
            }
            let identity = self.inner.init_producer_id().await?;
            *self.identity.lock().expect("not poisoned") = Some(identity);
            Ok(identity)
        })
    }

    fn produce(&self, mut request: ProduceRequest) -> BoxFuture<'_, Vec<ProduceAnswer>> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let asked = request.batches.clone();
        let acks = request.acks;
        let at_once = match self.wrong {
            Wrong::Loses => Some(ProduceResult::Acked { base_offset: Some(i64::from(call)) }),
            Wrong::LosesWithoutAcks if acks == 0 => Some(ProduceResult::Acked { base_offset: None }),
            Wrong::NotBackAfterAnOutage if self.was_away.load(Ordering::SeqCst) => {
                Some(ProduceResult::NotSent { message: "still away".to_owned() })
            }
            Wrong::OpenAfterClose if self.closed.load(Ordering::SeqCst) => {
                Some(ProduceResult::Acked { base_offset: Some(1) })
            }
            _ => None,
        };
        if let Some(result) = at_once {
            return Box::pin(std::future::ready(self.says(&result, &request)));
        }
        if self.is(Wrong::NeverAnswers) {
            return Box::pin(std::future::pending());
        }
        self.spoil(&mut request);
        let stamped = request.batches.iter().any(|batch| batch.batch.stamp().producer_id >= 0);
        let doubles = self.is(Wrong::Doubles) && !stamped || self.is(Wrong::DoublesStamped) && stamped;
        let again = doubles.then(|| {
            let mut batches = request.batches.clone();
            batches.iter_mut().for_each(|batch| batch.batch = batch.batch.unstamped());
            self.inner.produce(ProduceRequest { batches, ..request_like(&request) })
        });
        // Every other one is sent when somebody asks for its answer, and not when it is handed over.
        let late = self.is(Wrong::SwapsRequests) && call % 2 == 1;
        let (sent, later) = match late {
            true => (None, Some(request)),
            false => (Some(self.inner.produce(request)), None),
        };
        Box::pin(async move {
            if let Some(again) = again {
                again.await;
            }
            let mut answers = match (sent, later) {
                (Some(sent), _) => sent.await,
                (None, Some(request)) => self.inner.produce(request).await,
                (None, None) => Vec::new(),
            };
            if self.is(Wrong::NeverAnswersWhenClosed) && self.closed.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            self.twist(acks, &asked, &mut answers);
            answers
        })
    }

    fn describe_producer<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
        producer_id: i64,
    ) -> BoxFuture<'a, (ProducerState, Option<Leader>)> {
        Box::pin(async move {
            let (state, leader) = self.inner.describe_producer(topic, partition, producer_id).await;
            let state = match (self.wrong, state) {
                (Wrong::KnowsNoProducer, _) => ProducerState::Unknown,
                (Wrong::OtherSequence, ProducerState::Known { epoch, last_sequence }) => {
                    ProducerState::Known { epoch, last_sequence: last_sequence - 1 }
                }
                (_, state) => state,
            };
            (state, leader)
        })
    }

    fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        match self.wrong {
            Wrong::KnowsNoLeader => None,
            Wrong::LeadersBeyondTheEnd => self.inner.leader(topic, partition.min(2)),
            _ => self.inner.leader(topic, partition),
        }
    }

    fn metadata_version(&self) -> watch::Receiver<u64> {
        match self.wrong {
            Wrong::VersionNeverMoves => self.still.subscribe(),
            _ => self.inner.metadata_version(),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            match self.wrong {
                // A second time it has nothing to close.
                Wrong::CloseHangs if self.closed.swap(true, Ordering::SeqCst) => std::future::pending().await,
                _ => self.closed.store(true, Ordering::SeqCst),
            }
            self.inner.close().await;
        })
    }
}

fn request_like(request: &ProduceRequest) -> ProduceRequest {
    ProduceRequest { acks: request.acks, timeout: request.timeout, batches: Vec::new() }
}
