//! What no client can do without: each event copied once, each batch's CRC-32C, and its bytes written to a socket.
//!
//! No protocol, no partitions, no answers: the other end (`bench-compare drain`) reads until the connection's end and says how many
//! bytes there were. What it is to be compared with has a header of 61 bytes a batch and some 8 bytes an event more.

use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use anyhow::{Context, ensure};

use crate::drive::{Client, Lane};
use crate::job::Job;
use crate::ledger::Ledger;
use crate::load::Event;

/// Written before each batch, where a record batch has its header: as many bytes, the CRC among them.
const HEADER: usize = 61;

/// Batches in one write: as many as make some hundred kilobytes, or this many.
const BATCHES: usize = 64;
const WRITE: usize = 256 * 1024;

/// `HOLDS`: writes only when it holds as much as the clients' memory is. They do, where events come faster than they are taken; and what
/// has not been touched for so long is in no cache.
pub(crate) struct Floor<const HOLDS: bool> {
    brokers: String,
    batch_events: usize,
    batch_bytes: usize,
    write: usize,
    ledger: Arc<Ledger>,
}

impl<const HOLDS: bool> Client for Floor<HOLDS> {
    type Lane = Stream;

    fn version() -> String {
        "one copy, CRC-32C (crc-fast), writev".to_owned()
    }

    fn settings(job: &Job) -> Vec<(&'static str, String)> {
        let held = if HOLDS { job.memory } else { WRITE };
        vec![
            ("batch_events", job.batch_events.to_string()),
            ("batch_bytes", job.batch_bytes.to_string()),
            ("held", held.to_string()),
        ]
    }

    async fn connect(job: &Job, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let Job { brokers, batch_events, batch_bytes, memory, .. } = job.clone();
        let write = if HOLDS { memory - batch_bytes } else { WRITE };
        Ok(Floor { brokers, batch_events, batch_bytes, write, ledger })
    }

    fn lane(&self) -> anyhow::Result<Stream> {
        let socket = TcpStream::connect(&self.brokers).context("the process that drops everything")?;
        socket.set_nodelay(true)?;
        Ok(Stream {
            socket,
            batch_events: self.batch_events,
            batch_bytes: self.batch_bytes,
            batches: if HOLDS { usize::MAX } else { BATCHES },
            write: self.write,
            open: Vec::new(),
            events: 0,
            sealed: Vec::new(),
            spare: Vec::new(),
            held: 0,
            taken: 0,
            written: 0,
            ledger: self.ledger.clone(),
        })
    }

    async fn settle(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A connection, and the batches that are on their way into it.
pub(crate) struct Stream {
    socket: TcpStream,
    batch_events: usize,
    batch_bytes: usize,
    batches: usize,
    write: usize,
    open: Vec<u8>,
    events: usize,
    sealed: Vec<([u8; HEADER], Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    /// Bytes of the sealed batches.
    held: usize,
    taken: u64,
    written: u64,
    ledger: Arc<Ledger>,
}

impl Stream {
    fn seal(&mut self) {
        let crc = crc_fast::crc32_iscsi(&self.open);
        self.held += self.open.len();
        let mut header = [0; HEADER];
        header[17..21].copy_from_slice(&crc.to_be_bytes());
        let next = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(self.open.len()));
        self.sealed.push((header, std::mem::replace(&mut self.open, next)));
        self.events = 0;
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self
            .sealed
            .iter()
            .flat_map(|(header, batch)| [IoSlice::new(header.as_slice()), IoSlice::new(batch)])
            .collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let written = self.socket.write_vectored(rest).context("writing")?;
            ensure!(written > 0, "the connection takes nothing any more");
            self.written += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        for (_, mut batch) in self.sealed.drain(..) {
            batch.clear();
            self.spare.push(batch);
        }
        self.held = 0;
        Ok(())
    }
}

impl Lane for Stream {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        self.open.extend_from_slice(event.key);
        self.open.extend_from_slice(event.value);
        (self.events, self.taken) = (self.events + 1, self.taken + 1);
        let next = self.open.len() + event.key.len() + event.value.len();
        if self.events >= self.batch_events || next > self.batch_bytes {
            self.seal();
            if self.sealed.len() >= self.batches || self.held >= self.write {
                self.write()?;
            }
        }
        Ok(())
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        if self.events > 0 {
            self.seal();
        }
        self.write()?;
        self.socket.shutdown(Shutdown::Write)?;
        let mut count = [0; 8];
        self.socket.read_exact(&mut count).context("the count of the other end")?;
        let arrived = u64::from_be_bytes(count);
        ensure!(arrived == self.written, "{arrived} of {} bytes arrived", self.written);
        self.ledger.count(self.taken);
        Ok(())
    }
}
