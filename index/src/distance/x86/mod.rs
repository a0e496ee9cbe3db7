//! Kernels for AVX2 with FMA and for AVX-512.
//!
//! Squared Euclidean and dot product are written in intrinsics, four rows at a time: every load of
//! the query serves four rows, and four independent chains hide the latency of the multiply-add.
//! The two rarer distances are the portable bodies compiled for the wider unit.

mod avx2;
mod avx512;

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::Kernels;

/// Rows handled together.
const BLOCK: usize = 4;

/// Lines of a row that are fetched ahead; the hardware follows a row on its own after that.
const PREFETCH_LINES: usize = 24;

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

/// Asks for the first lines of a row.
#[inline(always)]
fn fetch(row: *const f32, stride: usize) {
    let lines = (stride / LINE).min(PREFETCH_LINES);
    for line in 0..lines {
        let address = row.wrapping_add(line * LINE).cast::<i8>();
        // SAFETY: a prefetch is a hint; it never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
}
