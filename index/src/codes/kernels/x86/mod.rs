//! Kernels for AVX-512 with VNNI, and for AVX2, with AVX-VNNI where there is no AVX-512.

mod avx2;
mod avx512;
mod avxvnni;
mod rotate;

use super::{EIGHT, FOUR, Kernels};
use crate::instruction_set::InstructionSet;

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
        && is_x86_feature_detected!("avx512bitalg");
    if has_avx512 {
        tables.push(avx512::table());
    }
    if is_x86_feature_detected!("avxvnni") {
        let mut table = Kernels { set: InstructionSet::AvxVnni, ..avx2::table() };
        table.many[EIGHT] = [avxvnni::many::<EIGHT, false>, avxvnni::many::<EIGHT, true>];
        table.many[FOUR] = [avxvnni::many::<FOUR, false>, avxvnni::many::<FOUR, true>];
        tables.push(table);
    }
    tables.push(avx2::table());
}
