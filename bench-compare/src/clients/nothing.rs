//! The load alone: it is emitted, stamped and noted as for every client, and sent nowhere. What that costs is not the clients'.

use std::sync::Arc;

use crate::drive::{Client, Lane};
use crate::job::Job;
use crate::ledger::Ledger;
use crate::load::Event;

pub(crate) struct Nothing(Arc<Ledger>);

impl Client for Nothing {
    type Lane = Lost;

    fn version() -> String {
        "the load alone".to_owned()
    }

    fn settings(_: &Job) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn connect(_: &Job, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        Ok(Nothing(ledger))
    }

    fn lane(&self) -> anyhow::Result<Lost> {
        Ok(Lost(self.0.clone()))
    }

    async fn settle(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}

pub(crate) struct Lost(Arc<Ledger>);

impl Lane for Lost {
    async fn offer(&mut self, event: Event) -> anyhow::Result<()> {
        let stamp = self.0.stamp();
        std::hint::black_box(event);
        self.0.acknowledged(stamp);
        Ok(())
    }
}
