//! What the kernels of every vector unit share.
//!
//! Four rows are worked on together: every load of the query serves four rows, four independent
//! chains hide the latency of the accumulation, and the four sums are reduced jointly. A last block
//! of fewer rows repeats its last row, which costs less than a second form of the loop.

use super::super::{CodeQuery, CodeRows, RefineRows, finite, unpack};
use super::finish;
use crate::distance::prefetch;

/// Rows handled together.
pub(super) const BLOCK: usize = 4;

/// Rows that are asked for ahead of the block being computed.
const PREFETCH_ROWS: usize = 2 * BLOCK;

/// Rows whose both planes are asked for ahead. At 384 dimensions with four bits and memory beyond
/// the caches a row took 163, 152, 149 and 138 ns with 2, 4, 8 and 12 of them.
const REFINE_ROWS: usize = 12;

/// Lines of a row that are asked for ahead; the hardware follows a longer row by itself.
const PREFETCH_LINES: usize = 12;

/// Bytes of a line.
pub(super) const LINE: usize = super::super::lines::LINE_BYTES;

/// Asks for a row of some lines and for its factors.
#[inline(always)]
pub(super) fn fetch_row(row: *const u8, row_bytes: usize) {
    let lines = (row_bytes / LINE).min(PREFETCH_LINES);
    for line in 0..lines {
        prefetch(row.wrapping_add(line * LINE));
    }
}

/// Asks for rows of the walk plane with their factors.
#[inline(always)]
fn fetch(rows: CodeRows, slots: &[u32]) {
    for &slot in slots {
        fetch_row(rows.row(slot), rows.row_bytes);
        prefetch(rows.factors_of(slot).cast());
    }
}

/// The rows to ask for before computing block `index`, up to `ahead` rows behind it.
#[inline(always)]
pub(super) fn window(slots: &[u32], index: usize, ahead: usize) -> &[u32] {
    let start = if index == 0 { 0 } else { index * BLOCK + ahead };
    let end = (index + 1) * BLOCK + ahead;
    slots.get(start..end.min(slots.len())).unwrap_or(&[])
}

/// The slots of a block, the last one repeated when there are fewer.
#[inline(always)]
pub(super) fn block_slots(slots: &[u32]) -> [u32; BLOCK] {
    core::array::from_fn(|at| slots[at.min(slots.len() - 1)])
}

/// The end of four estimates.
///
/// # Safety
/// The factors of the slots must be readable.
#[inline(always)]
unsafe fn finish_block<const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    slots: [u32; BLOCK],
    products: [f32; BLOCK],
) -> [f32; BLOCK] {
    core::array::from_fn(|at| {
        let factors = rows.factors_of(slots[at]);
        // SAFETY: passed on; the first factor of a slot is its multiplier.
        let multiplier = unsafe { *factors };
        // SAFETY: passed on; the second is the squared length, when distances need it.
        let norm2 = if L2 { unsafe { *factors.wrapping_add(1) } } else { 0.0 };
        finish::<L2>(query, products[at], multiplier, norm2)
    })
}

/// Estimates for rows of any number; `products` gives the sums of products of a block.
///
/// # Safety
/// As for [`crate::codes::Codec::many`].
#[inline(always)]
pub(super) unsafe fn each_block<const L2: bool>(
    query: &CodeQuery,
    rows: CodeRows,
    slots: &[u32],
    out: &mut [f32],
    products: impl Fn([*const u8; BLOCK]) -> [f32; BLOCK],
) {
    for (index, (slots_here, out)) in slots.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).enumerate() {
        fetch(rows, window(slots, index, PREFETCH_ROWS));
        let slots_here = block_slots(slots_here);
        let products = products(slots_here.map(|slot| rows.row(slot)));
        // SAFETY: the caller vouches for the factors too.
        let found = unsafe { finish_block::<L2>(query, rows, slots_here, products) };
        out.copy_from_slice(&found[..out.len()]);
    }
}

/// Multiplier and scale of the refine plane of a slot.
///
/// # Safety
/// The factors of the slot must be readable.
#[inline(always)]
unsafe fn scales(rows: CodeRows, slot: u32) -> Scales {
    let factors = rows.factors_of(slot);
    // SAFETY: passed on.
    let multiplier = unsafe { *factors };
    // SAFETY: passed on; the last factor holds the scale.
    let last = unsafe { *factors.wrapping_add(rows.factor_count - 1) };
    Scales { multiplier, residual: unpack(last).0 }
}

/// Asks for both planes of some rows.
#[inline(always)]
fn fetch_both(rows: CodeRows, residuals: RefineRows, slots: &[u32]) {
    fetch(rows, slots);
    for &slot in slots {
        fetch_row(residuals.row(slot), residuals.row_bytes);
    }
}

/// What makes the numbers of both planes of a row components.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    /// Of the walk plane.
    pub(super) multiplier: f32,
    /// Of the refine plane.
    pub(super) residual: f32,
}

/// Distances from both planes for rows of any number; `sum` gives the sum of the terms of a row,
/// from its walk plane, its refine plane and their scales.
///
/// # Safety
/// As for [`crate::codes::Codec::refine`].
#[inline(always)]
pub(super) unsafe fn each_row<const L2: bool>(
    rows: CodeRows,
    residuals: RefineRows,
    slots: &[u32],
    out: &mut [f32],
    sum: impl Fn(*const u8, *const u8, Scales) -> f32,
) {
    fetch_both(rows, residuals, &slots[..REFINE_ROWS.min(slots.len())]);
    for (index, (distance, &slot)) in out.iter_mut().zip(slots).enumerate() {
        if let Some(&next) = slots.get(index + REFINE_ROWS) {
            fetch_both(rows, residuals, &[next]);
        }
        // SAFETY: the caller vouches for the factors.
        let scales = unsafe { scales(rows, slot) };
        let sum = sum(rows.row(slot), residuals.row(slot), scales);
        *distance = finite(if L2 { sum } else { -sum });
    }
}
