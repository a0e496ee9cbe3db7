//! The cluster's state, as it comes from a snapshot or a peer.

use heddle_meta::cluster::{
    Addresses, ClusterCommand, ClusterState, CommandId, Labels, NewCollection, NodeRecord,
    NodeState, PlacementRules, Request,
};
use heddle_meta::{NewTenant, Placement, TenantState};
use heddle_types::{CollectionConfig, CollectionId, NodeId};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 32;

/// Reads a state, as it is and with its checksums made right.
pub fn run(data: &[u8]) {
    check(data);
    let mut mended = data.to_vec();
    mend(&mut mended);
    check(&mended);
}

fn check(data: &[u8]) {
    let mut state = match ClusterState::decode(data) {
        Ok(state) => state,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(state.validate(), Ok(()), "a state is validated when it is read");
    let again = state.encode().map(|bytes| ClusterState::decode(&bytes));
    assert!(again.is_ok_and(|again| again == Ok(state.clone())), "a state changes in a round trip");
    // Whatever was accepted goes on: a change is applied or refused, and the rest still holds.
    for request in requests() {
        let before = state.clone();
        if state.apply(&request).is_err() {
            assert_eq!(state, before);
        }
        assert_eq!(state.validate(), Ok(()));
    }
}

/// Makes the header that of the payload.
pub(super) fn mend(bytes: &mut [u8]) {
    let Some((header, payload)) = bytes.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    header[..8].copy_from_slice(b"HDLCLUST");
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    header[16..24].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[24..28].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let crc = crc32c::crc32c(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
}

fn node(number: u64, state: NodeState) -> NodeRecord {
    let address = || "h:1".to_owned();
    NodeRecord {
        id: NodeId::from(number),
        name: format!("n{number}"),
        addresses: Addresses {
            native: address(),
            core: address(),
            http: address(),
            peer: address(),
            raft: address(),
            gossip: address(),
        },
        labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
        data_cores: 2,
        state,
        brings_collections: false,
    }
}

/// A collection with an active and an inactive tenant.
fn tenants() -> [ClusterCommand; 3] {
    let mut config = CollectionConfig { name: "T".to_owned(), ..CollectionConfig::default() };
    config.fill_defaults();
    config.sharding.count = 1;
    config.multi_tenancy.enabled = true;
    let collection = CollectionId(NodeId::from(8).0);
    let create = NewCollection {
        config,
        id: collection,
        seed: 1,
        rules: PlacementRules::default(),
        replicas: Vec::new(),
    };
    let tenant = |name: &str| NewTenant {
        name: name.to_owned(),
        replicas: vec![vec![Placement { node: NodeId::from(1), home: 0 }]],
    };
    let (state, tenants) = (TenantState::Active, vec![tenant("a"), tenant("b-1")]);
    let (resting, names) = (TenantState::Inactive, vec!["b-1".to_owned()]);
    [
        ClusterCommand::CreateCollection(Box::new(create)),
        ClusterCommand::AddTenants { collection, state, tenants },
        ClusterCommand::SetTenants { collection, state: resting, names },
    ]
}

/// Two nodes, a collection, an alias, tenants.
pub(super) fn requests() -> Vec<Request> {
    let mut config = CollectionConfig { name: "C".to_owned(), ..CollectionConfig::default() };
    config.fill_defaults();
    config.sharding.count = 2;
    config.sharding.virtual_per_physical = 2;
    config.replication.factor = 2;
    let collection = CollectionId(NodeId::from(9).0);
    let replicas = [1, 2].map(|node| Placement { node: NodeId::from(node), home: 1 });
    let commands = [
        ClusterCommand::AddNode(node(1, NodeState::Voter)),
        ClusterCommand::AddNode(node(2, NodeState::Learner)),
        ClusterCommand::CreateCollection(Box::new(NewCollection {
            config,
            id: collection,
            seed: 1,
            rules: PlacementRules::default(),
            replicas: vec![replicas.to_vec(); 2],
        })),
        ClusterCommand::SetAlias { alias: "A".to_owned(), collection },
    ];
    let request = |(number, command)| {
        Request::new(CommandId(NodeId::from(number).0), command).expect("it is small")
    };
    (100..).zip(commands.into_iter().chain(tenants())).map(request).collect()
}

/// The empty state and one with everything.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut state = ClusterState::default();
    let empty = state.encode();
    for request in requests() {
        state.apply(&request).expect("each is valid");
    }
    [empty, state.encode()].map(|encoded| encoded.expect("it is small")).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mending_undoes_damage_to_the_header_and_changes_nothing_else() {
        for seed in seeds() {
            let mut mended = seed.clone();
            mended[17] ^= 1;
            mended[25] ^= 1;
            mended[29] ^= 1;
            mend(&mut mended);
            assert_eq!(mended, seed);
        }
    }
}
