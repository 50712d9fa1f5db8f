//! What goes wrong, each with a message that says what, where and what to do, and an exit code that says how bad.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;

use kafka_batcher_broker::{Api, EmbeddedKafka, ErrorCode, Fault};
use support::{kafka, produce, produce_to, records, run, values};

#[test]
fn a_bad_line_stops_reading_and_what_came_before_is_delivered() {
    let kafka = kafka();
    let ran = produce(
        &kafka,
        &["--key-field", "k", "--receipts=delivered"],
        b"{\"k\":1}\n{\"k\":2}\nnope\n{\"k\":3}\n",
    );
    ran.ended_with(1).balances().says(&["line 3", "not JSON", "\"k\"", "byte 1", "--on-bad-line skip"]);
    assert_eq!((ran.count("lines"), ran.count("accepted"), ran.count("delivered")), (3, 2, 2));
    assert_eq!(records(&kafka).len(), 2);
    let bad: Vec<_> = ran.receipts().into_iter().filter(|receipt| receipt["error"].is_string()).collect();
    assert_eq!((bad.len(), bad[0]["line"].as_u64(), bad[0]["persisted"].as_str()), (1, Some(3), Some("no")));
}

#[test]
fn after_a_bad_line_it_is_said_that_the_rest_was_not_read() {
    let kafka = kafka();
    let address = kafka.bootstrap();
    let ran = run(&["produce", "-b", &address, "--topic", "t", "--key-field", "k"], b"{}\nnope\n{}\n");
    ran.ended_with(1).says(&["stopped at line 2: 1 line delivered, the rest was not read"]);
}

#[test]
fn bad_lines_may_be_left_out_and_are_counted() {
    let kafka = kafka();
    let input = b"{\"k\":1}\n\xff\n\n{\"k\":\"\\ud800\"}\n{\"k\":3}";
    let ran = produce(&kafka, &["--key-field", "k", "--on-bad-line", "skip"], input);
    ran.ended_with(1).balances().says(&["line 2", "UTF-8", "line 3", "line 4", "surrogate"]);
    assert_eq!((ran.count("lines"), ran.count("skipped"), ran.count("delivered")), (5, 3, 2));
}

#[test]
fn a_line_without_the_value_asked_for_is_bad() {
    let kafka = kafka();
    produce(&kafka, &["--value-field", "v"], b"{}\n").ended_with(1).says(&[
        "line 1",
        "\"v\"",
        "--value-field",
    ]);
}

#[test]
fn a_line_of_10_mib_is_refused_and_its_neighbours_are_not() {
    let kafka = kafka();
    let mut input = b"before\n".to_vec();
    input.resize(input.len() + (10 << 20), b'x');
    input.extend_from_slice(b"\nafter\n");
    let stopped = produce(&kafka, &["--partition", "0"], &input);
    stopped.ended_with(1).balances().says(&["line 2", "10 485 760", "1 000 000", "--max-batch-bytesize"]);
    assert_eq!((stopped.count("delivered"), stopped.count("refused")), (1, 1));
    let skipped = produce(&kafka, &["--partition", "1", "--on-bad-line", "skip"], &input);
    skipped.ended_with(1).balances();
    assert_eq!((skipped.count("delivered"), skipped.count("refused"), skipped.count("skipped")), (2, 1, 1));
    assert_eq!(values(&kafka, 1), [Some(b"before".to_vec()), Some(b"after".to_vec())]);
}

#[test]
fn a_line_that_fits_the_limit_but_not_a_batch_is_refused_by_the_library() {
    let kafka = kafka();
    // 200 bytes for the line, and none for the batch's header.
    let input = format!("{}\nok\n", "x".repeat(200));
    let args = ["--max-batch-bytesize", "200", "--on-bad-line", "skip"];
    let ran = produce(&kafka, &args, input.as_bytes());
    ran.ended_with(1).balances().says(&["line 1", "--max-batch-bytesize"]);
    assert_eq!((ran.count("refused"), ran.count("skipped"), ran.count("delivered")), (1, 1, 1));
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_nothing_is_done() {
    let kafka = kafka();
    let address = kafka.bootstrap();
    for (args, words) in [
        (&["--topic", "a b"][..], &["a b", "Kafka allows"][..]),
        (&["--topic", ".."], &[".."]),
        (&["--batch-size", "0"], &["batch"]),
        (&["--max-batch-bytesize", "10M"], &["MiB"]),
        (&["--memory", "1MiB"], &["memory"]),
        (&["--timeout", "soon"], &["soon"]),
        (&["--partition", "9"], &["partition 9", "0 to 3"]),
        (&["--partition", "-1"], &["-1"]),
        (&["--header", "novalue"], &["NAME=VALUE"]),
        (&["--key-field", "/a~b"], &["--key-field", "~0"]),
        (&["--key-field", "a", "--key-separator", "b"], &["--key-separator"]),
        (&["--key-separator", ""], &["empty"]),
        (&["no-such-file"], &["no-such-file"]),
        (&["/"], &["directory"]),
        (&["--no-such-option"], &["--no-such-option"]),
    ] {
        let topic: &[&str] = if args.contains(&"--topic") { &[] } else { &["--topic", "t"] };
        let ran = run(&[&["produce", "-b", &address], topic, args].concat(), b"x\n");
        ran.ended_with(2).says(words);
        assert!(ran.stdout.is_empty(), "{args:?}");
    }
    assert!(records(&kafka).is_empty());
    run(&["produce", "-b", "127.0.0.1:99999", "--topic", "t"], b"")
        .ended_with(2)
        .says(&["127.0.0.1:99999", "port"]);
    run(&["produce", "--topic", "t"], b"").ended_with(2).says(&["--brokers"]);
    run(&[], b"").ended_with(2);
}

/// Accepts connections, answers each with these bytes, and keeps it open.
fn server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
            kept.push(stream);
        }
    });
    address
}

fn cannot_reach(address: &str, words: &[&str]) {
    let ran = produce_to(address, &["--timeout", "1s"], b"kept\n");
    ran.ended_with(1).balances().says(words).says(&[address, "--timeout"]);
    assert_eq!((ran.count("lines"), ran.count("accepted")), (0, 0), "nothing is read before Kafka is there");
}

#[test]
fn an_address_with_a_protocol_before_it_is_told_where_to_say_that() {
    let ran = produce_to("SASL_SSL://127.0.0.1:9093", &[], b"a\n");
    ran.ended_with(2).says(&["TLS is turned on by ssl = true or the table [ssl]"]);
}

#[test]
fn an_address_that_refuses_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    cannot_reach(&address, &["connection refused"]);
}

#[test]
fn an_address_that_does_not_exist_is_named() {
    cannot_reach("no-such-host.invalid:9092", &["no-such-host.invalid", "resolved"]);
}

#[test]
fn a_web_server_is_recognised() {
    cannot_reach(&server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), &["HTTP"]);
}

#[test]
fn garbage_is_no_answer_of_a_broker() {
    cannot_reach(&server(b"\x00\x00\x00\x0agarbage!!!"), &["is it a Kafka broker"]);
}

#[test]
fn an_answer_of_2_gib_is_not_waited_for() {
    cannot_reach(&server(b"\x7f\xff\xff\xffand so on"), &["2147483647"]);
}

#[test]
fn an_address_that_accepts_and_stays_silent_is_named() {
    cannot_reach(&server(b""), &["accepts connections"]);
}

#[test]
fn the_second_of_two_addresses_is_enough() {
    let kafka = kafka();
    let addresses = format!("{},{}", server(b"HTTP/1.1 400 Bad Request\r\n\r\n"), kafka.bootstrap());
    produce_to(&addresses, &[], b"a\n").ended_with(0);
}

#[test]
fn an_advertised_address_that_fails_is_told_with_the_bootstrap_address_that_worked() {
    let kafka = EmbeddedKafka::builder()
        .topic("t", 4)
        .advertised(1, "kafka.invalid", 9092)
        .start()
        .expect("the broker starts");
    let ran = produce(&kafka, &["--timeout", "2s"], b"a\n");
    ran.ended_with(1).balances().says(&["kafka.invalid:9092", &kafka.bootstrap(), "advertised.listeners"]);
}

#[test]
fn a_topic_that_is_forbidden_is_named() {
    let kafka = kafka();
    kafka.inject(Fault::answer(ErrorCode::TOPIC_AUTHORIZATION_FAILED).on(Api::Metadata).always());
    let ran = produce(&kafka, &["--timeout", "2s"], b"a\n");
    ran.ended_with(1).balances().says(&["\"t\"", "not allowed", "WRITE"]);
}

#[test]
fn what_a_broker_refuses_for_good_is_counted_and_named() {
    let kafka = kafka();
    kafka.inject(Fault::answer(ErrorCode::INVALID_RECORD).on(Api::Produce).always());
    let ran = produce(&kafka, &["--receipts=delivered", "--timeout", "5s"], b"a\n");
    ran.ended_with(1).balances();
    assert_eq!((ran.count("accepted"), ran.count("delivered")), (1, 0));
    assert!(ran.receipts()[0]["error"].is_string(), "{ran:?}");
}

#[test]
fn a_broker_that_stops_answering_ends_it_with_the_reason() {
    let kafka = kafka();
    kafka.inject(Fault::never_answer().on(Api::Produce).always());
    let ran = produce(&kafka, &["--timeout", "1s", "--receipts=delivered"], b"a\nb\nc\n");
    ran.ended_with(1).balances().says(&["nothing was acknowledged", "--timeout"]);
    assert_eq!((ran.count("accepted"), ran.count("delivered")), (3, 0));
    assert_eq!(ran.count("in_doubt") + ran.count("lost"), 3);
    assert_eq!(ran.receipts().len(), 3);
}

#[test]
fn memory_that_is_full_waits_and_loses_nothing() {
    let kafka = kafka();
    // Ten times what memory holds.
    let input = "x".repeat(999) + "\n";
    let args = ["--max-batch-bytesize", "100KiB", "--memory", "512KiB"];
    let ran = produce(&kafka, &args, input.repeat(5000).as_bytes());
    ran.ended_with(0).balances();
    assert_eq!((ran.count("delivered"), ran.count("refused")), (5000, 0));
}
