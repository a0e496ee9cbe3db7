//! Vote and log of a Raft node in one append-only file.
//!
//! One file, because vote and entries must reach the disk in the order in which openraft wrote
//! them. Every write is a batch of whole pages behind the last one, durable before it is reported:
//! bytes that were reported are never written again. Truncation and purging are records too; when
//! the file is full or mostly dead, the state is written into a new file that takes its name.

mod error;
mod file;
pub(super) mod format;
mod memory;
mod store;

pub use error::LogError;
pub use store::{LogReader, RaftLog};
