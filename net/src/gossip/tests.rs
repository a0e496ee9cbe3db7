//! Gossip over real sockets of one process: three nodes, a lossless network, the machine's clock.

use std::net::Ipv4Addr;

use heddle_meta::gossip::{DropReason, Incarnation, Kind, Packet, Run, cluster_of_name};
use heddle_runtime::run_single;

use super::*;

/// Longest a step may take; far more than any needs.
const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &[u8] = b"a secret of tests";

/// A node and the conflicts it was told of.
struct Node {
    handle: GossipHandle,
    address: SocketAddr,
    conflicts: Rc<RefCell<Vec<Conflict>>>,
}

fn any_port(host: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))
}

/// Starts node `number` for the first time on 127.0.0.`host`, which joins `seeds`.
fn start(number: u64, host: u8, seeds: &[SocketAddr]) -> Node {
    start_boot(number, 1, host, seeds)
}

fn start_boot(number: u64, boot: u64, host: u8, seeds: &[SocketAddr]) -> Node {
    let conflicts = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&conflicts);
    let offer = Offer { raft_port: 7_500, peer_port: 7_600, cores: 2, ..Offer::default() };
    let handle = GossipHandle::start(GossipSettings {
        node: NodeId::from(number),
        boot,
        cluster: cluster_of_name("tests"),
        key: Key::from_secret(SECRET),
        listen: any_port(host),
        advertise: format!("127.0.0.{host}"),
        join: seeds.iter().map(SocketAddr::to_string).collect(),
        offer: Box::new(move || offer),
        on_conflict: Box::new(move |conflict| told.borrow_mut().push(*conflict)),
    })
    .unwrap();
    let address = handle.driver.socket.local_address();
    Node { handle, address, conflicts }
}

fn three() -> [Node; 3] {
    let first = start(1, 1, &[]);
    let second = start(2, 2, &[first.address]);
    let third = start(3, 3, &[first.address]);
    [first, second, third]
}

/// Waits until the node sees exactly these others.
async fn sees(node: &Node, others: &[u64]) {
    let expected: Vec<NodeId> = others.iter().copied().map(NodeId::from).collect();
    let wait = async {
        loop {
            let seen = node.handle.version();
            let members: Vec<NodeId> = node.handle.members().iter().map(|m| m.node).collect();
            if members == expected {
                return;
            }
            node.handle.changed(seen).await;
        }
    };
    if timeout(LIMIT, wait).await.is_err() {
        let counters = node.handle.counters();
        panic!("{expected:?} and not {:?}: {counters:?}", node.handle.members());
    }
}

/// Looks again and again; counters change without a word to anyone.
async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap();
}

#[test]
fn three_nodes_find_each_other_and_one_that_leaves_is_gone_at_once() {
    run_single(async {
        let [first, second, third] = three();
        sees(&first, &[2, 3]).await;
        sees(&second, &[1, 3]).await;
        sees(&third, &[1, 2]).await;
        let member = third.handle.members()[1];
        assert_eq!(member.gossip, second.address);
        assert_eq!(member.raft(), SocketAddr::from(([127, 0, 0, 2], 7_500)));
        assert_eq!(member.peer(), SocketAddr::from(([127, 0, 0, 2], 7_600)));
        third.handle.leave();
        sees(&first, &[2]).await;
        sees(&second, &[1]).await;
        // Its socket is closed: another process may take the address.
        let address = third.address;
        drop(third);
        until(|| DatagramSocket::bind(address).is_ok()).await;
    })
    .unwrap();
}

#[test]
fn a_node_that_stops_without_a_word_is_noticed_and_found_again() {
    run_single(async {
        let [first, second, third] = three();
        sees(&first, &[2, 3]).await;
        sees(&second, &[1, 3]).await;
        third.handle.end();
        sees(&first, &[2]).await;
        sees(&second, &[1]).await;
        let again = start_boot(3, 2, 3, &[second.address]);
        sees(&again, &[1, 2]).await;
        sees(&first, &[2, 3]).await;
    })
    .unwrap();
}

#[test]
fn addresses_that_become_known_later_are_reached_out_to() {
    run_single(async {
        let (first, second) = (start(1, 1, &[]), start(2, 2, &[]));
        first.handle.set_known(vec![second.address.to_string(), first.address.to_string()]);
        sees(&first, &[2]).await;
        sees(&second, &[1]).await;
    })
    .unwrap();
}

/// Passes packets on between two nodes, each of which knows only it, and keeps them.
async fn relay(socket: Rc<DatagramSocket>, ends: [SocketAddr; 2], kept: Rc<RefCell<Vec<Vec<u8>>>>) {
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    loop {
        let (length, source) = socket.receive(&mut buffer).await.unwrap();
        let is_from_second = source == ends[1];
        let target = if is_from_second { ends[0] } else { ends[1] };
        socket.try_send(&buffer[..length], target).unwrap();
        if is_from_second {
            kept.borrow_mut().push(buffer[..length].to_vec());
        }
    }
}

#[test]
fn forged_and_repeated_packets_are_dropped_and_counted() {
    run_single(async {
        let socket = Rc::new(DatagramSocket::bind(any_port(9)).unwrap());
        let first = start(1, 1, &[]);
        let second = start(2, 2, &[socket.local_address()]);
        let kept = Rc::new(RefCell::new(Vec::new()));
        let ends = [first.address, second.address];
        let passing = relay(Rc::clone(&socket), ends, Rc::clone(&kept));
        let passing = spawn_joinable(Queue::Control, passing);
        sees(&first, &[2]).await;
        sees(&second, &[1]).await;
        passing.cancel();

        let dropped = |reason| first.handle.counters().dropped(reason);
        let repeated = dropped(DropReason::Replayed);
        let recorded = kept.borrow().clone();
        assert!(!recorded.is_empty());
        for packet in &recorded {
            socket.try_send(packet, first.address).unwrap();
        }
        until(|| dropped(DropReason::Replayed) == repeated + recorded.len() as u64).await;

        let run = Run { node: NodeId::from(9), incarnation: Incarnation { boot: 1, run: 7 } };
        let body = [0; 64];
        let packet = Packet { kind: Kind::Gossip, sender: run, counter: 1, target: 0, body: &body };
        let cluster = cluster_of_name("tests");
        let send = |bytes: &[u8]| socket.try_send(bytes, first.address).unwrap();
        send(&packet.seal(cluster, &Key::from_secret(b"another secret")));
        send(&packet.seal(cluster_of_name("others"), &Key::from_secret(SECRET)));
        send(b"GET / HTTP/1.1\r\n\r\n");
        send(&[b'H'; PACKET_BYTES_MAX + 200]);
        for reason in
            [DropReason::Forged, DropReason::Cluster, DropReason::Truncated, DropReason::Oversized]
        {
            until(|| dropped(reason) == 1).await;
        }
        assert_eq!(first.handle.members().len(), 1);
    })
    .unwrap();
}

#[test]
fn two_processes_of_one_node_are_both_told() {
    run_single(async {
        let witness = start(1, 1, &[]);
        let original = start(2, 2, &[witness.address]);
        sees(&witness, &[2]).await;
        let copy = start(2, 3, &[witness.address]);
        until(|| !original.conflicts.borrow().is_empty()).await;
        until(|| !copy.conflicts.borrow().is_empty()).await;
        let conflict = original.conflicts.borrow()[0];
        assert_eq!(conflict.node, NodeId::from(2));
        assert_ne!(conflict.earlier, conflict.later);
        assert!(witness.conflicts.borrow().is_empty(), "it is nobody's twin");
    })
    .unwrap();
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    run_single(async {
        let first = start(1, 1, &[]);
        let error = GossipHandle::start(GossipSettings {
            node: NodeId::from(2),
            boot: 1,
            cluster: cluster_of_name("tests"),
            key: Key::from_secret(SECRET),
            listen: first.address,
            advertise: "127.0.0.1".to_owned(),
            join: Vec::new(),
            offer: Box::new(Offer::default),
            on_conflict: Box::new(|_| {}),
        })
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    })
    .unwrap();
}
