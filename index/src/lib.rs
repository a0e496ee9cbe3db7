//! Distance kernels, HNSW graph and exact search of Heddle; pure compute.
//!
//! A shard has one slot space: a *slot* is the position of an object, the same in the
//! [`SlotDirectory`] and in every vector index of the shard. Types are of two kinds:
//!
//! - **views** (`SlotDirectory`, `VectorView`): `Send + Sync`, read by any core;
//! - **writers** (`DirectoryWriter`, `VectorWriter`): owned by the home core, which alone mutates.
//!
//! A reader takes a [`Pin`], then the views, searches, translates slots to ids and drops the pin.
//! The home core makes slots unreachable (`kill`, `sweep_step`), retires an epoch and frees them;
//! they are handed out again only when no pin is older than the epoch.
//!
//! Absent by intent: IO, clocks, threads, async, locks, and any other crate of Heddle.
#![deny(unsafe_code)]

mod arena;
mod batch;
mod bitmap;
mod candidates;
mod codes;
mod directory;
pub mod distance;
mod error;
mod graph_stats;
mod image;
mod instruction_set;
pub mod limits;
mod params;
mod planes;
mod quiescence;
mod search;
mod view;
mod writer;

pub use batch::{Choice, LinkBatch, LinkRows, PrunedRows};
pub use bitmap::SlotBitmap;
pub use candidates::Candidates;
pub use codes::{KernelProbe, ProbeWork};
pub use directory::{DirectoryRestorer, DirectoryWriter, SlotDirectory};
pub use error::IndexError;
pub use graph_stats::GraphStats;
pub use image::{ImageSection, Restorer};
pub use instruction_set::{KERNELS_AUTO, KernelsError, check_kernels, kernel_names, limit_kernels};
pub use params::{Codes, IndexKind, IndexParams, Metric, RawVectors};
pub use planes::PlaneBytes;
pub use quiescence::{Pin, Quiescence, Reader};
pub use search::{CandidatesTask, Hit, Scratch, SearchRequest, SearchStats, SearchTask, Strategy};
pub use view::{IndexStats, VectorView};
pub use writer::{LinkScratch, SweepState, VectorWriter};

/// Position of an object in its shard.
pub type Slot = u32;

#[cfg(test)]
mod testing;
