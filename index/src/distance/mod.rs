//! Distance kernels: scalar definitions, and fast forms chosen once for the machine.
//!
//! Rows of an index are padded with zeros to whole 64-byte lines, which changes none of the
//! distances, so the form that reads many rows has no tail. It takes slot numbers and computes
//! addresses itself, fetching the rows ahead of the one it works on: one indirect call per hop.
//!
//! Inside the index the dot product is negated and a cosine distance is the negated dot product of
//! unit vectors ("raw" distances); [`crate::Metric`] values are made at the end of a search.
#![allow(unsafe_code, reason = "vector instructions and rows addressed by slot")]

#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod blocks;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod prefetch;
pub mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use crate::instruction_set::{self, InstructionSet};
use crate::params::Metric;
pub(crate) use prefetch::prefetch;

/// Rows of one vector arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// First float of slot 0.
    pub(crate) base: *const f32,
    /// Floats from one row to the next; a multiple of [`crate::limits::LANE_FLOATS`].
    pub(crate) stride: usize,
}

impl Rows {
    /// Address of a row; only computed, not read.
    #[inline(always)]
    fn row(self, slot: u32) -> *const f32 {
        self.base.wrapping_add(slot as usize * self.stride)
    }
}

/// Distance of two vectors of equal length.
pub(crate) type PairFn = unsafe fn(&[f32], &[f32]) -> f32;

/// Distances of one padded query (`[stride]`) to the rows of `slots`, into `out` (`[slots]`).
pub(crate) type ManyFn = unsafe fn(&[f32], Rows, &[u32], &mut [f32]);

/// The kernels of one metric on this machine.
#[derive(Debug)]
pub(crate) struct Kernels {
    /// The instructions that the kernels need.
    pub(crate) set: InstructionSet,
    pair: PairFn,
    many: ManyFn,
}

impl Kernels {
    /// Raw distance of two vectors.
    ///
    /// Panics: lengths differ (a bug of the index).
    #[inline]
    pub(crate) fn pair(&self, left: &[f32], right: &[f32]) -> f32 {
        assert_eq!(left.len(), right.len());
        // SAFETY: the kernel needs an instruction set that `available` found on this machine, and
        // equal lengths (asserted).
        unsafe { (self.pair)(left, right) }
    }

    /// Raw distances of `query` to the rows of `slots`.
    ///
    /// # Safety
    /// Every row of `slots` must lie in committed memory and be published to this core.
    #[inline]
    pub(crate) unsafe fn many(&self, query: &[f32], rows: Rows, slots: &[u32], out: &mut [f32]) {
        assert_eq!(query.len(), rows.stride);
        assert_eq!(slots.len(), out.len());
        // SAFETY: the instruction set exists (see `pair`), lengths are asserted, and the caller
        // vouches for the rows.
        unsafe { (self.many)(query, rows, slots, out) }
    }
}

/// Which raw function a metric uses: cosine walks on the negated dot product.
const fn family(metric: Metric) -> usize {
    match metric {
        Metric::L2Squared => 0,
        Metric::Cosine | Metric::Dot => 1,
        Metric::Manhattan => 2,
        Metric::Hamming => 3,
    }
}

/// Every table that can run on this machine, best first.
pub(crate) fn available() -> &'static [[Kernels; 4]] {
    static TABLES: OnceLock<Vec<[Kernels; 4]>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut tables = Vec::new();
        #[cfg(target_arch = "x86_64")]
        x86::append_available(&mut tables);
        #[cfg(target_arch = "aarch64")]
        neon::append_available(&mut tables);
        tables.push(portable::table());
        tables
    })
}

/// The fastest kernels for a metric that this process may use; detection runs once.
pub(crate) fn kernels(metric: Metric) -> &'static Kernels {
    let limit = instruction_set::limit();
    let allowed = available().iter().find(|table| table[0].set <= limit);
    &allowed.expect("plain kernels are always there and always allowed")[family(metric)]
}

/// The kernels of a metric in a table of [`available`].
pub(crate) fn of_table(table: &'static [Kernels; 4], metric: Metric) -> &'static Kernels {
    &table[family(metric)]
}

/// Distance as its users define it, from the raw one.
#[inline]
pub(crate) fn from_raw(metric: Metric, raw: f32) -> f32 {
    // Rounding can put the similarity of a vector with itself a little above one.
    if metric == Metric::Cosine { (1.0 + raw).max(0.0) } else { raw }
}

/// Raw distance from the one users state (a threshold).
#[inline]
pub(crate) fn to_raw(metric: Metric, distance: f32) -> f32 {
    if metric == Metric::Cosine { distance - 1.0 } else { distance }
}

/// Exact distance of two vectors under a metric, for callers outside a search (re-ranking, tests).
///
/// Shapes: both `[dims]`, equal length, finite; any length of the vectors is allowed under cosine.
/// Panics: lengths differ (a caller bug). Cost: one pass (three under cosine), no allocation.
#[must_use]
pub fn distance(metric: Metric, left: &[f32], right: &[f32]) -> f32 {
    let raw = kernels(metric).pair(left, right);
    if metric != Metric::Cosine {
        return raw;
    }
    let kernel = kernels(Metric::Dot);
    let norms = (kernel.pair(left, left) * kernel.pair(right, right)).sqrt();
    if norms > 0.0 { (1.0 + raw / norms).max(0.0) } else { 1.0 }
}

#[cfg(test)]
mod tests;
