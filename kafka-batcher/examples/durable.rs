//! Accepted, durable, delivered: what each means, with a spool and a notifier. Needs a Kafka at 127.0.0.1:9092 with a topic
//! `flights`; without one the events are durable all the same, and the next run delivers them.
//!
//! ```console
//! $ cargo run --example durable -- 127.0.0.1:9092 /tmp/flights-spool
//! ```

use std::time::Duration;

use kafka_batcher::{ErrorNotifier, KafkaBatcher, Notification};

/// Wakes somebody, in a real program.
struct Pager;

impl ErrorNotifier for Pager {
    fn report(&self, notification: &Notification) {
        eprintln!("{notification}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let brokers = args.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let spool = args.next().unwrap_or_else(|| "/tmp/flights-spool".to_owned());

    let batcher = KafkaBatcher::builder([brokers])
        .spool(spool)
        .spool_after(Duration::from_secs(1)) // Kafka is away when it took nothing for so long
        .error_notifier(Pager)
        .start()
        .await?;
    let flights = batcher.collector("flights").build()?;
    println!("{} events of an earlier run are delivered first", batcher.report().await.recovered);

    // Accepted: in memory, in order. Waits only while memory is full.
    flights.add_event(("SEA", r#"{"delay":66}"#)).await?;

    // The same, with a claim on the outcome.
    let receipt = flights.send(("SEA", r#"{"delay":-5}"#)).await?;
    receipt.durable().await?;
    println!("durable: it survives kill -9 from here on");

    match tokio::time::timeout(Duration::from_secs(5), receipt.delivered()).await {
        Ok(place) => {
            let place = place?;
            println!("delivered to partition {}, offset {:?}", place.partition, place.offset);
        }
        Err(_) => println!("not delivered yet: it waits in the spool"),
    }

    // Delivers what is left, leaves the rest in the spool, and says what became of every event.
    let report = batcher.shutdown(Duration::from_secs(10)).await;
    println!("{} delivered, {} in the spool, {} lost", report.delivered, report.spooled, report.lost);
    Ok(())
}
