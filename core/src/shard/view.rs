//! What of a shard the other cores see.

use std::sync::Arc;

use heddle_index::{Codes, IndexKind, IndexParams, Metric, SlotDirectory, VectorView};
use heddle_types::schema::IndexType;
use heddle_types::{
    CollectionConfig, CollectionId, Distance, Quantization, RawVectors, ShardId, VectorConfig,
};

use crate::validate::profile_of;

/// Which shard to open or create.
#[derive(Clone, Debug)]
pub struct ShardSpec {
    /// Identity.
    pub id: ShardId,
    /// The collection that it belongs to.
    pub collection: CollectionId,
    /// Definition of the collection. A vector whose dimension is not known yet has no index.
    pub config: Arc<CollectionConfig>,
    /// Directory under the device's root, `shards/<shard id, 10 digits>`.
    pub directory: String,
    /// Seeds the level draw of its graphs; the same for the life of the shard.
    pub seed: u64,
}

/// A shard as any core may search it.
///
/// Take it under a pin; it stays valid as long as the `Arc`, but follows the shard only until the
/// next one is published (`Engine::view_version`).
#[derive(Clone, Debug)]
pub struct ShardView {
    /// Identity.
    pub id: ShardId,
    /// The collection that it belongs to.
    pub collection: CollectionId,
    /// Definition of the collection.
    pub config: Arc<CollectionConfig>,
    /// Slot to object.
    pub directory: Arc<SlotDirectory>,
    /// One index a vector of the collection; `None` while its dimension is not known.
    pub vectors: Vec<Option<Arc<VectorView>>>,
}

impl ShardView {
    /// The index of a vector by its position in the definition.
    #[must_use]
    pub fn vector(&self, index: usize) -> Option<&Arc<VectorView>> {
        self.vectors.get(index)?.as_ref()
    }
}

/// The parameters of a vector's index; `None` while its dimension is not known.
pub(crate) fn index_params(
    vector: &VectorConfig,
    position: usize,
    seed: u64,
) -> Option<IndexParams> {
    let kind = match vector.index.kind {
        IndexType::Hnsw => IndexKind::Hnsw,
        IndexType::Flat => IndexKind::Flat,
        IndexType::Dynamic => IndexKind::Dynamic { threshold: vector.index.dynamic_threshold },
    };
    let (quantization, raw) = profile_of(vector);
    Some(IndexParams {
        codes: match quantization {
            Quantization::None => Codes::None,
            Quantization::Half => Codes::Half,
            Quantization::Bits8 => Codes::EightBit,
            Quantization::Bits4 => Codes::FourBit,
            Quantization::Bits1 => Codes::OneBit,
        },
        raw: match raw {
            RawVectors::Memory => heddle_index::RawVectors::Memory,
            RawVectors::Disk => heddle_index::RawVectors::Absent,
        },
        kind,
        m: vector.index.m,
        ef_construction: vector.index.ef_construction,
        seed: seed.wrapping_add(position as u64),
        ..IndexParams::new(vector.dims?, metric_of(vector.distance))
    })
}

/// A distance as the index calls it.
pub(crate) fn metric_of(distance: Distance) -> Metric {
    match distance {
        Distance::Cosine => Metric::Cosine,
        Distance::Dot => Metric::Dot,
        Distance::L2Squared => Metric::L2Squared,
        Distance::Manhattan => Metric::Manhattan,
        Distance::Hamming => Metric::Hamming,
    }
}
