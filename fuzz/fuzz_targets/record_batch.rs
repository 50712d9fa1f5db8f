//! A record batch, from a disk or a network. What is accepted must be what an encoder could have written: it is written
//! again with the same bytes, and splitting it loses nothing.
#![no_main]

use kafka_batcher_core::{Chunk, RecordBatch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    check(&bytes);
    // Behind a CRC that is right lies what a fuzzer would never reach.
    if let Some(body) = bytes.get(21..) {
        let crc = crc32c::crc32c(body).to_be_bytes();
        bytes[17..21].copy_from_slice(&crc);
        check(&bytes);
    }
});

fn check(bytes: &[u8]) {
    let Ok((batch, taken)) = RecordBatch::decode(bytes) else { return };
    let (mut written, read) = (batch.to_bytes(), bytes[..taken].to_vec());
    // Base offset and leader epoch are places, not contents; they lie outside the CRC.
    written[..8].copy_from_slice(&read[..8]);
    written[12..16].copy_from_slice(&read[12..16]);
    assert_eq!(written, read);
    let records = batch.records().expect("what was accepted can be read");
    assert_eq!(records.len(), batch.count() as usize);
    if batch.count() > 1 {
        let at = batch.count() / 2;
        let (left, right) = batch.split(at, &mut Chunk::unpooled).expect("it can be split");
        assert_eq!((left.count(), right.count()), (at, batch.count() - at));
        for part in [left, right] {
            part.finish();
            RecordBatch::decode(&part.to_bytes()).expect("a part is a batch");
        }
    }
}
