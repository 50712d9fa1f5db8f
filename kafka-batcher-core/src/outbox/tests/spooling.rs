//! The spool's rules one by one: the test plays broker and storage by hand.

use super::*;
use crate::batch::tests::DECODED;
use crate::spool::{Backlog, ClusterId, Numbers, Origin, ReadBack, Stored, ToSave};
use crate::{SpoolMode, SpoolSettings, StorageError};

pub(super) const AFTER: Duration = Duration::from_secs(5);

/// An outbox with a spool, and what it asked for.
pub(super) struct Desk {
    pub(super) bench: Bench,
    pub(super) next_position: u64,
}

/// What one round of polling led to; the storage has not answered.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) sent: Vec<Sent>,
    pub(super) saves: Vec<(u64, Vec<ToSave>)>,
    pub(super) renumbers: Vec<(u64, Vec<crate::Renumbered>)>,
    pub(super) reads: Vec<(u64, u64)>,
    pub(super) rejects: Vec<(u64, usize)>,
    pub(super) drops: Vec<(u64, std::ops::Range<u64>)>,
    pub(super) commits: Vec<(u64, Option<u64>)>,
    pub(super) identities: usize,
}

impl Desk {
    pub(super) fn new(mode: SpoolMode) -> Self {
        let spool = Some(SpoolSettings::new(mode, AFTER));
        let mut bench = Bench::with(OutboxSettings { spool, ..settings() });
        bench.outbox.on_cluster(cluster());
        Desk { bench, next_position: 0 }
    }

    /// With so many batches of two events on disk, left by an earlier process under its numbers, or under none.
    pub(super) fn with_backlog(batches: u64) -> Self {
        let mut desk = Desk::new(SpoolMode::OnFailure);
        desk.bench.outbox.on_recovered(Backlog {
            events: 2 * batches,
            batches,
            first: 10,
            ..Backlog::default()
        });
        desk
    }

    pub(super) fn poll(&mut self) -> Asked {
        let mut asked = Asked::default();
        let Bench { outbox, now, unix_ms, leader, next_id, .. } = &mut self.bench;
        for _ in 0..50 {
            match outbox.poll_action(Some(*leader), *now, *unix_ms) {
                Action::Produce { ticket, batch, .. } => asked.sent.push(Sent { ticket, batch }),
                Action::InitProducerId { .. } => {
                    asked.identities += 1;
                    outbox.on_identity(ProducerIdentity { id: *next_id, epoch: 0 });
                    *next_id += 1;
                }
                Action::Save { ticket, batches } => asked.saves.push((ticket, batches)),
                Action::Renumber { ticket, numbers } => asked.renumbers.push((ticket, numbers)),
                Action::Read { ticket, from, .. } => asked.reads.push((ticket, from)),
                Action::Reject { ticket, letters } => asked.rejects.push((ticket, letters.len())),
                Action::Commit { through, ticket } => asked.commits.push((through, ticket)),
                Action::AskRetention => outbox.on_retention(None),
                Action::Drop { ticket, from, through } => asked.drops.push((ticket, from..through)),
                Action::Describe { .. } => {}
                Action::Wait { .. } => return asked,
            }
        }
        panic!("it spins: {asked:?}");
    }

    /// The storage has saved what it was asked to.
    pub(super) fn saved(&mut self, asked: &Asked) {
        for (ticket, batches) in &asked.saves {
            let mut positions = Vec::new();
            for saved in batches {
                positions.push(self.next_position);
                self.next_position += u64::from(saved.batch.count());
            }
            self.bench.outbox.on_saved(*ticket, Ok(positions), self.bench.now);
        }
    }

    pub(super) fn renumbered(&mut self, asked: &Asked) {
        for (ticket, _) in &asked.renumbers {
            self.bench.outbox.on_renumbered(*ticket, Ok(()), self.bench.now);
        }
    }

    /// Answers a read with batches of two events from there on.
    pub(super) fn read(&mut self, asked: &Asked, batches: u64, numbers: Option<(i64, i16, i32)>) {
        let [(ticket, from)] = asked.reads[..] else { panic!("one read: {asked:?}") };
        let stored = (0..batches).map(|n| Stored {
            position: from + 2 * n,
            batch: batch(2, self.bench.unix_ms),
            numbers: numbers.map(|(producer_id, epoch, first)| Numbers {
                stamp: Stamp { producer_id, epoch, first_sequence: first + 2 * n as i32 },
                origin: Origin { cluster: Some(cluster()), topic: self.bench.leader.topic_id },
            }),
            saved_ms: 0,
        });
        let back = ReadBack { batches: stored.collect(), next: from + 2 * batches, damage: Vec::new() };
        self.bench.outbox.on_read(ticket, Ok(back), self.bench.now);
    }

    pub(super) fn tally(&self) -> Tally {
        self.bench.outbox.tally()
    }
}

fn cluster() -> ClusterId {
    ClusterId("here".into())
}

#[test]
fn a_batch_that_comes_in_would_overtake_what_is_on_disk() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(2);
    let first = desk.poll();
    assert!(first.saves.is_empty() && first.sent.len() == 1, "{first:?}");
    desk.bench.lose(&first.sent[0]);
    assert!(desk.poll().saves.is_empty(), "a moment of trouble is no reason to spill");
    desk.bench.now = desk.bench.now + AFTER;
    let away = desk.poll();
    assert_eq!(away.saves.len(), 1);
    desk.saved(&away);
    desk.bench.lose(&away.sent[0]);
    desk.poll();
    assert_eq!((desk.tally().spooled, desk.tally().in_memory), (2, 0));
    for _ in 0..9 {
        desk.bench.seal(1);
        let newer = desk.poll();
        assert!(newer.sent.is_empty(), "{newer:?}");
        desk.saved(&newer);
    }
    desk.bench.sleep();
    let probe = desk.poll();
    assert_eq!(probe.reads.len(), 1, "{probe:?}");
    assert!(probe.sent.is_empty());
}

#[test]
fn a_late_acknowledgement_of_what_was_saved_meanwhile_is_a_delivery_and_a_commit() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(3);
    let first = desk.poll();
    desk.bench.now = desk.bench.now + AFTER;
    let away = desk.poll();
    desk.saved(&away);
    assert_eq!(desk.tally().in_flight, 3, "its request is not answered yet");
    desk.bench.ack(&first.sent[0], 0);
    let after = desk.poll();
    assert_eq!((after.commits, desk.tally().delivered), (vec![(3, None)], 3));
}

#[test]
fn new_numbers_that_only_memory_knew_would_be_given_to_other_events_after_a_crash() {
    let mut desk = Desk::with_backlog(2);
    let asked = desk.poll();
    desk.read(&asked, 2, None);
    let asked = desk.poll();
    assert!(asked.sent.is_empty(), "{asked:?}");
    let [(_, numbers)] = &asked.renumbers[..] else { panic!("{asked:?}") };
    assert_eq!(
        numbers.iter().map(|n| (n.position, n.numbers.stamp.first_sequence)).collect::<Vec<_>>(),
        [(10, 0), (12, 2)]
    );
    desk.renumbered(&asked);
    assert_eq!(desk.poll().sent.len(), 1, "one, until the run is established");
}

#[test]
fn late_requests_of_a_killed_process_would_be_written_twice_if_its_numbers_changed() {
    let mut desk = Desk::with_backlog(3);
    let asked = desk.poll();
    desk.read(&asked, 3, Some((7, 2, 40)));
    let asked = desk.poll();
    assert_eq!((asked.identities, asked.renumbers.len()), (0, 0));
    assert_eq!(asked.sent[0].numbers(), (7, 2, 40, 2));
    desk.bench.ack(&asked.sent[0], 0);
    let rest: Vec<_> = desk.poll().sent.iter().map(Sent::numbers).collect();
    assert_eq!(rest, [(7, 2, 42, 2), (7, 2, 44, 2)]);
}

#[test]
fn an_event_of_ours_in_a_run_of_another_process_would_share_its_numbers_with_a_copied_spool() {
    let mut desk = Desk::with_backlog(1);
    let asked = desk.poll();
    desk.read(&asked, 1, Some((7, 2, 40)));
    let asked = desk.poll();
    desk.bench.seal(1);
    desk.bench.ack(&asked.sent[0], 0);
    let asked = desk.poll();
    // The end of that run is durable first: sent again behind ours, it could only be refused.
    let Some((12, Some(ticket))) = asked.commits.last().copied() else { panic!("{asked:?}") };
    assert!(asked.sent.is_empty() && asked.identities == 0);
    desk.bench.outbox.on_committed(ticket, Ok(()), desk.bench.now);
    let asked = desk.poll();
    assert_eq!((asked.identities, asked.sent[0].numbers()), (1, (100, 0, 0, 1)));
}

#[test]
fn a_batch_whose_proof_lies_further_down_the_disk_would_be_in_doubt_for_ever() {
    let mut desk = Desk::with_backlog(20);
    let asked = desk.poll();
    desk.read(&asked, 10, Some((7, 0, 0)));
    let asked = desk.poll();
    // All of it was delivered, and the commits were lost: the broker knows only the last batch.
    desk.bench.refuse(&asked.sent[0], 45);
    desk.poll();
    desk.bench.knows(0, 39);
    let asked = desk.poll();
    desk.read(&asked, 10, Some((7, 0, 20)));
    let asked = desk.poll();
    assert_eq!(asked.sent[0].numbers(), (7, 0, 38, 2), "the batch that ends there proves all before it");
    desk.bench.ack(&asked.sent[0], 38);
    desk.poll();
    let tally = desk.tally();
    assert_eq!((tally.delivered, tally.proven, tally.possible_duplicates, tally.spooled), (40, 38, 0, 0));
}

/// A backlog of 20 batches of two, all of them delivered by an earlier process whose commits were lost, and a broker that may
/// not be asked: each of the first 19 has been tried. What goes out then.
fn stepped() -> (Desk, Asked) {
    let mut desk = Desk::with_backlog(20);
    let asked = desk.poll();
    desk.read(&asked, 10, Some((7, 0, 0)));
    let asked = desk.poll();
    desk.bench.refuse(&asked.sent[0], 45);
    desk.poll();
    desk.bench.describe(ProducerState::Unanswerable);
    let mut asked = desk.poll();
    for tried in 1..19 {
        let [ref one] = asked.sent[..] else { panic!("{tried}: {asked:?}") };
        desk.bench.refuse(one, 45);
        asked = desk.poll();
        if tried == 9 {
            desk.read(&asked, 10, Some((7, 0, 20)));
            asked = desk.poll();
        }
    }
    assert_eq!(asked.sent[0].numbers(), (7, 0, 38, 2));
    (desk, asked)
}

#[test]
fn what_a_broker_that_cannot_be_asked_has_would_be_sent_again_if_nobody_looked_further_down_the_disk() {
    let (mut desk, asked) = stepped();
    desk.bench.ack(&asked.sent[0], 38);
    desk.poll();
    let tally = desk.tally();
    assert_eq!((tally.delivered, tally.proven, tally.possible_duplicates, tally.spooled), (40, 38, 0, 0));
}

#[test]
fn what_is_not_taken_down_to_the_end_of_its_run_gets_new_numbers_from_its_beginning() {
    let (mut desk, asked) = stepped();
    desk.bench.refuse(&asked.sent[0], 45);
    let asked = desk.poll();
    assert!(asked.sent.is_empty(), "{asked:?}");
    let [(_, from)] = asked.reads[..] else { panic!("{asked:?}") };
    assert_eq!(from, 10, "where the backlog begins");
}

#[test]
fn with_write_ahead_a_batch_sent_before_it_is_on_disk_would_be_lost_or_doubled_by_a_kill() {
    let mut desk = Desk::new(SpoolMode::Always);
    desk.bench.seal(2);
    let asked = desk.poll();
    assert!(asked.sent.is_empty() && asked.saves.len() == 1, "{asked:?}");
    desk.saved(&asked);
    let asked = desk.poll();
    desk.renumbered(&asked);
    let asked = desk.poll();
    desk.bench.ack(&asked.sent[0], 0);
    // From the first acknowledgement on numbers are given before it is saved: one write, not two.
    desk.bench.seal(2);
    let asked = desk.poll();
    assert!(asked.saves[0].1[0].numbers.is_some() && asked.renumbers.is_empty(), "{asked:?}");
    // A kill would leave in Kafka what is not on disk; what is on disk could not be proven by it, and would come twice.
    assert!(asked.sent.is_empty(), "{asked:?}");
    desk.saved(&asked);
    assert_eq!(desk.poll().sent.len(), 1);
}

#[test]
fn with_write_ahead_a_disk_that_fails_does_not_stop_deliveries() {
    let mut desk = Desk::new(SpoolMode::Always);
    desk.bench.seal(2);
    let asked = desk.poll();
    let error = StorageError::Failed("the disk is bad".to_owned());
    desk.bench.outbox.on_saved(asked.saves[0].0, Err(error), desk.bench.now);
    let asked = desk.poll();
    assert_eq!(asked.sent.len(), 1);
    let told = desk.bench.events();
    assert!(matches!(told[..], [OutboxEvent::SpoolTroubled { .. }]), "{told:?}");
}

#[test]
fn what_follows_a_poisoned_event_would_be_sent_again_before_it_if_the_hole_were_forgotten() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(1);
    let asked = desk.poll();
    desk.bench.refuse_records(&asked.sent[0], 87, &[0]);
    desk.bench.seal(1);
    let asked = desk.poll();
    assert!(asked.sent.is_empty(), "{asked:?}");
    let [(ticket, 1)] = asked.rejects[..] else { panic!("{asked:?}") };
    assert_eq!(desk.tally().dead_lettered, 0, "not before it is durable");
    desk.bench.outbox.on_rejected(ticket, Ok(()), desk.bench.now);
    assert_eq!(desk.poll().sent[0].numbers(), (100, 1, 0, 1), "a new run behind the hole");
    assert_eq!((desk.tally().dead_lettered, desk.tally().lost), (1, 0));
}

#[test]
fn numbers_of_another_cluster_would_be_somebody_elses_here() {
    let mut desk = Desk::with_backlog(1);
    let asked = desk.poll();
    desk.bench.outbox.on_cluster(ClusterId("elsewhere".into()));
    desk.read(&asked, 1, Some((7, 2, 40)));
    let asked = desk.poll();
    assert!(asked.sent.is_empty() && asked.renumbers.is_empty(), "{asked:?}");
    assert!(matches!(desk.bench.troubles()[..], [Trouble::OtherCluster { .. }]));
}

#[test]
fn at_the_end_everything_goes_to_disk_what_is_in_flight_too() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(2);
    desk.bench.seal(3);
    let flying = desk.poll();
    assert_eq!(flying.sent.len(), 1);
    desk.bench.outbox.close();
    desk.bench.outbox.spill();
    let asked = desk.poll();
    let [(_, batches)] = &asked.saves[..] else { panic!("{asked:?}") };
    assert!(batches[0].numbers.is_some() && batches[1].numbers.is_none());
    assert!(!desk.bench.outbox.is_empty());
    desk.saved(&asked);
    desk.poll();
    assert!(desk.bench.outbox.is_empty());
    assert_eq!((desk.tally().spooled, desk.tally().in_flight, desk.tally().lost), (5, 0, 0));
}

#[test]
fn every_other_event_of_a_saved_batch_is_cut_out_and_the_batch_is_decoded_once() {
    // It was split once for each culprit: of 2 000 events 1 000 times, on a worker of the runtime.
    const EVENTS: u32 = 200;
    let mut desk = Desk::new(SpoolMode::OnFailure);
    let (events, batches, first) = (EVENTS.into(), 1, 10);
    desk.bench.outbox.on_recovered(Backlog { events, batches, first, ..Backlog::default() });
    let asked = desk.poll();
    let stored =
        Stored { position: first, batch: batch(EVENTS, desk.bench.unix_ms), numbers: None, saved_ms: 0 };
    let back = ReadBack { batches: vec![stored], next: first + events, damage: Vec::new() };
    desk.bench.outbox.on_read(asked.reads[0].0, Ok(back), desk.bench.now);
    let asked = desk.poll();
    desk.renumbered(&asked);
    let sent = desk.poll().sent;
    let culprits: Vec<u32> = (0..EVENTS).step_by(2).collect();
    let before = DECODED.get();
    desk.bench.refuse_records(&sent[0], 87, &culprits);
    assert_eq!(desk.poll().rejects[0].1, culprits.len());
    assert_eq!(DECODED.get() - before, EVENTS);
}

#[test]
fn a_leader_that_answers_nothing_would_keep_from_the_disk_what_waits_for_it() {
    for mode in [SpoolMode::OnFailure, SpoolMode::Always] {
        let mut desk = Desk::new(mode);
        desk.bench.seal(2);
        desk.bench.now = desk.bench.now + Duration::from_millis(1);
        let mut held = |now: Time| {
            let Bench { outbox, unix_ms, leader, .. } = &mut desk.bench;
            outbox.poll_action_without_requests(Some(*leader), now, *unix_ms)
        };
        let sealed = Time::from_millis(1_001);
        if mode == SpoolMode::OnFailure {
            let Action::Wait { until: Some(until) } = held(sealed) else { panic!("it has a deadline") };
            assert_eq!(until, sealed + AFTER);
        }
        let action = held(sealed + AFTER);
        assert!(matches!(action, Action::Save { .. }), "{action:?}");
        let action = held(sealed + AFTER);
        assert!(matches!(action, Action::Wait { .. }), "no request may go: {action:?}");
    }
}

/// The answer had a batch that was saved behind the gap a moment ago, and damage in the gap: the batch was taken in the place of
/// the damaged events, which nobody missed, and was sent twice.
#[test]
fn what_is_damaged_would_be_made_good_by_what_was_saved_behind_it() {
    for answered in [true, false] {
        let mut desk = Desk::with_backlog(8);
        desk.next_position = 26;
        let reading = desk.poll();
        desk.bench.seal(2);
        let saving = desk.poll();
        assert_eq!((saving.saves.len(), reading.reads.len()), (1, 1));
        if answered {
            desk.saved(&saving);
            desk.bench.seal(2);
        }
        // Two events of the first batch are gone; the others, and what was just saved, are whole.
        let stored = |n: u64| Stored { position: 10 + 2 * n, batch: batch(2, 0), numbers: None, saved_ms: 0 };
        let back =
            ReadBack { batches: (1..9).map(stored).collect(), next: 28, damage: vec![(2, "gone".into())] };
        desk.bench.outbox.on_read(reading.reads[0].0, Ok(back), desk.bench.now);
        if !answered {
            desk.saved(&saving);
        }
        let lost = desk.bench.events().into_iter().filter_map(|event| match event {
            OutboxEvent::Damaged { events, .. } => Some(events),
            _ => None,
        });
        assert_eq!(lost.collect::<Vec<_>>(), [2], "answered: {answered}");
        let Tally { accepted, recovered, spooled, in_memory, lost, .. } = desk.tally();
        assert_eq!(lost, 2);
        assert_eq!(accepted + recovered, spooled + in_memory + lost, "answered: {answered}");
        // What is in memory of the batch is there once.
        let _ = desk.poll();
        let again = desk.bench.outbox.replay_bytes() / batch(2, 0).encoded_len();
        assert_eq!(again, if answered { 8 } else { 7 }, "answered: {answered}");
    }
}
