//! How a vector rests in memory and on disk, where its definition leaves that to the server.

use heddle_index::{Codes, IndexParams};
use heddle_types::schema::IndexType;
use heddle_types::{CollectionConfig, Quantization, RawVectors, VectorConfig};

use crate::shard::metric_of;

/// Quantization and place of a vector: as declared, else the server's choice.
///
/// The default is that of the index, [`IndexParams::default_profile`]. An index that only scans
/// promises exact results and keeps the vectors as they are. Behind refined codes that were asked
/// for, vectors rest on disk: that is what makes codes small. Vectors that are to rest on disk get
/// codes, the finest that stand for them where the default has none.
#[must_use]
pub fn profile_of(vector: &VectorConfig) -> (Quantization, RawVectors) {
    let (default, default_place) = match vector.index.kind {
        IndexType::Flat => (Quantization::None, RawVectors::Memory),
        IndexType::Hnsw | IndexType::Dynamic => index_default(vector),
    };
    let default = match vector.raw {
        Some(RawVectors::Disk) if !default.is_refined() => Quantization::Bits8,
        _ => default,
    };
    let quantization = vector.quantization.unwrap_or(default);
    let place = match quantization.is_refined() {
        _ if quantization == default => default_place,
        true => RawVectors::Disk,
        false => RawVectors::Memory,
    };
    (quantization, vector.raw.unwrap_or(place))
}

/// What the index does when it is not told. The dimension counts once it is known.
fn index_default(vector: &VectorConfig) -> (Quantization, RawVectors) {
    let (codes, raw) =
        IndexParams::default_profile(vector.dims.unwrap_or(1), metric_of(vector.distance));
    let quantization = match codes {
        Codes::None => Quantization::None,
        Codes::Half => Quantization::Half,
        Codes::EightBit => Quantization::Bits8,
        Codes::FourBit => Quantization::Bits4,
        Codes::OneBit => Quantization::Bits1,
    };
    let raw = match raw {
        heddle_index::RawVectors::Memory => RawVectors::Memory,
        heddle_index::RawVectors::Absent => RawVectors::Disk,
    };
    (quantization, raw)
}

/// Writes the server's choices into a definition, so that a later server, whose defaults may be
/// others, finds the collection as it was made. Vectors without a dimension wait for it.
pub fn settle_profiles(config: &mut CollectionConfig) {
    for vector in config.vectors.iter_mut().filter(|vector| vector.dims.is_some()) {
        let (quantization, raw) = profile_of(vector);
        (vector.quantization, vector.raw) = (Some(quantization), Some(raw));
    }
}

#[cfg(test)]
mod tests {
    use heddle_types::Distance;

    use super::*;

    #[test]
    fn every_choice_of_the_server_is_one_it_accepts() {
        for distance in Distance::ALL {
            for kind in [IndexType::Hnsw, IndexType::Flat, IndexType::Dynamic] {
                for quantization in Quantization::ALL.map(Some).into_iter().chain([None]) {
                    for dims in [1, 96, 384, 1_536] {
                        let mut vector = VectorConfig {
                            dims: Some(dims),
                            distance,
                            quantization,
                            ..Default::default()
                        };
                        vector.index.kind = kind;
                        let mut config = CollectionConfig {
                            name: "Docs".to_owned(),
                            vectors: vec![vector],
                            ..CollectionConfig::default()
                        };
                        let is_valid = config.validate().is_ok();
                        settle_profiles(&mut config);
                        assert_eq!(config.validate().is_ok(), is_valid, "{config:?}");
                        let settled = &config.vectors[0];
                        assert!(settled.raw.is_some() && settled.quantization.is_some());
                        let before = config.clone();
                        settle_profiles(&mut config);
                        assert_eq!(config, before, "settled once");
                    }
                }
            }
        }
    }

    #[test]
    fn a_vector_without_a_dimension_waits_and_refined_codes_put_vectors_on_disk() {
        let mut config = CollectionConfig::default();
        config.fill_defaults();
        let before = config.clone();
        settle_profiles(&mut config);
        assert_eq!(config, before);
        let asked = |codes, raw| {
            let quantization = Some(codes);
            profile_of(&VectorConfig { dims: Some(8), quantization, raw, ..Default::default() })
        };
        let memory = Some(RawVectors::Memory);
        assert_eq!(asked(Quantization::Bits1, None), (Quantization::Bits1, RawVectors::Disk));
        assert_eq!(asked(Quantization::Half, None), (Quantization::Half, RawVectors::Memory));
        assert_eq!(asked(Quantization::Bits8, memory), (Quantization::Bits8, RawVectors::Memory));
        let mut short = VectorConfig { dims: Some(8), ..Default::default() };
        assert_eq!(profile_of(&short), (Quantization::None, RawVectors::Memory));
        short.raw = Some(RawVectors::Disk);
        assert_eq!(profile_of(&short), (Quantization::Bits8, RawVectors::Disk));
        let long = VectorConfig { dims: Some(384), ..Default::default() };
        assert_eq!(profile_of(&long), (Quantization::Bits4, RawVectors::Disk));
        let mut flat = long;
        flat.index.kind = IndexType::Flat;
        assert_eq!(profile_of(&flat), (Quantization::None, RawVectors::Memory));
    }
}
