//! What people read while a command works: all of it on stderr, so that stdout stays machine-readable.
//!
//! On a terminal there is a bar; elsewhere a line every few seconds; with `--quiet` only errors. A closed stderr is
//! nobody's problem: what cannot be written is dropped. With `--log-format json` each line is an event of the log.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use kafka_batcher::{ErrorNotifier, Notification, NotificationKind};

/// How often progress is told where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The form of what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Where in the log it stands that the commands said something.
pub(crate) const TARGET: &str = "console";

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// In which form everything is said from now on; the first word holds.
pub(crate) fn say_as(format: LogFormat) {
    FORMAT.get_or_init(|| format);
}

/// Panics are said in the log too, from now on: else they would be the only lines there that no program can read.
pub(crate) fn say_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!(target: TARGET, "{panic}")));
}

fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Whether anything but errors is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    Normal,
    Quiet,
}

/// See the module's documentation. Shared by everybody who has something to say.
pub(crate) struct Console {
    volume: Volume,
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
}

impl Console {
    /// `total`: the length of what is to be done, in bytes or events, where it is known.
    pub(crate) fn new(volume: Volume, total: Option<u64>, unit: Unit) -> Console {
        let on_terminal = volume == Volume::Normal && !is_json() && stderr().is_terminal();
        let bar = on_terminal.then(|| {
            // Drawn on demand, at most 10 times a second; nothing ticks.
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(total, target);
            bar.with_style(style(total.is_some(), unit))
        });
        Console { volume, bar, last_line: Mutex::new(Instant::now()) }
    }

    /// An error: shown whatever the volume.
    pub(crate) fn error(&self, message: impl Display) {
        match is_json() {
            true => tracing::error!(target: TARGET, "{message}"),
            false => self.line(format_args!("error: {message}")),
        }
    }

    /// Something that is not as it should be, and may pass.
    pub(crate) fn warn(&self, message: impl Display) {
        match (is_json(), self.volume) {
            (true, Volume::Normal) => tracing::warn!(target: TARGET, "{message}"),
            (true, Volume::Quiet) => {}
            (false, _) => self.say(format_args!("warning: {message}")),
        }
    }

    /// A message.
    pub(crate) fn say(&self, message: impl Display) {
        if self.volume == Volume::Normal {
            self.line(message);
        }
    }

    /// What must be said whatever the volume, and is no error itself.
    pub(crate) fn always(&self, message: impl Display) {
        self.line(message);
    }

    /// How much there is to be done, once that is known.
    pub(crate) fn total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// How far it is. Cheap enough for a few calls a second.
    pub(crate) fn progress(&self, position: u64, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(message());
            }
            None if self.volume == Volume::Normal => {
                let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    self.line(message());
                }
            }
            None => {}
        }
    }

    /// No more progress will come; the bar goes.
    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, message: impl Display) {
        if is_json() {
            return tracing::info!(target: TARGET, "{message}");
        }
        let print = || {
            // Whoever closed stderr does not want to hear it.
            let _ = writeln!(stderr(), "{message}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Events,
    /// Events that wait for their delivery: the message counts them, the bar says how long it may take.
    Backlog,
}

fn style(known: bool, unit: Unit) -> ProgressStyle {
    let template = match (known, unit) {
        (true, Unit::Bytes) => "{bar:32.cyan/blue} {binary_bytes:>9}/{binary_total_bytes} {msg}",
        (true, Unit::Events) => "{bar:32.cyan/blue} {pos:>6}/{len} {msg}",
        (true, Unit::Backlog) => "{bar:32.cyan/blue} {msg}{left}",
        (false, Unit::Backlog) => "{spinner} {msg}",
        (false, Unit::Bytes) => "{spinner} {binary_bytes} {msg}",
        (false, Unit::Events) => "{spinner} {pos} {msg}",
    };
    // The templates are tested to be valid.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // Before anything was done nobody knows.
        if state.pos() > 0 {
            let _ = write!(out, ", {} left", HumanDuration(state.eta()));
        }
    })
}

/// The batcher's news, as lines.
impl ErrorNotifier for Console {
    fn report(&self, notification: &Notification) {
        let message = about(notification.topic.as_deref(), &notification.message);
        match notification.kind {
            NotificationKind::Recovered => self.say(message),
            // Nothing goes on by itself: somebody is needed, also by who wants to hear of nothing else.
            NotificationKind::EventsLost | NotificationKind::SpoolError => self.error(message),
            _ => self.warn(message),
        }
    }
}

/// A message of the library's in the words of the command line: settings are options here, and the topic is named once.
pub(crate) fn about(topic: Option<&str>, message: &str) -> String {
    let mut text = message.to_owned();
    for setting in ["allow_topic_auto_creation", "max_batch_bytesize", "max_wait_time", "batch_size"] {
        if text.contains(setting) {
            text = text.replace(setting, &format!("--{}", setting.replace('_', "-")));
        }
    }
    match topic {
        Some(topic) if !text.contains(topic) => format!("topic {topic:?}: {text}"),
        _ => text,
    }
}

/// So that a console can be shared between the batcher and the command.
pub(crate) struct Shared(pub(crate) std::sync::Arc<Console>);

impl ErrorNotifier for Shared {
    fn report(&self, notification: &Notification) {
        self.0.report(notification);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_named_as_the_options_they_are_here() {
        assert_eq!(
            about(Some("t"), "the topic \"t\" does not exist (allow_topic_auto_creation)"),
            "the topic \"t\" does not exist (--allow-topic-auto-creation)"
        );
        assert_eq!(about(Some("logs"), "deliveries go on"), "topic \"logs\": deliveries go on");
        assert_eq!(about(None, "the cluster answers again"), "the cluster answers again");
    }

    #[test]
    fn a_panic_is_a_line_of_json_where_all_others_are() {
        #[derive(Clone, Default)]
        struct Written(std::sync::Arc<Mutex<Vec<u8>>>);
        impl Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
        let before = std::panic::take_hook();
        say_panics();
        tracing::subscriber::with_default(log.finish(), || {
            std::panic::catch_unwind(|| panic!("a mistake\nof two lines")).unwrap_err();
        });
        std::panic::set_hook(before);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"ERROR".into(), &TARGET.into()));
        let message = line["message"].as_str().unwrap();
        assert!(message.contains("console.rs") && message.contains("of two lines"), "{message}");
    }

    #[test]
    fn every_bar_has_a_valid_template() {
        for known in [true, false] {
            for unit in [Unit::Bytes, Unit::Events, Unit::Backlog] {
                let bar = ProgressBar::hidden().with_style(style(known, unit));
                bar.set_message("x");
            }
        }
        assert!(
            ProgressStyle::with_template("{bar:32.cyan/blue} {binary_bytes:>9}/{binary_total_bytes} {msg}")
                .is_ok()
        );
    }
}
