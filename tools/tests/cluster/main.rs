//! Clusters of real processes: coming together, deciding together, and living on without some.

#![expect(clippy::unwrap_used, reason = "in the support of tests a panic is a failed test")]
#![expect(
    clippy::disallowed_methods,
    reason = "faults come at times, and a test gives up after some; no core of a node runs here"
)]

#[path = "../support/mod.rs"]
mod support;

mod data;
mod gossip;
mod harness;
mod membership;
mod namespaces;
mod replicas;
mod schema;
mod tenants;
