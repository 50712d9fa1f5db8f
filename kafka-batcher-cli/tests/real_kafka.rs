//! The command against a real Kafka.
fn main() {}
