//! Is a catalog one that commands could have made?
//!
//! A checksum tells that bytes are those that were written, not who wrote them: the catalog of a
//! backup comes from a file that anybody may have made, and everything behind it trusts what it
//! says of names, shards and routes.

use std::collections::BTreeSet;

use heddle_types::limits::{COLLECTIONS_MAX, CORES_MAX, SHARDS_PER_COLLECTION_MAX, TENANTS_MAX};
use heddle_types::schema::check_tenant_name;

use super::{Catalog, CollectionEntry, ShardEntry, TENANT_BYTES_MAX};

/// Largest version and largest number of a shard that are believed: one more can always be counted.
const NUMBER_MAX: u64 = 1 << 48;
/// Most virtual shards of a collection.
const OWNERS_MAX: usize = 4_096 * SHARDS_PER_COLLECTION_MAX as usize;
/// Most replicas of a shard: the largest factor that a definition may have.
const REPLICAS_MAX: usize = 64;
/// Characters of a name that are shown.
const SHOWN_CHARS: usize = 64;

/// A field of a catalog that does not fit the rest.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} is {found}, expected {expected}")]
pub struct InvalidCatalog {
    /// The field, as a path from the catalog down.
    pub field: String,
    /// What it is.
    pub found: String,
    /// What it may be.
    pub expected: String,
}

fn expect(
    holds: bool,
    field: impl FnOnce() -> String,
    found: impl std::fmt::Display,
    expected: &str,
) -> Result<(), InvalidCatalog> {
    if holds {
        return Ok(());
    }
    Err(InvalidCatalog { field: field(), found: found.to_string(), expected: expected.to_owned() })
}

/// The beginning of a name in quotes.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(SHOWN_CHARS).collect::<String>())
}

impl Catalog {
    /// Does everything in it fit together, so that it can be served and changed?
    ///
    /// Errors: the first field that does not. Cost: a pass over all shards and virtual shards.
    pub fn validate(&self) -> Result<(), InvalidCatalog> {
        let count = self.collections.len();
        let most = format!("at most {COLLECTIONS_MAX}");
        expect(count <= COLLECTIONS_MAX, || "the number of collections".to_owned(), count, &most)?;
        let most = format!("at most {NUMBER_MAX}");
        expect(self.epoch.0 <= NUMBER_MAX, || "epoch".to_owned(), self.epoch.0, &most)?;
        let made = self.shards_made;
        expect(made <= NUMBER_MAX, || "shards_made".to_owned(), made, &most)?;
        let (mut ids, mut shards) = (BTreeSet::new(), BTreeSet::new());
        for (name, entry) in &self.collections {
            let field = |part: &str| format!("collections.{}{part}", shown(name));
            let own = shown(&entry.config.name);
            expect(entry.config.name == *name, || field(".config.name"), own, "the same name")?;
            entry.config.validate().map_err(|error| InvalidCatalog {
                field: field(".config"),
                found: format!("refused ({})", error.message),
                expected: error.expected,
            })?;
            expect(ids.insert(entry.id), || field(".id"), entry.id, "an id of its own")?;
            if entry.config.multi_tenancy.enabled {
                entry.validate_tenants(&field, made)?;
            } else {
                let none = || field(".tenants");
                expect(entry.tenants.is_empty(), none, entry.tenants.len(), "no tenants")?;
                entry.validate_shards(&field, made)?;
            }
            for shard in entry.all_shards() {
                let place = || field(&format!(" shard {}", shard.id));
                expect(shards.insert(shard.id), place, shard.id, "a number of its own")?;
            }
        }
        let (count, bytes) = (self.uses.count, self.uses.bytes);
        let most = format!("at most {TENANTS_MAX}");
        expect(count <= TENANTS_MAX as u64, || "the number of tenants".to_owned(), count, &most)?;
        let most = format!("at most {TENANT_BYTES_MAX}");
        expect(bytes <= TENANT_BYTES_MAX, || "the bytes of all tenants".to_owned(), bytes, &most)
    }
}

impl CollectionEntry {
    fn validate_tenants(
        &self,
        field: &impl Fn(&str) -> String,
        made: u64,
    ) -> Result<(), InvalidCatalog> {
        let (shards, owners) = (self.shards.len(), self.routing.owners().len());
        let own = format_args!("{shards} shards and {owners} virtual shards");
        let is_bare = shards == 0 && owners == 0;
        expect(is_bare, || field(".shards"), own, "none beside those of tenants")?;
        let wanted = self.config.sharding.count as usize;
        let known = format!("1 to {made}, the number of shards made");
        for (name, tenant) in self.tenants.iter() {
            let part = |part: &str| field(&format!(".tenants.{}{part}", shown(name)));
            let named = check_tenant_name(name);
            expect(named.is_ok(), || part(""), shown(name), "the name of a tenant")?;
            let count = tenant.shards.len();
            let some = format!("{wanted}, as the definition says");
            expect(count == wanted && count > 0, || part(".shards"), count, &some)?;
            for (index, shard) in tenant.shards.iter().enumerate() {
                let place = |name: &str| part(&format!(".shards[{index}].{name}"));
                expect((1..=made).contains(&shard.id.0), || place("id"), shard.id, &known)?;
                shard.validate_replicas(&place)?;
            }
        }
        Ok(())
    }

    fn validate_shards(
        &self,
        field: &impl Fn(&str) -> String,
        made: u64,
    ) -> Result<(), InvalidCatalog> {
        let count = self.shards.len();
        let is_counted = (1..=SHARDS_PER_COLLECTION_MAX as usize).contains(&count);
        let some = format!("1 to {SHARDS_PER_COLLECTION_MAX} shards");
        expect(is_counted, || field(".shards"), format_args!("{count} shards"), &some)?;
        for (index, shard) in self.shards.iter().enumerate() {
            let place = |part: &str| field(&format!(".shards[{index}].{part}"));
            let known = format!("1 to {made}, the number of shards made");
            expect((1..=made).contains(&shard.id.0), || place("id"), shard.id, &known)?;
            shard.validate_replicas(&place)?;
        }
        let owners = self.routing.owners();
        let count = owners.len();
        let is_counted = (1..=OWNERS_MAX).contains(&count);
        let some = format!("1 to {OWNERS_MAX} virtual shards");
        let found = format_args!("{count} virtual shards");
        expect(is_counted, || field(".routing.owners"), found, &some)?;
        let own: BTreeSet<_> = self.shards.iter().map(|shard| shard.id).collect();
        for (index, owner) in owners.iter().enumerate() {
            let place = || field(&format!(".routing.owners[{index}]"));
            expect(own.contains(owner), place, owner, "a shard of the collection")?;
        }
        Ok(())
    }
}

impl ShardEntry {
    fn validate_replicas(&self, field: &impl Fn(&str) -> String) -> Result<(), InvalidCatalog> {
        let count = self.replicas.len();
        let some = format!("1 to {REPLICAS_MAX} replicas");
        expect((1..=REPLICAS_MAX).contains(&count), || field("others"), count, &some)?;
        let cores = format!("below {CORES_MAX}");
        let mut nodes = BTreeSet::new();
        for (position, place) in self.replicas.iter().enumerate() {
            // The first one is stored beside the shard's number, the rest behind it.
            let part = |name: &str| match position {
                0 => field(name),
                _ => field(&format!("others[{}].{name}", position - 1)),
            };
            let is_core = (place.home as usize) < CORES_MAX;
            expect(is_core, || part("home"), place.home, &cores)?;
            expect(nodes.insert(place.node), || part("node"), place.node, "a node of its own")?;
        }
        Ok(())
    }
}
