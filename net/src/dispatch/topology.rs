//! Who serves what.

use heddle_types::{ApiError, ErrorCode};
use heddle_wire::message::{TopologyCollection, TopologyNode, TopologyReply, TopologyRequest};
use heddle_wire::{Frame, access};

use crate::core::Core;
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

pub(super) fn answer(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<TopologyRequest>(&request.body)?;
    let epoch = core.registry.epoch().0;
    let mut topology =
        TopologyReply { epoch, answering_node: 0, nodes: Vec::new(), collections: Vec::new() };
    // A fresh catalog has epoch 0, which for a client means that it knows nothing.
    if epoch == 0 || message.known_epoch.to_native() != epoch {
        topology.nodes.push(this_node(core)?);
        topology.collections = core.registry.routes().iter().map(|route| describe(route)).collect();
    }
    super::reply(request, &topology)
}

fn this_node(core: &Core) -> Result<TopologyNode, ApiError> {
    let ready = core
        .node
        .ready()
        .ok_or_else(|| ApiError::transient(ErrorCode::Unavailable, "the node is starting"))?;
    let config = &core.node.config;
    Ok(TopologyNode {
        id: core.node.identity.node.0.into_bytes(),
        name: config.name.clone(),
        address: config.advertise.clone().unwrap_or_default(),
        native_port: ready.native_port,
        http_port: ready.http_port,
        core_ports: ready.core_ports.clone(),
    })
}

fn describe(route: &CollectionRoute) -> TopologyCollection {
    let place = |shard| {
        route.shards.iter().position(|(id, _)| id == shard).expect("owners are shards") as u16
    };
    TopologyCollection {
        id: route.id.0.into_bytes(),
        definition: super::collection::definition(&route.config),
        shard_ids: route.shards.iter().map(|(id, _)| id.0).collect(),
        shard_nodes: vec![0; route.shards.len()],
        shard_cores: route.shards.iter().map(|(_, home)| *home as u16).collect(),
        owners: route.routing.owners().iter().map(place).collect(),
    }
}
