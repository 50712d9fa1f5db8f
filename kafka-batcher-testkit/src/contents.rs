//! What lies in a topic, as Kafka's own consumer reads it; what Kafka's own producer writes; what its partitioner says.

use std::io::{BufRead, BufReader, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use crate::topics::object;
use crate::{Error, RealKafka};

/// Header names and values in their order; duplicates stand.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// One record, as Kafka's Java consumer gave it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Consumed {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// `CreateTime` or `LogAppendTime`.
    pub timestamp_type: String,
    /// The key; `None`: null.
    #[serde(deserialize_with = "bytes_from")]
    pub key: Option<Vec<u8>>,
    /// The value; `None`: null.
    #[serde(deserialize_with = "bytes_from")]
    pub value: Option<Vec<u8>>,
    /// The headers.
    #[serde(deserialize_with = "headers_from")]
    pub headers: Headers,
}

/// One record for Kafka's Java producer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ToProduce {
    /// `None`: Java's partitioner chooses.
    pub partition: Option<i32>,
    /// Milliseconds since 1970; `None`: Java's clock.
    pub timestamp: Option<i64>,
    /// The key; `None`: null.
    #[serde(serialize_with = "bytes_to")]
    pub key: Option<Vec<u8>>,
    /// The value; `None`: null.
    #[serde(serialize_with = "bytes_to")]
    pub value: Option<Vec<u8>>,
    /// The headers.
    #[serde(serialize_with = "headers_to")]
    pub headers: Headers,
}

/// Which records a consumer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Not those of aborted or open transactions.
    Committed,
    /// All.
    Uncommitted,
}

/// Whether Java's producer wraps its records into a transaction, and how that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// No transaction.
    None,
    /// One, committed.
    Commit,
    /// One, aborted.
    Abort,
}

/// What a partition's leader remembers of one producer (DescribeProducers, KIP-664).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProducerEntry {
    /// The producer's id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i32,
    /// The last sequence written.
    pub last_sequence: i32,
    /// The event time of its last batch, milliseconds since 1970.
    pub last_timestamp: i64,
    /// -1: not transactional.
    pub coordinator_epoch: i32,
    /// -1: no open transaction.
    pub transaction_start_offset: i64,
}

/// The bounds of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PartitionOffsets {
    /// Its number.
    pub partition: i32,
    /// The first offset that is there.
    pub earliest: i64,
    /// The offset that the next record gets.
    pub latest: i64,
}

impl RealKafka {
    /// Everything that stands in the topic now, by partition and offset, as Kafka's own consumer reads it.
    ///
    /// # Errors
    /// No such topic; or 60 s without a record although more are there.
    pub fn consume(&self, topic: &str, isolation: Isolation) -> Result<Vec<Consumed>, Error> {
        let file = self.exchange_file()?;
        let isolation = match isolation {
            Isolation::Committed => "read_committed",
            Isolation::Uncommitted => "read_uncommitted",
        };
        self.admin
            .tell(&json!({"do": "consume", "topic": topic, "isolation": isolation, "file": file.path()}))?;
        let lines =
            BufReader::new(file.reopen().map_err(Error::io("cannot read what was consumed"))?).lines();
        let mut records = Vec::new();
        for line in lines {
            let line = line.map_err(Error::io("cannot read what was consumed"))?;
            let record: Consumed = serde_json::from_str(&line)
                .map_err(|_| Error::NotUnderstood { what: "a consumed record", text: line })?;
            records.push(record);
        }
        records.sort_by_key(|r| (r.partition, r.offset));
        Ok(records)
    }

    /// Sends records by Kafka's own producer (acks=all, idempotent; `configs` win); returns partition and offset of each.
    ///
    /// # Errors
    /// The first refusal, in Kafka's words.
    pub fn produce(
        &self,
        topic: &str,
        records: &[ToProduce],
        transaction: Transaction,
        configs: &[(&str, &str)],
    ) -> Result<Vec<(i32, i64)>, Error> {
        #[derive(Deserialize)]
        struct Offsets {
            offsets: Vec<(i32, i64)>,
        }
        let mut file = self.exchange_file()?;
        for record in records {
            let line = json!(record);
            writeln!(file, "{line}").map_err(Error::io("cannot write what is to be produced"))?;
        }
        let transaction = match transaction {
            Transaction::None => "",
            Transaction::Commit => "commit",
            Transaction::Abort => "abort",
        };
        let answer: Offsets = self.admin.ask(&json!({
            "do": "produce", "topic": topic, "file": file.path(), "transaction": transaction, "configs": object(configs),
        }))?;
        Ok(answer.offsets)
    }

    /// First and next offset of each partition.
    ///
    /// # Errors
    /// No such topic, or no broker answers.
    pub fn offsets(&self, topic: &str) -> Result<Vec<PartitionOffsets>, Error> {
        #[derive(Deserialize)]
        struct Offsets {
            partitions: Vec<PartitionOffsets>,
        }
        self.admin.ask::<Offsets>(&json!({"do": "offsets", "topic": topic})).map(|o| o.partitions)
    }

    /// What a partition's leader remembers of its producers.
    ///
    /// # Errors
    /// No such partition, or no broker answers.
    pub fn producers(&self, topic: &str, partition: i32) -> Result<Vec<ProducerEntry>, Error> {
        #[derive(Deserialize)]
        struct Producers {
            producers: Vec<ProducerEntry>,
        }
        let question = json!({"do": "producers", "topic": topic, "partition": partition});
        self.admin.ask::<Producers>(&question).map(|p| p.producers)
    }

    /// The partition that Java's `BuiltInPartitioner.partitionForKey` gives each key. Asks no broker.
    ///
    /// # Errors
    /// The admin client is gone.
    pub fn partition_for_key<K: AsRef<[u8]>>(&self, keys: &[K], partitions: u32) -> Result<Vec<i32>, Error> {
        self.values_of("partition_for_key", keys, partitions)
    }

    /// Java's `Utils.murmur2` of each key. Asks no broker.
    ///
    /// # Errors
    /// The admin client is gone.
    pub fn murmur2<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<i32>, Error> {
        self.values_of("murmur2", keys, 0)
    }

    fn values_of<K: AsRef<[u8]>>(
        &self,
        command: &str,
        keys: &[K],
        partitions: u32,
    ) -> Result<Vec<i32>, Error> {
        #[derive(Deserialize)]
        struct Values {
            values: Vec<i32>,
        }
        let keys: Vec<String> = keys.iter().map(|k| BASE64.encode(k)).collect();
        let question = json!({"do": command, "keys": keys, "partitions": partitions});
        self.admin.ask::<Values>(&question).map(|v| v.values)
    }

    /// At most `max_messages` lines of `kafka-console-consumer`, from the beginning: each a value and its line feed, so for
    /// values without one. Ends early when nothing comes for a minute.
    ///
    /// # Errors
    /// The consumer's words.
    pub fn console_consumer(&self, topic: &str, max_messages: usize) -> Result<Vec<Vec<u8>>, Error> {
        let max = max_messages.to_string();
        let args = ["--bootstrap-server", self.bootstrap(), "--topic", topic, "--from-beginning"];
        let bounds = ["--max-messages", &max, "--timeout-ms", "60000"];
        let out = self.tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &[&args[..], &bounds].concat(),
            &[],
        )?;
        Ok(lines(&out))
    }

    /// Sends each value through `kafka-console-producer`, as a line.
    ///
    /// # Errors
    /// The producer's words.
    pub fn console_producer<V: AsRef<[u8]>>(&self, topic: &str, values: &[V]) -> Result<(), Error> {
        let mut input = Vec::new();
        for value in values {
            input.extend_from_slice(value.as_ref());
            input.push(b'\n');
        }
        let args = ["--bootstrap-server", self.bootstrap(), "--topic", topic];
        self.tool("org.apache.kafka.tools.ConsoleProducer", &args, &input).map(drop)
    }

    fn exchange_file(&self) -> Result<tempfile::NamedTempFile, Error> {
        tempfile::NamedTempFile::new_in(self.exchange.path())
            .map_err(Error::io("cannot create a temporary file"))
    }
}

/// Splits at each LF; one at the end begins no line.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() { Vec::new() } else { whole.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect() }
}

fn decode<E: serde::de::Error>(text: Option<String>) -> Result<Option<Vec<u8>>, E> {
    text.map(|t| BASE64.decode(t).map_err(E::custom)).transpose()
}

fn bytes_from<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
    decode(Option::<String>::deserialize(d)?)
}

fn headers_from<'de, D: Deserializer<'de>>(d: D) -> Result<Headers, D::Error> {
    let pairs = Vec::<(String, Option<String>)>::deserialize(d)?;
    pairs.into_iter().map(|(name, value)| Ok((name, decode(value)?))).collect()
}

fn bytes_to<S: Serializer>(bytes: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
    bytes.as_ref().map(|b| BASE64.encode(b)).serialize(s)
}

fn headers_to<S: Serializer>(headers: &Headers, s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(headers.iter().map(|(name, value)| (name, value.as_ref().map(|v| BASE64.encode(v)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_is_a_line_and_no_output_is_none() {
        assert_eq!(lines(b""), Vec::<Vec<u8>>::new());
        assert_eq!(lines(b"\n"), vec![Vec::<u8>::new()]);
        assert_eq!(lines(b"a\n\nb\n"), vec![b"a".to_vec(), Vec::new(), b"b".to_vec()]);
        assert_eq!(lines(b"a"), vec![b"a".to_vec()]);
    }
}
