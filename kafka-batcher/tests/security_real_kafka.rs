//! The four security protocols against a real Kafka that has a listener for each, right and wrong: who may come in delivers, who may
//! not is told why, and no secret is to be seen anywhere.

#[path = "security/mod.rs"]
mod security;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kafka_batcher::{ClusterHealth, NotificationKind, Record, TextFormat, TopicHealth};
use kafka_batcher_testkit::{Error, Options, RealKafka, Suite};
use security::{
    Told, batcher, ca, check, client_certificate, config, consumed, deliver, log_of, numbered, one_thread,
    refusal, runtime, sasl,
};

fn main() -> ExitCode {
    // As long as Kafka's own: a broker that is busy for a moment is not to be fenced.
    Suite::new(Options::secured().session_timeout(Duration::from_secs(9)))
        .test(
            "over each protocol, with each mechanism, all events arrive once and in order by java's eyes",
            ways_in,
        )
        .test("who is not let in is told why, and what to do", ways_out)
        .test(
            "a wrong password in a file holds the events and is told once, and the right one lets them out",
            mended,
        )
        .test("without an ACL the batch is held and told, and goes out when it is granted", granted)
        .test("a session that ends every eight seconds is renewed under a running stream", renewed)
        .test(
            "a password that is wrong when the session is to be renewed holds the events, and none is lost",
            spoiled,
        )
        .test(
            "a token from a file, a program or a token endpoint lets in, and one that is over does not",
            tokens,
        )
        .test("tokens that are good for twelve seconds are renewed over the same connections", short_lived)
        .run()
}

/// 500 events over each of them.
fn ways_in(kafka: &RealKafka) -> Result<(), Error> {
    let alice = |mechanism: &str| sasl(mechanism, "alice", "alice-secret");
    let ways = [
        ("SSL", ca(kafka)?),
        ("MTLS", client_certificate(kafka)?),
        ("SASL_PLAINTEXT", format!("{}allow_without_tls = true\n", alice("plain"))),
        ("SASL_PLAINTEXT", alice("scram_sha_256")),
        ("SASL_PLAINTEXT", alice("SCRAM-SHA-512")),
        ("SASL_SSL", ca(kafka)? + &alice("plain")),
        ("SASL_SSL", ca(kafka)? + &alice("scram_sha_256")),
        ("SASL_SSL", ca(kafka)? + &alice("scram_sha_512")),
    ];
    for (listener, settings) in ways {
        let topic = kafka.fresh_topic("way-in", 3, &[])?;
        let told = Arc::new(Told::default());
        let report = runtime().block_on(async {
            let batcher = batcher(&config(kafka, listener, &settings, &[&topic]), &told).await;
            deliver(&batcher, &topic, 0..500).await;
            batcher.shutdown(security::LONG).await
        });
        assert!(report.all_delivered() && report.balances(), "{listener}: {report:?}");
        check(kafka, &topic, 0..500)?;
        assert!(told.all().is_empty(), "{listener}: {:?}", told.all());
        println!(
            "{listener}: 500 events, {} batches, p99 {:?}",
            report.batches,
            report.latency.quantile(0.99)
        );
    }
    Ok(())
}

fn ways_out(kafka: &RealKafka) -> Result<(), Error> {
    let alice = |mechanism: &str| sasl(mechanism, "alice", "alice-secret");
    let wrong = |mechanism: &str| sasl(mechanism, "alice", security::PLANTED);
    let other_ca = format!("[ssl]\nca_file = {:?}\n", kafka.security_file("other-ca.pem")?);
    let (certificate, key) = (kafka.security_file("expired.crt")?, kafka.security_file("expired.key")?);
    let over = ca(kafka)? + &format!("certificate_file = {certificate:?}\nkey_file = {key:?}\n");
    let no_sasl = String::new();
    let ca = ca(kafka)?;
    for (listener, settings, words) in [
        ("EXPIRED", ca.clone(), vec!["the broker's certificate expired", "days ago", "renew it"]),
        ("FUTURE", ca.clone(), vec!["not valid yet", "clock"]),
        ("WRONGHOST", ca.clone(), vec!["not for \"127.0.0.1\"", "kafka.example.org", "ssl.server_name"]),
        ("SSL", other_ca, vec!["signed by nobody in", "other-ca.pem", "ssl.ca_file"]),
        ("SSL", "ssl = true\n".to_owned(), vec!["nobody whom this machine trusts", "ssl.ca_file"]),
        ("MTLS", ca.clone(), vec!["wants a certificate of its clients", "ssl.certificate_file"]),
        ("MTLS", over, vec!["does not accept this client's certificate", "ssl.certificate_file"]),
        ("SSL", no_sasl.clone(), vec!["a TLS endpoint answered", "ssl = true"]),
        ("PLAINTEXT", ca.clone(), vec!["closed the connection when asked for TLS", "SSL or SASL_SSL"]),
        ("SASL_PLAINTEXT", no_sasl, vec!["want SASL", "[sasl]"]),
        ("SASL_SSL", ca.clone(), vec!["want SASL", "[sasl]"]),
        ("PLAINTEXT", alice("scram_sha_256"), vec!["wants no SASL", "leave out [sasl]"]),
        (
            "REAUTH",
            ca.clone() + &alice("plain"),
            vec!["does not take PLAIN", "SCRAM-SHA-256", "sasl.mechanism"],
        ),
        (
            "SASL_SSL",
            ca.clone() + &wrong("plain"),
            vec!["does not let \"alice\" in (PLAIN)", "Authentication failed"],
        ),
        (
            "SASL_SSL",
            ca.clone() + &wrong("scram_sha_256"),
            vec!["does not let \"alice\" in (SCRAM-SHA-256)", "password"],
        ),
        (
            "SASL_SSL",
            ca + &wrong("scram_sha_512"),
            vec!["does not let \"alice\" in (SCRAM-SHA-512)", "password"],
        ),
    ] {
        let said = refusal(kafka, listener, &settings);
        println!("{listener}: {said}");
        for word in words {
            assert!(said.contains(word), "{listener}: {word:?} is missing: {said}");
        }
        assert!(!said.contains(security::PLANTED) && !said.contains("alice-secret"), "{said}");
    }
    Ok(())
}

fn mended(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("mended", 1, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, security::PLANTED).expect("written");
    let spool = dir.path().join("spool");
    let settings = format!(
        "[sasl]\nmechanism = \"scram_sha_512\"\nlogin = \"alice\"\npassword_file = {secret:?}\n\
         [spool]\ndir = {spool:?}\nspool_after = \"200ms\"\n"
    );
    let told = Arc::new(Told::default());
    let mut shown = Vec::new();
    let (report, log) = log_of(|log| {
        one_thread().block_on(async {
            let batcher = batcher(&config(kafka, "SASL_PLAINTEXT", &settings, &[&topic]), &told).await;
            let mut health = batcher.health();
            let unreachable =
                |health: &kafka_batcher::Health| matches!(health.cluster, ClusterHealth::Unreachable { .. });
            health.wait_for(unreachable).await.expect("the batcher lives");
            let collector = batcher.get_collector(&topic).expect("a collector");
            let first = collector.send(numbered(0)).await.expect("accepted");
            for event in 1..200 {
                collector.add_event(numbered(event)).await.expect("accepted");
            }
            // On disk while nobody lets us in, and several attempts later nothing more is told.
            first.durable().await.expect("spooled");
            log.says("the cluster cannot be reached", 5).await;
            assert_eq!(told.of(NotificationKind::ClientStartFailed).len(), 1, "{:?}", told.all());
            shown.extend([
                format!("{:?}", *health.borrow()),
                batcher.metrics_text(TextFormat::Prometheus).await,
            ]);
            std::fs::write(&secret, "alice-secret\n").expect("written");
            first.delivered().await.expect("delivered");
            batcher.shutdown(security::LONG).await
        })
    });
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    check(kafka, &topic, 0..200)?;
    let said = told.of(NotificationKind::ClientStartFailed);
    assert!(said[0].contains("does not let \"alice\" in"), "{said:?}");
    // What nobody may see, in whatever was written or told.
    let mut everything = vec![log, format!("{:?}", told.all()), format!("{report:?}")];
    everything.append(&mut shown);
    everything.extend(
        security::files_in(&spool).into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    );
    assert!(everything[0].contains("KafkaBatcherClientStartFailed"), "the log was seen: {}", everything[0]);
    for secret in [security::PLANTED, "alice-secret"] {
        assert!(!everything.iter().any(|text| text.contains(secret)), "{secret} is shown");
    }
    Ok(())
}

fn granted(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("granted", 1, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    // `spool_after` is longer than the first delivery takes after the grant: else that is one more recovery.
    let settings = sasl("scram_sha_256", "bob", "bob-secret")
        + &format!("[spool]\ndir = {:?}\nspool_after = \"3s\"\n", dir.path().join("spool"));
    let told = Arc::new(Told::default());
    let report = runtime().block_on(async {
        let batcher = batcher(&config(kafka, "SASL_PLAINTEXT", &settings, &[&topic]), &told).await;
        let collector = batcher.get_collector(&topic).expect("a collector");
        let first = collector.send(numbered(0)).await.expect("accepted");
        let mut health = batcher.health();
        let forbidden = |health: &kafka_batcher::Health| {
            matches!(health.topics.get(&topic), Some(TopicHealth::Unavailable { message }) if message.contains("not allowed"))
        };
        health.wait_for(forbidden).await.expect("the batcher lives");
        first.durable().await.expect("held on disk");
        assert_eq!(told.of(NotificationKind::ProducerStartFailed).len(), 1, "{:?}", told.all());
        tokio::task::block_in_place(|| kafka.grant("bob", &topic)).expect("granted");
        deliver(&batcher, &topic, 1..100).await;
        first.delivered().await.expect("delivered");
        batcher.shutdown(security::LONG).await
    });
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    check(kafka, &topic, 0..100)?;
    assert_eq!(told.of(NotificationKind::Recovered).len(), 1, "{:?}", told.all());
    Ok(())
}

/// KIP-368: 0 lost, 0 duplicated, 0 reordered, and the broker accepted no second connection.
fn renewed(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("renewed", 3, &[])?;
    let settings = ca(kafka)? + &sasl("scram_sha_256", "alice", "alice-secret");
    let told = Arc::new(Told::default());
    let ((report, sent), log) = log_of(|log| {
        one_thread().block_on(async {
            let batcher = batcher(&config(kafka, "REAUTH", &settings, &[&topic]), &told).await;
            let collector = batcher.get_collector(&topic).expect("a collector");
            let mut sent = 0_u32;
            // Two connections, three times each; always some requests under way.
            while log.text().matches("logged in again").count() < 6 {
                let mut receipts = Vec::new();
                for _ in 0..300 {
                    let value = sent.to_string();
                    let record = Record::value(&value).with_partition((sent % 3) as i32);
                    receipts.push(collector.send(record).await.expect("accepted"));
                    sent += 1;
                }
                receipts[0].delivered().await.expect("delivered");
            }
            (batcher.shutdown(security::LONG).await, sent)
        })
    });
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!((report.possible_duplicates, report.reorderings), (0, 0));
    consumed(kafka, &topic, sent, 3)?;
    let (again, connected) = (log.matches("logged in again").count(), log.matches(": connected").count());
    println!(
        "renewed: {sent} events, {} batches, {again} logins again, {connected} connections",
        report.batches
    );
    assert_eq!(connected, 2, "one connection for questions, one for batches, from beginning to end");
    assert!(!log.contains("connection lost") && told.all().is_empty(), "{:?}", told.all());
    Ok(())
}

fn spoiled(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("spoiled", 1, &[])?;
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "alice-secret").expect("written");
    let settings = ca(kafka)?
        + &format!("[sasl]\nmechanism = \"scram_sha_256\"\nlogin = \"alice\"\npassword_file = {secret:?}\n");
    let told = Arc::new(Told::default());
    let ((report, sent), log) = log_of(|log| {
        one_thread().block_on(async {
            let batcher = batcher(&config(kafka, "REAUTH", &settings, &[&topic]), &told).await;
            let collector = batcher.get_collector(&topic).expect("a collector");
            collector.send(numbered(0)).await.expect("accepted").delivered().await.expect("delivered");
            std::fs::write(&secret, security::PLANTED).expect("written");
            let mut sent = 1;
            // A request is under way when it happens: nobody is told of a session that ends while nothing waits.
            loop {
                let receipt = collector.send(numbered(sent)).await.expect("accepted");
                sent += 1;
                tokio::select! {
                    () = told.says("does not let \"alice\" in") => break,
                    delivered = receipt.delivered() => drop(delivered.expect("it is delivered")),
                }
            }
            log.says("metadata could not be refreshed", 5).await;
            std::fs::write(&secret, "alice-secret").expect("written");
            (batcher.shutdown(security::LONG).await, sent)
        })
    });
    println!("spoiled: {sent} events, {} batches", report.batches);
    // The reason, or, where the end of the connection was noticed first, when it was.
    let noticed = log.contains("logging in again failed: the broker does not let")
        || log.contains("while this client logged in again");
    assert!(noticed, "{log}");
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    assert_eq!((report.possible_duplicates, report.reorderings), (0, 0));
    check(kafka, &topic, 0..sent)?;
    for kind in [NotificationKind::ClientStartFailed, NotificationKind::ProducerError] {
        assert!(told.of(kind).len() <= 1, "{:?}", told.all());
    }
    assert!(!log.contains(security::PLANTED) && !log.contains("alice-secret"));
    Ok(())
}

/// A broker believes a token until its end, and wants the next one before.
fn short_lived(kafka: &RealKafka) -> Result<(), Error> {
    let topic = kafka.fresh_topic("short-lived", 1, &[])?;
    let settings = ca(kafka)? + "[sasl]\nmechanism = \"oauthbearer\"\ntoken_provider = \"mine\"\n";
    let told = Arc::new(Told::default());
    let ((report, sent), log) = log_of(|log| {
        one_thread().block_on(async {
            let config = config(kafka, "OAUTH", &settings, &[&topic]);
            let builder = kafka_batcher::Builder::from_config(&config).expect("a good configuration");
            let builder = builder.register_token_provider("mine", security::Mine { seconds: 12 });
            let batcher = security::start(builder, &told).await;
            let collector = batcher.get_collector(&topic).expect("a collector");
            let mut sent = 0;
            while log.text().matches("logged in again").count() < 4 {
                collector.send(numbered(sent)).await.expect("accepted").delivered().await.expect("delivered");
                sent += 1;
            }
            (batcher.shutdown(security::LONG).await, sent)
        })
    });
    assert!(report.all_delivered() && report.balances(), "{report:?}");
    check(kafka, &topic, 0..sent)?;
    assert_eq!(log.matches(": connected").count(), 2, "{log}");
    assert!(told.all().is_empty(), "{:?}", told.all());
    Ok(())
}

/// OAUTHBEARER. The broker takes unsigned tokens and looks at their times alone.
fn tokens(kafka: &RealKafka) -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    let ca = ca(kafka)?;
    let bearer = |more: &str| format!("{ca}[sasl]\nmechanism = \"oauthbearer\"\n{more}\n");
    let from_file = bearer(&format!("token_file = {file:?}"));
    let run = |tables: &str| -> Result<(), Error> {
        let topic = kafka.fresh_topic("tokens", 1, &[])?;
        let told = Arc::new(Told::default());
        let report = runtime().block_on(async {
            let config = config(kafka, "OAUTH", tables, &[&topic]);
            let builder = kafka_batcher::Builder::from_config(&config).expect("a good configuration");
            let builder = builder.register_token_provider("mine", security::Mine { seconds: 60 });
            let batcher = security::start(builder, &told).await;
            deliver(&batcher, &topic, 0..300).await;
            batcher.shutdown(security::LONG).await
        });
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        assert!(told.all().is_empty(), "{:?}", told.all());
        check(kafka, &topic, 0..300)
    };

    std::fs::write(&file, security::token("alice", 3600) + "\n").expect("written");
    run(&from_file)?;
    run(&bearer("token_provider = \"mine\""))?;

    let endpoint = security::token_endpoint(kafka, security::token("alice", 3600))?;
    let asks = |secret: &str, scope: &str| {
        bearer(&format!(
            "token_endpoint_url = \"https://{endpoint}/token\"\nclient_id = \"batcher\"\nclient_secret = \"{secret}\"\n\
             scope = \"{scope}\""
        ))
    };
    run(&asks(security::CLIENT_SECRET, "kafka write"))?;

    let over = security::token("alice", -3600);
    std::fs::write(&file, &over).expect("written");
    let elsewhere = bearer(&format!(
        "token_endpoint_url = \"https://127.0.0.1:{}\"\nclient_id = \"a\"\nclient_secret = \"b\"",
        1
    ));
    for (tables, words) in [
        (from_file, vec!["does not take the token (OAUTHBEARER)", "invalid_token"]),
        (
            asks(security::PLANTED, "kafka write"),
            vec!["refuses (HTTP 401, invalid_client: who are you?)", "sasl.client_id"],
        ),
        (asks(security::CLIENT_SECRET, "all"), vec!["refuses (HTTP 400, invalid_scope)"]),
        (elsewhere, vec!["the token endpoint https://127.0.0.1:1 cannot be asked", "onnection refused"]),
    ] {
        let said = refusal(kafka, "OAUTH", &tables);
        println!("OAUTH: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is missing: {said}");
        }
        for secret in [security::PLANTED, security::CLIENT_SECRET, over.as_str()] {
            assert!(!said.contains(secret), "{said}");
        }
    }
    Ok(())
}
