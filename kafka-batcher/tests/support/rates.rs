//! How fast a backlog drains, beside the same events sent live, in one run.

use std::time::{Duration, Instant};

use kafka_batcher::{Collector, KafkaBatcher, Receipt};

const KEYS: u32 = 97;

/// Sends so many events of 100 bytes while Kafka is there, again while it is not, starts it, and prints the rates. Answers how
/// many times as fast as live the backlog drained.
///
/// The backlog is timed from its first acknowledgement on: how soon a broker that came back is noticed is another matter.
/// Receipts tell when all is there: whoever asked in a loop would take the CPU from what is measured.
pub(crate) async fn round(
    name: &str,
    (batcher, collector): (&KafkaBatcher, &Collector),
    events: u32,
    stop: impl FnOnce(),
    start: impl FnOnce(),
) -> f64 {
    let value = "v".repeat(100);
    let send = async || {
        let mut receipts = Vec::new();
        for n in 0..events {
            let key = (n % KEYS).to_string();
            if n > 0 && n + KEYS < events {
                collector.add_event((&key, &value)).await.expect("accepted");
            } else {
                receipts.push(collector.send((&key, &value)).await.expect("accepted"));
            }
        }
        collector.flush().await;
        receipts
    };
    let begun = Instant::now();
    arrive(&send().await).await;
    let live = begun.elapsed();
    tokio::task::block_in_place(stop);
    let begun = Instant::now();
    let receipts = send().await;
    let spooling = begun.elapsed();
    let report = batcher.report().await;
    assert!(report.spooled >= u64::from(events), "{report:?}");
    tokio::task::block_in_place(start);
    let (first, rest) = receipts.split_first().expect("receipts");
    arrive(std::slice::from_ref(first)).await;
    let begun = Instant::now();
    arrive(rest).await;
    let replay = begun.elapsed();
    let rate = |time: Duration| f64::from(events) / time.as_secs_f64() / 1e6;
    let ratio = live.as_secs_f64() / replay.as_secs_f64();
    println!(
        "{name}: live {:.2}, to disk {:.2}, replay {:.2} million events a second: replay / live {ratio:.2}",
        rate(live),
        rate(spooling),
        rate(replay),
    );
    ratio
}

/// The middle one; of an even number the lower of the two in the middle.
pub(crate) fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len().saturating_sub(1) / 2).copied().expect("a round at least")
}

async fn arrive(receipts: &[Receipt]) {
    for receipt in receipts {
        receipt.delivered().await.expect("it arrives");
    }
}
