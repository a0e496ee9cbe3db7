//! NEON forms: sixteen bytes or floats a step, no fused operations.

use core::arch::aarch64::*;

use super::super::blocks::{BLOCK, LINE, Scales, each_block, each_row};
use super::super::{EIGHT, FOUR, HALF, ONE};
use crate::codes::encode::EDGE_SCALE;
use crate::codes::scalar::LANES;
use crate::codes::{CodeQuery, CodeRows, RefineRows};

/// Bytes of a register.
pub(super) const REGISTER: usize = 16;

/// Floats of a register.
const FLOATS: usize = 4;

/// Sixteen lanes of a floating point sum, in order.
type Floats = [float32x4_t; LANES / FLOATS];

/// # Safety
/// Sixteen bytes must be readable at `from + at`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load(from: *const u8, at: usize) -> int8x16_t {
    // SAFETY: the caller vouches for the bytes.
    unsafe { vld1q_s8(from.wrapping_add(at).cast()) }
}

/// # Safety
/// Sixteen floats must be readable at `from + at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_floats(from: *const f32, at: usize) -> Floats {
    // SAFETY: the caller vouches for the floats.
    core::array::from_fn(|part| unsafe { vld1q_f32(from.wrapping_add(at + part * FLOATS)) })
}

/// Sums of the lanes of four registers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn reduce(sums: [int32x4_t; BLOCK]) -> [i32; BLOCK] {
    let [a, b, c, d] = sums;
    let sum = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    let mut out = [0; BLOCK];
    // SAFETY: four integers fit the array.
    unsafe { vst1q_s32(out.as_mut_ptr(), sum) };
    out
}

/// Sum of sixteen lanes, halves first, as the definition has it.
#[inline]
#[target_feature(enable = "neon")]
fn tree(sums: Floats) -> f32 {
    let [a, b, c, d] = sums;
    let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
    let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
}

/// Products of sixteen signed bytes, two in each lane: they fit when no byte is -128.
#[inline]
#[target_feature(enable = "neon")]
fn pairs(left: int8x16_t, right: int8x16_t) -> int16x8_t {
    vmlal_high_s8(vmull_s8(vget_low_s8(left), vget_low_s8(right)), left, right)
}

/// # Safety
/// `bytes` must be readable at every row and at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bytes_block(query: *const u8, rows: [*const u8; BLOCK], bytes: usize) -> [f32; BLOCK] {
    let mut sums = [vdupq_n_s32(0); BLOCK];
    for at in (0..bytes).step_by(REGISTER) {
        // SAFETY: `at + 16 <= bytes`.
        let q = unsafe { load(query, at) };
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: as above.
            let x = unsafe { load(row, at) };
            *sum = vpadalq_s16(*sum, pairs(x, q));
        }
    }
    reduce(sums).map(|found| found as f32)
}

/// # Safety
/// `bytes` must be readable at every row and twice as many at the query, a multiple of a line.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn nibbles_block(
    query: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    let mut sums = [vdupq_n_s32(0); BLOCK];
    for line in (0..bytes).step_by(LINE) {
        // Sixteen products of 15 and 127 fit sixteen bits: a line is widened once.
        let mut line_sums = [vdupq_n_s16(0); BLOCK];
        for part in (0..LINE).step_by(REGISTER) {
            // SAFETY: `2 * line + 128 <= 2 * bytes`.
            let q_low = unsafe { load(query, 2 * line + part) };
            // SAFETY: as above.
            let q_high = unsafe { load(query, 2 * line + LINE + part) };
            for (sum, row) in line_sums.iter_mut().zip(rows) {
                // SAFETY: `line + 64 <= bytes`.
                let x = vreinterpretq_u8_s8(unsafe { load(row, line + part) });
                let low = vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15)));
                let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(x));
                *sum = vmlal_s8(*sum, vget_low_s8(low), vget_low_s8(q_low));
                *sum = vmlal_high_s8(*sum, low, q_low);
                *sum = vmlal_s8(*sum, vget_low_s8(high), vget_low_s8(q_high));
                *sum = vmlal_high_s8(*sum, high, q_high);
            }
        }
        for (sum, line_sum) in sums.iter_mut().zip(line_sums) {
            *sum = vpadalq_s16(*sum, line_sum);
        }
    }
    reduce(sums).map(|found| (2 * found - 15 * sum) as f32)
}

/// # Safety
/// `bytes` must be readable at every row and four times as many at the planes, a multiple of a
/// line.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bits_block(
    planes: *const u8,
    rows: [*const u8; BLOCK],
    bytes: usize,
    sum: i32,
) -> [f32; BLOCK] {
    let mut sums = [vdupq_n_s32(0); BLOCK];
    for at in (0..bytes).step_by(REGISTER) {
        // SAFETY: each of the four planes has `bytes`, and `at + 16 <= bytes`.
        let q: [uint8x16_t; 4] = core::array::from_fn(|plane| {
            vreinterpretq_u8_s8(unsafe { load(planes, plane * bytes + at) })
        });
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: as above.
            let x = vreinterpretq_u8_s8(unsafe { load(row, at) });
            let [p0, p1, p2, p3] = q.map(|q| vcntq_u8(vandq_u8(x, q)));
            // At most 8 bits a byte: what is counted lies between -64 and 56.
            let low = vaddq_u8(p0, vshlq_n_u8::<1>(p1));
            let high = vshlq_n_u8::<2>(vsubq_u8(p2, vshlq_n_u8::<1>(p3)));
            let counted = vreinterpretq_s8_u8(vaddq_u8(low, high));
            *sum = vpadalq_s16(*sum, vpaddlq_s8(counted));
        }
    }
    reduce(sums).map(|found| (2 * found - sum) as f32)
}

/// # Safety
/// `bytes` must be readable at every row, and one float for two of them at the query.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves_block(query: *const f32, rows: [*const u8; BLOCK], bytes: usize) -> [f32; BLOCK] {
    let mut sums = [[vdupq_n_f32(0.0); LANES / FLOATS]; BLOCK];
    for at in (0..bytes).step_by(2 * LANES) {
        // SAFETY: a line of rows has as many components as two lines of the query.
        let q = unsafe { load_floats(query, at / 2) };
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: `at + 32 <= bytes`.
            let first = vreinterpretq_f16_s8(unsafe { load(row, at) });
            // SAFETY: as above.
            let second = vreinterpretq_f16_s8(unsafe { load(row, at + REGISTER) });
            let x = [
                vcvt_f32_f16(vget_low_f16(first)),
                vcvt_high_f32_f16(first),
                vcvt_f32_f16(vget_low_f16(second)),
                vcvt_high_f32_f16(second),
            ];
            for (sum, (x, q)) in sums.iter_mut().zip(x.into_iter().zip(q)) {
                *sum = vaddq_f32(*sum, vmulq_f32(x, q));
            }
        }
    }
    sums.map(|sums| tree(sums))
}

/// # Safety
/// As for [`crate::codes::Codec::many`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn many<const CODE: usize, const L2: bool>(
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
        _ => unsafe { bits_block(integers, at, bytes, sum) },
    };
    // SAFETY: the caller vouches for rows and factors.
    unsafe { each_block::<L2>(query, rows, slots, out, products) };
}

/// Four-bit codes as numbers, `2 c - 15`.
const NUMBERS: [i8; 16] = [-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15];

/// In how many units of the refine plane a residual counts, by four-bit code.
const EDGES: [i8; 16] = {
    let mut edges = [1; 16];
    (edges[0], edges[15]) = (EDGE_SCALE as i8, EDGE_SCALE as i8);
    edges
};

/// The bits of a byte.
const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

/// A table of sixteen bytes in a register.
#[inline]
#[target_feature(enable = "neon")]
fn table(bytes: &[i8; 16]) -> int8x16_t {
    // SAFETY: the array has the sixteen bytes.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}

/// Sixteen-bit integers as floats.
#[inline]
#[target_feature(enable = "neon")]
fn floats(low: int16x8_t, high: int16x8_t) -> Floats {
    [
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
        vcvtq_f32_s32(vmovl_high_s16(low)),
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
        vcvtq_f32_s32(vmovl_high_s16(high)),
    ]
}

/// The numbers of sixteen components of the walk plane, from component `at`, and their residuals in
/// units of the scale.
///
/// # Safety
/// Both rows must hold these components.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn components<const CODE: usize>(
    row: *const u8,
    residual: *const u8,
    at: usize,
) -> [Floats; 2] {
    // SAFETY: passed on.
    let left = unsafe { load(residual, at) };
    let plain = floats(vmovl_s8(vget_low_s8(left)), vmovl_high_s8(left));
    let number = match CODE {
        FOUR => {
            // SAFETY: passed on.
            let bytes = unsafe { load(row, at / (2 * LINE) * LINE + at % LINE) };
            let bytes = vreinterpretq_u8_s8(bytes);
            let is_high = at % (2 * LINE) >= LINE;
            let levels =
                if is_high { vshrq_n_u8::<4>(bytes) } else { vandq_u8(bytes, vdupq_n_u8(15)) };
            let edge = vqtbl1q_s8(table(&EDGES), levels);
            let low = vmull_s8(vget_low_s8(left), vget_low_s8(edge));
            let number = vqtbl1q_s8(table(&NUMBERS), levels);
            let number = floats(vmovl_s8(vget_low_s8(number)), vmovl_high_s8(number));
            return [number, floats(low, vmull_high_s8(left, edge))];
        }
        ONE => {
            // SAFETY: passed on: sixteen components are two bytes.
            let [low, high] = unsafe { row.wrapping_add(at / 8).cast::<[u8; 2]>().read() };
            // SAFETY: the array has the sixteen bytes.
            let bits = unsafe { vld1q_u8(BITS.as_ptr()) };
            let is_set = vtstq_u8(vcombine_u8(vdup_n_u8(low), vdup_n_u8(high)), bits);
            // All bits are minus one.
            vreinterpretq_s8_u8(vorrq_u8(vmvnq_u8(is_set), vdupq_n_u8(1)))
        }
        // SAFETY: passed on.
        _ => unsafe { load(row, at) },
    };
    [floats(vmovl_s8(vget_low_s8(number)), vmovl_high_s8(number)), plain]
}

/// # Safety
/// As for [`crate::codes::Codec::refine`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn refine<const CODE: usize, const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    residuals: RefineRows,
    slots: &[u32],
    out: &mut [f32],
) {
    let query = query.rotated.floats().as_ptr();
    let sum = |row: *const u8, residual: *const u8, scales: Scales| {
        let (multiplier, scale) = (vdupq_n_f32(scales.multiplier), vdupq_n_f32(scales.residual));
        let mut sums = [vdupq_n_f32(0.0); LANES / FLOATS];
        for at in (0..residuals.row_bytes).step_by(LANES) {
            // SAFETY: `at + 16` components are in the rows.
            let [number, left] = unsafe { components::<CODE>(row, residual, at) };
            // SAFETY: and in the query.
            let q = unsafe { load_floats(query, at) };
            for part in 0..LANES / FLOATS {
                let x = vmulq_f32(number[part], multiplier);
                let x = vaddq_f32(x, vmulq_f32(left[part], scale));
                let difference = vsubq_f32(q[part], x);
                let (a, b) = if L2 { (difference, difference) } else { (q[part], x) };
                sums[part] = vaddq_f32(sums[part], vmulq_f32(a, b));
            }
        }
        tree(sums)
    };
    // SAFETY: the caller vouches for rows and factors.
    unsafe { each_row::<L2>(rows, residuals, slots, out, sum) };
}
