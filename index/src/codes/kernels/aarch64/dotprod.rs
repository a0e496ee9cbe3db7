//! Integer estimates by `sdot`, which adds four products of signed bytes to each lane.

use core::arch::aarch64::*;

use super::super::EIGHT;
use super::super::blocks::{BLOCK, LINE, each_block};
use super::neon::{REGISTER, load, reduce};
use crate::codes::{CodeQuery, CodeRows};

/// `sum + left * right`, four products a lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(sum: int32x4_t, left: int8x16_t, right: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: works on its three registers alone, and its function has the instruction.
    unsafe {
        core::arch::asm!(
            "sdot {sum:v}.4s, {left:v}.16b, {right:v}.16b",
            sum = inout(vreg) sum,
            left = in(vreg) left,
            right = in(vreg) right,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// # Safety
/// `bytes` must be readable at every row and at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn bytes_block(query: *const u8, rows: [*const u8; BLOCK], bytes: usize) -> [f32; BLOCK] {
    let mut even = [vdupq_n_s32(0); BLOCK];
    let mut odd = [vdupq_n_s32(0); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: `at + 32 <= bytes`.
        let q = unsafe { load(query, at) };
        // SAFETY: as above.
        let next = unsafe { load(query, at + REGISTER) };
        for ((even, odd), row) in even.iter_mut().zip(&mut odd).zip(rows) {
            // SAFETY: as above.
            *even = dot(*even, unsafe { load(row, at) }, q);
            // SAFETY: as above.
            *odd = dot(*odd, unsafe { load(row, at + REGISTER) }, next);
        }
        at += 2 * REGISTER;
    }
    let sums = core::array::from_fn(|row| vaddq_s32(even[row], odd[row]));
    reduce(sums).map(|found| found as f32)
}

/// # Safety
/// `bytes` must be readable at every row and twice as many at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn nibbles_block(
    query: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    let mut low = [vdupq_n_s32(0); BLOCK];
    let mut high = [vdupq_n_s32(0); BLOCK];
    for at in (0..bytes).step_by(REGISTER) {
        // A line of rows has as many components as two of the query.
        let place = at / LINE * 2 * LINE + at % LINE;
        // SAFETY: the line begins below `bytes`, so twice as far there are two lines of the query.
        let q_low = unsafe { load(query, place) };
        // SAFETY: as above.
        let q_high = unsafe { load(query, place + LINE) };
        for ((low, high), row) in low.iter_mut().zip(&mut high).zip(rows) {
            // SAFETY: `at + 16 <= bytes`.
            let x = vreinterpretq_u8_s8(unsafe { load(row, at) });
            *low = dot(*low, vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15))), q_low);
            *high = dot(*high, vreinterpretq_s8_u8(vshrq_n_u8::<4>(x)), q_high);
        }
    }
    let sums = core::array::from_fn(|row| vaddq_s32(low[row], high[row]));
    reduce(sums).map(|found| (2 * found - 15 * sum) as f32)
}

/// # Safety
/// As for [`crate::codes::Codec::many`]; eight and four bits alone.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn many<const CODE: usize, const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    slots: &[u32],
    out: &mut [f32],
) {
    let integers = query.codes_bytes.bytes().as_ptr();
    let (bytes, sum) = (rows.row_bytes, query.sum);
    let products = |at: [*const u8; BLOCK]| match CODE {
        // SAFETY: the caller vouches for the rows; the query was prepared for such rows.
        EIGHT => unsafe { bytes_block(integers, at, bytes) },
        // SAFETY: as above.
        _ => unsafe { nibbles_block(integers, at, bytes, sum) },
    };
    // SAFETY: the caller vouches for rows and factors.
    unsafe { each_block::<L2>(query, rows, slots, out, products) };
}
