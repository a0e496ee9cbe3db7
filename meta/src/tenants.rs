//! The tenants of a collection: a sorted map whose copies share what they have in common.
//!
//! The state of a cluster is copied for each node that follows it and for each change that may
//! still be refused, and a collection may have 100,000 tenants. So the map is a list of chunks
//! behind shared pointers: a copy costs a pointer, a change copies the chunks that it touches, and
//! two maps are compared chunk by chunk where they do not share them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use heddle_types::{NodeId, ShardId};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::catalog::ShardEntry;
use crate::placement::Placement;

/// Tenants of a chunk before it is cut in two.
const CHUNK_MAX: usize = 256;

/// Is a tenant served?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// Its shards are in memory and take requests.
    #[default]
    Active,
    /// Its shards are on disk only.
    Inactive,
}

impl TenantState {
    /// The name in requests and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
        }
    }
}

/// One tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantEntry {
    /// Is it served?
    pub state: TenantState,
    /// Its shards, as many as the collection's definition says. Objects are dealt to them by a
    /// table as [`heddle_types::RoutingTable::deal`] makes it.
    pub shards: Vec<ShardEntry>,
}

impl TenantEntry {
    /// Bytes that the tenant takes at most in the stored form, its name included.
    #[must_use]
    pub fn bytes_max(&self, name: &str) -> u64 {
        // Quotes, colon, comma, brackets and the state; a number of a shard with its brackets; a
        // node of 38 bytes, a number of a core and what parts them.
        const FIXED: usize = 16;
        const SHARD: usize = 28;
        const REPLICA: usize = 48;
        let replicas: usize = self.shards.iter().map(|shard| shard.replicas.len()).sum();
        (name.len() + FIXED + SHARD * self.shards.len() + REPLICA * replicas) as u64
    }
}

/// The stored form: short, because there are many.
type Stored = (u8, Vec<(ShardId, Vec<(NodeId, u32)>)>);

impl Serialize for TenantEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shards = self.shards.iter().map(|shard| {
            let places = shard.replicas.iter().map(|place| (place.node, place.home));
            (shard.id, places.collect())
        });
        let state = u8::from(self.state == TenantState::Active);
        let stored: Stored = (state, shards.collect());
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TenantEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (state, shards) = Stored::deserialize(deserializer)?;
        let state = match state {
            0 => TenantState::Inactive,
            1 => TenantState::Active,
            other => {
                let message = format!("tenant state {other}, expected 0 or 1");
                return Err(serde::de::Error::custom(message));
            }
        };
        let shards = shards.into_iter().map(|(id, places)| ShardEntry {
            id,
            replicas: places.into_iter().map(|(node, home)| Placement { node, home }).collect(),
        });
        Ok(Self { state, shards: shards.collect() })
    }
}

/// One tenant with its name.
type Item = (Arc<str>, Arc<TenantEntry>);

/// The tenants of a collection, by name.
///
/// Cost: a copy is one pointer; a look-up two binary searches; a change copies the list of chunks
/// and one chunk of at most 256 pointers, unless nobody shares them.
#[derive(Clone, Default)]
pub struct Tenants {
    chunks: Arc<Vec<Arc<Vec<Item>>>>,
    count: usize,
}

impl Tenants {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The tenant of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<TenantEntry>> {
        let chunk = self.chunks.get(self.chunk_of(name))?;
        let at = chunk.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()?;
        Some(&chunk[at].1)
    }

    /// Every tenant, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<TenantEntry>)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(name, entry)| (name, entry))
    }

    /// The tenants behind a name, by name.
    pub fn after<'a>(
        &'a self,
        name: &str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<TenantEntry>)> + use<'a> {
        let start = self.chunk_of(name);
        let chunks = self.chunks.get(start..).unwrap_or_default();
        let skipped = chunks
            .first()
            .map_or(0, |chunk| chunk.partition_point(|(known, _)| known.as_ref() <= name));
        let items = chunks.iter().flat_map(|chunk| chunk.iter()).skip(skipped);
        items.map(|(name, entry)| (name, entry))
    }

    /// Position of the chunk that a name belongs to.
    fn chunk_of(&self, name: &str) -> usize {
        let after = self.chunks.partition_point(|chunk| chunk[0].0.as_ref() <= name);
        after.saturating_sub(1)
    }

    /// Adds a tenant or replaces it; what was there before.
    pub fn insert(&mut self, name: &str, entry: TenantEntry) -> Option<Arc<TenantEntry>> {
        let position = self.chunk_of(name);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::default());
        }
        let chunk = Arc::make_mut(&mut chunks[position]);
        match chunk.binary_search_by(|(known, _)| known.as_ref().cmp(name)) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at].1, Arc::new(entry))),
            Err(at) => {
                chunk.insert(at, (Arc::from(name), Arc::new(entry)));
                self.count += 1;
                if chunk.len() > CHUNK_MAX {
                    let upper = chunk.split_off(chunk.len() / 2);
                    chunks.insert(position + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes a tenant out; what it was.
    pub fn remove(&mut self, name: &str) -> Option<Arc<TenantEntry>> {
        let position = self.chunk_of(name);
        let chunk = self.chunks.get(position)?;
        let at = chunk.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[position]);
        let (_, removed) = chunk.remove(at);
        self.count -= 1;
        if chunk.is_empty() {
            chunks.remove(position);
        }
        Some(removed)
    }

    /// What is different in `next`: each name with what it was and what it is, by name.
    ///
    /// Cost: what the two do not share.
    #[must_use]
    pub fn changes<'a>(&'a self, next: &'a Self) -> Vec<Change<'a>> {
        if Arc::ptr_eq(&self.chunks, &next.chunks) {
            return Vec::new();
        }
        let shared: std::collections::BTreeSet<*const Vec<Item>> =
            self.chunks.iter().map(Arc::as_ptr).collect();
        let both: std::collections::BTreeSet<*const Vec<Item>> =
            next.chunks.iter().map(Arc::as_ptr).filter(|chunk| shared.contains(chunk)).collect();
        let own = |map: &'a Self| {
            let chunks = map.chunks.iter().filter(|chunk| !both.contains(&Arc::as_ptr(chunk)));
            chunks.flat_map(|chunk| chunk.iter())
        };
        let mut changes = BTreeMap::<&str, Change<'a>>::new();
        for (name, entry) in own(self) {
            changes.insert(name, Change { name, was: Some(entry), is: None });
        }
        for (name, entry) in own(next) {
            changes.entry(name).or_insert(Change { name, was: None, is: None }).is = Some(entry);
        }
        let is_other = |change: &Change<'_>| change.was != change.is;
        changes.into_values().filter(is_other).collect()
    }

    /// The same tenants with other entries where the function gives one.
    pub(crate) fn replace_some(
        &mut self,
        mut other: impl FnMut(&str, &TenantEntry) -> Option<TenantEntry>,
    ) {
        let replaced: Vec<(Arc<str>, TenantEntry)> = self
            .iter()
            .filter_map(|(name, entry)| Some((Arc::clone(name), other(name, entry)?)))
            .collect();
        for (name, entry) in replaced {
            self.insert(&name, entry);
        }
    }
}

/// A tenant that is another in two maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Its name.
    pub name: &'a Arc<str>,
    /// What it was, if it was there.
    pub was: Option<&'a Arc<TenantEntry>>,
    /// What it is, if it is there.
    pub is: Option<&'a Arc<TenantEntry>>,
}

impl PartialEq for Tenants {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.changes(other).is_empty()
    }
}

impl Eq for Tenants {}

impl fmt::Debug for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Tenants {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(name, entry)| (name.as_ref(), entry.as_ref())))
    }
}

impl<'de> Deserialize<'de> for Tenants {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Tenants;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tenants by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tenants, A::Error> {
                let mut tenants = Tenants::default();
                while let Some((name, entry)) = map.next_entry::<String, TenantEntry>()? {
                    if tenants.insert(&name, entry).is_some() {
                        let message = format!("tenant {name:?} stands twice");
                        return Err(serde::de::Error::custom(message));
                    }
                }
                Ok(tenants)
            }
        }

        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> TenantEntry {
        let place = Placement { node: NodeId(uuid::Uuid::from_u128(1)), home: 1 };
        let shards = vec![ShardEntry { id: ShardId(number), replicas: vec![place] }];
        TenantEntry { state: TenantState::Active, shards }
    }

    /// A permutation of `0..count`, the same each time.
    fn shuffled(count: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..count).collect();
        numbers.sort_by_key(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        numbers
    }

    #[test]
    fn it_holds_what_an_ordinary_map_holds_through_inserts_and_removals() {
        let mut model = BTreeMap::new();
        let mut tenants = Tenants::default();
        for number in shuffled(3_000) {
            let name = format!("t{number}");
            assert_eq!(tenants.insert(&name, entry(number)), None);
            model.insert(name, entry(number));
        }
        for number in shuffled(3_000).into_iter().filter(|number| number % 3 != 0) {
            let name = format!("t{number}");
            assert_eq!(tenants.remove(&name).as_deref(), model.remove(&name).as_ref());
            assert!(tenants.remove(&name).is_none() && tenants.get(&name).is_none());
        }
        assert_eq!(tenants.len(), model.len());
        let found: Vec<&str> = tenants.iter().map(|(name, _)| name.as_ref()).collect();
        let expected: Vec<&str> = model.keys().map(String::as_str).collect();
        assert_eq!(found, expected);
        for (name, expected) in &model {
            assert_eq!(tenants.get(name).map(Arc::as_ref), Some(expected));
            let next = model.range::<str, _>((
                std::ops::Bound::Excluded(name.as_str()),
                std::ops::Bound::Unbounded,
            ));
            let after = tenants.after(name).next().map(|(name, _)| name.as_ref());
            assert_eq!(after, next.map(|(name, _)| name.as_str()).next());
        }
        assert_eq!(tenants.after("").count(), model.len());
    }

    #[test]
    fn a_copy_keeps_what_it_was_and_tells_what_changed() {
        let mut tenants = Tenants::default();
        shuffled(2_000).iter().for_each(|n| drop(tenants.insert(&format!("t{n}"), entry(*n))));
        let before = tenants.clone();
        assert!(before.changes(&tenants).is_empty());
        tenants.insert("t7", entry(9_007));
        tenants.insert("new", entry(9_000));
        tenants.remove("t1999");
        let changes = before.changes(&tenants);
        let names: Vec<&str> = changes.iter().map(|change| change.name.as_ref()).collect();
        assert_eq!(names, ["new", "t1999", "t7"]);
        assert_eq!(changes[0].was, None);
        assert_eq!(changes[1].is, None);
        assert_eq!(changes[2].was.map(|was| was.shards[0].id), Some(ShardId(7)));
        assert_eq!(before.get("t7").map(|was| was.shards[0].id), Some(ShardId(7)));
        assert_ne!(before, tenants);
    }

    #[test]
    fn a_change_of_one_copies_one_chunk() {
        let mut tenants = Tenants::default();
        shuffled(10_000).iter().for_each(|n| drop(tenants.insert(&format!("t{n}"), entry(*n))));
        let before = tenants.clone();
        tenants.insert("t5000", entry(1));
        let own = tenants.chunks.iter().zip(before.chunks.iter());
        assert_eq!(own.filter(|(own, old)| !Arc::ptr_eq(own, old)).count(), 1);
    }

    #[test]
    fn equal_tenants_have_equal_bytes_whatever_made_them() {
        let mut rising = Tenants::default();
        (0..1_000).for_each(|n| drop(rising.insert(&format!("t{n}"), entry(n))));
        let mut other = Tenants::default();
        shuffled(1_500).iter().for_each(|n| drop(other.insert(&format!("t{n}"), entry(*n))));
        (1_000..1_500).for_each(|n| drop(other.remove(&format!("t{n}"))));
        assert_eq!(rising, other);
        let bytes = serde_json::to_vec(&rising).unwrap();
        assert_eq!(bytes, serde_json::to_vec(&other).unwrap());
        assert_eq!(serde_json::from_slice::<Tenants>(&bytes).unwrap(), rising);
        let bound: u64 = rising.iter().map(|(name, entry)| entry.bytes_max(name)).sum();
        assert!(bytes.len() as u64 <= bound && bound < 2 * bytes.len() as u64);
    }

    #[test]
    fn the_stored_form_is_short_and_checked() {
        let node = "00000000-0000-0000-0000-000000000001";
        let text = serde_json::to_string(&entry(7)).unwrap();
        assert_eq!(text, format!("[1,[[7,[[\"{node}\",1]]]]]"));
        for bad in ["[2,[]]", "[1]", "{}", "[1,[[7]]]"] {
            assert!(serde_json::from_str::<TenantEntry>(bad).is_err(), "{bad}");
        }
        let twice = r#"{"a":[1,[]],"a":[1,[]]}"#;
        assert!(serde_json::from_str::<Tenants>(twice).is_err());
    }
}
