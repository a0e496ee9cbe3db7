//! AVX-512 forms with VNNI and BITALG: a line of a row a step.

use core::arch::x86_64::*;

use super::super::{EIGHT, FOUR, HALF, Kernels, ONE};
use crate::codes::encode::EDGE_SCALE;
use crate::codes::kernels::blocks::{
    BLOCK, LINE, Scales, block_slots, each_block, each_row, fetch_row, window,
};
use crate::codes::scalar::LANES;
use crate::codes::signs::SignRows;
use crate::codes::{CodeQuery, CodeRows, Codec, CodecScratch, DISTANCE_MAX, RefineRows};
use crate::instruction_set::InstructionSet;

pub(super) fn table() -> Kernels {
    Kernels {
        set: InstructionSet::Avx512,
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
        lowest: Some([lowest::<false>, lowest::<true>]),
        encode,
        prepare,
        prepare_row,
        rotate: super::rotate::rotate_avx512,
    }
}

/// # Safety
/// Needs the instruction set of this file.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn prepare(codec: &Codec, query: &[f32], out: &mut CodeQuery) {
    codec.prepare_body(query, out);
}

/// # Safety
/// Needs the instruction set of this file.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
/// 64 bytes must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const u8, at: usize) -> __m512i {
    // SAFETY: the caller vouches for the bytes.
    unsafe { _mm512_loadu_si512(from.wrapping_add(at).cast()) }
}

/// # Safety
/// Sixteen floats must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_floats(from: *const f32, at: usize) -> __m512 {
    // SAFETY: the caller vouches for the floats.
    unsafe { _mm512_loadu_ps(from.wrapping_add(at)) }
}

/// # Safety
/// Sixteen bytes must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_short(from: *const u8, at: usize) -> __m128i {
    // SAFETY: the caller vouches for the bytes.
    unsafe { _mm_loadu_si128(from.wrapping_add(at).cast()) }
}

/// Sums of the lanes of four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn reduce(sums: [__m512i; BLOCK]) -> [i32; BLOCK] {
    let [a, b, c, d] = sums;
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
    let sum = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let mut out = [0; BLOCK];
    // SAFETY: four integers fit the array.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sum) };
    out
}

/// Sum of sixteen lanes, halves first, as the definition has it.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn tree(sum: __m512) -> f32 {
    let half = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum));
    let four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// # Safety
/// `bytes` must be readable at every row and at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn bytes_block(
    query: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    // One operand of the instruction is unsigned: the row, moved up by 128 for the moment.
    let offset = _mm512_set1_epi8(-128);
    let mut sums = [_mm512_setzero_si512(); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: `at + 64 <= bytes`.
        let q = unsafe { load(query, at) };
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: as above.
            let x = _mm512_xor_si512(unsafe { load(row, at) }, offset);
            *sum = _mm512_dpbusd_epi32(*sum, x, q);
        }
        at += LINE;
    }
    reduce(sums).map(|found| (found - 128 * sum) as f32)
}

/// # Safety
/// `bytes` must be readable at every row and twice as many at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn nibbles_block(
    query: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    let mask = _mm512_set1_epi8(15);
    let mut low = [_mm512_setzero_si512(); BLOCK];
    let mut high = [_mm512_setzero_si512(); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: `2 * at + 128 <= 2 * bytes`.
        let q_low = unsafe { load(query, 2 * at) };
        // SAFETY: as above.
        let q_high = unsafe { load(query, 2 * at + LINE) };
        for ((low, high), row) in low.iter_mut().zip(&mut high).zip(rows) {
            // SAFETY: `at + 64 <= bytes`.
            let x = unsafe { load(row, at) };
            *low = _mm512_dpbusd_epi32(*low, _mm512_and_si512(x, mask), q_low);
            let x = _mm512_and_si512(_mm512_srli_epi16::<4>(x), mask);
            *high = _mm512_dpbusd_epi32(*high, x, q_high);
        }
        at += LINE;
    }
    for (low, high) in low.iter_mut().zip(high) {
        *low = _mm512_add_epi32(*low, high);
    }
    reduce(low).map(|found| (2 * found - 15 * sum) as f32)
}

/// # Safety
/// `bytes` must be readable at every row and four times as many at the planes, a multiple of a
/// line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
unsafe fn bits_block(
    planes: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    // The planes are two's complement.
    let weights = [1, 2, 4, -8].map(|weight| _mm512_set1_epi8(weight));
    let mut sums = [_mm512_setzero_si512(); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: each of the four planes has `bytes`.
        let q: [__m512i; 4] =
            core::array::from_fn(|plane| unsafe { load(planes, plane * bytes + at) });
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: `at + 64 <= bytes`.
            let x = unsafe { load(row, at) };
            for (q, weight) in q.into_iter().zip(weights) {
                // At most 8 bits a byte, and weights up to 8: nothing saturates.
                let counts = _mm512_popcnt_epi8(_mm512_and_si512(x, q));
                *sum = _mm512_dpbusd_epi32(*sum, counts, weight);
            }
        }
        at += LINE;
    }
    reduce(sums).map(|found| (2 * found - sum) as f32)
}

/// Four floats as lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn floats_of(four: [f32; BLOCK]) -> __m128 {
    // SAFETY: the array is four floats.
    unsafe { _mm_loadu_ps(four.as_ptr()) }
}

/// # Safety
/// `bytes` must be readable at every row, and one float for two of them at the query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn halves_block(query: *const f32, rows: [*const u8; BLOCK], bytes: usize) -> [f32; BLOCK] {
    let mut sums = [_mm512_setzero_ps(); BLOCK];
    let mut at = 0;
    while at < bytes {
        // SAFETY: a line of rows has as many components as two lines of the query.
        let q = unsafe { load_floats(query, at / 2) };
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: `at + 32 <= bytes`.
            let x = unsafe { _mm256_loadu_si256(row.wrapping_add(at).cast()) };
            *sum = _mm512_add_ps(*sum, _mm512_mul_ps(_mm512_cvtph_ps(x), q));
        }
        at += 2 * LANES;
    }
    sums.map(|sum| tree(sum))
}

/// # Safety
/// As for [`crate::codes::Codec::many`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
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
        EIGHT => unsafe { bytes_block(integers, at, bytes, sum) },
        // SAFETY: as above.
        FOUR => unsafe { nibbles_block(integers, at, bytes, sum) },
        // SAFETY: as above.
        _ => unsafe { bits_block(integers, at, bytes, sum) },
    };
    // SAFETY: the caller vouches for rows and factors.
    unsafe { each_block::<L2>(query, rows, slots, out, products) };
}

/// Sign rows that are asked for ahead: a row takes a thirtieth of the time that memory needs.
const SIGN_ROWS: usize = 32;

/// The numbers behind the signs of four rows, transposed: multipliers, squared lengths, spreads.
///
/// # Safety
/// Sixteen bytes must be readable at every address.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn sign_numbers(at: [*const u8; BLOCK]) -> [__m128; 3] {
    // SAFETY: the caller vouches for the bytes.
    let [a, b, c, d] = at.map(|at| unsafe { _mm_loadu_ps(at.cast()) });
    let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
    let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
    [_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab), _mm_movelh_ps(ab_high, cd_high)]
}

/// [`crate::codes::finite`] of four numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn finite_lanes(values: __m128) -> __m128 {
    let most = _mm_set1_ps(DISTANCE_MAX);
    // The second operand is the result when either is not a number.
    _mm_max_ps(_mm_min_ps(values, most), _mm_sub_ps(_mm_setzero_ps(), most))
}

/// # Safety
/// As for [`crate::codes::Signs::lowest`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
unsafe fn lowest<const L2: bool>(
    query: &CodeQuery,
    rows: SignRows,
    spreads: f32,
    slots: &[u32],
    out: &mut [f32],
) {
    let planes = query.codes_bytes.bytes().as_ptr();
    let scale = _mm_set1_ps(query.scale);
    let own = _mm_set1_ps(query.norm2);
    let spreads = _mm_set1_ps(spreads);
    for (index, (here, out)) in slots.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).enumerate() {
        for &ahead in window(slots, index, SIGN_ROWS) {
            fetch_row(rows.row(ahead), rows.row_bytes);
        }
        let here = block_slots(here).map(|slot| rows.row(slot));
        // SAFETY: the caller vouches for the rows; the query was prepared for such rows.
        let products = unsafe { bits_block(planes, here, rows.row_bytes, query.sum) };
        // SAFETY: a line ends at least four bytes behind the three numbers.
        let numbers = unsafe { sign_numbers(here.map(|row| row.wrapping_add(rows.sign_bytes))) };
        let [multiplier, norm2, spread] = numbers;
        let dot = _mm_mul_ps(_mm_mul_ps(floats_of(products), multiplier), scale);
        let estimate = if L2 {
            _mm_sub_ps(_mm_add_ps(own, norm2), _mm_add_ps(dot, dot))
        } else {
            _mm_xor_ps(dot, _mm_set1_ps(-0.0))
        };
        let lowest = _mm_sub_ps(finite_lanes(estimate), _mm_mul_ps(spreads, spread));
        let lowest = finite_lanes(lowest);
        let mut found = [0.0; BLOCK];
        // SAFETY: four floats fit the array.
        unsafe { _mm_storeu_ps(found.as_mut_ptr(), lowest) };
        out.copy_from_slice(&found[..out.len()]);
    }
}

/// Sixteen signed bytes as floats.
///
/// # Safety
/// They must be readable at `from + at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn bytes_as_floats(from: *const u8, at: usize) -> __m512 {
    // SAFETY: passed on.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { load_short(from, at) }))
}

/// Adds the terms of sixteen components.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_terms<const L2: bool>(sum: __m512, query: __m512, x: __m512) -> __m512 {
    let difference = _mm512_sub_ps(query, x);
    let (a, b) = if L2 { (difference, difference) } else { (query, x) };
    _mm512_add_ps(sum, _mm512_mul_ps(a, b))
}

/// The sum of a row of four-bit codes with its residuals. A code picks its number, multiplied once
/// for the whole row, and the scale of its residual.
///
/// # Safety
/// `bytes` residuals and as many floats of the query must be readable, and half as many bytes of
/// the row; whole lines of the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn nibbles_sum<const L2: bool>(
    query: *const f32,
    row: *const u8,
    residual: *const u8,
    bytes: usize,
    scales: Scales,
) -> f32 {
    let level = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let twice = _mm512_slli_epi32::<1>(level);
    let numbers = _mm512_cvtepi32_ps(_mm512_sub_epi32(twice, _mm512_set1_epi32(15)));
    let numbers = _mm512_mul_ps(numbers, _mm512_set1_ps(scales.multiplier));
    let (scale, edge) = (scales.residual, scales.residual * EDGE_SCALE);
    let units = _mm512_mask_blend_ps(0x8001, _mm512_set1_ps(scale), _mm512_set1_ps(edge));
    let mut sum = _mm512_setzero_ps();
    for line in (0..bytes).step_by(2 * LINE) {
        // The pick looks at the lowest four bits alone.
        let codes: [__m512i; 4] = core::array::from_fn(|part| {
            // SAFETY: the row has a line for each two of the residuals.
            _mm512_cvtepu8_epi32(unsafe { load_short(row, line / 2 + part * LANES) })
        });
        let high = codes.map(|codes| _mm512_srli_epi32::<4>(codes));
        for (part, codes) in codes.into_iter().chain(high).enumerate() {
            let at = line + part * LANES;
            // SAFETY: `at + 16` residuals are in the row.
            let left = unsafe { bytes_as_floats(residual, at) };
            // SAFETY: and as many floats in the query.
            let q = unsafe { load_floats(query, at) };
            let number = _mm512_permutexvar_ps(codes, numbers);
            let unit = _mm512_permutexvar_ps(codes, units);
            let x = _mm512_add_ps(number, _mm512_mul_ps(left, unit));
            sum = add_terms::<L2>(sum, q, x);
        }
    }
    tree(sum)
}

/// The sum of a row of eight-bit or one-bit codes with its residuals.
///
/// # Safety
/// `bytes` residuals, as many floats of the query and as many codes must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn numbers_sum<const CODE: usize, const L2: bool>(
    query: *const f32,
    row: *const u8,
    residual: *const u8,
    bytes: usize,
    scales: Scales,
) -> f32 {
    let multiplier = _mm512_set1_ps(scales.multiplier);
    let negative = _mm512_set1_ps(-scales.multiplier);
    let scale = _mm512_set1_ps(scales.residual);
    let mut sum = _mm512_setzero_ps();
    for at in (0..bytes).step_by(LANES) {
        let number = if CODE == ONE {
            // SAFETY: sixteen codes are two bytes.
            let bits = unsafe { row.wrapping_add(at / 8).cast::<u16>().read_unaligned() };
            _mm512_mask_blend_ps(bits, negative, multiplier)
        } else {
            // SAFETY: passed on.
            _mm512_mul_ps(unsafe { bytes_as_floats(row, at) }, multiplier)
        };
        // SAFETY: passed on.
        let left = unsafe { bytes_as_floats(residual, at) };
        // SAFETY: passed on.
        let q = unsafe { load_floats(query, at) };
        sum = add_terms::<L2>(sum, q, _mm512_add_ps(number, _mm512_mul_ps(left, scale)));
    }
    tree(sum)
}

/// # Safety
/// As for [`crate::codes::Codec::refine`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
