//! Places the events of a batch that was collected before anybody knew the topic's partitions.

use std::collections::BTreeMap;
use std::ops::Range;

use super::encoder::{encode_all, mark_given};
use super::{OwnedRecord, RecordBatch};
use crate::buffer_pool::Chunk;
use crate::completion::Spans;
use crate::error::DecodeError;
use crate::record::Record;

/// What [`RecordBatch::regroup`] made of a batch.
#[derive(Debug, Default)]
pub struct Regrouped {
    /// A batch for each partition that got events, in the order of partitions; the order of events is kept.
    pub assigned: Vec<(i32, RecordBatch)>,
    /// Events that could not be placed, each as a batch of its own, with the reason.
    pub refused: Vec<(RecordBatch, String)>,
}

/// Answers an event's partition, or why it has none; is given the value of the reserved header, if there is one.
pub type Place<'a> = dyn FnMut(&Record<'_>, Option<&[u8]>) -> Result<i32, String> + 'a;

#[derive(Default)]
struct Group {
    records: Vec<OwnedRecord>,
    spans: Spans,
    /// Whose time the user gave.
    given: Vec<Range<u32>>,
}

impl RecordBatch {
    /// Sorts the events by the partition that `place` answers. A header named `reserved` in front of the others is
    /// stripped and its value handed to `place`. `chunk` gives memory for a partition.
    ///
    /// # Errors
    /// If the batch's own bytes cannot be read.
    pub fn regroup(
        &self,
        reserved: &str,
        place: &mut Place<'_>,
        chunk: &mut dyn FnMut(i32, usize) -> Chunk,
    ) -> Result<Regrouped, DecodeError> {
        let mut groups: BTreeMap<i32, Group> = BTreeMap::new();
        let mut out = Regrouped::default();
        for (i, mut record) in (0u32..).zip(self.records()?) {
            let spans = self.spans().slice(i..i + 1);
            let is_reserved = record.headers.first().is_some_and(|header| header.name == reserved);
            let kept = if is_reserved { record.headers.remove(0).value } else { None };
            match record.view(|r| place(r, kept.as_deref())) {
                Ok(partition) => {
                    let group = groups.entry(partition).or_default();
                    let at = group.records.len() as u32;
                    group.spans.append(at, spans, 1);
                    if self.time_given(i) {
                        mark_given(&mut group.given, at);
                    }
                    group.records.push(record);
                }
                Err(reason) => {
                    let mut batch = encode_all(&[record], &mut Chunk::unpooled);
                    batch.spans = spans;
                    out.refused.push((batch, reason));
                }
            }
        }
        for (partition, group) in groups {
            let mut batch = encode_all(&group.records, &mut |size| chunk(partition, size));
            batch.spans = group.spans;
            batch.set_times_given(group.given);
            out.assigned.push((partition, batch));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::completion::{Completion, Outcome};
    use crate::{OwnedHeader, RecordBatch};

    fn record(value: &str, reserved: Option<u8>) -> OwnedRecord {
        let own = OwnedHeader { name: "mine".to_owned(), value: None };
        let kept = reserved.map(|p| OwnedHeader { name: "reserved".to_owned(), value: Some(vec![p]) });
        OwnedRecord {
            timestamp: 5,
            key: None,
            value: Some(value.as_bytes().to_vec()),
            headers: kept.into_iter().chain([own]).collect(),
        }
    }

    #[test]
    fn events_go_where_their_header_says_in_order_with_their_receipts_and_without_that_header() {
        let records: Vec<_> = (0..6).map(|i| record(&i.to_string(), Some(i % 3))).collect();
        let mut batch: RecordBatch = encode_all(&records, &mut Chunk::unpooled);
        let completion = Arc::new(Completion::new());
        batch.spans = Spans::whole(Some(completion.clone()), 6);
        let mut place = |_: &Record<'_>, kept: Option<&[u8]>| match kept {
            Some([2]) => Err("no such partition".to_owned()),
            Some([p]) => Ok(i32::from(*p)),
            _ => panic!("every event has the header"),
        };
        let out = batch.regroup("reserved", &mut place, &mut |_, size| Chunk::unpooled(size)).unwrap();
        assert_eq!(out.assigned.len(), 2);
        let (partition, ones) = &out.assigned[1];
        let values: Vec<_> =
            ones.records().unwrap().into_iter().map(|r| (r.value, r.headers.len())).collect();
        assert_eq!((*partition, values), (1, vec![(Some(b"1".to_vec()), 1), (Some(b"4".to_vec()), 1)]));
        ones.spans().delivered(1, Some(10));
        assert_eq!(completion.get(4), Some(Outcome::Delivered { partition: 1, offset: Some(11) }));
        assert_eq!(out.refused.len(), 2);
    }

    #[test]
    fn an_event_of_the_users_own_with_such_a_header_further_back_keeps_it() {
        let mut mine = record("v", None);
        mine.headers.push(OwnedHeader { name: "reserved".to_owned(), value: None });
        let batch = encode_all(&[mine.clone()], &mut Chunk::unpooled);
        let mut place = |_: &Record<'_>, kept: Option<&[u8]>| {
            assert_eq!(kept, None);
            Ok(0)
        };
        let out = batch.regroup("reserved", &mut place, &mut |_, size| Chunk::unpooled(size)).unwrap();
        assert_eq!(out.assigned[0].1.records().unwrap(), [mine]);
    }
}
