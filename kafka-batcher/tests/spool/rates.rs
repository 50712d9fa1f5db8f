//! How fast a backlog drains, beside the same events sent live, in one run, to a broker that does nothing: what is ours. A
//! measurement: prints, and asserts only that all arrives. The bound is kept against a real Kafka, in `real_kafka_spool`.

use std::time::Duration;

use kafka_batcher::KafkaBatcher;
use kafka_batcher_broker::{EmbeddedKafka, ProducerMemory, Storage};

use crate::support::{rates, ready};
use crate::{LONG, PARTITIONS, TOPIC};

const EVENTS: u32 = 5_000_000;

/// The broker keeps nothing: one that did would need new memory for the second half only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: --release --ignored --nocapture rates"]
async fn rates_of_replay_beside_live() {
    for round in 1..=6 {
        let kafka = EmbeddedKafka::builder().topic(TOPIC, PARTITIONS).storage(Storage::Discard).start();
        let kafka = kafka.expect("the embedded broker starts");
        let dir = tempfile::tempdir().expect("a directory");
        let started = KafkaBatcher::builder([kafka.bootstrap()])
            .spool(dir.path())
            .spool_after(Duration::from_millis(20))
            .settings(|s| s.retry_backoff_max = Duration::from_millis(100));
        let batcher = started.start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        ready(&batcher, TOPIC).await;
        let _ = rates::round(
            &format!("round {round}"),
            (&batcher, &collector),
            EVENTS,
            || kafka.stop_broker(1).expect("a broker"),
            || kafka.restart_broker(1, ProducerMemory::LastBatch).expect("a broker"),
        )
        .await;
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.delivered == 2 * u64::from(EVENTS), "{report:?}");
    }
}
