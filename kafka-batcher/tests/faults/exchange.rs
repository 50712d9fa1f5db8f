//! One exchange: a batcher, an embedded broker, some thousand events, faults, and the comparison afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_batcher::{CollectorSettings, Delivery, ReceiptError, Record, Report, Settings};
use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, FaultId};
use kafka_batcher_testkit::Tally;

use crate::support::{LONG, batcher_with};

pub(crate) const TOPIC: &str = "flights";

/// What is sent, how, and to how many brokers.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) brokers: usize,
    pub(crate) partitions: i32,
    pub(crate) events: u32,
    pub(crate) batch_size: u32,
    pub(crate) request_timeout: Duration,
    pub(crate) change: fn(&mut Settings, &mut CollectorSettings),
}

impl Plan {
    /// A few thousand events over three partitions of one broker: a dozen batches in each.
    pub(crate) fn one_broker() -> Self {
        Plan {
            brokers: 1,
            partitions: 3,
            events: 2400,
            batch_size: 70,
            request_timeout: LONG,
            change: |_, _| {},
        }
    }

    /// As many over six partitions of three brokers.
    pub(crate) fn three_brokers() -> Self {
        Plan { brokers: 3, partitions: 6, events: 3000, batch_size: 60, ..Plan::one_broker() }
    }

    /// Fewer batches, where the same is done for a hundred faults.
    pub(crate) fn short() -> Self {
        Plan { partitions: 2, events: 400, batch_size: 25, ..Plan::one_broker() }
    }

    /// An answer that does not come is given up after so long: the event that the client waits for, not the test.
    pub(crate) fn impatient(self) -> Self {
        Plan { request_timeout: Duration::from_millis(20), ..self }
    }

    pub(crate) fn with(self, change: fn(&mut Settings, &mut CollectorSettings)) -> Self {
        Plan { change, ..self }
    }

    fn kafka(&self) -> EmbeddedKafka {
        let builder = EmbeddedKafka::builder().brokers(self.brokers).topic(TOPIC, self.partitions);
        builder.start().expect("the embedded brokers start")
    }

    /// Sends all events through one batcher, with what `arrange` does to the broker before.
    pub(crate) async fn run(&self, arrange: impl FnOnce(&EmbeddedKafka)) -> Run {
        let kafka = self.kafka();
        // Before the faults: a broker that is down has no address.
        let bootstrap = kafka.bootstrap();
        arrange(&kafka);
        let batcher = batcher_with(&bootstrap, |settings, defaults| {
            settings.request_timeout = self.request_timeout;
            settings.connect_timeout = self.request_timeout;
            settings.retry_backoff = Duration::from_millis(1);
            settings.retry_backoff_max = Duration::from_millis(8);
            defaults.batch_size = self.batch_size;
            (self.change)(settings, defaults);
        })
        .await;
        let flights = batcher.collector(TOPIC).build().expect("a collector");
        let mut receipts = Vec::new();
        for event in 0..self.events {
            let value = event.to_string();
            let partition = event as i32 % self.partitions;
            let sent = flights.send(Record::value(&value).with_partition(partition)).await;
            receipts.push(sent.expect("no caller sees an error"));
            // In three waves: into the unknown, into what is known, and after a pause in which nothing is in flight.
            if event + 1 == self.events / 3 {
                let _ = receipts[0].delivered().await;
            } else if event + 1 == self.events * 2 / 3 {
                flights.flush().await;
            }
        }
        let report = batcher.shutdown(LONG).await;
        let mut outcomes = Vec::new();
        for receipt in &receipts {
            outcomes.push(receipt.try_delivered().expect("settled: the shutdown was answered"));
        }
        Run { plan: self.clone(), kafka, report, outcomes }
    }

    /// Puts a fault at the first, second, ... matching request until it hits none any more, and lets `check` judge each run. Answers at
    /// how many points it hit.
    ///
    /// # Panics
    /// If it hit at fewer than `least` points: then the loop says nothing.
    pub(crate) async fn at_every_point(
        &self,
        least: u64,
        fault: &Fault,
        arrange: impl Fn(&EmbeddedKafka),
        check: impl Fn(&Run),
    ) -> u64 {
        for k in 1.. {
            let mut id = None;
            let run = self
                .run(|kafka| {
                    arrange(kafka);
                    id = Some(kafka.inject(fault.clone().nth(k)));
                })
                .await;
            let hits = id.map_or(0, |id: FaultId| run.kafka.fault_hits(id));
            let _at = Context(format!("{fault:?} at point {k}; {:?}", run.report));
            check(&run);
            if hits == 0 {
                assert!(k > least, "{fault:?} hit at {} points only", k - 1);
                return k - 1;
            }
        }
        unreachable!("every exchange ends")
    }

    /// As [`Plan::at_every_point`], for a fault that must not show.
    pub(crate) async fn unharmed_at_every_point(&self, least: u64, faults: &[Fault]) -> u64 {
        let mut points = 0;
        for fault in faults {
            points += self.at_every_point(least, fault, |_| {}, Run::assert_unharmed).await;
        }
        points
    }
}

/// Says at which point a check failed.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("  {}", self.0);
        }
    }
}

/// A finished exchange.
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) kafka: EmbeddedKafka,
    pub(crate) report: Report,
    /// What each event's receipt said, in the order of acceptance.
    pub(crate) outcomes: Vec<Result<Delivery, ReceiptError>>,
}

impl Run {
    /// The events that were accepted for each partition, in that order.
    pub(crate) fn accepted(&self) -> BTreeMap<i32, Vec<u32>> {
        self.accepted_where(|_| true)
    }

    pub(crate) fn accepted_where(&self, wanted: impl Fn(u32) -> bool) -> BTreeMap<i32, Vec<u32>> {
        let mut accepted: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        for event in (0..self.plan.events).filter(|event| wanted(*event)) {
            accepted.entry(event as i32 % self.plan.partitions).or_default().push(event);
        }
        accepted
    }

    /// What lies in the log of each partition, in the order of offsets.
    pub(crate) fn log(&self) -> BTreeMap<i32, Vec<u32>> {
        logs(&self.kafka, self.plan.partitions)
    }

    /// Lost, duplicated, reordered.
    pub(crate) fn tally(&self) -> Tally {
        Tally::compare(&self.accepted(), &self.log())
    }

    /// The report adds up, and says the same as the receipts.
    pub(crate) fn assert_accounts(&self) {
        let report = &self.report;
        assert!(report.balances(), "{report:?}");
        assert_eq!(report.accepted, u64::from(self.plan.events));
        assert_eq!((report.in_memory, report.in_flight, report.refused), (0, 0, 0), "{report:?}");
        let delivered = self.outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(report.delivered, delivered as u64, "receipts and report agree");
    }

    /// Every receipt with an offset names one where the event lies; every event delivered lies in the log.
    pub(crate) fn assert_receipts_agree_with_the_log(&self) {
        let logs = self.log();
        for (event, outcome) in (0u32..).zip(&self.outcomes) {
            let partition = event as i32 % self.plan.partitions;
            let Ok(place) = outcome else { continue };
            assert_eq!(place.partition, partition);
            match place.offset {
                Some(offset) => {
                    let there = logs[&partition].get(usize::try_from(offset).expect("an offset"));
                    assert_eq!(there, Some(&event), "what the receipt's offset {offset} holds");
                }
                None => assert!(logs[&partition].contains(&event), "event {event} is delivered"),
            }
        }
    }

    /// 0 lost, 0 duplicated, 0 reordered, nothing in doubt, no caller saw an error, and the report says so.
    pub(crate) fn assert_unharmed(&self) {
        self.tally().assert_clean();
        self.assert_accounts();
        assert!(self.report.all_delivered(), "{:?}", self.report);
        assert_eq!((self.report.possible_duplicates, self.report.reorderings), (0, 0), "{:?}", self.report);
        self.assert_receipts_agree_with_the_log();
    }

    /// Nothing lost, nothing reordered; what lies there twice was counted as possible before.
    pub(crate) fn assert_at_least_once_and_counted(&self) {
        let tally = self.assert_at_least_once();
        assert!(tally.duplicated as u64 <= self.report.possible_duplicates, "{tally}; {:?}", self.report);
    }

    /// 0 lost, 0 duplicated, 0 reordered; the report may have counted duplicates as possible.
    pub(crate) fn assert_once(&self) {
        self.assert_at_least_once().assert_clean();
    }

    /// Nothing lost, nothing reordered. Answers the comparison.
    pub(crate) fn assert_at_least_once(&self) -> Tally {
        let tally = self.tally();
        assert_eq!((tally.lost, tally.reordered, tally.unexpected), (0, 0, 0), "{tally}");
        self.assert_accounts();
        assert!(self.report.all_delivered() && self.report.reorderings == 0, "{:?}", self.report);
        self.assert_receipts_agree_with_the_log();
        tally
    }
}

/// What lies in the log of each partition, read by the broker's own decoder.
pub(crate) fn logs(kafka: &EmbeddedKafka, partitions: i32) -> BTreeMap<i32, Vec<u32>> {
    let event = |record: kafka_batcher_broker::Record| {
        let value = record.value.expect("a value");
        std::str::from_utf8(&value).expect("digits").parse().expect("a number")
    };
    (0..partitions).map(|p| (p, kafka.log(TOPIC, p).into_iter().map(event).collect())).collect()
}

/// Below the size of a full batch.
pub(crate) fn lower_the_size_limit(kafka: &EmbeddedKafka) {
    kafka.set_topic_config(TOPIC, "max.message.bytes", "200").expect("a setting");
}

/// Gives the producer something to ask about: its first batch is lost and then refused for its size, and later the broker calls its
/// numbers out of order, as if the log had been cut.
pub(crate) fn confuse(kafka: &EmbeddedKafka) {
    lower_the_size_limit(kafka);
    kafka.inject(Fault::lose_request().on(Api::Produce));
    for k in [3, 12] {
        kafka.inject(Fault::answer(45).on(Api::Produce).nth(k).times(4));
    }
}
