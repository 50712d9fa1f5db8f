//! Many faults at once, drawn from a seed.

use std::time::Duration;

use kafka_batcher_broker::{Api, EmbeddedKafka, Fault, ProducerMemory};

use crate::exchange::{Plan, TOPIC};

/// SplitMix64: enough to draw faults from.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn fault(&mut self) -> Fault {
        const BEFORE: [i16; 12] = [-1, 2, 3, 5, 6, 7, 13, 19, 20, 56, 74, 100];
        const AFTER: [i16; 5] = [-1, 6, 7, 20, 56];
        let by = Duration::from_millis(self.below(6));
        let broker = self.below(3) as i32 + 1;
        let partition = self.below(6) as i32;
        let before = BEFORE[self.below(12) as usize];
        let after = AFTER[self.below(5) as usize];
        let restart = move |kafka: &EmbeddedKafka| {
            kafka.restart_broker(broker, ProducerMemory::LastBatch).expect("a broker");
        };
        let move_leader =
            move |kafka: &EmbeddedKafka| kafka.move_leader(TOPIC, partition, broker).expect("a partition");
        let fault = match self.below(12) {
            0 => Fault::lose_request(),
            1 | 2 => Fault::lose_answer(),
            3 => Fault::never_serve(),
            4 => Fault::never_answer(),
            5 => Fault::delay(by),
            6 => Fault::delay_answer(by),
            7 => Fault::answer(before),
            8 => Fault::answer_after_append(after),
            9 => Fault::call_before(restart),
            10 => Fault::call_after(restart),
            _ => Fault::call_before(move_leader),
        };
        let fault = match self.below(4) {
            0 => fault.partition(TOPIC, partition),
            1 => fault.broker(broker),
            _ => fault,
        };
        let api = match self.below(8) {
            0 => Api::Metadata,
            1 => Api::DescribeProducers,
            2 => Api::InitProducerId,
            _ => Api::Produce,
        };
        fault.on(api).nth(self.below(30) + 1).times(self.below(3) + 1)
    }
}

#[tokio::test]
async fn twelve_faults_at_once_do_not_show() {
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let faults: Vec<Fault> = (0..12).map(|_| draw.fault()).collect();
        let said = format!("{faults:#?}");
        let run = Plan::three_brokers()
            .impatient()
            .run(|kafka| {
                faults.into_iter().for_each(|fault| {
                    kafka.inject(fault);
                })
            })
            .await;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.assert_unharmed()));
        assert!(caught.is_ok(), "seed {seed}: {said}\n{:?}", run.report);
    }
}
