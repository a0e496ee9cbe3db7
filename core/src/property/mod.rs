//! Property indexes: value -> slots, for filters.
//!
//! Every filterable property has its values in order, each with the slots that hold it, and the
//! set of slots where it is present. A slot is added when its object is published. When the object
//! dies only the live set changes; the slot's entries are removed later, many slots at a time and
//! in steps ([`PropertyIndex::reclaim_step`]), before the slot is used again. So nobody needs the
//! old values of an object to replace it, and no list of values by slot is kept.
//!
//! Absent by intent: distances, rows on disk, clocks. What the index cannot decide (texts above
//! `INDEXED_TEXT_BYTES_MAX` bytes) it names as "maybe"; [`matches()`] on the stored row decides.

mod evaluate;
mod field;
mod image;
mod like;
mod matches;
mod ordered;
mod postings;
mod reclaim;
mod text;

#[cfg(test)]
mod tests;

pub use image::{PropertyCursor, PropertyImageError};
pub use like::LikePattern;
pub use matches::{FilterFacts, matches};
pub use reclaim::ReclaimCursor;
pub use text::Bounds;

use heddle_types::filter::{PROPERTY_CREATED, PROPERTY_UPDATED};
use heddle_types::{CollectionConfig, DataType, Properties, Slot, Value};
use roaring::RoaringBitmap;

use field::Field;

/// The indexes of one shard.
#[derive(Clone, PartialEq, Debug)]
pub struct PropertyIndex {
    fields: Vec<Field>,
    live: RoaringBitmap,
    memory_bytes: usize,
}

impl PropertyIndex {
    /// Empty indexes for the filterable properties of a collection, and for the times when the
    /// collection asks for them.
    #[must_use]
    pub fn new(config: &CollectionConfig) -> Self {
        let declared = config.properties.iter().filter(|property| property.filterable);
        let mut fields: Vec<Field> =
            declared.map(|property| Field::new(&property.name, property.data_type)).collect();
        if config.index_timestamps {
            fields.push(Field::new(PROPERTY_CREATED, DataType::Date));
            fields.push(Field::new(PROPERTY_UPDATED, DataType::Date));
        }
        Self { fields, live: RoaringBitmap::new(), memory_bytes: 0 }
    }

    /// Is there an index for anything but presence of objects? If not, rows need not be decoded.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.fields.is_empty()
    }

    /// Adds a published object. The slot is new, or was reclaimed since its last use.
    ///
    /// Cost: a tree insert for each value.
    pub fn insert(
        &mut self,
        slot: Slot,
        properties: &Properties,
        created_us: i64,
        updated_us: i64,
    ) {
        self.live.insert(slot);
        self.insert_values(slot, properties, created_us, updated_us);
    }

    /// Adds the values of an object without making it live; for rebuilding from rows.
    pub fn insert_values(
        &mut self,
        slot: Slot,
        properties: &Properties,
        created_us: i64,
        updated_us: i64,
    ) {
        for field in &mut self.fields {
            let time = match field.name.as_str() {
                PROPERTY_CREATED => Some(Value::Date(created_us)),
                PROPERTY_UPDATED => Some(Value::Date(updated_us)),
                _ => None,
            };
            if let Some(value) = time.as_ref().or_else(|| properties.get(&field.name)) {
                self.memory_bytes += field.insert(slot, value);
            }
        }
    }

    /// Takes the object of a slot out of all answers. Its entries stay until they are reclaimed.
    pub fn kill(&mut self, slot: Slot) {
        self.live.remove(slot);
    }

    /// Slots whose objects are live.
    #[must_use]
    pub fn live(&self) -> &RoaringBitmap {
        &self.live
    }

    /// Sets the live slots, as the directory has them after a restore.
    pub fn set_live(&mut self, live: RoaringBitmap) {
        self.live = live;
    }

    /// Names and types of the indexed properties, in the order of their numbers in an image.
    #[must_use]
    pub fn layout(&self) -> Vec<(String, DataType)> {
        self.fields.iter().map(|field| (field.name.clone(), field.data_type)).collect()
    }

    /// Bytes in use, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.live.serialized_size()
    }
}
