//! A size limit that is lowered while events flow: batches are halved, every event keeps its number.

use kafka_batcher::{FailureReason, ReceiptError};
use kafka_batcher_broker::{Api, Fault};
use kafka_batcher_testkit::Tally;

use crate::exchange::{Plan, Run, lower_the_size_limit as lower};

#[tokio::test]
async fn a_limit_that_is_lowered_splits_batches_and_does_not_show() {
    let faults = [Fault::call_before(lower).on(Api::Produce), Fault::call_after(lower).on(Api::Produce)];
    for plan in [Plan::one_broker(), Plan::three_brokers()] {
        plan.unharmed_at_every_point(10, &faults).await;
    }
}

#[tokio::test]
async fn a_lowered_limit_and_a_lost_request_do_not_show() {
    // Not written, then refused: the question says so, and the halves go with the same numbers.
    let fault = Fault::lose_request().on(Api::Produce);
    Plan::one_broker().at_every_point(10, &fault, lower, Run::assert_once).await;
}

/// Nothing is lost, duplicated or reordered; what nobody can know is in doubt, in the report and in each receipt.
fn honest(run: &Run) {
    run.assert_accounts();
    run.assert_receipts_agree_with_the_log();
    let report = &run.report;
    assert_eq!((report.lost, report.reorderings), (0, 0), "{report:?}");
    let doubtful = |event: u32| match &run.outcomes[event as usize] {
        Ok(_) => false,
        Err(ReceiptError::Failed(error)) if error.reason == FailureReason::Unknowable => true,
        Err(error) => panic!("event {event}: {error}"),
    };
    let in_doubt = (0..run.plan.events).filter(|event| doubtful(*event)).count();
    assert_eq!(report.in_doubt, in_doubt as u64, "{report:?}");
    // Of those in doubt the log may hold each or not; without them it is clean.
    let mut log = run.log();
    log.values_mut().for_each(|events| events.retain(|event| !doubtful(*event)));
    Tally::compare(&run.accepted_where(|event| !doubtful(event)), &log).assert_clean();
    let tally = run.tally();
    assert_eq!((tally.duplicated, tally.reordered), (0, 0), "{tally}");
}

#[tokio::test]
async fn a_written_batch_that_is_refused_for_its_size_when_it_is_sent_again_is_proven_or_in_doubt() {
    // The broker looks at the size before it looks for duplicates: its refusal says nothing about the first attempt.
    let not_written = (Fault::call_before(lower), Fault::lose_request(), false);
    let written = (Fault::call_after(lower), Fault::lose_answer(), true);
    for (lowered, lose, unknowable) in [not_written, written] {
        let fault = lowered.on(Api::Produce);
        let plan = Plan::one_broker();
        let mut in_doubt = 0;
        for k in 1.. {
            let mut id = None;
            let run = plan
                .run(|kafka| {
                    kafka.inject(fault.clone().nth(k));
                    id = Some(kafka.inject(lose.clone().on(Api::Produce).nth(k)));
                })
                .await;
            honest(&run);
            in_doubt += run.report.in_doubt;
            if id.is_none_or(|id| run.kafka.fault_hits(id) == 0) {
                assert!(k > 10);
                break;
            }
        }
        // All that follows is too large as well, so nothing can prove what was written. A lost request was not; but with its connection answers
        // to earlier ones may get lost, too.
        assert!(in_doubt > 0 || !unknowable, "{lose:?}: nothing in doubt");
    }
}
