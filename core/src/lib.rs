//! WAL, checkpoints, object store and shards of Heddle; no glommio.
