//! A disk of a few MiB, really full, between a batcher and a broker: nothing is lost, callers wait, and all of it arrives.

use kafka_batcher::{
    AddError, Collector, DiskSettings, Header, NotificationKind, Receipt, Record, SpoolMode,
};

use crate::support::{outcome, ready};
use crate::{LONG, Site, TOPIC};

/// Sends until the disk is full, then until the memory is; answers the receipts.
async fn fill(site: &mut Site, collector: &Collector) -> Vec<(u32, Receipt)> {
    let padding = vec![b'x'; 2_000];
    let mut receipts = Vec::new();
    loop {
        let (key, value) = (format!("key-{}", site.sent % 7), site.sent.to_string());
        let headers = [Header { name: "padding", value: Some(&padding) }];
        let record = Record { headers: &headers, ..Record::keyed(&key, &value) };
        match collector.try_send(record) {
            Ok(receipt) => receipts.push((site.sent, receipt)),
            Err(AddError::Full { .. }) => {
                // What was too much at once is tried again in parts.
                let durable =
                    receipts.iter().any(|(_, receipt): &(u32, Receipt)| receipt.try_durable().is_some());
                if durable && !site.full_episodes().1 {
                    return receipts;
                }
                tokio::task::yield_now().await;
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        site.sent += 1;
    }
}

impl Site {
    /// How often it was told that the disk takes nothing, and whether it takes something again.
    fn full_episodes(&self) -> (usize, bool) {
        let (mut episodes, mut works) = (0, true);
        for told in self.told.0.lock().unwrap().iter() {
            match told.kind {
                NotificationKind::SpoolError => {
                    assert!(std::mem::take(&mut works), "told twice: {:?}", told);
                    episodes += 1;
                }
                NotificationKind::Recovered if told.message.contains("the spool works again") => {
                    works = true;
                }
                _ => {}
            }
        }
        (episodes, works)
    }
}

/// `KAFKA_BATCHER_SMALL_DISK` names a directory on such a disk (`mount -t tmpfs -o size=4m tmpfs DIR`); `.ci/run` mounts one.
#[tokio::test]
#[ignore = "needs a disk of a few MiB, see KAFKA_BATCHER_SMALL_DISK"]
async fn what_a_really_full_disk_does_not_take_stays_in_memory_and_all_of_it_arrives_once_and_in_order() {
    let base =
        std::env::var_os("KAFKA_BATCHER_SMALL_DISK").expect("KAFKA_BATCHER_SMALL_DISK names a directory");
    for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
        let mut site = Site::new(mode);
        let dir = tempfile::tempdir_in(&base).expect("a directory");
        let mut disk = DiskSettings::new(dir.path());
        (disk.min_free_bytes, disk.reserve_bytes, disk.segment_bytes) = (Some(0), 256 << 10, 1 << 20);
        let builder = site.settings().spool_with(disk).settings(|s| s.memory = 8 << 20);
        let batcher = builder.start().await.expect("it starts");
        let collector = batcher.collector(TOPIC).build().expect("the collector starts");
        ready(&batcher, TOPIC).await;
        // Twice: what was settled has made room.
        for round in 1..=2 {
            site.stop_kafka();
            let receipts = fill(&mut site, &collector).await;
            let report = batcher.report().await;
            println!("{mode:?}, round {round}: {} events, {report:?}", receipts.len());
            let durable = receipts.iter().filter(|(_, receipt)| receipt.try_durable().is_some()).count();
            assert!(durable > 0 && receipts.len() > durable, "{durable} of {}", receipts.len());
            assert!(report.balances() && report.lost + report.dead_lettered == 0, "{report:?}");
            let full = |told: &kafka_batcher::Notification| told.message.contains("No space left on device");
            assert!(site.told.0.lock().unwrap().iter().any(full), "{:?}", site.told.0);
            // What is drained makes room, which may be filled again before all of it is over: it is told again then.
            assert!(site.full_episodes().0 >= 1);
            // One more waits for memory, and sees no error.
            let (more, number) = (collector.clone(), site.sent);
            site.sent += 1;
            let waiting = tokio::spawn(async move {
                more.send((&format!("key-{}", number % 7), &number.to_string())).await.expect("accepted")
            });
            site.start_kafka();
            let last = waiting.await.expect("it was accepted");
            for (number, receipt) in receipts.iter().chain([&(number, last)]) {
                outcome(receipt).await.expect("it is delivered");
                site.durable.push(*number);
            }
            site.drained(&batcher).await;
        }
        let report = batcher.shutdown(LONG).await;
        assert!(report.all_delivered() && report.balances(), "{report:?}");
        assert_eq!((report.possible_duplicates, report.reorderings), (0, 0), "{report:?}");
        site.check();
    }
}
