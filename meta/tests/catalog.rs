//! Catalogs that nobody made by commands are refused by the name of the field, and never panic.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use futures::executor::block_on;
use heddle_meta::manifest::FORMAT_VERSION;
use heddle_meta::store::first_files;
use heddle_meta::{Catalog, CatalogStore, Command, Manifest, ManifestError, Placement, StoreError};
use heddle_sim::{Random, SimDisk};
use heddle_types::{CollectionConfig, CollectionId, NodeId, ObjectId};
use serde_json::{Value, json};

fn create(name: &str, shards: u32) -> Command {
    let mut config = CollectionConfig { name: name.to_owned(), ..CollectionConfig::default() };
    config.fill_defaults();
    config.sharding.virtual_per_physical = 4;
    let place = |home| Placement { node: NodeId::default(), home };
    let placements = (0..shards).map(place).collect();
    let id = format!("00000000-0000-0000-0000-{:012x}", name.len());
    let id: CollectionId = serde_json::from_value(json!(id)).unwrap();
    Command::CreateCollection { config, id, seed: 3, placements }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (name, shards) in [("Docs", 2), ("Dropped", 1), ("Notes", 3)] {
        catalog.apply(&create(name, shards)).unwrap();
    }
    catalog.apply(&Command::DropCollection { name: "Dropped".to_owned() }).unwrap();
    catalog
}

/// The catalog with one value replaced.
fn with(pointer: &str, value: Value) -> Catalog {
    let mut json = serde_json::to_value(catalog()).unwrap();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    serde_json::from_value(json).unwrap()
}

fn manifest(catalog: Catalog) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        server_version: "0.1.0".to_owned(),
        node: NodeId::default(),
        taken_us: 5,
        data_cores: 2,
        catalog,
        missing: Vec::new(),
        files: Vec::new(),
    }
}

#[test]
fn each_field_that_does_not_fit_is_named() {
    assert_eq!(catalog().validate(), Ok(()));
    assert_eq!(Catalog::default().validate(), Ok(()));
    let docs = "/collections/Docs";
    let id = serde_json::to_value(catalog()).unwrap()["collections"]["Notes"]["id"].clone();
    let shard = |number: u64| json!({ "id": number, "node": NodeId::default(), "home": 0 });
    let many: Vec<Value> = (0..600).map(|_| shard(1)).collect();
    for (pointer, value, named) in [
        ("/epoch".to_owned(), json!(u64::MAX), "epoch"),
        ("/shards_made".to_owned(), json!(u64::MAX), "shards_made"),
        ("/shards_made".to_owned(), json!(4), "collections.\"Notes\".shards[1].id"),
        (format!("{docs}/config/name"), json!("Other"), "collections.\"Docs\".config.name"),
        (format!("{docs}/config/vectors"), json!([]), "collections.\"Docs\".config"),
        (format!("{docs}/shards"), json!([]), "collections.\"Docs\".shards"),
        (format!("{docs}/shards"), json!(many), "collections.\"Docs\".shards"),
        (format!("{docs}/shards/1/id"), json!(0), "collections.\"Docs\".shards[1].id"),
        (format!("{docs}/shards/1/home"), json!(70_000), "collections.\"Docs\".shards[1].home"),
        (
            format!("{docs}/shards/1"),
            json!({ "id": 2, "node": NodeId::default(), "home": 0, "others": [
                { "node": NodeId::default(), "home": 1 },
            ] }),
            "collections.\"Docs\".shards[1].others[0].node",
        ),
        (format!("{docs}/routing/owners"), json!([]), "collections.\"Docs\".routing.owners"),
        (format!("{docs}/routing/owners/3"), json!(9), "collections.\"Docs\".routing.owners[3]"),
        // A shard of another collection.
        (format!("{docs}/routing/owners/0"), json!(4), "collections.\"Docs\".routing.owners[0]"),
        ("/collections/Docs/id".to_owned(), id, "collections.\"Notes\".id"),
        ("/collections/Notes/shards/0/id".to_owned(), json!(1), "collections.\"Notes\""),
    ] {
        let catalog = with(&pointer, value);
        let error = catalog.validate().expect_err(&pointer);
        assert!(error.field.starts_with(named), "{pointer}: {error}");
        // Neither a backup nor a data directory is believed with it.
        let refused = Manifest::decode(&manifest(catalog.clone()).encode().unwrap());
        assert_eq!(refused, Err(ManifestError::Catalog(error.clone())), "{pointer}");
        let disk = SimDisk::new(1);
        for (name, bytes) in first_files(&catalog).unwrap() {
            disk.plant_file(name, bytes);
        }
        let opened = block_on(CatalogStore::open(disk)).map(|_| ());
        assert!(matches!(&opened, Err(StoreError::Invalid { source, .. }) if *source == error));
    }
}

/// Every place of a value, as a pointer.
fn places(value: &Value, here: &str, out: &mut Vec<String>) {
    out.push(here.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| places(value, &format!("{here}/{key}"), out));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, value)| places(value, &format!("{here}/{index}"), out));
        }
        _ => {}
    }
}

fn mutate(json: &mut Value, random: &mut Random) {
    let mut all = Vec::new();
    places(json, "", &mut all);
    let pick = |random: &mut Random| &all[usize::try_from(random.below(all.len() as u64)).unwrap()];
    let other = json.pointer(pick(random)).cloned().unwrap_or_default();
    let pool = [
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(-1),
        json!(u64::MAX),
        json!(u32::MAX),
        json!(1.5),
        json!(""),
        json!("Docs"),
        json!("x".repeat(200)),
        json!([]),
        json!({}),
        Value::Null,
        json!(true),
        other,
    ];
    let value = pool[usize::try_from(random.below(pool.len() as u64)).unwrap()].clone();
    let place = json.pointer_mut(pick(random));
    match (place, random.below(3)) {
        (Some(Value::Array(items)), 0) => items.push(value),
        (Some(Value::Object(fields)), 0) => drop(fields.insert("Extra".to_owned(), value)),
        (Some(Value::Array(items)), 1) => items.truncate(items.len() / 2),
        (Some(place), _) => *place = value,
        (None, _) => {}
    }
}

#[test]
fn mutated_catalogs_are_refused_or_work() {
    let whole = serde_json::to_value(catalog()).unwrap();
    let (mut valid, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let mut json = whole.clone();
        for _ in 0..=random.below(3) {
            mutate(&mut json, &mut random);
        }
        let Ok(mut catalog) = serde_json::from_value::<Catalog>(json) else { continue };
        match catalog.validate() {
            Ok(()) => {
                valid += 1;
                use_it(&mut catalog);
            }
            Err(error) => {
                refused += 1;
                assert!(!error.field.is_empty() && error.to_string().len() < 1_000, "{error}");
            }
        }
    }
    assert!(valid > 500 && refused > 500, "{valid} valid, {refused} refused");
}

/// What a node and a restore do with a catalog.
fn use_it(catalog: &mut Catalog) {
    for entry in catalog.collections() {
        for row in 0..20 {
            let owner = entry.routing.shard_of(&ObjectId::from_row(row));
            assert!(entry.shards.iter().any(|shard| shard.id == owner));
        }
    }
    // The vectors and shards of a definition may forbid it, which is no panic.
    drop(catalog.clone().on_node(NodeId::random()).resharded(3, 2));
    let made = catalog.apply(&create("Collection", 2));
    assert!(made.is_ok() || catalog.collection("Collection").is_some(), "{made:?}");
    assert_eq!(catalog.validate(), Ok(()));
    assert_eq!(
        Manifest::decode(&manifest(catalog.clone()).encode().unwrap()).unwrap().catalog,
        *catalog
    );
}
