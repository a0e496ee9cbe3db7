//! Reads: by id, by slot, in id order, by filter.

use std::sync::Arc;

use futures::future::join_all;
use heddle_index::SlotBitmap;
use heddle_types::row::decode_row;
use heddle_types::{ApiError, Clock, Device, ErrorCode, Filter, ObjectId, ShardId, Slot};
use roaring::RoaringBitmap;

use super::types::{Object, Want};
use super::yielding::yield_now;
use super::{Engine, ShardCell};
use crate::objects::{Location, ObjectError, ObjectParts, Parts};
use crate::property::{FilterFacts, matches};
use crate::shard::{Shard, slot_bitmap, updated_us};
use crate::validate::{check_batch, check_filter};

/// Rows of one call that are read at the same time.
const READS_IN_FLIGHT: usize = 32;
/// A row that a compaction moves is looked up again; it cannot move faster than it is read.
const READ_ATTEMPTS_MAX: usize = 8;

impl<D: Device, C: Clock> Engine<D, C> {
    /// Reads objects by id, in the order asked for; `None` for those that do not exist.
    ///
    /// Errors: `Unavailable` for an unknown shard, `Corrupt` when a stored row is damaged.
    pub async fn get(
        &self,
        shard: ShardId,
        ids: &[ObjectId],
        want: Want,
    ) -> Result<Vec<Option<Object>>, ApiError> {
        check_batch(ids.len())?;
        let cell = self.readable(shard)?;
        let mut objects = Vec::with_capacity(ids.len());
        for ids in ids.chunks(READS_IN_FLIGHT) {
            let reads = ids.iter().map(|id| self.read_object(&cell, *id, want));
            for object in join_all(reads).await {
                objects.push(object?);
            }
            yield_now().await;
        }
        Ok(objects)
    }

    /// Reads the objects of search hits; `None` for those deleted or replaced since.
    ///
    /// The searching core keeps its pin until this returned. Errors as for [`Engine::get`].
    pub async fn fetch_slots(
        &self,
        shard: ShardId,
        hits: &[(Slot, ObjectId)],
        want: Want,
    ) -> Result<Vec<Option<Object>>, ApiError> {
        check_batch(hits.len())?;
        let cell = self.readable(shard)?;
        let mut objects = Vec::with_capacity(hits.len());
        for hits in hits.chunks(READS_IN_FLIGHT) {
            let reads = hits.iter().map(|(slot, id)| self.read_slot(&cell, *id, *slot, want));
            for object in join_all(reads).await {
                objects.push(object?);
            }
            yield_now().await;
        }
        Ok(objects)
    }

    /// Reads up to `limit` objects with ids above `after`, ascending, that pass the filter.
    ///
    /// Errors: `InvalidFilter`, `InvalidProperty`, and those of [`Engine::get`]. Cost: the filter
    /// is evaluated on every call.
    pub async fn scan(
        &self,
        shard: ShardId,
        after: Option<ObjectId>,
        limit: usize,
        filter: Option<&Filter>,
        want: Want,
    ) -> Result<Vec<Object>, ApiError> {
        check_batch(limit)?;
        let cell = self.readable(shard)?;
        if let Some(filter) = filter {
            check_filter(&cell.shard.borrow().spec.config, filter)?;
        }
        let mut objects: Vec<Object> = Vec::new();
        let mut after = after;
        while objects.len() < limit {
            let wanted = (limit - objects.len()).min(READS_IN_FLIGHT);
            let candidates = scan_candidates(&cell.shard.borrow(), after, wanted, filter);
            let Some(last) = candidates.last() else { break };
            after = Some(last.0);
            let reads = candidates.iter().map(|(id, is_sure)| {
                self.read_candidate(&cell, *id, filter.filter(|_| !is_sure), want)
            });
            for object in join_all(reads).await {
                objects.extend(object?);
            }
            yield_now().await;
        }
        Ok(objects)
    }

    /// Counts the objects that pass the filter.
    ///
    /// Errors: `InvalidFilter`, `InvalidProperty`, and those of [`Engine::get`]. Cost: no rows are
    /// read unless texts longer than the index keeps have to be compared.
    pub async fn count(&self, shard: ShardId, filter: Option<&Filter>) -> Result<u64, ApiError> {
        let cell = self.readable(shard)?;
        let Some(filter) = filter else { return Ok(cell.shard.borrow().live_count()) };
        Ok(self.passing(&cell, filter).await?.len())
    }

    /// The live slots that pass the filter, for a search of the shard's view.
    ///
    /// The searching core takes its pin before it asks, so that no slot in the set is used for
    /// another object before its search ends. Errors and cost as for [`Engine::count`].
    pub async fn filter_bitmap(
        &self,
        shard: ShardId,
        filter: &Filter,
    ) -> Result<Arc<SlotBitmap>, ApiError> {
        let cell = self.readable(shard)?;
        let slots = self.passing(&cell, filter).await?;
        Ok(Arc::new(slot_bitmap(&slots)))
    }

    async fn passing(
        &self,
        cell: &ShardCell<D>,
        filter: &Filter,
    ) -> Result<RoaringBitmap, ApiError> {
        let mut bounds = {
            let shard = cell.shard.borrow();
            check_filter(&shard.spec.config, filter)?;
            shard.evaluate(filter)
        };
        let undecided: Vec<(Slot, ObjectId)> = {
            let directory = cell.shard.borrow().directory();
            bounds.maybe.iter().map(|slot| (slot, ObjectId(directory.id(slot)))).collect()
        };
        let want = Want { properties: true, vectors: false };
        for undecided in undecided.chunks(READS_IN_FLIGHT) {
            let reads = undecided.iter().map(|(slot, id)| self.read_slot(cell, *id, *slot, want));
            for (object, (slot, _)) in join_all(reads).await.into_iter().zip(undecided) {
                if let Some(object) = object?
                    && passes(&object, filter)?
                {
                    bounds.sure.insert(*slot);
                }
            }
            yield_now().await;
        }
        Ok(bounds.sure)
    }

    /// Reads an object and, unless the index was sure, lets its row decide.
    async fn read_candidate(
        &self,
        cell: &ShardCell<D>,
        id: ObjectId,
        undecided: Option<&Filter>,
        want: Want,
    ) -> Result<Option<Object>, ApiError> {
        let reading = Want { properties: want.properties || undecided.is_some(), ..want };
        let Some(mut object) = self.read_object(cell, id, reading).await? else {
            return Ok(None);
        };
        if let Some(filter) = undecided
            && !passes(&object, filter)?
        {
            return Ok(None);
        }
        if !want.properties {
            object.properties = Vec::new();
        }
        Ok(Some(object))
    }

    pub(super) async fn read_object(
        &self,
        cell: &ShardCell<D>,
        id: ObjectId,
        want: Want,
    ) -> Result<Option<Object>, ApiError> {
        self.read_where(cell, id, want, |shard| shard.slot_of(&id)).await
    }

    async fn read_slot(
        &self,
        cell: &ShardCell<D>,
        id: ObjectId,
        slot: Slot,
        want: Want,
    ) -> Result<Option<Object>, ApiError> {
        self.read_where(cell, id, want, |shard| shard.slot_of(&id).filter(|live| *live == slot))
            .await
    }

    /// Reads the object in the slot that `find` names. Everything in memory is taken at once with
    /// the place of what is on disk, so the parts belong together.
    async fn read_where(
        &self,
        cell: &ShardCell<D>,
        id: ObjectId,
        want: Want,
        find: impl Fn(&Shard<D>) -> Option<Slot>,
    ) -> Result<Option<Object>, ApiError> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let (mut object, read) = {
                let shard = cell.shard.borrow();
                let Some(slot) = find(&shard) else { return Ok(None) };
                let location = shard.facts(slot).location;
                let parts = parts_of(want, location);
                let read = parts.map(|parts| shard.objects.read_parts(location, parts));
                (object_of(&shard, id, slot, want), read)
            };
            let Some(read) = read else { return Ok(Some(object)) };
            match read.await {
                Ok(parts) => {
                    add_parts(&mut object, parts)?;
                    return Ok(Some(object));
                }
                Err(ObjectError::NotThere { .. }) => {}
                Err(error) => return Err(unreadable(id, &error)),
            }
        }
        Err(ApiError::internal(format!("object {id} has no place that can be read")))
    }
}

/// What has to be read from the object's segment.
fn parts_of(want: Want, location: Location) -> Option<Parts> {
    match (want.properties, want.vectors && location.has_vectors()) {
        (false, false) => None,
        (true, false) => Some(Parts::Row),
        (false, true) => Some(Parts::Vectors),
        (true, true) => Some(Parts::Both),
    }
}

/// Adds what was read to what was in memory. What is on disk names its object; anything else is a
/// misplaced write.
fn add_parts(object: &mut Object, parts: ObjectParts) -> Result<(), ApiError> {
    let owned = |what: &str, id: ObjectId, is_own: bool| {
        if id == object.id && is_own {
            return Ok(());
        }
        let message = format!("the {what} of object {} belong to object {id}", object.id);
        Err(ApiError::new(ErrorCode::Corrupt, message, ""))
    };
    if let Some(row) = &parts.row {
        owned("properties", row.id, row.stamp == object.stamp)?;
    }
    if let Some(vectors) = &parts.vectors {
        owned("vectors", vectors.id, vectors.hlc == object.stamp.hlc)?;
    }
    if let Some(row) = parts.row {
        object.properties = row.row;
    }
    if let Some(vectors) = parts.vectors {
        object.vectors.extend(vectors.vectors);
        object.vectors.sort_unstable_by_key(|vector| vector.index);
    }
    Ok(())
}

/// Ids that may pass, ascending, and whether the index is sure of each.
fn scan_candidates<D: Device>(
    shard: &Shard<D>,
    after: Option<ObjectId>,
    wanted: usize,
    filter: Option<&Filter>,
) -> Vec<(ObjectId, bool)> {
    let bounds = filter.map(|filter| shard.evaluate(filter));
    let candidates = shard.ids_after(after).filter_map(|(id, slot)| match &bounds {
        None => Some((id, true)),
        Some(bounds) if bounds.sure.contains(slot) => Some((id, true)),
        Some(bounds) => bounds.maybe.contains(slot).then_some((id, false)),
    });
    candidates.take(wanted).collect()
}

fn object_of<D: Device>(shard: &Shard<D>, id: ObjectId, slot: Slot, want: Want) -> Object {
    let stamp = shard.stamp(slot);
    Object {
        id,
        created_us: shard.facts(slot).created_us,
        updated_us: updated_us(&stamp),
        stamp,
        properties: Vec::new(),
        vectors: if want.vectors { shard.vectors_in_memory(slot) } else { Vec::new() },
    }
}

fn passes(object: &Object, filter: &Filter) -> Result<bool, ApiError> {
    let properties = decode_row(&object.properties).map_err(|error| {
        ApiError::new(ErrorCode::Corrupt, format!("row of object {}: {error}", object.id), "")
    })?;
    let facts = FilterFacts {
        id: object.id,
        created_us: object.created_us,
        updated_us: object.updated_us,
        properties: &properties,
    };
    Ok(matches(filter, &facts))
}

/// A row that cannot be read, as the client sees it.
fn unreadable(id: ObjectId, error: &ObjectError) -> ApiError {
    match error {
        ObjectError::Device(_) => {
            ApiError::transient(ErrorCode::Internal, format!("object {id}: {error}"))
        }
        _ => ApiError::new(ErrorCode::Corrupt, format!("object {id}: {error}"), ""),
    }
}
