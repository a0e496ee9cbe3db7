//! NEON forms: sixteen floats a step in four registers, fused multiply-adds.
//!
//! Four rows are worked on together, as on other machines: every load of the query serves four
//! rows, and sixteen independent chains hide the latency of the multiply-add.

use core::arch::aarch64::{
    float32x4_t, vabdq_f32, vaddq_f32, vaddvq_f32, vbicq_u32, vceqq_f32, vdupq_n_f32, vfmaq_f32,
    vld1q_f32, vreinterpretq_f32_u32, vreinterpretq_u32_f32, vsubq_f32,
};

use super::blocks::{BLOCK, LINE, fetch, window};
use super::portable::{self, pair_body};
use super::{Kernels, Rows};
use crate::instruction_set::InstructionSet;

/// Floats of a register.
const LANES: usize = 4;

/// Registers of a step.
const PARTS: usize = LINE / LANES;

/// The distances share one loop; the parameter is folded away.
const L2: usize = 0;
const DOT: usize = 1;
const MANHATTAN: usize = 2;
const HAMMING: usize = 3;

pub(super) fn append_available(tables: &mut Vec<[Kernels; 4]>) {
    if std::arch::is_aarch64_feature_detected!("neon") {
        let set = InstructionSet::Neon;
        tables.push([
            Kernels { set, pair: pair::<L2>, many: many::<L2> },
            Kernels { set, pair: pair::<DOT>, many: many::<DOT> },
            Kernels { set, pair: pair::<MANHATTAN>, many: many::<MANHATTAN> },
            Kernels { set, pair: pair::<HAMMING>, many: many::<HAMMING> },
        ]);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn step<const FORM: usize>(sum: float32x4_t, left: float32x4_t, right: float32x4_t) -> float32x4_t {
    match FORM {
        DOT => vfmaq_f32(sum, left, right),
        MANHATTAN => vaddq_f32(sum, vabdq_f32(left, right)),
        HAMMING => {
            let one = vreinterpretq_u32_f32(vdupq_n_f32(1.0));
            let differs = vbicq_u32(one, vceqq_f32(left, right));
            vaddq_f32(sum, vreinterpretq_f32_u32(differs))
        }
        _ => {
            let difference = vsubq_f32(left, right);
            vfmaq_f32(sum, difference, difference)
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn finish<const FORM: usize>(sums: [float32x4_t; PARTS]) -> f32 {
    let [a, b, c, d] = sums;
    let total = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
    if FORM == DOT { -total } else { total }
}

/// # Safety
/// Four floats must be readable at `from + at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(from: *const f32, at: usize) -> float32x4_t {
    // SAFETY: the caller vouches for the four floats.
    unsafe { vld1q_f32(from.wrapping_add(at)) }
}

/// The last few components of an unpadded vector.
fn rest<const FORM: usize>(left: &[f32], right: &[f32]) -> f32 {
    match FORM {
        DOT => pair_body::<portable::NegatedDot>(left, right),
        MANHATTAN => pair_body::<portable::Manhattan>(left, right),
        HAMMING => pair_body::<portable::Hamming>(left, right),
        _ => pair_body::<portable::L2>(left, right),
    }
}

#[target_feature(enable = "neon")]
fn pair<const FORM: usize>(left: &[f32], right: &[f32]) -> f32 {
    let length = left.len().min(right.len());
    let whole = length - length % LANES;
    let rest = rest::<FORM>(&left[whole..length], &right[whole..length]);
    let (left, right) = (left.as_ptr(), right.as_ptr());
    let mut sums = [vdupq_n_f32(0.0); PARTS];
    for at in (0..whole).step_by(LANES) {
        let sum = &mut sums[at / LANES % PARTS];
        // SAFETY: `at + 4 <= whole <= length` of the left slice.
        let a = unsafe { load(left, at) };
        // SAFETY: and of the right one.
        let b = unsafe { load(right, at) };
        *sum = step::<FORM>(*sum, a, b);
    }
    finish::<FORM>(sums) + rest
}

/// # Safety
/// All rows and the query must be readable for `stride` floats, a multiple of sixteen.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block<const FORM: usize>(
    query: *const f32,
    rows: [*const f32; BLOCK],
    stride: usize,
) -> [f32; BLOCK] {
    let mut sums = [[vdupq_n_f32(0.0); PARTS]; BLOCK];
    let mut at = 0;
    while at < stride {
        for part in 0..PARTS {
            // SAFETY: `at + 16 <= stride`.
            let q = unsafe { load(query, at + part * LANES) };
            for (sums, &row) in sums.iter_mut().zip(&rows) {
                // SAFETY: `at + 16 <= stride`, and the caller vouches for the row.
                let r = unsafe { load(row, at + part * LANES) };
                sums[part] = step::<FORM>(sums[part], q, r);
            }
        }
        at += LINE;
    }
    sums.map(|sums| finish::<FORM>(sums))
}

/// # Safety
/// As for [`Kernels::many`].
#[target_feature(enable = "neon")]
unsafe fn many<const FORM: usize>(query: &[f32], rows: Rows, slots: &[u32], out: &mut [f32]) {
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
