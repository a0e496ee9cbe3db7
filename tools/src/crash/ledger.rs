//! What the crash test knows about every row: what was acknowledged, what was tried.

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

/// What is known of one row.
#[derive(Clone, Default, Debug)]
struct Known {
    /// Newest version that was acknowledged or seen after a restart.
    certain: Option<u32>,
    /// Versions sent since, whose outcome is unknown.
    tried: Vec<u32>,
}

/// What is known of all rows.
#[derive(Debug)]
pub(crate) struct Ledger {
    rows: Vec<Known>,
    pub(crate) acknowledged: u64,
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
        Self { rows: vec![Known::default(); rows], acknowledged: 0 }
    }

    /// A version of a row is about to be sent.
    pub(crate) fn sending(&mut self, row: usize, version: u32) {
        self.rows[row].tried.push(version);
    }

    /// The server acknowledged a version of a row.
    pub(crate) fn acknowledge(&mut self, row: usize, version: u32) {
        let known = &mut self.rows[row];
        known.certain = known.certain.max(Some(version));
        // Writes of one row are sent one after the other: older ones are settled.
        known.tried.retain(|tried| *tried > version);
        self.acknowledged += 1;
    }

    /// Rows that were ever sent.
    pub(crate) fn touched(&self) -> Vec<usize> {
        let is_touched = |known: &Known| known.certain.is_some() || !known.tried.is_empty();
        (0..self.rows.len()).filter(|row| is_touched(&self.rows[*row])).collect()
    }

    /// Rows that must be there.
    pub(crate) fn certain_count(&self) -> u64 {
        self.rows.iter().filter(|known| known.certain.is_some()).count() as u64
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
            let lost = known.certain.take();
            return lost.map(|version| Finding::Lost(format!("row {row}, version {version}")));
        };
        let version = object.properties.as_ref().and_then(|all| all.get("crash_version"));
        let version = match version {
            Some(Value::Int(version)) => u32::try_from(*version).ok(),
            _ => None,
        };
        let allowed = |version: &u32| known.certain == Some(*version) || tried.contains(version);
        let Some(version) = version.filter(allowed) else {
            let properties = &object.properties;
            return Some(Finding::Wrong(format!("row {row} has the properties {properties:?}")));
        };
        known.certain = Some(version);
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
        ledger.sending(1, 0);
        assert_eq!(ledger.check(&material, 1, None), None, "it was never acknowledged");
        ledger.sending(1, 0);
        ledger.acknowledge(1, 0);
        assert!(matches!(ledger.check(&material, 1, None), Some(Finding::Lost(_))));
    }

    #[test]
    fn an_unanswered_update_may_have_happened_or_not() {
        let material = material();
        for found in [0, 1] {
            let mut ledger = Ledger::new(4);
            ledger.sending(1, 0);
            ledger.acknowledge(1, 0);
            ledger.sending(1, 1);
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
            ledger.sending(1, version);
            ledger.acknowledge(1, version);
        }
        let old = stored(&material, 1, 0);
        assert!(matches!(ledger.check(&material, 1, Some(&old)), Some(Finding::Wrong(_))));
    }

    #[test]
    fn one_wrong_bit_of_a_vector_is_found() {
        let material = material();
        let mut ledger = Ledger::new(4);
        ledger.sending(1, 0);
        ledger.acknowledge(1, 0);
        let mut object = stored(&material, 1, 0);
        let value = &mut object.vectors.get_mut("").unwrap()[1];
        *value = f32::from_bits(value.to_bits() ^ 1);
        assert!(matches!(ledger.check(&material, 1, Some(&object)), Some(Finding::Wrong(_))));
    }
}
