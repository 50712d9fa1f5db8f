//! The world of one seed: the driver that performs the outboxes' actions, the network, and the faults, as one queue of
//! happenings in virtual time. The same seed gives the same run.

mod driver;
mod faults;
mod network;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::ledger::{Broken, Ledger};
use super::model::{Partition, Received};
use super::plan::Plan;
use super::store::{Change, Store};
use super::{Mutation, PLANTED};
use crate::buffer_pool::{BufferPool, Share};
use crate::delivery::{Leader, ProduceAnswer, ProducerIdentity, ProducerState, Refusal};
use crate::outbox::{Outbox, OutboxSettings, SpoolSettings};
use crate::rng::SplitMix64;
use crate::{BackoffSettings, Time};

const MS: u64 = 1_000;
/// The wall clock at the beginning.
const UNIX_MS: i64 = 1_700_000_000_000;
/// When all is well again everything must be delivered within this virtual time.
const RECOVERS_WITHIN: u64 = 120_000 * MS;
/// No seed needs more happenings than this; one that does is spinning.
const MAX_STEPS: u64 = 100_000;
/// Nor does an outbox have more to do at one instant.
const MAX_ACTIONS: u64 = 64;

/// What happens next.
#[derive(Clone, Debug)]
enum Happening {
    /// A batch of this partition is sealed.
    Seal(usize),
    /// Ask the outbox what to do.
    Poll(usize),
    /// A request reaches the broker.
    Arrive(u64),
    /// The answer reaches the client.
    Answer(u64, Answered),
    /// The client tells the outbox.
    Report(usize, u64, ProduceAnswer),
    Described(usize, ProducerState, Option<Leader>),
    Identified(usize, Result<ProducerIdentity, String>),
    /// The storage performs a call, or fails it.
    Store(usize, Option<u64>, Change),
    StoreRead(usize, u64, u64),
    /// It should have answered by now.
    StoreSlow(usize, u64),
    /// How long the topic keeps events.
    Retention(usize),
    /// Our process is killed, and starts again.
    Crash,
    /// The client learns who leads.
    Learn(usize),
    /// A request whose connection is gone is processed all the same, if the broker still runs that took it in.
    Straggle(usize, Flying),
    /// A node goes down to forget what it just said.
    Spite(i32),
    NodeUp(i32),
    Fault,
    Heal,
}

/// What a broker answers.
#[derive(Clone, Debug)]
enum Answered {
    /// Written at this offset, in this leader's epoch; committed when the answer goes out.
    Ok {
        base_offset: i64,
        epoch: i32,
    },
    Refused(Refusal),
    Described(ProducerState),
}

#[derive(Clone, Debug)]
enum Request {
    Produce { ticket: u64, batch: Received },
    Describe { id: i64 },
}

/// A request on its connection.
#[derive(Clone, Debug)]
struct Flying {
    partition: usize,
    leader: Leader,
    request: Request,
    arrived: bool,
}

#[derive(Clone, Debug, Default)]
struct Node {
    up: bool,
    /// Counts connections.
    connection: u64,
    /// No connection can be made until then.
    blocked_until: u64,
    /// It will remember nothing, if that ever happens in this world.
    spiteful: bool,
    /// Counts its starts: what was in its queue dies with it.
    boots: usize,
    last_arrival: u64,
    last_answer: u64,
}

/// One partition: the outbox, what its driver knows, and the truth.
struct Client {
    outbox: Outbox,
    /// Node, epoch and topic as the client knows them.
    view: Option<(i32, i32, u8)>,
    ledger: Ledger,
    to_seal: u64,
    abandoned: bool,
    timer: Option<u64>,
}

pub(super) struct World {
    plan: Plan,
    rng: SplitMix64,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    requests: HashMap<u64, Flying>,
    next_request: u64,
    nodes: Vec<Node>,
    partitions: Vec<Partition>,
    clients: Vec<Client>,
    store: Store,
    settings: OutboxSettings,
    seed: u64,
    processes: u64,
    identity: Option<ProducerIdentity>,
    next_id: i64,
    healed: bool,
    trace: Option<Vec<String>>,
}

/// A rule that does not hold, when, and how it came to that.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) what: Broken,
    pub(super) trace: Vec<String>,
}

/// What a seed amounted to, so that a run can be seen to be worth something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) in_doubt: u64,
    pub(super) duplicates: u64,
    pub(super) proven: u64,
    pub(super) steps: u64,
}

/// Runs one seed.
pub(super) fn run(seed: u64, mutation: Option<Mutation>, traced: bool) -> Result<Sum, Violation> {
    PLANTED.set(mutation);
    let mut world = World::new(seed, traced);
    let outcome = world.run();
    PLANTED.set(None);
    outcome.map_err(|what| Violation {
        what: format!("{what} (at {} ms)", world.now / MS),
        trace: world.trace.take().unwrap_or_default(),
    })
}

impl World {
    fn new(seed: u64, traced: bool) -> World {
        let mut rng = SplitMix64::new(seed);
        let plan = Plan::draw(&mut rng).draw_more(&mut SplitMix64::new(!seed));
        let settings = OutboxSettings {
            idempotent: plan.idempotent,
            max_in_flight: plan.max_in_flight,
            backoff: BackoffSettings::default(),
            first_sequence: plan.first_sequence,
            delivery_timeout: plan.delivery_timeout_ms.map(Duration::from_millis),
            on_expired_timestamp: plan.on_expired_timestamp,
            required_acks: -1,
            spool: plan.spool.map(|mode| SpoolSettings {
                mode,
                after: Duration::from_millis(plan.spool_after_ms),
                other_cluster: false,
                max_age: plan.max_age_ms.map(Duration::from_millis),
                on_full: plan.on_full,
                replay_expired: false,
                keeps: plan.keeps,
            }),
        };
        let pool = BufferPool::new(1 << 24);
        let client = |partition: usize| Client {
            outbox: {
                let mut outbox =
                    Outbox::new(settings, pool.clone(), Share::new(1 << 24), seed ^ partition as u64);
                outbox.on_cluster(crate::spool::ClusterId("cluster".into()));
                outbox
            },
            view: None,
            ledger: Ledger::default(),
            to_seal: plan.batches,
            abandoned: false,
            timer: None,
        };
        let clients = (0..plan.partitions).map(client).collect();
        let leader = |p: usize| (p as i32) % plan.nodes;
        let partition = |p| Partition::new(1, leader(p), plan.names_culprits, plan.idempotent);
        let partitions = (0..plan.partitions).map(partition).collect();
        let nodes = (0..plan.nodes).map(|_| Node { up: true, ..Node::default() }).collect();
        let mut world = World {
            rng,
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            requests: HashMap::new(),
            next_request: 0,
            nodes,
            partitions,
            clients,
            store: Store::new(plan.partitions),
            settings,
            seed,
            processes: 0,
            identity: None,
            next_id: 40,
            healed: false,
            trace: traced.then(Vec::new),
            plan,
        };
        world.note(|w| format!("{:?}", w.plan));
        for p in 0..world.plan.partitions {
            world.after(0, 50 * MS, Happening::Learn(p));
            world.after(0, 20 * MS, Happening::Seal(p));
        }
        world.after(0, world.plan.fault_every_ms * MS, Happening::Fault);
        world.queue.insert((world.plan.faults_for_ms * MS, u64::MAX), Happening::Heal);
        world
    }

    fn note(&mut self, words: impl FnOnce(&World) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>9.1} {}", self.now as f64 / MS as f64, words(self));
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }

    /// Between `least` and `least + spread` microseconds from now.
    fn after(&mut self, least: u64, spread: u64, happening: Happening) {
        let at = self.now + least + self.rng.below(spread + 1);
        self.at(at, happening);
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((at, self.order), happening);
    }

    /// True in so many of a thousand cases; never after the faults have ended.
    fn chance(&mut self, per_mille: u64) -> bool {
        !self.healed && self.rng.below(1_000) < per_mille
    }

    fn time(&self) -> Time {
        Time::from_micros(self.now)
    }

    fn unix_ms(&self) -> i64 {
        UNIX_MS + (self.now / MS) as i64
    }

    fn is_done(&self) -> bool {
        // With a spool, another process follows upon one that ended.
        let spool = self.plan.spool.is_some();
        let ended =
            |c: &Client| if spool { c.to_seal == 0 && !c.abandoned } else { c.to_seal == 0 || c.abandoned };
        self.healed && self.clients.iter().all(|c| c.outbox.is_empty() && ended(c))
    }

    fn run(&mut self) -> Result<Sum, Broken> {
        let mut steps = 0;
        while !self.is_done() {
            let Some(((at, _), happening)) = self.queue.pop_first() else {
                return Err("stuck: nothing will happen any more".to_owned());
            };
            self.now = at;
            steps += 1;
            if self.now > self.plan.faults_for_ms * MS + RECOVERS_WITHIN {
                return Err("not everything was delivered although all has been well for minutes".to_owned());
            }
            if steps > MAX_STEPS {
                return Err("too many steps: somebody asks without pause".to_owned());
            }
            self.happen(happening)?;
            for p in 0..self.clients.len() {
                let client = &self.clients[p];
                if let Err(broken) = client.ledger.check(&client.outbox.tally()) {
                    self.note(|w| format!("p{p} is {}", w.clients[p].outbox.describe()));
                    return Err(broken);
                }
            }
        }
        let mut sum = Sum { steps, ..Sum::default() };
        for client in &self.clients {
            client.ledger.check_settled()?;
            let [delivered, lost, in_doubt, duplicates] = client.ledger.summary();
            sum.delivered += delivered;
            sum.lost += lost;
            sum.in_doubt += in_doubt;
            sum.duplicates += duplicates;
            sum.proven += client.outbox.tally().proven;
        }
        Ok(sum)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::Seal(p) => self.seal(p),
            Happening::Poll(p) => self.poll(p),
            Happening::Arrive(request) => self.arrive(request),
            Happening::Answer(request, answer) => {
                self.answer(request, answer);
                Ok(())
            }
            Happening::Report(p, ticket, answer) => self.report(p, ticket, answer),
            Happening::Described(p, state, leader) => self.described(p, state, leader),
            Happening::Identified(p, answer) => self.identified(p, answer),
            Happening::Store(p, ticket, change) => self.store(p, ticket, change),
            Happening::Retention(p) => self.retention(p),
            Happening::StoreRead(p, ticket, from) => self.store_read(p, ticket, from),
            Happening::StoreSlow(p, ticket) => self.store_slow(p, ticket),
            Happening::Crash => self.crash(),
            Happening::Learn(p) => self.learn(p),
            Happening::Straggle(boots, flying) => self.straggle(boots, &flying),
            Happening::Spite(node) => self.spite(node),
            Happening::NodeUp(node) => {
                self.node_up(node);
                Ok(())
            }
            Happening::Fault => self.fault(),
            Happening::Heal => self.heal(),
        }
    }
}
