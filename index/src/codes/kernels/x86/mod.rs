//! Kernels for AVX-512 with VNNI, and for AVX2.
//!
//! Four rows are worked on together: every load of the query serves four rows, four independent
//! chains hide the latency of the accumulation, and the four sums are reduced jointly. A last block
//! of fewer rows repeats its last row, which costs less than a second form of the loop.

mod avx2;
mod avx512;
mod rotate;

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::super::{CodeQuery, CodeRows, RefineRows, unpack};
use super::{Kernels, finish};

/// Rows handled together.
const BLOCK: usize = 4;

/// Rows that are asked for ahead of the block being computed.
const PREFETCH_ROWS: usize = 2 * BLOCK;

/// Lines of a row that are asked for ahead; the hardware follows a longer row by itself.
const PREFETCH_LINES: usize = 12;

/// Bytes of a line.
const LINE: usize = super::super::lines::LINE_BYTES;

pub(super) fn append_available(tables: &mut Vec<Kernels>) {
    let has_avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt");
    if !has_avx2 {
        return;
    }
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vpopcntdq");
    if has_avx512 {
        tables.push(avx512::table());
    }
    tables.push(avx2::table());
}

/// Asks for a row of some lines and for its factors.
#[inline(always)]
fn fetch_row(row: *const u8, row_bytes: usize) {
    let lines = (row_bytes / LINE).min(PREFETCH_LINES);
    for line in 0..lines {
        let address = row.wrapping_add(line * LINE).cast::<i8>();
        // SAFETY: a prefetch is a hint; it never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
}

/// Asks for rows of the walk plane with their factors.
#[inline(always)]
fn fetch(rows: CodeRows, slots: &[u32]) {
    for &slot in slots {
        fetch_row(rows.row(slot), rows.row_bytes);
        // SAFETY: as for the rows.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(rows.factors_of(slot).cast::<i8>()) };
    }
}

/// The rows to ask for before computing block `index`.
#[inline(always)]
fn window(slots: &[u32], index: usize) -> &[u32] {
    let start = if index == 0 { 0 } else { index * BLOCK + PREFETCH_ROWS };
    let end = (index + 1) * BLOCK + PREFETCH_ROWS;
    slots.get(start..end.min(slots.len())).unwrap_or(&[])
}

/// The slots of a block, the last one repeated when there are fewer.
#[inline(always)]
fn block_slots(slots: &[u32]) -> [u32; BLOCK] {
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

/// Multiplier and scale of the refine plane of a slot.
///
/// # Safety
/// The factors of the slot must be readable.
#[inline(always)]
unsafe fn scales(rows: CodeRows, slot: u32) -> (f32, f32) {
    let factors = rows.factors_of(slot);
    // SAFETY: passed on.
    let multiplier = unsafe { *factors };
    // SAFETY: passed on; the last factor holds the scale.
    let last = unsafe { *factors.wrapping_add(rows.factor_count - 1) };
    (multiplier, unpack(last).0)
}

/// Asks for both planes of some rows.
#[inline(always)]
fn fetch_both(rows: CodeRows, residuals: RefineRows, slots: &[u32]) {
    fetch(rows, slots);
    for &slot in slots {
        fetch_row(residuals.row(slot), residuals.row_bytes);
    }
}
