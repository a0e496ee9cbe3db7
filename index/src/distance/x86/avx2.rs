//! AVX2 and FMA forms: eight floats a step.

use core::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_setzero_ps, _mm256_sub_ps,
};

use super::super::blocks::{BLOCK, fetch, window};
use super::super::portable::{Hamming, Manhattan, NegatedDot, Step, many_body, pair_body};
use super::super::{Kernels, Rows};
use super::{DOT, L2};
use crate::instruction_set::InstructionSet;

/// Floats of a step.
const LANES: usize = 8;

pub(super) fn table() -> [Kernels; 4] {
    let set = InstructionSet::Avx2;
    [
        Kernels { set, pair: pair::<L2>, many: many::<L2> },
        Kernels { set, pair: pair::<DOT>, many: many::<DOT> },
        Kernels { set, pair: plain_pair::<Manhattan>, many: plain_many::<Manhattan> },
        Kernels { set, pair: plain_pair::<Hamming>, many: plain_many::<Hamming> },
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn step<const FORM: bool>(sum: __m256, left: __m256, right: __m256) -> __m256 {
    if FORM == DOT {
        _mm256_fmadd_ps(left, right, sum)
    } else {
        let difference = _mm256_sub_ps(left, right);
        _mm256_fmadd_ps(difference, difference, sum)
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn finish<const FORM: bool>(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let total = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    if FORM == DOT { -total } else { total }
}

/// # Safety
/// Eight floats must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load(from: *const f32, at: usize) -> __m256 {
    // SAFETY: the caller vouches for the eight floats.
    unsafe { _mm256_loadu_ps(from.wrapping_add(at)) }
}

/// The last few components of an unpadded vector.
fn rest<const FORM: bool>(left: &[f32], right: &[f32]) -> f32 {
    if FORM == DOT {
        pair_body::<NegatedDot>(left, right)
    } else {
        pair_body::<super::super::portable::L2>(left, right)
    }
}

#[target_feature(enable = "avx2,fma")]
fn pair<const FORM: bool>(left: &[f32], right: &[f32]) -> f32 {
    let length = left.len().min(right.len());
    let whole = length - length % LANES;
    let rest = rest::<FORM>(&left[whole..length], &right[whole..length]);
    let (left, right) = (left.as_ptr(), right.as_ptr());
    let mut even = _mm256_setzero_ps();
    let mut odd = _mm256_setzero_ps();
    let mut at = 0;
    while at + 2 * LANES <= whole {
        // SAFETY: `at + 8 <= whole <= length` of both slices.
        let (a, b) = unsafe { load_both(left, right, at) };
        even = step::<FORM>(even, a, b);
        // SAFETY: `at + 16 <= whole`.
        let (a, b) = unsafe { load_both(left, right, at + LANES) };
        odd = step::<FORM>(odd, a, b);
        at += 2 * LANES;
    }
    if at < whole {
        // SAFETY: one whole step is left.
        let (a, b) = unsafe { load_both(left, right, at) };
        even = step::<FORM>(even, a, b);
    }
    finish::<FORM>(_mm256_add_ps(even, odd)) + rest
}

/// # Safety
/// Eight floats must be readable at `at` of both.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load_both(left: *const f32, right: *const f32, at: usize) -> (__m256, __m256) {
    // SAFETY: passed on.
    let a = unsafe { load(left, at) };
    // SAFETY: passed on.
    let b = unsafe { load(right, at) };
    (a, b)
}

/// # Safety
/// All rows and the query must be readable for `stride` floats, a multiple of eight.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn block<const FORM: bool>(
    query: *const f32,
    rows: [*const f32; BLOCK],
    stride: usize,
) -> [f32; BLOCK] {
    let mut sums = [_mm256_setzero_ps(); BLOCK];
    let mut at = 0;
    while at < stride {
        // SAFETY: `at + 8 <= stride`.
        let q = unsafe { load(query, at) };
        for (sum, &row) in sums.iter_mut().zip(&rows) {
            // SAFETY: `at + 8 <= stride`, and the caller vouches for the row.
            let r = unsafe { load(row, at) };
            *sum = step::<FORM>(*sum, q, r);
        }
        at += LANES;
    }
    sums.map(|sum| finish::<FORM>(sum))
}

/// # Safety
/// As for [`Kernels::many`].
#[target_feature(enable = "avx2,fma")]
unsafe fn many<const FORM: bool>(query: &[f32], rows: Rows, slots: &[u32], out: &mut [f32]) {
    let (blocks, rest) = slots.as_chunks::<BLOCK>();
    let (out_blocks, out_rest) = out.as_chunks_mut::<BLOCK>();
    for (index, (block_slots, distances)) in blocks.iter().zip(out_blocks).enumerate() {
        fetch(rows, window(slots, index));
        let addresses = block_slots.map(|slot| rows.row(slot));
        // SAFETY: the caller vouches for the rows; the query is as long as a row.
        *distances = unsafe { block::<FORM>(query.as_ptr(), addresses, rows.stride) };
    }
    for (distance, &slot) in out_rest.iter_mut().zip(rest) {
        // SAFETY: the caller vouches that the row is committed and published.
        let row = unsafe { core::slice::from_raw_parts(rows.row(slot), rows.stride) };
        *distance = pair::<FORM>(query, row);
    }
}

#[target_feature(enable = "avx2,fma")]
fn plain_pair<S: Step>(left: &[f32], right: &[f32]) -> f32 {
    pair_body::<S>(left, right)
}

/// # Safety
/// As for [`Kernels::many`].
#[target_feature(enable = "avx2,fma")]
unsafe fn plain_many<S: Step>(query: &[f32], rows: Rows, slots: &[u32], out: &mut [f32]) {
    // SAFETY: passed on.
    unsafe { many_body::<S>(query, rows, slots, out) }
}
