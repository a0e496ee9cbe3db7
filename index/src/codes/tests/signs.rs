//! Sign rows: least distances that hold as often as their spreads say, the same on every table.

use super::*;

/// Sign rows of the planes of some vectors.
fn sign_rows(signs: &Signs, codec: &Codec, planes: &Planes, count: usize) -> lines::ByteLines {
    let mut rows = lines::ByteLines::default();
    rows.resize(signs.row_bytes() * count);
    let layout = codec.layout();
    let mut scratch = CodecScratch::default();
    for (at, row) in rows.bytes_mut().chunks_exact_mut(signs.row_bytes()).enumerate() {
        let walk = &planes.walk.bytes()[at * layout.walk_row_bytes..][..layout.walk_row_bytes];
        let factors = &planes.factors[at * layout.factor_count..][..layout.factor_count];
        signs.encode(codec, walk, factors, &mut scratch, row);
    }
    rows
}

/// Least distances of a query to some vectors at so many spreads.
fn lowest(codec: &Codec, query: &[f32], vectors: &[Vec<f32>], spreads: f32) -> Vec<f32> {
    let signs = Signs::of(codec).unwrap();
    let planes = Planes::of(codec, vectors);
    let rows = sign_rows(&signs, codec, &planes, vectors.len());
    let (mut prepared, mut signed) = (CodeQuery::default(), CodeQuery::default());
    codec.prepare(query, &mut prepared);
    signs.prepare(&prepared, &mut signed);
    let slots: Vec<u32> = (0..vectors.len() as u32).collect();
    let mut out = vec![f32::NAN; slots.len()];
    // SAFETY: there is a row for each slot.
    unsafe { signs.lowest(&signed, rows.bytes().as_ptr(), &slots, spreads, &mut out) };
    out
}

const SIGNED: [Codes; 2] = [Codes::EightBit, Codes::FourBit];

#[test]
fn least_distances_by_signs_hold_and_are_tight_under_every_metric_and_shape() {
    let mut random = Random::new(71);
    for dims in [256, 384, 700] {
        for shape in ["normal", "clustered", "sparse", "skewed"] {
            for metric in METRICS {
                let mut vectors = shaped(&mut random, shape, 401, dims);
                if metric == Metric::Cosine {
                    vectors.iter_mut().for_each(|vector| unit(vector));
                }
                let query = vectors.pop().unwrap();
                for codes in SIGNED {
                    let codec = Codec::new(codes, dims, metric).unwrap();
                    let at_two = lowest(&codec, &query, &vectors, 2.0);
                    let at_four = lowest(&codec, &query, &vectors, 4.0);
                    let below = |bounds: &[f32]| {
                        let pairs = bounds.iter().zip(&vectors);
                        pairs.filter(|(x, v)| **x <= exact(metric, &query, v)).count()
                    };
                    let name = format!("{codes:?} {dims} {shape} {metric:?}");
                    // 2.3 % and 0.003 % of a normal variable lie outside on one side.
                    let (two, four) = (below(&at_two), below(&at_four));
                    assert!(two >= 360, "{name}: {two} of 400 hold at two spreads");
                    assert!(four >= 399, "{name}: {four} of 400 hold at four spreads");
                    assert!(two < 400 || shape != "normal", "{name}: two spreads are too wide");
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_least_distances_alone_and_together() {
    let mut random = Random::new(73);
    for dims in [256, 300, 384, 512, 1_000] {
        let mut vectors = random.vectors(23, dims, 3);
        vectors[2].fill(0.0);
        let query = random.vectors(1, dims, 1).remove(0);
        for codes in SIGNED {
            for metric in METRICS {
                let mut found: Option<Vec<u32>> = None;
                for table in kernels::available() {
                    let codec = Codec::with_kernels(codes, dims, metric, table).unwrap();
                    let together = lowest(&codec, &query, &vectors, 2.5);
                    let alone = vectors.iter().flat_map(|vector| {
                        lowest(&codec, &query, core::slice::from_ref(vector), 2.5)
                    });
                    let bits: Vec<u32> = together.iter().map(|x| x.to_bits()).collect();
                    let name = format!("{codes:?} {metric:?} {dims} {}", table.set);
                    assert!(alone.map(f32::to_bits).eq(bits.iter().copied()), "{name}");
                    let expected = found.get_or_insert_with(|| bits.clone());
                    assert!(*expected == bits, "{name}");
                }
            }
        }
    }
}

#[test]
fn short_and_unsigned_codes_have_no_signs() {
    for (codes, dims) in [(Codes::EightBit, 128), (Codes::OneBit, 512), (Codes::Half, 512)] {
        assert!(Signs::of(&Codec::new(codes, dims, Metric::Dot).unwrap()).is_none());
    }
}
