//! The driver's side: what the dispatcher of the library does, with its liberties (answers told out of order, a
//! connection that changes between the question and the request).

use super::{Flying, Happening, MAX_ACTIONS, MS, Request, World};
use crate::batch::encoder::{Encoder, Measured};
use crate::buffer_pool::Chunk;
use crate::delivery::{Leader, ProduceAnswer, ProduceResult, ProducerIdentity, ProducerState, TopicId};
use crate::outbox::simulator::ledger::Broken;
use crate::outbox::simulator::model::{Kind, Memory, Received};
use crate::outbox::simulator::store::Change;
use crate::outbox::{Action, OutboxEvent};
use crate::record::Record;
use crate::{RecordBatch, StorageError, Time};

impl World {
    pub(super) fn seal(&mut self, p: usize) -> Result<(), Broken> {
        if self.clients[p].abandoned || self.clients[p].to_seal == 0 {
            return Ok(());
        }
        let batch = self.batch(p);
        let now = self.time();
        let client = &mut self.clients[p];
        client.to_seal -= 1;
        client.outbox.on_sealed(batch, now);
        if client.to_seal > 0 {
            // In bursts: five in flight are seen only if five are there.
            let pause = if self.rng.below(3) == 0 { 500 } else { 4 };
            self.after(0, pause * MS, Happening::Seal(p));
        }
        self.poll(p)
    }

    fn batch(&mut self, p: usize) -> RecordBatch {
        let mut encoder = Encoder::default();
        encoder.add_chunk(Chunk::unpooled(1_024));
        let time = self.unix_ms() - self.plan.age_ms;
        for _ in 0..1 + self.rng.below(self.plan.max_events) {
            let number = self.clients[p].ledger.accept();
            let kind = match self.chance(self.plan.poison) {
                // Of what was read back nobody knows whose time it is, so it would be held.
                true if self.plan.spool.is_some() || self.rng.below(2) == 0 => Kind::Poison,
                true => Kind::BadTime,
                false if self.rng.below(10) == 0 => Kind::GivenTime,
                false => Kind::Plain,
            };
            let mut value = number.to_be_bytes().to_vec();
            value.push(kind as u8);
            value.resize(5 + self.rng.below(40) as usize, 0);
            let given = matches!(kind, Kind::BadTime | Kind::GivenTime);
            let record = Record { timestamp: given.then_some(time), ..Record::value(&value) };
            let measured = Measured::of(&record).expect("it is small");
            let size = encoder.size_of_next(measured, time);
            encoder.append(&record, time, measured, size);
        }
        encoder.seal().expect("it has an event")
    }

    /// Who leads, as the client knows it, over the connection there is.
    fn leader(&self, p: usize) -> Option<Leader> {
        let (node, epoch, topic) = self.clients[p].view?;
        let connection = self.nodes[node as usize].connection;
        Some(Leader { node, epoch, topic_id: TopicId([topic; 16]), connection })
    }

    pub(super) fn poll(&mut self, p: usize) -> Result<(), Broken> {
        // Enough requests to the leader are under way, this partition's own or others'.
        let crowded = self.plan.crowded > 0 && self.chance(self.plan.crowded);
        if crowded {
            self.after(0, 300 * MS, Happening::Poll(p));
        }
        for _ in 0..MAX_ACTIONS {
            let (leader, now, unix_ms) = (self.leader(p), self.time(), self.unix_ms());
            let outbox = &mut self.clients[p].outbox;
            let action = match crowded {
                true => outbox.poll_action_without_requests(leader, now, unix_ms),
                false => outbox.poll_action(leader, now, unix_ms),
            };
            if crowded && matches!(action, Action::Produce { .. } | Action::Describe { .. }) {
                return Err(format!("{action:?} although no request may go"));
            }
            self.take_events(p)?;
            match (action, leader) {
                (Action::Wait { until }, _) => {
                    self.wait(p, until);
                    return Ok(());
                }
                (Action::Produce { ticket, batch, .. }, Some(leader)) => {
                    self.produce(p, ticket, &batch, leader)?
                }
                (Action::Describe { producer_id }, Some(leader)) => {
                    self.note(|_| format!("p{p} describe {producer_id}"));
                    self.send(Flying {
                        partition: p,
                        leader,
                        request: Request::Describe { id: producer_id },
                        arrived: false,
                    });
                }
                (Action::InitProducerId { other_than }, _) => self.init_producer_id(p, other_than),
                (Action::Save { ticket, batches }, _) => {
                    self.ask_store(p, Some(ticket), Change::Save(batches))
                }
                (Action::Renumber { ticket, numbers }, _) => {
                    self.ask_store(p, Some(ticket), Change::Renumber(numbers));
                }
                (Action::Reject { ticket, letters }, _) => {
                    self.ask_store(p, Some(ticket), Change::Reject(letters));
                }
                (Action::Drop { ticket, from, through }, _) => {
                    self.ask_store(p, Some(ticket), Change::Drop { from, through });
                }
                (Action::AskRetention, _) => {
                    self.after(MS, 20 * MS, Happening::Retention(p));
                }
                (Action::Commit { through, ticket }, _) => {
                    let durable = ticket.is_some();
                    self.ask_store(p, ticket, Change::Commit { through, durable });
                }
                (Action::Read { ticket, from, .. }, _) => {
                    let (least, spread) = self.storage_takes(p, Some(ticket));
                    self.after(least, spread, Happening::StoreRead(p, ticket, from));
                }
                (action, None) => return Err(format!("{action:?} without a leader")),
            }
        }
        Err("an outbox has something to do for ever".to_owned())
    }

    fn wait(&mut self, p: usize, until: Option<Time>) {
        let until = until.map(Time::as_micros);
        if let Some(at) = until
            && self.clients[p].timer != until
        {
            self.clients[p].timer = until;
            self.at(at.max(self.now), Happening::Poll(p));
        }
        // Nobody need ask now, and somebody does.
        if self.chance(30) {
            self.after(0, 200 * MS, Happening::Poll(p));
        }
    }

    fn produce(
        &mut self,
        p: usize,
        ticket: u64,
        batch: &RecordBatch,
        mut leader: Leader,
    ) -> Result<(), Broken> {
        let batch = Received::read(&batch.to_bytes());
        self.note(|_| {
            let events: Vec<u32> = batch.events.iter().map(|event| event.number).collect();
            let (id, epoch, first) = (batch.id, batch.epoch, batch.first);
            format!(
                "p{p} #{ticket} {events:?} as {id}/{epoch}/{first} to {}.{}",
                leader.node, leader.connection
            )
        });
        let node = &mut self.nodes[leader.node as usize];
        let blocked = !node.up || node.blocked_until > self.now;
        let alone = self.clients[p].outbox.in_flight() == 1;
        let idle = !self.requests.values().any(|flying| flying.leader.node == leader.node);
        if idle && alone && self.chance(20) {
            // The broker had closed the idle connection; only the head may go over a new one.
            self.nodes[leader.node as usize].connection += 1;
            leader.connection += 1;
        }
        let (unix_ms, idempotent) = (self.unix_ms(), self.plan.idempotent);
        self.clients[p].ledger.produce(ticket, &batch, leader, unix_ms, idempotent)?;
        if blocked {
            let result = ProduceResult::NotSent { message: "no connection".to_owned() };
            self.after(0, 3 * MS, Happening::Report(p, ticket, ProduceAnswer { result, leader: None }));
        } else {
            self.send(Flying {
                partition: p,
                leader,
                request: Request::Produce { ticket, batch },
                arrived: false,
            });
        }
        Ok(())
    }

    fn init_producer_id(&mut self, p: usize, other_than: Option<i64>) {
        let answer = if self.chance(self.plan.identity_fails) {
            match self.rng.below(3) {
                0 => Ok(ProducerIdentity { id: -1, epoch: -1 }),
                _ => Err("31 CLUSTER_AUTHORIZATION_FAILED".to_owned()),
            }
        } else {
            // One for all partitions, until somebody wants another.
            let known = self.identity.filter(|identity| Some(identity.id) != other_than);
            let identity = known.unwrap_or_else(|| {
                self.next_id += 1;
                ProducerIdentity { id: self.next_id, epoch: self.plan.first_epoch }
            });
            self.identity = Some(identity);
            Ok(identity)
        };
        self.note(|_| format!("p{p} identity {answer:?}"));
        self.after(MS, 20 * MS, Happening::Identified(p, answer));
    }

    pub(super) fn identified(
        &mut self,
        p: usize,
        answer: Result<ProducerIdentity, String>,
    ) -> Result<(), Broken> {
        let now = self.time();
        match answer {
            Ok(identity) => self.clients[p].outbox.on_identity(identity),
            Err(message) => self.clients[p].outbox.on_identity_failed(message, now),
        }
        self.poll(p)
    }

    pub(super) fn report(&mut self, p: usize, ticket: u64, answer: ProduceAnswer) -> Result<(), Broken> {
        self.note(|_| format!("p{p} #{ticket} told: {:?}", answer.result));
        let now = self.time();
        self.clients[p].ledger.answer(ticket, &answer)?;
        if !matches!(answer.result, ProduceResult::Acked { .. }) {
            // An error sends the client for new metadata.
            self.after(2 * MS, 60 * MS, Happening::Learn(p));
        }
        self.clients[p].outbox.on_produced(ticket, answer, now);
        self.take_events(p)?;
        self.poll_some_time(p)
    }

    pub(super) fn described(
        &mut self,
        p: usize,
        state: ProducerState,
        leader: Option<Leader>,
    ) -> Result<(), Broken> {
        self.note(|_| format!("p{p} described: {state:?}"));
        let now = self.time();
        self.clients[p].outbox.on_described_by(leader, state, now);
        if self.plan.moves && !self.healed && self.chance(500) {
            // Between the answer and what is done about it: two things that must not be put together.
            let nodes = self.plan.nodes;
            let node = self.rng.below(nodes as u64) as i32;
            // Rather to another one.
            let node = if self.partitions[p].leader == Some(node) { (node + 1) % nodes } else { node };
            let other = self.partitions[p].leader.is_some_and(|leader| leader != node);
            self.move_leader(p, node)?;
            if other
                && self.partitions[p].leader == Some(node)
                && self.plan.amnesia > 0
                && self.plan.stragglers == 0
            {
                self.clients[p].ledger.forgotten();
                self.partitions[p].restart(Memory::Nothing);
            }
            self.learn(p)?;
        }
        self.poll_some_time(p)
    }

    /// A driver has other things to do, too.
    fn poll_some_time(&mut self, p: usize) -> Result<(), Broken> {
        if self.chance(200) {
            self.after(0, 300 * MS, Happening::Poll(p));
            return Ok(());
        }
        self.poll(p)
    }

    fn ask_store(&mut self, p: usize, ticket: Option<u64>, change: Change) {
        self.note(|_| {
            let told = match &change {
                Change::Save(batches) => format!("{} batches", batches.len()),
                other => format!("{other:?}").chars().take(160).collect(),
            };
            format!("p{p} storage {ticket:?}: {told}")
        });
        let (least, spread) = self.storage_takes(p, ticket);
        self.after(least, spread, Happening::Store(p, ticket, change));
    }

    /// How long a call takes at least, and how much longer it may take.
    fn storage_takes(&mut self, p: usize, ticket: Option<u64>) -> (u64, u64) {
        let hangs = self.plan.storage_hangs > 0 && self.chance(self.plan.storage_hangs);
        let Some(ticket) = ticket.filter(|_| hangs) else { return (200, self.plan.storage_ms * MS) };
        self.note(|_| format!("p{p} storage {ticket} hangs"));
        self.after(50 * MS, 50 * MS, Happening::StoreSlow(p, ticket));
        (100 * MS, 3_000 * MS)
    }

    pub(super) fn store_slow(&mut self, p: usize, ticket: u64) -> Result<(), Broken> {
        let now = self.time();
        self.clients[p].outbox.on_storage_slow(ticket, now);
        self.take_events(p)?;
        self.poll_some_time(p)
    }

    /// The storage has done it, or not.
    pub(super) fn store(&mut self, p: usize, ticket: Option<u64>, change: Change) -> Result<(), Broken> {
        let failed = self.chance(self.plan.storage_fails);
        let full = !failed && self.store.has_no_room(&change, self.plan.capacity);
        let failed = failed || full;
        let error = || {
            let message = "the disk is bad".to_owned();
            Err(if full { StorageError::Full(message) } else { StorageError::Failed(message) })
        };
        let kind = change.clone();
        // A hint that fails is a hint that is lost.
        let positions = match (failed, &change) {
            (true, _) => Vec::new(),
            (false, Change::Save(batches)) if !self.plan.keeps => vec![0; batches.len()],
            (false, _) => self.store.change(p, change, self.unix_ms()),
        };
        self.note(|_| format!("p{p} storage {ticket:?} {}", if failed { "FAILED" } else { "done" }));
        let Some(ticket) = ticket else { return Ok(()) };
        let now = self.time();
        let outbox = &mut self.clients[p].outbox;
        let result = if failed { error() } else { Ok(()) };
        match kind {
            Change::Save(_) => outbox.on_saved(ticket, result.map(|()| positions), now),
            Change::Renumber(_) => outbox.on_renumbered(ticket, result, now),
            Change::Reject(_) | Change::Drop { .. } => outbox.on_rejected(ticket, result, now),
            Change::Commit { .. } => outbox.on_committed(ticket, result, now),
        }
        self.take_events(p)?;
        self.poll_some_time(p)
    }

    pub(super) fn retention(&mut self, p: usize) -> Result<(), Broken> {
        let short = self.plan.short_retention && !self.healed;
        self.clients[p].outbox.on_retention(short.then_some(std::time::Duration::ZERO));
        self.poll_some_time(p)
    }

    pub(super) fn store_read(&mut self, p: usize, ticket: u64, from: u64) -> Result<(), Broken> {
        let failed = self.chance(self.plan.storage_fails);
        let back = match failed {
            true => Err(StorageError::Failed("the disk is bad".to_owned())),
            false => Ok(self.store.read(p, from)),
        };
        self.note(|_| format!("p{p} read from {from}: {:?}", back.as_ref().map(|back| back.batches.len())));
        let now = self.time();
        self.clients[p].outbox.on_read(ticket, back, now);
        self.take_events(p)?;
        self.poll_some_time(p)
    }

    pub(super) fn take_events(&mut self, p: usize) -> Result<(), Broken> {
        while let Some(event) = self.clients[p].outbox.poll_event() {
            self.note(|_| format!("p{p} {event:?}"));
            if let OutboxEvent::NeedsRoom { bytes } = event {
                let now = self.time();
                let others = (0..self.clients.len()).filter(|other| *other != p);
                match others.into_iter().find(|other| self.clients[*other].outbox.make_room(bytes, 0, now)) {
                    Some(other) => self.after(0, MS, Happening::Poll(other)),
                    None => self.clients[p].outbox.no_room_anywhere(),
                }
            }
            if let OutboxEvent::ProvenOnDisk { positions, .. } = &event {
                let batches = self.store.between(p, positions.clone());
                self.clients[p].ledger.proven(&batches)?;
            }
            self.clients[p].ledger.event(&event)?;
        }
        Ok(())
    }
}
