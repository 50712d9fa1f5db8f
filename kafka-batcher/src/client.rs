//! A pure-Rust Kafka client, as much of one as a producer needs.
//!
//! - [`Endpoint`]: an address to find the cluster by; [`ClientSettings`]: everything that can be set;
//! - `metadata`: what is known of the cluster, and the rules by which news of it is believed. A value, no I/O;
//! - `cluster`: that knowledge shared, with a node for each broker;
//! - `connect`: name resolution, connecting, TLS, version negotiation, login;
//! - `transport`, `tls`: a connection's bytes, encrypted or not; whom to trust, and the words for what fails;
//! - `sasl`: how to log in;
//! - `connection`: one connection: requests out, answers in, in order;
//! - `sink`: writes requests to a socket, many partitions in one vectored write;
//! - `answers`: the answer to a Produce request, matched with what was sent;
//! - `bootstrap`: finding somebody to ask, again and again.
//!
//! The implementation of [`Producer`](crate::producer::Producer) on top of it is
//! [`NativeProducer`](crate::producer::native::NativeProducer).

mod answers;
mod bootstrap;
mod cluster;
mod connect;
mod connection;
mod endpoint;
mod metadata;
mod node;
mod sasl;
mod settings;
mod sink;
mod tls;
mod transport;

#[cfg(test)]
pub(crate) use answers::tests;
pub(crate) use answers::{lost, not_sent};
pub(crate) use bootstrap::{Client, backoff_of, keep_fresh, name};
pub(crate) use connection::Connection;
pub use endpoint::{Endpoint, EndpointError};
pub(crate) use node::Node;
pub(crate) use sasl::check as check_sasl;
#[cfg(feature = "rdkafka")]
pub(crate) use sasl::password_now;
pub use sasl::{SaslMechanism, Token, TokenProvider};
pub use settings::{ClientSettings, ClientSettingsError};
pub(crate) use sink::{Piece, PieceItem};
pub(crate) use tls::check as check_tls;
