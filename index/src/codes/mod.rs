//! Compact codes of vectors: made from one vector alone, without training.
//!
//! A vector is rotated ([`rotation`]) and each component is rounded to a few bits `w`. The *walk
//! plane* holds these; a graph walk estimates distances from it. The *refine plane* holds what is
//! left, `x - m w`, in eight bits a component with a scale of its own; both planes together give
//! nearly the exact vector. A few *factors* per vector carry the scales:
//!
//! | factor | meaning |
//! |---|---|
//! | `multiplier` | `m = <x, x> / <x, w>`: makes `m <q, w>` an unbiased estimate of `<q, x>` |
//! | `norm2` | `<x, x>`, absent under cosine, where it is one |
//! | `scales` | two bfloat16: the scale of the refine plane and the spread of the error |
//!
//! The error `x - m w` is orthogonal to `x` by the choice of `m`, and after the rotation it points
//! in no special direction. So the estimate of `<q, x>` errs like a normal variable whose spread
//! is `|x - m w| / sqrt(D - 1)` times the part of `q` that is orthogonal to `x`, which is small for
//! near neighbours. Source: Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a
//! Theoretical Error Bound", section 3; the codes, the rotation and the refine plane are our own.
//!
//! The walk is computed on integers, and every floating point step has one fixed order, so that
//! estimates, and graphs built on them, are the same on every machine.
#![allow(unsafe_code, reason = "vector instructions, aligned buffers, rows addressed by slot")]

mod encode;
mod half;
mod kernels;
mod lines;
mod probe;
mod query;
mod rotation;
mod scalar;
mod signs;

pub use probe::{KernelProbe, ProbeWork};
pub(crate) use query::CodeQuery;
pub(crate) use signs::Signs;

use crate::instruction_set::InstructionSet;
use crate::params::{Codes, Metric};
use kernels::Kernels;
use lines::{FloatLines, LINE_BYTES};
use rotation::Rotation;

/// Whether this machine has kernels of an instruction set.
pub(crate) fn has_kernels_of(set: InstructionSet) -> bool {
    kernels::available().iter().any(|table| table.set == set)
}

/// What an estimate is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Squared distance.
    L2,
    /// Negated dot product of vectors of any length.
    Dot,
    /// Negated dot product of vectors of unit length.
    Unit,
}

/// Sizes of the planes of one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeLayout {
    /// Components of a vector.
    pub(crate) dims: usize,
    /// Components after padding.
    pub(crate) padded_dims: usize,
    /// Bytes of a row of the walk plane, whole lines.
    pub(crate) walk_row_bytes: usize,
    /// Bytes of a row of the refine plane, whole lines; zero when the code has none.
    pub(crate) refine_row_bytes: usize,
    /// Factors of a vector, `f32` each.
    pub(crate) factor_count: usize,
}

/// Rows of the walk plane with their factors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeRows {
    /// First byte of slot 0, at a line.
    pub(crate) base: *const u8,
    /// Bytes from one row to the next: [`CodeLayout::walk_row_bytes`].
    pub(crate) row_bytes: usize,
    /// First factor of slot 0; [`CodeLayout::factor_count`] a slot.
    pub(crate) factors: *const f32,
    /// [`CodeLayout::factor_count`].
    pub(crate) factor_count: usize,
}

impl CodeRows {
    /// Address of a row; only computed, not read.
    #[inline(always)]
    fn row(self, slot: u32) -> *const u8 {
        self.base.wrapping_add(slot as usize * self.row_bytes)
    }

    /// Address of the factors of a slot; only computed, not read.
    #[inline(always)]
    fn factors_of(self, slot: u32) -> *const f32 {
        self.factors.wrapping_add(slot as usize * self.factor_count)
    }
}

/// Rows of the refine plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefineRows {
    /// First byte of slot 0, at a line.
    pub(crate) base: *const u8,
    /// Bytes from one row to the next: [`CodeLayout::refine_row_bytes`].
    pub(crate) row_bytes: usize,
}

impl RefineRows {
    /// Address of a row; only computed, not read.
    #[inline(always)]
    fn row(self, slot: u32) -> *const u8 {
        self.base.wrapping_add(slot as usize * self.row_bytes)
    }
}

/// Buffers of [`Codec::encode`] and [`Codec::decode`]; grow once.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodecScratch {
    /// The rotated vector.
    rotated: FloatLines,
    /// The walk plane as numbers.
    walk: FloatLines,
}

/// Makes codes of one kind and computes distances on them.
#[derive(Debug)]
pub(crate) struct Codec {
    codes: Codes,
    family: Family,
    layout: CodeLayout,
    /// None for half-precision rows, which rest unrotated.
    rotation: Option<Rotation>,
    kernels: &'static Kernels,
}

/// How many spreads of the error [`Codec::margin`] allows: a normal variable leaves them in 0.27 %
/// of the cases, on both sides together.
const MARGIN_SPREADS: f32 = 3.0;

impl Codec {
    /// The codec of a kind of code for vectors of `dims` components; none when vectors stay as they
    /// are, or the metric has no codes (Manhattan, Hamming).
    pub(crate) fn new(codes: Codes, dims: usize, metric: Metric) -> Option<Self> {
        Self::with_kernels(codes, dims, metric, kernels::best())
    }

    /// The same on a chosen instruction set.
    fn with_kernels(
        codes: Codes,
        dims: usize,
        metric: Metric,
        kernels: &'static Kernels,
    ) -> Option<Self> {
        let family = match metric {
            Metric::L2Squared => Family::L2,
            Metric::Dot => Family::Dot,
            Metric::Cosine => Family::Unit,
            Metric::Manhattan | Metric::Hamming => return None,
        };
        let (padded_dims, walk_row_bytes) = match codes {
            Codes::None => return None,
            Codes::Half => (dims.next_multiple_of(32), 2 * dims.next_multiple_of(32)),
            Codes::EightBit => (dims.next_multiple_of(64), dims.next_multiple_of(64)),
            Codes::FourBit => (dims.next_multiple_of(128), dims.next_multiple_of(128) / 2),
            Codes::OneBit => {
                let padded = dims.next_multiple_of(64);
                (padded, (padded / 8).next_multiple_of(LINE_BYTES))
            }
        };
        let is_rotated = codes != Codes::Half;
        let layout = CodeLayout {
            dims,
            padded_dims,
            walk_row_bytes,
            refine_row_bytes: if is_rotated { padded_dims } else { 0 },
            factor_count: if family == Family::Unit { 2 } else { 3 },
        };
        let rotation = is_rotated.then(|| Rotation::new(padded_dims));
        Some(Self { codes, family, layout, rotation, kernels })
    }

    /// Sizes of the planes.
    pub(crate) fn layout(&self) -> &CodeLayout {
        &self.layout
    }

    /// Name of the instruction set, for reports.
    pub(crate) fn kernel_name(&self) -> &'static str {
        self.kernels.set.name()
    }

    /// Rotates whatever a buffer holds, for the benchmark of the rotation.
    fn rotate_once(&self, scratch: &mut CodecScratch) -> f32 {
        scratch.rotated.resize(self.layout.padded_dims);
        let vector = &mut scratch.rotated.floats_mut()[..self.layout.padded_dims];
        if let Some(rotation) = &self.rotation {
            // SAFETY: the table's instruction set was found on this machine.
            unsafe { (self.kernels.rotate)(rotation, vector) };
        }
        vector[0]
    }

    /// Estimated raw distances of a query to the rows of `slots`, from the walk plane.
    ///
    /// Unit: raw (squared Euclidean, negated dot). An estimate of a squared distance can be
    /// negative when the distance is small. Always finite. Asks for the rows ahead by itself.
    ///
    /// # Safety
    /// Every row of `slots` must lie in committed memory and be published to this core, rows and
    /// factors as [`Self::layout`] says.
    #[inline]
    pub(crate) unsafe fn many(
        &self,
        query: &CodeQuery,
        rows: CodeRows,
        slots: &[u32],
        out: &mut [f32],
    ) {
        assert_eq!(slots.len(), out.len());
        assert_eq!(query.padded_dims, self.layout.padded_dims);
        assert_eq!(query.codes, Some(self.codes));
        let many = self.kernels.many[kernels::code_index(self.codes)];
        let many = many[usize::from(self.family == Family::L2)];
        // SAFETY: the kernel's instruction set was found on this machine; lengths are asserted; the
        // caller vouches for the rows.
        unsafe { many(query, rows, slots, out) }
    }

    /// Raw distances from both planes, nearly exact; from the walk plane of half-precision codes,
    /// which have no other. Finite; a squared distance is not negative (half precision aside).
    ///
    /// # Safety
    /// As for [`Self::many`], for both planes.
    #[inline]
    pub(crate) unsafe fn refine(
        &self,
        query: &CodeQuery,
        rows: CodeRows,
        residuals: RefineRows,
        slots: &[u32],
        out: &mut [f32],
    ) {
        if self.layout.refine_row_bytes == 0 {
            // SAFETY: passed on.
            return unsafe { self.many(query, rows, slots, out) };
        }
        assert_eq!(slots.len(), out.len());
        assert_eq!(query.padded_dims, self.layout.padded_dims);
        assert_eq!(query.codes, Some(self.codes));
        let refine = self.kernels.refine[kernels::code_index(self.codes)];
        let refine = refine[usize::from(self.family == Family::L2)];
        // SAFETY: as in `many`.
        unsafe { refine(query, rows, residuals, slots, out) }
    }

    /// What the estimate of [`Self::many`] for a row with these factors may be off by. The error of
    /// a rotated code is close to normal, and this is three of its spreads; in the tests the exact
    /// raw distance differs by less in at least 98 of 100 cases for vectors of any shape. For
    /// half-precision rows it is a bound, rounding of the sum aside.
    ///
    /// Cost: a few operations and two square roots.
    pub(crate) fn margin(&self, query: &CodeQuery, factors: &[f32], estimate: f32) -> f32 {
        let (_, spread) = unpack(factors[self.layout.factor_count - 1]);
        let norm2 = self.norm2(factors);
        let of_query = query.noise * query.noise * norm2;
        self.margin_of(query, spread, of_query, norm2, estimate)
    }

    fn margin_of(
        &self,
        query: &CodeQuery,
        spread: f32,
        of_query: f32,
        norm2: f32,
        estimate: f32,
    ) -> f32 {
        if norm2 <= 0.0 {
            return 0.0;
        }
        // How much of the query is orthogonal to the vector follows from the estimate itself, taken
        // at its worse end.
        let dot = match self.family {
            Family::L2 => 0.5 * (query.norm2 + norm2 - estimate),
            Family::Dot | Family::Unit => -estimate,
        };
        let most = (spread * spread * query.norm2 + of_query).sqrt() * MARGIN_SPREADS;
        let dot = (dot.abs() - most).max(0.0);
        // The error of half-precision rows is not made orthogonal.
        let along = if self.codes == Codes::Half { 0.0 } else { dot * dot / norm2 };
        let across = (query.norm2 - along).max(0.0);
        let margin = MARGIN_SPREADS * (spread * spread * across + of_query).sqrt();
        finite(if self.family == Family::L2 { 2.0 * margin } else { margin })
    }

    fn norm2(&self, factors: &[f32]) -> f32 {
        if self.family == Family::Unit { 1.0 } else { factors[1] }
    }
}

/// Largest magnitude of a distance: four of them add up to a finite number.
const DISTANCE_MAX: f32 = f32::MAX / 4.0;

/// The value itself, or the nearest that is in range; not-a-number becomes the largest.
#[inline(always)]
fn finite(value: f32) -> f32 {
    // In this form it is one minimum and one maximum instruction, also for not-a-number.
    let value = if value < DISTANCE_MAX { value } else { DISTANCE_MAX };
    if value > -DISTANCE_MAX { value } else { -DISTANCE_MAX }
}

/// Two bfloat16 in one factor: the scale of the refine plane and the spread of the error.
#[inline(always)]
fn pack(scale: f32, spread: f32) -> f32 {
    f32::from_bits(short_up(scale).to_bits() | short_up(spread).to_bits() >> 16)
}

/// Scale of the refine plane and spread of the error.
#[inline(always)]
fn unpack(factor: f32) -> (f32, f32) {
    let bits = factor.to_bits();
    (f32::from_bits(bits & 0xffff_0000), f32::from_bits(bits << 16))
}

/// The next bfloat16 at or above a number that is not negative.
#[inline(always)]
fn short_up(value: f32) -> f32 {
    let bits = (value.to_bits() + 0xffff) & 0xffff_0000;
    // Below infinity, which starts at 0x7f80.
    f32::from_bits(bits.min(0x7f7f_0000))
}

/// `2^exponent` as two factors, each a power that exists.
#[inline(always)]
fn powers(exponent: i32) -> (f32, f32) {
    let power = |exponent: i32| f32::from_bits(((exponent + 127) as u32) << 23);
    let half = exponent / 2;
    (power(half), power(exponent - half))
}

/// `value * 2^exponent`, clamped to finite numbers.
#[inline(always)]
fn scaled(value: f32, exponent: i32) -> f32 {
    let power = powers(exponent);
    (value * power.0 * power.1).clamp(-f32::MAX, f32::MAX)
}

/// The exponent of the largest magnitude in a vector; none when all components are zero. Dividing
/// by that power of two keeps every later product in range and rounds nothing that matters.
#[inline(always)]
fn exponent_of(vector: &[f32]) -> Option<i32> {
    let largest = vector.iter().fold(0u32, |most, x| most.max(x.to_bits() & 0x7fff_ffff));
    // Components that are not finite are refused before they get here.
    let largest = largest.min(f32::MAX.to_bits());
    (largest > 0).then_some((largest >> 23) as i32 - 127)
}

#[cfg(test)]
mod tests;
