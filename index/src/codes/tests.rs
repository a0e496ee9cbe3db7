//! Codes against exact distances.

mod signs;
mod tables;

use super::rotation::Rotation;
use super::*;
use crate::testing::Random;

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

/// Raw distance by definition, in double precision: adding equal components one after the other
/// would lose more than the codes do.
fn exact(metric: Metric, left: &[f32], right: &[f32]) -> f32 {
    let pairs = left.iter().zip(right).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    if metric == Metric::L2Squared {
        return pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>() as f32;
    }
    -pairs.map(|(a, b)| a * b).sum::<f64>() as f32
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
fn rows_compared_with_each_other_are_as_far_apart_whoever_asks() {
    let mut random = Random::new(23);
    for (dims, metric) in [(96, Metric::L2Squared), (128, Metric::Dot), (384, Metric::Cosine)] {
        let mut vectors = random.vectors(60, dims, 5);
        if metric == Metric::Cosine {
            vectors.iter_mut().for_each(|vector| unit(vector));
        }
        for (codes, tolerance) in [(Codes::EightBit, 0.012), (Codes::FourBit, 0.12)] {
            let codec = Codec::new(codes, dims, metric).unwrap();
            let planes = Planes::of(&codec, &vectors);
            let (rows, _) = planes.rows(&codec);
            let slots: Vec<u32> = (0..60).collect();
            let (walk, count) = (codec.layout().walk_row_bytes, codec.layout().factor_count);
            let distances = |slot: usize| {
                let mut query = CodeQuery::default();
                let row = &planes.walk.bytes()[slot * walk..][..walk];
                codec.prepare_pair(row, &planes.factors[slot * count..][..count], &mut query);
                let mut out = vec![0.0; 60];
                // SAFETY: the planes hold 60 rows.
                unsafe { codec.many(&query, rows, &slots, &mut out) };
                out
            };
            let all: Vec<Vec<f32>> = (0..60).map(distances).collect();
            for left in 0..60 {
                let length = |at: usize| exact(Metric::Dot, &vectors[at], &vectors[at]).abs();
                for right in 0..left {
                    let scale = (length(left) * length(right)).sqrt();
                    let expected = exact(metric, &vectors[left], &vectors[right]);
                    let found = all[left][right];
                    let problem =
                        format!("{codes:?} {metric:?}: {found} {expected}, scale {scale}");
                    assert!((found - expected).abs() < tolerance * scale, "{problem}");
                    assert!((found - all[right][left]).abs() < 1e-5 * scale, "{problem}");
                }
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
                assert!(*expected == bits, "{codes:?} {metric:?} {dims} {}", table.set);
            }
        }
    }
}

/// Everything a codec says about one query and some vectors.
struct Answers {
    estimates: Vec<f32>,
    refined: Vec<f32>,
    margins: Vec<f32>,
}

fn answers(codec: &Codec, query: &[f32], vectors: &[Vec<f32>]) -> Answers {
    let planes = Planes::of(codec, vectors);
    let (rows, residuals) = planes.rows(codec);
    let slots: Vec<u32> = (0..vectors.len() as u32).collect();
    let (mut estimates, mut refined) = (vec![f32::NAN; slots.len()], vec![f32::NAN; slots.len()]);
    let mut prepared = CodeQuery::default();
    codec.prepare(query, &mut prepared);
    // SAFETY: the planes hold a row for each slot.
    unsafe { codec.many(&prepared, rows, &slots, &mut estimates) };
    // SAFETY: as above.
    unsafe { codec.refine(&prepared, rows, residuals, &slots, &mut refined) };
    let factors = planes.factors.chunks_exact(codec.layout().factor_count);
    let margin = |(factors, &estimate)| codec.margin(&prepared, factors, estimate);
    let margins = factors.zip(&estimates).map(margin).collect();
    Answers { estimates, refined, margins }
}

/// Vectors of the kinds that a rotation has to even out.
fn shaped(random: &mut Random, shape: &str, count: usize, dims: usize) -> Vec<Vec<f32>> {
    let mut vectors = random.vectors(count, dims, if shape == "clustered" { 20 } else { 1 });
    for (at, vector) in vectors.iter_mut().enumerate() {
        match shape {
            "normal" => vector.fill_with(|| random.gauss()),
            "sparse" => vector.iter_mut().enumerate().for_each(|(place, x)| {
                *x = if (place * 7 + at) % 16 == 0 { x.abs() } else { 0.0 };
            }),
            "one-hot" => {
                vector.fill(0.0);
                vector[at % dims] = 1.0 + (at % 3) as f32;
            }
            "constant" => {
                let value = 1.0 + at as f32 / 50.0;
                vector.fill(value);
            }
            "skewed" => vector.iter_mut().enumerate().for_each(|(place, x)| {
                *x = *x / (1.0 + place as f32) + if place == 3 { 2.0 } else { 0.0 };
            }),
            _ => {}
        }
    }
    vectors
}

#[test]
fn estimates_are_unbiased_and_margins_hold_for_vectors_of_any_shape() {
    let mut random = Random::new(77);
    for shape in ["normal", "clustered", "sparse", "one-hot", "constant", "skewed"] {
        for dims in [96, 384, 960] {
            for metric in METRICS {
                let mut vectors = shaped(&mut random, shape, 120, dims);
                let mut queries = shaped(&mut random, shape, 6, dims);
                // Queries unlike the vectors as well: those of other shapes come near nothing.
                queries.extend(shaped(&mut random, "normal", 4, dims));
                if metric == Metric::Cosine {
                    vectors.iter_mut().chain(&mut queries).for_each(|vector| unit(vector));
                }
                for codes in KINDS {
                    check_estimates(codes, metric, &queries, &vectors, shape);
                }
            }
        }
    }
}

fn check_estimates(
    codes: Codes,
    metric: Metric,
    queries: &[Vec<f32>],
    vectors: &[Vec<f32>],
    shape: &str,
) {
    let dims = vectors[0].len();
    let codec = Codec::new(codes, dims, metric).unwrap();
    let (mut outside, mut bias, mut spread) = (0, 0.0, 0.0);
    let mut worst = 0.0f32;
    for query in queries {
        let found = answers(&codec, query, vectors);
        for (at, vector) in vectors.iter().enumerate() {
            let expected = exact(metric, query, vector);
            let scale =
                exact(Metric::Dot, query, query).abs() + exact(Metric::Dot, vector, vector).abs();
            // What single precision itself loses.
            let rounding = 2e-6 * scale;
            let error = found.estimates[at] - expected;
            outside += usize::from(error.abs() > found.margins[at] + rounding);
            worst = worst.max((found.refined[at] - expected).abs() / scale);
            bias += f64::from(error / scale);
            spread += f64::from(error / scale).powi(2);
        }
    }
    let count = (queries.len() * vectors.len()) as f64;
    let (bias, spread) = (bias / count, (spread / count).sqrt());
    let name = format!("{codes:?} {metric:?} {dims} {shape}");
    // Stated: less than one in a hundred. Errors of one query are related, so a test allows twice.
    assert!(outside as f64 <= 0.02 * count, "{name}: {outside} of {count} outside");
    let limit = if codes == Codes::OneBit { 1e-2 } else { 2e-3 };
    assert!(worst <= limit, "{name}: a refined distance is off by {worst} of the lengths");
    // Vectors that have something in common share a part of their errors, so that only independent
    // ones show the mean.
    let is_unbiased = shape != "normal" || bias.abs() <= 0.12 * spread + 1e-7;
    assert!(is_unbiased, "{name}: bias {bias:e}, spread {spread:e}");
}

#[test]
fn the_rotation_keeps_lengths_and_products_and_can_be_undone() {
    let mut random = Random::new(3);
    for padded in [64, 128, 192, 320, 384, 768, 960, 1_024, 1_536, 3_072] {
        let rotation = Rotation::new(padded);
        let vectors = random.vectors(2, padded, 1);
        let mut rotated = vectors.clone();
        rotated.iter_mut().for_each(|vector| rotation.apply(vector));
        let product = exact(Metric::Dot, &vectors[0], &vectors[1]);
        let length = exact(Metric::Dot, &vectors[0], &vectors[0]);
        let (left, right) = (&rotated[0], &rotated[1]);
        assert!((exact(Metric::Dot, left, right) - product).abs() < 1e-5 * length.abs());
        assert!((exact(Metric::Dot, left, left) / length - 1.0).abs() < 1e-5);
        rotation.invert(&mut rotated[0]);
        let error = exact(Metric::L2Squared, &rotated[0], &vectors[0]);
        assert!(error < 1e-11 * length.abs(), "{padded}: {error}");
    }
}

#[test]
fn the_rotation_spreads_a_single_component_over_all() {
    for padded in [64, 128, 192, 384, 768, 960, 1_536] {
        let rotation = Rotation::new(padded);
        for at in [0, 1, padded / 3, padded / 2, padded - 1] {
            let mut vector = vec![0.0; padded];
            vector[at] = 1.0;
            rotation.apply(&mut vector);
            let spread = 1.0 / (padded as f32).sqrt();
            let largest = vector.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            assert!(largest < 6.0 * spread, "{padded} {at}: {} spreads", largest / spread);
            let fourth: f32 =
                vector.iter().map(|x| (x / spread).powi(4)).sum::<f32>() / padded as f32;
            // Three for a normal variable; the mean of so many errs by this much and rarely more.
            let allowance = 4.0 * (96.0 / padded as f32).sqrt();
            assert!(fourth < 3.0 + allowance, "{padded} {at}: fourth moment {fourth}");
        }
    }
}

#[test]
fn magnitudes_at_the_ends_of_the_range_give_finite_and_sensible_results() {
    let mut random = Random::new(9);
    let base = random.vectors(12, 200, 1);
    for codes in KINDS {
        for metric in [Metric::L2Squared, Metric::Dot] {
            let codec = Codec::new(codes, 200, metric).unwrap();
            for magnitude in [0.0, 1e-45, 1e-30, 1e-18, 1.0, 1e15, 1e30, 3e37] {
                let vectors: Vec<Vec<f32>> = base
                    .iter()
                    .map(|vector| vector.iter().map(|x| x * magnitude).collect())
                    .collect();
                for other in [1.0, 1e-30, 0.0, magnitude] {
                    let query: Vec<f32> = base[0].iter().map(|x| x * other).collect();
                    let found = answers(&codec, &query, &vectors);
                    let Answers { estimates, refined, margins } = &found;
                    for numbers in [estimates, refined, margins] {
                        let name = format!("{codes:?} {metric:?} {magnitude:e} {other:e}");
                        assert!(numbers.iter().all(|x| x.is_finite()), "{name}: {numbers:?}");
                    }
                    let is_ordinary = (1e-18..1e16).contains(&magnitude) && other == magnitude;
                    if is_ordinary && metric == Metric::Dot && codes != Codes::OneBit {
                        // The query is the first vector.
                        let length = exact(Metric::Dot, &query, &query);
                        assert!((found.estimates[0] / length - 1.0).abs() < 0.05);
                        assert!((found.refined[0] / length - 1.0).abs() < 0.002);
                    }
                }
            }
        }
    }
}

#[test]
fn a_decoded_vector_is_as_near_as_its_planes_are_fine() {
    let mut random = Random::new(31);
    // Root mean square error against the length of the vector, without and with the refine plane.
    let bounds = [
        (Codes::Half, 3e-4, 3e-4),
        (Codes::EightBit, 1.1e-2, 5e-5),
        (Codes::FourBit, 0.115, 1e-3),
        (Codes::OneBit, 0.78, 7e-3),
    ];
    for dims in [100, 384, 768] {
        let vectors = random.vectors(20, dims, 1);
        for (codes, walk_bound, both_bound) in bounds {
            let codec = Codec::new(codes, dims, Metric::Dot).unwrap();
            let layout = *codec.layout();
            let planes = Planes::of(&codec, &vectors);
            let (mut scratch, mut out) = (CodecScratch::default(), vec![0.0; dims]);
            let mut errors = [0.0; 2];
            for (at, vector) in vectors.iter().enumerate() {
                let (w, f, r) =
                    (layout.walk_row_bytes, layout.factor_count, layout.refine_row_bytes);
                let walk = &planes.walk.bytes()[at * w..][..w];
                let factors = &planes.factors[at * f..][..f];
                let refine = &planes.refine.bytes()[at * r..][..r];
                let norm2 = exact(Metric::Dot, vector, vector).abs();
                for (refine, sum) in [&[][..], refine].into_iter().zip(&mut errors) {
                    codec.decode(walk, factors, refine, &mut scratch, &mut out);
                    *sum += exact(Metric::L2Squared, vector, &out) / norm2;
                }
            }
            let [walk, both] = errors.map(|sum| (sum / vectors.len() as f32).sqrt());
            assert!(walk < walk_bound && both < both_bound, "{codes:?} {dims}: {walk} {both}");
        }
    }
}

#[test]
fn a_stored_row_makes_nearly_the_query_that_its_vector_makes() {
    let mut random = Random::new(41);
    for codes in KINDS {
        for metric in METRICS {
            let mut vectors = random.vectors(60, 384, 4);
            if metric == Metric::Cosine {
                vectors.iter_mut().for_each(|vector| unit(vector));
            }
            let codec = Codec::new(codes, 384, metric).unwrap();
            let layout = *codec.layout();
            let planes = Planes::of(&codec, &vectors);
            let (rows, residuals) = planes.rows(&codec);
            let mut prepared = CodeQuery::default();
            codec.prepare_row(
                &planes.walk.bytes()[..layout.walk_row_bytes],
                &planes.factors[..layout.factor_count],
                &planes.refine.bytes()[..layout.refine_row_bytes],
                &mut prepared,
            );
            let slots: Vec<u32> = (0..60).collect();
            let mut refined = vec![0.0; 60];
            // SAFETY: the planes hold 60 rows.
            unsafe { codec.refine(&prepared, rows, residuals, &slots, &mut refined) };
            let length = exact(Metric::Dot, &vectors[0], &vectors[0]).abs();
            for (vector, found) in vectors.iter().zip(refined) {
                let expected = exact(metric, &vectors[0], vector);
                assert!((found - expected).abs() < 2e-2 * length, "{codes:?} {metric:?}");
            }
        }
    }
}

#[test]
fn half_precision_conversions_are_exact_one_way_and_nearest_the_other() {
    for bits in 0..=u16::MAX {
        let value = half::to_f32(bits);
        if value.is_nan() {
            assert!(half::to_f32(half::from_f32(value)).is_nan());
            continue;
        }
        assert_eq!(half::from_f32(value), bits);
        let next = half::to_f32(bits.wrapping_add(1));
        if bits & 0x7fff < 0x7bff {
            // Halfway to the next goes to the even one, a little further to the next.
            let middle = (value + next) / 2.0;
            assert_eq!(half::from_f32(middle), if bits & 1 == 0 { bits } else { bits + 1 });
            let further = f32::from_bits(middle.to_bits() + 1);
            assert_eq!(half::from_f32(further), bits + 1);
        }
    }
    assert_eq!(half::to_f32(half::from_f32(1e6)), f32::INFINITY);
}
