//! What the tests of secured clusters share.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_batcher::{
    Builder, Config, ErrorNotifier, KafkaBatcher, LogNotifier, Notification, NotificationKind, Record,
};
use kafka_batcher_testkit::{Error, Isolation, RealKafka, Tally};
use tokio::runtime::Runtime;
use tracing_subscriber::fmt::MakeWriter;

/// Longer than anything takes, so that only what hangs runs into it.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// A password that is nobody's, to be searched for.
pub(crate) const PLANTED: &str = "hunter2-planted";

/// One thread does all, so that its log is the test's.
pub(crate) fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// The table that trusts this Kafka.
pub(crate) fn ca(kafka: &RealKafka) -> Result<String, Error> {
    Ok(format!("[ssl]\nca_file = {:?}\n", kafka.security_file("ca.pem")?))
}

/// The same with a certificate of the client's own.
pub(crate) fn client_certificate(kafka: &RealKafka) -> Result<String, Error> {
    let (certificate, key) = (kafka.security_file("client.crt")?, kafka.security_file("client.key")?);
    Ok(ca(kafka)? + &format!("certificate_file = {certificate:?}\nkey_file = {key:?}\n"))
}

pub(crate) fn sasl(mechanism: &str, login: &str, password: &str) -> String {
    format!("[sasl]\nmechanism = \"{mechanism}\"\nlogin = \"{login}\"\npassword = \"{password}\"\n")
}

/// A file as a user writes it: this listener, these tables, collectors of these topics.
pub(crate) fn config(kafka: &RealKafka, listener: &str, tables: &str, topics: &[&str]) -> Config {
    let address = kafka.listener(listener).expect("a listener");
    let collectors: Vec<_> = topics
        .iter()
        .map(|topic| format!("[[collectors]]\ntopic_name = \"{topic}\"\nbatch_size = 20\n"))
        .collect();
    let text = format!(
        "endpoints = [\"{address}\"]\nretry_backoff = \"20ms\"\nretry_backoff_max = \"250ms\"\n{tables}{}",
        collectors.concat()
    );
    Config::from_toml(&text, "test.toml")
}

pub(crate) async fn batcher(config: &Config, told: &Arc<Told>) -> KafkaBatcher {
    start(Builder::from_config(config).expect("a good configuration"), told).await
}

pub(crate) async fn start(builder: Builder, told: &Arc<Told>) -> KafkaBatcher {
    builder.error_notifier(Shared(told.clone())).start().await.expect("the batcher starts")
}

/// What is said when a batcher with these tables comes to this listener.
pub(crate) fn refusal(kafka: &RealKafka, listener: &str, tables: &str) -> String {
    let told = Arc::new(Told::default());
    runtime().block_on(async {
        let batcher = batcher(&config(kafka, listener, tables, &["refused"]), &told).await;
        let failed =
            |told: &Vec<Notification>| told.iter().any(|n| n.kind == NotificationKind::ClientStartFailed);
        let wait = told.told.subscribe();
        tokio::time::timeout(LONG, { wait }.wait_for(failed)).await.expect("it is told").expect("a sender");
        let _ = batcher.shutdown(Duration::ZERO).await;
    });
    told.of(NotificationKind::ClientStartFailed).concat()
}

pub(crate) fn numbered(event: u32) -> Record<'static> {
    Record::value(&*event.to_string().leak())
}

/// Sends these events, and waits for the last one.
pub(crate) async fn deliver(batcher: &KafkaBatcher, topic: &str, events: Range<u32>) {
    let collector = batcher.get_collector(topic).expect("a collector");
    let mut last = None;
    for event in events {
        last = Some(collector.send(numbered(event).with_partition(0)).await.expect("accepted"));
    }
    last.expect("an event").delivered().await.expect("delivered");
}

/// Java's consumer finds just these events, once and in order.
pub(crate) fn check(kafka: &RealKafka, topic: &str, events: Range<u32>) -> Result<(), Error> {
    consumed(kafka, topic, events.end, 1)
}

/// Java's consumer finds so many events, each in the partition of its number.
pub(crate) fn consumed(kafka: &RealKafka, topic: &str, events: u32, partitions: u32) -> Result<(), Error> {
    let mut expected: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for event in 0..events {
        expected.entry((event % partitions) as i32).or_default().push(event);
    }
    let mut seen: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for record in kafka.consume(topic, Isolation::Committed)? {
        let value = String::from_utf8(record.value.unwrap_or_default()).expect("text");
        seen.entry(record.partition).or_default().push(value.parse().expect("a number"));
    }
    Tally::compare(&expected, &seen).assert_clean();
    Ok(())
}

/// Keeps what it is told, and logs it as the library does.
#[derive(Default)]
pub(crate) struct Told {
    told: tokio::sync::watch::Sender<Vec<Notification>>,
}

impl Told {
    pub(crate) fn all(&self) -> Vec<Notification> {
        self.told.borrow().clone()
    }

    /// Resolves when these words were told.
    pub(crate) async fn says(&self, words: &str) {
        let said = |told: &Vec<Notification>| told.iter().any(|told| told.message.contains(words));
        let _ = self.told.subscribe().wait_for(said).await.expect("it lives as long as this does");
    }

    pub(crate) fn of(&self, kind: NotificationKind) -> Vec<String> {
        self.all().into_iter().filter(|n| n.kind == kind).map(|n| n.message).collect()
    }
}

struct Shared(Arc<Told>);

impl ErrorNotifier for Shared {
    fn report(&self, notification: &Notification) {
        LogNotifier.report(notification);
        self.0.told.send_modify(|told| told.push(notification.clone()));
    }
}

/// What this thread logs meanwhile, at debug.
pub(crate) fn log_of<T>(work: impl FnOnce(&Log) -> T) -> (T, String) {
    let log = Log::default();
    let filter = tracing_subscriber::EnvFilter::new("kafka_batcher=debug");
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log.clone()).finish();
    let done = tracing::subscriber::with_default(subscriber, || work(&log));
    let text = log.text();
    (done, text)
}

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Resolves when these words were logged so often.
    pub(crate) async fn says(&self, words: &str, times: usize) {
        let said = async {
            while self.text().matches(words).count() < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, said).await.expect("it is logged");
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

/// Every file below a directory.
pub(crate) fn files_in(dir: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        match entry.is_dir() {
            true => found.extend(files_in(&entry)),
            false => found.push(std::fs::read(entry).expect("a file")),
        }
    }
    found
}

// ---- OAUTHBEARER ---------------------------------------------------------------------------------------------------------

/// What the token endpoint of the tests wants to hear from client `batcher`; some of it must be encoded.
pub(crate) const CLIENT_SECRET: &str = "s3cret/of:the+client";

/// An unsigned token of this user, good for so many seconds from now.
pub(crate) fn token(user: &str, seconds: i64) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
            as i64;
    let issued = now + seconds.min(0) - 10;
    let claims = format!("{{\"sub\":\"{user}\",\"iat\":{issued},\"exp\":{}}}", now + seconds);
    format!("{}.{}.", BASE64.encode("{\"alg\":\"none\"}"), BASE64.encode(claims))
}

/// A token provider of a program's own.
pub(crate) struct Mine {
    pub(crate) seconds: u32,
}

impl kafka_batcher::TokenProvider for Mine {
    fn token(&self) -> kafka_batcher::producer::BoxFuture<'_, Result<kafka_batcher::Token, String>> {
        let lifetime = Some(Duration::from_secs(self.seconds.into()));
        Box::pin(async move {
            Ok(kafka_batcher::Token { value: token("alice", self.seconds.into()).into(), lifetime })
        })
    }
}

/// A token endpoint over HTTPS; its address. It ends with the process.
pub(crate) fn token_endpoint(kafka: &RealKafka, token: String) -> Result<String, Error> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = kafka.security_file("broker.pem")?;
    let chain = CertificateDer::pem_file_iter(&file).expect("PEM").map(|der| der.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(&file).expect("a key");
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a fitting key");
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let session = rustls::ServerConnection::new(config.clone()).expect("a session");
            // Who hangs up is no trouble of ours.
            let _ = answer(rustls::StreamOwned::new(session, socket), &token);
        }
    });
    Ok(address)
}

fn answer(
    mut stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>,
    token: &str,
) -> std::io::Result<()> {
    use base64::Engine;
    let mut reader = BufReader::new(&mut stream);
    let (mut head, mut length, mut line) = (String::new(), 0, String::new());
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        head += &std::mem::take(&mut line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body);
    // By hand, as RFC 6749 has it.
    let credentials = base64::engine::general_purpose::STANDARD.encode("batcher:s3cret%2Fof%3Athe%2Bclient");
    let known = head
        .to_ascii_lowercase()
        .contains(&format!("authorization: basic {credentials}").to_ascii_lowercase());
    let (status, said) = match (known, body == "grant_type=client_credentials&scope=kafka%20write") {
        (false, _) => (
            "401 Unauthorized",
            r#"{"error":"invalid_client","error_description":"who are you?"}"#.to_owned(),
        ),
        (true, false) => ("400 Bad Request", r#"{"error":"invalid_scope"}"#.to_owned()),
        (true, true) => (
            "200 OK",
            format!("{{\"access_token\":\"{token}\",\"expires_in\":3600,\"token_type\":\"Bearer\"}}"),
        ),
    };
    let length = said.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{said}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}
