//! Native server, HTTP endpoints and node composition of Heddle.
//!
//! A node is a set of cores that share nothing but published views of shards. Every data core runs
//! the same tasks: listeners and connections (`server`), the work on requests (`dispatch`), the
//! engine of the shards that are at home on it (`home`, `background`). The meta core keeps the
//! catalog (`meta`), conducts start and stop (`boot`) and serves HTTP (`http`). Cores talk by
//! the requests of `message` alone.
//!
//! Floor 4: knows everything below it.

#![forbid(unsafe_code)]

mod admission;
mod background;
mod backup;
mod boot;
mod cluster;
pub mod config;
mod core;
mod disk;
mod dispatch;
mod gossip;
mod health;
pub mod heap;
mod hints;
mod home;
mod http;
pub mod identity;
mod lifecycle;
mod limits;
mod memory;
mod message;
mod meta;
mod metrics;
mod node;
mod nodes;
mod peer;
pub mod raft_host;
mod registry;
mod repair;
mod report;
pub mod resolve;
mod server;
mod shared;
mod status;
#[cfg(test)]
mod testing;

pub use config::{ConfigError, HostPort, LogLevel, NodeConfig, Role};
pub use node::{StartError, run};
pub use nodes::PeerNode;
pub use shared::ReadyReport;
