//! Integer estimates by AVX-VNNI, for machines that have it without AVX-512.

use core::arch::x86_64::*;

use super::super::EIGHT;
use super::avx2::{STEP, load, reduce};
use crate::codes::kernels::blocks::{BLOCK, LINE, each_block};
use crate::codes::{CodeQuery, CodeRows};

/// # Safety
/// `bytes` must be readable at every row and at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn bytes_block(
    query: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    // One operand of the instruction is unsigned: the row, moved up by 128 for the moment.
    let offset = _mm256_set1_epi8(-128);
    let mut sums = [_mm256_setzero_si256(); BLOCK];
    for at in (0..bytes).step_by(STEP) {
        // SAFETY: `at + 32 <= bytes`.
        let q = unsafe { load(query, at) };
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: as above.
            let x = _mm256_xor_si256(unsafe { load(row, at) }, offset);
            *sum = _mm256_dpbusd_avx_epi32(*sum, x, q);
        }
    }
    reduce(sums).map(|found| (found - 128 * sum) as f32)
}

/// # Safety
/// `bytes` must be readable at every row and twice as many at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn nibbles_block(
    query: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    let mask = _mm256_set1_epi8(15);
    let mut low = [_mm256_setzero_si256(); BLOCK];
    let mut high = [_mm256_setzero_si256(); BLOCK];
    for at in (0..bytes).step_by(STEP) {
        // A line of rows has as many components as two of the query.
        let place = at / LINE * 2 * LINE + at % LINE;
        // SAFETY: the line begins below `bytes`, so twice as far there are two lines of the query.
        let q_low = unsafe { load(query, place) };
        // SAFETY: as above.
        let q_high = unsafe { load(query, place + LINE) };
        for ((low, high), row) in low.iter_mut().zip(&mut high).zip(rows) {
            // SAFETY: `at + 32 <= bytes`.
            let x = unsafe { load(row, at) };
            *low = _mm256_dpbusd_avx_epi32(*low, _mm256_and_si256(x, mask), q_low);
            let x = _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask);
            *high = _mm256_dpbusd_avx_epi32(*high, x, q_high);
        }
    }
    let sums = core::array::from_fn(|row| _mm256_add_epi32(low[row], high[row]));
    reduce(sums).map(|found| (2 * found - 15 * sum) as f32)
}

/// # Safety
/// As for [`crate::codes::Codec::many`]; eight and four bits alone.
#[target_feature(enable = "avx2,avxvnni")]
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
        EIGHT => unsafe { bytes_block(integers, at, bytes, sum) },
        // SAFETY: as above.
        _ => unsafe { nibbles_block(integers, at, bytes, sum) },
    };
    // SAFETY: the caller vouches for rows and factors.
    unsafe { each_block::<L2>(query, rows, slots, out, products) };
}
