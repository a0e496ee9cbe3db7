//! Every table of kernels against another library, and against itself.

use super::*;

/// Every code on every table of this machine.
fn kinds_and_tables() -> impl Iterator<Item = (Codes, &'static kernels::Kernels)> {
    let tables = |codes| kernels::available().iter().map(move |table| (codes, table));
    KINDS.into_iter().flat_map(tables)
}

/// The product of a row with a prepared query, by another library.
fn their_product(codes: Codes, row: &[u8], query: &CodeQuery) -> f64 {
    use simsimd::{BinarySimilarity, SpatialSimilarity};
    let integers = query.codes_bytes.signed();
    match codes {
        Codes::EightBit => {
            let row: Vec<i8> = row.iter().map(|&byte| byte as i8).collect();
            i8::dot(&row, &integers[..row.len()]).unwrap()
        }
        Codes::FourBit => {
            let halves = row
                .chunks_exact(64)
                .flat_map(|line| line.iter().map(|x| x & 15).chain(line.iter().map(|x| x >> 4)));
            let row: Vec<i8> = halves.map(|x| 2 * x as i8 - 15).collect();
            i8::dot(&row, &integers[..row.len()]).unwrap()
        }
        Codes::OneBit => {
            let ones = |x: &[u8]| x.iter().map(|x| x.count_ones()).sum::<u32>();
            let both = |plane: usize| {
                let plane = &query.codes_bytes.bytes()[plane * row.len()..][..row.len()];
                let apart = u8::hamming(row, plane).unwrap();
                (f64::from(ones(row) + ones(plane)) - apart) / 2.0
            };
            let sum = both(0) + 2.0 * both(1) + 4.0 * both(2) - 8.0 * both(3);
            2.0 * sum - f64::from(query.sum)
        }
        _ => {
            let row = row.as_chunks::<2>().0.iter().map(|&x| u16::from_le_bytes(x));
            let row: Vec<_> = row.map(simsimd::f16).collect();
            let query = query.rotated.floats()[..row.len()].iter();
            let query: Vec<_> = query.map(|&x| simsimd::f16(half::from_f32(x))).collect();
            simsimd::f16::dot(&row, &query).unwrap()
        }
    }
}

#[test]
fn another_library_finds_the_same_products_of_codes() {
    let mut random = Random::new(57);
    let slots: Vec<u32> = (0..9).collect();
    for dims in [64, 100, 384, 1_000] {
        let vectors = random.vectors(9, dims, 2);
        let query = random.vectors(1, dims, 1).remove(0);
        let length = |vector: &[f32]| exact(Metric::Dot, vector, vector).abs().sqrt();
        for (codes, table) in kinds_and_tables() {
            let codec = Codec::with_kernels(codes, dims, Metric::Dot, table).unwrap();
            let planes = Planes::of(&codec, &vectors);
            let mut prepared = CodeQuery::default();
            codec.prepare(&query, &mut prepared);
            let mut found = vec![0.0; slots.len()];
            // SAFETY: the planes hold nine rows.
            unsafe { codec.many(&prepared, planes.rows(&codec).0, &slots, &mut found) };
            for (slot, found) in found.into_iter().enumerate() {
                let bytes = codec.layout().walk_row_bytes;
                let row = &planes.walk.bytes()[slot * bytes..][..bytes];
                let product = their_product(codes, row, &prepared) as f32;
                let factors = &planes.factors[slot * codec.layout().factor_count..];
                let expected = -(product * factors[0] * prepared.scale);
                // Integers are exact in any order; of halves they round the query as well.
                let slack = if codes == Codes::Half { 2e-3 } else { 0.0 };
                let allowed = slack * length(&query) * length(&vectors[slot]);
                let problem = format!("{codes:?} {dims} {}: {found} {expected}", table.set);
                assert!((found - expected).abs() <= allowed, "{problem}");
            }
        }
    }
}

#[test]
fn rows_asked_for_together_have_the_bits_they_have_alone() {
    let mut random = Random::new(61);
    for dims in [64, 130, 384] {
        let vectors = random.vectors(20, dims, 3);
        let query = random.vectors(1, dims, 1).remove(0);
        for (codes, table) in kinds_and_tables() {
            for metric in METRICS {
                let codec = Codec::with_kernels(codes, dims, metric, table).unwrap();
                let planes = Planes::of(&codec, &vectors);
                let (rows, residuals) = planes.rows(&codec);
                let mut prepared = CodeQuery::default();
                codec.prepare(&query, &mut prepared);
                let bits = |slots: &[u32]| {
                    let mut out = vec![f32::NAN; 2 * slots.len()];
                    let (estimates, refined) = out.split_at_mut(slots.len());
                    // SAFETY: all slots are below 20, the number of rows.
                    unsafe { codec.many(&prepared, rows, slots, estimates) };
                    // SAFETY: as above.
                    unsafe { codec.refine(&prepared, rows, residuals, slots, refined) };
                    let pairs = estimates.iter().zip(refined);
                    pairs.map(|(a, b)| (a.to_bits(), b.to_bits())).collect::<Vec<_>>()
                };
                let alone: Vec<_> = (0..20).flat_map(|slot| bits(&[slot])).collect();
                for count in 0..=20u32 {
                    let slots: Vec<u32> = (0..count).map(|at| (at * 7 + 3) % 20).collect();
                    let expected = slots.iter().map(|&slot| alone[slot as usize]);
                    let name = format!("{codes:?} {metric:?} {dims} {count} {}", table.set);
                    assert!(bits(&slots).into_iter().eq(expected), "{name}");
                }
            }
        }
    }
}
