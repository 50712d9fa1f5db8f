//! What a run is to do: the file's, the environment's and the command line's settings, merged; and what no one of them can
//! check alone.

use std::path::PathBuf;
use std::time::Duration;

use kafka_batcher::config::{BadConfigError, Mistake, Origin, Resolved};
use kafka_batcher::{CollectorSettings, Config};

use crate::exit::UsageError;
use crate::produce::args::{Args, ReceiptsAt};
use crate::units;

/// How long a full memory may keep the feeder waiting: as good as for ever; the watch decides when it is over.
pub(super) const NO_LIMIT: Duration = Duration::from_secs(365 * 86_400);

/// The options with the settings in effect.
pub(super) struct Plan<'a> {
    pub(super) args: &'a Args,
    pub(super) topic: String,
    /// Of that topic alone.
    pub(super) resolved: Resolved,
}

impl<'a> Plan<'a> {
    /// Merges and checks everything.
    pub(super) fn new(args: &'a Args) -> Result<Plan<'a>, UsageError> {
        if args.timeout.is_zero() {
            return Err(UsageError("--timeout: 0 leaves no time for an acknowledgement".to_owned()));
        }
        let mut config = match &args.config {
            Some(path) => Config::from_file(path).map_err(|error| UsageError(error.to_string()))?,
            None => Config::new(),
        };
        config = config.with_environment();
        let spool_options = options(args, &mut config);
        if let Some(option) = spool_options.first().filter(|_| !config.says("spool.dir")) {
            return Err(UsageError(format!(
                "{option} needs a spool: --spool DIR, or dir in the file's [spool]"
            )));
        }
        let topic = topic(args, &config)?;
        config.ensure_collector(&topic, Origin::Option("--topic".into()));
        let mut resolved = config.resolve().map_err(|error| UsageError(in_words(error)))?;
        resolved.collectors.retain(|name, _| *name == topic);
        let mut plan = Plan { args, topic, resolved };
        plan.fit();
        let unacknowledged = plan.collector().required_acks == 0 && plan.spool_dir().is_none();
        if args.receipts == Some(ReceiptsAt::Durable) && unacknowledged {
            let message =
                "--receipts=durable needs --acks all or 1: with 0 nobody says that an event is safe";
            return Err(UsageError(message.to_owned()));
        }
        Ok(plan)
    }

    /// What a command that reads a file does otherwise than a service.
    fn fit(&mut self) {
        let settings = &mut self.resolved.settings;
        settings.max_block = NO_LIMIT;
        // An address that accepts and stays silent must have been found out before patience ends.
        settings.connect_timeout = settings.connect_timeout.min(self.args.timeout / 2);
    }

    /// The settings of the topic's collector.
    pub(super) fn collector(&self) -> &CollectorSettings {
        self.resolved.collectors.get(&self.topic).unwrap_or(&self.resolved.defaults)
    }

    /// Where the spool is, if there is one.
    pub(super) fn spool_dir(&self) -> Option<&PathBuf> {
        self.resolved.spool.dir.as_ref().filter(|_| self.resolved.spool.mode.is_some())
    }

    /// The command that sends what is left in the spool.
    pub(super) fn replay_command(&self) -> Option<String> {
        let file = self.args.config.as_ref().map(|path| format!(" --config {}", path.display()));
        let brokers = match (&file, self.args.brokers.as_slice()) {
            (Some(_), []) => String::new(),
            _ => format!(" -b {}", self.resolved.settings.endpoints.join(",")),
        };
        let file = file.unwrap_or_default();
        self.spool_dir().map(|dir| format!("kafka-batcher spool replay {}{file}{brokers}", dir.display()))
    }

    /// Whether there is a spool.
    pub(super) fn spools(&self) -> bool {
        self.spool_dir().is_some()
    }
}

/// Says what the options say; the options of the spool that were given.
fn options(args: &Args, config: &mut Config) -> Vec<&'static str> {
    if !args.brokers.is_empty() {
        config.set_option("endpoints", args.brokers.clone(), "--brokers");
    }
    if let Some(strategy) = args.partitioner {
        config.set_option("partition_strategy", strategy.name(), "--partitioner");
    }
    if let Some(packing) = args.compression {
        config.set_option("compression", packing.codec.name(), "--compression");
        // A level that the file gives is for the file's codec.
        let level = packing.level.map_or_else(|| "off".to_owned(), |level| level.to_string());
        config.set_option("compression_level", level, "--compression");
    }
    if let Some(acks) = args.acks {
        config.set_option("required_acks", i64::from(acks.0), "--acks");
    }
    if args.allow_topic_auto_creation {
        config.set_option("allow_topic_auto_creation", true, "--allow-topic-auto-creation");
    }
    if let Some(dir) = &args.spool {
        config.set_option("spool.dir", dir.to_string_lossy().into_owned(), "--spool");
    }
    let number = args.batch_size.map(|n| n.to_string());
    let settings = [
        ("batch_size", &number, "--batch-size"),
        ("max_wait_time", &args.max_wait_time, "--max-wait-time"),
        ("max_batch_bytesize", &args.max_batch_bytesize, "--max-batch-bytesize"),
        ("memory", &args.memory, "--memory"),
        ("shutdown_timeout", &args.shutdown_timeout, "--shutdown-timeout"),
        ("client_id", &args.client_id, "--client-id"),
    ];
    for (key, value, option) in settings {
        if let Some(value) = value {
            config.set_option(key, value.as_str(), option);
        }
    }
    // The seam that splits a request bounds a batch, too; who asks for larger batches means both.
    let default = kafka_batcher::Settings::default().max_request_size;
    let larger =
        args.max_batch_bytesize.as_deref().and_then(|text| units::size(text).ok()).filter(|n| *n > default);
    if let Some(bytes) = larger.filter(|_| !config.says("max_request_size")) {
        config.set_option("max_request_size", bytes.to_string(), "--max-batch-bytesize");
    }
    let (mode, on_full) = (args.spool_mode.map(|m| m.word()), args.spool_on_full.map(|f| f.word()));
    let spool = [
        ("spool.mode", mode, "--spool-mode"),
        ("spool.spool_after", args.spool_after.as_deref(), "--spool-after"),
        ("spool.max_bytes", args.spool_max_bytes.as_deref(), "--spool-max-bytes"),
        ("spool.on_full", on_full, "--spool-on-full"),
        ("spool.max_age", args.spool_max_age.as_deref(), "--spool-max-age"),
    ];
    let mut given = Vec::new();
    for (key, value, option) in spool {
        if let Some(value) = value {
            config.set_option(key, value, option);
            given.push(option);
        }
    }
    given
}

/// The one that was asked for, or the only one there is.
fn topic(args: &Args, config: &Config) -> Result<String, UsageError> {
    if let Some(topic) = &args.topic {
        return Ok(topic.clone());
    }
    let known = config.topics();
    match known.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(UsageError("no topic: give --topic NAME".to_owned())),
        several => Err(UsageError(format!(
            "the configuration has several topics: say which, with --topic ({})",
            several.join(", ")
        ))),
    }
}

/// As the library tells them, but for what has an option of its own.
pub(crate) fn in_words(BadConfigError(mistakes): BadConfigError) -> String {
    let nobody_said = |mistake: &Mistake| mistake.key == "endpoints" && mistake.origin == Origin::BuiltIn;
    if mistakes.iter().any(nobody_said) {
        return "no brokers: give -b HOST:PORT (--brokers), or a configuration with endpoints (--config FILE)".to_owned();
    }
    BadConfigError(mistakes).to_string()
}
