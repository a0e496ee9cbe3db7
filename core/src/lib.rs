//! WAL, checkpoints, object store and shards of Heddle; no glommio.

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod engine;
pub mod hints;
pub mod objects;
pub mod property;
pub mod shard;
pub mod validate;
pub mod wal;

#[cfg(test)]
mod testing;
