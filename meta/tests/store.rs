//! The catalog survives crashes, failures and damage at every point of a save.

use futures::executor::block_on;
use heddle_meta::{Catalog, CatalogStore, Command, Placement, StoreError};
use heddle_sim::{Crash, Fault, SimDisk};
use heddle_types::{CollectionConfig, CollectionId, NodeId};

fn with_collection(catalog: &Catalog, number: usize) -> Catalog {
    let mut config = CollectionConfig { name: format!("C{number}"), ..CollectionConfig::default() };
    config.fill_defaults();
    let mut next = catalog.clone();
    next.apply(&Command::CreateCollection {
        config,
        id: CollectionId::random(),
        seed: 1,
        placements: vec![Placement { node: NodeId::default(), home: 0 }],
    })
    .expect("names are unique and valid");
    next
}

fn history(length: usize) -> Vec<Catalog> {
    let mut catalogs = vec![with_collection(&Catalog::default(), 0)];
    for number in 1..length {
        catalogs.push(with_collection(&catalogs[number - 1], number));
    }
    catalogs
}

/// Saves one after the other until the disk refuses; returns how many saves were reported.
async fn save_all(disk: &SimDisk, catalogs: &[Catalog]) -> usize {
    let mut opened = CatalogStore::open(disk.clone()).await.expect("the disk is whole");
    for (index, catalog) in catalogs.iter().enumerate() {
        if opened.store.save(catalog).await.is_err() {
            return index;
        }
    }
    catalogs.len()
}

#[test]
fn a_saved_catalog_is_read_back() {
    block_on(async {
        let disk = SimDisk::new(1);
        assert!(CatalogStore::open(disk.clone()).await.unwrap().catalog.is_none());
        let catalogs = history(5);
        for (index, catalog) in catalogs.iter().enumerate() {
            save_all(&disk, &catalogs[index..=index]).await;
            let opened = CatalogStore::open(disk.clone()).await.unwrap();
            assert_eq!(opened.catalog.as_ref(), Some(catalog));
            assert_eq!(opened.damage, None);
        }
    });
}

#[test]
fn a_crash_at_any_change_leaves_the_reported_catalog_or_the_next() {
    block_on(async {
        let catalogs = history(4);
        let clean = SimDisk::new(2);
        save_all(&clean, &catalogs).await;
        let changes = clean.changes();
        assert!(changes > 8, "{changes} changes");
        for at in 1..=changes {
            for crash in [
                Crash::LoseUnsynced,
                Crash::KeepAll,
                Crash::KeepNames,
                Crash::KeepData,
                Crash::Random(at),
            ] {
                let disk = SimDisk::new(2);
                disk.fail_change(at, Fault::Io);
                let reported = save_all(&disk, &catalogs).await;
                let opened = CatalogStore::open(disk.crashed(crash)).await.unwrap();
                let last = reported.checked_sub(1).map(|index| &catalogs[index]);
                let next = catalogs.get(reported);
                let found = opened.catalog.as_ref();
                assert!(found == last || found == next, "change {at}, {crash:?}");
            }
        }
    });
}

#[test]
fn damage_in_one_slot_falls_back_and_says_so_and_in_both_is_refused() {
    block_on(async {
        let catalogs = history(3);
        let disk = SimDisk::new(3);
        save_all(&disk, &catalogs).await;
        let whole: Vec<Vec<u8>> =
            ["catalog.0", "catalog.1"].map(|name| disk.file_bytes(name).unwrap()).into();
        for offset in [0, 9, 17, 30, 33, 37, 45] {
            let mut damaged = whole.clone();
            damaged[0][offset] ^= 0x10;
            disk.plant_file("catalog.0", damaged[0].clone());
            disk.plant_file("catalog.1", whole[1].clone());
            let opened = CatalogStore::open(disk.clone()).await.unwrap();
            assert!(opened.catalog.is_some_and(|found| catalogs.contains(&found)));
            assert!(opened.damage.is_some_and(|what| what.contains("catalog.0")));
            damaged[1][offset] ^= 0x10;
            disk.plant_file("catalog.1", damaged[1].clone());
            let refused = CatalogStore::open(disk.clone()).await.err();
            assert!(matches!(refused, Some(StoreError::Corrupt { .. })), "offset {offset}");
        }
    });
}

#[test]
fn a_catalog_with_further_replicas_is_a_version_of_its_own_and_one_without_stays_as_it_was() {
    block_on(async {
        let single = with_collection(&Catalog::default(), 0);
        let places = [(1, 0), (2, 3)]
            .map(|(node, home)| Placement { node: NodeId(uuid::Uuid::from_u128(node)), home });
        let replicated = single.clone().with_replicas(|_| &places);
        for (catalog, version) in [(single, 1), (replicated, 2)] {
            let disk = SimDisk::new(4);
            save_all(&disk, std::slice::from_ref(&catalog)).await;
            let bytes = disk.file_bytes("catalog.1").unwrap();
            assert_eq!(bytes[8..12], u32::to_le_bytes(version));
            assert_eq!(CatalogStore::open(disk).await.unwrap().catalog, Some(catalog));
        }
    });
}
