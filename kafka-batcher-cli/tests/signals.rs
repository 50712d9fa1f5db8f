//! Being stopped: the first signal delivers and reports, the second ends it and says what is lost.
#![cfg(unix)]

mod support;

use std::sync::mpsc;

use kafka_batcher_broker::{Api, Fault};
use nix::sys::signal::Signal;
use support::{Running, kafka, records};

#[test]
fn the_first_signal_delivers_what_was_read_although_the_pipe_stays_open() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let kafka = kafka();
        // An hour to wait for others: only a flush can deliver them.
        let mut running = Running::produce(
            &kafka,
            &["--receipts=delivered", "--batch-size", "2", "--max-wait-time", "1h", "--partition", "0"],
        );
        running.write("a\nb\nc\n");
        // The batch of the first two is full; the third was read with them, and waits.
        assert_eq!((running.line()["line"].as_u64(), running.line()["line"].as_u64()), (Some(1), Some(2)));
        running.signal(signal);
        let ran = running.end();
        ran.ended_with(0).balances().says(&[signal.as_str()]);
        assert_eq!((ran.count("lines"), ran.count("delivered")), (3, 3));
        assert_eq!(ran.summary()["ended"], signal.as_str());
        assert_eq!(records(&kafka).len(), 3);
    }
}

#[test]
fn a_signal_before_kafka_is_there_ends_it_with_nothing_read() {
    let mut running = Running::start(&[
        "produce",
        "-b",
        "127.0.0.1:1",
        "--topic",
        "t",
        "--summary",
        "json",
        "--timeout",
        "1h",
    ]);
    running.wait_until_it_says("127.0.0.1:1");
    running.signal(Signal::SIGTERM);
    let ran = running.end();
    ran.balances().ended_with(0);
    assert_eq!(ran.count("lines"), 0);
}

#[test]
fn the_second_signal_stops_at_once_and_says_what_is_lost() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let kafka = kafka();
        let mut running = Running::produce(
            &kafka,
            &["--receipts=delivered", "--shutdown-timeout", "1h", "--timeout", "1h"],
        );
        running.write("a\n");
        assert_eq!(running.line()["line"].as_u64(), Some(1));
        let (asked, produced) = mpsc::channel();
        kafka.inject(Fault::never_answer().on(Api::Produce).always());
        kafka.inject(
            Fault::call_before(move |_| {
                let _ = asked.send(());
            })
            .on(Api::Produce)
            .always(),
        );
        running.write("b\nc\n");
        produced.recv().expect("a request");
        running.signal(signal);
        running.wait_until_it_says(signal.as_str());
        running.signal(signal);
        let ran = running.end();
        ran.ended_with(code).balances();
        // The summary comes last, and each line has a receipt, also those whose fate nobody knows.
        assert_eq!(ran.receipts().len(), 2, "{ran:?}");
        ran.says(&["stopped at once", "not delivered"]);
        let sum: u64 =
            ["delivered", "in_memory", "in_flight", "in_doubt", "lost"].iter().map(|f| ran.count(f)).sum();
        assert_eq!((ran.count("accepted"), sum, ran.count("delivered")), (3, 3, 1), "{ran:?}");
    }
}

/// Receipts that nobody reads fill the pipe; the writer waits in a write that never ends, and holds stdout.
#[test]
fn receipts_that_nobody_reads_do_not_hold_up_the_second_signal() {
    let kafka = kafka();
    let mut running = Running::produce(&kafka, &["--receipts=delivered"]);
    // About 300 kB of receipts.
    (0..5000).for_each(|n| running.write(&format!("{n}\n")));
    while kafka.stats().records < 5000 {
        std::thread::yield_now();
    }
    running.signal(Signal::SIGTERM);
    running.wait_until_it_says("SIGTERM");
    running.signal(Signal::SIGTERM);
    let status = running.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(143));
    // What lies in the pipe ends in the middle of a line.
    drop(running.stdout.take());
    running.end().says(&["stopped at once", "0 of 5 000"]);
}

#[test]
fn a_shutdown_that_takes_too_long_says_what_was_lost() {
    let kafka = kafka();
    kafka.inject(Fault::never_answer().on(Api::Produce).always());
    let (asked, produced) = mpsc::channel();
    kafka.inject(
        Fault::call_before(move |_| {
            let _ = asked.send(());
        })
        .on(Api::Produce)
        .always(),
    );
    let mut running = Running::produce(&kafka, &["--shutdown-timeout", "200ms", "--timeout", "1h"]);
    running.write("a\nb\n");
    produced.recv().expect("a request");
    running.signal(Signal::SIGTERM);
    let ran = running.end();
    ran.ended_with(1).balances().says(&["2 of 2 accepted events were not delivered"]);
}

#[test]
fn a_full_memory_does_not_hold_up_the_end() {
    let kafka = kafka();
    kafka.inject(Fault::never_answer().on(Api::Produce).always());
    let args = [
        "--memory",
        "512KiB",
        "--max-batch-bytesize",
        "64KiB",
        "--shutdown-timeout",
        "200ms",
        "--timeout",
        "1h",
    ];
    let mut running = Running::produce(&kafka, &args);
    // More than memory and the pipe hold: the writer is still writing when the end comes.
    let mut stdin = running.stdin.take().expect("stdin");
    let writer = std::thread::spawn(move || {
        let line = format!("{}\n", "x".repeat(999));
        let mut written = 0_u64;
        while std::io::Write::write_all(&mut stdin, line.as_bytes()).is_ok() {
            written += 1;
            if written == 4000 {
                break;
            }
        }
        written
    });
    let (asked, produced) = mpsc::channel();
    kafka.inject(
        Fault::call_before(move |_| {
            let _ = asked.send(());
        })
        .on(Api::Produce)
        .always(),
    );
    produced.recv().expect("a request");
    running.signal(Signal::SIGTERM);
    let ran = running.end();
    ran.ended_with(1).balances();
    assert_eq!(ran.count("refused"), 0, "what was never accepted was not refused either: {ran:?}");
    assert_eq!(ran.count("lines"), ran.count("accepted"));
    assert!(writer.join().expect("the writer ends") < 4000);
}

#[test]
fn a_reader_of_receipts_that_goes_away_ends_it_and_nothing_is_lost() {
    let kafka = kafka();
    let mut running = Running::produce(&kafka, &["--receipts=delivered"]);
    running.write("a\n");
    assert_eq!(running.line()["line"].as_u64(), Some(1));
    drop(running.stdout.take());
    running.write("b\n");
    let ran = running.end();
    ran.ended_with(1)
        .says(&["receipts could not be written after line 1: ", "; 2 of 2 events are delivered"]);
    assert_eq!(records(&kafka).len(), 2);
}

#[test]
fn a_broker_process_ends_with_a_signal_or_with_its_standard_input() {
    let mut by_signal = Running::start(&["broker", "--topic", "t:4", "--json"]);
    let first = by_signal.line();
    assert_eq!(first["type"], "broker");
    let address = first["bootstrap"].as_str().expect("an address").to_owned();
    support::produce_to(&address, &[], b"a\n").ended_with(0);
    by_signal.signal(Signal::SIGTERM);
    by_signal.end().ended_with(0).says(&["1 record in 1 batch"]);

    let mut by_stdin =
        Running::start(&["broker", "--json", "--brokers", "3", "--until-stdin-closes", "--discard"]);
    let addresses = by_stdin.line()["bootstrap"].as_str().expect("addresses").to_owned();
    assert_eq!(addresses.split(',').count(), 3);
    drop(by_stdin.stdin.take());
    by_stdin.end().ended_with(0);
}
