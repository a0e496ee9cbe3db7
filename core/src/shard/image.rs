//! A shard's image: what it consists of, and how it becomes a shard again.
//!
//! Sections by number: directory parts from [`DIRECTORY`]; slot facts; tombstones; property chunks
//! from [`PROPERTIES`] on; the parts of vector `i`'s index from [`VECTORS`]` + 256 i`. The meta is
//! JSON ([`ImageMeta`]).
//!
//! The image is fuzzy: it covers the slots below a number fixed when it began. Puts go on and take
//! higher slots; of lower slots only live bits change, and tombstones come and go. All of that is
//! in log records that the image does not cover, so the replay settles it.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_index::{DirectoryRestorer, DirectoryWriter, IndexError, Restorer, VectorWriter};
use heddle_types::{CollectionId, DataType, Device, Hlc, ObjectId, ShardId, Slot};
use roaring::RoaringBitmap;

use super::slots::{ShortStamp, SlotFacts, SlotTable, Writer, WriterTable};
use super::view::{ShardSpec, ShardView, index_params};
use super::{Shard, Tombstones};
use crate::objects::{Location, ObjectError, ObjectStore};
use crate::property::PropertyIndex;

/// First section of the directory.
pub(crate) const DIRECTORY: u32 = 0x100;
/// Section of the slot facts.
pub(crate) const SLOTS: u32 = 0x200;
/// Section of the tombstones.
pub(crate) const TOMBSTONES: u32 = 0x300;
/// First section of the vector indexes; each has 256 numbers.
pub(crate) const VECTORS: u32 = 0x1_0000;
/// First section of the property indexes.
pub(crate) const PROPERTIES: u32 = 0x100_0000;

/// Version of the sections and the meta.
const FORMAT: u32 = 3;
/// The oldest version that is read: its slot facts hold locations of an older form.
const FORMAT_MIN: u32 = 2;
/// Bytes of one slot's facts.
pub(crate) const FACTS_BYTES: usize = FACTS_FIXED_BYTES + Location::ENCODED_BYTES;
/// Bytes of one slot's facts before its location.
const FACTS_FIXED_BYTES: usize = 8 + 4 + 8;
/// Bytes of one tombstone.
pub(crate) const TOMBSTONE_BYTES: usize = 16 + 8 + 4;

/// What an image says about itself.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageMeta {
    pub(crate) format: u32,
    pub(crate) shard: ShardId,
    pub(crate) collection: CollectionId,
    /// Slots at or above this number are not in the image.
    pub(crate) slots: u32,
    /// The log whose positions `covers` counts.
    pub(crate) log_index: u32,
    /// No stamp of the shard was newer when the image began.
    pub(crate) newest: Hlc,
    /// Writers by number.
    pub(crate) writers: Vec<Writer>,
    /// Indexed properties by number.
    pub(crate) layout: Vec<(String, DataType)>,
    /// Property sections.
    pub(crate) property_sections: u32,
    /// Vectors that have an index in the image.
    pub(crate) vectors: Vec<u8>,
    /// Object segments that the slot facts point into.
    pub(crate) segments: Vec<u32>,
    /// When the image began, microseconds since the Unix epoch.
    pub(crate) taken_us: u64,
}

/// Everything that is fixed when an image begins.
pub(crate) struct ImagePlan {
    pub(crate) meta: ImageMeta,
    /// Directory and vectors as they were; later views only add to them.
    pub(crate) view: Arc<ShardView>,
}

/// The first section of a vector's index.
pub(crate) fn vector_section(index: usize) -> u32 {
    VECTORS + 256 * u32::try_from(index).expect("vectors of a collection are few")
}

impl<D: Device> Shard<D> {
    /// Fixes what the image will hold: every slot so far. From now on nothing is linked, swept or
    /// reused until [`Shard::end_image`].
    ///
    /// Every row of those slots must be on disk before the image is committed.
    pub(crate) fn begin_image(&mut self, log_index: u32, taken_us: u64) -> ImagePlan {
        assert!(self.imaging.is_none(), "one image at a time");
        let slots = self.directory.view().published();
        self.imaging = Some(slots);
        let vectors = self.vectors().map(|(index, _)| u8::try_from(index).expect("few vectors"));
        let meta = ImageMeta {
            format: FORMAT,
            shard: self.spec.id,
            collection: self.spec.collection,
            slots,
            log_index,
            newest: self.newest_hlc(),
            writers: self.writers.writers().to_vec(),
            layout: self.properties.layout(),
            property_sections: 0,
            vectors: vectors.collect(),
            segments: Vec::new(),
            taken_us,
        };
        ImagePlan { meta, view: Arc::clone(&self.view) }
    }

    /// Takes up to `limit` slots that died meanwhile out of the vector indexes, once their image is
    /// written. False when none is left.
    pub(crate) fn settle_kills(&mut self, limit: usize) -> bool {
        let first = self.kills_deferred.len().saturating_sub(limit);
        for slot in self.kills_deferred.split_off(first) {
            self.kill_vectors(slot);
        }
        !self.kills_deferred.is_empty()
    }

    /// Slots may be linked, swept and reused again.
    pub(crate) fn end_image(&mut self) {
        self.imaging = None;
        self.settle_kills(usize::MAX);
    }

    /// Appends the facts of `slots`, [`FACTS_BYTES`] each. Facts of slots that were never used are
    /// zeros; nobody reads them.
    pub(crate) fn encode_facts(&self, slots: std::ops::Range<Slot>, out: &mut Vec<u8>) {
        let known = self.slots.len();
        for slot in slots {
            if slot as usize >= known {
                out.extend_from_slice(&[0; FACTS_BYTES]);
                continue;
            }
            let SlotFacts { hlc, writer, created_us, location } = self.slots.get(slot);
            out.extend_from_slice(&hlc.0.to_le_bytes());
            out.extend_from_slice(&writer.to_le_bytes());
            out.extend_from_slice(&created_us.to_le_bytes());
            out.extend_from_slice(&location.encode());
        }
    }

    /// Appends up to `limit` tombstones after an id by writers that the image knows,
    /// [`TOMBSTONE_BYTES`] each. Gives back the last id looked at; `None` when there are no more.
    ///
    /// Those that come or go between two calls are in log records that the image does not cover.
    pub(crate) fn encode_tombstones(
        &self,
        after: Option<ObjectId>,
        limit: usize,
        writers: usize,
        out: &mut Vec<u8>,
    ) -> Option<ObjectId> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let mut last = None;
        for (id, stamp) in self.tombstones.range((start, Unbounded)).take(limit) {
            last = Some(*id);
            // A newer writer's record is not covered by the image; the replay brings it back.
            if stamp.writer as usize >= writers {
                continue;
            }
            out.extend_from_slice(&id.0);
            out.extend_from_slice(&stamp.hlc.0.to_le_bytes());
            out.extend_from_slice(&stamp.writer.to_le_bytes());
        }
        last
    }

    pub(crate) fn properties(&self) -> &PropertyIndex {
        &self.properties
    }
}

/// Why the parts of an image do not make a shard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// A part is intact and does not fit the others.
    #[error("{0}")]
    Unfit(String),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// A shard that is being put together from an image.
pub(crate) struct ShardRestorer<D: Device> {
    spec: ShardSpec,
    meta: ImageMeta,
    objects: ObjectStore<D>,
    directory: DirectoryWriter,
    vectors: Vec<Option<VectorWriter>>,
    properties: PropertyIndex,
}

impl ImageMeta {
    /// Reads the meta of an image and checks that it belongs to the shard.
    pub(crate) fn decode(bytes: &[u8], spec: &ShardSpec) -> Result<Self, RestoreError> {
        let unfit = |problem: String| Err(RestoreError::Unfit(problem));
        let meta: Self = match serde_json::from_slice(bytes) {
            Ok(meta) => meta,
            Err(error) => return unfit(format!("meta: {error}")),
        };
        if !(FORMAT_MIN..=FORMAT).contains(&meta.format) {
            let known = format!("{FORMAT_MIN} to {FORMAT}");
            return unfit(format!("has format {}, this server reads {known}", meta.format));
        }
        if meta.shard != spec.id || meta.collection != spec.collection {
            return unfit(format!("belongs to shard {} of {}", meta.shard, meta.collection));
        }
        Ok(meta)
    }

    /// Parameters of a vector's index, if the image has one.
    pub(crate) fn restores_vector(&self, index: usize) -> bool {
        self.vectors.iter().any(|vector| usize::from(*vector) == index)
    }
}

/// Starts to restore the index of a vector.
pub(crate) fn vector_restorer(
    spec: &ShardSpec,
    index: usize,
    slots: u32,
) -> Result<Option<Restorer>, IndexError> {
    let Some(vector) = spec.config.vectors.get(index) else { return Ok(None) };
    let params = index_params(vector, index, spec.seed);
    params.map(|params| VectorWriter::restore(params, slots)).transpose()
}

/// An empty index for a vector.
pub(crate) fn empty_vector(
    spec: &ShardSpec,
    index: usize,
) -> Result<Option<VectorWriter>, IndexError> {
    super::new_vector(spec, index)
}

impl<D: Device> ShardRestorer<D> {
    /// Takes the parts that were read. `properties` is `None` when they have to be rebuilt.
    pub(crate) fn new(
        spec: ShardSpec,
        meta: ImageMeta,
        objects: ObjectStore<D>,
        directory: DirectoryRestorer,
        vectors: Vec<Option<VectorWriter>>,
        properties: Option<PropertyIndex>,
    ) -> Result<Self, RestoreError> {
        let directory = directory.finish()?;
        let properties = properties.unwrap_or_else(|| PropertyIndex::new(&spec.config));
        Ok(Self { spec, meta, objects, directory, vectors, properties })
    }

    /// Joins the parts: ids of live slots, rows they own, deletions that came later.
    pub(crate) fn finish(self, facts: &[u8], tombstones: &[u8]) -> Result<Shard<D>, RestoreError> {
        let Self { spec, meta, objects, directory, vectors, properties } = self;
        let writers = meta.writers.len();
        let mut shard = Shard::assemble(spec, objects, directory, vectors, properties);
        shard.writers = WriterTable::from_writers(meta.writers);
        shard.newest = meta.newest;
        shard.slots = decode_facts(facts, meta.slots, meta.format)?;
        let view = shard.directory.view();
        let mut live = Vec::new();
        let mut ids = Vec::new();
        for slot in (0..meta.slots).filter(|&slot| view.is_live(slot)) {
            let SlotFacts { writer, location, .. } = *shard.slots.get(slot);
            if writer as usize >= writers {
                return Err(RestoreError::Unfit(format!("slot {slot} has an unknown writer")));
            }
            shard.objects.adopt(location)?;
            live.push(slot);
            ids.push((ObjectId(view.id(slot)), slot));
        }
        let live = RoaringBitmap::from_sorted_iter(live).expect("slots were counted up");
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(RestoreError::Unfit(format!("object {} lives in two slots", pair[0].0)));
        }
        shard.ids = ids.into_iter().collect();
        shard.properties.set_live(live);
        shard.find_released();
        for (id, stamp) in decode_tombstones(tombstones, writers)? {
            shard.restore_tombstone(id, stamp);
        }
        Ok(shard)
    }
}

impl<D: Device> Shard<D> {
    /// A deletion that was written after the live bit of its object had been: it wins.
    fn restore_tombstone(&mut self, id: ObjectId, stamp: ShortStamp) {
        let deleted = self.writers.lengthen(stamp);
        if let Some(slot) = self.slot_of(&id) {
            if self.stamp(slot) > deleted {
                return;
            }
            self.ids.remove(&id);
            self.retire(slot);
        }
        self.tombstones.insert(id, stamp);
    }

    /// Live objects with their slots, for rebuilding indexes from the rows.
    pub(crate) fn live_rows(&self) -> Vec<(ObjectId, Slot)> {
        self.ids.iter().map(|(id, slot)| (*id, *slot)).collect()
    }

    /// Adds the values of a live object to the property indexes.
    pub(crate) fn index_row(
        &mut self,
        slot: Slot,
        row: &[u8],
    ) -> Result<(), heddle_types::row::RowError> {
        let values = self.properties.values_of(row)?;
        let updated_us = super::updated_us(&self.stamp(slot));
        let created_us = self.slots.get(slot).created_us;
        self.properties.insert_values(slot, values, created_us, updated_us);
        Ok(())
    }
}

fn decode_facts(bytes: &[u8], slots: u32, format: u32) -> Result<SlotTable, RestoreError> {
    let location_bytes =
        if format < FORMAT { Location::ENCODED_BYTES_2 } else { Location::ENCODED_BYTES };
    let facts_bytes = FACTS_FIXED_BYTES + location_bytes;
    if bytes.len() as u64 != u64::from(slots) * facts_bytes as u64 {
        return Err(RestoreError::Unfit(format!("has {} bytes of slot facts", bytes.len())));
    }
    let decode = |bytes: &[u8]| -> Option<SlotFacts> {
        let (hlc, rest) = bytes.split_first_chunk::<8>()?;
        let (writer, rest) = rest.split_first_chunk::<4>()?;
        let (created_us, location) = rest.split_first_chunk::<8>()?;
        let location = match format < FORMAT {
            true => Location::decode_2(location.first_chunk()?),
            false => Location::decode(location.first_chunk()?),
        };
        let (hlc, writer) = (Hlc(u64::from_le_bytes(*hlc)), u32::from_le_bytes(*writer));
        let created_us = i64::from_le_bytes(*created_us);
        Some(SlotFacts { hlc, writer, created_us, location })
    };
    let mut facts = Vec::with_capacity(slots as usize);
    facts.extend(bytes.chunks_exact(facts_bytes).filter_map(decode));
    Ok(SlotTable::from_facts(facts))
}

/// Decodes tombstones of writers below `writers`.
pub(super) fn decode_tombstones(bytes: &[u8], writers: usize) -> Result<Tombstones, RestoreError> {
    if !bytes.len().is_multiple_of(TOMBSTONE_BYTES) {
        return Err(RestoreError::Unfit(format!("has {} bytes of tombstones", bytes.len())));
    }
    let mut tombstones = BTreeMap::new();
    for bytes in bytes.chunks_exact(TOMBSTONE_BYTES) {
        let (id, rest) = bytes.split_first_chunk::<16>().expect("28 bytes hold 16");
        let (hlc, rest) = rest.split_first_chunk::<8>().expect("12 bytes hold 8");
        let writer = rest.first_chunk::<4>().expect("4 bytes are left");
        let writer = u32::from_le_bytes(*writer);
        if writer as usize >= writers {
            return Err(RestoreError::Unfit("a tombstone has an unknown writer".to_owned()));
        }
        let stamp = ShortStamp { hlc: Hlc(u64::from_le_bytes(*hlc)), writer };
        tombstones.insert(ObjectId(*id), stamp);
    }
    Ok(tombstones)
}
