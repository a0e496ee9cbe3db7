//! `heddle cluster` and `heddle node`.

use std::collections::BTreeMap;

use heddle_client::{Client, NodeFate, Topology};
use serde::{Deserialize, Serialize};

use crate::cli::{Cluster, ClusterView, Node, NodeChange};
use crate::failure::Failure;
use crate::output::{Style, Table, bytes, print_json};
use crate::session;

/// The cluster as the asked node sees it. A newer node may say more; what is missing counts as
/// zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    cluster: Option<ClusterStatus>,
    gossip: Option<Gossip>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct ClusterStatus {
    name: String,
    node: String,
    is_member: bool,
    leader: Option<String>,
    term: u64,
    epoch: u64,
    made_true: u64,
    hash: String,
    applied_index: Option<u64>,
    voters: Vec<String>,
    nodes: Vec<NodeStatus>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct NodeStatus {
    id: String,
    name: String,
    addresses: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    data_cores: u32,
    state: String,
    replicas: usize,
    is_answering: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Gossip {
    members: Vec<Member>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Member {
    node: String,
    load_permille: u64,
    disk_free_bytes: u64,
}

/// A replica of a shard and where it lives.
#[derive(Debug, Serialize)]
struct ReplicaPlace {
    collection: String,
    shard: u64,
    /// Its place among the shard's replicas, from 0.
    replica: usize,
    node: String,
    core: usize,
}

pub(crate) async fn run(action: &Cluster) -> Result<(), Failure> {
    match action {
        Cluster::Status(view) => status(view).await,
        Cluster::Nodes(view) => nodes(view).await,
        Cluster::Shards(view) => shards(view).await,
        Cluster::Leader(view) => leader(view).await,
    }
}

pub(crate) async fn change(action: &Node) -> Result<(), Failure> {
    let (NodeChange { node, connection }, fate, done) = match action {
        Node::Drain(change) => (change, NodeFate::Drain, "is draining: no new shards, no vote"),
        Node::Keep(change) => (change, NodeFate::Keep, "stays"),
        Node::Remove(change) => (change, NodeFate::Remove, "has left the cluster"),
    };
    let client = session::connect(connection).await?;
    let epoch = client.change_node(node, fate).await?;
    println!("{node} {done} (epoch {epoch})");
    Ok(())
}

async fn fetch(client: &Client) -> Result<(ClusterStatus, Gossip), Failure> {
    let status: Status = serde_json::from_value(client.status().await?)
        .map_err(|error| Failure::failed(format!("the status is not understood: {error}")))?;
    let alone = "the node is alone: it has no cluster_join and no cluster_bootstrap_expect";
    let cluster = status.cluster.ok_or_else(|| Failure::failed(alone))?;
    Ok((cluster, status.gossip.unwrap_or_default()))
}

impl ClusterStatus {
    fn name_of(&self, id: &str) -> String {
        let found = self.nodes.iter().find(|node| node.id == id);
        found.map_or_else(|| id.to_owned(), |node| node.name.clone())
    }

    fn leader_name(&self) -> Option<String> {
        self.leader.as_deref().map(|leader| self.name_of(leader))
    }
}

async fn status(view: &ClusterView) -> Result<(), Failure> {
    let client = session::connect(&view.connection).await?;
    let (cluster, gossip) = fetch(&client).await?;
    if view.json {
        return print_json(&cluster);
    }
    let style = Style::of_stdout();
    let leader = cluster.leader_name();
    println!("{}  as {} sees it", style.bold(&cluster.name), cluster.name_of(&cluster.node));
    println!("  leader   {}", leader.unwrap_or_else(|| style.red("nobody: changes wait")));
    println!("  term     {}", cluster.term);
    println!("  epoch    {} decided, {} in place here", cluster.epoch, cluster.made_true);
    println!("  state    {}", cluster.hash);
    let voters: Vec<String> = cluster.voters.iter().map(|id| cluster.name_of(id)).collect();
    println!("  voters   {}", voters.join(", "));
    print!("\n{}", node_table(&cluster, &gossip).render(style));
    Ok(())
}

async fn nodes(view: &ClusterView) -> Result<(), Failure> {
    let client = session::connect(&view.connection).await?;
    let (cluster, gossip) = fetch(&client).await?;
    if view.json {
        return print_json(&cluster.nodes);
    }
    print!("{}", node_table(&cluster, &gossip).render(Style::of_stdout()));
    Ok(())
}

fn node_table(cluster: &ClusterStatus, gossip: &Gossip) -> Table {
    let columns =
        ["node", "part", "alive", "cores", "shards", "free disk", "load", "address", "id"];
    let mut table = Table::new(&columns);
    for node in &cluster.nodes {
        let member = gossip.members.iter().find(|member| member.node == node.id);
        let is_asked = node.id == cluster.node;
        let alive = if is_asked || member.is_some() { "yes" } else { "no" };
        let part = if cluster.leader.as_ref() == Some(&node.id) { "leader" } else { &node.state };
        let of = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            node.name.clone(),
            part.to_owned(),
            alive.to_owned(),
            node.data_cores.to_string(),
            node.replicas.to_string(),
            of(member.map(|member| bytes(member.disk_free_bytes))),
            of(member.map(|member| format!("{} %", member.load_permille / 10))),
            node.addresses.get("native").cloned().unwrap_or_default(),
            node.id.clone(),
        ]);
    }
    table
}

async fn shards(view: &ClusterView) -> Result<(), Failure> {
    let client = session::connect(&view.connection).await?;
    let places = places(&client.topology());
    if view.json {
        return print_json(&places);
    }
    let mut table = Table::new(&["collection", "shard", "replica", "node", "core"]);
    for place in places {
        let ReplicaPlace { collection, shard, replica, node, core } = place;
        let (shard, replica, core) = (shard.to_string(), replica.to_string(), core.to_string());
        table.row(vec![collection, shard, replica, node, core]);
    }
    print!("{}", table.render(Style::of_stdout()));
    Ok(())
}

fn places(topology: &Topology) -> Vec<ReplicaPlace> {
    let name = |node: usize| topology.nodes.get(node).map_or_else(String::new, |n| n.name.clone());
    let routes = topology.collections.iter();
    let places = routes.flat_map(|(collection, route)| {
        let replicas = route.shards.iter().flat_map(|(shard, replicas)| {
            let replicas = replicas.iter().enumerate();
            replicas.map(move |(replica, home)| (shard, replica, home))
        });
        replicas.map(move |(shard, replica, home)| ReplicaPlace {
            collection: collection.clone(),
            shard: shard.0,
            replica,
            node: name(home.node),
            core: home.core,
        })
    });
    places.collect()
}

async fn leader(view: &ClusterView) -> Result<(), Failure> {
    let client = session::connect(&view.connection).await?;
    let (cluster, _) = fetch(&client).await?;
    if view.json {
        return print_json(&cluster.leader_name());
    }
    match cluster.leader_name() {
        Some(leader) => {
            println!("{leader}");
            Ok(())
        }
        None => Err(Failure::failed("nobody leads: most of the voters do not answer")),
    }
}
