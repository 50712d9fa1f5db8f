//! How the outcome of a batch reaches whoever holds a receipt: one [`Completion`] for a batch, an index for an event.
//!
//! A batch has no completion until somebody asks for a receipt, and a receipt is one reference and an index. A batch
//! may be split, cut or regrouped on its way; each piece keeps [`Span`]s that say which events of which completion it
//! carries, so every event's outcome finds its receipt.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::DeliveryError;

/// What became of an event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// In the log of its partition.
    Delivered {
        /// The partition it lies in.
        partition: i32,
        /// Its offset. `None`: written, but the broker did not say where (acks = 0, or proven by a later batch).
        offset: Option<i64>,
    },
    /// Not delivered, and it will not be.
    Failed(Arc<DeliveryError>),
}

/// Why an event is known to survive a crash, or not to.
#[derive(Clone, Debug, PartialEq)]
pub enum Durable {
    /// It is on disk.
    OnDisk,
    /// It was not on disk when it got its outcome.
    Settled(Outcome),
}

#[derive(Debug, Default)]
struct State {
    settled: Vec<(Range<u32>, Settled)>,
    /// Events that are on disk.
    durable: Vec<Range<u32>>,
    /// By index: every event of a large batch may be awaited by a task of its own. Who waits for durability waits here,
    /// too, and looks again when the outcome comes.
    wakers: VecDeque<(u32, Waker)>,
}

#[derive(Clone, Debug)]
enum Settled {
    /// `base_offset` belongs to the first event of the range.
    Delivered {
        partition: i32,
        base_offset: Option<i64>,
    },
    Failed(Arc<DeliveryError>),
}

/// The outcome of each event of what was one batch when it was accepted.
#[derive(Debug, Default)]
pub struct Completion {
    state: Mutex<State>,
}

impl Completion {
    /// A completion of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of event `index`, if it is known.
    pub fn get(&self, index: u32) -> Option<Outcome> {
        find(&self.lock().settled, index)
    }

    /// Waits for the outcome of event `index`. Registers the waker, which is called once.
    pub fn poll(&self, index: u32, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.lock();
        if let Some(outcome) = find(&state.settled, index) {
            return Poll::Ready(outcome);
        }
        state.wait(index, cx);
        Poll::Pending
    }

    /// Whether event `index` survives a crash of this process, if that is known: it is on disk, or its outcome, which is
    /// final, says.
    pub fn durable(&self, index: u32) -> Option<Durable> {
        self.lock().durable(index)
    }

    /// Waits until event `index` is on disk or has its outcome. Registers the waker, which is called once or twice.
    pub fn poll_durable(&self, index: u32, cx: &mut Context<'_>) -> Poll<Durable> {
        let mut state = self.lock();
        match state.durable(index) {
            Some(durable) => Poll::Ready(durable),
            None => {
                state.wait(index, cx);
                Poll::Pending
            }
        }
    }

    fn made_durable(&self, range: Range<u32>) {
        let wakers: Vec<Waker> = {
            let mut state = self.lock();
            let (from, to) = positions(&state.wakers, &range);
            // Those who wait for the delivery are woken for nothing, once.
            let wakers = state.wakers.drain(from..to).map(|(_, waker)| waker).collect();
            match state.durable.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => state.durable.push(range),
            }
            wakers
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn settle(&self, range: Range<u32>, settled: Settled) {
        let done: Vec<(u32, Waker)> = {
            let mut state = self.lock();
            let (from, to) = positions(&state.wakers, &range);
            state.settled.push((range, settled));
            state.wakers.drain(from..to).collect()
        };
        done.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl State {
    fn durable(&self, index: u32) -> Option<Durable> {
        if self.durable.iter().any(|range| range.contains(&index)) {
            return Some(Durable::OnDisk);
        }
        find(&self.settled, index).map(Durable::Settled)
    }

    fn wait(&mut self, index: u32, cx: &Context<'_>) {
        let state = self;
        let (from, to) = positions(&state.wakers, &(index..index + 1));
        if !state.wakers.range(from..to).any(|(_, waker)| waker.will_wake(cx.waker())) {
            // Who awaits in the order of acceptance, as most do, adds at the end.
            state.wakers.insert(to, (index, cx.waker().clone()));
        }
    }
}

/// Where in the list, which is sorted, the wakers of these events begin and end.
fn positions(wakers: &VecDeque<(u32, Waker)>, events: &Range<u32>) -> (usize, usize) {
    let before = |end: u32| wakers.partition_point(|(index, _)| *index < end);
    (before(events.start), before(events.end))
}

fn find(settled: &[(Range<u32>, Settled)], index: u32) -> Option<Outcome> {
    let (range, settled) = settled.iter().find(|(range, _)| range.contains(&index))?;
    Some(match settled {
        Settled::Delivered { partition, base_offset } => Outcome::Delivered {
            partition: *partition,
            offset: base_offset.map(|base| base + i64::from(index - range.start)),
        },
        Settled::Failed(error) => Outcome::Failed(error.clone()),
    })
}

/// Events `first..first + count` of a batch belong to these events of a completion (`None`: nobody asked).
#[derive(Clone, Debug)]
pub struct Span {
    /// The completion, if anybody holds a receipt.
    pub completion: Option<Arc<Completion>>,
    /// The index, in the completion, of the span's first event.
    pub first: u32,
    /// How many events.
    pub count: u32,
}

/// The spans of a batch, in the order of its events; together they cover it.
#[derive(Clone, Debug, Default)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// The spans of a batch that is as it was accepted.
    pub fn whole(completion: Option<Arc<Completion>>, count: u32) -> Self {
        // Nobody asked: no list is needed either (and none is allocated).
        match completion {
            Some(_) => Spans(vec![Span { completion, first: 0, count }]),
            None => Spans(Vec::new()),
        }
    }

    /// True if nobody holds a receipt for any of it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The spans of events `range` of this batch.
    pub fn slice(&self, range: Range<u32>) -> Self {
        let mut at = 0u32;
        let mut out = Spans::default();
        for span in &self.0 {
            let (start, end) = (range.start.max(at), range.end.min(at + span.count));
            if start < end {
                let mut piece = span.clone();
                piece.first += start - at;
                piece.count = end - start;
                out.0.push(piece);
            }
            at += span.count;
        }
        out
    }

    /// Adds the spans of a batch that follows this one; `count` and `more_count` are the numbers of events of both.
    pub fn append(&mut self, count: u32, more: Spans, more_count: u32) {
        match (self.0.is_empty(), more.0.is_empty()) {
            (true, true) => return,
            (true, false) if count > 0 => self.0.push(Span { completion: None, first: 0, count }),
            _ => {}
        }
        if more.0.is_empty() {
            self.0.push(Span { completion: None, first: 0, count: more_count });
        }
        for span in more.0 {
            match self.0.last_mut() {
                Some(last) if last.joins(&span) => last.count += span.count,
                _ => self.0.push(span),
            }
        }
    }

    /// Settles all of it as delivered; `base_offset` is the offset of the batch's first event.
    pub fn delivered(&self, partition: i32, base_offset: Option<i64>) {
        let mut at = 0u32;
        for span in &self.0 {
            let base_offset = base_offset.map(|base| base + i64::from(at));
            span.settle(Settled::Delivered { partition, base_offset });
            at += span.count;
        }
    }

    /// All of it is on disk.
    pub fn durable(&self) {
        for Span { completion, first, count } in &self.0 {
            if let Some(completion) = completion {
                completion.made_durable(*first..*first + *count);
            }
        }
    }

    /// Settles all of it as failed.
    pub fn failed(&self, error: &Arc<DeliveryError>) {
        self.0.iter().for_each(|span| span.settle(Settled::Failed(error.clone())));
    }
}

impl Span {
    fn joins(&self, next: &Span) -> bool {
        match (&self.completion, &next.completion) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) && self.first + self.count == next.first,
            (None, None) => true,
            _ => false,
        }
    }

    fn settle(&self, settled: Settled) {
        if let Some(completion) = &self.completion {
            completion.settle(self.first..self.first + self.count, settled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(completion: &Completion, index: u32) -> Option<i64> {
        match completion.get(index) {
            Some(Outcome::Delivered { offset, .. }) => offset,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_split_batch_gives_each_event_its_own_offset() {
        let completion = Arc::new(Completion::new());
        let spans = Spans::whole(Some(completion.clone()), 5);
        spans.slice(2..5).delivered(1, Some(100));
        assert_eq!(completion.get(1), None);
        spans.slice(0..2).delivered(1, Some(50));
        assert_eq!(
            (0..5).map(|i| offset(&completion, i)).collect::<Vec<_>>(),
            [50, 51, 100, 101, 102].map(Some)
        );
    }

    #[test]
    fn joined_batches_answer_both_completions() {
        let (a, b) = (Arc::new(Completion::new()), Arc::new(Completion::new()));
        let mut spans = Spans::whole(None, 2);
        spans.append(2, Spans::whole(Some(a.clone()), 3), 3);
        spans.append(5, Spans::whole(None, 1), 1);
        spans.append(6, Spans::whole(Some(b.clone()), 2), 2);
        spans.delivered(0, Some(10));
        assert_eq!(offset(&a, 0), Some(12));
        assert_eq!(offset(&a, 2), Some(14));
        assert_eq!(offset(&b, 1), Some(17));
    }

    #[test]
    fn nothing_is_kept_where_nobody_asked() {
        let mut spans = Spans::whole(None, 4);
        spans.append(4, Spans::whole(None, 4), 4);
        assert!(spans.is_empty());
    }

    #[test]
    fn an_outcome_wakes_only_those_who_wait_for_it() {
        let completion = Arc::new(Completion::new());
        let spans = Spans::whole(Some(completion.clone()), 2);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(completion.poll(0, &mut cx).is_pending());
        assert!(completion.poll(1, &mut cx).is_pending());
        spans.slice(0..1).delivered(0, None);
        assert!(completion.poll(0, &mut cx).is_ready());
        assert_eq!(completion.lock().wakers.len(), 1);
    }

    #[test]
    fn an_event_on_disk_is_durable_before_and_after_it_is_delivered_and_one_that_was_not_tells_its_outcome() {
        let completion = Arc::new(Completion::new());
        let spans = Spans::whole(Some(completion.clone()), 3);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(completion.poll_durable(0, &mut cx).is_pending() && completion.poll(0, &mut cx).is_pending());
        spans.slice(0..2).durable();
        assert_eq!(completion.durable(1), Some(Durable::OnDisk));
        assert_eq!((completion.durable(2), completion.get(1)), (None, None));
        spans.delivered(4, Some(7));
        assert_eq!(completion.durable(1), Some(Durable::OnDisk));
        let there = Outcome::Delivered { partition: 4, offset: Some(9) };
        assert_eq!(completion.poll_durable(2, &mut cx), Poll::Ready(Durable::Settled(there)));
    }

    #[test]
    fn waiters_in_any_order_are_all_woken_and_asking_twice_waits_once() {
        let completion = Arc::new(Completion::new());
        let spans = Spans::whole(Some(completion.clone()), 6);
        let mut cx = Context::from_waker(Waker::noop());
        for index in [3, 0, 5, 3, 1, 0, 4] {
            assert!(completion.poll(index, &mut cx).is_pending());
        }
        let waiting = || completion.lock().wakers.iter().map(|(i, _)| *i).collect::<Vec<_>>();
        assert_eq!(waiting(), [0, 1, 3, 4, 5]);
        spans.slice(1..4).delivered(0, None);
        assert_eq!(waiting(), [0, 4, 5]);
    }
}
