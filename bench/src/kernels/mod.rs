//! `heddle-bench kernels`: what each kernel costs by itself.
//!
//! A *hop* asks for the distances of 16 rows at random places, as one step of a graph walk does.
//! Rows lie in the second-level cache (1 MiB of them) or far beyond every cache, on 2 MiB pages
//! where the system gives them.

use std::time::Instant;

use clap::Args;
use heddle_index::{Codes, KernelProbe, Metric, ProbeWork};
use serde::Serialize;

use crate::index::Failure;

/// Arguments of `heddle-bench kernels`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Components of a vector, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "128,384,768,1536")]
    dims: Vec<usize>,
    /// MiB of rows that no cache holds.
    #[arg(long, default_value_t = 768)]
    far_mib: usize,
    /// Only the best instruction set of the machine, or of what HEDDLE_KERNELS allows.
    #[arg(long)]
    best: bool,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// Rows of a hop.
const HOP: usize = 16;

/// Bytes of rows that the second-level cache holds.
const NEAR_BYTES: usize = 1 << 20;

/// Hops whose rows no cache holds, all at other places.
const HOPS_FAR: usize = 8_192;

/// Hops among rows that stay in the cache.
const HOPS_NEAR: usize = 2_048;

/// Pieces of work timed together.
const STRETCH: usize = 64;

/// How often each stretch is timed when its rows stay in the cache; others are visited once.
const REPEATS: u32 = 5;

/// The figures of one kind of rows, nanoseconds.
#[derive(Serialize)]
struct Row {
    codes: String,
    instruction_set: &'static str,
    dims: usize,
    row_bytes: usize,
    /// Per distance, rows in the second-level cache.
    near: f64,
    /// Per distance, rows beyond the caches, fetched ahead.
    far: f64,
    /// The same without rows fetched ahead of the block of four.
    far_one_block: f64,
    /// Per refined distance, planes in the second-level cache.
    refine_near: f64,
    /// Per refined distance, planes beyond the caches.
    refine_far: f64,
    encode: f64,
    prepare: f64,
    prepare_row: f64,
    rotate: f64,
}

/// Slots of some hops, evenly spread.
fn places(rows: u32, hops: usize) -> Vec<u32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..hops * HOP)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((u128::from(state) * u128::from(rows)) >> 64) as u32
        })
        .collect()
}

/// Nanoseconds of one piece of work on `step` slots, per slot.
///
/// Slots are timed in short stretches, and the fastest of each stretch's repeats counts, because
/// everything else on a machine only adds time; the median stretch is reported.
fn time(probe: &mut KernelProbe, work: ProbeWork, slots: &[u32], step: usize, repeats: u32) -> f64 {
    let mut sum = 0.0;
    let mut stretches: Vec<f64> = slots
        .chunks(STRETCH * step)
        .map(|stretch| {
            let mut fastest = f64::INFINITY;
            for _ in 0..repeats {
                #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
                let begin = Instant::now();
                for slots in stretch.chunks(step) {
                    sum += probe.run(work, slots);
                }
                fastest = fastest.min(begin.elapsed().as_secs_f64());
            }
            fastest * 1e9 / stretch.len() as f64
        })
        .collect();
    // A result that nobody looks at might not be computed.
    std::hint::black_box(sum);
    stretches.sort_by(f64::total_cmp);
    stretches[stretches.len() / 2]
}

fn measure(
    codes: Codes,
    dims: usize,
    instruction_set: &'static str,
    far_bytes: usize,
) -> Result<Option<Row>, Failure> {
    let open = |rows: u32| KernelProbe::new(codes, dims, Metric::Cosine, instruction_set, rows);
    let Some(row_bytes) = open(16)?.map(|probe| probe.row_bytes()) else { return Ok(None) };
    let near_rows = u32::try_from(NEAR_BYTES / row_bytes)?;
    let far_rows = u32::try_from(far_bytes / row_bytes)?;
    let (Some(mut near), Some(mut far)) = (open(near_rows)?, open(far_rows)?) else {
        return Ok(None);
    };
    let (near_slots, far_slots) = (places(near_rows, HOPS_NEAR), places(far_rows, HOPS_FAR));
    let few = &near_slots[..2_048];
    Ok(Some(Row {
        codes: format!("{codes:?}"),
        instruction_set,
        dims,
        row_bytes,
        near: time(&mut near, ProbeWork::Many, &near_slots, HOP, REPEATS),
        far: time(&mut far, ProbeWork::Many, &far_slots, HOP, 1),
        far_one_block: time(&mut far, ProbeWork::OneBlock, &far_slots, HOP, 1),
        refine_near: time(&mut near, ProbeWork::Refine, &near_slots, HOP, REPEATS),
        refine_far: time(&mut far, ProbeWork::Refine, &far_slots, HOP, 1),
        encode: time(&mut near, ProbeWork::Encode, few, 1, REPEATS),
        prepare: time(&mut near, ProbeWork::Prepare, few, 1, REPEATS),
        prepare_row: time(&mut near, ProbeWork::PrepareRow, few, 1, REPEATS),
        rotate: time(&mut near, ProbeWork::Rotate, few, 1, REPEATS),
    }))
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    println!(
        "{:>9} {:>9} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>7}",
        "codes",
        "set",
        "dims",
        "bytes",
        "near",
        "far",
        "no ahd",
        "ref near",
        "ref far",
        "encode",
        "prepare",
        "prep row",
        "rotate"
    );
    let mut rows = Vec::new();
    for &dims in &arguments.dims {
        let kinds = [Codes::None, Codes::Half, Codes::EightBit, Codes::FourBit, Codes::OneBit];
        for codes in kinds {
            let sets = KernelProbe::instruction_sets(codes);
            let count = if arguments.best { 1 } else { sets.len() };
            for set in sets.into_iter().take(count) {
                let Some(row) = measure(codes, dims, set, arguments.far_mib << 20)? else {
                    continue;
                };
                println!(
                    "{:>9} {:>9} {:>5} {:>6} {:>6.1} {:>6.1} {:>7.1} {:>7.1} {:>7.1} {:>7.0} \
                     {:>7.0} {:>8.0} {:>7.0}",
                    row.codes,
                    row.instruction_set,
                    row.dims,
                    row.row_bytes,
                    row.near,
                    row.far,
                    row.far_one_block,
                    row.refine_near,
                    row.refine_far,
                    row.encode,
                    row.prepare,
                    row.prepare_row,
                    row.rotate
                );
                rows.push(row);
            }
        }
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}
