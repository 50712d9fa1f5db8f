//! The options of `produce`.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use kafka_batcher::SpoolMode;
use kafka_batcher::partitioner::Strategy;
use kafka_batcher::{Codec, Compression};

use crate::json::Path;
use crate::produce::extract::{Extractor, KeySource};
use crate::units;

/// A codec, and its level if one was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    pub(crate) codec: Codec,
    pub(crate) level: Option<i32>,
}

impl std::str::FromStr for Packing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (codec, level) = text.split_once(':').map_or((text, None), |(codec, level)| (codec, Some(level)));
        let codec = codec.parse().map_err(|error| format!("{error}"))?;
        let number =
            |level: &str| level.parse().map_err(|_| format!("{level:?} is no level: a whole number"));
        let level = level.map(number).transpose()?;
        // Said here, where the option is named, and not of two settings.
        Compression::new(codec, level).map_err(|error| error.to_string())?;
        Ok(Packing { codec, level })
    }
}

/// What the broker waits for before it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acks(pub(crate) i16);

impl std::str::FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" | "-1" => Ok(Acks(-1)),
            "1" => Ok(Acks(1)),
            "0" => Ok(Acks(0)),
            _ => Err("expected all (or -1), 1 or 0".to_owned()),
        }
    }
}

/// What to do about a line that cannot be an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBadLine {
    /// Stop reading, deliver what came before, exit with 1
    Fail,
    /// Leave it out, count it, go on, exit with 1 at the end
    Skip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SummaryForm {
    /// For people
    Text,
    /// For programs, one JSON object
    Json,
}

/// When a line's receipt is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReceiptsAt {
    /// When it is in Kafka, with its place
    Delivered,
    /// When it survives a crash of this process: it is in the spool, or Kafka has acknowledged it
    Durable,
}

/// When lines go to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpoolWhen {
    /// When Kafka has taken nothing for --spool-after
    #[value(name = "on_failure")]
    OnFailure,
    /// Before they are first sent: what is durable survives kill -9 and power loss
    Always,
    /// Never; what an earlier run left there stays there
    Off,
}

impl SpoolWhen {
    /// As the configuration has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            SpoolWhen::OnFailure => "on_failure",
            SpoolWhen::Always => "always",
            SpoolWhen::Off => "off",
        }
    }
}

impl From<SpoolWhen> for Option<SpoolMode> {
    fn from(when: SpoolWhen) -> Self {
        match when {
            SpoolWhen::OnFailure => Some(SpoolMode::OnFailure),
            SpoolWhen::Always => Some(SpoolMode::Always),
            SpoolWhen::Off => None,
        }
    }
}

/// What a full spool does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpoolFull {
    /// Reading waits until there is room
    Backpressure,
    /// The oldest lines in it make room, are lost and counted; exit code 1
    #[value(name = "drop_oldest")]
    DropOldest,
}

impl SpoolFull {
    /// As the configuration has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            SpoolFull::Backpressure => "backpressure",
            SpoolFull::DropOldest => "drop_oldest",
        }
    }
}

/// A time, checked here and read with the rest of the configuration.
fn time(text: &str) -> Result<String, String> {
    units::duration(text).map(|_| text.to_owned())
}

/// A size, as [`time`].
fn size(text: &str) -> Result<String, String> {
    units::size(text).map(|_| text.to_owned())
}

/// A header that every event gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StaticHeader {
    pub(crate) name: String,
    pub(crate) value: Vec<u8>,
}

impl std::str::FromStr for StaticHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE; NAME= for an empty value")?;
        Ok(StaticHeader { name: name.to_owned(), value: value.as_bytes().to_vec() })
    }
}

/// Reads `\t`, `\n`, `\0`, `\\` and `\xHH`, which a shell hands over as they are written.
fn separator(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(backslash) = rest.find('\\') {
        let (plain, escape) = rest.split_at(backslash);
        out.extend_from_slice(plain.as_bytes());
        let unknown = || format!("{escape:?} is no escape; known are \\t, \\n, \\0, \\\\ and \\xHH");
        let (byte, length) = match escape.as_bytes().get(1) {
            Some(b't') => (b'\t', 2),
            Some(b'n') => (b'\n', 2),
            Some(b'0') => (0, 2),
            Some(b'\\') => (b'\\', 2),
            Some(b'x') => {
                let digits = escape.get(2..4).ok_or_else(unknown)?;
                (u8::from_str_radix(digits, 16).map_err(|_| unknown())?, 4)
            }
            _ => return Err(unknown()),
        };
        out.push(byte);
        rest = escape.get(length..).unwrap_or_default();
    }
    out.extend_from_slice(rest.as_bytes());
    if out.is_empty() { Err("the separator cannot be empty".to_owned()) } else { Ok(out) }
}

/// So that clap takes it for one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Separator(Vec<u8>);

impl std::str::FromStr for Separator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        separator(text).map(Separator)
    }
}

/// Send the lines of a file or of standard input to a topic, one event a line.
///
/// LF ends a line, one CR before it is stripped, an empty line is an empty value, and the last line needs no LF. Lines
/// are bytes: any encoding will do. Times are milliseconds or 20s, 5min; sizes are bytes or 64KiB, 10MiB.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Lines of JSON, with the value of \"origin\" as the key, so that all flights of an airport stay in order:
    kafka-batcher produce -b 127.0.0.1:9092 --topic flights --key-field origin data/flights.ndjson

  The key from deeper in (a JSON pointer), bad lines left out and counted, the summary for a program:
    kafka-batcher produce -b 127.0.0.1:9092 --topic quakes --key-field /properties/net \\
        --on-bad-line skip --summary json data/earthquakes.ndjson

  key<TAB>value lines from another program, and a line of JSON on stdout for each that is in Kafka:
    export-users | kafka-batcher produce -b 127.0.0.1:9092 --topic users --key-separator '\\t' \\
        --receipts=delivered

On stdout every line is a JSON object with a \"type\": \"receipt\" or, last, \"summary\". Everything else goes to stderr.
The first SIGINT or SIGTERM stops reading, delivers what was read (or leaves it in the spool) and reports; the second stops at once.
Exit codes: 0 all delivered; 1 something was refused, skipped, put aside, lost, or is in doubt; 2 usage; 3 all is safe,
some of it still in the spool; 130, 143 second signal.")]
pub(crate) struct Args {
    /// Addresses to find the cluster by, separated by commas or given several times; any one is enough [port: 9092]
    #[arg(
        short = 'b',
        long = "brokers",
        visible_alias = "bootstrap-server",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub(crate) brokers: Vec<String>,

    /// The topic; needed unless the configuration has just one collector
    #[arg(short = 't', long)]
    pub(crate) topic: Option<String>,

    /// Read settings from this file (TOML; `kafka-batcher config init` writes one to begin with). The environment
    /// (KAFKA_BATCHER__KEY) and the options here win over it
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// What to read; standard input if it is - or not given
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Take the key from the JSON of each line: a name at its top level, or a /json/pointer. A string gives its bytes,
    /// anything else its JSON text; a line without the field has no key,
    /// and a JSON null gives the text null
    #[arg(long, value_name = "NAME|/POINTER", help_heading = "Events", conflicts_with = "key_separator")]
    key_field: Option<String>,

    /// Lines are KEY<STR>VALUE, split at the first STR (\t, \n, \0 and \xHH are understood); a line without STR has no key
    #[arg(long, value_name = "STR", help_heading = "Events")]
    key_separator: Option<Separator>,

    /// Send only this part of each line's JSON, read as --key-field is; a line without it is a bad line
    #[arg(long, value_name = "NAME|/POINTER", help_heading = "Events", conflicts_with = "key_separator")]
    value_field: Option<String>,

    /// Send a value that is exactly STR as null: a tombstone, which deletes its key in a compacted topic
    #[arg(long, value_name = "STR", help_heading = "Events")]
    null_value: Option<String>,

    /// Give every event this header; may be repeated, order and duplicates are kept
    #[arg(long = "header", value_name = "NAME=VALUE", help_heading = "Events")]
    pub(crate) headers: Vec<StaticHeader>,

    /// What to do about a line that is over the limit, or is not JSON where a field is asked for
    #[arg(long, value_enum, default_value_t = OnBadLine::Fail, help_heading = "Events")]
    pub(crate) on_bad_line: OnBadLine,

    /// How a partition is chosen: murmur2 (as Java's client), sticky, round_robin, random, phash2 (or md5), crc32, fnv1a
    /// [default: murmur2]
    #[arg(long, value_name = "NAME", help_heading = "Events")]
    pub(crate) partitioner: Option<Strategy>,

    /// Send everything to this partition
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(i32).range(0..),
        help_heading = "Events",
        conflicts_with = "partitioner"
    )]
    pub(crate) partition: Option<i32>,

    /// Events that make a batch ready [default: 10000]
    #[arg(long, value_name = "N", help_heading = "Batches")]
    pub(crate) batch_size: Option<u32>,

    /// The longest an event waits for others [default: 5ms]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Batches")]
    pub(crate) max_wait_time: Option<String>,

    /// The most a batch may be on the wire; also the longest line that is read [default: 1000000]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Batches")]
    pub(crate) max_batch_bytesize: Option<String>,

    /// How batches are compressed: none, gzip, snappy, lz4, zstd; gzip (1 to 9) and zstd (-131072 to 22) with a level if you
    /// like, as zstd:3 [default: none; recommended: zstd]
    #[arg(long, value_name = "CODEC[:LEVEL]", help_heading = "Batches")]
    pub(crate) compression: Option<Packing>,

    /// The most memory that events may hold; when it is full, reading waits [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Batches")]
    pub(crate) memory: Option<String>,

    /// What a broker waits for before it acknowledges: all replicas, 1 (the leader), 0 (nothing). Only all is idempotent
    /// [default: all]
    #[arg(long, value_name = "all|1|0", allow_hyphen_values = true, help_heading = "Delivery")]
    pub(crate) acks: Option<Acks>,

    /// Let the broker create the topic if it is missing (and the broker's settings allow it)
    #[arg(long, help_heading = "Delivery")]
    pub(crate) allow_topic_auto_creation: bool,

    /// End with the reason when nothing at all was acknowledged for so long; a topic that is missing and a login that is refused end
    /// it after 3 s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration, help_heading = "Delivery")]
    pub(crate) timeout: Duration,

    /// How long the delivery of what was read may take after a signal or an error; with a spool also at the end of the
    /// input, after the last acknowledgement [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Delivery")]
    pub(crate) shutdown_timeout: Option<String>,

    /// Keep lines safe in this directory while Kafka does not take them, and deliver them later, in order; what an earlier
    /// run left there goes first. Nothing waits for Kafka then: no --timeout, and exit code 3 if some is still there at
    /// the end (`kafka-batcher spool replay DIR` sends it; sending the same file again would send its lines twice). One
    /// process at a time
    #[arg(long, value_name = "DIR", help_heading = "Spool")]
    pub(crate) spool: Option<PathBuf>,

    /// When lines go to the spool [default: on_failure]
    #[arg(long, value_enum, value_name = "WHEN", help_heading = "Spool")]
    pub(crate) spool_mode: Option<SpoolWhen>,

    /// How long Kafka may take nothing of a partition before its lines go to the spool [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Spool")]
    pub(crate) spool_after: Option<String>,

    /// The most that the spool may hold [default: 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Spool")]
    pub(crate) spool_max_bytes: Option<String>,

    /// What happens when the spool is full [default: backpressure]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Spool")]
    pub(crate) spool_on_full: Option<SpoolFull>,

    /// Drop what is older than this in the spool, and count it as lost; never what may be in Kafka already [default: any age]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Spool")]
    pub(crate) spool_max_age: Option<String>,

    /// The name by which brokers know this client, in their logs and quotas [default: kafka-batcher]
    #[arg(long, value_name = "NAME", help_heading = "Delivery")]
    pub(crate) client_id: Option<String>,

    /// Serve metrics (/metrics), /health and /ready over HTTP at this address, e.g. 127.0.0.1:9464, until the process ends
    #[arg(long, value_name = "HOST:PORT", help_heading = "Output")]
    pub(crate) metrics_addr: Option<String>,

    /// The form of the summary: text goes to stderr, JSON is the last line on stdout
    #[arg(long, value_enum, default_value_t = SummaryForm::Text, help_heading = "Output")]
    pub(crate) summary: SummaryForm,

    /// Write a line of JSON to stdout for each line read, in the order of acknowledgement
    #[arg(long, value_enum, value_name = "WHEN", help_heading = "Output")]
    pub(crate) receipts: Option<ReceiptsAt>,

    /// Say nothing but errors
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

impl Args {
    /// The option that says where keys come from, as it was given.
    pub(super) fn key_option(&self) -> Option<String> {
        match (&self.key_field, &self.key_separator) {
            (Some(field), _) => Some(format!("--key-field {field:?}")),
            (None, Some(Separator(bytes))) => {
                Some(format!("--key-separator {:?}", String::from_utf8_lossy(bytes)))
            }
            (None, None) => None,
        }
    }

    /// What makes an event of a line.
    pub(super) fn extractor(&self) -> Result<Extractor, String> {
        let path = |option: &str, text: &Option<String>| {
            text.as_deref().map(Path::parse).transpose().map_err(|error| format!("{option}: {error}"))
        };
        let key = match (path("--key-field", &self.key_field)?, &self.key_separator) {
            (Some(field), _) => KeySource::Field(field),
            (None, Some(Separator(bytes))) => KeySource::separated_by(bytes),
            (None, None) => KeySource::None,
        };
        let value = path("--value-field", &self.value_field)?;
        Ok(Extractor::new(key, value, self.null_value.as_ref().map(|text| text.as_bytes().to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_read_as_a_shell_hands_them_over() {
        assert_eq!(separator("\\t"), Ok(b"\t".to_vec()));
        assert_eq!(separator("::"), Ok(b"::".to_vec()));
        assert_eq!(separator("a\\x00\\\\b"), Ok(b"a\0\\b".to_vec()));
        for bad in ["", "\\", "\\q", "\\x1", "\\xzz"] {
            assert!(separator(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_codec_may_have_a_level_that_it_has() {
        let packing = |text: &str| text.parse::<Packing>().map(|p| (p.codec, p.level));
        assert_eq!(packing("zstd"), Ok((Codec::Zstd, None)));
        assert_eq!(packing("zstd:-5"), Ok((Codec::Zstd, Some(-5))));
        assert_eq!(packing("GZIP:9"), Ok((Codec::Gzip, Some(9))));
        for (bad, word) in [
            ("zip", "snappy"),
            ("zstd:23", "-131072 to 22"),
            ("lz4:1", "has no levels"),
            ("gzip:fast", "whole"),
        ] {
            assert!(packing(bad).unwrap_err().contains(word), "{bad}");
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_value_that_may_be_empty_or_hold_equals_signs() {
        let header = |text: &str| text.parse::<StaticHeader>().map(|h| (h.name, h.value));
        assert_eq!(header("a=b=c"), Ok(("a".to_owned(), b"b=c".to_vec())));
        assert_eq!(header("a="), Ok(("a".to_owned(), Vec::new())));
        assert!(header("a").is_err());
    }
}
