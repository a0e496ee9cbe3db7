//! Raft over real sockets and files: each node is a thread with an executor of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::channel::{mpsc, oneshot};
use futures::{FutureExt, StreamExt};
use heddle_meta::Placement;
use heddle_meta::cluster::{
    Addresses, ClusterCommand, CommandId, Labels, NewCollection, NodeRecord, NodeState,
    PlacementRules, Request,
};
use heddle_meta::handshake::{End, LinkKey, Party};
use heddle_meta::raft::{ClusterMachine, Leader, RaftLog, Response, raft_config};
use heddle_runtime::{GlommioDevice, Queue, run_single, sleep, spawn, timeout};
use heddle_types::schema::ShardingConfig;
use heddle_types::{CollectionConfig, CollectionId, Device, VectorConfig};
use heddle_wire::{Header, VERSION};
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use uuid::Uuid;

use super::*;
use crate::peer::PeerIdentity;
use crate::testing::TempDir;

/// Far more than anything here takes: a busy machine is no failure.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
const FOLDER: &str = "raft";

type Book = BTreeMap<NodeId, String>;

enum Order {
    /// Where the nodes are dialed from now on.
    Addresses(Book),
    Initialize(Book),
    Write(Box<Request>, oneshot::Sender<bool>),
    /// Makes a snapshot, and forgets the log that it holds.
    Snapshot,
    Look(oneshot::Sender<View>),
}

/// What a node says of itself.
#[derive(Clone, Debug)]
struct View {
    is_leader: bool,
    term: u64,
    epoch: u64,
    hash: String,
    /// Entries of the log that are only in a snapshot.
    purged: u64,
    snapshot_parts: u64,
}

/// A member of the group in a thread of its own.
struct Node {
    id: NodeId,
    address: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

fn party(id: NodeId) -> Party {
    Party {
        end: End { node: id, boot: 1, core: 2 },
        cluster: "tests".to_owned(),
        cluster_id: None,
        key: LinkKey::from_secret(b"secret of the tests"),
    }
}

/// The settings of nodes, but for when snapshots are written: that the tests say.
fn config() -> Arc<Config> {
    let config = raft_config("tests").expect("the settings are valid");
    let snapshot_policy = SnapshotPolicy::Never;
    Arc::new(Config { snapshot_policy, max_in_snapshot_log_to_keep: 0, ..config })
}

async fn run(
    id: NodeId,
    folder: PathBuf,
    ready: std::sync::mpsc::Sender<SocketAddr>,
    mut inbox: mpsc::UnboundedReceiver<Order>,
) {
    let device = GlommioDevice::new(&folder).expect("the folder is there");
    let is_new = device.list(FOLDER).await.is_err();
    let log = if is_new {
        RaftLog::create(device.clone(), FOLDER, id).await
    } else {
        RaftLog::open(device.clone(), FOLDER, id).await
    };
    let log = log.expect("a log is whole after its node was killed");
    let machine = ClusterMachine::open(device, FOLDER).await.expect("so is a snapshot");
    let links = Links::new(party(id));
    let book = Rc::new(RefCell::new(Book::new()));
    let dialed = Rc::clone(&book);
    let dial: Dial = Rc::new(move |node, member| Target {
        node: Some(node),
        address: dialed.borrow().get(&node).unwrap_or(&member.address).clone(),
    });
    let network = RaftLinks::new(Rc::clone(&links), dial);
    let raft = Raft::new(id, config(), network, log, machine.clone()).await.expect("it is whole");
    let answering = raft.clone();
    let handler: crate::peer::Handler = Rc::new(move |call| {
        let raft = answering.clone();
        async move { answer_raft(&raft, call).await }.boxed_local()
    });
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    ready.send(links.listen(local, handler).expect("a port is free")).expect("the test waits");
    while let Some(order) = inbox.next().await {
        match order {
            Order::Addresses(addresses) => drop(book.replace(addresses)),
            Order::Initialize(members) => {
                let members = members.into_iter().map(|(id, address)| (id, Member { address }));
                let members: BTreeMap<_, _> = members.collect();
                raft.initialize(members).await.expect("the group is new");
            }
            Order::Write(request, sender) => {
                let raft = raft.clone();
                spawn(Queue::Control, async move {
                    let is_done = match raft.client_write(*request).await.map(|done| done.data) {
                        Ok(Response::Refused(error)) => panic!("the change is wrong: {error}"),
                        Ok(_) => true,
                        Err(_) => false,
                    };
                    let _ = sender.send(is_done);
                });
            }
            Order::Snapshot => raft.trigger().snapshot().await.expect("it runs"),
            Order::Look(sender) => drop(sender.send(view(&raft, &machine, &links))),
        }
    }
    // As the end of a process: no good-bye.
    links.drain();
    links.cut_all();
    let _ = raft.shutdown().await;
}

fn view(raft: &Raft, machine: &super::super::Machine, links: &Rc<Links>) -> View {
    let metrics = raft.metrics().borrow_watched().clone();
    let repair = &links.report().lanes[usize::from(Lane::Repair.number())];
    let (epoch, hash) =
        machine.with_state(|state| (state.epoch().0, format!("{:?}", state.hash())));
    View {
        is_leader: metrics.state.is_leader(),
        term: metrics.current_term,
        epoch,
        hash,
        purged: metrics.purged.map_or(0, |last| last.index),
        snapshot_parts: repair.served,
    }
}

impl Node {
    fn start(id: NodeId, folder: PathBuf) -> Self {
        let (ready, address) = std::sync::mpsc::channel();
        let (orders, inbox) = mpsc::unbounded();
        #[expect(clippy::disallowed_methods, reason = "a node of its own, outside of any core")]
        let thread = std::thread::spawn(move || {
            run_single(run(id, folder, ready, inbox)).expect("an executor");
        });
        let address = address.recv().expect("the node listens");
        Self { id, address, orders, thread: Some(thread) }
    }

    fn order(&self, order: Order) {
        self.orders.unbounded_send(order).expect("the node runs");
    }

    async fn view(&self) -> View {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Look(sender));
        receiver.await.expect("the node runs")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.orders.close_channel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the node has failed");
        }
    }
}

/// Three nodes, some of which run.
struct Group {
    folders: Vec<TempDir>,
    nodes: BTreeMap<NodeId, Node>,
    addresses: Book,
}

impl Group {
    fn new() -> Self {
        let folders = (0..3).map(|_| TempDir::new("raft-links")).collect();
        let mut group = Self { folders, nodes: BTreeMap::new(), addresses: Book::new() };
        (1..=3).for_each(|number| group.start(NodeId::from(number)));
        group.nodes[&NodeId::from(1)].order(Order::Initialize(group.addresses.clone()));
        group
    }

    fn start(&mut self, id: NodeId) {
        let number = (1..=3).position(|number| NodeId::from(number) == id).expect("one of three");
        let node = Node::start(id, self.folders[number].path().to_owned());
        self.addresses.insert(id, node.address.to_string());
        self.nodes.insert(id, node);
        for node in self.nodes.values() {
            node.order(Order::Addresses(self.addresses.clone()));
        }
    }

    fn kill(&mut self, id: NodeId) {
        drop(self.nodes.remove(&id).expect("it runs"));
    }

    async fn leader(&self) -> NodeId {
        loop {
            let mut leaders = Vec::new();
            for node in self.nodes.values() {
                let view = node.view().await;
                leaders.extend(view.is_leader.then_some((view.term, node.id)));
            }
            if let Some((_, leader)) = leaders.iter().max() {
                return *leader;
            }
            sleep(PAUSE).await;
        }
    }

    /// Writes until somebody acknowledges. Who did.
    async fn insist(&self, request: &Request) -> NodeId {
        loop {
            let leader = self.leader().await;
            let (sender, receiver) = oneshot::channel();
            self.nodes[&leader].order(Order::Write(Box::new(request.clone()), sender));
            if receiver.await == Ok(true) {
                return leader;
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until all that run have the same state. What it is.
    async fn agree(&self) -> View {
        loop {
            let mut views = Vec::new();
            for node in self.nodes.values() {
                views.push(node.view().await);
            }
            let epoch = views.iter().map(|view| view.epoch).max().expect("some run");
            if views.iter().all(|view| view.epoch == epoch) {
                assert!(views.iter().all(|view| view.hash == views[0].hash), "{views:?}");
                return views[0].clone();
            }
            sleep(PAUSE).await;
        }
    }
}

fn change(number: u64) -> Request {
    let address = || format!("10.0.0.{number}:7500");
    let record = NodeRecord {
        id: NodeId::from(1_000 + number),
        name: format!("node-{number}"),
        addresses: Addresses {
            native: address(),
            core: address(),
            http: address(),
            peer: address(),
            raft: address(),
            gossip: address(),
        },
        labels: Labels::new(),
        data_cores: 1,
        state: if number == 0 { NodeState::Voter } else { NodeState::Learner },
        brings_collections: false,
    };
    request(number, ClusterCommand::AddNode(record))
}

/// A collection whose definition is large.
fn large(number: u64) -> Request {
    let config = CollectionConfig {
        name: format!("Docs{number}"),
        description: "warp and weft ".repeat(60_000),
        vectors: vec![VectorConfig::default()],
        sharding: ShardingConfig { count: 1, ..ShardingConfig::default() },
        ..CollectionConfig::default()
    };
    let new = NewCollection {
        config,
        id: CollectionId(Uuid::from_u128(u128::from(number))),
        seed: number,
        rules: PlacementRules::default(),
        replicas: vec![vec![Placement { node: NodeId::from(1_000), home: 0 }]],
    };
    request(100 + number, ClusterCommand::CreateCollection(Box::new(new)))
}

fn request(number: u64, command: ClusterCommand) -> Request {
    Request::new(CommandId(Uuid::from_u64_pair(7, number)), command).expect("small enough")
}

fn story(told: impl AsyncFnOnce(Group)) {
    run_single(async {
        timeout(PATIENCE, told(Group::new())).await.expect("it goes on");
    })
    .expect("an executor");
}

#[test]
fn three_nodes_elect_replicate_and_outlive_their_leader() {
    story(async |mut group| {
        let mut old = NodeId::default();
        for number in 0..10 {
            old = group.insist(&change(number)).await;
        }
        assert_eq!(group.agree().await.epoch, 10);
        group.kill(old);
        let new = group.insist(&change(10)).await;
        assert_ne!(new, old);
        group.start(old);
        assert_eq!(group.agree().await.epoch, 11);
        group.insist(&change(11)).await;
        assert_eq!(group.agree().await.epoch, 12);
    });
}

#[test]
fn a_node_that_was_away_for_long_gets_a_snapshot_in_parts() {
    story(async |mut group| {
        let leader = group.insist(&change(0)).await;
        let away = *group.nodes.keys().find(|id| **id != leader).expect("there are others");
        group.agree().await;
        group.kill(away);
        for number in 1..=8 {
            group.insist(&large(number)).await;
        }
        let before = group.agree().await;
        group.nodes.values().for_each(|node| node.order(Order::Snapshot));
        // The log is purged behind it with one of the next changes.
        let mut changes = 0;
        for node in group.nodes.values() {
            while node.view().await.purged < before.epoch {
                changes += 1;
                group.insist(&change(changes)).await;
            }
        }
        group.start(away);
        let after = group.agree().await;
        assert_eq!(after.epoch, before.epoch + changes);
        let parts = group.nodes[&away].view().await.snapshot_parts;
        assert!(parts >= 2, "{parts} parts");
    });
}

/// A call to a node's Raft as it arrives.
fn call(peer: NodeId, kind: u16, bytes: &[u8]) -> PeerCall {
    let address = SocketAddr::from(([127, 0, 0, 1], 7_500));
    PeerCall {
        peer: PeerIdentity { node: peer, boot: 1, core: 2, lane: Lane::Control, address },
        header: Header {
            version: VERSION,
            type_number: kind,
            body_length: bytes.len() as u32,
            body_crc32c: crc32c::crc32c(bytes),
            request_id: 1,
            deadline_us: 0,
        },
        body: aligned(bytes),
        arrived_ns: 0,
    }
}

#[test]
fn a_message_in_the_name_of_another_node_or_broken_changes_nothing() {
    let folder = TempDir::new("raft-links");
    run_single(async {
        let device = GlommioDevice::new(folder.path()).expect("the folder is there");
        let id = NodeId::from(1);
        let log = RaftLog::create(device.clone(), FOLDER, id).await.expect("there is room");
        let machine = ClusterMachine::open(device, FOLDER).await.expect("it is empty");
        let dial: Dial =
            Rc::new(|node, member| Target { node: Some(node), address: member.address.clone() });
        let network = RaftLinks::new(Links::new(party(id)), dial);
        let raft = Raft::new(id, config(), network, log, machine).await.expect("it is whole");
        let vote_of =
            |node, committed| Vote { leader_id: Leader { term: 5, node_id: node }, committed };
        let (sender, other) = (NodeId::from(2), NodeId::from(3));
        let append = |node| {
            let request: AppendEntriesRequest<Types> = AppendEntriesRequest {
                vote: vote_of(node, true),
                prev_log_id: None,
                entries: Vec::new(),
                leader_commit: None,
            };
            encoding::encode_append(&request)
        };
        let ballot: VoteRequest<Types> = VoteRequest::new(vote_of(other, false), None);
        let ballot = encoding::encode_ballot(&ballot);
        let transfer: TransferLeaderRequest<Types> =
            TransferLeaderRequest::new(vote_of(other, true), id, None);
        let part = SnapshotPart {
            vote: vote_of(other, true),
            checksum: 0,
            length: 1,
            offset: 0,
            bytes: &[0],
        };
        let messages = [
            (APPEND, append(other)),
            (VOTE, ballot.clone()),
            (PRE_VOTE, ballot),
            (SNAPSHOT, part.encode()),
            (TRANSFER, encoding::encode_transfer(&transfer)),
        ];
        for (kind, bytes) in &messages {
            let error = answer_raft(&raft, call(sender, *kind, bytes)).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{kind:#06x}");
            let cut = &bytes[..bytes.len() - 1];
            let error = answer_raft(&raft, call(other, *kind, cut)).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::Protocol, "{kind:#06x}");
        }
        let damaged = SnapshotPart { vote: vote_of(sender, true), ..part };
        let damaged = damaged.encode();
        let error = answer_raft(&raft, call(sender, SNAPSHOT, &damaged)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Protocol, "{error}");
        let error = answer_raft(&raft, call(sender, 0x01FE, b"")).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::UnknownMessage);
        assert_eq!(raft.metrics().borrow_watched().current_term, 0);
        // The same in the sender's own name is heard.
        let (kind, body) = answer_raft(&raft, call(sender, APPEND, &append(sender))).await.unwrap();
        assert_eq!(kind, APPEND | REPLY_BIT);
        let appended = encoding::decode_appended::<GlommioHost>(&body).unwrap();
        assert_eq!(appended, AppendEntriesResponse::Success);
        raft.shutdown().await.expect("it runs");
    })
    .expect("an executor");
}
