//! Produce (key 0), written so that no byte of a batch is copied or encoded again.
//!
//! A [`ProduceFrame`] holds only what lies around the batches' bodies: the request's header, the framing of topics and
//! partitions, and each batch's 61 bytes of header. On the wire:
//!
//! ```text
//! framing[..cut 0]  = length, request header, acks, timeout, topic, partition, size, batch header 0
//! body of batch 0   = its chunks, where the events were written when they were accepted
//! framing[..cut 1]  = end of that partition, next one (and next topic), batch header 1
//! body of batch 1
//! ...
//! framing[last cut..] = end of partition, topic and request (flexible versions only)
//! ```

use std::io::IoSlice;

use super::{Api, finish_request, start_request};
use crate::batch::{HEADER_LEN, RecordBatch};
use crate::delivery::TopicId;

/// What a Produce request says besides its batches.
#[derive(Clone, Copy, Debug)]
pub struct ProduceHead<'a> {
    /// 3 to 13. From 13 on topics go by their ids, and every item must have one.
    pub version: i16,
    /// The request's number on its connection.
    pub correlation: i32,
    /// The client's name.
    pub client_id: &'a str,
    /// 0, 1 or -1.
    pub acks: i16,
    /// How long the broker may wait for its replicas, in milliseconds.
    pub timeout_ms: i32,
}

/// A batch and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct ProduceItem<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// Its id, for version 13.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// The batch.
    pub batch: &'a RecordBatch,
}

/// At most so many bytes of a request belong to no batch, besides the client id.
pub const REQUEST_OVERHEAD: usize = 64;

/// At most so many bytes does a batch add to a request besides its own ([`RecordBatch::encoded_len`]).
pub const fn item_overhead(topic: &str) -> usize {
    // Name or id, length of the array of partitions, tags; partition, size, tags.
    topic.len() + 48
}

/// A Produce request's bytes around its batches. Kept and used again: it allocates only until it has grown enough.
#[derive(Debug, Default)]
pub struct ProduceFrame {
    framing: Vec<u8>,
    cuts: Vec<usize>,
    len: usize,
}

impl ProduceFrame {
    /// Writes the framing of a request with these items; items of one topic must follow one another. The request must
    /// be below 2 GiB (see [`item_overhead`]).
    pub fn encode<'a>(
        &mut self,
        head: &ProduceHead<'_>,
        items: impl Iterator<Item = ProduceItem<'a>> + Clone,
    ) {
        self.framing.clear();
        self.cuts.clear();
        let mut bodies = 0;
        let mut out =
            start_request(&mut self.framing, Api::Produce, head.version, head.correlation, head.client_id);
        out.null_string();
        out.i16(head.acks);
        out.i32(head.timeout_ms);
        out.array_len(count_topics(items.clone()));
        let mut topic: Option<&str> = None;
        let mut rest = items;
        loop {
            let from_here = rest.clone();
            let Some(item) = rest.next() else { break };
            if topic != Some(item.topic) {
                if topic.is_some() {
                    out.tags();
                }
                topic = Some(item.topic);
                match head.version {
                    ..13 => out.string(item.topic),
                    13.. => out.topic_id(item.topic_id),
                }
                out.array_len(from_here.take_while(|next| next.topic == item.topic).count());
            }
            out.i32(item.partition);
            out.bytes_len(item.batch.encoded_len());
            out.out.extend_from_slice(&item.batch.header());
            self.cuts.push(out.out.len());
            bodies += item.batch.encoded_len() - HEADER_LEN;
            out.tags();
        }
        if topic.is_some() {
            out.tags();
        }
        out.tags();
        self.len = self.framing.len() + bodies;
        finish_request(&mut self.framing);
        if let Some(place) = self.framing.first_chunk_mut() {
            *place = ((self.len - 4) as i32).to_be_bytes();
        }
    }

    /// A request that holds no batch and is written like one.
    pub fn set_plain(&mut self, request: &[u8]) {
        self.framing.clear();
        self.framing.extend_from_slice(request);
        self.cuts.clear();
        self.len = request.len();
    }

    /// Bytes of the whole request, its length field included.
    #[expect(clippy::len_without_is_empty, reason = "never empty once encoded")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The request's bytes from `written` on, piece by piece, at most `most` pieces; `batches` are those of the items,
    /// in their order.
    pub fn slices<'a>(
        &'a self,
        batches: impl Iterator<Item = &'a RecordBatch>,
        written: usize,
        most: usize,
    ) -> Vec<IoSlice<'a>> {
        let mut pieces = Pieces { slices: Vec::with_capacity(most.min(64)), skip: written, most };
        let mut from = 0;
        for (cut, batch) in self.cuts.iter().zip(batches) {
            pieces.push(self.framing.get(from..*cut).unwrap_or_default());
            batch.body().for_each(|chunk| pieces.push(chunk));
            from = *cut;
            if pieces.slices.len() >= most {
                return pieces.slices;
            }
        }
        pieces.push(self.framing.get(from..).unwrap_or_default());
        pieces.slices
    }
}

fn count_topics<'a>(items: impl Iterator<Item = ProduceItem<'a>>) -> usize {
    let mut topic = None;
    items.filter(|item| topic.replace(item.topic) != Some(item.topic)).count()
}

struct Pieces<'a> {
    slices: Vec<IoSlice<'a>>,
    skip: usize,
    most: usize,
}

impl<'a> Pieces<'a> {
    fn push(&mut self, bytes: &'a [u8]) {
        if let Some(rest) = bytes.get(self.skip..).filter(|rest| !rest.is_empty()) {
            self.skip = 0;
            if self.slices.len() < self.most {
                self.slices.push(IoSlice::new(rest));
            }
        } else {
            self.skip -= bytes.len();
        }
    }
}
