//! `Sum`: the CRC-32C of a batch's first records, computed while they are appended and still in the processor's cache.
//!
//! A batch's CRC begins with its header, which is complete only when the batch is stamped. So the records are summed by themselves, and the
//! header's sum is carried over their bytes: appending `n` bytes multiplies a CRC by x^(8n) modulo its polynomial, whatever the bytes are
//! (as zlib's `crc32_combine` does; that of the crate crc32c does the same in some 10 000 instructions).
//!
//! Why: where events come faster than they are sent, a batch is long out of the caches when its turn comes, and reading it for its CRC was
//! what the dispatcher did most. CPU s for 10^6 events, without and with, in turns, medians of four to six (`bench-compare`):
//!
//! | | 100 B | 1 KiB |
//! |---|---|---|
//! | sink | 0.101, 0.091 | 0.655, 0.524 |
//! | Kafka | 0.130, 0.123 | 0.79, 0.78 |
//!
//! The crate crc-fast in place of crc32c, on the sink: 0.088, 0.080 and 0.458, 0.452; alone, on 4 KiB in the cache, 46 and 22 GB/s
//! (an EPYC with AVX-512).

use std::sync::OnceLock;

use crc_fast::{CrcAlgorithm, Digest};

/// Whether crc-fast has better than tables here; where not, crc32c may still have an instruction.
fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sse4.2") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("crc") && std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// CRC-32C (Castagnoli; iSCSI).
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// The CRC of what has the CRC `before`, followed by these bytes.
pub(super) fn append(before: u32, bytes: &[u8]) -> u32 {
    if !is_fast() {
        return crc32c::crc32c_append(before, bytes);
    }
    // Its state is the CRC before the last step, which inverts it.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    digest.finalize() as u32
}

/// How many bytes are summed at once: a call costs little beside them, and they are in the first cache or the second; 1 KiB and 16 KiB
/// came to the same. That it is done under a partition's lock is the price: 0.1 us every thirty events of 100 bytes, 20 us for one of a megabyte.
pub(super) const STEP: usize = 4096;

/// Of so many bytes from the first record on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    crc: u32,
    len: usize,
}

impl Sum {
    /// How many bytes it is of.
    pub(super) fn len(self) -> usize {
        self.len
    }

    /// The next bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.crc = append(self.crc, bytes);
        self.len += bytes.len();
    }

    /// The CRC of what has the CRC `before`, followed by these bytes.
    pub(super) fn behind(self, before: u32) -> u32 {
        match self.len {
            0 => before,
            len => carried_over(before, len) ^ self.crc,
        }
    }
}

/// The polynomial of CRC-32C below its x^32, in the order in which the format has them: the lowest power on top.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0.
const ONE: u32 = 1 << 31;
/// x^8: one byte.
const BYTE: u32 = ONE >> 8;

/// The product of two polynomials, modulo that of CRC-32C.
fn product(a: u32, mut b: u32) -> u32 {
    let (mut sum, mut at) = (0, ONE);
    while at != 0 {
        if a & at != 0 {
            sum ^= b;
        }
        // Times x.
        b = (b >> 1) ^ (POLYNOMIAL * (b & 1));
        at >>= 1;
    }
    sum
}

/// For each byte of a length, x^(8 * that part of it): 4 KiB, made when the first batch needs it.
fn powers() -> &'static [[u32; 256]; 4] {
    static POWERS: OnceLock<[[u32; 256]; 4]> = OnceLock::new();
    POWERS.get_or_init(|| {
        let mut unit = BYTE;
        std::array::from_fn(|_| {
            let mut next = ONE;
            let row = std::array::from_fn(|_| {
                let power = next;
                next = product(power, unit);
                power
            });
            unit = next;
            row
        })
    })
}

fn carried_over(crc: u32, len: usize) -> u32 {
    // No batch has more than 2^31 - 1 bytes.
    let parts = powers().iter().zip((len as u32).to_le_bytes());
    parts.filter(|(_, n)| *n != 0).fold(crc, |crc, (row, n)| product(row[usize::from(n)], crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_summed_in_parts_has_the_crc_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect();
        for (header, end) in
            [(0, 0), (40, 40), (40, 41), (40, 296), (40, 70_000), (1, 100_000), (99_999, 100_000)]
        {
            let (before, records) = bytes[..end].split_at(header);
            let mut sum = Sum::default();
            records.chunks(777).for_each(|part| sum.append(part));
            assert_eq!(sum.len(), records.len());
            assert_eq!(sum.behind(crc32c::crc32c(before)), crc32c::crc32c(&bytes[..end]), "{header} {end}");
        }
    }

    #[test]
    fn a_crc_of_any_length_from_anywhere_is_as_another_implementation_has_it() {
        let bytes: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect();
        for from in 0..16 {
            for len in (0..1100).chain([4095, 4096, 4097]) {
                let (bytes, before) = (&bytes[from..from + len], 0x1234_5678 << (len % 8));
                assert_eq!(append(before, bytes), crc32c::crc32c_append(before, bytes), "{from} {len}");
            }
        }
    }

    #[test]
    fn a_crc_is_carried_over_any_length_as_another_implementation_does_it() {
        for len in [1, 255, 256, 65_535, 65_536, 0x0102_0304, 0x7fff_ffff] {
            assert_eq!(carried_over(0xdead_beef, len), crc32c::crc32c_combine(0xdead_beef, 0, len), "{len}");
        }
    }
}
