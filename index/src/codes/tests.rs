//! Codes against exact distances.

use super::*;
use crate::testing::{Random, definition};

/// Planes of several vectors.
pub(super) struct Planes {
    pub(super) walk: lines::ByteLines,
    pub(super) refine: lines::ByteLines,
    pub(super) factors: Vec<f32>,
}

impl Planes {
    pub(super) fn of(codec: &Codec, vectors: &[Vec<f32>]) -> Self {
        let layout = codec.layout();
        let mut walk = lines::ByteLines::default();
        walk.resize(layout.walk_row_bytes * vectors.len());
        let mut refine = lines::ByteLines::default();
        refine.resize(layout.refine_row_bytes * vectors.len());
        let mut factors = vec![0.0; layout.factor_count * vectors.len()];
        let mut scratch = CodecScratch::default();
        for (at, vector) in vectors.iter().enumerate() {
            let (w, f, r) = (layout.walk_row_bytes, layout.factor_count, layout.refine_row_bytes);
            codec.encode(
                vector,
                &mut scratch,
                &mut walk.bytes_mut()[at * w..][..w],
                &mut factors[at * f..][..f],
                &mut refine.bytes_mut()[at * r..][..r],
            );
        }
        Self { walk, refine, factors }
    }

    pub(super) fn rows(&self, codec: &Codec) -> (CodeRows, RefineRows) {
        let layout = codec.layout();
        let rows = CodeRows {
            base: self.walk.bytes().as_ptr(),
            row_bytes: layout.walk_row_bytes,
            factors: self.factors.as_ptr(),
            factor_count: layout.factor_count,
        };
        let base = self.refine.bytes().as_ptr();
        (rows, RefineRows { base, row_bytes: layout.refine_row_bytes })
    }
}

const KINDS: [Codes; 4] = [Codes::Half, Codes::EightBit, Codes::FourBit, Codes::OneBit];
const METRICS: [Metric; 3] = [Metric::L2Squared, Metric::Dot, Metric::Cosine];

fn unit(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
}

/// Raw distance by definition.
fn exact(metric: Metric, left: &[f32], right: &[f32]) -> f32 {
    definition(if metric == Metric::Cosine { Metric::Dot } else { metric }, left, right)
}

#[test]
fn estimates_are_within_their_margin_and_refined_distances_nearly_exact() {
    let mut random = Random::new(21);
    for dims in [20, 96, 128, 384] {
        for metric in METRICS {
            let mut vectors = random.vectors(201, dims, 5);
            if metric == Metric::Cosine {
                vectors.iter_mut().for_each(|vector| unit(vector));
            }
            let query = vectors.pop().unwrap();
            let length = exact(Metric::Dot, &query, &query).abs();
            for codes in KINDS {
                let codec = Codec::new(codes, dims, metric).unwrap();
                let planes = Planes::of(&codec, &vectors);
                let (rows, residuals) = planes.rows(&codec);
                let slots: Vec<u32> = (0..200).collect();
                let (mut estimates, mut refined) = (vec![0.0; 200], vec![0.0; 200]);
                let mut prepared = CodeQuery::default();
                codec.prepare(&query, &mut prepared);
                // SAFETY: the planes hold 200 rows.
                unsafe { codec.many(&prepared, rows, &slots, &mut estimates) };
                // SAFETY: as above.
                unsafe { codec.refine(&prepared, rows, residuals, &slots, &mut refined) };
                let mut outside = 0;
                for (slot, vector) in vectors.iter().enumerate() {
                    let expected = exact(metric, &query, vector);
                    let count = codec.layout().factor_count;
                    let factors = &planes.factors[slot * count..][..count];
                    let margin = codec.margin(&prepared, factors, estimates[slot]) + 1e-4 * length;
                    outside += usize::from((estimates[slot] - expected).abs() > margin);
                    let tolerance = if codes == Codes::OneBit { 3e-2 } else { 4e-3 };
                    assert!(
                        (refined[slot] - expected).abs() < tolerance * length,
                        "{codes:?} {metric:?} {dims}: {} {expected}",
                        refined[slot]
                    );
                }
                assert!(outside <= 4, "{codes:?} {metric:?} {dims}: {outside} of 200");
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits_at_every_length() {
    let mut random = Random::new(5);
    let lengths = (1..=300).chain([384, 768, 960, 1_536, 3_072]);
    for dims in lengths {
        let count = if dims <= 300 { 7 } else { 13 };
        let mut vectors = random.vectors(count, dims, 3);
        // Codes at both ends of their range, and a vector of zeros.
        vectors[1].iter_mut().for_each(|x| *x = if *x < 0.0 { -1.0 } else { 1.0 });
        vectors[2].fill(0.0);
        let query = random.vectors(1, dims, 1).remove(0);
        let metric = METRICS[dims % 3];
        let slots: Vec<u32> = (0..count as u32).map(|at| (at * 5 + 2) % count as u32).collect();
        for codes in KINDS {
            let mut found: Option<Vec<u32>> = None;
            for table in kernels::available() {
                let codec = Codec::with_kernels(codes, dims, metric, table).unwrap();
                let planes = Planes::of(&codec, &vectors);
                let (rows, residuals) = planes.rows(&codec);
                let mut prepared = CodeQuery::default();
                codec.prepare(&query, &mut prepared);
                let mut out = vec![0.0; 2 * slots.len()];
                let (estimates, refined) = out.split_at_mut(slots.len());
                // SAFETY: all slots are below the number of rows.
                unsafe { codec.many(&prepared, rows, &slots, estimates) };
                // SAFETY: as above.
                unsafe { codec.refine(&prepared, rows, residuals, &slots, refined) };
                let mut bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                bits.extend(planes.factors.iter().map(|x| x.to_bits()));
                bits.extend(planes.walk.bytes().iter().map(|&x| u32::from(x)));
                bits.extend(planes.refine.bytes().iter().map(|&x| u32::from(x)));
                let expected = found.get_or_insert_with(|| bits.clone());
                assert!(*expected == bits, "{codes:?} {metric:?} {dims} {}", table.name);
            }
        }
    }
}
