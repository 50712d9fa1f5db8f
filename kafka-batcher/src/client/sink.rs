//! Writes requests to a socket: one vectored write a request, straight from the batches' memory.
//!
//! A [`Sink`] is owned by whoever writes at the moment, mostly the caller of `produce` itself: no task is woken to
//! write. What the socket does not take at once is continued from the same place. Over TLS "the socket" is the session, which takes a
//! bounded piece at a time; what it took counts as left, although it may not have reached the socket: it will.

use std::io;
use std::sync::Arc;

use kafka_batcher_core::wire::{ProduceFrame, ProduceHead, ProduceItem};
use kafka_batcher_core::{Leader, ProduceAnswer, RecordBatch};
use tokio::sync::oneshot;

use super::transport::WriteHalf;
use crate::producer::PartitionBatch;

/// What one `writev` takes at most (`IOV_MAX` of Linux and macOS); what is more takes another call.
const MOST_SLICES: usize = 1024;

/// One Produce request as it goes over one connection. Items of a topic follow one another.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) acks: i16,
    pub(crate) timeout_ms: i32,
    pub(crate) items: Vec<PieceItem>,
}

/// A batch with the leader that it is sent to.
#[derive(Debug)]
pub(crate) struct PieceItem {
    pub(crate) batch: PartitionBatch,
    pub(crate) leader: Leader,
}

impl Piece {
    fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.items.iter().map(|item| &item.batch.batch)
    }

    /// Whether every topic's id is known, as Produce 13 needs it.
    pub(super) fn has_topic_ids(&self) -> bool {
        self.items.iter().all(|item| item.leader.topic_id != Default::default())
    }
}

/// The request being written.
enum Writing {
    Nothing,
    Plain,
    Produce(Arc<Piece>),
    /// A request that gets no answer (acks = 0): it is done when it is written.
    Unanswered(Arc<Piece>, oneshot::Sender<Vec<ProduceAnswer>>),
}

/// How far a write came.
pub(super) enum Progress {
    /// All of it is written. With what there is to answer now, for acks = 0.
    Done(Option<(Arc<Piece>, oneshot::Sender<Vec<ProduceAnswer>>)>),
    /// The socket takes no more for now.
    Blocked,
}

pub(super) struct Sink {
    half: WriteHalf,
    frame: ProduceFrame,
    writing: Writing,
    written: usize,
}

impl Sink {
    pub(super) fn new(half: WriteHalf) -> Self {
        Sink { half, frame: ProduceFrame::default(), writing: Writing::Nothing, written: 0 }
    }

    pub(super) fn is_writing(&self) -> bool {
        !matches!(self.writing, Writing::Nothing)
    }

    /// Whether no byte has left of a request that waits for an answer, and so is the last one in flight. A request
    /// that gets no answer is not in flight: the last one there is another, and was written.
    pub(super) fn is_untouched(&self) -> bool {
        self.written == 0 && matches!(self.writing, Writing::Plain | Writing::Produce(_))
    }

    /// Resolves when the socket takes more. Cancel-safe.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.half.writable().await
    }

    pub(super) fn begin_plain(&mut self, request: &[u8]) {
        self.frame.set_plain(request);
        self.writing = Writing::Plain;
        self.written = 0;
    }

    pub(super) fn begin_produce(
        &mut self,
        head: &ProduceHead<'_>,
        piece: Arc<Piece>,
        unanswered: Option<oneshot::Sender<Vec<ProduceAnswer>>>,
    ) {
        let items = piece.items.iter().map(|item| ProduceItem {
            topic: &item.batch.topic,
            topic_id: item.leader.topic_id,
            partition: item.batch.partition,
            batch: &item.batch.batch,
        });
        self.frame.encode(head, items);
        self.writing = match unanswered {
            Some(reply) => Writing::Unanswered(piece, reply),
            None => Writing::Produce(piece),
        };
        self.written = 0;
    }

    /// Writes as much as the socket takes.
    pub(super) fn advance(&mut self) -> io::Result<Progress> {
        let Sink { half, frame, writing, written } = self;
        while *written < frame.len() {
            let slices = match writing {
                Writing::Produce(piece) | Writing::Unanswered(piece, _) => {
                    frame.slices(piece.batches(), *written, MOST_SLICES)
                }
                Writing::Plain | Writing::Nothing => frame.slices(std::iter::empty(), *written, MOST_SLICES),
            };
            match half.try_write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => *written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match half.try_flush() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
            Err(error) => return Err(error),
        }
        Ok(match std::mem::replace(writing, Writing::Nothing) {
            Writing::Unanswered(piece, reply) => Progress::Done(Some((piece, reply))),
            _ => Progress::Done(None),
        })
    }
}
