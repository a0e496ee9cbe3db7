//! Kernels for NEON, with and without the dot product instructions of ARMv8.2.
//!
//! Rotation, encoding and queries are written once: the plain bodies are compiled for NEON anyway,
//! which every machine of this architecture that runs Linux has.

mod dotprod;
mod neon;
mod rotate;

use super::{EIGHT, FOUR, HALF, Kernels, ONE};
use crate::codes::Codec;
use crate::instruction_set::InstructionSet;

pub(super) fn append_available(tables: &mut Vec<Kernels>) {
    if !std::arch::is_aarch64_feature_detected!("neon") {
        return;
    }
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        let mut table = table(InstructionSet::Dotprod);
        table.many[EIGHT] = [dotprod::many::<EIGHT, false>, dotprod::many::<EIGHT, true>];
        table.many[FOUR] = [dotprod::many::<FOUR, false>, dotprod::many::<FOUR, true>];
        tables.push(table);
    }
    tables.push(table(InstructionSet::Neon));
}

fn table(set: InstructionSet) -> Kernels {
    use neon::{many, refine};
    Kernels {
        set,
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
        rotate: rotate::rotate,
    }
}
