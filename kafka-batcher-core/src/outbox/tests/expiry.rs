//! What goes because of its age or for want of room, and what never does.

use std::time::Duration;

use super::spooling::Desk;
use super::*;
use crate::FailureReason;
use crate::outbox::{OnFull, SpoolMode, SpoolSettings};
use crate::spool::{Backlog, ClusterId, ReadBack, StorageError, Stored};

const TIMEOUT: Duration = Duration::from_secs(16);
/// Ages within a batch that do not matter.
const GRAIN: Duration = Duration::from_secs(1);

/// Without a spool.
fn expiring() -> Bench {
    Bench::with(OutboxSettings { delivery_timeout: Some(TIMEOUT), ..settings() })
}

impl Bench {
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.unix_ms += time.as_millis() as i64;
    }

    /// Events that failed, by the reason.
    fn failed(&mut self) -> Vec<(FailureReason, u32)> {
        let failed = |event| match event {
            OutboxEvent::Failed { batch, error, .. } => Some((error.reason, batch.count())),
            _ => None,
        };
        self.events().into_iter().filter_map(failed).collect()
    }
}

#[test]
fn an_event_that_is_too_old_is_not_sent_but_fails_and_those_behind_it_begin_a_new_run() {
    let mut bench = expiring();
    bench.seal(1);
    let sent = bench.one();
    bench.ack(&sent, 0);
    bench.seal(2);
    let refused = bench.one();
    bench.refuse(&refused, 19);
    bench.pass(TIMEOUT);
    bench.seal(3);
    bench.pass(GRAIN);
    assert_eq!(bench.one().numbers(), (100, 1, 0, 3));
    assert_eq!(bench.failed(), [(FailureReason::Expired, 2)]);
    assert_eq!(bench.outbox.tally().lost, 2);
}

#[test]
fn while_nobody_leads_the_outbox_asks_to_be_woken_for_an_event_that_becomes_too_old() {
    let mut bench = expiring();
    bench.seal(1);
    let sealed = bench.now;
    // First it wants to say that nobody leads.
    let _ = bench.outbox.poll_action(None, bench.now, bench.unix_ms);
    bench.pass(crate::outbox::LEADERLESS_FOR);
    let Action::Wait { until: Some(until) } = bench.outbox.poll_action(None, bench.now, bench.unix_ms) else {
        panic!("it waits for its event to be too old");
    };
    assert_eq!(until.since(sealed), TIMEOUT + GRAIN);
    bench.pass(until.since(bench.now));
    assert!(matches!(bench.outbox.poll_action(None, bench.now, bench.unix_ms), Action::Wait { until: None }));
    assert_eq!(bench.failed(), [(FailureReason::Expired, 1)]);
}

/// An NTP step: everything in memory was too old at once, or stayed for hours.
#[test]
fn a_wall_clock_that_is_set_makes_nothing_in_memory_older_or_younger() {
    for step in [-3_600_000, 3_600_000] {
        let mut bench = expiring();
        bench.seal(2);
        let refused = bench.one();
        bench.refuse(&refused, 19);
        bench.seal(3);
        let _ = bench.outbox.poll_action(None, bench.now, bench.unix_ms);
        bench.unix_ms += step;
        bench.pass(TIMEOUT - GRAIN);
        let _ = bench.outbox.poll_action(None, bench.now, bench.unix_ms);
        assert_eq!(bench.failed(), [], "the clock was set by {step} ms");
        bench.pass(2 * GRAIN);
        let _ = bench.outbox.poll_action(None, bench.now, bench.unix_ms);
        let all = [(FailureReason::Expired, 2), (FailureReason::Expired, 3)];
        assert_eq!(bench.failed(), all, "the clock was set by {step} ms");
    }
}

#[test]
fn what_may_be_in_the_log_does_not_become_too_old() {
    let mut bench = expiring();
    bench.seal(1);
    let sent = bench.one();
    bench.lose(&sent);
    bench.pass(10 * TIMEOUT);
    let again = bench.one();
    assert_eq!(again.numbers(), sent.numbers());
    bench.ack(&again, 0);
    assert_eq!((bench.delivered(), bench.failed()), (1, vec![]));
}

/// The answer to the read had it as well: it was put aside twice, and counted twice (seed 780868).
#[test]
fn what_was_saved_behind_others_and_expires_while_they_are_read_is_put_aside_once() {
    let spool = Some(SpoolSettings::new(SpoolMode::OnFailure, 2 * TIMEOUT));
    let mut bench = Bench::with(OutboxSettings { delivery_timeout: Some(TIMEOUT), spool, ..settings() });
    bench.outbox.on_recovered(Backlog { events: 16, batches: 8, first: 10, ..Backlog::default() });
    let mut desk = Desk { bench, next_position: 26 };
    let reading = desk.poll();
    desk.bench.seal(2);
    let saving = desk.poll();
    assert_eq!(saving.saves.len(), 1);
    desk.saved(&saving);
    let saved_ms = desk.bench.unix_ms;
    // Nobody asks the outbox for anything until it is too old.
    desk.bench.pass(TIMEOUT + GRAIN);
    let mut rejects = desk.poll().rejects;
    desk.bench.seal(3);
    let saving = desk.poll();
    desk.saved(&saving);
    rejects.extend(desk.poll().rejects);
    let stored = |position, saved_ms| Stored { position, batch: batch(2, saved_ms), numbers: None, saved_ms };
    let found = (0..8).map(|n| stored(10 + 2 * n, 0));
    let batches = found.chain([stored(26, saved_ms)]).collect();
    let back = ReadBack { batches, next: 28, damage: Vec::new() };
    desk.bench.outbox.on_read(reading.reads[0].0, Ok(back), desk.bench.now);
    for _ in 0..2 {
        let now = desk.bench.now;
        rejects.drain(..).for_each(|(ticket, _)| desk.bench.outbox.on_rejected(ticket, Ok(()), now));
        rejects = desk.poll().rejects;
    }
    let Tally { accepted, recovered, spooled, in_memory, in_flight, dead_lettered, .. } = desk.tally();
    assert_eq!((accepted, recovered, dead_lettered), (5, 16, 2));
    assert_eq!(spooled + in_memory + in_flight, 19);
}

#[test]
fn of_a_batch_that_filled_for_long_only_the_old_events_go() {
    let mut bench = expiring();
    let start = bench.unix_ms;
    let mut encoder = Encoder::default();
    encoder.add_chunk(Chunk::unpooled(4_096));
    // One event every four seconds; the last one's time is the user's, and says nothing about its age.
    for n in 0..4 {
        let given = (n == 3).then_some(1);
        let record = Record { timestamp: given, ..Record::value("event") };
        let time = given.unwrap_or(start + 4_000 * n);
        let measured = Measured::of(&record).unwrap();
        let size = encoder.size_of_next(measured, time);
        encoder.append(&record, time, measured, size);
    }
    let opened = bench.now;
    bench.pass(Duration::from_secs(16));
    bench.outbox.on_sealed(encoder.seal().unwrap(), opened);
    bench.pass(Duration::from_secs(1));
    // 17, 13, 9 and about 5 seconds old.
    assert_eq!(bench.one().numbers().3, 3);
    assert_eq!(bench.failed(), [(FailureReason::Expired, 1)]);
}

#[test]
fn one_that_is_too_old_waits_until_nothing_is_in_flight_and_goes_then() {
    let mut bench = expiring();
    bench.seal(1);
    let sent = bench.one();
    bench.ack(&sent, 0);
    bench.seal(1);
    let flying = bench.one();
    bench.seal(1);
    bench.pass(TIMEOUT + GRAIN);
    assert!(bench.poll().sent.is_empty(), "a hole with something in flight before it");
    bench.ack(&flying, 1);
    assert!(bench.poll().sent.is_empty());
    assert_eq!((bench.delivered(), bench.failed()), (2, vec![(FailureReason::Expired, 1)]));
}

// ---- with a spool ------------------------------------------------------------------------------------------------------

fn spooling(change: impl FnOnce(&mut SpoolSettings)) -> Bench {
    let mut spool = SpoolSettings::new(SpoolMode::OnFailure, Duration::from_secs(1));
    change(&mut spool);
    let mut bench = Bench::with(OutboxSettings { spool: Some(spool), ..settings() });
    bench.outbox.on_cluster(ClusterId("here".into()));
    bench
}

/// With six batches of two events on disk, never sent, saved now.
fn with_backlog(change: impl FnOnce(&mut SpoolSettings)) -> Bench {
    let mut bench = spooling(change);
    let oldest_ms = bench.unix_ms;
    bench.outbox.on_recovered(Backlog { events: 12, batches: 6, bytes: 0, first: 0, oldest_ms });
    bench
}

/// The next action but hints, while nobody leads.
fn next(bench: &mut Bench) -> Action {
    loop {
        match bench.outbox.poll_action(None, bench.now, bench.unix_ms) {
            Action::Commit { .. } => {}
            action => return action,
        }
    }
}

/// Answers a read with two batches of two events, saved at this time; numbered if an earlier process may have sent them.
fn read(bench: &mut Bench, ticket: u64, from: u64, saved_ms: i64, sent: bool) {
    let origin = crate::Origin { cluster: Some(ClusterId("here".into())), topic: bench.leader.topic_id };
    let stored = |position: u64| Stored {
        position,
        batch: batch(2, bench.unix_ms),
        numbers: sent.then(|| crate::Numbers {
            stamp: crate::Stamp { producer_id: 50, epoch: 0, first_sequence: position as i32 },
            origin: origin.clone(),
        }),
        saved_ms,
    };
    let batches = vec![stored(from), stored(from + 2)];
    bench.outbox.on_read(ticket, Ok(ReadBack { batches, next: from + 4, damage: Vec::new() }), bench.now);
}

#[test]
fn what_is_older_than_max_age_is_dropped_although_nobody_leads_and_counted() {
    let mut bench = with_backlog(|spool| spool.max_age = Some(TIMEOUT));
    let saved = bench.unix_ms;
    let _ = next(&mut bench);
    bench.pass(TIMEOUT / 2);
    let Action::Wait { until: Some(until) } = next(&mut bench) else { panic!("it waits for the age") };
    assert_eq!(until.since(bench.now), TIMEOUT / 2);
    bench.pass(TIMEOUT / 2);
    let Action::Read { ticket, from: 0, .. } = next(&mut bench) else { panic!("it looks what is so old") };
    read(&mut bench, ticket, 0, saved, false);
    let Action::Drop { ticket, from: 0, through: 4 } = next(&mut bench) else { panic!("it is dropped") };
    assert_eq!(bench.outbox.tally().spooled, 12, "not yet gone");
    bench.outbox.on_rejected(ticket, Ok(()), bench.now);
    assert_eq!(bench.failed(), [(FailureReason::MaxAge, 2), (FailureReason::MaxAge, 2)]);
    let tally = bench.outbox.tally();
    assert_eq!((tally.lost, tally.spooled), (4, 8));
    // What follows is younger.
    let Action::Read { ticket, from: 4, .. } = next(&mut bench) else { panic!("it looks further") };
    let now = bench.unix_ms;
    read(&mut bench, ticket, 4, now, false);
    assert!(matches!(next(&mut bench), Action::Wait { until: Some(_) }));
    assert_eq!(bench.outbox.tally().spooled, 8);
}

#[test]
fn what_an_earlier_process_may_have_sent_is_not_dropped_and_not_looked_at_without_pause() {
    let mut bench = with_backlog(|spool| spool.max_age = Some(TIMEOUT));
    let saved = bench.unix_ms;
    bench.pass(2 * TIMEOUT);
    let Action::Read { ticket, from: 0, .. } = next(&mut bench) else { panic!("it looks what is so old") };
    read(&mut bench, ticket, 0, saved, true);
    for _ in 0..5 {
        let action = next(&mut bench);
        assert!(matches!(action, Action::Wait { until: Some(until) } if until > bench.now), "{action:?}");
    }
    assert_eq!(bench.failed(), []);
}

#[test]
fn a_full_disk_drops_the_oldest_and_saves_the_newest() {
    let mut bench = with_backlog(|spool| spool.on_full = OnFull::DropOldest);
    let saved = bench.unix_ms;
    bench.seal(1);
    let Action::Save { ticket, .. } = next(&mut bench) else { panic!("there is much on disk") };
    bench.outbox.on_saved(ticket, Err(StorageError::Full("full".to_owned())), bench.now);
    let Action::Read { ticket, from: 0, .. } = next(&mut bench) else { panic!("it looks for the oldest") };
    read(&mut bench, ticket, 0, saved, false);
    let Action::Drop { ticket, from: 0, through: 4 } = next(&mut bench) else { panic!("it makes room") };
    bench.outbox.on_rejected(ticket, Ok(()), bench.now);
    let Action::Read { ticket, from: 4, .. } = next(&mut bench) else { panic!("half of it") };
    read(&mut bench, ticket, 4, saved, false);
    let Action::Drop { ticket, from: 4, through: 6 } = next(&mut bench) else { panic!("half of it") };
    bench.outbox.on_rejected(ticket, Ok(()), bench.now);
    bench.pass(Duration::from_secs(2));
    assert!(matches!(next(&mut bench), Action::Save { .. }), "and tries again");
    let told = bench.events();
    assert!(!told.iter().any(|event| matches!(event, OutboxEvent::SpoolTroubled { .. })), "{told:?}");
    assert_eq!(bench.outbox.tally().lost, 6);
}

#[test]
fn room_for_another_partition_costs_this_one_at_most_half_of_what_it_has() {
    let mut bench = with_backlog(|spool| spool.on_full = OnFull::DropOldest);
    let saved = bench.unix_ms;
    let _ = next(&mut bench);
    assert!(bench.outbox.make_room(u64::MAX, 0, bench.now));
    let (mut from, mut lost) = (0, 0);
    loop {
        match next(&mut bench) {
            Action::Read { ticket, from, .. } => read(&mut bench, ticket, from, saved, false),
            Action::Drop { ticket, from: first, through } => {
                assert_eq!(first, from, "the oldest");
                (from, lost) = (through, lost + through - first);
                bench.outbox.on_rejected(ticket, Ok(()), bench.now);
            }
            Action::Wait { .. } => break,
            action => panic!("{action:?}"),
        }
    }
    assert_eq!((lost, bench.outbox.tally().spooled), (6, 6));
    assert!(!bench.outbox.make_room(u64::MAX, 6, bench.now), "its share stays");
}

#[test]
fn a_full_disk_on_which_nothing_can_be_dropped_is_told_and_left_alone_for_a_while() {
    let mut bench = with_backlog(|spool| spool.on_full = OnFull::DropOldest);
    let saved = bench.unix_ms;
    bench.seal(1);
    let Action::Save { ticket, .. } = next(&mut bench) else { panic!("there is much on disk") };
    bench.outbox.on_saved(ticket, Err(StorageError::Full("full".to_owned())), bench.now);
    let Action::Read { ticket, .. } = next(&mut bench) else { panic!("it looks for the oldest") };
    read(&mut bench, ticket, 0, saved, true);
    let action = next(&mut bench);
    assert!(matches!(action, Action::Wait { until: Some(until) } if until > bench.now), "{action:?}");
    let told = bench.events();
    assert!(told.iter().any(|event| matches!(event, OutboxEvent::NeedsRoom { .. })), "{told:?}");
    assert!(!bench.outbox.make_room(1, 0, bench.now), "it has just looked");
    bench.outbox.no_room_anywhere();
    bench.outbox.no_room_anywhere();
    let told = bench.events();
    assert!(matches!(told[..], [OutboxEvent::SpoolTroubled { full: true, .. }]), "{told:?}");
    assert_eq!(bench.outbox.tally().lost, 0);
}

#[test]
fn what_is_older_than_the_topic_keeps_events_is_held_until_the_topic_keeps_them_longer() {
    let mut bench = with_backlog(|_| {});
    let Action::Read { ticket, .. } = bench.outbox.poll_action(Some(bench.leader), bench.now, bench.unix_ms)
    else {
        panic!("it replays");
    };
    let saved = bench.unix_ms;
    read(&mut bench, ticket, 0, saved, false);
    bench.pass(Duration::from_secs(7_200));
    let ask = |bench: &mut Bench, retention| loop {
        match bench.outbox.poll_action(Some(bench.leader), bench.now, bench.unix_ms) {
            Action::AskRetention => bench.outbox.on_retention(retention),
            Action::Read { .. } | Action::Commit { .. } => {}
            action => return action,
        }
    };
    let action = ask(&mut bench, Some(Duration::from_secs(3_600)));
    assert!(matches!(action, Action::Wait { until: Some(_) }), "{action:?}");
    let held = bench.events().into_iter().find_map(|event| match event {
        OutboxEvent::Troubled(trouble) if trouble.needs_somebody() => Some(trouble.to_string()),
        _ => None,
    });
    assert!(held.expect("somebody is told").contains("2 h old, and the topic keeps events for 1 h"));
    bench.sleep();
    let action = ask(&mut bench, Some(Duration::from_secs(36_000)));
    assert!(matches!(action, Action::InitProducerId { .. }), "{action:?}");
}

// ---- the time -----------------------------------------------------------------------------------------------------------

/// Two events two hours old are refused for their time.
fn too_old(mode: OnExpiredTimestamp, times: &[Option<i64>]) -> (Bench, Sent) {
    let mut bench = Bench::with(OutboxSettings { on_expired_timestamp: mode, ..settings() });
    let old = bench.unix_ms - 7_200_000;
    let times: Vec<_> = times.iter().map(|time| time.map(|offset| old + offset)).collect();
    bench.outbox.on_sealed(batch_of(&times, old), bench.now);
    let sent = bench.one();
    bench.refuse(&sent, 32);
    (bench, sent)
}

#[test]
fn an_old_time_of_ours_becomes_now_under_new_numbers() {
    let (mut bench, sent) = too_old(OnExpiredTimestamp::RestampTime, &[None, None]);
    let again = bench.one();
    assert_eq!((sent.numbers(), again.numbers()), ((100, 0, 0, 2), (100, 1, 0, 2)));
    assert_eq!(again.batch.max_timestamp(), bench.unix_ms);
    let (decoded, _) = RecordBatch::decode(&again.batch.to_bytes()).unwrap();
    assert!(decoded.records().unwrap().iter().all(|record| record.timestamp == bench.unix_ms));
    // Refused again, it is not the age: somebody must look.
    bench.refuse(&again, 32);
    assert!(bench.poll().sent.is_empty());
    assert!(bench.outbox.trouble().is_some_and(Trouble::needs_somebody));
}

#[test]
fn a_time_that_the_user_gave_is_not_changed() {
    let (mut bench, _) = too_old(OnExpiredTimestamp::RestampTime, &[Some(5), None]);
    // Halves, until it is known whose time it is.
    let first = bench.one();
    assert_eq!(first.numbers(), (100, 0, 0, 1));
    bench.refuse(&first, 32);
    let second = bench.one();
    assert_eq!(bench.failed(), [(FailureReason::Rejected, 1)]);
    assert_eq!(second.numbers(), (100, 1, 0, 1));
    bench.refuse(&second, 32);
    assert_eq!(bench.one().batch.max_timestamp(), bench.unix_ms);
}

#[test]
fn an_old_time_of_ours_is_rejected_where_that_is_wanted_and_held_where_nothing_is_said() {
    let (mut bench, _) = too_old(OnExpiredTimestamp::DeadLetter, &[None]);
    assert!(bench.poll().sent.is_empty());
    assert_eq!(bench.failed(), [(FailureReason::Rejected, 1)]);
    let (mut bench, sent) = too_old(OnExpiredTimestamp::Hold, &[None]);
    assert!(bench.poll().sent.is_empty());
    bench.sleep();
    assert_eq!(bench.one().numbers(), sent.numbers());
}
