//! Where the batches of a request go, and in which wire requests.
//!
//! Mostly the whole request is one wire request to one broker ([`Plan::Whole`]), and nothing is sorted or looked up
//! twice. Otherwise ([`Plan::Parts`]) each batch finds its own way: several requests where one would be too large, an
//! answer at once where nothing can be sent.

use std::sync::Arc;

use kafka_batcher_core::wire::{Api, REQUEST_OVERHEAD, item_overhead};
use kafka_batcher_core::{Codec, ErrorCode, ProduceAnswer, ProduceResult, Refusal};

use super::{Sent, send_later};
use crate::client::{Client, Connection, Node, Piece, PieceItem, not_sent};
use crate::producer::{PartitionBatch, ProduceRequest};

/// The version of Produce from which on brokers take zstd.
const ZSTD_PRODUCE: i16 = 7;

pub(super) enum Plan {
    /// One wire request, its answers in the order of the batches.
    Whole(Routed),
    Parts(Parts),
}

/// A wire request and the broker it goes to.
pub(super) struct Routed {
    pub(super) node: Arc<Node>,
    pub(super) piece: Piece,
}

/// Several wire requests, and answers that are known already.
pub(super) struct Parts {
    /// With the place of each batch in the request.
    routed: Vec<(Vec<usize>, Routed)>,
    answered: Vec<(usize, ProduceAnswer)>,
}

impl Plan {
    pub(super) fn of(request: ProduceRequest, client: &Client) -> Plan {
        let timeout_ms = i32::try_from(request.timeout.as_millis()).unwrap_or(i32::MAX);
        let mut planner = Planner {
            client,
            acks: request.acks,
            timeout_ms,
            limit: client.settings.max_request_size - REQUEST_OVERHEAD - client.client_id.len().min(900),
            items: Vec::with_capacity(request.batches.len()),
            places: Vec::new(),
            answered: Vec::new(),
        };
        let mut size = 0;
        for (place, batch) in request.batches.into_iter().enumerate() {
            size += planner.route(place, batch);
        }
        planner.plan(size)
    }
}

struct Planner<'a> {
    client: &'a Client,
    acks: i16,
    timeout_ms: i32,
    /// Bytes of batches and their framing in one wire request.
    limit: usize,
    items: Vec<PieceItem>,
    /// The place of each item; empty while item n is batch n.
    places: Vec<usize>,
    answered: Vec<(usize, ProduceAnswer)>,
}

impl Planner<'_> {
    /// Finds out where a batch goes. Returns its size in the wire request.
    fn route(&mut self, place: usize, batch: PartitionBatch) -> usize {
        let size = size_of(&batch);
        let leader = self.client.cluster.leader(&batch.topic, batch.partition);
        let result = match leader {
            _ if size > self.limit => Err(too_large(&batch, self.client.settings.max_request_size)),
            None => {
                self.client.cluster.want_refresh();
                let (topic, partition) = (&batch.topic, batch.partition);
                Err(ProduceResult::NotSent {
                    message: format!("nobody is known to lead {topic}-{partition}"),
                })
            }
            Some(leader) => match batch.leader {
                Some(meant) if meant != leader => Err(ProduceResult::NotSent {
                    message: format!(
                        "the leader of {}-{} changed just now (broker {}, epoch {}, connection {}; now broker {}, \
                         epoch {}, connection {})",
                        batch.topic,
                        batch.partition,
                        meant.node,
                        meant.epoch,
                        meant.connection,
                        leader.node,
                        leader.epoch,
                        leader.connection
                    ),
                }),
                _ => match self.takes_no_zstd(&batch, leader.node) {
                    Some(refused) => Err(refused),
                    None => Ok(leader),
                },
            },
        };
        match result {
            Ok(leader) => {
                if !self.answered.is_empty() {
                    self.places.push(place);
                }
                self.items.push(PieceItem { batch, leader });
                size
            }
            Err(result) => {
                if self.answered.is_empty() {
                    self.places = (0..place).collect();
                }
                self.answered.push((place, ProduceAnswer { result, leader: None }));
                0
            }
        }
    }

    /// zstd needs Produce 7 (KIP-110, Kafka 2.1): to an older broker such a batch is not sent. What it speaks is known while
    /// the connection is open.
    fn takes_no_zstd(&self, batch: &PartitionBatch, node: i32) -> Option<ProduceResult> {
        if batch.batch.codec() != Codec::Zstd {
            return None;
        }
        let newest = self.client.cluster.node(node)?.connection()?.version(Api::Produce)?;
        (newest < ZSTD_PRODUCE).then(|| {
            ProduceResult::Refused(Refusal {
                message: Some(format!(
                    "the batch is compressed with zstd, which broker {node} does not know: it speaks Produce up to version \
                     {newest}, and zstd needs {ZSTD_PRODUCE} (Kafka 2.1, KIP-110); upgrade it, or choose another compression"
                )),
                ..Refusal::code(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE)
            })
        })
    }

    fn plan(mut self, size: usize) -> Plan {
        let in_order = |(a, b): (&PieceItem, &PieceItem)| {
            a.leader.node == b.leader.node
                && (Arc::ptr_eq(&a.batch.topic, &b.batch.topic) || a.batch.topic <= b.batch.topic)
        };
        let whole = self.answered.is_empty()
            && size <= self.limit
            && self.items.iter().zip(self.items.iter().skip(1)).all(in_order);
        if whole
            && let Some(first) = self.items.first()
            && let Some(node) = self.client.cluster.node(first.leader.node)
        {
            let items = std::mem::take(&mut self.items);
            return Plan::Whole(Routed { node, piece: self.piece(items) });
        }
        Plan::Parts(self.parts())
    }

    fn piece(&self, items: Vec<PieceItem>) -> Piece {
        Piece { acks: self.acks, timeout_ms: self.timeout_ms, items }
    }

    fn parts(mut self) -> Parts {
        let items = std::mem::take(&mut self.items);
        let places = std::mem::take(&mut self.places);
        // Where no place was written down, item n is batch n.
        let place = |n: usize| places.get(n).copied().unwrap_or(n);
        let mut items: Vec<(usize, PieceItem)> =
            items.into_iter().enumerate().map(|(n, item)| (place(n), item)).collect();
        items.sort_by(|(_, a), (_, b)| (a.leader.node, &a.batch.topic).cmp(&(b.leader.node, &b.batch.topic)));
        let mut routed: Vec<(Vec<usize>, Vec<PieceItem>)> = Vec::new();
        let mut room = 0;
        for (place, item) in items {
            let size = size_of(&item.batch);
            match routed.last_mut() {
                Some((places, items))
                    if size <= room
                        && items.last().is_some_and(|last| last.leader.node == item.leader.node) =>
                {
                    places.push(place);
                    items.push(item);
                }
                _ => {
                    room = self.limit;
                    routed.push((vec![place], vec![item]));
                }
            }
            room -= size.min(room);
        }
        let mut parts = Parts { routed: Vec::new(), answered: std::mem::take(&mut self.answered) };
        for (places, items) in routed {
            let node = items.first().and_then(|item| self.client.cluster.node(item.leader.node));
            let piece = self.piece(items);
            match node {
                Some(node) => parts.routed.push((places, Routed { node, piece })),
                None => {
                    parts.answered.extend(places.into_iter().zip(not_sent(&piece, "the broker is not known")))
                }
            }
        }
        parts
    }
}

impl Routed {
    /// Sends over the connection that is open; gives itself back if there is none.
    pub(super) fn send_now(self) -> Result<Sending, Routed> {
        match self.node.connection() {
            Some(connection) => Ok(send(&connection, self.piece)),
            None => Err(self),
        }
    }
}

/// A wire request that was handed over, or answered at once.
pub(super) enum Sending {
    Sent(Sent),
    Answered(Vec<ProduceAnswer>),
}

impl Sending {
    pub(super) async fn answers(self) -> Vec<ProduceAnswer> {
        match self {
            Sending::Sent(sent) => sent.answers().await,
            Sending::Answered(answers) => answers,
        }
    }
}

/// Hands a request to a connection, unless it is another than the batches are meant for.
pub(super) fn send(connection: &Arc<Connection>, mut piece: Piece) -> Sending {
    let number = connection.generation();
    // The connection may have been made anew since the leaders were looked up.
    let is_other = |item: &PieceItem| item.leader.connection != number;
    if piece.items.iter().any(is_other) {
        if piece.items.iter().any(|item| item.batch.leader.is_some()) {
            return Sending::Answered(not_sent(&piece, "the connection to the leader changed just now"));
        }
        piece.items.iter_mut().for_each(|item| item.leader.connection = number);
    }
    // Next time the connection is open when the way is looked for, and the answer will be clearer.
    if connection.version(Api::Produce).is_some_and(|newest| newest < ZSTD_PRODUCE)
        && piece.items.iter().any(|item| item.batch.batch.codec() == Codec::Zstd)
    {
        return Sending::Answered(not_sent(&piece, "the broker knows no zstd"));
    }
    let piece = Arc::new(piece);
    let answer = connection.produce(piece.clone());
    Sending::Sent(Sent { piece, answer })
}

impl Parts {
    /// Sends one after the other over the connections that are open, up to the first that is not.
    pub(super) fn send_now(self) -> Begun {
        let mut begun = Begun { under_way: Vec::new(), rest: Vec::new(), answered: self.answered };
        for (places, routed) in self.routed {
            // What comes after one that has to wait waits too: the order is that of the requests.
            let sent = if begun.rest.is_empty() { routed.send_now() } else { Err(routed) };
            match sent {
                Ok(sending) => begun.under_way.push((places, sending)),
                Err(routed) => begun.rest.push((places, routed)),
            }
        }
        begun
    }
}

/// Several wire requests, as many of them sent as could be.
pub(super) struct Begun {
    under_way: Vec<(Vec<usize>, Sending)>,
    rest: Vec<(Vec<usize>, Routed)>,
    answered: Vec<(usize, ProduceAnswer)>,
}

impl Begun {
    /// Sends the rest, then waits for all; the answers come back in the order of the batches.
    pub(super) async fn answers(self, client: &Client) -> Vec<ProduceAnswer> {
        let Begun { mut under_way, rest, mut answered } = self;
        for (places, routed) in rest {
            let sending = match routed.send_now() {
                Ok(sending) => sending,
                Err(routed) => send_later(client, routed).await,
            };
            under_way.push((places, sending));
        }
        for (places, sending) in under_way {
            answered.extend(places.into_iter().zip(sending.answers().await));
        }
        answered.sort_unstable_by_key(|(place, _)| *place);
        answered.into_iter().map(|(_, answer)| answer).collect()
    }
}

fn size_of(batch: &PartitionBatch) -> usize {
    batch.batch.encoded_len() + item_overhead(&batch.topic)
}

/// A broker would close the connection at a request beyond its own limit, again and again: refused here instead, as it
/// refuses a batch that is too large.
fn too_large(batch: &PartitionBatch, limit: usize) -> ProduceResult {
    let size = batch.batch.encoded_len();
    ProduceResult::Refused(Refusal {
        message: Some(format!(
            "a batch of {size} bytes does not fit a request of {limit} bytes (max_request_size)"
        )),
        ..Refusal::code(ErrorCode::MESSAGE_TOO_LARGE)
    })
}
