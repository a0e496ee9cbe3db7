//! AVX2 forms: half a line of a row a step, no fused operations.

use core::arch::x86_64::*;

use super::super::{EIGHT, FOUR, HALF, Kernels, ONE};
use crate::codes::encode::EDGE_SCALE;
use crate::codes::kernels::blocks::{BLOCK, LINE, Scales, each_block, each_row};
use crate::codes::scalar::LANES;
use crate::codes::{CodeQuery, CodeRows, Codec, CodecScratch, RefineRows};
use crate::instruction_set::InstructionSet;

/// Bytes of a step.
pub(super) const STEP: usize = 32;

/// What multiplies the residuals of outermost codes.
const EDGE: i8 = EDGE_SCALE as i8;

pub(super) fn table() -> Kernels {
    Kernels {
        set: InstructionSet::Avx2,
        many: [
            [many::<HALF, false>, many::<HALF, true>],
            [many::<EIGHT, false>, many::<EIGHT, true>],
            [many::<FOUR, false>, many::<FOUR, true>],
            [many::<ONE, false>, many::<ONE, true>],
        ],
        refine: [
            [refine::<HALF, false>, refine::<HALF, true>],
            [refine::<EIGHT, false>, refine::<EIGHT, true>],
            [refine::<FOUR, false>, refine::<FOUR, true>],
            [refine::<ONE, false>, refine::<ONE, true>],
        ],
        lowest: None,
        encode,
        prepare,
        prepare_row,
        rotate: super::rotate::rotate_avx2,
    }
}

/// # Safety
/// Needs the instruction set of this file.
#[target_feature(enable = "avx2,f16c,popcnt")]
unsafe fn encode(
    codec: &Codec,
    vector: &[f32],
    scratch: &mut CodecScratch,
    walk: &mut [u8],
    factors: &mut [f32],
    refine: &mut [u8],
) {
    codec.encode_body(vector, scratch, walk, factors, refine);
}

/// # Safety
/// Needs the instruction set of this file.
#[target_feature(enable = "avx2,f16c,popcnt")]
unsafe fn prepare(codec: &Codec, query: &[f32], out: &mut CodeQuery) {
    codec.prepare_body(query, out);
}

/// # Safety
/// Needs the instruction set of this file.
#[target_feature(enable = "avx2,f16c,popcnt")]
unsafe fn prepare_row(
    codec: &Codec,
    walk: &[u8],
    factors: &[f32],
    refine: &[u8],
    out: &mut CodeQuery,
) {
    codec.prepare_row_body(walk, factors, refine, out);
}

/// # Safety
/// 32 bytes must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load(from: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller vouches for the bytes.
    unsafe { _mm256_loadu_si256(from.wrapping_add(at).cast()) }
}

/// # Safety
/// Eight floats must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_floats(from: *const f32, at: usize) -> __m256 {
    // SAFETY: the caller vouches for the floats.
    unsafe { _mm256_loadu_ps(from.wrapping_add(at)) }
}

/// Sums of the lanes of four registers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn reduce(sums: [__m256i; BLOCK]) -> [i32; BLOCK] {
    let [a, b, c, d] = sums;
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let all = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    let sum = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
    let mut out = [0; BLOCK];
    // SAFETY: four integers fit the array.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sum) };
    out
}

/// Sum of sixteen lanes, halves first, as the definition has it.
#[inline]
#[target_feature(enable = "avx2")]
fn tree(low: __m256, high: __m256) -> f32 {
    let half = _mm256_add_ps(low, high);
    let four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// # Safety
/// `bytes` must be readable at every row and at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bytes_block(query: *const u8, rows: [*const u8; BLOCK], bytes: usize) -> [f32; BLOCK] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: `at + 32 <= bytes`.
        let q = unsafe { load(query, at) };
        // The unsigned operand is the magnitude of the query; its sign goes to the row. No code is
        // -128, and two products of 127 fit sixteen bits.
        let magnitude = _mm256_abs_epi8(q);
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: as above.
            let x = _mm256_sign_epi8(unsafe { load(row, at) }, q);
            let pairs = _mm256_maddubs_epi16(magnitude, x);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
        at += STEP;
    }
    reduce(sums).map(|found| found as f32)
}

/// # Safety
/// `bytes` must be readable at every row and twice as many at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles_block(
    query: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    let (mask, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: `2 * at + 128 <= 2 * bytes`.
        let q: [__m256i; 4] =
            core::array::from_fn(|part| unsafe { load(query, 2 * at + part * STEP) });
        for (sum, row) in sums.iter_mut().zip(rows) {
            // Eight products of 15 and 127 fit sixteen bits.
            // SAFETY: `at + 64 <= bytes`.
            let first = unsafe { load(row, at) };
            let low = _mm256_maddubs_epi16(_mm256_and_si256(first, mask), q[0]);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(first), mask);
            let first = _mm256_add_epi16(low, _mm256_maddubs_epi16(high, q[2]));
            // SAFETY: as above.
            let second = unsafe { load(row, at + STEP) };
            let low = _mm256_maddubs_epi16(_mm256_and_si256(second, mask), q[1]);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(second), mask);
            let second = _mm256_add_epi16(low, _mm256_maddubs_epi16(high, q[3]));
            let pairs = _mm256_add_epi16(first, second);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
        at += LINE;
    }
    reduce(sums).map(|found| (2 * found - 15 * sum) as f32)
}

/// # Safety
/// `bytes` must be readable at every row and four times as many at the planes, a multiple of a
/// line; words from `words` on are zero.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn bits_block(
    planes: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    words: usize,
    sum: i32,
) -> [f32; BLOCK] {
    let mut sums = [0i64; BLOCK];
    for word in 0..words {
        let at = word * size_of::<u64>();
        // SAFETY: each of the four planes has `bytes`.
        let q: [u64; 4] = core::array::from_fn(|plane| unsafe {
            planes.wrapping_add(plane * bytes + at).cast::<u64>().read_unaligned()
        });
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: `at + 8 <= bytes`.
            let x = unsafe { row.wrapping_add(at).cast::<u64>().read_unaligned() };
            let [p0, p1, p2, p3] = q.map(|q| i64::from((x & q).count_ones()));
            *sum += p0 + 2 * p1 + 4 * (p2 - 2 * p3);
        }
    }
    sums.map(|found| (2 * found as i32 - sum) as f32)
}

/// # Safety
/// `bytes` must be readable at every row, and one float for two of them at the query.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves_block(query: *const f32, rows: [*const u8; BLOCK], bytes: usize) -> [f32; BLOCK] {
    let mut low = [_mm256_setzero_ps(); BLOCK];
    let mut high = [_mm256_setzero_ps(); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: a line of rows has as many components as two lines of the query.
        let q_low = unsafe { load_floats(query, at / 2) };
        // SAFETY: as above.
        let q_high = unsafe { load_floats(query, at / 2 + 8) };
        for ((low, high), row) in low.iter_mut().zip(&mut high).zip(rows) {
            // SAFETY: `at + 32 <= bytes`.
            let x = unsafe { load(row, at) };
            let x_low = _mm256_cvtph_ps(_mm256_castsi256_si128(x));
            let x_high = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(x));
            *low = _mm256_add_ps(*low, _mm256_mul_ps(x_low, q_low));
            *high = _mm256_add_ps(*high, _mm256_mul_ps(x_high, q_high));
        }
        at += 2 * LANES;
    }
    core::array::from_fn(|row| tree(low[row], high[row]))
}

/// # Safety
/// As for [`crate::codes::Codec::many`].
#[target_feature(enable = "avx2,f16c,popcnt")]
unsafe fn many<const CODE: usize, const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    slots: &[u32],
    out: &mut [f32],
) {
    let integers = query.codes_bytes.bytes().as_ptr();
    let floats = query.rotated.floats().as_ptr();
    let (bytes, sum) = (rows.row_bytes, query.sum);
    let products = |at: [*const u8; BLOCK]| match CODE {
        // SAFETY: the caller vouches for the rows; the query was prepared for such rows.
        HALF => unsafe { halves_block(floats, at, bytes) },
        // SAFETY: as above.
        EIGHT => unsafe { bytes_block(integers, at, bytes) },
        // SAFETY: as above.
        FOUR => unsafe { nibbles_block(integers, at, bytes, sum) },
        // SAFETY: as above.
        _ => unsafe { bits_block(integers, at, bytes, query.padded_dims / 64, sum) },
    };
    // SAFETY: the caller vouches for rows and factors.
    unsafe { each_block::<L2>(query, rows, slots, out, products) };
}

/// Eight signed bytes as integers.
///
/// # Safety
/// They must be readable at `from`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_eight(from: *const u8) -> __m256i {
    // SAFETY: passed on.
    _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.cast()) })
}

/// Adds the terms of eight components: `number` and `left` in units of their scales.
#[inline]
#[target_feature(enable = "avx2")]
fn add_terms<const L2: bool>(sum: __m256, query: __m256, number: __m256, left: __m256) -> __m256 {
    let x = _mm256_add_ps(number, left);
    let difference = _mm256_sub_ps(query, x);
    let (a, b) = if L2 { (difference, difference) } else { (query, x) };
    _mm256_add_ps(sum, _mm256_mul_ps(a, b))
}

/// Both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(x: __m256i) -> [__m128i; 2] {
    [_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x)]
}

/// A table of sixteen bytes in both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn lookup(bytes: [i8; 16]) -> __m256i {
    // SAFETY: the array has the sixteen bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// The sum of a row of four-bit codes with its residuals.
///
/// # Safety
/// `bytes` residuals and as many floats of the query must be readable, and half as many bytes of
/// the row; whole lines of the row.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles_sum<const L2: bool>(
    query: *const f32,
    row: *const u8,
    residual: *const u8,
    bytes: usize,
    scales: Scales,
) -> f32 {
    let mask = _mm256_set1_epi8(15);
    let numbers = lookup(core::array::from_fn(|code| 2 * code as i8 - 15));
    let edges = lookup(core::array::from_fn(|code| if code % 15 == 0 { EDGE } else { 1 }));
    let multiplier = _mm256_set1_ps(scales.multiplier);
    let scale = _mm256_set1_ps(scales.residual);
    let mut sums = [_mm256_setzero_ps(); 2];
    for start in (0..bytes).step_by(STEP) {
        // SAFETY: the row has a line for each two of the residuals.
        let codes = unsafe { load(row, start / (2 * LINE) * LINE + start % LINE) };
        let is_high = start % (2 * LINE) >= LINE;
        let codes = if is_high { _mm256_srli_epi16::<4>(codes) } else { codes };
        let codes = _mm256_and_si256(codes, mask);
        let numbers = halves(_mm256_shuffle_epi8(numbers, codes));
        let edges = halves(_mm256_shuffle_epi8(edges, codes));
        for part in 0..STEP / LANES {
            let at = start + part * LANES;
            // SAFETY: `at + 16` residuals are in the row.
            let left = unsafe { _mm_loadu_si128(residual.wrapping_add(at).cast()) };
            let edges = _mm256_cvtepi8_epi16(edges[part]);
            let left = halves(_mm256_mullo_epi16(_mm256_cvtepi8_epi16(left), edges));
            let high = _mm_unpackhi_epi64(numbers[part], numbers[part]);
            for (half, number) in [numbers[part], high].into_iter().enumerate() {
                // SAFETY: and as many floats in the query.
                let q = unsafe { load_floats(query, at + 8 * half) };
                let number = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(number));
                let left = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(left[half]));
                let (number, left) =
                    (_mm256_mul_ps(number, multiplier), _mm256_mul_ps(left, scale));
                sums[half] = add_terms::<L2>(sums[half], q, number, left);
            }
        }
    }
    tree(sums[0], sums[1])
}

/// Eight one-bit codes, plus or minus the multiplier.
#[inline]
#[target_feature(enable = "avx2")]
fn signs(bits: u8, multiplier: f32) -> __m256 {
    let picks = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let is_set = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), picks);
    let is_set = _mm256_castsi256_ps(_mm256_cmpeq_epi32(is_set, picks));
    _mm256_blendv_ps(_mm256_set1_ps(-multiplier), _mm256_set1_ps(multiplier), is_set)
}

/// The sum of a row of eight-bit or one-bit codes with its residuals.
///
/// # Safety
/// `bytes` residuals, as many floats of the query and as many codes must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn numbers_sum<const CODE: usize, const L2: bool>(
    query: *const f32,
    row: *const u8,
    residual: *const u8,
    bytes: usize,
    scales: Scales,
) -> f32 {
    let multiplier = _mm256_set1_ps(scales.multiplier);
    let scale = _mm256_set1_ps(scales.residual);
    let mut sums = [_mm256_setzero_ps(); 2];
    for start in (0..bytes).step_by(LANES) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = start + 8 * part;
            let number = if CODE == ONE {
                // SAFETY: passed on: eight codes are one byte.
                signs(unsafe { *row.wrapping_add(at / 8) }, scales.multiplier)
            } else {
                // SAFETY: passed on.
                let number = _mm256_cvtepi32_ps(unsafe { load_eight(row.wrapping_add(at)) });
                _mm256_mul_ps(number, multiplier)
            };
            // SAFETY: passed on.
            let left = _mm256_cvtepi32_ps(unsafe { load_eight(residual.wrapping_add(at)) });
            // SAFETY: passed on.
            let q = unsafe { load_floats(query, at) };
            *sum = add_terms::<L2>(*sum, q, number, _mm256_mul_ps(left, scale));
        }
    }
    tree(sums[0], sums[1])
}

/// # Safety
/// As for [`crate::codes::Codec::refine`].
#[target_feature(enable = "avx2")]
unsafe fn refine<const CODE: usize, const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    residuals: RefineRows,
    slots: &[u32],
    out: &mut [f32],
) {
    let floats = query.rotated.floats().as_ptr();
    let bytes = residuals.row_bytes;
    let sum = |row: *const u8, residual: *const u8, scales: Scales| match CODE {
        // SAFETY: the caller vouches for the rows; the query was prepared for such rows.
        FOUR => unsafe { nibbles_sum::<L2>(floats, row, residual, bytes, scales) },
        // SAFETY: as above.
        _ => unsafe { numbers_sum::<CODE, L2>(floats, row, residual, bytes, scales) },
    };
    // SAFETY: the caller vouches for rows and factors.
    unsafe { each_row::<L2>(rows, residuals, slots, out, sum) };
}
