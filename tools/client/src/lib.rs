//! Shard-aware client of Heddle's native protocol.
