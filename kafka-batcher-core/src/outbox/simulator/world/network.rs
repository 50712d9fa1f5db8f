//! Connections and brokers: requests of one connection arrive and are answered in order; a connection that breaks takes
//! with it what had not arrived (or lets it straggle in later) and the answers that were on their way.

use super::{Answered, Flying, Happening, MS, Request, World};
use crate::ErrorCode;
use crate::delivery::{ProduceAnswer, ProduceResult, ProducerState, Refusal};
use crate::outbox::simulator::ledger::Broken;
use crate::outbox::simulator::model::{Appended, Received};

impl World {
    pub(super) fn send(&mut self, flying: Flying) {
        let node = flying.leader.node as usize;
        let delay = 200 + self.rng.below(3 * MS);
        let at = (self.now + delay).max(self.nodes[node].last_arrival);
        self.nodes[node].last_arrival = at;
        let request = self.next_request;
        self.next_request += 1;
        self.requests.insert(request, flying);
        self.at(at, Happening::Arrive(request));
    }

    pub(super) fn arrive(&mut self, request: u64) -> Result<(), Broken> {
        let Some(flying) = self.requests.get_mut(&request) else { return Ok(()) };
        flying.arrived = true;
        let flying = flying.clone();
        let node = flying.leader.node;
        let answer = match &flying.request {
            Request::Produce { batch, .. } => {
                self.append(flying.partition, flying.leader.topic_id.0[0], node, batch)?
            }
            Request::Describe { id } => {
                let partition = &self.partitions[flying.partition];
                let there =
                    partition.leader == Some(node) && [partition.topic; 16] == flying.leader.topic_id.0;
                let state = partition.describe(*id);
                Answered::Described(match there {
                    _ if self.plan.unanswerable => ProducerState::Unanswerable,
                    true if !self.chance(100) => state,
                    _ => ProducerState::Failed { message: "not now".to_owned() },
                })
            }
        };
        let telling = match &answer {
            Answered::Described(_) => true,
            Answered::Refused(refusal) => refusal.code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            Answered::Ok { .. } => false,
        };
        if telling && self.plan.restarts && self.chance(800) {
            // Out of spite: what the client learned just now is not true any more when it acts upon it.
            self.after(3 * MS, 10 * MS, Happening::Spite(node));
        }
        if self.chance(self.plan.break_connection) {
            self.break_connection(node);
            return Ok(());
        }
        let slow = if self.chance(100) { 400 * MS } else { 3 * MS };
        let at = (self.now + 200 + self.rng.below(slow)).max(self.nodes[node as usize].last_answer);
        self.nodes[node as usize].last_answer = at;
        self.at(at, Happening::Answer(request, answer));
        Ok(())
    }

    fn append(&mut self, p: usize, topic: u8, node: i32, batch: &Received) -> Result<Answered, Broken> {
        let refused = |code| Answered::Refused(Refusal::code(code));
        if self.partitions[p].topic != topic {
            return Ok(refused(ErrorCode::UNKNOWN_TOPIC_ID));
        }
        if self.partitions[p].leader != Some(node) {
            return Ok(refused(ErrorCode::NOT_LEADER_OR_FOLLOWER));
        }
        let injected = if self.chance(self.plan.refuse) { Some(self.rng.below(7)) } else { None };
        match injected {
            Some(0) => return Ok(refused(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
            Some(1) => return Ok(refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),
            Some(2) => return Ok(refused(ErrorCode::NOT_ENOUGH_REPLICAS)),
            Some(3) if self.plan.idempotent && self.rng.below(4) == 0 => {
                return Ok(refused(ErrorCode::UNKNOWN_PRODUCER_ID));
            }
            Some(4) if self.rng.below(2) == 0 => return Ok(refused(ErrorCode::UNKNOWN_SERVER_ERROR)),
            _ => {}
        }
        let appended = self.partitions[p].append(batch);
        self.note(|_| format!("p{p} broker: {}/{}/{} {appended:?}", batch.id, batch.epoch, batch.first));
        let base_offset = match appended {
            Appended::No(refusal) => return Ok(Answered::Refused(refusal)),
            Appended::Before(base_offset) => base_offset,
            Appended::Now(base_offset) => {
                self.clients[p].ledger.appear(batch, false)?;
                base_offset
            }
        };
        // Written, and the broker does not say so. With acks = 1 it does not wait for replicas.
        match injected {
            Some(4) => Ok(refused(ErrorCode::UNKNOWN_SERVER_ERROR)),
            Some(5) if self.plan.idempotent => Ok(refused(ErrorCode::REQUEST_TIMED_OUT)),
            Some(6) if self.plan.idempotent => Ok(refused(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND)),
            _ => Ok(Answered::Ok { base_offset, epoch: self.partitions[p].epoch }),
        }
    }

    pub(super) fn answer(&mut self, request: u64, answer: Answered) {
        let Some(flying) = self.requests.remove(&request) else { return };
        let p = flying.partition;
        let result = match answer {
            Answered::Described(state) => {
                self.after(0, 0, Happening::Described(p, state, Some(flying.leader)));
                return;
            }
            Answered::Refused(refusal) => ProduceResult::Refused(refusal),
            Answered::Ok { base_offset, epoch } => {
                let partition = &mut self.partitions[p];
                let still = partition.epoch == epoch && [partition.topic; 16] == flying.leader.topic_id.0;
                if still || !self.plan.idempotent {
                    partition.commit(base_offset);
                    ProduceResult::Acked { base_offset: Some(base_offset) }
                } else {
                    // It waited for its replicas when the leader changed: written, perhaps, and not acknowledged.
                    ProduceResult::Refused(Refusal::code(ErrorCode::NOT_LEADER_OR_FOLLOWER))
                }
            }
        };
        if let Request::Produce { ticket, .. } = flying.request {
            let answer = ProduceAnswer { result, leader: Some(flying.leader) };
            let shuffle = if self.plan.shuffled_reports { 3 * MS } else { 0 };
            self.after(0, shuffle, Happening::Report(p, ticket, answer));
        }
    }

    /// The connection to a node is gone, and with it every request and answer on it.
    pub(super) fn break_connection(&mut self, node: i32) {
        self.note(|_| format!("connection to {node} breaks"));
        let mut gone: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, flying)| flying.leader.node == node)
            .map(|(id, _)| *id)
            .collect();
        gone.sort_unstable();
        let until = self.now + 2 * MS + self.rng.below(30 * MS);
        let up = self.nodes[node as usize].up;
        let known = &mut self.nodes[node as usize];
        known.connection += 1;
        known.blocked_until = until;
        known.last_arrival = 0;
        known.last_answer = 0;
        let mut late = self.now;
        for request in gone {
            let Some(flying) = self.requests.remove(&request) else { continue };
            let p = flying.partition;
            match &flying.request {
                Request::Describe { .. } => {
                    let state = ProducerState::Failed { message: "connection lost".to_owned() };
                    self.after(0, 2 * MS, Happening::Described(p, state, Some(flying.leader)));
                }
                Request::Produce { ticket, .. } => {
                    let ticket = *ticket;
                    if !flying.arrived && up && self.chance(self.plan.stragglers) {
                        // In the broker's queue already. It is processed in order, some time.
                        let most = if self.rng.below(10) == 0 { 2_000 * MS } else { 20 * MS };
                        late += self.rng.below(most);
                        let boots = self.nodes[node as usize].boots;
                        self.at(late, Happening::Straggle(boots, flying.clone()));
                    }
                    let result = ProduceResult::Lost { message: "connection lost".to_owned() };
                    let answer = ProduceAnswer { result, leader: Some(flying.leader) };
                    self.after(0, 2 * MS, Happening::Report(p, ticket, answer));
                }
            }
        }
    }

    pub(super) fn straggle(&mut self, boots: usize, flying: &Flying) -> Result<(), Broken> {
        let (p, leader) = (flying.partition, flying.leader);
        let node = &self.nodes[leader.node as usize];
        let there = node.up && node.boots == boots;
        let partition = &mut self.partitions[p];
        let leads = partition.leader == Some(leader.node) && [partition.topic; 16] == leader.topic_id.0;
        if let (true, Request::Produce { batch, .. }) = (there && leads, &flying.request) {
            let appended = partition.append(batch);
            self.note(|_| {
                format!("p{p} straggler {}/{}/{}: {appended:?}", batch.id, batch.epoch, batch.first)
            });
            if let Appended::Now(_) = appended {
                self.clients[p].ledger.appear(batch, true)?;
            }
        }
        Ok(())
    }
}
