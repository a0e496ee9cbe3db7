//! One shard at its home core: directory, vectors, properties, ids and rows as one thing.
//!
//! `Shard` is plain state without IO. The engine applies durable records to it in log order, one
//! at a time and uninterrupted, so get and search never see half an object. A put takes a new slot
//! and kills the old one; a slot is never changed in place.
//!
//! Absent by intent: the log, stamps being issued, awaits.

pub(crate) mod floor;
pub(crate) mod image;
pub(crate) mod rebuild;
pub(crate) mod record;
pub(crate) mod slots;
mod sweep;
mod tree;
mod view;

pub use record::RecordError;
pub use view::{ShardSpec, ShardView};

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_index::{
    DirectoryWriter, IndexError, Quiescence, SlotBitmap, SlotDirectory, VectorWriter,
};
use heddle_types::limits::VECTORS_PER_COLLECTION_MAX;
use heddle_types::row::RowError;
use heddle_types::{
    CollectionConfig, Device, Filter, Hlc, ObjectDigest, ObjectId, RawVectors, Slot, Stamp,
    VectorConfig,
};

use crate::engine::{ItemVector, Lease};
use crate::objects::{Location, NewObject, NewVector, ObjectStore};
use crate::property::{Bounds, PropertyIndex, RowValues};
use crate::validate::profile_of;
use floor::Floor;
use slots::{ShortStamp, SlotFacts, SlotTable, WriterTable};
use sweep::SweepPhase;
use tree::Tree;
use view::index_params;
pub(crate) use view::metric_of;

/// Why a durable record could not be applied. The shard is as before the record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The index refused: no memory, no slot left, or a vector that does not fit.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The row does not decode.
    #[error("property row: {0}")]
    Row(#[from] RowError),
    /// The object has a vector that the collection does not have, or whose dimension is unknown.
    #[error("vector number {index} has no index")]
    NoVector {
        /// Its position in the definition.
        index: u8,
    },
}

/// What applying a record did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Applied {
    /// The record took effect; did the object exist before?
    Done { existed: bool },
    /// The same write or one that wins is there already.
    Superseded { newest: Stamp },
}

/// A deletion that is remembered.
type Tombstones = BTreeMap<ObjectId, ShortStamp>;

/// One shard at its home core.
pub(crate) struct Shard<D: Device> {
    pub(crate) spec: ShardSpec,
    pub(crate) objects: ObjectStore<D>,
    directory: DirectoryWriter,
    vectors: Vec<Option<VectorWriter>>,
    on_disk: OnDisk,
    properties: PropertyIndex,
    ids: BTreeMap<ObjectId, Slot>,
    tombstones: Tombstones,
    slots: SlotTable,
    writers: WriterTable,
    newest: Hlc,
    view: Arc<ShardView>,
    versions: Vec<u64>,
    phase: SweepPhase,
    /// An index batch that is out; sweeping would take its slots away under it.
    pub(crate) lease: Lease,
    /// Slots below this number are being written to an image: they are neither linked, swept nor
    /// handed out meanwhile.
    imaging: Option<u32>,
    /// Killed while their image was written; the vector indexes hear of it afterwards.
    kills_deferred: Vec<Slot>,
    /// What it remembers of comparisons with other replicas.
    pub(crate) floor: Floor,
    /// Its hash tree, once somebody has asked for it.
    tree: Option<Tree>,
}

impl<D: Device> Shard<D> {
    /// An empty shard.
    pub(crate) fn new(
        spec: ShardSpec,
        objects: ObjectStore<D>,
        quiescence: Arc<Quiescence>,
    ) -> Result<Self, IndexError> {
        let directory = DirectoryWriter::new(0, quiescence)?;
        let vectors = (0..spec.config.vectors.len())
            .map(|position| new_vector(&spec, position))
            .collect::<Result<_, _>>()?;
        let properties = PropertyIndex::new(&spec.config);
        Ok(Self::assemble(spec, objects, directory, vectors, properties))
    }

    fn assemble(
        spec: ShardSpec,
        objects: ObjectStore<D>,
        directory: DirectoryWriter,
        vectors: Vec<Option<VectorWriter>>,
        properties: PropertyIndex,
    ) -> Self {
        let view = publish(&spec, &directory, &vectors);
        let mut shard = Self {
            on_disk: OnDisk::of(&spec.config),
            spec,
            objects,
            directory,
            vectors,
            properties,
            ids: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            slots: SlotTable::default(),
            writers: WriterTable::default(),
            newest: Hlc::default(),
            view,
            versions: Vec::new(),
            phase: SweepPhase::default(),
            lease: Lease::default(),
            imaging: None,
            kills_deferred: Vec::new(),
            floor: Floor::default(),
            tree: None,
        };
        shard.versions = shard.current_versions().collect();
        shard
    }

    /// Every remembered deletion with its stamp.
    pub(crate) fn all_tombstones(&self) -> Vec<(ObjectId, Stamp)> {
        let whole = |(id, stamp): (&ObjectId, &ShortStamp)| (*id, self.writers.lengthen(*stamp));
        self.tombstones.iter().map(whole).collect()
    }

    /// What other cores see.
    pub(crate) fn view(&self) -> &Arc<ShardView> {
        &self.view
    }

    /// Makes a new view when an arena moved. True when it did.
    pub(crate) fn republish(&mut self) -> bool {
        // Asked after every write, so nothing is allocated to find out.
        if self.current_versions().eq(self.versions.iter().copied()) {
            return false;
        }
        self.versions = self.current_versions().collect();
        self.view = publish(&self.spec, &self.directory, &self.vectors);
        true
    }

    fn current_versions(&self) -> impl Iterator<Item = u64> {
        let vectors = self
            .vectors
            .iter()
            .map(|vector| vector.as_ref().map_or(0, |vector| vector.view_version() + 1));
        std::iter::once(self.directory.view_version()).chain(vectors)
    }

    /// Makes the indexes of vectors whose dimension became known. The definition may differ from
    /// the present one in nothing else.
    pub(crate) fn fix_dims(&mut self, config: Arc<CollectionConfig>) -> Result<(), IndexError> {
        self.spec.config = config;
        self.on_disk = OnDisk::of(&self.spec.config);
        for position in 0..self.vectors.len() {
            if self.vectors[position].is_none() {
                self.vectors[position] = new_vector(&self.spec, position)?;
            }
        }
        self.versions.clear();
        self.republish();
        Ok(())
    }

    /// Applies a put: new slot, vectors, row, properties, then the switch from the old slot.
    pub(crate) fn apply_put(
        &mut self,
        stamp: &Stamp,
        id: ObjectId,
        created_us: i64,
        vectors: &[ItemVector],
        row: &[u8],
    ) -> Result<Applied, ApplyError> {
        let version = ObjectDigest::live(*stamp, created_us);
        let known = self.digest(&id);
        if let Some(known) = known.filter(|known| *known >= version) {
            return Ok(Applied::Superseded { newest: known.stamp });
        }
        let is_trivial = self.properties.is_trivial();
        let values =
            if is_trivial { RowValues::default() } else { self.properties.values_of(row)? };
        let slot = self.take_slot(id)?;
        if let Err(error) = self.store_vectors(slot, vectors) {
            self.kill_slot(slot);
            return Err(error);
        }
        let on_disk: Vec<NewVector<'_>> = vectors
            .iter()
            .filter(|vector| self.on_disk.contains(vector.index))
            .map(ItemVector::as_new)
            .collect();
        let location = self.objects.put(&NewObject {
            slot,
            id: &id,
            created_us,
            stamp,
            row,
            vectors: &on_disk,
        });
        let short = self.writers.shorten(stamp);
        self.newest = self.newest.max(stamp.hlc);
        self.slots
            .set(slot, SlotFacts { hlc: short.hlc, writer: short.writer, created_us, location });
        self.properties.insert(slot, values, created_us, updated_us(stamp));
        self.directory.publish(slot);
        self.tombstones.remove(&id);
        self.note_version(&id, known, version);
        let old = self.ids.insert(id, slot);
        if let Some(old) = old {
            self.retire(old);
        }
        Ok(Applied::Done { existed: old.is_some() })
    }

    /// Property indexes only collect until [`Shard::end_bulk`]; nothing may ask them meanwhile.
    pub(crate) fn begin_bulk(&mut self) {
        self.properties.begin_bulk();
    }

    /// Bytes of property values that a bulk has collected.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.properties.waiting_bytes() as u64
    }

    /// Brings the property indexes up to date.
    pub(crate) fn end_bulk(&mut self) {
        self.properties.end_bulk();
    }

    /// Applies a deletion and remembers it.
    pub(crate) fn apply_delete(&mut self, stamp: &Stamp, id: ObjectId) -> Applied {
        let version = ObjectDigest::tombstone(*stamp);
        let known = self.digest(&id);
        if let Some(known) = known.filter(|known| *known >= version) {
            return Applied::Superseded { newest: known.stamp };
        }
        self.note_version(&id, known, version);
        let short = self.writers.shorten(stamp);
        self.newest = self.newest.max(stamp.hlc);
        self.tombstones.insert(id, short);
        let old = self.ids.remove(&id);
        if let Some(old) = old {
            self.retire(old);
        }
        Applied::Done { existed: old.is_some() }
    }

    /// What is known of an id: the live object, or its deletion.
    pub(crate) fn digest(&self, id: &ObjectId) -> Option<ObjectDigest> {
        if let Some(slot) = self.ids.get(id) {
            return Some(self.digest_of_slot(*slot));
        }
        let deleted = self.tombstones.get(id)?;
        Some(ObjectDigest::tombstone(self.writers.lengthen(*deleted)))
    }

    fn digest_of_slot(&self, slot: Slot) -> ObjectDigest {
        let facts = self.slots.get(slot);
        ObjectDigest::live(self.writers.lengthen(facts.stamp()), facts.created_us)
    }

    /// The version of an object is replaced.
    fn note_version(&mut self, id: &ObjectId, old: Option<ObjectDigest>, new: ObjectDigest) {
        if let Some(tree) = &mut self.tree {
            tree.replace(id, old, Some(new));
        }
    }

    /// Looks at up to `limit` tombstones above `after`: is one of them older than `through`? And
    /// the last one looked at; `None` when there are no more.
    pub(crate) fn has_tombstones(
        &self,
        after: Option<ObjectId>,
        through: Hlc,
        limit: usize,
    ) -> (bool, Option<ObjectId>) {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let mut looked_at = self.tombstones.range((start, Unbounded)).take(limit);
        let mut last = None;
        let is_found = looked_at.any(|(id, stamp)| {
            last = Some(*id);
            stamp.hlc < through
        });
        (is_found, last)
    }

    /// Forgets up to `limit` tombstones above `after` that are older than `through`. The last one
    /// looked at; `None` when there are no more.
    pub(crate) fn purge_tombstones(
        &mut self,
        after: Option<ObjectId>,
        through: Hlc,
        limit: usize,
    ) -> Option<ObjectId> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let looked_at = self.tombstones.range((start, Unbounded)).take(limit);
        let looked_at: Vec<(ObjectId, ShortStamp)> =
            looked_at.map(|(id, stamp)| (*id, *stamp)).collect();
        for (id, stamp) in looked_at.iter().filter(|(_, stamp)| stamp.hlc < through) {
            self.tombstones.remove(id);
            let known = ObjectDigest::tombstone(self.writers.lengthen(*stamp));
            if let Some(tree) = &mut self.tree {
                tree.replace(id, Some(known), None);
            }
        }
        looked_at.last().map(|(id, _)| *id)
    }

    /// Does a version win over what is known of its object?
    pub(crate) fn wants(&self, id: &ObjectId, version: ObjectDigest) -> bool {
        self.digest(id).is_none_or(|known| known < version)
    }

    fn take_slot(&mut self, id: ObjectId) -> Result<Slot, IndexError> {
        if self.imaging.is_none() {
            return self.directory.push(id.0);
        }
        // A freed slot below the image's end would change under it.
        let slot = self.directory.view().published();
        self.directory.push_at(slot, id.0)?;
        Ok(slot)
    }

    fn store_vectors(&mut self, slot: Slot, vectors: &[ItemVector]) -> Result<(), ApplyError> {
        for vector in vectors {
            let index = self.vectors.get_mut(usize::from(vector.index)).and_then(Option::as_mut);
            let index = index.ok_or(ApplyError::NoVector { index: vector.index })?;
            index.store(slot, &vector.values)?;
        }
        Ok(())
    }

    /// Takes a published object out of everything.
    fn retire(&mut self, slot: Slot) {
        self.objects.forget(self.slots.get(slot).location);
        self.properties.kill(slot);
        self.kill_slot(slot);
    }

    fn kill_slot(&mut self, slot: Slot) {
        self.directory.kill(slot);
        if self.imaging.is_some_and(|end| slot < end) {
            self.kills_deferred.push(slot);
        } else {
            self.kill_vectors(slot);
        }
    }

    fn kill_vectors(&mut self, slot: Slot) {
        self.vectors.iter_mut().flatten().for_each(|vector| vector.kill(slot));
        if !self.is_held(slot) {
            self.phase.released.insert(slot);
        }
    }

    /// Does some vector index hold the slot?
    fn is_held(&self, slot: Slot) -> bool {
        self.vectors.iter().flatten().any(|vector| vector.view().holds(slot))
    }

    /// The live slot of an object.
    pub(crate) fn slot_of(&self, id: &ObjectId) -> Option<Slot> {
        self.ids.get(id).copied()
    }

    /// Live ids after `after`, ascending, with their slots.
    pub(crate) fn ids_after(
        &self,
        after: Option<ObjectId>,
    ) -> impl Iterator<Item = (ObjectId, Slot)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        self.ids.range((start, Unbounded)).map(|(id, slot)| (*id, *slot))
    }

    /// Facts of a live slot.
    pub(crate) fn facts(&self, slot: Slot) -> &SlotFacts {
        self.slots.get(slot)
    }

    /// Gives the row of a live slot its new place.
    pub(crate) fn set_location(&mut self, slot: Slot, location: Location) {
        self.slots.get_mut(slot).location = location;
    }

    /// The whole stamp of a live slot.
    pub(crate) fn stamp(&self, slot: Slot) -> Stamp {
        self.writers.lengthen(self.slots.get(slot).stamp())
    }

    /// Copies of the vectors of a live slot that rest in memory; under cosine with their length.
    pub(crate) fn vectors_in_memory(&self, slot: Slot) -> Vec<ItemVector> {
        let held = self.vectors.iter().zip(0u8..).filter_map(|(vector, index)| {
            let view = vector.as_ref()?.view();
            if self.on_disk.contains(index) || !view.holds(slot) {
                return None;
            }
            let norm = view.norm(slot);
            let values = view.vector(slot).iter().map(|value| value * norm).collect();
            Some(ItemVector { index, values })
        });
        held.collect()
    }

    /// Puts a vector that rests on disk back into its index, which lost it.
    pub(crate) fn restore_vector(
        &mut self,
        slot: Slot,
        vector: &ItemVector,
    ) -> Result<(), IndexError> {
        match self.vector_mut(vector.index.into()) {
            Some(index) => index.store(slot, &vector.values),
            None => Ok(()),
        }
    }

    /// The live slots that pass a checked filter, and those to be settled by their rows.
    pub(crate) fn evaluate(&self, filter: &Filter) -> Bounds {
        self.properties.evaluate(filter, &|id| self.slot_of(id))
    }

    pub(crate) fn live_count(&self) -> u64 {
        self.ids.len() as u64
    }

    pub(crate) fn tombstone_count(&self) -> u64 {
        self.tombstones.len() as u64
    }

    pub(crate) fn directory(&self) -> Arc<SlotDirectory> {
        self.directory.view()
    }

    pub(crate) fn vector_mut(&mut self, index: usize) -> Option<&mut VectorWriter> {
        self.vectors.get_mut(index)?.as_mut()
    }

    pub(crate) fn vectors(&self) -> impl Iterator<Item = (usize, &VectorWriter)> {
        self.vectors
            .iter()
            .enumerate()
            .filter_map(|(index, vector)| Some((index, vector.as_ref()?)))
    }

    /// Is an image being written?
    pub(crate) fn is_imaging(&self) -> bool {
        self.imaging.is_some()
    }

    /// No stamp applied so far is newer.
    pub(crate) fn newest_hlc(&self) -> Hlc {
        self.newest
    }

    /// Bytes by use.
    pub(crate) fn memory(&self) -> ShardMemory {
        let mut memory = ShardMemory {
            directory_bytes: self.directory.view().committed_bytes() as u64,
            property_bytes: self.properties.memory_bytes() as u64,
            // 20 bytes of key and slot, and about as much again for half-filled tree nodes.
            id_bytes: 40 * (self.ids.len() + self.tombstones.len()) as u64
                + self.slots.memory_bytes() as u64
                + self.tree.as_ref().map_or(0, Tree::memory_bytes) as u64,
            ..ShardMemory::default()
        };
        for (_, vector) in self.vectors() {
            let stats = vector.view().stats();
            memory.vector_bytes += stats.vector_bytes as u64;
            memory.link_bytes += (stats.link_bytes + stats.upper_bytes + stats.set_bytes) as u64;
        }
        memory
    }
}

/// The vectors of a definition that rest on disk as they were given, one bit each.
#[derive(Clone, Copy, Default)]
struct OnDisk(u16);

const _: () = assert!(VECTORS_PER_COLLECTION_MAX <= u16::BITS as usize);

impl OnDisk {
    fn of(config: &CollectionConfig) -> Self {
        let on_disk = |vector: &VectorConfig| profile_of(vector).1 == RawVectors::Disk;
        let places = config.vectors.iter().zip(0..).filter(|(vector, _)| on_disk(vector));
        Self(places.fold(0, |bits, (_, place): (_, u32)| bits | 1 << place))
    }

    fn contains(self, index: u8) -> bool {
        u32::from(index) < u16::BITS && self.0 >> index & 1 == 1
    }
}

/// Memory of one shard by use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ShardMemory {
    /// Vectors and their lengths.
    pub vector_bytes: u64,
    /// Graphs and the sets beside them.
    pub link_bytes: u64,
    /// Slot directory.
    pub directory_bytes: u64,
    /// Property indexes.
    pub property_bytes: u64,
    /// Ids, stamps, times and places of rows, and the hash tree of a replica.
    pub id_bytes: u64,
}

impl ShardMemory {
    /// All of it.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let Self { vector_bytes, link_bytes, directory_bytes, property_bytes, id_bytes } = self;
        vector_bytes + link_bytes + directory_bytes + property_bytes + id_bytes
    }
}

/// When an object with this stamp was last written, microseconds since the Unix epoch.
pub(crate) fn updated_us(stamp: &Stamp) -> i64 {
    i64::try_from(stamp.hlc.unix_us()).expect("56 bits fit")
}

/// The set in the form the index takes.
pub(crate) fn slot_bitmap(slots: &roaring::RoaringBitmap) -> SlotBitmap {
    let Some(last) = slots.max() else { return SlotBitmap::new() };
    let mut words = vec![0u64; last as usize / 64 + 1];
    for slot in slots {
        words[slot as usize / 64] |= 1 << (slot % 64);
    }
    SlotBitmap::from_words(words)
}

fn new_vector(spec: &ShardSpec, position: usize) -> Result<Option<VectorWriter>, IndexError> {
    let params = index_params(&spec.config.vectors[position], position, spec.seed);
    params.map(VectorWriter::new).transpose()
}

fn publish(
    spec: &ShardSpec,
    directory: &DirectoryWriter,
    vectors: &[Option<VectorWriter>],
) -> Arc<ShardView> {
    Arc::new(ShardView {
        id: spec.id,
        collection: spec.collection,
        config: Arc::clone(&spec.config),
        directory: directory.view(),
        vectors: vectors.iter().map(|vector| vector.as_ref().map(VectorWriter::view)).collect(),
    })
}
