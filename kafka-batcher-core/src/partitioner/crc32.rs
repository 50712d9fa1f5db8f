//! CRC-32 of zlib (IEEE 802.3, reflected polynomial 0xEDB88320), which librdkafka partitions with.
//!
//! Not to be mixed up with CRC-32C, which seals record batches. A byte-wise table: keys are short, and 1 KiB of
//! table leaves the cache to the events.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

pub(super) fn crc32(data: &[u8]) -> u32 {
    // The index is a byte and the table has 256 entries, so the access is always inside.
    !data.iter().fold(!0u32, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}
