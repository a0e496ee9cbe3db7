//! Deterministic simulator of Heddle's storage on a faulty disk.
//!
//! [`SimDisk`] is a [`heddle_types::Device`] in memory that knows, sector by sector, what a power
//! cut would leave; [`SimClock`] is time that moves only when told to; [`SimHost`] runs Raft in
//! virtual time. Everything derives from one seed, so a failure that prints its seed can be run
//! again.

#![forbid(unsafe_code)]

mod clock;
mod disk;
mod host;
pub mod raft;
mod random;
pub mod replicas;

pub use clock::SimClock;
pub use disk::{Crash, Fault, SimDisk, SimFile};
pub use host::SimHost;
pub use random::Random;
