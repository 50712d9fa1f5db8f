//! One file starts everything, and chooses code of the program's by name; through the public API into the embedded broker.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_batcher::flusher::FlushFn;
use kafka_batcher::partitioner::{PartitionFn, PartitionKey};
use kafka_batcher::{
    AddedHeaders, BuildError, Builder, Config, ErrorNotifier, Interceptor, KafkaBatcher, MemoryStorage,
    Notification, NotificationKind, Record,
};
use support::{LONG, kafka, ready, until, values};

/// What a notifier was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<NotificationKind>>>);

impl ErrorNotifier for Told {
    fn report(&self, notification: &Notification) {
        self.0.lock().unwrap().push(notification.kind);
    }
}

struct Traced;

impl Interceptor for Traced {
    fn on_event(&self, _: &Record<'_>, headers: &mut AddedHeaders) {
        headers.add("trace", Some(b"1"));
    }
}

#[tokio::test]
async fn one_file_starts_every_collector_with_its_own_settings_and_its_spool() {
    let kafka = kafka_batcher_broker::EmbeddedKafka::builder()
        .topic("flights", 1)
        .topic("quakes", 1)
        .start()
        .expect("the embedded broker starts");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kafka-batcher.toml");
    let text = format!(
        "endpoints = [{:?}]\nmax_wait_time = \"1h\"\n\n[spool]\ndir = {:?}\n\n\
         [[collectors]]\ntopic_name = \"flights\"\nbatch_size = 2\n\n\
         [[collectors]]\ntopic_name = \"quakes\"\nbatch_size = 3\n",
        kafka.bootstrap(),
        dir.path().join("spool"),
    );
    std::fs::write(&file, text).unwrap();
    let batcher = KafkaBatcher::from_config(&file).await.unwrap();
    assert_eq!(batcher.collector_settings("quakes").unwrap().batch_size, 3);
    // What is accepted earlier is batched in the unassigned lane, which is sealed when the partitions get known.
    ready(&batcher, "flights").await;
    ready(&batcher, "quakes").await;
    let flights = batcher.get_collector("flights").unwrap();
    let quakes = batcher.get_collector("quakes").unwrap();
    for n in 0..3 {
        flights.add_event(n.to_string().as_str()).await.unwrap();
        quakes.add_event(n.to_string().as_str()).await.unwrap();
    }
    // By count, each by its own; an hour is longer than any test.
    until(|| kafka.log("flights", 0).len() == 2 && kafka.log("quakes", 0).len() == 3).await;
    assert!(dir.path().join("spool/format").exists(), "the spool is where the file says");
    let error = batcher.get_collector("ships").unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no collector of topic \"ships\"; there are those of flights, quakes"
    );
    // One more at run time, from the file's defaults.
    let later = batcher.collector("later").build().unwrap();
    assert_eq!(batcher.collector_settings("later").unwrap().max_wait_time, Duration::from_secs(3600));
    drop(later);
    let report = batcher.shutdown(LONG).await;
    assert_eq!(report.delivered, 6, "{report:?}");
}

#[tokio::test]
async fn code_of_the_programs_own_is_chosen_by_name() {
    let kafka = kafka(4);
    let told = Told::default();
    let text = format!(
        "endpoints = {:?}\nerror_notifier = \"pager\"\nmax_wait_time = \"1h\"\n\n[spool]\nstorage = \"memory\"\n\
         mode = \"always\"\n\n[[collectors]]\ntopic_name = \"flights\"\npartition_fn = \"third\"\n\
         batch_flusher = \"urgent\"\ninterceptor = \"traced\"\n\n[[collectors]]\ntopic_name = \"missing\"\n",
        kafka.bootstrap(),
    );
    let storage = MemoryStorage::default();
    let batcher = Builder::from_config(&Config::from_toml(&text, "k.toml"))
        .unwrap()
        .register_partitioner("third", PartitionFn::new(|_| PartitionKey::Explicit(3)))
        .register_flusher("urgent", FlushFn::new(|key, _| key == Some(b"urgent")))
        .register_interceptor("traced", Traced)
        .register_storage("memory", storage.clone())
        .register_error_notifier("pager", told.clone())
        .start()
        .await
        .unwrap();
    let flights = batcher.get_collector("flights").unwrap();
    flights.add_event(("calm", "1")).await.unwrap();
    let urgent = flights.send(("urgent", "2")).await.unwrap();
    support::outcome(&urgent).await.unwrap();
    assert_eq!(values(&kafka, 3), ["1", "2"], "the partitioner and the flusher of the file's choice");
    let traced = kafka.log("flights", 3).iter().all(|record| record.headers[0].key == "trace");
    assert!(traced, "the interceptor of the file's choice");
    until(|| told.0.lock().unwrap().contains(&NotificationKind::ProducerStartFailed)).await;
    let report = batcher.shutdown(LONG).await;
    assert!(report.all_delivered(), "{report:?}");
}

#[tokio::test]
async fn a_name_that_nobody_registered_is_a_mistake_that_says_which_there_are() {
    let text = "endpoints = \"127.0.0.1:9092\"\nproducer = \"mine\"\nerror_notifier = \"pager\"\n\
                [spool]\nstorage = \"vault\"\n[[collectors]]\ntopic_name = \"flights\"\npartition_fn = \"f\"\n\
                batch_flusher = \"urgent\"\ninterceptor = \"traced\"\n";
    let started = Builder::from_config(&Config::from_toml(text, "k.toml"))
        .unwrap()
        .register_flusher("urgently", FlushFn::new(|_, _| true))
        .start()
        .await;
    let Err(BuildError::BadConfig(mistakes)) = started else { panic!("it started") };
    let told: Vec<_> = mistakes.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "k.toml:2:1: producer: no producer is registered as \"mine\"; the program registered none (Builder::register_producer)",
            "k.toml:3:1: error_notifier: no error notifier is registered as \"pager\"; the program registered none (Builder::register_error_notifier)",
            "k.toml:5:1: spool.storage: no storage is registered as \"vault\"; the program registered none (Builder::register_storage)",
            "k.toml:8:1: partition_fn of topic \"flights\": no partitioner is registered as \"f\"; the program registered none (Builder::register_partitioner)",
            "k.toml:9:1: batch_flusher of topic \"flights\": no flusher is registered as \"urgent\"; registered are: urgently (Builder::register_flusher)",
            "k.toml:10:1: interceptor of topic \"flights\": no interceptor is registered as \"traced\"; the program registered none (Builder::register_interceptor)",
        ]
    );
}

#[tokio::test]
async fn a_mistake_of_the_programs_is_not_the_files() {
    let text = "endpoints = \"127.0.0.1:9092\"\nproducer = \"mine\"\n";
    let builder = Builder::from_config(&Config::from_toml(text, "k.toml")).unwrap();
    let Err(BuildError::BadConfig(mistakes)) =
        builder.settings(|s| s.producer = "other".to_owned()).start().await
    else {
        panic!("it started")
    };
    let said = mistakes.to_string();
    assert!(said.contains("\"other\"") && !said.contains("k.toml"), "{said}");
}

#[tokio::test]
async fn a_file_with_mistakes_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "endpoints = \"127.0.0.1:9092\"\nbatch_sise = 5\n").unwrap();
    let Err(BuildError::BadConfig(error)) = KafkaBatcher::from_config(&file).await else { panic!("started") };
    let said = error.to_string();
    assert!(said.ends_with("bad.toml:2:1: batch_sise: not a setting; did you mean batch_size?"), "{said}");
}
