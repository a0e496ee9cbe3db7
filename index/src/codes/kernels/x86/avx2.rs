//! AVX2 forms: half a line of a row a step, no fused operations.

use core::arch::x86_64::*;

use super::super::{EIGHT, FOUR, HALF, Kernels, ONE};
use super::{
    BLOCK, CodeQuery, CodeRows, LINE, RefineRows, block_slots, fetch, fetch_both, finish_block,
    window,
};
use crate::codes::encode::{EDGE_SCALE, NIBBLE_EDGE};
use crate::codes::scalar::LANES;
use crate::codes::{Codec, CodecScratch, finite};

/// Bytes of a step.
const STEP: usize = 32;

pub(super) fn table() -> Kernels {
    Kernels {
        name: "avx2",
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
unsafe fn load(from: *const u8, at: usize) -> __m256i {
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
fn reduce(sums: [__m256i; BLOCK]) -> [i32; BLOCK] {
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
    for (index, (slots_here, out)) in slots.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).enumerate() {
        fetch(rows, window(slots, index));
        let slots_here = block_slots(slots_here);
        let at = slots_here.map(|slot| rows.row(slot));
        let (bytes, sum) = (rows.row_bytes, query.sum);
        let products = match CODE {
            // SAFETY: the caller vouches for the rows; the query was prepared for such rows.
            HALF => unsafe { halves_block(floats, at, bytes) },
            // SAFETY: as above.
            EIGHT => unsafe { bytes_block(integers, at, bytes) },
            // SAFETY: as above.
            FOUR => unsafe { nibbles_block(integers, at, bytes, sum) },
            // SAFETY: as above.
            _ => unsafe { bits_block(integers, at, bytes, query.padded_dims / 64, sum) },
        };
        // SAFETY: the caller vouches for the factors too.
        let found = unsafe { finish_block::<L2>(query, rows, slots_here, products) };
        out.copy_from_slice(&found[..out.len()]);
    }
}

/// The numbers of eight components of the walk plane, from component `at`.
///
/// # Safety
/// The row must hold these components.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn numbers<const CODE: usize>(row: *const u8, at: usize) -> __m256 {
    let byte = match CODE {
        FOUR => at / 128 * LINE + at % LINE,
        ONE => at / 8,
        _ => at,
    };
    let row = row.wrapping_add(byte);
    if CODE == ONE {
        // SAFETY: passed on: eight components are one byte.
        let bits = _mm256_set1_epi32(i32::from(unsafe { *row }));
        let picks = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let is_set = _mm256_cmpeq_epi32(_mm256_and_si256(bits, picks), picks);
        let (minus, plus) = (_mm256_set1_ps(-1.0), _mm256_set1_ps(1.0));
        return _mm256_blendv_ps(minus, plus, _mm256_castsi256_ps(is_set));
    }
    // SAFETY: passed on: eight components lie in eight bytes.
    let bytes = unsafe { _mm_loadl_epi64(row.cast()) };
    if CODE == FOUR {
        let is_high = at % 128 >= LINE;
        let bytes = if is_high { _mm_srli_epi16::<4>(bytes) } else { bytes };
        let levels = _mm256_cvtepu8_epi32(_mm_and_si128(bytes, _mm_set1_epi8(15)));
        let twice = _mm256_slli_epi32::<1>(levels);
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(twice, _mm256_set1_epi32(15)));
    }
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

/// One step of a refined distance: eight components from `at`.
///
/// # Safety
/// The rows and the query must hold these components.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step<const CODE: usize, const L2: bool>(
    sum: __m256,
    query: *const f32,
    rows: [*const u8; 2],
    scales: [__m256; 3],
    at: usize,
) -> __m256 {
    // SAFETY: passed on.
    let number = unsafe { numbers::<CODE>(rows[0], at) };
    // SAFETY: passed on.
    let left = unsafe { numbers::<EIGHT>(rows[1], at) };
    // SAFETY: passed on.
    let q = unsafe { load_floats(query, at) };
    let scale = if CODE == FOUR {
        let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), number);
        let is_edge = _mm256_cmp_ps::<_CMP_EQ_OQ>(magnitude, _mm256_set1_ps(NIBBLE_EDGE));
        _mm256_blendv_ps(scales[1], scales[2], is_edge)
    } else {
        scales[1]
    };
    let x = _mm256_add_ps(_mm256_mul_ps(number, scales[0]), _mm256_mul_ps(left, scale));
    let difference = _mm256_sub_ps(q, x);
    let term = if L2 { _mm256_mul_ps(difference, difference) } else { _mm256_mul_ps(q, x) };
    _mm256_add_ps(sum, term)
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
    for (index, (slots_here, out)) in slots.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).enumerate() {
        fetch_both(rows, residuals, window(slots, index));
        for (distance, &slot) in out.iter_mut().zip(slots_here) {
            let planes = [rows.row(slot), residuals.row(slot)];
            // SAFETY: the caller vouches for the factors.
            let (multiplier, scale) = unsafe { super::scales(rows, slot) };
            let scales = [multiplier, scale, scale * EDGE_SCALE].map(|s| _mm256_set1_ps(s));
            let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
            let mut at = 0;
            while at < residuals.row_bytes {
                // SAFETY: `at + 16` components are in the rows and in the query.
                low = unsafe { step::<CODE, L2>(low, floats, planes, scales, at) };
                // SAFETY: as above.
                high = unsafe { step::<CODE, L2>(high, floats, planes, scales, at + 8) };
                at += LANES;
            }
            let sum = tree(low, high);
            *distance = finite(if L2 { sum } else { -sum });
        }
    }
}
