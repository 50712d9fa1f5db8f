//! Where a spool's events are sent: addresses, or a configuration with them and with what a secured cluster wants.

use std::path::PathBuf;

use kafka_batcher::{Builder, Config, SpoolConfig};

use crate::exit::UsageError;
use crate::produce::in_words;

#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Addresses to find the cluster by, separated by commas or given several times; any one is enough [port: 9092]
    #[arg(
        short = 'b',
        long = "brokers",
        visible_alias = "bootstrap-server",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    brokers: Vec<String>,

    /// The configuration that the spool was filled with: its endpoints, [ssl] and [sasl] are used; its spool and collectors are not
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Target {
    pub(super) fn is_given(&self) -> bool {
        !self.brokers.is_empty() || self.config.is_some()
    }

    /// A batcher for that cluster, without a spool and without collectors.
    pub(super) fn builder(&self) -> Result<Builder, UsageError> {
        let config = match &self.config {
            Some(path) => Config::from_file(path).map_err(|error| UsageError(error.to_string()))?,
            None => Config::new(),
        };
        let mut config = config.with_environment();
        if !self.brokers.is_empty() {
            config.set_option("endpoints", self.brokers.clone(), "--brokers");
        }
        let mut resolved = config.resolve().map_err(|error| UsageError(in_words(error)))?;
        resolved.spool = SpoolConfig::default();
        resolved.collectors.clear();
        Ok(Builder::from(resolved))
    }
}
