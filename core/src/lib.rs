//! WAL, checkpoints, object store and shards of Heddle; no glommio.

#![forbid(unsafe_code)]

pub mod wal;
