//! Replicas that are equal in the end.
//!
//! Cost: linear in the entries, times a logarithm.

use std::collections::BTreeMap;

use crate::history::Version;

/// What a replica holds of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<V> {
    /// The key.
    pub key: u64,
    /// The version.
    pub version: V,
    /// Is it a record of a deletion?
    pub is_tombstone: bool,
    /// A hash of everything else that must be equal.
    pub content: u64,
}

/// A key of which replicas hold different things.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference<V> {
    /// The key.
    pub key: u64,
    /// What each replica holds.
    pub entries: Vec<Option<Entry<V>>>,
}

/// Keys on which replicas differ, ascending. A record of a deletion below `purged_below` may be
/// gone from any of them.
///
/// Panics: a replica names a key twice.
#[must_use]
pub fn check<V: Version>(
    replicas: &[Vec<Entry<V>>],
    purged_below: Option<V>,
) -> Vec<Difference<V>> {
    let mut keys: BTreeMap<u64, Vec<Option<Entry<V>>>> = BTreeMap::new();
    for (number, replica) in replicas.iter().enumerate() {
        for entry in replica.iter().filter(|entry| !is_purgeable(entry, purged_below)) {
            let entries = keys.entry(entry.key).or_insert_with(|| vec![None; replicas.len()]);
            let other = entries[number].replace(*entry);
            assert!(other.is_none(), "replica {number} names key {} twice", entry.key);
        }
    }
    let differ = |entries: &[Option<Entry<V>>]| entries.windows(2).any(|pair| pair[0] != pair[1]);
    let different = keys.into_iter().filter(|(_, entries)| differ(entries));
    different.map(|(key, entries)| Difference { key, entries }).collect()
}

fn is_purgeable<V: Version>(entry: &Entry<V>, purged_below: Option<V>) -> bool {
    entry.is_tombstone && purged_below.is_some_and(|floor| entry.version < floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: u64, version: u64, is_tombstone: bool) -> Entry<u64> {
        Entry { key, version, is_tombstone, content: key ^ version }
    }

    #[test]
    fn equal_replicas_in_any_order_do_not_differ() {
        let one = vec![entry(1, 5, false), entry(2, 6, true)];
        let other = vec![entry(2, 6, true), entry(1, 5, false)];
        assert_eq!(check(&[one, other], None), []);
        assert_eq!(check::<u64>(&[], None), []);
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let base = vec![entry(1, 5, false), entry(2, 6, true), entry(3, 7, false)];
        let mut cases = vec![base.clone(); 4];
        cases[0][0].version = 9;
        cases[1][0].is_tombstone = true;
        cases[2][0].content = 0;
        cases[3].remove(0);
        for case in cases {
            let found = check(&[base.clone(), case.clone(), base.clone()], None);
            assert_eq!(found.len(), 1, "{case:?}");
            assert_eq!(found[0].key, 1);
            assert_eq!(found[0].entries[0], Some(entry(1, 5, false)));
        }
    }

    #[test]
    fn a_deletion_below_the_floor_may_be_gone_from_some() {
        let (all, fewer) = (vec![entry(1, 5, true), entry(2, 6, false)], vec![entry(2, 6, false)]);
        assert_eq!(check(&[all.clone(), fewer.clone()], Some(6)), []);
        assert_eq!(check(&[all, fewer], Some(5)).len(), 1);
    }
}
