//! AVX-512 forms: sixteen floats a step, masked loads for the rest of an unpadded vector.

use core::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps,
    _mm512_reduce_add_ps, _mm512_setzero_ps, _mm512_sub_ps,
};

use super::super::blocks::{BLOCK, LINE, fetch, window};
use super::super::portable::{Hamming, Manhattan, Step, many_body, pair_body};
use super::super::{Kernels, Rows};
use super::{DOT, L2};
use crate::instruction_set::InstructionSet;

pub(super) fn table() -> [Kernels; 4] {
    let set = InstructionSet::Avx512;
    [
        Kernels { set, pair: pair::<L2>, many: many::<L2> },
        Kernels { set, pair: pair::<DOT>, many: many::<DOT> },
        Kernels { set, pair: plain_pair::<Manhattan>, many: plain_many::<Manhattan> },
        Kernels { set, pair: plain_pair::<Hamming>, many: plain_many::<Hamming> },
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn step<const FORM: bool>(sum: __m512, left: __m512, right: __m512) -> __m512 {
    if FORM == DOT {
        _mm512_fmadd_ps(left, right, sum)
    } else {
        let difference = _mm512_sub_ps(left, right);
        _mm512_fmadd_ps(difference, difference, sum)
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn finish<const FORM: bool>(sum: __m512) -> f32 {
    let total = _mm512_reduce_add_ps(sum);
    if FORM == DOT { -total } else { total }
}

/// # Safety
/// Sixteen floats must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const f32, at: usize) -> __m512 {
    // SAFETY: the caller vouches for the sixteen floats.
    unsafe { _mm512_loadu_ps(from.wrapping_add(at)) }
}

/// # Safety
/// `count` < 16 floats must be readable at `from`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_some(from: *const f32, count: usize) -> __m512 {
    let mask = (1u32 << count) as u16 - 1;
    // SAFETY: masked-out lanes are not read; the caller vouches for the others.
    unsafe { _mm512_maskz_loadu_ps(mask, from) }
}

#[target_feature(enable = "avx512f")]
fn pair<const FORM: bool>(left: &[f32], right: &[f32]) -> f32 {
    let length = left.len().min(right.len());
    let whole = length - length % LINE;
    let (left, right) = (left.as_ptr(), right.as_ptr());
    let mut even = _mm512_setzero_ps();
    let mut odd = _mm512_setzero_ps();
    let mut at = 0;
    while at + 2 * LINE <= whole {
        // SAFETY: `at + 16 <= whole <= length` of both slices.
        let (a, b) = unsafe { load_both(left, right, at) };
        even = step::<FORM>(even, a, b);
        // SAFETY: `at + 32 <= whole`.
        let (a, b) = unsafe { load_both(left, right, at + LINE) };
        odd = step::<FORM>(odd, a, b);
        at += 2 * LINE;
    }
    if at < whole {
        // SAFETY: one whole line is left.
        let (a, b) = unsafe { load_both(left, right, at) };
        even = step::<FORM>(even, a, b);
    }
    if whole < length {
        // SAFETY: `length - whole` < 16 floats are left in the left slice.
        let a = unsafe { load_some(left.wrapping_add(whole), length - whole) };
        // SAFETY: and as many in the right one.
        let b = unsafe { load_some(right.wrapping_add(whole), length - whole) };
        odd = step::<FORM>(odd, a, b);
    }
    finish::<FORM>(_mm512_add_ps(even, odd))
}

/// # Safety
/// Sixteen floats must be readable at `at` of both.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_both(left: *const f32, right: *const f32, at: usize) -> (__m512, __m512) {
    // SAFETY: passed on.
    let a = unsafe { load(left, at) };
    // SAFETY: passed on.
    let b = unsafe { load(right, at) };
    (a, b)
}

/// # Safety
/// All rows and the query must be readable for `stride` floats, a multiple of sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn block<const FORM: bool>(
    query: *const f32,
    rows: [*const f32; BLOCK],
    stride: usize,
) -> [f32; BLOCK] {
    let mut sums = [_mm512_setzero_ps(); BLOCK];
    let mut at = 0;
    while at < stride {
        // SAFETY: `at + 16 <= stride`.
        let q = unsafe { load(query, at) };
        for (sum, &row) in sums.iter_mut().zip(&rows) {
            // SAFETY: `at + 16 <= stride`, and the caller vouches for the row.
            let r = unsafe { load(row, at) };
            *sum = step::<FORM>(*sum, q, r);
        }
        at += LINE;
    }
    sums.map(|sum| finish::<FORM>(sum))
}

/// # Safety
/// As for [`Kernels::many`].
#[target_feature(enable = "avx512f")]
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

#[target_feature(enable = "avx512f")]
fn plain_pair<S: Step>(left: &[f32], right: &[f32]) -> f32 {
    pair_body::<S>(left, right)
}

/// # Safety
/// As for [`Kernels::many`].
#[target_feature(enable = "avx512f")]
unsafe fn plain_many<S: Step>(query: &[f32], rows: Rows, slots: &[u32], out: &mut [f32]) {
    // SAFETY: passed on.
    unsafe { many_body::<S>(query, rows, slots, out) }
}
