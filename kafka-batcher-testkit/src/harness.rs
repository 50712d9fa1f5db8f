//! The `main` of a test binary (`harness = false`) whose tests need a real Kafka: one Kafka for all of them, started by the
//! first test that runs, gone at the end.
//!
//! libtest would hide why a test did nothing; here it is listed as `ignored, needs a real Kafka: <what is missing>`. With
//! `KAFKA_BATCHER_REQUIRE_KAFKA=1` a missing Kafka fails the test instead.

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{Options, RealKafka, Unavailable, kafka_is_required, real_kafka_or_reason};

/// How a test ended. A test may return `()` (it panics to fail), a `Result`, or this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not so, and why.
    Failed(String),
    /// Could not be tried here, and why.
    Ignored(String),
}

impl Outcome {
    /// What a test does that lacks `what`: fails where everything must be there (`KAFKA_BATCHER_REQUIRE_KAFKA=1`), else is
    /// ignored with that reason.
    pub fn lacks(what: impl Display) -> Self {
        if kafka_is_required() {
            Outcome::Failed(format!("{what} (and KAFKA_BATCHER_REQUIRE_KAFKA is set)"))
        } else {
            Outcome::Ignored(what.to_string())
        }
    }

    fn into_mimic(self) -> Result<Completion, Failed> {
        match self {
            Outcome::Passed => Ok(Completion::Completed),
            Outcome::Failed(why) => Err(why.into()),
            Outcome::Ignored(why) => Ok(Completion::ignored_with(why)),
        }
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Outcome::Passed
    }
}

impl<T: Into<Outcome>, E: Display> From<Result<T, E>> for Outcome {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(outcome) => outcome.into(),
            // {:#}: with the causes, where the error is anyhow's.
            Err(e) => Outcome::Failed(format!("{e:#}")),
        }
    }
}

/// Tests around one shared Kafka. Build it in `main`, end with [`Suite::run`].
///
/// Tests of [`Suite::test`] run side by side (`--test-threads` as usual), those of [`Suite::test_alone`] have the Kafka to
/// themselves.
#[must_use = "a suite does nothing until run() is called"]
pub struct Suite {
    shared: Arc<Shared>,
    trials: Vec<Trial>,
}

struct Shared {
    options: Options,
    available: Result<(), Unavailable>,
    /// Started by the first test that needs it. Read: side by side; write: alone.
    kafka: OnceLock<RwLock<Result<RealKafka, String>>>,
}

impl Suite {
    /// A suite whose Kafka will be of this kind.
    pub fn new(options: Options) -> Self {
        let available = real_kafka_or_reason();
        Suite { shared: Arc::new(Shared { options, available, kafka: OnceLock::new() }), trials: Vec::new() }
    }

    /// A test that shares the Kafka with others: it uses topics of its own ([`RealKafka::fresh_topic`]) and breaks nothing.
    pub fn test<T: Into<Outcome>>(
        mut self,
        name: &str,
        test: impl FnOnce(&RealKafka) -> T + Send + 'static,
    ) -> Self {
        let shared = Arc::clone(&self.shared);
        self.add(name, move || shared.side_by_side(test));
        self
    }

    /// A test that has the Kafka to itself and may kill, freeze and restart brokers. Whatever it leaves broken is mended
    /// afterwards, also when it panics. Ignored where `KAFKA_BATCHER_TEST_BROKERS` names a running Kafka.
    pub fn test_alone<T: Into<Outcome>>(
        mut self,
        name: &str,
        test: impl FnOnce(&RealKafka) -> T + Send + 'static,
    ) -> Self {
        let shared = Arc::clone(&self.shared);
        self.add(name, move || shared.alone(test));
        self
    }

    /// A test that needs no Kafka.
    pub fn plain<T: Into<Outcome>>(mut self, name: &str, test: impl FnOnce() -> T + Send + 'static) -> Self {
        self.add(name, move || test().into());
        self
    }

    /// Runs what the command line asks for (the same options as any `cargo test` binary), stops the Kafka, and returns the
    /// exit code of the process.
    pub fn run(self) -> ExitCode {
        let conclusion = libtest_mimic::run(&Arguments::from_args(), self.trials);
        // All trials are gone: this is the last owner, and the brokers end here.
        drop(self.shared);
        conclusion.exit_code()
    }

    fn add(&mut self, name: &str, test: impl FnOnce() -> Outcome + Send + 'static) {
        self.trials.push(Trial::ignorable_test(name, move || test().into_mimic()));
    }
}

impl Shared {
    fn kafka(&self) -> Result<&RwLock<Result<RealKafka, String>>, Outcome> {
        if let Err(missing) = &self.available {
            return Err(Outcome::lacks(missing));
        }
        Ok(self.kafka.get_or_init(|| RwLock::new(RealKafka::start(&self.options).map_err(|e| e.to_string()))))
    }

    fn side_by_side<T: Into<Outcome>>(&self, test: impl FnOnce(&RealKafka) -> T) -> Outcome {
        let lock = match self.kafka() {
            Ok(lock) => lock,
            Err(outcome) => return outcome,
        };
        match &*lock.read().unwrap_or_else(PoisonError::into_inner) {
            Ok(kafka) => test(kafka).into(),
            Err(why) => Outcome::Failed(why.clone()),
        }
    }

    fn alone<T: Into<Outcome>>(&self, test: impl FnOnce(&RealKafka) -> T) -> Outcome {
        let lock = match self.kafka() {
            Ok(lock) => lock,
            Err(outcome) => return outcome,
        };
        match &*lock.write().unwrap_or_else(PoisonError::into_inner) {
            Ok(kafka) if !kafka.is_ours() => Outcome::Ignored(
                "stops brokers, and KAFKA_BATCHER_TEST_BROKERS names a running Kafka".to_owned(),
            ),
            Ok(kafka) => {
                let mended = Mended(kafka);
                let outcome = test(mended.0).into();
                // The drop below mends too, for panics; here its failure can be told.
                match (outcome, kafka.heal()) {
                    (Outcome::Passed, Err(e)) => {
                        Outcome::Failed(format!("the Kafka does not come back: {e}"))
                    }
                    (outcome, _) => outcome,
                }
            }
            Err(why) => Outcome::Failed(why.clone()),
        }
    }
}

struct Mended<'a>(&'a RealKafka);

impl Drop for Mended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has failed already; the next one will say it if this did not help.
            let _ = self.0.heal();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_may_return_nothing_a_result_or_an_outcome() {
        assert_eq!(Outcome::from(()), Outcome::Passed);
        assert_eq!(Outcome::from(Ok::<(), String>(())), Outcome::Passed);
        assert_eq!(Outcome::from(Err::<(), _>("why")), Outcome::Failed("why".to_owned()));
        let ignored = Outcome::Ignored("why".to_owned());
        assert_eq!(Outcome::from(Ok::<_, String>(ignored.clone())), ignored);
    }
}
