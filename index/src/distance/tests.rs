//! Kernels against the scalar definitions and against another library.

use super::*;

/// Small reproducible generator (splitmix64), uniform in -1..1.
fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z >> 40) as f32) / (1u32 << 23) as f32 - 1.0
}

type Scalar = fn(&[f32], &[f32]) -> f32;

const DEFINITIONS: [(Metric, Scalar); 4] = [
    (Metric::L2Squared, scalar::l2_squared),
    (Metric::Dot, |a, b| -scalar::dot(a, b)),
    (Metric::Manhattan, scalar::manhattan),
    (Metric::Hamming, scalar::hamming),
];

/// Relative to the sum of the absolute terms: each addition may lose half a unit in the last place
/// of the running sum, in either order.
fn close(metric: Metric, left: &[f32], right: &[f32], found: f32, expected: f32) -> bool {
    if metric == Metric::Hamming {
        return found == expected;
    }
    let scale: f32 = left.iter().zip(right).map(|(a, b)| (a * b).abs() + (a - b).powi(2)).sum();
    (found - expected).abs() <= 1e-5 * (scale + expected.abs()) + f32::MIN_POSITIVE
}

#[test]
fn every_length_and_offset_agrees_with_the_definition() {
    let mut seed = 7;
    let left: Vec<f32> = (0..200).map(|_| noise(&mut seed)).collect();
    let mut right: Vec<f32> = (0..200).map(|_| noise(&mut seed)).collect();
    right[3] = left[3];
    for (metric, definition) in DEFINITIONS {
        for tables in available() {
            let kernel = &tables[family(metric)];
            for length in 0..=4 * LANE_FLOATS + 3 {
                for offset in 0..LANE_FLOATS {
                    let a = &left[offset..offset + length];
                    let b = &right[LANE_FLOATS - offset..LANE_FLOATS - offset + length];
                    let (found, expected) = (kernel.pair(a, b), definition(a, b));
                    let name = kernel.set;
                    assert!(close(metric, a, b, found, expected), "{metric:?} {name} {length}");
                }
            }
        }
    }
}

use crate::limits::LANE_FLOATS;

#[test]
fn rows_by_slot_agree_with_the_pair_form() {
    let mut seed = 11;
    for stride in [16, 32, 48, 128, 400] {
        let floats: Vec<f32> = (0..stride * 20).map(|_| noise(&mut seed)).collect();
        let query: Vec<f32> = (0..stride).map(|_| noise(&mut seed)).collect();
        for (metric, definition) in DEFINITIONS {
            for tables in available() {
                for count in 0..=19usize {
                    let slots: Vec<u32> = (0..count as u32).map(|i| (i * 7 + 3) % 20).collect();
                    let mut out = vec![f32::NAN; count];
                    let rows = Rows { base: floats.as_ptr(), stride };
                    // SAFETY: all slots are below 20, the number of rows in `floats`.
                    unsafe { tables[family(metric)].many(&query, rows, &slots, &mut out) };
                    for (slot, found) in slots.iter().zip(out) {
                        let row = &floats[*slot as usize * stride..][..stride];
                        assert!(close(metric, &query, row, found, definition(&query, row)));
                    }
                }
            }
        }
    }
}

#[test]
fn extremes_and_subnormals_keep_their_order_of_magnitude() {
    let tiny = [f32::from_bits(1); 37];
    let zero = [0.0f32; 37];
    let huge = [1e18f32; 37];
    for tables in available() {
        assert_eq!(tables[0].pair(&tiny, &zero), 0.0);
        assert_eq!(tables[0].pair(&huge, &huge), 0.0);
        assert!((tables[0].pair(&huge, &zero) / 37e36 - 1.0).abs() < 1e-5);
        assert!((tables[1].pair(&huge, &huge) / -37e36 - 1.0).abs() < 1e-5);
        assert!(tables[2].pair(&tiny, &zero) > 0.0);
        assert_eq!(tables[3].pair(&[0.0], &[-0.0]), 0.0);
        assert_eq!(tables[3].pair(&tiny, &zero), 37.0);
    }
}

#[test]
fn another_library_agrees() {
    use simsimd::SpatialSimilarity;
    let mut seed = 5;
    for length in [3, 16, 100, 128, 384, 1_536] {
        let left: Vec<f32> = (0..length).map(|_| noise(&mut seed)).collect();
        let right: Vec<f32> = (0..length).map(|_| noise(&mut seed)).collect();
        let (l2, dot) = (f32::l2sq(&left, &right).unwrap(), f32::dot(&left, &right).unwrap());
        for tables in available() {
            let ours = |metric| f64::from(of_table(tables, metric).pair(&left, &right));
            let set = tables[0].set;
            assert!((ours(Metric::L2Squared) / l2 - 1.0).abs() < 1e-4, "{set} {length}");
            assert!((ours(Metric::Dot) + dot).abs() < 1e-4 * f64::from(length), "{set} {length}");
        }
        let theirs = f32::cosine(&left, &right).unwrap() as f32;
        assert!((distance(Metric::Cosine, &left, &right) - theirs).abs() < 1e-3);
    }
}

#[test]
fn cosine_of_a_vector_with_itself_is_zero_and_with_its_opposite_two() {
    let vector = [3.0, 4.0, 12.0];
    let opposite = vector.map(|x: f32| -2.0 * x);
    assert!(distance(Metric::Cosine, &vector, &vector) < 1e-6);
    assert!((distance(Metric::Cosine, &vector, &opposite) - 2.0).abs() < 1e-6);
    assert_eq!(distance(Metric::Cosine, &vector, &[0.0; 3]), 1.0);
}
