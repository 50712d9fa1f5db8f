//! A storage that fails, or does not answer: what goes on all the same, what waits, what is told, and when that is over.

use super::spooling::{AFTER, Desk};
use super::*;
use crate::{SpoolMode, StorageError};

fn bad() -> StorageError {
    StorageError::Failed("the disk is bad".to_owned())
}

/// What was told of the storage: that it fails or is slow, or that it works again.
fn told(desk: &mut Desk) -> Vec<&'static str> {
    let word = |event: OutboxEvent| match event {
        OutboxEvent::SpoolTroubled { slow: true, .. } => Some("slow"),
        OutboxEvent::SpoolTroubled { .. } => Some("fails"),
        OutboxEvent::SpoolRecovered => Some("works"),
        _ => None,
    };
    desk.bench.events().into_iter().filter_map(word).collect()
}

/// With write-ahead, one batch delivered: the run is there, and what is saved has its numbers.
fn write_ahead() -> Desk {
    let mut desk = Desk::new(SpoolMode::Always);
    desk.bench.seal(2);
    let asked = desk.poll();
    desk.saved(&asked);
    let asked = desk.poll();
    desk.renumbered(&asked);
    let asked = desk.poll();
    desk.bench.ack(&asked.sent[0], 0);
    desk.poll();
    desk
}

#[test]
fn a_save_that_is_never_answered_would_stop_deliveries_while_kafka_is_well() {
    let mut desk = write_ahead();
    desk.bench.seal(2);
    let saving = desk.poll();
    assert!(saving.sent.is_empty() && saving.saves.len() == 1, "{saving:?}");
    desk.bench.events();
    desk.bench.now = desk.bench.now + AFTER + AFTER;
    desk.bench.outbox.on_storage_slow(saving.saves[0].0, desk.bench.now);
    let asked = desk.poll();
    let events = desk.bench.events();
    assert!(
        matches!(events[..], [OutboxEvent::SpoolTroubled { slow: true, .. }]),
        "Kafka is well: {events:?}"
    );
    let saved_as = saving.saves[0].1[0].numbers.as_ref().map(|numbers| numbers.stamp.first_sequence);
    assert_eq!(
        (asked.sent[0].numbers(), saved_as),
        ((100, 0, 2, 2), Some(2)),
        "under the numbers it is saved with"
    );
    // What comes in meanwhile is not saved: one save at a time.
    desk.bench.seal(3);
    let next = desk.poll();
    assert_eq!((next.sent[0].numbers(), next.saves.len()), ((100, 0, 4, 3), 0));
    desk.bench.ack(&asked.sent[0], 2);
    assert!(desk.poll().commits.is_empty(), "nothing of it is on disk yet");
    // What the disk takes at last is settled already, and it is told to forget it.
    desk.saved(&saving);
    assert_eq!(told(&mut desk), ["works"]);
    let asked = desk.poll();
    assert_eq!(asked.commits, [(4, None)], "{asked:?}");
    desk.saved(&asked);
    desk.bench.ack(&next.sent[0], 4);
    assert_eq!((desk.tally().delivered, desk.tally().possible_duplicates), (7, 0));
}

#[test]
fn what_is_being_saved_under_no_numbers_would_be_written_twice_after_a_crash_if_it_were_sent() {
    let mut desk = Desk::new(SpoolMode::Always);
    desk.bench.seal(2);
    let saving = desk.poll();
    assert!(saving.saves[0].1[0].numbers.is_none(), "there is no run yet");
    desk.bench.outbox.on_storage_slow(saving.saves[0].0, desk.bench.now);
    assert!(desk.poll().sent.is_empty());
    desk.saved(&saving);
    assert_eq!(desk.poll().renumbers.len(), 1);
}

#[test]
fn when_kafka_is_back_what_a_disk_that_hangs_was_to_save_is_sent_under_the_numbers_it_is_saved_with() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(1);
    let asked = desk.poll();
    desk.bench.ack(&asked.sent[0], 0);
    desk.bench.seal(2);
    let lost = desk.poll();
    desk.bench.lose(&lost.sent[0]);
    desk.bench.seal(3);
    desk.bench.now = desk.bench.now + AFTER;
    let away = desk.poll();
    let [(ticket, batches)] = &away.saves[..] else { panic!("{away:?}") };
    assert!(batches.iter().all(|saved| saved.numbers.is_some()), "{batches:?}");
    desk.bench.outbox.on_storage_slow(*ticket, desk.bench.now);
    desk.bench.sleep();
    let mut sent = away.sent;
    sent.append(&mut desk.poll().sent);
    // One that came in later is not being saved.
    desk.bench.seal(4);
    let mut firsts = Vec::new();
    while let Some(one) = (!sent.is_empty()).then(|| sent.remove(0)) {
        firsts.push(one.numbers().2);
        desk.bench.ack(&one, 0);
        sent.append(&mut desk.poll().sent);
    }
    assert_eq!(firsts, [1, 3, 6]);
    assert_eq!((desk.tally().delivered, desk.tally().possible_duplicates), (10, 0));
    assert_eq!(told(&mut desk), ["slow"]);
}

#[test]
fn a_commit_that_is_never_answered_would_keep_a_new_run_from_beginning() {
    let mut desk = Desk::with_backlog(1);
    let asked = desk.poll();
    desk.read(&asked, 1, Some((7, 2, 40)));
    let asked = desk.poll();
    desk.bench.seal(1);
    desk.bench.ack(&asked.sent[0], 0);
    let asked = desk.poll();
    let Some((_, Some(ticket))) = asked.commits.last().copied() else { panic!("{asked:?}") };
    assert!(asked.sent.is_empty() && desk.poll().sent.is_empty());
    desk.bench.outbox.on_storage_slow(ticket, desk.bench.now);
    assert_eq!(desk.poll().sent[0].numbers(), (100, 0, 0, 1));
}

#[test]
fn kafka_would_be_blamed_for_a_disk_that_does_not_answer() {
    let mut desk = write_ahead();
    desk.bench.events();
    desk.bench.seal(2);
    let saving = desk.poll();
    desk.bench.now = desk.bench.now + AFTER + AFTER;
    let saved = desk.poll();
    assert!(saved.saves.is_empty());
    desk.bench.now = desk.bench.now + AFTER + AFTER;
    desk.saved(&saving);
    assert_eq!(desk.poll().sent.len(), 1);
    let events = desk.bench.events();
    let blamed = |event: &OutboxEvent| matches!(event, OutboxEvent::Troubled(_) | OutboxEvent::Spooling);
    assert!(!events.iter().any(blamed), "{events:?}");
    // From now on it is Kafka's turn.
    desk.bench.now = desk.bench.now + AFTER;
    desk.poll();
    assert!(desk.bench.events().iter().any(blamed));
}

#[test]
fn a_poisoned_event_that_a_bad_disk_does_not_take_would_stop_the_partition_while_kafka_is_well() {
    for silent in [true, false] {
        let mut desk = Desk::new(SpoolMode::OnFailure);
        desk.bench.seal(1);
        let asked = desk.poll();
        desk.bench.refuse_records(&asked.sent[0], 87, &[0]);
        desk.bench.seal(1);
        let first = desk.poll();
        assert!(first.sent.is_empty(), "the dead letter is to be durable first: {first:?}");
        let [(ticket, 1)] = first.rejects[..] else { panic!("{first:?}") };
        match silent {
            true => desk.bench.outbox.on_storage_slow(ticket, desk.bench.now),
            false => desk.bench.outbox.on_rejected(ticket, Err(bad()), desk.bench.now),
        }
        let asked = desk.poll();
        assert_eq!(asked.sent[0].numbers(), (100, 1, 0, 1), "in a new run behind the hole");
        // The next one is poisoned, too, and no answer to what was asked before speaks of it.
        desk.bench.refuse_records(&asked.sent[0], 87, &[0]);
        desk.bench.seal(1);
        let asked = desk.poll();
        assert_eq!((asked.sent.len(), asked.rejects.len()), (1, 0), "{asked:?}");
        desk.bench.ack(&asked.sent[0], 0);
        let (tally, letters) = (desk.tally(), if silent { 1 } else { 2 });
        assert_eq!((tally.in_memory, tally.dead_lettered, tally.delivered), (2, 0, 1));
        let ticket = if silent {
            ticket
        } else {
            desk.bench.sleep();
            let again = desk.poll();
            let [(ticket, 2)] = again.rejects[..] else { panic!("{again:?}") };
            ticket
        };
        desk.bench.outbox.on_rejected(ticket, Ok(()), desk.bench.now);
        assert_eq!((desk.tally().in_memory, desk.tally().dead_lettered), (2 - letters, letters));
        assert_eq!(desk.poll().rejects.len() as u64, 2 - letters);
    }
}

#[test]
fn a_full_disk_would_be_told_again_and_again_if_every_success_were_the_end_of_it() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(2);
    let lost = desk.poll();
    desk.bench.now = desk.bench.now + AFTER;
    let asked = desk.poll();
    desk.saved(&asked);
    desk.bench.lose(&lost.sent[0]);
    desk.poll();
    desk.bench.seal(2);
    let asked = desk.poll();
    let full = StorageError::Full("the disk is full".to_owned());
    desk.bench.outbox.on_saved(asked.saves[0].0, Err(full.clone()), desk.bench.now);
    assert_eq!(told(&mut desk), ["fails"]);
    // What is there is read: that works.
    desk.bench.sleep();
    let asked = desk.poll();
    desk.bench.outbox.on_saved(asked.saves[0].0, Err(full), desk.bench.now);
    desk.read(&asked, 1, Some((100, 0, 0)));
    let probe = desk.poll();
    assert_eq!((probe.sent.len(), told(&mut desk).len()), (1, 0), "{probe:?}");
    desk.bench.sleep();
    let asked = desk.poll();
    desk.saved(&asked);
    assert_eq!(told(&mut desk), ["works"]);
}

/// The probe's state is that of a Kafka that is well, until it is answered.
#[test]
fn a_disk_that_fails_would_be_told_again_after_every_probe_of_a_kafka_that_is_away() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(2);
    let mut flying = desk.poll().sent;
    for _ in 0..5 {
        desk.bench.now = desk.bench.now + AFTER;
        let asked = desk.poll();
        asked.saves.iter().for_each(|(ticket, _)| {
            desk.bench.outbox.on_saved(*ticket, Err(bad()), desk.bench.now);
        });
        flying.extend(asked.sent);
        flying.drain(..).for_each(|sent| desk.bench.lose(&sent));
        flying.extend(desk.poll().sent);
    }
    assert_eq!(told(&mut desk), ["fails"]);
}

#[test]
fn a_full_disk_that_nobody_needs_any_more_is_no_trouble() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(2);
    let asked = desk.poll();
    desk.bench.now = desk.bench.now + AFTER;
    let away = desk.poll();
    desk.bench.outbox.on_saved(away.saves[0].0, Err(bad()), desk.bench.now);
    desk.bench.ack(&asked.sent[0], 0);
    desk.poll();
    assert_eq!(told(&mut desk), ["fails", "works"]);
}

#[test]
fn what_is_being_saved_when_all_is_given_up_is_not_said_to_be_lost_for_certain() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(2);
    desk.bench.outbox.close();
    desk.bench.outbox.spill();
    let asked = desk.poll();
    assert_eq!(asked.saves.len(), 1);
    desk.bench.seal(1);
    desk.bench.outbox.abandon();
    let mut persisted = Vec::new();
    for event in desk.bench.events() {
        if let OutboxEvent::Failed { batch, error, .. } = event {
            persisted.push((batch.count(), error.persisted));
        }
    }
    assert_eq!(persisted, [(2, crate::Persisted::Maybe), (1, crate::Persisted::No)]);
    assert_eq!((desk.tally().in_doubt, desk.tally().lost), (2, 1));
}

#[test]
fn a_dead_letter_that_is_never_put_aside_would_keep_everything_from_the_disk_when_kafka_goes_away() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    desk.bench.seal(1);
    let asked = desk.poll();
    desk.bench.refuse_records(&asked.sent[0], 87, &[0]);
    let asked = desk.poll();
    desk.bench.outbox.on_storage_slow(asked.rejects[0].0, desk.bench.now);
    desk.bench.seal(1);
    let asked = desk.poll();
    desk.bench.lose(&asked.sent[0]);
    let Bench { outbox, now, unix_ms, .. } = &mut desk.bench;
    let waits = outbox.poll_action(None, *now, *unix_ms);
    assert!(matches!(waits, Action::Wait { .. }), "{waits:?}");
    *now = *now + AFTER;
    let action = outbox.poll_action(None, *now, *unix_ms);
    assert!(matches!(action, Action::Save { .. }), "nobody leads: {action:?}");
}

#[test]
fn one_run_more_for_every_hole_would_be_kept_in_mind_for_ever() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    for _ in 0..50 {
        desk.bench.seal(1);
        let asked = desk.poll();
        desk.bench.refuse_records(&asked.sent[0], 87, &[0]);
        let asked = desk.poll();
        desk.bench.outbox.on_rejected(asked.rejects[0].0, Ok(()), desk.bench.now);
    }
    assert!(desk.bench.outbox.known_runs() <= 2, "{}", desk.bench.outbox.known_runs());
}

#[test]
fn what_is_on_disk_would_be_given_up_for_a_socket_that_took_it() {
    let spool = Some(crate::SpoolSettings::new(SpoolMode::OnFailure, AFTER));
    let settings = OutboxSettings { spool, idempotent: false, required_acks: 0, ..settings() };
    let mut desk = Desk { bench: Bench::with(settings), next_position: 0 };
    desk.bench.seal(2);
    let first = desk.poll();
    desk.bench.now = desk.bench.now + AFTER;
    let away = desk.poll();
    desk.saved(&away);
    desk.bench.answer(&first.sent[0], ProduceResult::Acked { base_offset: None });
    let asked = desk.poll();
    desk.read(&asked, 1, None);
    let Bench { outbox, now, unix_ms, leader, .. } = &mut desk.bench;
    let again = outbox.poll_action(Some(*leader), *now, *unix_ms);
    let Action::Produce { ticket, batch, spooled: true } = again else {
        panic!("with acks = all: {again:?}")
    };
    assert_eq!((desk.tally().delivered, desk.tally().possible_duplicates), (0, 2));
    desk.bench.ack(&Sent { ticket, batch }, 0);
    assert_eq!((desk.tally().delivered, desk.poll().commits), (2, vec![(2, None)]));
}

/// A batch whose events somebody waits for.
fn awaited(desk: &mut Desk, events: u32) -> std::sync::Arc<crate::Completion> {
    let completion = std::sync::Arc::new(crate::Completion::new());
    let mut batch = batch(events, desk.bench.unix_ms);
    batch.set_spans(crate::Spans::whole(Some(completion.clone()), events));
    desk.bench.outbox.on_sealed(batch, desk.bench.now);
    completion
}

#[test]
fn who_waits_for_what_the_storage_does_not_give_back_would_wait_for_ever() {
    let mut desk = Desk::new(SpoolMode::OnFailure);
    let _first = awaited(&mut desk, 2);
    let flying = desk.poll();
    let completions = [awaited(&mut desk, 2), awaited(&mut desk, 2)];
    desk.bench.now = desk.bench.now + AFTER;
    let away = desk.poll();
    desk.saved(&away);
    desk.poll();
    desk.bench.ack(&flying.sent[0], 0);
    desk.bench.events();
    let asked = desk.poll();
    let [(ticket, from)] = asked.reads[..] else { panic!("{asked:?}") };
    let damage = vec![(2, "a bit fell over".to_owned())];
    let kept = crate::spool::Stored {
        position: from + 2,
        batch: batch(2, desk.bench.unix_ms),
        numbers: None,
        saved_ms: 0,
    };
    let back = crate::spool::ReadBack { batches: vec![kept], next: from + 4, damage };
    desk.bench.outbox.on_read(ticket, Ok(back), desk.bench.now);
    let lost = desk.bench.events().into_iter().find_map(|event| match event {
        OutboxEvent::Damaged { events, spans, .. } => Some((events, spans)),
        _ => None,
    });
    let Some((2, spans)) = lost else { panic!("{lost:?}") };
    let error = crate::DeliveryError {
        reason: crate::FailureReason::Damaged,
        persisted: crate::Persisted::No,
        code: None,
        message: String::new(),
    };
    let error = std::sync::Arc::new(error);
    for (spans, persisted) in spans {
        assert_eq!(persisted, crate::Persisted::No);
        spans.failed(&error);
    }
    assert!(completions[0].get(0).is_some() && completions[0].get(1).is_some());
    assert!(completions[1].get(0).is_none(), "the other one was given back");
}

/// The story: forty partitions, Kafka away, memory to read back for five of them, which held it. The others' reads waited, and with
/// them in memory, never saved, all that came behind what they had on disk: a read excused Kafka for as long as it took.
#[test]
fn what_comes_behind_a_read_that_never_begins_would_never_be_saved() {
    let mut desk = Desk::with_backlog(1);
    let probe = desk.poll();
    assert_eq!((probe.reads.len(), probe.saves.len()), (1, 0), "{probe:?}");
    desk.bench.seal(2);
    assert!(desk.poll().saves.is_empty(), "it is close behind what is read");
    let Bench { outbox, now, unix_ms, leader, .. } = &mut desk.bench;
    let excused = *now + AFTER;
    let wait = outbox.poll_action(Some(*leader), *now, *unix_ms);
    assert!(matches!(wait, Action::Wait { until: Some(until) } if until == excused), "{wait:?}");
    // Who asks meanwhile does not put it off.
    desk.bench.now = desk.bench.now + AFTER / 2;
    assert!(desk.poll().saves.is_empty());
    desk.bench.now = excused;
    assert_eq!(desk.poll().saves.len(), 1);
}

#[test]
fn what_a_storage_keeps_nothing_of_is_lost_and_counted_and_what_may_be_in_the_log_is_not() {
    let spool =
        crate::SpoolSettings { keeps: false, ..crate::SpoolSettings::new(SpoolMode::OnFailure, AFTER) };
    let bench = Bench::with(OutboxSettings { spool: Some(spool), ..settings() });
    let mut desk = Desk { bench, next_position: 0 };
    desk.bench.outbox.on_cluster(crate::ClusterId("here".into()));
    desk.bench.seal(2);
    let flying = desk.poll();
    desk.bench.seal(3);
    desk.bench.now = desk.bench.now + AFTER;
    let away = desk.poll();
    assert_eq!(away.saves[0].1.len(), 1, "not what is in flight");
    desk.saved(&away);
    assert!(desk.poll().saves.is_empty());
    assert_eq!((desk.tally().lost, desk.tally().in_flight, desk.tally().spooled), (3, 2, 0));
    desk.bench.ack(&flying.sent[0], 0);
    desk.bench.seal(1);
    // Behind a hole.
    assert_eq!(desk.poll().sent[0].numbers(), (100, 1, 0, 1));
}
