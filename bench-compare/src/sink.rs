//! What takes events and keeps none, in a process of its own, so that its work is in no client's figures.

use std::io::{Read, Write, stdout};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, Storage};

use crate::child::until_stdin_ends;

/// The embedded broker in discard mode: acknowledges and counts. For each Produce request of a connection it
/// takes so long, one after another. Writes its address, and ends with its standard input.
///
/// # Errors
/// It cannot listen.
pub(crate) fn broker(late: Duration) -> anyhow::Result<()> {
    let kafka = EmbeddedKafka::builder().storage(Storage::Discard).start()?;
    if !late.is_zero() {
        kafka.inject(Fault::delay_answer(late).on(Api::Produce).always());
    }
    announce(&kafka.bootstrap())?;
    until_stdin_ends();
    Ok(())
}

/// The other end of the floor: reads each connection to its end, and answers with the number of bytes. Writes its address, and
/// ends with its standard input.
///
/// # Errors
/// It cannot listen.
pub(crate) fn drain() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(&listener.local_addr()?.to_string())?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.and_then(count) {
                eprintln!("drain: {error}");
            }
        }
    });
    until_stdin_ends();
    Ok(())
}

fn count(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut buffer, mut bytes) = (vec![0; 256 * 1024], 0_u64);
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&bytes.to_be_bytes()),
            n => bytes += n as u64,
        }
    }
}

fn announce(address: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()
}
