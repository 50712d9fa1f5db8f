//! A partition that nobody leads.

use std::time::Duration;

use super::*;
use crate::outbox::{LEADERLESS_FOR, SpoolMode, SpoolSettings};

fn told(bench: &mut Bench) -> Vec<String> {
    let told = |event| match event {
        OutboxEvent::Troubled(trouble) => Some(trouble.to_string()),
        OutboxEvent::Recovered => Some("recovered".to_owned()),
        _ => None,
    };
    bench.events().into_iter().filter_map(told).collect()
}

/// Without a spool nobody was ever told: the outbox waited without a time, and health() said that all was well.
#[test]
fn a_partition_that_nobody_leads_is_told_once_with_a_spool_and_without_and_so_is_its_end() {
    let after = Duration::from_secs(2);
    let with = OutboxSettings { spool: Some(SpoolSettings::new(SpoolMode::OnFailure, after)), ..settings() };
    for (settings, after) in [(settings(), LEADERLESS_FOR), (with, after)] {
        let mut bench = Bench::with(settings);
        // Nothing waits: nobody cares.
        let _ = bench.outbox.poll_action(None, bench.now, bench.unix_ms);
        bench.now = bench.now + Duration::from_secs(60);
        bench.seal(1);
        let Action::Wait { until: Some(until) } = bench.outbox.poll_action(None, bench.now, bench.unix_ms)
        else {
            panic!("it wants to be asked again")
        };
        assert_eq!(until.since(bench.now), after);
        assert_eq!(told(&mut bench), [""; 0]);
        for _ in 0..3 {
            bench.now = bench.now + after;
            let _ = bench.outbox.poll_action(None, bench.now, bench.unix_ms);
        }
        assert_eq!(told(&mut bench), [format!("no leader of it has been known for {after:?}")]);
        if bench.outbox.settings.spool.is_none() {
            let sent = bench.one();
            bench.ack(&sent, 0);
            assert_eq!(told(&mut bench), ["recovered"]);
        }
    }
}
