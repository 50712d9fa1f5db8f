//! The `kafka-batcher` command.
fn main() {}
