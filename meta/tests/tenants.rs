//! What holds of tenants in the catalog and in the state of a cluster.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use heddle_meta::cluster::ClusterState;
use heddle_meta::{Catalog, CatalogError, Command, NewTenant, Placement, TenantState};
use heddle_types::limits::{TENANT_SHARDS_PER_CORE_MAX, TENANTS_MAX};
use heddle_types::{CollectionConfig, CollectionId, ErrorCode, NodeId, ShardId};
use uuid::Uuid;

fn node(number: u64) -> NodeId {
    NodeId(Uuid::from_u64_pair(0, number))
}

fn collection() -> CollectionId {
    CollectionId(Uuid::from_u64_pair(1, 1))
}

/// A catalog with a collection whose tenants have so many shards, and one without tenants.
fn catalog(shards: u32) -> Catalog {
    let mut catalog = Catalog::default();
    let create = |name: &str, id, shards, is_tenants| {
        let mut config = CollectionConfig { name: name.to_owned(), ..Default::default() };
        config.fill_defaults();
        config.sharding.count = shards;
        config.multi_tenancy.enabled = is_tenants;
        let place = Placement { node: node(1), home: 0 };
        let placements = if is_tenants { Vec::new() } else { vec![place] };
        Command::CreateCollection { config, id, seed: 7, placements }
    };
    catalog.apply(&create("Shops", collection(), shards, true)).unwrap();
    let plain = CollectionId(Uuid::from_u64_pair(1, 2));
    catalog.apply(&create("Plain", plain, 1, false)).unwrap();
    catalog
}

fn tenant(name: &str, node_number: u64, home: u32, shards: usize) -> NewTenant {
    let place = Placement { node: node(node_number), home };
    NewTenant { name: name.to_owned(), replicas: vec![vec![place]; shards] }
}

fn add(state: TenantState, tenants: Vec<NewTenant>) -> Command {
    Command::AddTenants { collection: collection(), state, tenants }
}

fn set(state: TenantState, names: &[&str]) -> Command {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Command::SetTenants { collection: collection(), state, names }
}

fn remove(names: &[&str]) -> Command {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Command::RemoveTenants { collection: collection(), names }
}

fn shards_of(catalog: &Catalog, name: &str) -> Vec<ShardId> {
    let tenant = catalog.collection("Shops").unwrap().tenants.get(name).unwrap();
    tenant.shards.iter().map(|shard| shard.id).collect()
}

#[test]
fn tenants_get_shards_of_their_own_and_keep_them_through_their_states() {
    let mut catalog = catalog(2);
    let two = vec![tenant("b", 1, 0, 2), tenant("a", 1, 1, 2)];
    catalog.apply(&add(TenantState::Active, two)).unwrap();
    assert_eq!(shards_of(&catalog, "b"), [ShardId(2), ShardId(3)]);
    assert_eq!(shards_of(&catalog, "a"), [ShardId(4), ShardId(5)]);
    catalog.apply(&set(TenantState::Inactive, &["a"])).unwrap();
    let entry = catalog.collection("Shops").unwrap();
    let states: Vec<_> = entry.tenants.iter().map(|(name, it)| (name.as_ref(), it.state)).collect();
    assert_eq!(states, [("a", TenantState::Inactive), ("b", TenantState::Active)]);
    assert_eq!(shards_of(&catalog, "a"), [ShardId(4), ShardId(5)]);
    assert_eq!(catalog.shards().count(), 5, "those of tenants are shards");
    let uses: Vec<_> = catalog.tenant_cores().map(|(_, home, it)| (home, it.active)).collect();
    assert_eq!(uses, [(0, 2), (1, 0)]);
    // One that comes again under the same name shares nothing with the first.
    catalog.apply(&remove(&["a", "never was"])).unwrap_err();
    catalog.apply(&remove(&["a", "never_was"])).unwrap();
    catalog.apply(&add(TenantState::Active, vec![tenant("a", 1, 0, 2)])).unwrap();
    assert_eq!(shards_of(&catalog, "a"), [ShardId(6), ShardId(7)]);
    assert_eq!(catalog.validate(), Ok(()));
}

#[test]
fn tenants_that_exist_stay_as_they_are_when_they_are_created_again() {
    let mut catalog = catalog(1);
    catalog.apply(&add(TenantState::Inactive, vec![tenant("a", 1, 0, 1)])).unwrap();
    let again = vec![tenant("a", 2, 1, 1), tenant("b", 2, 1, 1)];
    catalog.apply(&add(TenantState::Active, again)).unwrap();
    let entry = catalog.collection("Shops").unwrap();
    let first = entry.tenants.get("a").unwrap();
    assert_eq!((first.state, first.shards[0].first().node), (TenantState::Inactive, node(1)));
    assert_eq!(catalog.tenant_count(), 2);
}

#[test]
fn a_refused_change_names_what_was_wrong_and_changes_nothing() {
    let mut catalog = catalog(1);
    catalog.apply(&add(TenantState::Active, vec![tenant("a", 1, 0, 1)])).unwrap();
    let before = catalog.clone();
    let plain = CollectionId(Uuid::from_u64_pair(1, 2));
    let many = (0..1_001).map(|n| tenant(&format!("t{n}"), 1, 0, 1)).collect();
    let unknown = CollectionId(Uuid::from_u64_pair(1, 9));
    for (command, code, part) in [
        (add(TenantState::Active, vec![tenant("a b", 1, 0, 1)]), ErrorCode::InvalidName, "a b"),
        (add(TenantState::Active, vec![tenant("b", 1, 0, 2)]), ErrorCode::Internal, "tenant b"),
        (add(TenantState::Active, many), ErrorCode::TooLarge, "1001 tenants"),
        (
            add(TenantState::Active, vec![tenant("c", 1, 0, 1), tenant("c", 1, 0, 1)]),
            ErrorCode::InvalidArgument,
            "c stands twice",
        ),
        (set(TenantState::Inactive, &["a", "b"]), ErrorCode::UnknownTenant, "no tenant b"),
        (
            Command::RemoveTenants { collection: plain, names: vec!["a".to_owned()] },
            ErrorCode::InvalidArgument,
            "Plain has no tenants",
        ),
        (
            Command::RemoveTenants { collection: unknown, names: vec!["a".to_owned()] },
            ErrorCode::UnknownCollection,
            "does not exist",
        ),
    ] {
        let error = catalog.apply(&command).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(heddle_types::ApiError::from(error).code, code);
        assert_eq!(catalog, before);
    }
}

#[test]
fn a_core_and_a_catalog_take_no_more_tenants_than_they_may() {
    let mut catalog = catalog(1);
    let mut number = 0;
    let mut batch = |home: u32| {
        let tenants = (0..1_000).map(|_| {
            number += 1;
            tenant(&format!("tenant-{number}"), 1, home, 1)
        });
        tenants.collect::<Vec<NewTenant>>()
    };
    for _ in 0..TENANT_SHARDS_PER_CORE_MAX / 1_000 {
        catalog.apply(&add(TenantState::Active, batch(0))).unwrap();
    }
    let full = catalog.apply(&add(TenantState::Active, batch(0))).unwrap_err();
    assert!(matches!(full, CatalogError::CoreFull { home: 0, .. }), "{full}");
    catalog.apply(&add(TenantState::Inactive, batch(0))).unwrap();
    while catalog.tenant_count() < TENANTS_MAX as u64 {
        catalog.apply(&add(TenantState::Inactive, batch(1))).unwrap();
    }
    let full = catalog.apply(&add(TenantState::Inactive, vec![tenant("more", 1, 2, 1)]));
    assert_eq!(full, Err(CatalogError::TooManyTenants { limit: TENANTS_MAX }));
    let active = catalog.apply(&set(TenantState::Active, &["tenant-15000"]));
    assert_eq!(active, Ok(()), "another core has room");
    assert_eq!(catalog.validate(), Ok(()));
}

#[test]
fn homes_of_a_nodes_tenants_stay_where_the_node_has_them() {
    let mut cluster = catalog(1);
    let tenants = vec![tenant("a", 1, 0, 1), tenant("b", 1, 1, 1), tenant("c", 2, 1, 1)];
    cluster.apply(&add(TenantState::Active, tenants)).unwrap();
    let mut own = cluster.clone();
    own.apply(&Command::MoveHome { shard: ShardId(2), node: node(1), home: 1 }).unwrap();
    cluster.apply(&add(TenantState::Active, vec![tenant("d", 1, 5, 1)])).unwrap();
    let next = cluster.clone().with_homes_of(&own, node(1), 2);
    let home = |name: &str| {
        let tenant = next.collection("Shops").unwrap().tenants.get(name).unwrap();
        tenant.shards[0].first().home
    };
    assert_eq!(["a", "b", "c", "d"].map(home), [1, 1, 1, 1], "d goes to a core that there is");
    assert_eq!(next.epoch(), cluster.epoch());
    assert_eq!(cluster.moved_tenant(&own, node(1)), Some((ShardId(2), 1)));
    assert_eq!(next.moved_tenant(&own, node(1)), None, "d is not known there");
    let bytes = serde_json::to_vec(&next).unwrap();
    assert_eq!(serde_json::from_slice::<Catalog>(&bytes).unwrap(), next, "counted right");
}

#[test]
fn a_restored_copy_has_its_tenants_on_its_node_and_none_of_a_dropped_collection() {
    let mut catalog = catalog(1);
    catalog.apply(&add(TenantState::Active, vec![tenant("a", 1, 0, 1)])).unwrap();
    let moved = catalog.clone().on_node(node(5)).with_new_shards(&[ShardId(2)]);
    assert_eq!(shards_of(&moved, "a"), [ShardId(3)]);
    let cores: Vec<_> = moved.tenant_cores().map(|(node, ..)| node).collect();
    assert_eq!(cores, [node(5)]);
    assert!(matches!(catalog.clone().resharded(2, 1), Err(CatalogError::HasTenants { .. })));
    catalog.apply(&Command::DropCollection { name: "Shops".to_owned() }).unwrap();
    assert_eq!((catalog.tenant_count(), catalog.tenant_bytes()), (0, 0));
    assert_eq!(moved.clone().only(|entry| entry.config.name == "Plain").tenant_count(), 0);
}

#[test]
fn the_state_of_an_empty_cluster_has_no_tenants() {
    assert_eq!(ClusterState::default().catalog().tenant_count(), 0);
}

#[test]
fn tenants_that_came_later_are_left_out_of_an_earlier_copy() {
    let mut catalog = catalog(1);
    let two = vec![tenant("a", 1, 0, 1), tenant("b", 1, 0, 1)];
    catalog.apply(&add(TenantState::Active, two)).unwrap();
    let earlier = catalog.clone();
    catalog.apply(&remove(&["a"])).unwrap();
    let two = vec![tenant("a", 1, 0, 1), tenant("c", 1, 0, 1)];
    catalog.apply(&add(TenantState::Active, two)).unwrap();
    catalog.apply(&set(TenantState::Inactive, &["b"])).unwrap();
    let left = catalog.with_tenants_of(&earlier);
    let tenants = left.collection("Shops").unwrap().tenants.clone();
    let names: Vec<_> = tenants.iter().map(|(name, it)| (name.as_ref(), it.state)).collect();
    assert_eq!(names, [("b", TenantState::Inactive)]);
    assert_eq!((left.tenant_count(), left.shards_made()), (1, 5));
}
