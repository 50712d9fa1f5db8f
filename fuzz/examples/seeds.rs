//! Writes what each target begins with to `corpus/TARGET/`, and to `corpus/config.dict` the words of a configuration. What others
//! would send is written by their codecs, not by ours.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use kafka_batcher::config::commented_file;
use kafka_batcher_core::wire::Api;
use kafka_batcher_core::{Codec, RecordBatch};
use kafka_batcher_fuzz::{GOOD_SEGMENT, around};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use uuid::Uuid;

fn main() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = Corpus(home.join("corpus"));
    responses(&corpus);
    batches(&corpus);
    spools(&corpus, &home.join("../kafka-batcher/tests/fixtures"));
    config(&corpus, home);
    lines(&corpus, home);
}

struct Corpus(PathBuf);

impl Corpus {
    fn add(&self, target: &str, name: &str, seed: &[u8]) {
        let dir = self.0.join(target);
        fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(name), seed)).expect("a seed is written");
    }
}

// ---- answers of brokers

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Each answer in every version that is spoken, alone and as a stream has it: behind its length.
fn responses(corpus: &Corpus) {
    for (number, api) in (0u8..).zip(Api::ALL) {
        let (oldest, newest) = api.versions();
        for version in oldest..=newest {
            let answer = answer(api, version);
            let head = [number, (version - oldest) as u8];
            let name = format!("{}-{version}", api.name());
            corpus.add("responses", &name, &[&head[..], &answer].concat());
            let length = (answer.len() as u32).to_be_bytes();
            let stream = [&head[..], &length, &answer, &length, &answer].concat();
            corpus.add("responses", &format!("{name}-stream"), &stream);
        }
    }
}

fn answer(api: Api, version: i16) -> Vec<u8> {
    fn encode<A: Encodable + HeaderVersion>(message: &A, version: i16) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        let header = ResponseHeader::default().with_correlation_id(7);
        header.encode(&mut bytes, A::header_version(version)).expect("a header");
        message.encode(&mut bytes, version).expect("an answer");
        bytes.to_vec()
    }
    match api {
        Api::Produce => encode(&produced(version), version),
        Api::Metadata => encode(&metadata(version), version),
        Api::SaslHandshake => {
            let mechanisms = vec![text("PLAIN"), text("SCRAM-SHA-512")];
            encode(&SaslHandshakeResponse::default().with_mechanisms(mechanisms), version)
        }
        Api::ApiVersions => {
            let key = |api: Api| {
                let (oldest, newest) = api.versions();
                let key = api_versions_response::ApiVersion::default().with_api_key(api.key());
                key.with_min_version(oldest).with_max_version(newest)
            };
            encode(&ApiVersionsResponse::default().with_api_keys(Api::ALL.map(key).to_vec()), version)
        }
        Api::InitProducerId => {
            let said = InitProducerIdResponse::default().with_producer_id(ProducerId(4000));
            encode(&said.with_producer_epoch(2), version)
        }
        Api::DescribeConfigs => {
            let value = |name, value| {
                DescribeConfigsResourceResult::default().with_name(text(name)).with_value(Some(text(value)))
            };
            let topic = DescribeConfigsResult::default().with_resource_type(2);
            let topic = topic.with_resource_name(text("topic"));
            let topic = topic.with_configs(vec![value("retention.ms", "604800000"), value("x", "")]);
            encode(&DescribeConfigsResponse::default().with_results(vec![topic]), version)
        }
        Api::SaslAuthenticate => {
            let said = SaslAuthenticateResponse::default().with_auth_bytes(Bytes::from_static(b"v=abc"));
            let said = said.with_error_message(Some(text("no")));
            let lifetime = if version >= 1 { 3_600_000 } else { 0 };
            encode(&said.with_session_lifetime_ms(lifetime), version)
        }
        Api::DescribeProducers => {
            let producer = ProducerState::default().with_producer_id(ProducerId(7)).with_last_sequence(5);
            let partition = PartitionResponse::default().with_active_producers(vec![producer]);
            let topic = TopicResponse::default().with_name(TopicName(text("topic")));
            let topic = topic.with_partitions(vec![partition]);
            encode(&DescribeProducersResponse::default().with_topics(vec![topic]), version)
        }
    }
}

fn produced(version: i16) -> ProduceResponse {
    let mut refused = PartitionProduceResponse::default().with_index(4).with_error_code(6);
    if version >= 8 {
        let at_fault = BatchIndexAndErrorMessage::default()
            .with_batch_index(2)
            .with_batch_index_error_message(Some(text("bad")));
        refused = refused.with_record_errors(vec![at_fault]).with_error_message(Some(text("words")));
    }
    if version >= 10 {
        let leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(3)).with_leader_epoch(12);
        refused = refused.with_current_leader(leader);
    }
    let taken = PartitionProduceResponse::default().with_base_offset(1 << 40);
    let topic = TopicProduceResponse::default().with_partition_responses(vec![taken, refused]);
    let topic = match version {
        13 => topic.with_topic_id(Uuid::from_bytes([7; 16])),
        _ => topic.with_name(TopicName(text("topic"))),
    };
    let said = ProduceResponse::default().with_responses(vec![topic]);
    if version < 10 {
        return said;
    }
    let endpoint = NodeEndpoint::default().with_node_id(BrokerId(3)).with_host(text("c")).with_port(9092);
    said.with_node_endpoints(vec![endpoint])
}

fn metadata(version: i16) -> MetadataResponse {
    let broker = MetadataResponseBroker::default().with_node_id(BrokerId(1)).with_host(text("a"));
    let broker = broker.with_port(9092).with_rack(Some(text("r")));
    let partition = MetadataResponsePartition::default()
        .with_leader_id(BrokerId(1))
        .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
        .with_isr_nodes(vec![BrokerId(1)]);
    let mut topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(text("topic"))))
        .with_partitions(vec![partition.clone(), partition.with_partition_index(1)]);
    if version >= 10 {
        topic = topic.with_topic_id(Uuid::from_bytes([7; 16]));
    }
    let said = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
    said.with_cluster_id(Some(text("cluster")))
}

// ---- batches

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}

/// Records with these values, a key for every second, and a header for every third.
fn records(values: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, value) in (0i64..).zip(values) {
        let mut one = vec![0];
        varint(&mut one, 40 * index);
        varint(&mut one, index);
        nullable(&mut one, (index % 2 == 1).then_some(b"key"));
        nullable(&mut one, Some(value));
        let headers = i64::from(index % 3 == 2);
        varint(&mut one, headers);
        if headers > 0 {
            nullable(&mut one, Some(b"name"));
            nullable(&mut one, None);
        }
        varint(&mut out, one.len() as i64);
        out.extend_from_slice(&one);
    }
    out
}

/// The same bytes by every codec, in each of the ways that producers have.
fn ways(plain: &[u8]) -> Vec<(Codec, &'static str, Vec<u8>)> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let gzip = |level| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        gzip.write_all(plain).and_then(|()| gzip.finish()).expect("gzip")
    };
    let lz4 = |info: FrameInfo| {
        let mut lz4 = FrameEncoder::with_frame_info(info, Vec::new());
        lz4.write_all(plain).expect("lz4");
        lz4.finish().expect("lz4")
    };
    let independent = FrameInfo::new().block_size(BlockSize::Max64KB);
    let checked = FrameInfo::new().block_checksums(true).content_checksum(true);
    let linked = FrameInfo::new().block_mode(BlockMode::Linked).content_size(Some(plain.len() as u64));
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("zstd");
    zstd.include_checksum(true).and_then(|()| zstd.write_all(plain)).expect("zstd");
    let snappy = |plain: &[u8]| snap::raw::Encoder::new().compress_vec(plain).expect("snappy");
    let mut xerial = [&[0x82][..], b"SNAPPY\0", &1u32.to_be_bytes(), &1u32.to_be_bytes()].concat();
    for block in plain.chunks(256).map(snappy) {
        xerial.extend((block.len() as u32).to_be_bytes());
        xerial.extend(block);
    }
    vec![
        (Codec::Gzip, "stored", gzip(0)),
        (Codec::Gzip, "fast", gzip(1)),
        (Codec::Gzip, "best", gzip(9)),
        (Codec::Snappy, "raw", snappy(plain)),
        (Codec::Snappy, "xerial", xerial),
        (Codec::Lz4, "independent", lz4(independent)),
        (Codec::Lz4, "checked", lz4(checked)),
        (Codec::Lz4, "linked", lz4(linked)),
        (Codec::Zstd, "sized", zstd::bulk::compress(plain, 3).expect("zstd")),
        (Codec::Zstd, "fastest", zstd::bulk::compress(plain, -50).expect("zstd")),
        (Codec::Zstd, "stream", zstd.finish().expect("zstd")),
    ]
}

fn batches(corpus: &Corpus) {
    let flights: Vec<String> =
        (0..40).map(|n| format!(r#"{{"flight":"AS{n}","from":"SEA","delay":{}}}"#, n * n % 60)).collect();
    let flights: Vec<&[u8]> = flights.iter().map(|flight| flight.as_bytes()).collect();
    let mut seed = 7u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let noise: Vec<u8> = (0..700).map(|_| next()).collect();
    let all: [(&str, &[&[u8]]); 4] =
        [("flights", &flights), ("empty", &[b""]), ("noise", &[&noise]), ("zeros", &[&[0; 3000], b"x"])];
    for (name, values) in all {
        let (count, plain) = (values.len() as u16, records(values));
        let seed = around(Codec::None, count.into(), &plain);
        RecordBatch::decode(&seed).expect("a batch");
        corpus.add("record_batch", name, &seed);
        for (codec, how, body) in ways(&plain) {
            let seed = around(codec, count.into(), &body);
            RecordBatch::decode(&seed).unwrap_or_else(|error| panic!("{name} {codec} {how}: {error}"));
            corpus.add("record_batch", &format!("{name}-{codec}-{how}"), &seed);
            let seed = [&[codec as u8 - 1][..], &count.to_be_bytes(), &body].concat();
            corpus.add("compressed", &format!("{name}-{codec}-{how}"), &seed);
        }
    }
    // What opens to more than any batch may hold, in few bytes.
    let zstd = zstd::stream::encode_all(&vec![0; 65 << 20][..], 1).expect("zstd");
    corpus.add("compressed", "bomb-zstd", &[&[Codec::Zstd as u8 - 1, 0, 1][..], &zstd].concat());
}

// ---- spools

fn spools(corpus: &Corpus, fixtures: &Path) {
    let mut segments = vec![("good".to_owned(), GOOD_SEGMENT.to_vec())];
    for (spool, topic) in [("spool_v1", "flights"), ("spool_v1b", "t")] {
        for file in fs::read_dir(fixtures.join(spool).join("topics").join(topic)).expect("a fixture") {
            let path = file.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            let short = format!("{spool}-{}", name.trim_start_matches('0'));
            match path.extension() {
                None if path.is_file() => corpus.add("checkpoint", &short, &fs::read(&path).expect("read")),
                Some(_) => segments.push((short, fs::read(&path).expect("read"))),
                None => {}
            }
        }
    }
    for file in fs::read_dir(fixtures.join("garbage")).expect("what was found") {
        let path = file.expect("a file").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        segments.push((name, fs::read(&path).expect("read")));
    }
    for (name, segment) in &segments {
        corpus.add("spool_segment", name, segment);
        // Cut off behind each of its batches, too: groups that are finished and such that are not.
        let mut at = 0;
        while let Some(length) = segment.get(at + 8..at + 12).and_then(<[u8]>::first_chunk) {
            at += u32::from_be_bytes(*length) as usize + 12;
            corpus.add("groups", &format!("{name}-{at}"), &segment[..at.min(segment.len())]);
        }
    }
    // A partition, of which the last number that there can be is settled, or none.
    for (name, number) in [("none", 0), ("last", u64::MAX), ("last-offset", i64::MAX as u64)] {
        let [one, three, number] =
            [&1u32.to_be_bytes()[..], &3i32.to_be_bytes(), &number.to_be_bytes()].map(<[u8]>::to_vec);
        let fields = [b"kbspoolc", &one[..], &number, &number, &three, &one, &three, &number, &[0; 4]];
        corpus.add("checkpoint", name, &fields.concat());
    }
}

// ---- what users write

fn config(corpus: &Corpus, home: &Path) {
    // Every setting with its default, as if the user had taken the comment away.
    let commented = commented_file();
    let is_name = |name: &str| name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    let settings: Vec<&str> = commented
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .filter(|line| line.starts_with('[') || line.split_once(" = ").is_some_and(|(name, _)| is_name(name)))
        .collect();
    let file = settings.join("\n");
    corpus.add("config", "all", file.as_bytes());
    for (number, table) in file.split("\n[").enumerate() {
        let table = if number == 0 { table.to_owned() } else { format!("[{table}") };
        corpus.add("config", &format!("table-{number}"), table.as_bytes());
    }
    for document in ["README.md", "MIGRATING.md"] {
        let text = fs::read_to_string(home.join("..").join(document)).expect("a document");
        for (number, block) in text.split("```toml\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap_or_default();
            corpus.add("config", &format!("{document}-{number}"), block.as_bytes());
        }
    }
    let quoted = |word: &str| format!("\"{}\"\n", word.escape_default());
    let words = settings.iter().flat_map(|line| match line.split_once(" = ") {
        Some((name, value)) => vec![format!("{name} = "), value.to_owned()],
        None => vec![(*line).to_owned()],
    });
    let mut words: Vec<String> = words.filter(|word| word.is_ascii()).map(|word| quoted(&word)).collect();
    words.sort();
    words.dedup();
    // libFuzzer knows `\xAB`, `\\` and `\"`.
    let words = words.concat().replace("\\'", "'").replace("\\t", "\\x09").replace("\\n", "\\x0a");
    fs::write(corpus.0.join("config.dict"), words).expect("written");
}

fn lines(corpus: &Corpus, home: &Path) {
    let seeds = |name: &str, text: &str| {
        corpus.add("lines", name, &[&[255, 30], text.as_bytes()].concat());
        // With short lines and a byte at a time.
        corpus.add(
            "lines",
            &format!("{name}-short"),
            &[&[1, 0], text.as_bytes(), b"\n", text.as_bytes()].concat(),
        );
    };
    for data in ["flights.ndjson", "earthquakes.ndjson"] {
        let text = fs::read_to_string(home.join("../data").join(data)).expect("data");
        seeds(data, &text.lines().take(3).collect::<Vec<_>>().join("\r\n"));
    }
    seeds("fields", r#"{"key":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00","a":{"b":[1,-0.5e+10]},"key":null}"#);
    seeds("array", r#"[{"key":true},[],{}, "x" ]"#);
    seeds("lone", r#"{"a":{"b":"\ud83d"},"key":"\ud83d\n","\ude00":1e999}"#);
    for depth in 126..130 {
        seeds(&format!("deep-{depth}"), &("[".repeat(depth) + &"]".repeat(depth)));
    }
    seeds("ends", "a\r\n\r\n\n\rb\r");
}
