//! Sockets: reading frames, one task a connection, connections opened when first needed.

mod connection;
mod frames;
mod pool;

pub(crate) use connection::{Failure, ReplyFrame};
pub(crate) use pool::{Lease, Pool};
