//! Kernels in plain Rust, written in lanes so that the compiler can use whatever vector unit the
//! target has. The bodies are inlined into the instruction-set wrappers of the sibling module.

use super::{Kernels, Rows};
use crate::instruction_set::InstructionSet;
use crate::limits::LANE_FLOATS;

/// One step of a distance: lane accumulator, left and right component.
pub(super) trait Step {
    fn step(sum: f32, left: f32, right: f32) -> f32;
    /// From the sum to the raw distance.
    #[inline(always)]
    fn finish(sum: f32) -> f32 {
        sum
    }
}

pub(super) struct L2;
pub(super) struct NegatedDot;
pub(super) struct Manhattan;
pub(super) struct Hamming;

impl Step for L2 {
    #[inline(always)]
    fn step(sum: f32, left: f32, right: f32) -> f32 {
        sum + (left - right) * (left - right)
    }
}

impl Step for NegatedDot {
    #[inline(always)]
    fn step(sum: f32, left: f32, right: f32) -> f32 {
        sum + left * right
    }
    #[inline(always)]
    fn finish(sum: f32) -> f32 {
        -sum
    }
}

impl Step for Manhattan {
    #[inline(always)]
    fn step(sum: f32, left: f32, right: f32) -> f32 {
        sum + (left - right).abs()
    }
}

impl Step for Hamming {
    #[inline(always)]
    fn step(sum: f32, left: f32, right: f32) -> f32 {
        sum + if left == right { 0.0 } else { 1.0 }
    }
}

/// Distance of two slices of equal length.
#[inline(always)]
pub(super) fn pair_body<S: Step>(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANE_FLOATS];
    let (left_lines, left_rest) = left.as_chunks::<LANE_FLOATS>();
    let (right_lines, right_rest) = right.as_chunks::<LANE_FLOATS>();
    for (a, b) in left_lines.iter().zip(right_lines) {
        for lane in 0..LANE_FLOATS {
            lanes[lane] = S::step(lanes[lane], a[lane], b[lane]);
        }
    }
    let mut sum = 0.0;
    for (&a, &b) in left_rest.iter().zip(right_rest) {
        sum = S::step(sum, a, b);
    }
    S::finish(lanes.iter().sum::<f32>() + sum)
}

/// Distances of a query to many rows.
///
/// # Safety
/// As for [`Kernels::many`].
#[inline(always)]
pub(super) unsafe fn many_body<S: Step>(query: &[f32], rows: Rows, slots: &[u32], out: &mut [f32]) {
    for (distance, &slot) in out.iter_mut().zip(slots) {
        // SAFETY: the caller vouches that the row is committed and published.
        let row = unsafe { core::slice::from_raw_parts(rows.row(slot), rows.stride) };
        *distance = pair_body::<S>(query, row);
    }
}

fn pair<S: Step>(left: &[f32], right: &[f32]) -> f32 {
    pair_body::<S>(left, right)
}

/// # Safety
/// As for [`Kernels::many`].
unsafe fn many<S: Step>(query: &[f32], rows: Rows, slots: &[u32], out: &mut [f32]) {
    // SAFETY: same obligation, passed on.
    unsafe { many_body::<S>(query, rows, slots, out) }
}

const fn entry<S: Step>() -> Kernels {
    Kernels { set: InstructionSet::Portable, pair: pair::<S>, many: many::<S> }
}

pub(super) fn table() -> [Kernels; 4] {
    [entry::<L2>(), entry::<NegatedDot>(), entry::<Manhattan>(), entry::<Hamming>()]
}
