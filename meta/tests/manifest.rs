//! The manifest of a backup: what this version writes is what it always wrote, and a restored
//! catalog opens.

use futures::executor::block_on;
use heddle_meta::store::first_files;
use heddle_meta::{
    Catalog, CatalogStore, Command, FileEntry, Manifest, ManifestError, MissingShard, Placement,
};
use heddle_sim::SimDisk;
use heddle_types::{CollectionConfig, CollectionId, NodeId, ObjectId, ShardId};

/// What each version wrote.
fn fixture(version: u32) -> String {
    format!("{}/tests/fixtures/manifest-{version}.txt", env!("CARGO_MANIFEST_DIR"))
}

fn catalog() -> Catalog {
    let mut config = CollectionConfig { name: "Docs".to_owned(), ..CollectionConfig::default() };
    config.fill_defaults();
    let placements = (0..2).map(|home| Placement { node: NodeId::default(), home }).collect();
    let id = CollectionId::default();
    let mut catalog = Catalog::default();
    let created = catalog.apply(&Command::CreateCollection { config, id, seed: 3, placements });
    created.expect("the definition is valid");
    catalog
}

fn manifest() -> Manifest {
    let file = |name: &str, bytes, crc32c| FileEntry {
        name: name.to_owned(),
        bytes,
        length: 8_192,
        crc32c,
    };
    Manifest {
        format_version: 1,
        server_version: "0.1.0".to_owned(),
        node: NodeId::default(),
        taken_us: 1_800_000_000_000_000,
        data_cores: 2,
        catalog: catalog(),
        missing: Vec::new(),
        files: vec![
            file("logs/0000/0000000001.wal", 4_096, 7),
            file("shards/0000000001/image-3", 8_192, u32::MAX),
        ],
    }
}

#[test]
fn the_manifest_of_every_version_is_read_and_written_as_it_was() {
    let missing = MissingShard {
        shard: ShardId(2),
        collection: "Docs".to_owned(),
        reason: "logs/0000/0000000001.wal: corrupt at offset 4096".to_owned(),
    };
    let second = Manifest { format_version: 2, missing: vec![missing], ..manifest() };
    for manifest in [manifest(), second] {
        let path = fixture(manifest.format_version);
        let encoded = manifest.encode().unwrap();
        if std::env::var_os("HEDDLE_WRITE_FIXTURES").is_some() && !std::fs::exists(&path).unwrap() {
            std::fs::write(&path, &encoded).unwrap();
        }
        let stored = std::fs::read(&path).unwrap();
        assert!(stored == encoded, "{path}: a manifest is encoded differently");
        assert_eq!(Manifest::decode(&stored), Ok(manifest));
    }
}

#[test]
fn cores_and_missing_shards_that_cannot_be_are_refused() {
    let refused = |manifest: Manifest| Manifest::decode(&manifest.encode().unwrap()).unwrap_err();
    for found in [0, 70_000] {
        let error = refused(Manifest { data_cores: found, ..manifest() });
        assert_eq!(error, ManifestError::Cores { found });
    }
    let missing =
        MissingShard { shard: ShardId(9), collection: "Docs".to_owned(), reason: String::new() };
    let error = refused(Manifest { missing: vec![missing], ..manifest() });
    assert_eq!(error, ManifestError::Missing(ShardId(9)));
}

#[test]
fn a_catalog_of_a_restored_directory_names_its_node_and_opens() {
    let node = NodeId::random();
    let catalog = catalog().on_node(node);
    assert!(catalog.shards().all(|(_, shard)| shard.first().node == node));
    let disk = SimDisk::new(1);
    for (name, bytes) in first_files(&catalog).unwrap() {
        disk.plant_file(name, bytes);
    }
    block_on(async {
        let mut opened = CatalogStore::open(disk.clone()).await.unwrap();
        assert_eq!((opened.catalog.as_ref(), opened.damage), (Some(&catalog), None));
        let mut next = catalog.clone();
        next.apply(&Command::DropCollection { name: "Docs".to_owned() }).unwrap();
        opened.store.save(&next).await.unwrap();
        assert_eq!(CatalogStore::open(disk).await.unwrap().catalog, Some(next));
    });
}

#[test]
fn new_shards_have_new_numbers_and_share_the_objects() {
    let old = catalog();
    let new = old.clone().resharded(5, 3).unwrap();
    let numbers =
        |catalog: &Catalog| catalog.shards().map(|(_, shard)| shard.id.0).collect::<Vec<u64>>();
    assert_eq!((numbers(&old), numbers(&new)), (vec![1, 2], vec![3, 4, 5, 6, 7]));
    let homes: Vec<u32> = new.shards().map(|(_, shard)| shard.first().home).collect();
    assert_eq!(homes, [0, 1, 2, 0, 1]);
    let entry = new.collection("Docs").unwrap();
    assert_eq!(entry.config.sharding.count, 5);
    let mut owned = [0; 5];
    for row in 0..5_000 {
        let shard = entry.routing.shard_of(&ObjectId::from_row(row));
        owned[usize::try_from(shard.0).unwrap() - 3] += 1;
    }
    assert!(owned.iter().all(|count| (800..1_200).contains(count)), "{owned:?}");
    assert!(new.epoch() > old.epoch());
    assert!(catalog().resharded(0, 1).is_err());
    assert!(catalog().resharded(100_000, 1).is_err());
}
