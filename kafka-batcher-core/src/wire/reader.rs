//! Reads the protocol's primitive types, trusting nothing.

use crate::delivery::TopicId;

/// How lengths are written (KIP-482).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Fixed lengths, no tagged fields.
    Classic,
    /// Lengths as unsigned varints plus one, tagged fields after every struct.
    Flexible,
}

/// Bytes that are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}: {problem}")]
pub struct WireError {
    /// The field.
    pub what: &'static str,
    /// Where in the answer.
    pub at: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], encoding: Encoding) -> Self {
        Reader { bytes, at: 0, encoding }
    }

    pub(crate) fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = encoding;
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn error(&self, what: &'static str, problem: &'static str) -> WireError {
        WireError { what, at: self.at, problem }
    }

    pub(crate) fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(self.error(what, "the message ends before it")),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.error(what, "the message ends before it")),
        }
    }

    pub(crate) fn i8(&mut self, what: &'static str) -> Result<i8, WireError> {
        self.array(what).map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self, what: &'static str) -> Result<i16, WireError> {
        self.array(what).map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32, WireError> {
        self.array(what).map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, WireError> {
        self.array(what).map(i64::from_be_bytes)
    }

    pub(crate) fn topic_id(&mut self, what: &'static str) -> Result<TopicId, WireError> {
        self.array(what).map(TopicId)
    }

    /// An unsigned varint of at most 32 bits.
    pub(crate) fn uvarint(&mut self, what: &'static str) -> Result<u32, WireError> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.i8(what)? as u8;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| self.error(what, "a varint above 32 bits"));
            }
        }
        Err(self.error(what, "a varint longer than 5 bytes"))
    }

    /// The length of a string (16 bits in the old encoding) or `None` for null.
    pub(crate) fn nullable_string(&mut self, what: &'static str) -> Result<Option<&'a str>, WireError> {
        let length = match self.encoding {
            Encoding::Classic => i64::from(self.i16(what)?),
            Encoding::Flexible => i64::from(self.uvarint(what)?) - 1,
        };
        if length == -1 {
            return Ok(None);
        }
        let Ok(length) = usize::try_from(length) else { return Err(self.error(what, "a negative length")) };
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| self.error(what, "not UTF-8"))
    }

    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a str, WireError> {
        self.nullable_string(what)?.ok_or_else(|| self.error(what, "null"))
    }

    /// How many elements an array has; null counts as none. Refuses a number of elements of `smallest` bytes that the
    /// rest of the message cannot hold, so that the caller may reserve memory for them.
    pub(crate) fn array_len(&mut self, smallest: usize, what: &'static str) -> Result<usize, WireError> {
        let length = match self.encoding {
            Encoding::Classic => i64::from(self.i32(what)?),
            Encoding::Flexible => i64::from(self.uvarint(what)?) - 1,
        };
        if length == -1 {
            return Ok(0);
        }
        match usize::try_from(length) {
            Ok(n) if n <= self.remaining() / smallest.max(1) => Ok(n),
            Ok(_) => Err(self.error(what, "more elements than the message can hold")),
            Err(_) => Err(self.error(what, "a negative length")),
        }
    }

    /// An array of 32-bit numbers that nobody asked for.
    pub(crate) fn skip_i32s(&mut self, what: &'static str) -> Result<(), WireError> {
        let n = self.array_len(4, what)?;
        self.take(n.saturating_mul(4), what).map(|_| ())
    }

    /// Tagged fields, where the encoding has them. `each` gets a reader of just that field's bytes.
    pub(crate) fn tags(
        &mut self,
        mut each: impl FnMut(u32, &mut Reader<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if self.encoding == Encoding::Classic {
            return Ok(());
        }
        for _ in 0..self.uvarint("tagged fields")? {
            let tag = self.uvarint("tag")?;
            let size = self.uvarint("size of a tagged field")? as usize;
            let end = self.at.saturating_add(size);
            if size > self.remaining() {
                return Err(self.error("tagged field", "the message ends before it"));
            }
            // The same bytes from their beginning, so that errors name places in the whole message.
            let bytes = self.bytes.get(..end).unwrap_or(self.bytes);
            each(tag, &mut Reader { bytes, at: self.at, encoding: self.encoding })?;
            self.at = end;
        }
        Ok(())
    }

    pub(crate) fn skip_tags(&mut self) -> Result<(), WireError> {
        self.tags(|_, _| Ok(()))
    }
}
