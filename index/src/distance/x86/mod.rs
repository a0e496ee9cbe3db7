//! Kernels for AVX2 with FMA and for AVX-512.
//!
//! Squared Euclidean and dot product are written in intrinsics, four rows at a time: every load of
//! the query serves four rows, and four independent chains hide the latency of the multiply-add.
//! The two rarer distances are the portable bodies compiled for the wider unit.

mod avx2;
mod avx512;

use super::Kernels;

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
