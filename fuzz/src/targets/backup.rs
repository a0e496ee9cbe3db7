//! The manifest of a backup, the names in it, and its catalog.

use heddle_meta::{Catalog, Command, FileEntry, Manifest, Placement};
use heddle_types::backup::is_backup_name;
use heddle_types::{CollectionConfig, CollectionId, NodeId, ObjectId};

/// Reads a manifest, as it is and with the checksum of its line made right.
pub fn run(data: &[u8]) {
    check(data);
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let crc = crc32c::crc32c(line);
    check(&[line, format!("\ncrc32c {crc:08x}\n").as_bytes()].concat());
    if let Ok(name) = std::str::from_utf8(data) {
        assert!(!is_backup_name(name) || is_harmless(name), "{name:?} leads elsewhere");
    }
}

fn check(data: &[u8]) {
    let manifest = match Manifest::decode(data) {
        Ok(manifest) => manifest,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for file in &manifest.files {
        assert!(is_harmless(&file.name), "{file:?} leads elsewhere");
        assert!(file.bytes <= file.length);
    }
    for entry in manifest.catalog.collections() {
        let owner = entry.routing.shard_of(&ObjectId::from_row(1));
        assert!(entry.shards.iter().any(|shard| shard.id == owner), "{owner} is no shard of it");
    }
    // A definition may forbid the number, which is no panic.
    let _dealt = manifest.catalog.clone().resharded(3, manifest.data_cores);
    let again = manifest.encode().map(|bytes| Manifest::decode(&bytes));
    assert!(again.is_ok_and(|again| again == Ok(manifest)), "a manifest changes in a round trip");
}

/// Three plain parts, none of which goes up.
fn is_harmless(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic()) && part != ".."
    };
    name.split('/').count() == 3 && name.split('/').all(plain)
}

/// A catalog with one collection of two shards.
fn catalog() -> Catalog {
    let mut config = CollectionConfig { name: "Docs".to_owned(), ..CollectionConfig::default() };
    config.fill_defaults();
    config.sharding.virtual_per_physical = 2;
    let placements = (0..2).map(|home| Placement { node: NodeId::default(), home }).collect();
    let id = CollectionId::default();
    let mut catalog = Catalog::default();
    let made = catalog.apply(&Command::CreateCollection { config, id, seed: 3, placements });
    made.expect("the definition is valid");
    catalog
}

/// A manifest without files, one with a collection, one that is refused.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let file = |name: &str| FileEntry { name: name.to_owned(), bytes: 4, length: 9, crc32c: 1 };
    let names = ["logs/0000/0000000001.wal", "shards/0000000001/ledger-3"];
    let manifest = |files: Vec<FileEntry>| Manifest {
        format_version: 1,
        server_version: "0.1.0".to_owned(),
        node: NodeId::default(),
        taken_us: 5,
        data_cores: 2,
        catalog: if files.len() == 2 { catalog() } else { Catalog::default() },
        missing: Vec::new(),
        files,
    };
    let all = [Vec::new(), names.map(file).to_vec(), vec![file("../node.json")]];
    let encoded = all.map(|files| manifest(files).encode());
    encoded.into_iter().map(|bytes| bytes.expect("a catalog has string keys")).collect()
}

#[cfg(test)]
mod tests {
    use heddle_meta::ManifestError;

    use super::*;

    #[test]
    fn seeds_are_two_manifests_and_one_that_leads_elsewhere() {
        let [empty, full, hostile] = &seeds()[..] else { panic!("three seeds") };
        assert_eq!(Manifest::decode(empty).unwrap().files.len(), 0);
        let full = Manifest::decode(full).unwrap();
        assert_eq!((full.files.len(), full.catalog.shards().count()), (2, 2));
        assert!(matches!(Manifest::decode(hostile), Err(ManifestError::Name(_))));
    }
}
