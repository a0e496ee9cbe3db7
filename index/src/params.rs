//! What an index is made for: dimensions, metric, kind and graph parameters.

use crate::error::IndexError;
use crate::limits;

/// How far apart two vectors are. Smaller is nearer for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Sum of the squared differences.
    L2Squared,
    /// One minus the cosine similarity, 0..=2. Vectors are stored with unit length.
    Cosine,
    /// The dot product, negated.
    Dot,
    /// Sum of the absolute differences.
    Manhattan,
    /// Number of components that differ.
    Hamming,
}

/// How an index answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// Graph search; the unlinked tail is scanned.
    Hnsw,
    /// Always the exact scan.
    Flat,
    /// Exact scan until more than `threshold` vectors are stored, from then on graph.
    Dynamic {
        /// Number of vectors up to which the scan is used.
        threshold: u32,
    },
}

/// The compact form of the vectors that a walk reads; the nearest are computed again from more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// The vectors themselves, as 32-bit floats.
    None,
    /// 16-bit floats.
    Half,
    /// Eight bits a component.
    EightBit,
    /// Four bits a component.
    FourBit,
    /// One bit a component.
    OneBit,
}

impl Codes {
    /// Whether a second plane refines the codes, so that distances need no full vectors.
    #[must_use]
    pub fn are_refined(self) -> bool {
        match self {
            Self::None | Self::Half => false,
            Self::EightBit | Self::FourBit | Self::OneBit => true,
        }
    }
}

/// Whether an index with codes keeps the full vectors as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawVectors {
    /// The index holds them: the distances of hits are exact.
    Memory,
    /// The caller keeps them elsewhere: hits have the distances of the refined codes.
    Absent,
}

/// Parameters of one vector index; fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexParams {
    /// Components of a vector.
    pub dims: u32,
    /// Distance.
    pub metric: Metric,
    /// Graph, scan or both.
    pub kind: IndexKind,
    /// Links a new node asks for per layer (`M` of the paper); layer 0 holds twice as many.
    pub m: u16,
    /// Candidate pool of an insert (`efConstruction` of the paper).
    pub ef_construction: u16,
    /// Seeds the level draw: same seed, slots and order give the same graph.
    pub seed: u64,
    /// Up to this many rows a search scans instead of walking the graph, with or without filter.
    pub flat_cutoff: u32,
    /// What a walk reads. [`Codes::None`] is the only one for Manhattan and Hamming distances.
    pub codes: Codes,
    /// Whether full vectors are kept beside codes.
    pub raw: RawVectors,
    /// Expected number of vectors; avoids the copies of growth. Zero when unknown.
    pub capacity_hint: u32,
}

impl IndexParams {
    /// Parameters with the usual defaults: HNSW, `m` 16, `ef_construction` 200, seed 0.
    /// [`Self::default_profile`] names the codes to use when nothing else is asked for.
    #[must_use]
    pub fn new(dims: u32, metric: Metric) -> Self {
        Self {
            dims,
            metric,
            kind: IndexKind::Hnsw,
            m: 16,
            ef_construction: 200,
            seed: 0,
            flat_cutoff: 1_000,
            codes: Codes::None,
            raw: RawVectors::Memory,
            capacity_hint: 0,
        }
    }

    /// Codes, and where the vectors are, when nothing else is asked for: the least memory that
    /// finds the same neighbours at least as fast.
    ///
    /// Short vectors stay as they are: codes round them up to whole lines and gain nothing. Four
    /// bits err too much below a few hundred components, because an error is spread over fewer.
    /// Metrics that are no products have no codes.
    #[must_use]
    pub fn default_profile(dims: u32, metric: Metric) -> (Codes, RawVectors) {
        match (metric, dims) {
            (Metric::Manhattan | Metric::Hamming, _) => (Codes::None, RawVectors::Memory),
            (_, ..limits::CODES_DIMS_MIN) => (Codes::None, RawVectors::Memory),
            (_, ..limits::FOUR_BIT_DIMS_MIN) => (Codes::EightBit, RawVectors::Absent),
            _ => (Codes::FourBit, RawVectors::Absent),
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`IndexError::Parameter`] names the first parameter outside its range,
    /// [`IndexError::Combination`] says which two exclude each other.
    pub fn validate(&self) -> Result<(), IndexError> {
        let check = |name, found: u64, minimum: u64, maximum: u64| {
            if (minimum..=maximum).contains(&found) {
                Ok(())
            } else {
                Err(IndexError::Parameter { name, found, minimum, maximum })
            }
        };
        check("dims", self.dims.into(), 1, limits::DIMS_MAX.into())?;
        check("m", self.m.into(), limits::M_MIN.into(), limits::M_MAX.into())?;
        check(
            "ef_construction",
            self.ef_construction.into(),
            limits::EF_CONSTRUCTION_MIN.into(),
            limits::EF_CONSTRUCTION_MAX.into(),
        )?;
        check("capacity_hint", self.capacity_hint.into(), 0, limits::SLOTS_MAX.into())?;
        let refuse = |problem| Err(IndexError::Combination { problem });
        match (self.metric, self.codes) {
            (Metric::Manhattan | Metric::Hamming, codes) if codes != Codes::None => {
                refuse("codes estimate products, so they serve l2, cosine and dot alone")
            }
            (_, codes) if self.raw == RawVectors::Absent && !codes.are_refined() => {
                refuse("vectors can be left out only when 8-, 4- or 1-bit codes stand for them")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_outside_their_range_are_named() {
        let good = IndexParams::new(100, Metric::Dot);
        assert!(good.validate().is_ok());
        let cases = [
            ("dims", IndexParams { dims: 0, ..good.clone() }),
            ("dims", IndexParams { dims: limits::DIMS_MAX + 1, ..good.clone() }),
            ("m", IndexParams { m: 1, ..good.clone() }),
            ("m", IndexParams { m: 1_000, ..good.clone() }),
            ("ef_construction", IndexParams { ef_construction: 0, ..good.clone() }),
            ("capacity_hint", IndexParams { capacity_hint: u32::MAX, ..good }),
        ];
        for (expected, params) in cases {
            match params.validate() {
                Err(IndexError::Parameter { name, .. }) => assert_eq!(name, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_default_profile_is_allowed_for_every_metric_and_dimension() {
        for metric in
            [Metric::L2Squared, Metric::Cosine, Metric::Dot, Metric::Manhattan, Metric::Hamming]
        {
            for dims in [1, 63, 64, 255, 256, limits::DIMS_MAX] {
                let (codes, raw) = IndexParams::default_profile(dims, metric);
                let params = IndexParams { codes, raw, ..IndexParams::new(dims, metric) };
                assert!(params.validate().is_ok(), "{params:?}");
            }
        }
        let profile = |dims| IndexParams::default_profile(dims, Metric::Cosine);
        assert_eq!(profile(63), (Codes::None, RawVectors::Memory));
        assert_eq!(profile(64), (Codes::EightBit, RawVectors::Absent));
        assert_eq!(profile(256), (Codes::FourBit, RawVectors::Absent));
    }

    #[test]
    fn codes_go_with_metrics_that_are_products_and_stand_for_vectors_only_when_refined() {
        let all = [Codes::None, Codes::Half, Codes::EightBit, Codes::FourBit, Codes::OneBit];
        for codes in all {
            for (metric, is_product) in
                [(Metric::L2Squared, true), (Metric::Manhattan, false), (Metric::Hamming, false)]
            {
                for raw in [RawVectors::Memory, RawVectors::Absent] {
                    let params = IndexParams { codes, raw, ..IndexParams::new(8, metric) };
                    let fits = is_product || codes == Codes::None;
                    let stands = raw == RawVectors::Memory || codes.are_refined();
                    match params.validate() {
                        Ok(()) => assert!(fits && stands, "{params:?}"),
                        Err(IndexError::Combination { .. }) => assert!(!(fits && stands)),
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }
    }
}
