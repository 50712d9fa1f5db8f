//! One suite of cases against two targets: the broker of this crate, and a real Apache Kafka. What a case claims of Kafka's behaviour is thus
//! asked of Kafka itself each time, and the broker here cannot drift away from it.
//!
//! A case sees only a [`Target`]: an address, and the few things that no request can do (restart, change a setting, let time pass).

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod idempotence;
mod invalid;
mod produce;
mod read;
mod restart;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use kafka_batcher_broker::{AutoCreate, EmbeddedKafka, ProducerMemory};
use kafka_batcher_testkit::{Options, Outcome, RealKafka, Signal, Suite};
use support::Client;

/// How a broker ends before it starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Term,
    Kill,
}

/// A cluster of one broker that behaves like Kafka.
pub(crate) trait Target {
    /// `host:port`.
    fn address(&self) -> String;
    /// Ends the broker, starts it again, returns when it listens.
    fn restart(&self, end: End);
    /// Changes a topic's setting.
    fn set_config(&self, topic: &str, name: &str, value: &str);
    /// Lets it look for expired producers, now or soon.
    fn expire_producers(&self);
}

impl dyn Target + '_ {
    fn client(&self) -> Client {
        Client::bootstrap(&self.address())
    }

    /// A client, and a topic of its own with so many partitions.
    fn topic(&self, partitions: i32) -> (Client, String) {
        let mut client = self.client();
        let topic = fresh_name();
        client.create(&topic, partitions, &[]);
        (client, topic)
    }
}

/// A topic name that was not used before.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

struct Embedded(EmbeddedKafka);

impl Target for Embedded {
    fn address(&self) -> String {
        self.0.bootstrap()
    }

    fn restart(&self, end: End) {
        match end {
            End::Term => self.0.stop_broker(1),
            End::Kill => self.0.kill_broker(1),
        }
        .expect("broker 1");
        self.0.restart_broker(1, ProducerMemory::LastBatch).expect("broker 1 again");
    }

    fn set_config(&self, topic: &str, name: &str, value: &str) {
        self.0.set_topic_config(topic, name, value).expect("a setting");
    }

    fn expire_producers(&self) {
        self.0.expire_producers();
    }
}

struct Real<'a>(&'a RealKafka);

impl Target for Real<'_> {
    fn address(&self) -> String {
        self.0.bootstrap().to_owned()
    }

    fn restart(&self, end: End) {
        let signal = match end {
            End::Term => Signal::Term,
            End::Kill => Signal::Kill,
        };
        self.0.kill(1, signal).expect("the broker ends");
        self.0.restart(1).expect("the broker starts");
    }

    fn set_config(&self, topic: &str, name: &str, value: &str) {
        self.0.alter_topic_configs(topic, &[(name, value)]).expect("a setting");
    }

    fn expire_producers(&self) {
        // It looks every 200 ms by itself; see `main`.
    }
}

type Case = (&'static str, fn(&dyn Target));

fn main() -> ExitCode {
    // Kafka's own session time: with a short one a busy machine makes a broker lose its leaders in between, and a case sees error 6.
    let options = Options::one_broker()
        .session_timeout(Duration::from_secs(9))
        .prop("auto.create.topics.enable", "true")
        .prop("producer.id.expiration.check.interval.ms", "200");
    let mut suite = Suite::new(options);
    let shared = [admin::CASES, produce::CASES, invalid::CASES, idempotence::CASES, read::CASES].concat();
    for (name, case) in shared {
        suite = embedded(suite, name, case);
        suite = suite.test(&format!("real Kafka: {name}"), move |kafka| on_our_own(kafka, case));
    }
    for &(name, case) in restart::CASES {
        suite = embedded(suite, name, case);
        suite = suite.test_alone(&format!("real Kafka: {name}"), move |kafka| case(&Real(kafka)));
    }
    suite.run()
}

/// The case against a real Kafka of one broker that has the settings of `main`; a running one that the environment names may have others.
fn on_our_own(kafka: &RealKafka, case: fn(&dyn Target)) -> Outcome {
    if !kafka.is_ours() {
        let why = "needs a Kafka of one broker with settings of its own, and KAFKA_BATCHER_TEST_BROKERS names a running one";
        return Outcome::Ignored(why.to_owned());
    }
    case(&Real(kafka));
    Outcome::Passed
}

/// The case against a broker of this crate, a new one each.
fn embedded(suite: Suite, name: &str, case: fn(&dyn Target)) -> Suite {
    suite.plain(&format!("embedded: {name}"), move || {
        let kafka = EmbeddedKafka::builder()
            .auto_create(AutoCreate::On)
            .producer_id_expiration(Duration::from_secs(24 * 60 * 60), Duration::from_secs(600))
            .start()
            .expect("a broker");
        case(&Embedded(kafka));
    })
}
