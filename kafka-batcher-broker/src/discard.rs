//! Discard mode: acknowledges Produce requests and keeps nothing, for as little CPU as can be had.
//!
//! It shares the machine with what is measured against it, so: a request is parsed by hand while it arrives, never as a whole; of each batch
//! only the header is looked at; records are dropped, on Linux inside the kernel, without a copy; what was looked up of a topic is kept
//! until a topic changes; answers are written into one buffer that goes out when there is nothing more to read. Nothing is allocated and no
//! lock is taken per request.
//!
//! Everything else on such a connection (metadata, a request while a fault waits) takes the ordinary way of `connection.rs`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::api::Api;
use crate::connection::{Life, Next, exchange, frame_size, write_all};
use crate::error_code::ErrorCode;
use crate::record::{BatchHeader, HEADER_LEN};
use crate::state::Discarded;
use crate::window::{Window, malformed};

/// A topic as this connection last saw it.
struct Known {
    /// Name or id, as it stands in requests.
    key: Vec<u8>,
    /// `None`: led by another broker.
    partitions: Vec<Option<Arc<Discarded>>>,
}

/// Looked-up topics, good for one state of the cluster.
struct Topics {
    topology: u64,
    known: Vec<Known>,
}

impl Topics {
    fn find(&mut self, life: &Life, key: &[u8], by_id: bool) -> Option<usize> {
        let topology = life.shared.topology.load(Acquire);
        if topology != self.topology {
            self.topology = topology;
            self.known.clear();
        }
        if let Some(at) = self.known.iter().position(|known| known.key == key) {
            return Some(at);
        }
        let state = life.shared.lock();
        let topic = if by_id {
            state.topic_by_id(uuid::Uuid::from_slice(key).ok()?).map(|(_, topic)| topic)
        } else {
            state.topics.get(std::str::from_utf8(key).ok()?)
        };
        let partitions = topic?.partitions.iter();
        let partitions =
            partitions.map(|p| (p.leader == Some(life.broker)).then(|| Arc::clone(&p.discarded)));
        self.known.push(Known { key: key.to_vec(), partitions: partitions.collect() });
        Some(self.known.len() - 1)
    }
}

pub(crate) async fn serve(life: &Life, stream: &TcpStream) -> io::Result<()> {
    let mut window = Window::new(stream);
    let mut topics = Topics { topology: life.shared.topology.load(Acquire), known: Vec::new() };
    let frozen = life.shared.lock().brokers.get(&life.broker).map(|broker| broker.frozen.subscribe());
    let frozen = frozen.unwrap_or_else(|| watch::Sender::new(false).subscribe());
    loop {
        // Size, api key and version.
        if !window.need(8).await? {
            return Ok(());
        }
        let head = window.buffer.get(window.start..window.start + 8).unwrap_or_default();
        let [a, b, c, d, e, f, g, h] = *head else { return Err(malformed("unreachable: 8 bytes")) };
        window.frame = frame_size(i32::from_be_bytes([a, b, c, d]), life.shared.settings.max_request_bytes)?;
        window.start += 4;
        let (key, version) = (i16::from_be_bytes([e, f]), i16::from_be_bytes([g, h]));
        let (min, max) = Api::Produce.versions();
        let ordinary = key != Api::Produce.key()
            || !(min..=max).contains(&version)
            || life.shared.faults_armed.load(Acquire)
            || *frozen.borrow();
        if ordinary {
            let frame = window.frame().await?;
            write_all(stream, &window.out).await?;
            window.out.clear();
            if exchange(life, stream, frame).await? == Next::Close {
                return Ok(());
            }
            continue;
        }
        life.shared.counters.request(Api::Produce);
        if !produce(life, &mut window, &mut topics, version).await? {
            write_all(stream, &window.out).await?;
            return Ok(());
        }
    }
}

/// Puts the length of an array of `n`.
fn put_count(out: &mut Vec<u8>, flexible: bool, n: usize) {
    if !flexible {
        return out.extend_from_slice(&(n as u32).to_be_bytes());
    }
    let mut value = n as u32 + 1;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads one Produce request and puts its answer; `false`: the connection is to be closed (acks 0 and something refused).
async fn produce(life: &Life, w: &mut Window<'_>, topics: &mut Topics, version: i16) -> io::Result<bool> {
    let flexible = version >= 9;
    w.take(4).await?;
    let correlation_id: [u8; 4] = w.array().await?;
    // The client id is a plain string even in a flexible header.
    let client_id = w.length(false, true).await?;
    w.skip(usize::try_from(client_id).unwrap_or(0)).await?;
    w.skip_tags(flexible).await?;
    let transactional_id = w.length(flexible, true).await?;
    w.skip(usize::try_from(transactional_id).unwrap_or(0)).await?;
    let acks = w.i16().await?;
    w.i32().await?;
    let mut body = std::mem::take(&mut w.answer);
    body.clear();
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&correlation_id);
    if flexible {
        body.push(0);
    }
    let mut refused = false;
    let topic_count = usize::try_from(w.length(flexible, false).await?).unwrap_or(0);
    put_count(&mut body, flexible, topic_count);
    for _ in 0..topic_count {
        let found = if version >= 13 {
            let id: [u8; 16] = w.array().await?;
            body.extend_from_slice(&id);
            topics.find(life, &id, true)
        } else {
            let length = usize::try_from(w.length(flexible, true).await?).unwrap_or(0);
            if flexible {
                put_count(&mut body, true, length);
            } else {
                body.extend_from_slice(&(length as u16).to_be_bytes());
            }
            let name = w.take(length).await?;
            body.extend_from_slice(name);
            topics.find(life, name, false)
        };
        let partition_count = usize::try_from(w.length(flexible, false).await?).unwrap_or(0);
        put_count(&mut body, flexible, partition_count);
        for _ in 0..partition_count {
            let index: [u8; 4] = w.array().await?;
            let size = usize::try_from(w.length(flexible, false).await?).unwrap_or(0);
            let header = if size >= HEADER_LEN {
                let header = BatchHeader::read(w.take(HEADER_LEN).await?);
                w.skip(size - HEADER_LEN).await?;
                header.filter(|header| header.magic == 2 && header.size == size && header.record_count > 0)
            } else {
                w.skip(size).await?;
                None
            };
            w.skip_tags(flexible).await?;
            let place = found
                .and_then(|at| topics.known.get(at))
                .and_then(|known| known.partitions.get(usize::try_from(i32::from_be_bytes(index)).ok()?));
            let result = match (place, header) {
                (None, _) if found.is_none() && version >= 13 => Err(ErrorCode::UNKNOWN_TOPIC_ID),
                (None, _) => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                (Some(None), _) => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                (Some(Some(_)), None) => Err(ErrorCode::CORRUPT_MESSAGE),
                (Some(Some(counter)), Some(header)) => {
                    let records = i64::from(header.record_count);
                    life.shared.counters.written(records as u64, size as u64);
                    Ok(counter.next_offset.fetch_add(records, Relaxed))
                }
            };
            if result.is_err() {
                refused = true;
                life.shared.counters.refused.fetch_add(1, Relaxed);
            }
            put_partition(&mut body, version, index, result);
        }
        w.skip_tags(flexible).await?;
        if flexible {
            body.push(0);
        }
    }
    w.skip_tags(flexible).await?;
    if w.frame > 0 {
        return Err(malformed("bytes are left over at the end of a request"));
    }
    body.extend_from_slice(&[0; 4]);
    if flexible {
        body.push(0);
    }
    let size = (body.len() - 4) as u32;
    if let Some(place) = body.get_mut(..4) {
        place.copy_from_slice(&size.to_be_bytes());
    }
    if acks != 0 {
        w.out.extend_from_slice(&body);
    }
    w.answer = body;
    Ok(acks != 0 || !refused)
}

/// One partition of the answer.
fn put_partition(out: &mut Vec<u8>, version: i16, index: [u8; 4], result: Result<i64, ErrorCode>) {
    let (code, base_offset, log_start) = match result {
        Ok(base_offset) => (0, base_offset, 0_i64),
        Err(code) => (code.0, -1, -1),
    };
    out.extend_from_slice(&index);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&base_offset.to_be_bytes());
    // No time of the broker's.
    out.extend_from_slice(&(-1_i64).to_be_bytes());
    if version >= 5 {
        out.extend_from_slice(&log_start.to_be_bytes());
    }
    match version {
        // No record errors, no message.
        8 => out.extend_from_slice(&[0, 0, 0, 0, 0xff, 0xff]),
        // The same, compact, and no tags.
        9.. => out.extend_from_slice(&[1, 0, 0]),
        _ => {}
    }
}
