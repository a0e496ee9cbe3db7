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
    /// When it became certain, on the ledger's own clock.
    certain_at: u64,
    /// Writes sent since, whose outcome is unknown.
    tried: Vec<Write>,
}

/// What is known of all rows.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    rows: Vec<Known>,
    /// Counts what became certain.
    clock: u64,
    pub(crate) acknowledged: u64,
    /// Deletes among them.
    pub(crate) deleted: u64,
}

/// A row that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// An acknowledged row is not there.
    Lost(String),
    /// A row is there although its deletion was acknowledged.
    Resurrected(String),
    /// A row has a vector or properties that it must not have.
    Wrong(String),
}

impl Ledger {
    pub(crate) fn new(rows: usize) -> Self {
        Self { rows: vec![Known::default(); rows], clock: 0, acknowledged: 0, deleted: 0 }
    }

    /// A write of a row is about to be sent.
    pub(crate) fn sending(&mut self, row: usize, write: Write) {
        self.rows[row].tried.push(write);
    }

    /// The server acknowledged a write of a row.
    pub(crate) fn acknowledge(&mut self, row: usize, write: Write) {
        let known = &mut self.rows[row];
        self.clock += 1;
        known.certain = known.certain.max(Some(write));
        known.certain_at = self.clock;
        // Writes of one row are sent one after the other: older ones are settled.
        known.tried.retain(|tried| *tried > write);
        self.acknowledged += 1;
        self.deleted += u64::from(write.is_delete());
    }

    /// The moment, for [`Ledger::check_hit`].
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    /// Must a search that is sent now find the row as this write left it?
    pub(crate) fn is_settled(&self, row: usize, write: Write) -> bool {
        self.rows[row].certain == Some(write) && self.rows[row].tried.is_empty()
    }

    /// Checks a hit of a search that was sent at `sent_at`: a row that was put at this version.
    /// What was acknowledged before must be seen; what was never sent must not.
    pub(crate) fn check_hit(&self, row: usize, version: u32, sent_at: u64) -> Option<Finding> {
        let known = self.rows.get(row)?;
        let hit = Write::Put(version);
        let newest = known.tried.iter().copied().chain(known.certain).max();
        if newest.is_none_or(|newest| hit > newest) {
            return Some(Finding::Wrong(format!("row {row}: {hit:?} was found and never sent")));
        }
        // What became certain while the search ran may have been seen or not.
        let certain = known.certain.filter(|_| known.certain_at <= sent_at)?;
        match certain {
            Write::Delete(_) if hit < certain => {
                Some(Finding::Resurrected(format!("row {row}: {hit:?} found after {certain:?}")))
            }
            Write::Put(_) if hit < certain => {
                Some(Finding::Wrong(format!("row {row}: {hit:?} found after {certain:?}")))
            }
            _ => None,
        }
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
            return Some(match certain {
                Some(Write::Delete(_)) => Finding::Resurrected(text),
                _ => Finding::Wrong(text),
            });
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
        assert!(matches!(found, Some(Finding::Resurrected(_))), "it came back");
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
    fn a_search_sees_what_was_acknowledged_before_it_and_nothing_that_was_not_sent() {
        let mut ledger = Ledger::new(4);
        for write in [Write::Put(0), Write::Put(1)] {
            ledger.sending(1, write);
            ledger.acknowledge(1, write);
        }
        let sent_at = ledger.now();
        assert!(ledger.is_settled(1, Write::Put(1)));
        assert_eq!(ledger.check_hit(1, 1, sent_at), None);
        assert!(matches!(ledger.check_hit(1, 0, sent_at), Some(Finding::Wrong(_))), "too old");
        assert!(matches!(ledger.check_hit(1, 2, sent_at), Some(Finding::Wrong(_))), "never sent");
        assert!(matches!(ledger.check_hit(2, 0, sent_at), Some(Finding::Wrong(_))), "never sent");
        ledger.sending(1, Write::Delete(1));
        assert!(!ledger.is_settled(1, Write::Put(1)));
        assert_eq!(ledger.check_hit(1, 1, sent_at), None, "the deletion is on its way");
        ledger.acknowledge(1, Write::Delete(1));
        assert_eq!(ledger.check_hit(1, 1, sent_at), None, "it was acknowledged after the search");
        let later = ledger.check_hit(1, 1, ledger.now());
        assert!(matches!(later, Some(Finding::Resurrected(_))));
        ledger.sending(1, Write::Put(2));
        assert_eq!(ledger.check_hit(1, 2, ledger.now()), None);
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
