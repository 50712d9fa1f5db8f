//! Who is compared: one row a client.

use crate::scenario::Scenario;

/// What a client is written in; each has a pacing loop of its own, whose CPU is measured apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Language {
    Rust,
    Go,
    Java,
}

/// The clients that are in this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rust {
    AddEvent,
    Send,
    Adaptive,
    Typed,
    Spool,
    SpoolAlways,
    RdkafkaThreaded,
    RdkafkaFuture,
    RdkafkaBatch,
    Rskafka,
    Floor,
    FloorHolding,
    Nothing,
}

/// What is started for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// This binary.
    Rust(Rust),
    /// A program of another language, told to send, or to do nothing but keep the pace.
    Go {
        sends: bool,
    },
    Java {
        sends: bool,
    },
}

/// Where and when a client takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// Where events come as fast as it goes.
    Saturated,
    /// As fast as it goes from one thread, nothing compressed, to as many partitions and in as large batches as usual.
    Plain,
    /// Against the sink, as fast as it goes from one thread, nothing compressed.
    Floor,
    /// Where there is a rate.
    Paced,
    /// The same, and nothing is sent.
    Pacing,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// As on the command line and in the tables.
    pub(crate) name: &'static str,
    /// What it is, in one line of the report.
    pub(crate) about: &'static str,
    pub(crate) program: Program,
    when: When,
}

const fn row(name: &'static str, program: Program, when: When, about: &'static str) -> Entry {
    Entry { name, about, program, when }
}

/// All of them.
pub(crate) const ROSTER: &[Entry] = &[
    row(
        "ours-add-event",
        Program::Rust(Rust::AddEvent),
        When::Always,
        "kafka-batcher, `blocking_add_event` (from a task `add_event`): metrics, retries and idempotence on; no outcome for each event",
    ),
    row(
        "ours-send",
        Program::Rust(Rust::Send),
        When::Always,
        "kafka-batcher, `blocking_send` (from a task `send`): a receipt for each event, every one looked at",
    ),
    row(
        "ours-adaptive",
        Program::Rust(Rust::Adaptive),
        When::Paced,
        "kafka-batcher: as ours-send, with `adaptive_linger`",
    ),
    row(
        "ours-typed",
        Program::Rust(Rust::Typed),
        When::Saturated,
        "kafka-batcher, `TypedCollector`: as ours-add-event, and the JSON is made by serde from a struct",
    ),
    row(
        "ours-spool",
        Program::Rust(Rust::Spool),
        When::Saturated,
        "kafka-batcher: as ours-add-event, with a spool (`on_failure`)",
    ),
    row(
        "ours-spool-always",
        Program::Rust(Rust::SpoolAlways),
        When::Plain,
        "kafka-batcher: as ours-add-event, every event written to the spool before it is sent (`always`)",
    ),
    row(
        "rdkafka-threaded",
        Program::Rust(Rust::RdkafkaThreaded),
        When::Always,
        "rust-rdkafka's `ThreadedProducer`: outcomes by the delivery callback",
    ),
    row(
        "rdkafka-future",
        Program::Rust(Rust::RdkafkaFuture),
        When::Always,
        "rust-rdkafka's `FutureProducer`: `send_result`, a bounded number of futures",
    ),
    row(
        "rdkafka-produce-batch",
        Program::Rust(Rust::RdkafkaBatch),
        When::Saturated,
        "librdkafka's `rd_kafka_produce_batch`, called through rust-rdkafka's bindings: as rdkafka-threaded, 1 000 events a call",
    ),
    row(
        "rskafka",
        Program::Rust(Rust::Rskafka),
        When::Always,
        "rskafka's `BatchProducer`, one for each partition; no idempotence, no partitioner (kafka-batcher's murmur2 was used)",
    ),
    row(
        "franz-go",
        Program::Go { sends: true },
        When::Always,
        "Go: franz-go's `Produce` with a promise for each event",
    ),
    row(
        "java",
        Program::Java { sends: true },
        When::Always,
        "Java: `KafkaProducer.send` with a callback for each event",
    ),
    row(
        "floor",
        Program::Rust(Rust::Floor),
        When::Floor,
        "no client at all: one copy of key and value, CRC-32C, writev of batches of the same size to a process that drops them",
    ),
    row(
        "floor-holding",
        Program::Rust(Rust::FloorHolding),
        When::Floor,
        "the same, but it writes only when it holds as much as the clients' memory is: what it writes is in no cache any more, as with them",
    ),
    row(
        "pacing-rust",
        Program::Rust(Rust::Nothing),
        When::Pacing,
        "the load of the clients in Rust, and nothing is sent",
    ),
    row(
        "pacing-go",
        Program::Go { sends: false },
        When::Pacing,
        "the load of the client in Go, and nothing is sent",
    ),
    row(
        "pacing-java",
        Program::Java { sends: false },
        When::Pacing,
        "the load of the client in Java, and nothing is sent",
    ),
];

impl Program {
    pub(crate) fn language(self) -> Language {
        match self {
            Program::Rust(_) => Language::Rust,
            Program::Go { .. } => Language::Go,
            Program::Java { .. } => Language::Java,
        }
    }
}

impl Entry {
    /// By its name.
    ///
    /// # Errors
    /// There is none; the error names those that there are.
    pub(crate) fn find(name: &str) -> Result<Entry, String> {
        let names = || ROSTER.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
        ROSTER
            .iter()
            .find(|entry| entry.name == name)
            .copied()
            .ok_or_else(|| format!("there are: {}", names()))
    }

    /// Whether it takes part in this scenario against the sink, or a Kafka.
    pub(crate) fn takes_part(&self, scenario: &Scenario, sink: bool) -> bool {
        match self.when {
            When::Always => true,
            When::Saturated => !scenario.paced(),
            When::Plain => scenario.plain() && scenario.is_usual(),
            When::Floor => sink && scenario.plain(),
            When::Paced | When::Pacing => scenario.paced(),
        }
    }

    /// It sends nothing, and so is no client.
    pub(crate) fn is_pacing(&self) -> bool {
        self.when == When::Pacing
    }

    pub(crate) fn is_floor(&self) -> bool {
        self.when == When::Floor
    }

    /// What every ratio of a scenario is to: the cheapest way that tells outcomes where latencies are compared.
    pub(crate) fn baseline(scenario: &Scenario) -> &'static str {
        if scenario.paced() { "ours-send" } else { "ours-add-event" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;

    #[test]
    fn the_baseline_takes_part_in_every_scenario() {
        for scenario in SCENARIOS {
            let baseline = Entry::find(Entry::baseline(scenario)).unwrap();
            assert!(baseline.takes_part(scenario, true) && baseline.takes_part(scenario, false));
        }
    }

    #[test]
    fn every_language_with_a_client_has_its_pacing_measured() {
        for entry in ROSTER {
            let language = entry.program.language();
            assert!(ROSTER.iter().any(|other| other.is_pacing() && other.program.language() == language));
        }
    }

    #[test]
    fn the_floor_is_there_only_for_what_it_can_be_compared_with() {
        let floor = Entry::find("floor").unwrap();
        let takes_part = |name: &str, sink| floor.takes_part(&Scenario::find(name).unwrap(), sink);
        assert!(takes_part("100B", true) && !takes_part("100B", false));
        assert!(!takes_part("zstd", true) && !takes_part("10k-5ms", true) && !takes_part("tasks-8", true));
    }
}
