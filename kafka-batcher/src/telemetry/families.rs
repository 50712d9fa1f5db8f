//! Every metric by name, kind, labels and words: the one list of them. METRICS.md shows it, a test compares.
//!
//! Names follow Prometheus' rules (base units, `_total` for counters); promtool is asked in a test. The first three are the Elixir
//! library's, names, labels and all; `.._messages_count` and `.._size_byte` would be called otherwise today, and promtool lets them
//! pass.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric, its name without the prefix.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

macro_rules! families {
    ($($constant:ident $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(crate) const $constant: &Family = &Family {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)*

        /// All of them, in the order of their declaration.
        pub(crate) const ALL: &[&Family] = &[$($constant),*];
    };
}

families! {
    DURATION Histogram "producer_duration_seconds" ["topic" "partition" "topic_alias"] "How long an attempt to deliver a batch took, from handing it to the client to the answer; failures included.";
    MESSAGES Histogram "producer_batch_messages_count" ["topic" "partition" "topic_alias"] "Events in the batch of an attempt; failures included.";
    BYTES Histogram "producer_batch_total_size_byte" ["topic" "partition" "topic_alias"] "Encoded bytes of the batch of an attempt; failures included.";

    ACCEPTED Counter "events_accepted_total" ["topic"] "Events taken from callers.";
    RECOVERED Counter "events_recovered_total" ["topic"] "Events found in the spool at start, or found missing there; and dead letters of earlier processes that had to go for later ones (lost then).";
    DELIVERED Counter "events_delivered_total" ["topic"] "Events in Kafka.";
    LOST Counter "events_lost_total" ["topic"] "Events that are not in Kafka, and not kept anywhere.";
    EVENTS Gauge "events" ["topic" "state"] "Accepted or recovered events that are neither delivered nor lost, by where they are: in_memory, in_flight, spooled, dead_lettered, in_doubt.";
    REFUSED Counter "events_refused_total" ["topic"] "Events never accepted: too large, no memory, closed, a failing partitioner, flusher, interceptor or encoder.";
    DEAD_LETTERED Counter "events_dead_lettered_total" ["topic"] "Events put aside because Kafka will never take them, those included that had to go from there since (lost then).";
    IN_DOUBT Counter "events_in_doubt_total" ["topic"] "Events of which nobody can know whether they are in Kafka, and that are kept nowhere; in events with the state in_doubt.";
    DUPLICATES Counter "events_possibly_duplicated_total" ["topic"] "Events sent again although the first attempt may lie in the log, too.";
    REORDERINGS Counter "reorderings_total" ["topic"] "Times a younger batch was written before an older one.";
    OLDEST Gauge "oldest_undelivered_age_seconds" ["topic"] "How long the oldest event has waited that Kafka has not acknowledged, in memory or spool; 0: none waits.";
    SPOOL_OLDEST Gauge "spool_oldest_age_seconds" ["topic"] "How long the oldest event in the spool has waited; 0: none is there.";

    SEALED Counter "batches_sealed_total" ["topic" "reason"] "Batches that became ready, by why.";
    FILL Histogram "batch_fill_ratio" ["topic"] "How full a batch was when it became ready: its share of batch_size or of the bytes that fill one, the larger one. The bytes are max_batch_bytesize, with a codec as many more as batches are known to shrink by. With collect_by_partition = false the batch_size is that of all partitions together, and each batch has its own part of it.";
    BATCHES Counter "batches_delivered_total" ["topic"] "Batches in Kafka.";
    BATCH_BYTES Counter "delivered_bytes_total" ["topic"] "Encoded bytes of batches in Kafka.";
    IN_FLIGHT Gauge "batches_in_flight" ["topic"] "Batches on their way to a broker.";
    LATENCY Histogram "delivery_latency_seconds" ["topic"] "From the acceptance of a batch's oldest event to its acknowledgement; of this process's events.";
    ERRORS Counter "produce_errors_total" ["topic" "error"] "Attempts that Kafka did not acknowledge, by the protocol's name of the error, no_answer or not_sent: each but the last of a batch that is refused for good is tried again.";
    HEALTH Gauge "topic_health" ["topic" "state"] "1 for how the topic is now: connecting, ready, troubled, unavailable, failed; 0 for the others.";

    MEMORY_USED Gauge "memory_used_bytes" [] "Memory that accepted events hold.";
    MEMORY_LIMIT Gauge "memory_limit_bytes" [] "Memory that they may hold (memory).";
    MEMORY_WAITING Gauge "memory_waiting_callers" [] "Callers that wait for memory now.";
    MEMORY_WAIT Histogram "memory_wait_seconds" ["topic"] "How long callers waited for memory, those that did not get it included; who did not wait is not counted.";
    REPLAY_MEMORY Gauge "replay_memory_bytes" ["topic"] "Memory of what was read back from the spool, besides memory_used_bytes.";

    CONNECTED Gauge "cluster_connected" [] "1 if the cluster answered when it was last asked.";
    BROKER_CONNECTED Gauge "broker_connected" ["broker"] "1 if there is a connection to this broker.";
    BROKER_IN_FLIGHT Gauge "broker_requests_in_flight" ["broker"] "Requests to this broker that are not answered.";
    REQUESTS Histogram "broker_request_duration_seconds" ["broker"] "From handing a Produce request to the client to its answer, or to knowing that none comes.";
    RECONNECTS Counter "broker_reconnects_total" ["broker"] "Connections to this broker after the first.";
    CONNECT_FAILURES Counter "broker_connect_failures_total" ["broker"] "Attempts to connect to this broker that failed.";
    THROTTLED Counter "broker_throttled_seconds_total" ["broker"] "For how long this broker asked to be sent nothing (quotas).";

    SPOOL_BYTES Gauge "spool_bytes" [] "Bytes of segments, dead letters and damaged bytes kept aside.";
    SPOOL_LIMIT Gauge "spool_limit_bytes" [] "Bytes that they may take (max_bytes).";
    SPOOL_FREE Gauge "spool_disk_free_bytes" [] "Bytes free on the spool's disk, as its writer last saw it: at the scrape before this one, or since.";
    SPOOL_KEPT_FREE Gauge "spool_disk_kept_free_bytes" [] "Bytes of it that are left to others (min_free_bytes): below that the spool counts as full.";
    SPOOL_HEALTHY Gauge "spool_healthy" ["topic"] "1 if the spool takes what this topic gives it; 0: it is full, fails, does not answer, or is not open yet.";
    SPOOL_OPENING Gauge "spool_opening" ["topic"] "1 while what an earlier process left of this topic is being read; spool_healthy is 0 meanwhile.";
    FSYNC Histogram "spool_fsync_duration_seconds" [] "How long the disk took to make a group of batches durable.";

    BUILD Gauge "build_info" ["version"] "1; which version this is.";
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    const HEAD: &str = "# Metrics

Generated from the list in `kafka-batcher/src/telemetry/families.rs`; a test compares. Each name begins with the prefix, `kafka_batcher_`
unless set otherwise ([CONFIGURATION.md](CONFIGURATION.md), `[metrics]`).

In every scrape, for each topic: `events_accepted_total + events_recovered_total = events_delivered_total + events_lost_total +
sum(events)`.

How many series there are: 77 for each topic, and one for each error that it met; 40 for each of its partitions that was written to,
in the three producer histograms with their default buckets. `max_partitions` (100) of those have a label value of their own, all
others share `other`, so that is 4 040 a topic at most. 22 for each broker, 26 for the batcher. Nothing is labelled by what is in an event.

";

    fn reference() -> String {
        let mut out = format!("{HEAD}| metric | kind | labels | what it says |\n|---|---|---|---|\n");
        for family in ALL {
            let kind = format!("{:?}", family.kind).to_lowercase();
            let Family { name, labels, help, .. } = family;
            let _ = writeln!(out, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
        }
        out
    }

    #[test]
    fn metrics_md_is_what_the_list_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../METRICS.md");
        if std::env::var_os("KAFKA_BATCHER_WRITE_REFERENCE").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == reference(),
            "METRICS.md differs; run with KAFKA_BATCHER_WRITE_REFERENCE=1 to write it"
        );
    }
}
