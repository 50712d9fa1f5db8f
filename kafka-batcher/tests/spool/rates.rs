//! How fast a backlog drains, beside the same events sent live, in one run. A measurement: prints, and asserts only that all
//! arrives.

use std::time::{Duration, Instant};

use kafka_batcher::{KafkaBatcher, SpoolMode};

use crate::support::ready;
use crate::{Kept, LONG, Site, TOPIC};

const EVENTS: u32 = 5_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: --release --ignored --nocapture rates"]
async fn rates_of_replay_beside_live() {
    for round in 1..=3 {
        let site = Site::on_disk(SpoolMode::OnFailure);
        let Kept::Disk(dir) = &site.storage else { panic!("it is on disk") };
        let started = KafkaBatcher::builder([site.bootstrap.clone()])
            .spool(dir.path())
            .spool_after(Duration::from_millis(20))
            .settings(|s| s.retry_backoff_max = Duration::from_millis(100));
        let batcher = started.start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        ready(&batcher, TOPIC).await;
        let value = "v".repeat(100);
        let send = async || {
            for n in 0..EVENTS {
                let key = (n % 97).to_string();
                collector.add_event((&key, &value)).await.expect("accepted");
            }
            collector.flush().await;
        };
        let begun = Instant::now();
        send().await;
        let live = begun.elapsed();
        site.stop_kafka();
        let begun = Instant::now();
        send().await;
        let spooling = begun.elapsed();
        let report = batcher.report().await;
        assert!(report.spooled >= u64::from(EVENTS), "{report:?}");
        let begun = Instant::now();
        site.start_kafka();
        site.drained(&batcher).await;
        let replay = begun.elapsed();
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.delivered == 2 * u64::from(EVENTS), "{report:?}");
        let rate = |time: Duration| f64::from(EVENTS) / time.as_secs_f64() / 1e6;
        println!(
            "round {round}: live {:.2}, to disk {:.2}, replay {:.2} million events a second",
            rate(live),
            rate(spooling),
            rate(replay)
        );
    }
}
