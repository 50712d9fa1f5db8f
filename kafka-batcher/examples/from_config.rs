//! One file starts everything; code of the program's own is chosen in it by name.
//!
//! ```console
//! $ cargo run --example from_config -- kafka-batcher.toml
//! ```

use kafka_batcher::flusher::FlushFn;
use kafka_batcher::{Builder, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "kafka-batcher.toml".to_owned());
    // KAFKA_BATCHER__ENDPOINTS and its like win over the file.
    let config = Config::from_file(file)?.with_environment();

    let batcher = Builder::from_config(&config)?
        // What `batch_flusher = "alarms"` in the file means.
        .register_flusher("alarms", FlushFn::new(|key, _value| key == Some(b"alarm")))
        .start()
        .await?;
    for topic in config.topics() {
        batcher.get_collector(&topic)?.add_event(("hello", topic.as_str())).await?;
    }
    let report = batcher.shutdown(None).await;
    println!("{report:?}");
    Ok(())
}
