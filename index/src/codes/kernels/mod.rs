//! The kernels of every instruction set, and the plain form of each.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use super::encode::{EDGE_SCALE, NIBBLE_EDGE};
use super::rotation::Rotation;
use super::scalar::{LANES, dot_bits, dot_bytes, dot_nibbles, tree};
use super::signs::SignRows;
use super::{CodeQuery, CodeRows, Codec, CodecScratch, RefineRows, finite, half, unpack};
use crate::instruction_set::{self, InstructionSet};
use crate::params::Codes;

/// Estimates for many rows.
pub(super) type ManyFn = unsafe fn(&CodeQuery, CodeRows, &[u32], &mut [f32]);

/// Least distances by signs for many rows: their estimates less so many spreads, see
/// [`super::Signs`].
pub(super) type LowestFn = unsafe fn(&CodeQuery, SignRows, f32, &[u32], &mut [f32]);

/// Distances from both planes for many rows.
pub(super) type RefineFn = unsafe fn(&CodeQuery, CodeRows, RefineRows, &[u32], &mut [f32]);

/// [`Codec::encode`] compiled for an instruction set.
pub(super) type EncodeFn =
    unsafe fn(&Codec, &[f32], &mut CodecScratch, &mut [u8], &mut [f32], &mut [u8]);

/// [`Codec::prepare`] compiled for an instruction set.
pub(super) type PrepareFn = unsafe fn(&Codec, &[f32], &mut CodeQuery);

/// [`Codec::prepare_row`] compiled for an instruction set.
pub(super) type PrepareRowFn = unsafe fn(&Codec, &[u8], &[f32], &[u8], &mut CodeQuery);

/// [`Rotation::apply`] on an instruction set.
pub(super) type RotateFn = unsafe fn(&Rotation, &mut [f32]);

/// Position of a code in the tables.
pub(super) const fn code_index(codes: Codes) -> usize {
    match codes {
        Codes::None | Codes::Half => HALF,
        Codes::EightBit => EIGHT,
        Codes::FourBit => FOUR,
        Codes::OneBit => ONE,
    }
}

/// Positions in the tables, also the parameter that a kernel is compiled for.
pub(super) const HALF: usize = 0;
pub(super) const EIGHT: usize = 1;
pub(super) const FOUR: usize = 2;
pub(super) const ONE: usize = 3;

/// The kernels of one instruction set, by code and by whether distances are squared Euclidean.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) set: InstructionSet,
    pub(super) many: [[ManyFn; 2]; 4],
    pub(super) refine: [[RefineFn; 2]; 4],
    /// None where the estimates of one-bit rows are the fastest there is.
    pub(super) lowest: Option<[LowestFn; 2]>,
    pub(super) encode: EncodeFn,
    pub(super) prepare: PrepareFn,
    pub(super) prepare_row: PrepareRowFn,
    pub(super) rotate: RotateFn,
}

/// Every table that can run on this machine, best first.
pub(super) fn available() -> &'static [Kernels] {
    static TABLES: OnceLock<Vec<Kernels>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut tables = Vec::new();
        #[cfg(target_arch = "x86_64")]
        x86::append_available(&mut tables);
        #[cfg(target_arch = "aarch64")]
        aarch64::append_available(&mut tables);
        tables.push(plain());
        tables
    })
}

/// The fastest kernels that this process may use.
pub(super) fn best() -> &'static Kernels {
    let limit = instruction_set::limit();
    let allowed = available().iter().find(|table| table.set <= limit);
    allowed.expect("plain kernels are always there and always allowed")
}

fn plain() -> Kernels {
    Kernels {
        set: InstructionSet::Portable,
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
        encode: Codec::encode_body,
        prepare: Codec::prepare_body,
        prepare_row: Codec::prepare_row_body,
        rotate: Rotation::apply,
    }
}

/// From the dot product of the numbers to the raw distance: one order for all.
#[inline(always)]
pub(super) fn finish<const L2: bool>(
    query: &CodeQuery,
    product: f32,
    multiplier: f32,
    norm2: f32,
) -> f32 {
    let dot = (product * multiplier) * query.scale;
    finite(if L2 { (query.norm2 + norm2) - (dot + dot) } else { -dot })
}

/// Factors that an estimate is made from; every row has as many.
const FACTORS_READ: usize = 2;

/// # Safety
/// As for [`super::Codec::many`].
unsafe fn many<const CODE: usize, const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    slots: &[u32],
    out: &mut [f32],
) {
    for (distance, &slot) in out.iter_mut().zip(slots) {
        // SAFETY: the caller vouches that the row is committed and published.
        let row = unsafe { core::slice::from_raw_parts(rows.row(slot), rows.row_bytes) };
        let product = match CODE {
            HALF => dot_halves(row, query.rotated.floats()),
            EIGHT => dot_bytes(row, query.codes_bytes.signed()) as f32,
            FOUR => dot_nibbles(row, query.codes_bytes.signed()) as f32,
            _ => (2 * dot_bits(row, query.codes_bytes.bytes()) - query.sum) as f32,
        };
        // SAFETY: as above, for the factors.
        let factors = unsafe { core::slice::from_raw_parts(rows.factors_of(slot), FACTORS_READ) };
        *distance = finish::<L2>(query, product, factors[0], factors[1]);
    }
}

/// Dot product of a half-precision row in the fixed order.
fn dot_halves(row: &[u8], query: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let row = row.as_chunks::<{ 2 * LANES }>().0;
    for (row, query) in row.iter().zip(query.as_chunks::<LANES>().0) {
        for (lane, &bytes) in row.as_chunks::<2>().0.iter().enumerate() {
            lanes[lane] += half::to_f32(u16::from_le_bytes(bytes)) * query[lane];
        }
    }
    tree(lanes)
}

/// The number of a component of the walk plane.
#[inline(always)]
fn walk_number<const CODE: usize>(row: &[u8], at: usize) -> f32 {
    match CODE {
        FOUR => {
            let byte = row[at / 128 * 64 + at % 64];
            let level = if at % 128 < 64 { byte & 15 } else { byte >> 4 };
            f32::from(level) * 2.0 - 15.0
        }
        ONE => f32::from(row[at / 8] >> (at % 8) & 1) * 2.0 - 1.0,
        _ => f32::from(row[at] as i8),
    }
}

/// # Safety
/// As for [`super::Codec::refine`].
unsafe fn refine<const CODE: usize, const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    residuals: RefineRows,
    slots: &[u32],
    out: &mut [f32],
) {
    for (distance, &slot) in out.iter_mut().zip(slots) {
        // SAFETY: the caller vouches that the row is committed and published.
        let row = unsafe { core::slice::from_raw_parts(rows.row(slot), rows.row_bytes) };
        // SAFETY: as above.
        let residual =
            unsafe { core::slice::from_raw_parts(residuals.row(slot), residuals.row_bytes) };
        // SAFETY: as above, for the factors.
        let factors =
            unsafe { core::slice::from_raw_parts(rows.factors_of(slot), rows.factor_count) };
        let (multiplier, (scale, _)) = (factors[0], unpack(factors[rows.factor_count - 1]));
        let mut lanes = [0.0f32; LANES];
        let query = query.rotated.floats().as_chunks::<LANES>().0;
        let lines = residual.as_chunks::<LANES>().0.iter().zip(query).enumerate();
        for (line, (residual, query)) in lines {
            for lane in 0..LANES {
                let number = walk_number::<CODE>(row, line * LANES + lane);
                let is_edge = CODE == FOUR && number.abs() == NIBBLE_EDGE;
                let scale = if is_edge { scale * EDGE_SCALE } else { scale };
                let x = number * multiplier + f32::from(residual[lane] as i8) * scale;
                let difference = query[lane] - x;
                lanes[lane] += if L2 { difference * difference } else { query[lane] * x };
            }
        }
        let sum = tree(lanes);
        *distance = finite(if L2 { sum } else { -sum });
    }
}
