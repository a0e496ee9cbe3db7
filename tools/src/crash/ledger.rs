//! What the crash test knows about every row: what was acknowledged, what was tried.

use std::cmp::Ordering;

use heddle_client::StoredObject;
use heddle_types::{Properties, Value};

/// Rows between the vectors of one row at two versions: a prime, so that versions never share one.
const VERSION_STRIDE: usize = 7_919;

/// The data that rows are made of.
#[derive(Debug)]
pub(crate) struct Material {
    /// `[rows, dims]`.
    pub(crate) values: Vec<f32>,
    pub(crate) dims: usize,
    /// Properties of each row, or none at all.
    pub(crate) properties: Vec<Properties>,
}

impl Material {
    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.dims
    }

    /// The vector of a row at a version.
    pub(crate) fn vector(&self, row: usize, version: u32) -> &[f32] {
        let place = (row + version as usize * VERSION_STRIDE) % self.rows();
        &self.values[place * self.dims..(place + 1) * self.dims]
    }

    /// The properties of a row at a version.
    pub(crate) fn properties(&self, row: usize, version: u32) -> Properties {
        let mut properties = self.properties.get(row).cloned().unwrap_or_default();
        properties.insert("crash_row".to_owned(), Value::Int(row as i64));
        properties.insert("crash_version".to_owned(), Value::Int(i64::from(version)));
        properties
    }
}

/// One write of a row. Later writes of a row are greater: it is put at a version, and may be
/// deleted before it is put at the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    Put(u32),
    /// Deletes what was put at this version.
    Delete(u32),
}

impl Write {
    fn order(self) -> (u32, bool) {
        match self {
            Self::Put(version) => (version, false),
            Self::Delete(version) => (version, true),
        }
    }

    fn is_delete(self) -> bool {
        matches!(self, Self::Delete(_))
    }
}

impl Ord for Write {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Write {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What is known of one row.
#[derive(Clone, Default, Debug)]
struct Known {
    /// Newest write that was acknowledged or seen after a restart.
    certain: Option<Write>,
    /// Writes sent since, whose outcome is unknown.
    tried: Vec<Write>,
}

/// What is known of all rows.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    rows: Vec<Known>,
    pub(crate) acknowledged: u64,
    /// Deletes among them.
    pub(crate) deleted: u64,
}

/// A row that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// An acknowledged row is not there.
    Lost(String),
    /// A row has a vector or properties that it must not have.
    Wrong(String),
}

impl Ledger {
    pub(crate) fn new(rows: usize) -> Self {
        Self { rows: vec![Known::default(); rows], acknowledged: 0, deleted: 0 }
    }

    /// A write of a row is about to be sent.
    pub(crate) fn sending(&mut self, row: usize, write: Write) {
        self.rows[row].tried.push(write);
    }

    /// The server acknowledged a write of a row.
    pub(crate) fn acknowledge(&mut self, row: usize, write: Write) {
        let known = &mut self.rows[row];
        known.certain = known.certain.max(Some(write));
        // Writes of one row are sent one after the other: older ones are settled.
        known.tried.retain(|tried| *tried > write);
        self.acknowledged += 1;
        self.deleted += u64::from(write.is_delete());
    }

    /// Rows that were ever sent.
    pub(crate) fn touched(&self) -> Vec<usize> {
        let is_touched = |known: &Known| known.certain.is_some() || !known.tried.is_empty();
        (0..self.rows.len()).filter(|row| is_touched(&self.rows[*row])).collect()
    }

    /// Rows that must be there.
    pub(crate) fn certain_count(&self) -> u64 {
        let is_there = |known: &&Known| known.certain.is_some_and(|write| !write.is_delete());
        self.rows.iter().filter(is_there).count() as u64
    }

    /// Compares what a restarted server has for a row with what is known, and takes it as known.
    pub(crate) fn check(
        &mut self,
        material: &Material,
        row: usize,
        found: Option<&StoredObject>,
    ) -> Option<Finding> {
        let known = &mut self.rows[row];
        let tried = std::mem::take(&mut known.tried);
        let Some(object) = found else {
            if let Some(delete) = tried.into_iter().filter(|write| write.is_delete()).max() {
                known.certain = Some(delete);
            }
            let lost = known.certain.take_if(|write| !write.is_delete());
            return lost.map(|write| Finding::Lost(format!("row {row}: {write:?}")));
        };
        let version = object.properties.as_ref().and_then(|all| all.get("crash_version"));
        let version = match version {
            Some(Value::Int(version)) => u32::try_from(*version).ok(),
            _ => None,
        };
        let allowed = |version: &u32| {
            let put = Write::Put(*version);
            known.certain == Some(put) || tried.contains(&put)
        };
        let Some(version) = version.filter(allowed) else {
            let (properties, certain) = (&object.properties, known.certain);
            let text = format!("row {row} after {certain:?} has the properties {properties:?}");
            return Some(Finding::Wrong(text));
        };
        known.certain = Some(Write::Put(version));
        if object.properties.as_ref() != Some(&material.properties(row, version)) {
            return Some(Finding::Wrong(format!("row {row}: properties of version {version}")));
        }
        let expected = material.vector(row, version).iter().map(|value| value.to_bits());
        let stored = object.vectors.get("").map(Vec::as_slice).unwrap_or_default();
        if !stored.iter().map(|value| value.to_bits()).eq(expected) {
            return Some(Finding::Wrong(format!("row {row}: vector of version {version}")));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_types::{Hlc, ObjectId};
    use std::collections::BTreeMap;

    fn material() -> Material {
        let values = (0..20_000).map(|number| number as f32).collect();
        Material { values, dims: 2, properties: Vec::new() }
    }

    fn stored(material: &Material, row: usize, version: u32) -> StoredObject {
        StoredObject {
            id: ObjectId::from_row(row as u64),
            created_us: 0,
            updated_us: 0,
            stamp: Hlc(0),
            properties: Some(material.properties(row, version)),
            vectors: BTreeMap::from([(String::new(), material.vector(row, version).to_vec())]),
        }
    }

    #[test]
    fn acknowledged_rows_must_be_there() {
        let material = material();
        let mut ledger = Ledger::new(4);
        ledger.sending(1, Write::Put(0));
        assert_eq!(ledger.check(&material, 1, None), None, "it was never acknowledged");
        ledger.sending(1, Write::Put(0));
        ledger.acknowledge(1, Write::Put(0));
        assert!(matches!(ledger.check(&material, 1, None), Some(Finding::Lost(_))));
    }

    #[test]
    fn an_unanswered_update_may_have_happened_or_not() {
        let material = material();
        for found in [0, 1] {
            let mut ledger = Ledger::new(4);
            ledger.sending(1, Write::Put(0));
            ledger.acknowledge(1, Write::Put(0));
            ledger.sending(1, Write::Put(1));
            assert_eq!(ledger.check(&material, 1, Some(&stored(&material, 1, found))), None);
            let other = stored(&material, 1, 1 - found);
            assert!(ledger.check(&material, 1, Some(&other)).is_some(), "it cannot change again");
        }
    }

    #[test]
    fn an_acknowledged_update_must_not_go_back() {
        let material = material();
        let mut ledger = Ledger::new(4);
        for version in [0, 1] {
            ledger.sending(1, Write::Put(version));
            ledger.acknowledge(1, Write::Put(version));
        }
        let old = stored(&material, 1, 0);
        assert!(matches!(ledger.check(&material, 1, Some(&old)), Some(Finding::Wrong(_))));
    }

    #[test]
    fn a_deleted_row_must_stay_deleted_until_it_is_put_again() {
        let material = material();
        let mut ledger = Ledger::new(4);
        for write in [Write::Put(0), Write::Delete(0)] {
            ledger.sending(1, write);
            ledger.acknowledge(1, write);
        }
        assert_eq!((ledger.certain_count(), ledger.deleted), (0, 1));
        assert_eq!(ledger.check(&material, 1, None), None);
        let back = stored(&material, 1, 0);
        let found = ledger.clone().check(&material, 1, Some(&back));
        assert!(matches!(found, Some(Finding::Wrong(_))), "it came back");
        ledger.sending(1, Write::Put(1));
        ledger.acknowledge(1, Write::Put(1));
        assert!(matches!(ledger.check(&material, 1, None), Some(Finding::Lost(_))));
    }

    #[test]
    fn an_unanswered_delete_may_have_happened_or_not() {
        let material = material();
        let object = stored(&material, 1, 0);
        for found in [None, Some(&object)] {
            let mut ledger = Ledger::new(4);
            ledger.sending(1, Write::Put(0));
            ledger.acknowledge(1, Write::Put(0));
            ledger.sending(1, Write::Delete(0));
            assert_eq!(ledger.check(&material, 1, found), None);
            let other = if found.is_some() { None } else { Some(&object) };
            assert!(ledger.check(&material, 1, other).is_some(), "it cannot change again");
        }
    }

    #[test]
    fn one_wrong_bit_of_a_vector_is_found() {
        let material = material();
        let mut ledger = Ledger::new(4);
        ledger.sending(1, Write::Put(0));
        ledger.acknowledge(1, Write::Put(0));
        let mut object = stored(&material, 1, 0);
        let value = &mut object.vectors.get_mut("").unwrap()[1];
        *value = f32::from_bits(value.to_bits() ^ 1);
        assert!(matches!(ledger.check(&material, 1, Some(&object)), Some(Finding::Wrong(_))));
    }
}
