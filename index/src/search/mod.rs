//! Searching a view: requests, hits, and the walk that finds them.

pub(crate) mod descent;
pub(crate) mod filtered;
pub(crate) mod pool;
pub(crate) mod prepared;
pub(crate) mod scratch;
mod task;

pub use descent::CandidatesTask;
pub use scratch::Scratch;
pub use task::SearchTask;

use crate::Slot;
use crate::bitmap::SlotBitmap;

/// What to look for, beside the query vector.
#[derive(Clone, Copy, Debug)]
pub struct SearchRequest<'a> {
    /// Number of hits wanted.
    pub k: u32,
    /// Candidates kept during the walk; values below `k` count as `k`.
    pub ef: u32,
    /// Only these slots may be hits.
    pub filter: Option<&'a SlotBitmap>,
    /// Only hits at most this far, in the metric's own values.
    pub max_distance: Option<f32>,
}

impl SearchRequest<'_> {
    /// The nearest `k` with `ef` candidates, unfiltered.
    #[must_use]
    pub fn new(k: u32, ef: u32) -> Self {
        Self { k, ef, filter: None, max_distance: None }
    }
}

/// One result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Where the object lies.
    pub slot: Slot,
    /// Its distance in the metric's own values.
    pub distance: f32,
}

/// How a search went about it in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// A walk without a filter.
    #[default]
    Plain,
    /// A walk over all nodes that collects the passing ones.
    Collect,
    /// A walk over passing nodes alone, which looks through the others to their neighbours.
    TwoHop,
    /// A scan of every passing row.
    Scan,
}

impl Strategy {
    /// A short name for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Collect => "collect",
            Self::TwoHop => "two-hop",
            Self::Scan => "scan",
        }
    }
}

/// What a search cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Distances computed.
    pub evaluations: u64,
    /// Distances computed again, from more than codes; zero for an index without codes.
    pub rescored: u64,
    /// Rows that a scan looked at by their signs alone or first.
    pub glanced: u64,
    /// Neighbour lists read.
    pub hops: u64,
    /// All passing rows were scanned. The hits are exact, but for rows that their signs ruled out
    /// wrongly: a few in a million without a filter or with a distance limit, up to one in 40 of
    /// those at the very end of the hits with a filter.
    pub exact: bool,
    /// How the search ended.
    pub strategy: Strategy,
    /// How often the walk was widened because too few hits passed.
    pub widened: u32,
}

#[cfg(test)]
mod tests;
