//! What goes wrong in between, and how it ends.

use super::{Happening, MS, World};
use crate::buffer_pool::{BufferPool, Share};
use crate::outbox::Outbox;
use crate::outbox::simulator::ledger::Broken;
use crate::outbox::simulator::model::{Memory, Partition};
use crate::outbox::simulator::store::Change;
use crate::spool::ClusterId;

impl World {
    pub(super) fn fault(&mut self) -> Result<(), Broken> {
        if self.healed {
            return Ok(());
        }
        self.after(MS, self.plan.fault_every_ms * MS, Happening::Fault);
        let node = self.rng.below(self.plan.nodes as u64) as i32;
        let p = self.rng.below(self.plan.partitions as u64) as usize;
        match self.rng.below(20) {
            15 | 16 if self.plan.crashes => self.crash()?,
            0 | 1 if self.plan.breaks => self.break_connection(node),
            2 | 3 if self.plan.restarts => self.node_down(node)?,
            4 | 5 | 17..=19 if self.plan.moves => self.move_leader(p, node)?,
            6 | 12..=14 if self.plan.size_limit => {
                // A batch of one event has at most 113 bytes.
                let limit =
                    if self.rng.below(3) == 0 { usize::MAX } else { 90 + self.rng.below(150) as usize };
                self.note(|_| format!("p{p} takes {limit} bytes"));
                self.partitions[p].max_bytes = limit;
            }
            7 if self.plan.clock => {
                self.partitions[p].refuses_times ^= true;
                self.note(|w| format!("p{p} refuses times: {}", w.partitions[p].refuses_times));
            }
            8 if self.plan.recreates => self.recreate(p),
            9 if self.plan.takeovers => {
                self.note(|_| format!("p{p} id is taken over"));
                self.partitions[p].take_over();
            }
            10 if self.plan.expiry => {
                self.note(|_| format!("p{p} ids expire"));
                let unix_ms = self.unix_ms();
                self.partitions[p].expire(unix_ms);
            }
            11 if self.plan.abandon && self.rng.below(3) == 0 => self.abandon(p)?,
            _ => {}
        }
        Ok(())
    }

    fn abandon(&mut self, p: usize) -> Result<(), Broken> {
        self.note(|_| format!("p{p} is abandoned"));
        self.clients[p].abandoned = true;
        self.clients[p].outbox.close();
        if self.plan.spool.is_some() {
            // The process ends as it should: what is left goes to disk, and a moment later it is over.
            self.clients[p].outbox.spill();
            self.after(0, 300 * MS, Happening::Crash);
            return self.poll(p);
        }
        self.clients[p].outbox.abandon();
        self.take_events(p)
    }

    /// Our process is killed and started again: memory is gone, and with it all connections and what was to be told.
    pub(super) fn crash(&mut self) -> Result<(), Broken> {
        let ended = self.clients.iter().any(|client| client.abandoned);
        if self.plan.spool.is_none() || (self.healed && !ended) {
            return Ok(());
        }
        self.note(|_| "our process is killed".to_owned());
        for node in 0..self.plan.nodes {
            self.break_connection(node);
        }
        let mut unanswered = Vec::new();
        self.queue.retain(|_, happening| match happening {
            Happening::Report(..)
            | Happening::Described(..)
            | Happening::Identified(..)
            | Happening::Retention(..)
            | Happening::StoreRead(..)
            | Happening::StoreSlow(..)
            | Happening::Answer(..)
            | Happening::Arrive(..) => false,
            Happening::Store(p, _, change) => {
                unanswered.push((*p, change.clone()));
                false
            }
            _ => true,
        });
        for (p, change) in unanswered {
            // Nobody was told, so it may have happened, as a whole, or not.
            let kept = self.plan.keeps || !matches!(change, Change::Save(_));
            if self.rng.below(2) == 0 && kept {
                if let Change::Drop { from, through } = change {
                    let dropped = self.store.dropped_by(p, from, through);
                    self.clients[p].ledger.dropped_unseen(&dropped)?;
                }
                let unix_ms = self.unix_ms();
                self.store.change(p, change, unix_ms);
            }
        }
        self.store.reopen(self.plan.forgets_hints);
        self.identity = None;
        self.processes += 1;
        for p in 0..self.partitions.len() {
            let tally = self.clients[p].outbox.tally();
            let risked = self.clients[p].outbox.spool.risked;
            let backlog = self.store.backlog(p);
            let on_disk = self.store.between(p, backlog.first..u64::MAX);
            self.clients[p].ledger.killed(&on_disk, self.store.dead_letters(p), &tally, risked)?;
            let seed = self.seed ^ p as u64 ^ (self.processes << 32);
            let mut outbox = Outbox::new(self.settings, BufferPool::new(1 << 24), Share::new(1 << 24), seed);
            outbox.on_cluster(ClusterId("cluster".into()));
            outbox.on_recovered(backlog);
            let client = &mut self.clients[p];
            client.outbox = outbox;
            client.view = None;
            client.timer = None;
            if std::mem::take(&mut client.abandoned) && client.to_seal > 0 {
                self.after(0, 20 * MS, Happening::Seal(p));
            }
            self.after(2 * MS, 100 * MS, Happening::Learn(p));
        }
        Ok(())
    }

    pub(super) fn spite(&mut self, node: i32) -> Result<(), Broken> {
        if self.healed {
            return Ok(());
        }
        self.nodes[node as usize].spiteful = self.plan.amnesia > 0;
        self.node_down(node)
    }

    fn node_down(&mut self, node: i32) -> Result<(), Broken> {
        if !self.nodes[node as usize].up {
            return Ok(());
        }
        self.note(|_| format!("node {node} goes down"));
        self.nodes[node as usize].up = false;
        self.break_connection(node);
        for p in 0..self.partitions.len() {
            if self.partitions[p].leader == Some(node) {
                let other = (0..self.plan.nodes).find(|n| self.nodes[*n as usize].up);
                let stays = self.nodes[node as usize].spiteful || self.rng.below(2) == 0;
                self.lead(p, other.filter(|_| !stays))?;
            }
        }
        self.after(5 * MS, 400 * MS, Happening::NodeUp(node));
        Ok(())
    }

    pub(super) fn node_up(&mut self, node: i32) {
        self.note(|_| format!("node {node} is up"));
        self.nodes[node as usize].up = true;
        self.nodes[node as usize].boots += 1;
        let spiteful = std::mem::take(&mut self.nodes[node as usize].spiteful);
        for p in 0..self.partitions.len() {
            if self.partitions[p].leader.is_none() {
                let memory = if self.chance(self.plan.amnesia) || spiteful {
                    self.clients[p].ledger.forgotten();
                    Memory::Nothing
                } else if self.rng.below(5) == 0 {
                    Memory::Whole
                } else {
                    Memory::LastBatch
                };
                self.note(|_| format!("p{p} is led by {node}, which remembers {memory:?}"));
                self.partitions[p].restart(memory);
                self.partitions[p].leader = Some(node);
                self.after(2 * MS, 100 * MS, Happening::Learn(p));
            }
        }
    }

    pub(super) fn move_leader(&mut self, p: usize, node: i32) -> Result<(), Broken> {
        // To itself, too: an election that changes nothing but the epoch.
        if self.partitions[p].leader.is_some() && self.nodes[node as usize].up {
            self.lead(p, Some(node))?;
        }
        Ok(())
    }

    /// A new leader epoch. What was not on all replicas may be gone.
    fn lead(&mut self, p: usize, leader: Option<i32>) -> Result<(), Broken> {
        self.note(|_| format!("p{p} leader {leader:?}"));
        // A leader that is elected again keeps its own log.
        let other = self.partitions[p].leader != leader;
        self.partitions[p].leader = leader;
        self.partitions[p].epoch += 1;
        if self.plan.idempotent && other && self.rng.below(4) > 0 {
            let gone = self.partitions[p].cut();
            if !gone.is_empty() {
                self.note(|_| format!("p{p} lost {gone:?}"));
            }
            self.clients[p].ledger.cut(&gone, self.partitions[p].events())?;
        }
        self.after(2 * MS, 200 * MS, Happening::Learn(p));
        Ok(())
    }

    fn recreate(&mut self, p: usize) {
        let old = &self.partitions[p];
        let Some(leader) = old.leader else { return };
        let epoch = old.epoch + 1;
        self.partitions[p] = Partition::new(old.topic + 1, leader, old.names_culprits, old.idempotent);
        self.partitions[p].epoch = epoch;
        self.note(|w| format!("p{p} is recreated as {}", w.partitions[p].topic));
        self.clients[p].ledger.recreated();
        self.after(2 * MS, 100 * MS, Happening::Learn(p));
    }

    /// The client asks for metadata, and gets an answer of now.
    pub(super) fn learn(&mut self, p: usize) -> Result<(), Broken> {
        let partition = &self.partitions[p];
        let view = partition.leader.map(|leader| (leader, partition.epoch, partition.topic));
        if view.is_none() || self.chance(20) {
            self.after(20 * MS, 50 * MS, Happening::Learn(p));
        }
        let unknown = self.chance(20);
        self.clients[p].view = view.filter(|_| !unknown);
        self.poll(p)
    }

    /// From here on all is well.
    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        self.note(|_| "all is well from here on".to_owned());
        self.healed = true;
        for node in 0..self.plan.nodes {
            self.nodes[node as usize].blocked_until = 0;
            self.node_up(node);
        }
        for p in 0..self.partitions.len() {
            self.partitions[p].max_bytes = usize::MAX;
            self.partitions[p].refuses_times = false;
            if self.plan.close {
                self.clients[p].outbox.close();
            }
            self.after(0, 20 * MS, Happening::Learn(p));
        }
        Ok(())
    }
}
