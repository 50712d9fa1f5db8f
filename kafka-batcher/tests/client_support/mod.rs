//! What the tests of the client share: batches made by hand, and a broker that says whatever it is told to.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
use kafka_batcher::producer::{PartitionBatch, ProduceRequest, Producer};
use kafka_batcher_core::{ProduceAnswer, ProduceResult, RecordBatch};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Encodable, HeaderVersion, decode_request_header_from_buffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Numbers of a batch: producer id, epoch, first sequence.
pub(crate) type Numbers = (i64, i16, i32);
pub(crate) const NO_NUMBERS: Numbers = (-1, -1, -1);

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// A record batch, written by hand from the protocol's description, and read by core as if it came from elsewhere.
pub(crate) fn batch(numbers: Numbers, values: &[&[u8]]) -> RecordBatch {
    let mut records = Vec::new();
    for (n, value) in values.iter().enumerate() {
        let mut record = vec![0, 0];
        varint(&mut record, n as i64);
        varint(&mut record, -1);
        varint(&mut record, value.len() as i64);
        record.extend_from_slice(value);
        varint(&mut record, 0);
        varint(&mut records, record.len() as i64);
        records.extend_from_slice(&record);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut crc_part = Vec::new();
    crc_part.extend_from_slice(&0i16.to_be_bytes());
    crc_part.extend_from_slice(&(values.len() as i32 - 1).to_be_bytes());
    crc_part.extend_from_slice(&now.to_be_bytes());
    crc_part.extend_from_slice(&now.to_be_bytes());
    crc_part.extend_from_slice(&numbers.0.to_be_bytes());
    crc_part.extend_from_slice(&numbers.1.to_be_bytes());
    crc_part.extend_from_slice(&numbers.2.to_be_bytes());
    crc_part.extend_from_slice(&(values.len() as i32).to_be_bytes());
    crc_part.extend_from_slice(&records);
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(&(crc_part.len() as i32 + 9).to_be_bytes());
    bytes.extend_from_slice(&(-1i32).to_be_bytes());
    bytes.push(2);
    bytes.extend_from_slice(&crc32c::crc32c(&crc_part).to_be_bytes());
    bytes.extend_from_slice(&crc_part);
    RecordBatch::decode(&bytes).unwrap().0
}

/// One event without numbers.
pub(crate) fn one(value: impl AsRef<[u8]>) -> RecordBatch {
    batch(NO_NUMBERS, &[value.as_ref()])
}

pub(crate) fn to(topic: &str, partition: i32, batch: RecordBatch) -> PartitionBatch {
    PartitionBatch { topic: topic.into(), partition, batch, leader: None }
}

pub(crate) fn request(batches: Vec<PartitionBatch>) -> ProduceRequest {
    ProduceRequest { acks: -1, timeout: Duration::from_secs(10), batches }
}

/// Produces one batch and returns its only answer.
pub(crate) async fn send(producer: &NativeProducer, batch: PartitionBatch) -> ProduceAnswer {
    let mut answers = producer.produce(request(vec![batch])).await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}

/// The offset of an acknowledged batch.
pub(crate) fn offset(answer: &ProduceAnswer) -> i64 {
    match answer.result {
        ProduceResult::Acked { base_offset: Some(offset) } => offset,
        _ => panic!("not acknowledged: {answer:?}"),
    }
}

/// Settings with short pauses, so that tests do not wait.
pub(crate) fn settings(bootstrap: &str) -> ClientSettings {
    let mut settings = ClientSettings::new(bootstrap.split(','));
    settings.retry_backoff = Duration::from_millis(5);
    settings.retry_backoff_max = Duration::from_millis(50);
    settings
}

pub(crate) fn producer(bootstrap: &str) -> NativeProducer {
    NativeProducer::new(settings(bootstrap)).unwrap()
}

/// Waits until `holds`, looking again whenever metadata or a connection changed.
pub(crate) async fn until(producer: &NativeProducer, what: &str, holds: impl Fn(&NativeProducer) -> bool) {
    let mut version = producer.metadata_version();
    let wait = async {
        while !holds(producer) {
            version.changed().await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "it never came to be: {what}");
}

/// A server that treats each connection as `serve` says. Returns its address.
pub(crate) async fn server<F, S>(serve: S) -> SocketAddr
where
    S: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads the next request of a connection; `None` at its end.
pub(crate) async fn next_request(stream: &mut TcpStream) -> Option<(RequestHeader, Bytes)> {
    let length = stream.read_u32().await.ok()? as usize;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    let mut bytes = Bytes::from(bytes);
    let header = decode_request_header_from_buffer(&mut bytes).unwrap();
    Some((header, bytes))
}

/// An answer as it goes on the wire.
pub(crate) fn framed<A: Encodable + HeaderVersion>(header: &RequestHeader, message: &A) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let version = header.request_api_version;
    let answer = ResponseHeader::default().with_correlation_id(header.correlation_id);
    answer.encode(&mut bytes, A::header_version(version)).unwrap();
    message.encode(&mut bytes, version).unwrap();
    [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
}

/// What a broker says it speaks: for each key, oldest and newest version.
pub(crate) fn speaks(ranges: &[(i16, i16, i16)]) -> ApiVersionsResponse {
    let key = |&(key, min, max): &(i16, i16, i16)| {
        ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
    };
    ApiVersionsResponse::default().with_api_keys(ranges.iter().map(key).collect())
}

/// Answers bytes and forgets errors: the other side may be gone.
pub(crate) async fn say(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}
