//! What holds of the cluster's state after any sequence of commands.
//!
//! The commands come from a seeded generator that knows a few names, nodes and collections, so that
//! most commands meet others; about half of them are refused.

use std::collections::BTreeMap;

use heddle_meta::cluster::{
    Addresses, ClusterCommand, ClusterError, ClusterState, CommandId, CoreUse, Labels,
    NewCollection, NodeLoad, NodeRecord, NodeState, Outcome, PlacementRules, Request, Wanted,
    place_replicas,
};
use heddle_meta::{Catalog, Command, NewTenant, Placement, TenantState};
use heddle_sim::Random;
use heddle_types::limits::{RECENT_COMMANDS_MAX, VOTERS_MAX};
use heddle_types::{
    ClusterId, CollectionConfig, CollectionId, Epoch, NodeId, Quantization, RawVectors, ShardId,
};
use uuid::Uuid;

const SEEDS: u64 = 60;
const COMMANDS: u64 = 200;

fn node_id(number: u64) -> NodeId {
    NodeId(Uuid::from_u64_pair(0, number))
}

fn collection_id(number: u64) -> CollectionId {
    CollectionId(Uuid::from_u64_pair(1, number))
}

fn request(number: u64, command: ClusterCommand) -> Request {
    Request::new(CommandId(Uuid::from_u64_pair(2, number)), command).expect("small enough")
}

fn record(number: u64, state: NodeState) -> NodeRecord {
    let address = |port: u16| format!("node-{number}.example:{port}");
    NodeRecord {
        id: node_id(number),
        name: format!("node-{number}"),
        addresses: Addresses {
            native: address(7700),
            core: address(7701),
            http: address(8080),
            peer: address(7600),
            raft: address(7500),
            gossip: address(7946),
        },
        labels: Labels::new(),
        data_cores: 1 + (number % 3) as u32,
        state,
        brings_collections: false,
    }
}

fn config(name: &str, shards: u32, factor: u32) -> CollectionConfig {
    let mut config = CollectionConfig { name: name.to_owned(), ..CollectionConfig::default() };
    config.fill_defaults();
    config.sharding.count = shards;
    config.replication.factor = factor;
    config
}

/// Makes commands that often fit the state and often do not.
struct Generator {
    random: Random,
    number: u64,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), number: 0 }
    }

    fn node(&mut self) -> NodeId {
        node_id(1 + self.random.below(9))
    }

    fn state(&mut self) -> NodeState {
        match self.random.below(5) {
            0..=1 => NodeState::Voter,
            2..=3 => NodeState::Learner,
            _ => NodeState::Draining,
        }
    }

    fn name(&mut self) -> String {
        ["Docs", "Users", "Logs", "Images", "bad name"][self.random.below(5) as usize].to_owned()
    }

    fn collection(&mut self, state: &ClusterState) -> CollectionId {
        let known: Vec<CollectionId> =
            state.catalog().collections().map(|entry| entry.id).collect();
        if known.is_empty() || self.random.one_in(6) {
            return collection_id(self.random.below(20));
        }
        known[self.random.below(known.len() as u64) as usize]
    }

    fn create(&mut self, state: &ClusterState) -> ClusterCommand {
        let mut config =
            config(&self.name(), 1 + self.random.below(4) as u32, 1 + self.random.below(3) as u32);
        config.multi_tenancy.enabled = self.random.one_in(2);
        let loads: BTreeMap<NodeId, NodeLoad> = state
            .nodes()
            .map(|node| {
                let cores = vec![CoreUse::default(); node.data_cores as usize];
                (node.id, NodeLoad { free_bytes: self.random.below(1 << 30), cores })
            })
            .collect();
        let rules = PlacementRules::default();
        let (shards, factor) = (config.sharding.count, config.replication.factor);
        let wanted = Wanted { shards, factor, rules: &rules };
        let seed = self.random.next_u64();
        let mut replicas = place_replicas(wanted, state.nodes(), &loads, seed).unwrap_or_default();
        if self.random.one_in(4) {
            // A placement that an older state suggested.
            let place = Placement { node: self.node(), home: self.random.below(4) as u32 };
            replicas.iter_mut().take(1).for_each(|shard| shard.push(place));
        }
        let id = collection_id(self.random.below(20));
        if config.multi_tenancy.enabled {
            replicas.clear();
        }
        ClusterCommand::CreateCollection(Box::new(NewCollection {
            config,
            id,
            seed,
            rules,
            replicas,
        }))
    }

    fn tenant(&mut self) -> String {
        match self.random.below(40) {
            0 => "no name".to_owned(),
            number => format!("t-{number}"),
        }
    }

    fn tenants(&mut self, state: &ClusterState) -> ClusterCommand {
        let collection = self.collection(state);
        let active =
            if self.random.one_in(3) { TenantState::Inactive } else { TenantState::Active };
        let names: Vec<String> = (0..1 + self.random.below(3)).map(|_| self.tenant()).collect();
        match self.random.below(6) {
            0 => return ClusterCommand::RemoveTenants { collection, names },
            1 => return ClusterCommand::SetTenants { collection, state: active, names },
            _ => {}
        }
        let known = state.collection(collection);
        let counts = known.map(|it| (it.config.sharding.count, it.config.replication.factor));
        let (shards, factor) = counts.unwrap_or((1, 1));
        let nodes: Vec<NodeId> = state.nodes().map(|node| node.id).collect();
        let first = self.random.below(9) as usize;
        let tenants = names.into_iter().map(|name| {
            let place = |at: usize| Placement {
                node: nodes.get((first + at) % nodes.len().max(1)).copied().unwrap_or_default(),
                home: (first % 2) as u32,
            };
            let replicas: Vec<Placement> = (0..factor as usize).map(place).collect();
            NewTenant { name, replicas: vec![replicas; shards as usize] }
        });
        ClusterCommand::AddTenants { collection, state: active, tenants: tenants.collect() }
    }

    fn command(&mut self, state: &ClusterState) -> ClusterCommand {
        match self.random.below(18) {
            12.. => self.tenants(state),
            0..=1 => {
                let (number, part) = (1 + self.random.below(9), self.state());
                ClusterCommand::AddNode(record(number, part))
            }
            2 => {
                let labels = [("zone".to_owned(), format!("z{}", self.random.below(3)))];
                let node = self.node();
                let addresses = record(1 + self.random.below(9), NodeState::Learner).addresses;
                ClusterCommand::DescribeNode {
                    node,
                    addresses,
                    labels: labels.into(),
                    data_cores: 3,
                }
            }
            3 => ClusterCommand::SetNodeState { node: self.node(), state: self.state() },
            4 => ClusterCommand::RemoveNode { node: self.node() },
            5..=6 => self.create(state),
            7 => ClusterCommand::DropCollection { collection: self.collection(state) },
            8 => ClusterCommand::FixDims {
                collection: self.collection(state),
                vector: String::new(),
                dims: self.random.below(3) as u32,
                quantization: Quantization::Bits8,
                raw: RawVectors::Memory,
            },
            9 => ClusterCommand::MoveHome {
                shard: ShardId(self.random.below(30)),
                node: self.node(),
                home: self.random.below(4) as u32,
            },
            10 => {
                let (alias, collection) = (self.name(), self.collection(state));
                ClusterCommand::SetAlias { alias, collection }
            }
            11 => ClusterCommand::DropAlias { alias: self.name() },
        }
    }

    fn request(&mut self, state: &ClusterState) -> Request {
        self.number += 1;
        let number =
            if self.random.one_in(10) { self.random.below(self.number) } else { self.number };
        request(number, self.command(state))
    }
}

/// The commands of a seed and the hash after each.
fn history(seed: u64) -> Vec<(Request, u128)> {
    let mut state = ClusterState::default();
    let mut generator = Generator::new(seed);
    let mut history = Vec::new();
    for _ in 0..COMMANDS {
        let request = generator.request(&state);
        // Refusals are part of the sequence.
        let _ = state.apply(&request);
        history.push((request, state.hash()));
    }
    history
}

#[test]
fn the_same_commands_give_the_same_hash_at_every_step() {
    for seed in 0..SEEDS {
        let mut state = ClusterState::default();
        for (request, hash) in history(seed) {
            let _ = state.apply(&request);
            assert_eq!(state.hash(), hash, "seed {seed}");
        }
    }
}

#[test]
fn every_state_is_valid_refusals_change_nothing_and_changes_make_one_epoch() {
    let (mut applied, mut repeated, mut refused, mut tenants) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut state = ClusterState::default();
        let mut generator = Generator::new(seed);
        for _ in 0..COMMANDS {
            let before = state.clone();
            let request = generator.request(&state);
            match state.apply(&request) {
                Ok(Outcome::Applied(epoch)) => {
                    applied += 1;
                    assert_eq!(epoch.0, before.epoch().0 + 1);
                    assert_ne!(state.hash(), before.hash(), "seed {seed}: {request:?}");
                }
                Ok(Outcome::Repeated(epoch)) => {
                    repeated += 1;
                    assert!(epoch <= before.epoch());
                    assert_eq!(state, before, "seed {seed}: {request:?}");
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(state, before, "seed {seed}: {request:?}: {error}");
                }
            }
            assert_eq!(state.validate(), Ok(()), "seed {seed}: {request:?}");
        }
        tenants += state.catalog().tenant_count();
        let back = ClusterState::decode(&state.encode().unwrap());
        assert_eq!(back.as_ref(), Ok(&state), "seed {seed}");
    }
    assert!(tenants > SEEDS, "{tenants} tenants");
    let least = SEEDS * COMMANDS / 50;
    assert!(
        applied > least && repeated > least && refused > least,
        "{applied} {repeated} {refused}"
    );
}

#[test]
fn a_change_that_is_tried_again_is_applied_once_even_when_others_came_between() {
    let mut state = ClusterState::default();
    state.apply(&request(1, ClusterCommand::AddNode(record(1, NodeState::Voter)))).unwrap();
    let new = NewCollection {
        config: config("Docs", 1, 1),
        id: collection_id(1),
        seed: 1,
        rules: PlacementRules::default(),
        replicas: vec![vec![Placement { node: node_id(1), home: 0 }]],
    };
    let create = request(2, ClusterCommand::CreateCollection(Box::new(new)));
    let drop = request(3, ClusterCommand::DropCollection { collection: collection_id(1) });
    assert_eq!(state.apply(&create), Ok(Outcome::Applied(Epoch(2))));
    assert_eq!(state.apply(&drop), Ok(Outcome::Applied(Epoch(3))));
    // The answers were lost, and the client asks again: the collection stays dropped.
    assert_eq!(state.apply(&create), Ok(Outcome::Repeated(Epoch(2))));
    assert_eq!(state.apply(&drop), Ok(Outcome::Repeated(Epoch(3))));
    assert!(state.resolve("Docs").is_none());
    // As many later changes push the id out; then it counts as a new change.
    for number in 0..RECENT_COMMANDS_MAX as u64 {
        let home = ClusterCommand::DescribeNode {
            node: node_id(1),
            addresses: record(1, NodeState::Voter).addresses,
            labels: Labels::new(),
            data_cores: 2,
        };
        state.apply(&request(10 + number, home)).unwrap();
    }
    assert_eq!(state.validate(), Ok(()));
    assert!(matches!(state.apply(&create), Ok(Outcome::Applied(_))));
}

#[test]
fn a_removed_node_never_comes_back_and_a_node_with_data_stays() {
    let mut state = ClusterState::default();
    let mut number = 0;
    let mut apply = |state: &mut ClusterState, command| {
        number += 1;
        state.apply(&request(number, command))
    };
    let lonely = apply(&mut state, ClusterCommand::AddNode(record(1, NodeState::Learner)));
    assert_eq!(lonely, Err(ClusterError::LastVoter { node: node_id(1) }));
    for (node, part) in [(1, NodeState::Voter), (2, NodeState::Learner)] {
        apply(&mut state, ClusterCommand::AddNode(record(node, part))).unwrap();
    }
    let new = NewCollection {
        config: config("Docs", 1, 2),
        id: collection_id(1),
        seed: 1,
        rules: PlacementRules::default(),
        replicas: vec![[1, 2].map(|node| Placement { node: node_id(node), home: 0 }).to_vec()],
    };
    apply(&mut state, ClusterCommand::CreateCollection(Box::new(new))).unwrap();
    let (drain, remove) = (
        ClusterCommand::SetNodeState { node: node_id(2), state: NodeState::Draining },
        ClusterCommand::RemoveNode { node: node_id(2) },
    );
    let early = apply(&mut state, remove.clone());
    assert_eq!(early, Err(ClusterError::NotDraining { node: node_id(2) }));
    apply(&mut state, drain).unwrap();
    let full = apply(&mut state, remove.clone());
    assert_eq!(full, Err(ClusterError::HoldsReplicas { node: node_id(2), shards: 1 }));
    apply(&mut state, ClusterCommand::DropCollection { collection: collection_id(1) }).unwrap();
    apply(&mut state, remove).unwrap();
    let again = apply(&mut state, ClusterCommand::AddNode(record(2, NodeState::Learner)));
    assert_eq!(again, Err(ClusterError::NodeKnown { node: node_id(2) }));
    let last = ClusterCommand::SetNodeState { node: node_id(1), state: NodeState::Draining };
    assert_eq!(apply(&mut state, last), Err(ClusterError::LastVoter { node: node_id(1) }));
    for node in 3..=8 {
        apply(&mut state, ClusterCommand::AddNode(record(node, NodeState::Voter))).unwrap();
    }
    let eighth = apply(&mut state, ClusterCommand::AddNode(record(9, NodeState::Voter)));
    let error = eighth.expect_err("there are seven voters");
    assert!(error.to_string().contains(&format!("{VOTERS_MAX} voters")), "{error}");
}

#[test]
fn names_and_aliases_share_one_space_and_aliases_go_with_their_collection() {
    let mut state = ClusterState::default();
    let mut number = 0;
    let mut apply = |state: &mut ClusterState, command| {
        number += 1;
        state.apply(&request(number, command))
    };
    apply(&mut state, ClusterCommand::AddNode(record(1, NodeState::Voter))).unwrap();
    let create = |name: &str, number| {
        ClusterCommand::CreateCollection(Box::new(NewCollection {
            config: config(name, 1, 1),
            id: collection_id(number),
            seed: number,
            rules: PlacementRules::default(),
            replicas: vec![vec![Placement { node: node_id(1), home: 0 }]],
        }))
    };
    let alias = |number| ClusterCommand::SetAlias {
        alias: "Current".to_owned(),
        collection: collection_id(number),
    };
    apply(&mut state, create("One", 1)).unwrap();
    apply(&mut state, create("Two", 2)).unwrap();
    apply(&mut state, alias(1)).unwrap();
    assert_eq!(state.resolve("Current").map(|entry| entry.id), Some(collection_id(1)));
    apply(&mut state, alias(2)).unwrap();
    assert_eq!(state.resolve("Current").map(|entry| entry.id), Some(collection_id(2)));
    let taken = |name: &str| Err(ClusterError::NameTaken { name: name.to_owned() });
    assert_eq!(apply(&mut state, create("Current", 3)), taken("Current"));
    let own = ClusterCommand::SetAlias { alias: "One".to_owned(), collection: collection_id(2) };
    assert_eq!(apply(&mut state, own), taken("One"));
    apply(&mut state, ClusterCommand::DropCollection { collection: collection_id(2) }).unwrap();
    assert!(state.resolve("Current").is_none());
    assert_eq!(state.aliases().count(), 0);
}

/// Applies a change under an identity of its own: the epoch it is made in.
fn apply_next(state: &mut ClusterState, command: ClusterCommand) -> Result<Outcome, ClusterError> {
    state.apply(&request(1_000_000 + state.epoch().0, command))
}

#[test]
fn a_single_node_becomes_a_cluster_of_one_with_the_collections_it_has() {
    let mut catalog = Catalog::default();
    let node = node_id(2);
    let created = catalog.apply(&Command::CreateCollection {
        config: config("Docs", 2, 1),
        id: collection_id(1),
        seed: 5,
        placements: (0..2).map(|home| Placement { node, home }).collect(),
    });
    created.unwrap();
    let adopt = |catalog: &Catalog| ClusterCommand::AdoptCatalog {
        node,
        catalog: Box::new(catalog.clone()),
    };
    let mut state = ClusterState::default();
    let unknown = Err(ClusterError::UnknownNode { node });
    assert_eq!(apply_next(&mut state, adopt(&catalog)), unknown);
    apply_next(&mut state, ClusterCommand::AddNode(record(2, NodeState::Voter))).unwrap();
    let elsewhere = catalog.clone().on_node(node_id(3));
    let refused = Err(ClusterError::NoReplica { shard: ShardId(1), node });
    assert_eq!(apply_next(&mut state, adopt(&elsewhere)), refused);
    apply_next(&mut state, adopt(&catalog)).unwrap();
    assert_eq!(state.validate(), Ok(()));
    assert_eq!(state.replicas(ShardId(2)), [Placement { node, home: 1 }]);
    assert_eq!(state.resolve("Docs"), catalog.collection("Docs"));
    assert!(state.epoch() > catalog.epoch());
    apply_next(&mut state, ClusterCommand::DropCollection { collection: collection_id(1) })
        .unwrap();
    assert_eq!(apply_next(&mut state, adopt(&catalog)), Err(ClusterError::HasCollections));
}

/// A collection made in the first moments would keep those of the node out for ever.
#[test]
fn nothing_is_created_before_a_node_has_brought_in_what_it_had_while_it_was_alone() {
    let mut state = ClusterState::default();
    let brings = |number, brings_collections| {
        let record = NodeRecord { brings_collections, ..record(number, NodeState::Voter) };
        ClusterCommand::AddNode(record)
    };
    apply_next(&mut state, brings(1, false)).unwrap();
    apply_next(&mut state, brings(2, true)).unwrap();
    let first = ClusterCommand::CreateCollection(Box::new(NewCollection {
        config: config("First", 1, 1),
        id: collection_id(9),
        seed: 9,
        rules: PlacementRules::default(),
        replicas: vec![vec![Placement { node: node_id(1), home: 0 }]],
    }));
    let refused = Err(ClusterError::BringsFirst { node: node_id(2) });
    assert_eq!(apply_next(&mut state, first.clone()), refused);
    let mut catalog = Catalog::default();
    let placements = vec![Placement { node: node_id(2), home: 0 }];
    let (config, id) = (config("Docs", 1, 1), collection_id(1));
    catalog.apply(&Command::CreateCollection { config, id, seed: 5, placements }).unwrap();
    let adopt = ClusterCommand::AdoptCatalog { node: node_id(2), catalog: Box::new(catalog) };
    apply_next(&mut state, adopt).unwrap();
    assert!(!state.node(node_id(2)).unwrap().brings_collections, "it has brought them");
    apply_next(&mut state, first).unwrap();
    let late = apply_next(&mut state, brings(3, true));
    assert_eq!(late, Err(ClusterError::HasCollections), "it comes with an empty directory");
    apply_next(&mut state, brings(3, false)).unwrap();
    assert_eq!(state.validate(), Ok(()));
}

#[test]
fn a_collection_that_has_no_tenants_yet_is_one_all_the_same() {
    let mut with_tenants = config("Tenants", 1, 1);
    with_tenants.multi_tenancy.enabled = true;
    let mut state = ClusterState::default();
    apply_next(&mut state, ClusterCommand::AddNode(record(1, NodeState::Voter))).unwrap();
    apply_next(&mut state, ClusterCommand::AddNode(record(2, NodeState::Voter))).unwrap();
    assert!(state.catalog().is_untouched());
    let created = ClusterCommand::CreateCollection(Box::new(NewCollection {
        config: with_tenants,
        id: collection_id(9),
        seed: 9,
        rules: PlacementRules::default(),
        replicas: Vec::new(),
    }));
    apply_next(&mut state, created).unwrap();
    assert!(!state.catalog().is_untouched() && state.catalog().shards_made() == 0);
    let mut catalog = Catalog::default();
    let placements = vec![Placement { node: node_id(2), home: 0 }];
    let (config, id) = (config("Docs", 1, 1), collection_id(1));
    catalog.apply(&Command::CreateCollection { config, id, seed: 5, placements }).unwrap();
    let adopt = ClusterCommand::AdoptCatalog { node: node_id(2), catalog: Box::new(catalog) };
    assert_eq!(apply_next(&mut state, adopt), Err(ClusterError::HasCollections));
    assert!(state.catalog().collection("Tenants").is_some());
}

#[test]
fn a_cluster_is_known_by_its_first_change_for_ever() {
    let mut state = ClusterState::default();
    assert_eq!(state.cluster(), None);
    let first = request(7, ClusterCommand::AddNode(record(1, NodeState::Voter)));
    let early = request(6, ClusterCommand::AddNode(record(1, NodeState::Learner)));
    state.apply(&early).unwrap_err();
    assert_eq!(state.cluster(), None, "a refused change leaves no trace");
    state.apply(&first).unwrap();
    let known = state.cluster();
    assert_eq!(known, Some(ClusterId(first.id().0)));
    apply_next(&mut state, ClusterCommand::AddNode(record(2, NodeState::Learner))).unwrap();
    assert_eq!(state.cluster(), known);
}

#[test]
fn a_state_of_before_there_were_identities_gets_none() {
    let mut state = ClusterState::default();
    apply_next(&mut state, ClusterCommand::AddNode(record(1, NodeState::Voter))).unwrap();
    let mut stored = serde_json::to_value(&state).unwrap();
    stored.as_object_mut().unwrap().remove("cluster").unwrap();
    let stored = serde_json::to_vec(&stored).unwrap();
    let mut early: ClusterState = serde_json::from_slice(&stored).unwrap();
    let mut late = early.clone();
    apply_next(&mut early, ClusterCommand::AddNode(record(2, NodeState::Learner))).unwrap();
    assert_eq!(early.cluster(), None);
    // Nor does it depend on where a replica goes on.
    apply_next(&mut late, ClusterCommand::AddNode(record(2, NodeState::Learner))).unwrap();
    let mut late = ClusterState::decode(&late.encode().unwrap()).unwrap();
    for state in [&mut early, &mut late] {
        apply_next(state, ClusterCommand::AddNode(record(3, NodeState::Learner))).unwrap();
    }
    assert_eq!((early.cluster(), late.cluster()), (None, None));
}

#[test]
fn the_epoch_of_an_adopted_catalog_goes_on_behind_the_cluster_and_behind_the_node() {
    let epoch_with = |dropped: usize, aliases: usize| {
        let mut state = ClusterState::default();
        apply_next(&mut state, ClusterCommand::AddNode(record(1, NodeState::Voter))).unwrap();
        for number in 0..aliases {
            let state_of = [NodeState::Learner, NodeState::Draining][number % 2];
            apply_next(&mut state, ClusterCommand::AddNode(record(10 + number as u64, state_of)))
                .unwrap();
        }
        let mut catalog = Catalog::default();
        for number in 0..dropped {
            let name = format!("C{number}");
            let placements = vec![Placement { node: node_id(1), home: 0 }];
            let create = Command::CreateCollection {
                config: config(&name, 1, 1),
                id: collection_id(number as u64),
                seed: 5,
                placements,
            };
            catalog.apply(&create).unwrap();
            catalog.apply(&Command::DropCollection { name }).unwrap();
        }
        let (before, own) = (state.epoch(), catalog.epoch());
        let catalog = Box::new(catalog);
        apply_next(&mut state, ClusterCommand::AdoptCatalog { node: node_id(1), catalog }).unwrap();
        assert!(state.epoch() > before && state.epoch() > own);
        state.epoch().0
    };
    assert_eq!(epoch_with(5, 0), 11);
    assert_eq!(epoch_with(1, 4), 6);
}

#[test]
fn a_change_that_no_log_record_can_hold_is_refused_before_it_is_proposed() {
    let mut labels = Labels::new();
    labels.insert("x".to_owned(), "y".repeat(9 << 20));
    let addresses = record(1, NodeState::Voter).addresses;
    let command =
        ClusterCommand::DescribeNode { node: node_id(1), addresses, labels, data_cores: 2 };
    let refused = Request::new(CommandId(Uuid::from_u64_pair(2, 1)), command);
    assert!(matches!(refused, Err(ClusterError::RequestTooLarge { found }) if found > 9 << 20));
}

#[test]
fn a_collection_that_the_next_snapshot_could_not_hold_is_refused() {
    let mut state = ClusterState::default();
    state.apply(&request(0, ClusterCommand::AddNode(record(1, NodeState::Voter)))).unwrap();
    let create = |number: u64| {
        let mut config = config(&format!("C{number}"), 1, 1);
        config.description = "x".repeat(7_900_000);
        request(
            number,
            ClusterCommand::CreateCollection(Box::new(NewCollection {
                config,
                id: collection_id(number),
                seed: number,
                rules: PlacementRules::default(),
                replicas: vec![vec![Placement { node: node_id(1), home: 0 }]],
            })),
        )
    };
    for number in 1..=3 {
        state.apply(&create(number)).unwrap();
    }
    let (before, refused) = (state.hash(), state.apply(&create(8)));
    assert!(matches!(refused, Err(ClusterError::StateTooLarge { .. })), "{refused:?}");
    assert_eq!(state.hash(), before);
    let bytes = state.encode().unwrap();
    assert_eq!(ClusterState::decode(&bytes).map(|back| back.hash()), Ok(before));
    state.apply(&request(9, ClusterCommand::AddNode(record(2, NodeState::Learner)))).unwrap();
    let drop = ClusterCommand::DropCollection { collection: collection_id(1) };
    state.apply(&request(10, drop)).unwrap();
    state.apply(&create(8)).unwrap();
}
