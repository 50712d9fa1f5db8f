//! Starts a broker and keeps it: `cargo run -p kafka-batcher-broker --example broker -- 19092 [discard]`.

use kafka_batcher_broker::{AutoCreate, EmbeddedKafka, Storage};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().map_or(Ok(0), |port| port.parse())?;
    let storage = if args.next().as_deref() == Some("discard") { Storage::Discard } else { Storage::Memory };
    let kafka = EmbeddedKafka::builder()
        .ports([port])
        .auto_create(AutoCreate::On)
        .default_partitions(4)
        .storage(storage)
        .start()?;
    println!("{}", kafka.bootstrap());
    // Until its standard input ends, and so with whoever started it.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    println!("{:?}", kafka.stats());
    Ok(())
}
