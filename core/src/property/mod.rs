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
use heddle_types::row::{RowError, visit_row};
use heddle_types::{CollectionConfig, DataType, Slot, Value};
use roaring::RoaringBitmap;

use field::Field;

/// The indexes of one shard.
#[derive(Clone, PartialEq, Debug)]
pub struct PropertyIndex {
    fields: Vec<Field>,
    /// Positions of the declared fields, by name.
    by_name: Vec<usize>,
    /// Positions of the fields of the times.
    created: Option<usize>,
    updated: Option<usize>,
    live: RoaringBitmap,
    memory_bytes: usize,
}

/// What of a row is indexed: positions of fields, and the values.
#[derive(Debug, Default)]
pub struct RowValues(Vec<(usize, Value)>);

impl PropertyIndex {
    /// Empty indexes for the filterable properties of a collection, and for the times when the
    /// collection asks for them.
    #[must_use]
    pub fn new(config: &CollectionConfig) -> Self {
        let declared = config.properties.iter().filter(|property| property.filterable);
        let mut fields: Vec<Field> =
            declared.map(|property| Field::new(&property.name, property.data_type)).collect();
        let mut by_name: Vec<usize> = (0..fields.len()).collect();
        by_name.sort_by(|left, right| fields[*left].name.cmp(&fields[*right].name));
        let (mut created, mut updated) = (None, None);
        if config.index_timestamps {
            created = Some(fields.len());
            fields.push(Field::new(PROPERTY_CREATED, DataType::Date));
            updated = Some(fields.len());
            fields.push(Field::new(PROPERTY_UPDATED, DataType::Date));
        }
        Self { fields, by_name, created, updated, live: RoaringBitmap::new(), memory_bytes: 0 }
    }

    /// Is there an index for anything but presence of objects? If not, rows need not be decoded.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.fields.is_empty()
    }

    /// Decodes what of a row is indexed. Errors: the row does not decode.
    pub fn values_of(&self, row: &[u8]) -> Result<RowValues, RowError> {
        let mut values = Vec::with_capacity(self.by_name.len());
        // Names of rows and of fields are in order.
        let mut fields = self.by_name.iter().copied().peekable();
        visit_row(row, |name, value| {
            while fields.next_if(|field| self.fields[*field].name.as_str() < name).is_some() {}
            if let Some(field) = fields.next_if(|field| self.fields[*field].name == name) {
                values.push((field, value));
            }
        })?;
        Ok(RowValues(values))
    }

    /// Adds a published object. The slot is new, or was reclaimed since its last use.
    ///
    /// Cost: a tree insert for each value.
    pub fn insert(&mut self, slot: Slot, values: RowValues, created_us: i64, updated_us: i64) {
        self.live.insert(slot);
        self.insert_values(slot, values, created_us, updated_us);
    }

    /// Adds the values of an object without making it live; for rebuilding from rows.
    pub fn insert_values(
        &mut self,
        slot: Slot,
        values: RowValues,
        created_us: i64,
        updated_us: i64,
    ) {
        let times = [(self.created, created_us), (self.updated, updated_us)];
        let times = times.into_iter().filter_map(|(field, us)| Some((field?, Value::Date(us))));
        for (field, value) in values.0.into_iter().chain(times) {
            self.memory_bytes += self.fields[field].insert(slot, value);
        }
    }

    /// From now on values are only collected, until [`PropertyIndex::end_bulk`]; nothing may be
    /// asked or reclaimed meanwhile. For a start, which adds many objects at once.
    pub fn begin_bulk(&mut self) {
        self.fields.iter_mut().for_each(|field| field.values.begin_bulk());
    }

    /// Sorts in what was collected.
    ///
    /// Cost: less than half of what inserts one by one take, because neighbours meet.
    pub fn end_bulk(&mut self) {
        let grown: usize = self.fields.iter_mut().map(|field| field.values.end_bulk()).sum();
        self.memory_bytes += grown;
    }

    /// Bytes of what a bulk has collected and not sorted in.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.fields.iter().map(|field| field.values.waiting_bytes()).sum()
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

    /// Bytes in use, about; what a bulk has collected included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.waiting_bytes() + self.live.serialized_size()
    }
}
