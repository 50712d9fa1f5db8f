//! Writes the protocol's primitive types.

use super::Encoding;
use crate::delivery::TopicId;

/// Appends to a vector. Lengths are the caller's business: all of them are far below 2^31 here.
pub(crate) struct Writer<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) encoding: Encoding,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, encoding: Encoding) -> Self {
        Writer { out, encoding }
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn topic_id(&mut self, value: TopicId) {
        self.out.extend_from_slice(&value.0);
    }

    pub(crate) fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A string, cut at the 32767 bytes that the old encoding can say.
    pub(crate) fn string(&mut self, value: &str) {
        let mut end = value.len().min(i16::MAX as usize);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        match self.encoding {
            Encoding::Classic => self.i16(end as i16),
            Encoding::Flexible => self.uvarint(end as u32 + 1),
        }
        self.out.extend_from_slice(value.as_bytes().get(..end).unwrap_or_default());
    }

    pub(crate) fn null_string(&mut self) {
        match self.encoding {
            Encoding::Classic => self.i16(-1),
            Encoding::Flexible => self.uvarint(0),
        }
    }

    pub(crate) fn array_len(&mut self, length: usize) {
        match self.encoding {
            Encoding::Classic => self.i32(length as i32),
            Encoding::Flexible => self.uvarint(length as u32 + 1),
        }
    }

    /// The length of bytes that follow.
    pub(crate) fn bytes_len(&mut self, length: usize) {
        self.array_len(length);
    }

    /// No tagged fields, where the encoding has them.
    pub(crate) fn tags(&mut self) {
        if self.encoding == Encoding::Flexible {
            self.out.push(0);
        }
    }
}
