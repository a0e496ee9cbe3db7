//! Kernels for AVX2 with FMA and for AVX-512.
//!
//! Squared Euclidean and dot product are written in intrinsics, four rows at a time: every load of
//! the query serves four rows, and four independent chains hide the latency of the multiply-add.
//! The two rarer distances are the portable bodies compiled for the wider unit.

mod avx2;
mod avx512;

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::{Kernels, Rows};

/// Rows handled together.
const BLOCK: usize = 4;

/// Lines of a row that are fetched ahead; the hardware follows a row on its own after that. In one
/// noisy sweep 8 lines of 8 rows beat 24 lines of 4 rows by a quarter at 384 dimensions and lay
/// between 12 % behind and 3 % ahead at 128; a sweep on a quiet machine may choose otherwise.
const PREFETCH_LINES: usize = 8;

/// Rows that are fetched ahead of the block being computed.
const PREFETCH_ROWS: usize = 2 * BLOCK;

/// Floats in a 64-byte line.
const LINE: usize = crate::limits::LANE_FLOATS;

/// The two hot distances share one loop; the parameter is folded away.
const L2: bool = false;
const DOT: bool = true;

pub(super) fn append_available(tables: &mut Vec<[Kernels; 4]>) {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        return;
    }
    if is_x86_feature_detected!("avx512f") {
        tables.push(avx512::table());
    }
    tables.push(avx2::table());
}

/// Asks for the first lines of some rows.
#[inline(always)]
fn fetch(rows: Rows, slots: &[u32]) {
    let lines = (rows.stride / LINE).min(PREFETCH_LINES);
    for &slot in slots {
        let row = rows.row(slot);
        for line in 0..lines {
            let address = row.wrapping_add(line * LINE).cast::<i8>();
            // SAFETY: a prefetch is a hint; it never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
        }
    }
}

/// The rows to ask for before computing block `index`.
#[inline(always)]
fn window(slots: &[u32], index: usize) -> &[u32] {
    let start = if index == 0 { 0 } else { index * BLOCK + PREFETCH_ROWS };
    let end = (index + 1) * BLOCK + PREFETCH_ROWS;
    slots.get(start..end.min(slots.len())).unwrap_or(&[])
}
