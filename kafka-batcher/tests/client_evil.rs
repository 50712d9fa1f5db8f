//! The native producer against servers that are no Kafka broker, or a bad one: each gets an error that names the
//! address, what was seen there and what to do; none wedges or kills the client.

mod client_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client_support::*;
use kafka_batcher::producer::native::{ClientSettings, NativeProducer};
use kafka_batcher::producer::{MissingTopic, Producer, ProducerError};
use kafka_batcher_core::{Codec, Compression, Compressor, ErrorClass, ErrorCode, Persisted, ProduceResult};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, InitProducerIdResponse, MetadataResponse, ProduceResponse, ProducerId,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

fn impatient(address: impl ToString) -> NativeProducer {
    within(address, Duration::from_millis(200))
}

fn within(address: impl ToString, timeout: Duration) -> NativeProducer {
    let mut settings = settings(&address.to_string());
    settings.connect_timeout = timeout;
    settings.request_timeout = timeout;
    NativeProducer::new(settings).unwrap()
}

async fn refused(address: impl ToString) -> ProducerError {
    let error = refused_as(ErrorClass::Retriable, address).await;
    assert_eq!(error.code, None, "{error}");
    error
}

async fn refused_as(class: ErrorClass, address: impl ToString) -> ProducerError {
    let error = impatient(address.to_string()).connect().await.unwrap_err();
    assert!(error.message.contains(&address.to_string()), "the address is missing: {error}");
    assert_eq!(error.class, class, "{error}");
    error
}

/// What is said of a server that answers anything with these bytes.
async fn refused_after(bytes: &'static [u8]) -> String {
    let address = server(move |mut stream| async move {
        let _ = stream.read(&mut [0; 1000]).await;
        say(&mut stream, bytes).await;
        // Held open: it is the bytes that must be noticed.
        let _ = stream.read(&mut [0; 1000]).await;
    })
    .await;
    refused(address).await.message
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
}

#[tokio::test]
async fn a_web_server_is_called_one() {
    says(
        &refused_after(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await,
        &["an HTTP server answered", "HTTP/1.1 400 Bad", "port 9092"],
    );
}

#[tokio::test]
async fn a_tls_listener_is_called_one() {
    says(&refused_after(&[0x15, 3, 3, 0, 2, 2, 0x46]).await, &["a TLS endpoint answered", "PLAINTEXT"]);
}

#[tokio::test]
async fn garbage_is_shown() {
    says(
        &refused_after(b"SSH-2.0-OpenSSH_9.2p1\r\n").await,
        &["no Kafka broker answered there", "SSH-2.0-OpenSSH_", "listener"],
    );
}

#[tokio::test]
async fn an_answer_of_two_gigabytes_is_not_waited_for() {
    says(
        &refused_after(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]).await,
        &["2147483647 bytes", "no Kafka broker"],
    );
    says(&refused_after(&[0x80, 0, 0, 0, 0, 0, 0, 0]).await, &["-2147483648 bytes"]);
}

#[tokio::test]
async fn an_answer_to_somebody_else_is_noticed() {
    let bytes: &[u8] = &[0, 0, 0, 8, 0, 0, 0, 99, 0, 0, 0, 0];
    says(&refused_after(bytes).await, &["correlation id 99 where 0 was due", "is it a Kafka broker"]);
}

#[tokio::test]
async fn versions_that_cannot_be_read_are_noticed() {
    let bytes: &[u8] = &[0, 0, 0, 6, 0, 0, 0, 0, 0, 0];
    says(&refused_after(bytes).await, &["versions cannot be read", "api keys at byte 6"]);
    let hell: &[u8] = &[0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    says(&refused_after(hell).await, &["more elements than the message can hold"]);
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_noticed() {
    let address = server(|stream| async move { drop(stream) }).await;
    says(&refused(address).await.message, &["closed the connection when asked", "PLAINTEXT listener"]);
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_given_up_after_connect_timeout() {
    let address =
        server(|mut stream| async move { while stream.read(&mut [0; 1000]).await.is_ok_and(|n| n > 0) {} })
            .await;
    says(&refused(address).await.message, &["does not say within 200ms (connect_timeout)"]);
}

#[tokio::test]
async fn an_address_that_does_not_exist_or_refuses_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    says(&refused(free).await.message, &["connection refused", "is Kafka running"]);
    let asked = |name: &str| within(name, Duration::from_secs(60));
    let unknown = asked("no-such-host.invalid:9092").connect().await.unwrap_err();
    assert_eq!((unknown.class, unknown.code), (ErrorClass::Retriable, None), "{unknown}");
    says(&unknown.message, &["no-such-host.invalid:9092", "the name cannot be resolved", "DNS"]);
    let both = asked(&format!("no-such-host.invalid,{free}")).connect().await.unwrap_err().message;
    says(&both, &["no bootstrap address answers", "no-such-host.invalid:9092", &free.to_string()]);
}

#[test]
fn addresses_that_are_none_are_refused_before_anything_is_tried() {
    let error = NativeProducer::new(ClientSettings::new(["kafka:port", "http://kafka"])).unwrap_err();
    assert_eq!(error.mistakes.len(), 2);
    says(&error.to_string(), &["\"kafka:port\" is not an address", "\"http://kafka\" is not an address"]);
}

/// Versions of Kafka 4.1 for what is asked here.
const MODERN: &[(i16, i16, i16)] = &[(0, 0, 12), (3, 0, 9), (18, 0, 4), (22, 0, 5), (61, 0, 0)];

/// A broker of one topic "t" of one partition that does everything right but what `produce` says of Produce requests
/// (the bytes that it answers), or of any request.
async fn bad_broker(
    versions: &'static [(i16, i16, i16)],
    answer: impl Fn(&kafka_protocol::messages::RequestHeader) -> Option<Vec<u8>> + Clone + Send + Sync + 'static,
) -> std::net::SocketAddr {
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            let port = stream.local_addr().unwrap().port();
            while let Some((header, _)) = next_request(&mut stream).await {
                let bytes = match (answer(&header), header.request_api_key) {
                    (Some(bytes), _) if bytes.is_empty() => return,
                    (Some(bytes), _) => bytes,
                    (None, 18) if header.request_api_version > 3 => return,
                    (None, 18) => framed(&header, &speaks(versions)),
                    (None, 3) => framed(&header, &metadata(port)),
                    (None, key) => panic!("nobody said what to answer to key {key}"),
                };
                say(&mut stream, &bytes).await;
            }
        }
    })
    .await
}

fn metadata(port: u16) -> MetadataResponse {
    let text = |text: &'static str| StrBytes::from_static_str(text);
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(1))
        .with_host(text("127.0.0.1"))
        .with_port(i32::from(port));
    let partition = MetadataResponsePartition::default().with_leader_id(BrokerId(1));
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(text("t"))))
        .with_partitions(vec![partition]);
    MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic])
}

fn acked(header: &kafka_protocol::messages::RequestHeader, offset: i64) -> Vec<u8> {
    let partition = PartitionProduceResponse::default().with_base_offset(offset);
    let topic = TopicProduceResponse::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partition_responses(vec![partition]);
    framed(header, &ProduceResponse::default().with_responses(vec![topic]))
}

#[tokio::test]
async fn brokers_too_old_and_too_new_are_told_apart() {
    // Somebody must act: another version does not come by trying again.
    let refused = async |address| refused_as(ErrorClass::Unavailable, address).await;
    let old = bad_broker(&[(0, 0, 2), (3, 0, 4), (18, 0, 0)], |_| None).await;
    says(&refused(old).await.message, &["too old", "Produce 0 to 2", "needed is 3", "Kafka 0.11"]);
    let new = bad_broker(&[(0, 90, 99), (3, 0, 4), (18, 0, 0)], |_| None).await;
    says(
        &refused(new).await.message,
        &["no common version", "Produce 90 to 99", "newer version of this client"],
    );
    let controller = bad_broker(&[(18, 0, 4)], |_| None).await;
    says(&refused(controller).await.message, &["does not speak Produce"]);
}

#[tokio::test]
async fn as_long_as_one_of_several_addresses_may_come_back_nobody_is_shut_out() {
    let old = bad_broker(&[(0, 0, 2), (3, 0, 4), (18, 0, 0)], |_| None).await;
    let mut both = settings(&old.to_string());
    both.bootstrap.push("127.0.0.1:1".to_owned());
    let error = NativeProducer::new(both).unwrap().connect().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Retriable, "{error}");
    says(&error.message, &["too old", "connection refused"]);
}

#[tokio::test]
async fn a_broker_that_knows_only_the_first_version_of_api_versions_is_asked_again() {
    let address = bad_broker(&[(0, 0, 3), (3, 0, 4), (18, 0, 0)], |header| {
        (header.request_api_key == 18 && header.request_api_version == 3).then(|| {
            let mut old = header.clone();
            old.request_api_version = 0;
            framed(&old, &ApiVersionsResponse::default().with_error_code(35))
        })
    })
    .await;
    let producer = impatient(address);
    assert_eq!(producer.topic("t", MissingTopic::Refuse).await.unwrap().partitions, 1);
    // Kafka 0.11 knows no InitProducerId here: idempotence is not to be had, and said so.
    let error = producer.init_producer_id().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    says(&error.message, &["InitProducerId", "Kafka 0.11"]);
}

#[tokio::test]
async fn a_listener_that_wants_to_know_who_we_are_first_is_guessed() {
    let address = bad_broker(MODERN, |header| (header.request_api_key == 3).then(Vec::new)).await;
    says(&impatient(address).connect().await.unwrap_err().message, &["want SASL"]);
}

#[tokio::test]
async fn metadata_that_cannot_be_read_is_an_error_and_no_death() {
    // A flexible header, throttle time 0, then four billion brokers.
    let address = bad_broker(MODERN, |header| {
        (header.request_api_key == 3).then(|| {
            let id = header.correlation_id.to_be_bytes();
            [&[0, 0, 0, 14][..], &id, &[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat()
        })
    })
    .await;
    let said = impatient(address).connect().await.unwrap_err().message;
    says(&said, &["Metadata version 9 cannot be read", "more elements than the message can hold"]);
}

#[tokio::test]
async fn a_producer_id_of_minus_one_is_never_given_out() {
    let address = bad_broker(MODERN, |header| {
        let answer =
            InitProducerIdResponse::default().with_producer_id(ProducerId(-1)).with_producer_epoch(-1);
        (header.request_api_key == 22).then(|| framed(header, &answer))
    })
    .await;
    let error = impatient(address).init_producer_id().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Retriable);
    says(&error.message, &["gave -1 as producer id"]);
}

/// What becomes of a batch when Produce is answered so; then a sane answer must do again.
async fn produce_answered(
    bad: impl Fn(&kafka_protocol::messages::RequestHeader) -> Vec<u8> + Clone + Send + Sync + 'static,
) -> ProduceResult {
    let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let address = bad_broker(MODERN, move |header| {
        (header.request_api_key == 0).then(|| match first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            true => bad(header),
            false => acked(header, 5),
        })
    })
    .await;
    let producer = impatient(address);
    producer.topic("t", MissingTopic::Refuse).await.unwrap();
    let result = send(&producer, to("t", 0, one("x"))).await.result;
    assert_eq!(offset(&send(&producer, to("t", 0, one("y"))).await), 5, "after {result:?}");
    result
}

fn lost(result: ProduceResult, parts: &[&str]) {
    match result {
        ProduceResult::Lost { message } => says(&message, parts),
        other => panic!("not lost: {other:?}"),
    }
}

#[tokio::test]
async fn bad_answers_to_produce_are_losses_with_a_reason_and_the_next_connection_works() {
    lost(
        produce_answered(|header| {
            let mut other = header.clone();
            other.correlation_id += 1;
            acked(&other, 1)
        })
        .await,
        &["an answer came out of order", "broker 1 at 127.0.0.1:"],
    );
    lost(
        produce_answered(|header| {
            let whole = acked(header, 1);
            let half = &whole[4..whole.len() - 8];
            [&(half.len() as u32).to_be_bytes()[..], half].concat()
        })
        .await,
        &["127.0.0.1:", "could not be read", "the message ends before it"],
    );
    lost(produce_answered(|_| b"HTTP/1.1 400 Bad Request".to_vec()).await, &["an HTTP server answered"]);
    lost(produce_answered(|_| vec![0x7f, 0xff, 0xff, 0xff]).await, &["2147483647 bytes"]);
    lost(produce_answered(|_| Vec::new()).await, &["the broker closed it"]);
    lost(
        produce_answered(|header| framed(header, &ProduceResponse::default())).await,
        &["127.0.0.1:", "leaves this partition out"],
    );
    // Half an answer and nothing more.
    lost(
        produce_answered(|header| acked(header, 1)[..10].to_vec()).await,
        &["no answer within 200ms (request_timeout)"],
    );
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_connection_and_nothing_else() {
    let result = produce_answered(|header| {
        let mut twice = acked(header, 1);
        twice.extend_from_slice(&acked(header, 1));
        twice
    })
    .await;
    assert_eq!(result, ProduceResult::Acked { base_offset: Some(1) });
}

#[tokio::test]
async fn an_acknowledgement_without_an_offset_stays_without_one() {
    let result = produce_answered(|header| acked(header, -1)).await;
    assert_eq!(result, ProduceResult::Acked { base_offset: None });
}

/// Kafka 2.0 would answer 76 to each of them (KIP-110).
#[tokio::test]
async fn a_broker_older_than_zstd_is_sent_no_batch_of_it_and_gets_all_others() {
    let produced = Arc::new(AtomicU64::new(0));
    let seen = produced.clone();
    let old: Vec<_> =
        MODERN.iter().map(|&(key, min, max)| (key, min, if key == 0 { 6 } else { max })).collect();
    let address = bad_broker(old.leak(), move |header| {
        (header.request_api_key == 0).then(|| acked(header, seen.fetch_add(1, Ordering::SeqCst) as i64))
    })
    .await;
    let producer = impatient(address);
    producer.topic("t", MissingTopic::Refuse).await.unwrap();
    let packed = |codec| {
        let (mut batch, mut compressor) = (one("the same words ".repeat(50)), Compressor::new());
        let how = Compression::new(codec, None).unwrap();
        compressor.compress(&batch, how).unwrap();
        assert!(compressor.put_into(&mut batch));
        batch
    };
    assert_eq!(offset(&send(&producer, to("t", 0, packed(Codec::Lz4))).await), 0);
    match send(&producer, to("t", 0, packed(Codec::Zstd))).await.result {
        ProduceResult::Refused(refusal) => {
            assert_eq!(refusal.code, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
            assert_eq!(
                (refusal.code.class(), refusal.code.persisted()),
                (ErrorClass::Unavailable, Persisted::No)
            );
            says(
                &refusal.message.unwrap(),
                &["zstd", "broker 1", "version 6", "Kafka 2.1", "another compression"],
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(offset(&send(&producer, to("t", 0, one("plain"))).await), 1);
    assert_eq!(produced.load(Ordering::SeqCst), 2);
}
