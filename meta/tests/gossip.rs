//! Nodes find each other, notice the dead, survive partitions and restarts, and let no stranger in.

#[path = "gossip/network.rs"]
mod network;

use std::time::Duration;

use heddle_meta::gossip::{DropReason, Event, Key, Offer, SUSPICION, detection_time_max};
use heddle_types::NodeId;
use network::{Network, address, is_whole};
use uuid::Uuid;

const SECOND: Duration = Duration::from_secs(1);
/// Histories per question, and a tenth of that for the long ones.
const SEEDS: u64 = 200;
const ALL: [u16; 5] = [1, 2, 3, 4, 5];

fn whole_cluster(seed: u64) -> Network {
    let mut network = Network::cluster(seed, 5);
    network.run_until(10 * SECOND, is_whole);
    network
}

#[test]
fn five_nodes_find_each_other_from_one_address() {
    let mut longest = Duration::ZERO;
    for seed in 0..SEEDS {
        let mut network = Network::cluster(seed, 5);
        longest = longest.max(network.run_until(10 * SECOND, is_whole));
        let member = network.process(5).members[&NodeId::from(2)];
        assert_eq!(member.gossip, address(2));
        assert_eq!(member.raft().port(), 7_500);
        assert_eq!(member.peer().port(), 3);
    }
    println!("found each other after at most {longest:?}");
}

#[test]
fn sixty_nodes_find_each_other_and_notice_a_death() {
    let mut network = Network::cluster(11, 60);
    let found = network.run_until(30 * SECOND, is_whole);
    network.run_for(10 * SECOND);
    network.kill(30);
    let noticed = network.run_until(detection_time_max(60), |processes| {
        processes.values().all(|process| process.members.len() == 58)
    });
    println!("60 nodes: found after {found:?}, noticed after {noticed:?}");
}

#[test]
fn a_first_node_that_is_down_at_the_start_of_the_others_is_found_later() {
    let mut network = Network::new(3);
    for number in 2..=5 {
        network.start(number.into(), 1, number, &[1]);
    }
    network.run_for(30 * SECOND);
    assert!(network.processes.values().all(|process| process.members.is_empty()));
    network.start(1, 1, 1, &[1]);
    network.run_until(10 * SECOND, is_whole);
}

#[test]
fn a_killed_node_is_noticed_by_all_within_the_documented_time() {
    let (mut longest, mut sum) = (Duration::ZERO, Duration::ZERO);
    for seed in 0..SEEDS {
        let mut network = whole_cluster(seed);
        let settle = Duration::from_millis(network.random.below(5_000));
        network.run_for(settle);
        let killed = NodeId::from(1 + seed % 5);
        network.kill(1 + u16::try_from(seed % 5).unwrap());
        let took = network.run_until(detection_time_max(5), |processes| {
            processes.values().all(|process| !process.members.contains_key(&killed))
        });
        assert!(network.processes.values().all(|process| process.downs.len() == 1), "seed {seed}");
        assert!(took >= SUSPICION, "seed {seed}: nobody had time to object");
        longest = longest.max(took);
        sum += took;
    }
    println!(
        "noticed after {:?} on average, at most {longest:?}",
        sum / u32::try_from(SEEDS).unwrap()
    );
}

#[test]
fn a_node_that_leaves_is_gone_at_once() {
    let mut network = whole_cluster(8);
    network.run_for(3 * SECOND);
    network.tell(address(4), Event::Leave);
    network.run_for(SECOND);
    let left = network.kill(4);
    assert!(network.processes.values().all(|process| process.members.len() == 3));
    let sent = left.gossip.counters().sent;
    network.processes.insert(address(4), left);
    network.run_for(60 * SECOND);
    assert_eq!(network.process(4).gossip.counters().sent, sent, "it stays silent");
}

#[test]
fn nobody_is_called_dead_in_ten_minutes_with_five_percent_loss() {
    for seed in 0..SEEDS / 10 {
        let mut network = whole_cluster(seed);
        network.lose(5);
        network.run_for(600 * SECOND);
        for process in network.processes.values() {
            assert_eq!(process.downs, [], "seed {seed}");
            assert_eq!(process.gossip.counters().foca_errors, 0, "seed {seed}");
        }
        assert!(is_whole(&network.processes), "seed {seed}");
    }
}

#[test]
fn a_node_without_cpu_for_three_seconds_is_not_called_dead_and_calls_nobody_dead() {
    for seed in 0..20 {
        let mut network = whole_cluster(seed);
        for _ in 0..5 {
            network.run_for(5 * SECOND);
            network.stall(2, 3 * SECOND);
        }
        network.run_for(20 * SECOND);
        assert!(network.processes.values().all(|process| process.downs.is_empty()), "seed {seed}");
        assert!(network.process(2).gossip.counters().stalls > 0);
    }
}

#[test]
fn a_node_that_slept_for_a_minute_calls_nobody_dead_and_comes_back() {
    for seed in 0..20 {
        let mut network = whole_cluster(seed);
        network.stall(2, 60 * SECOND);
        network.run_for(59 * SECOND);
        for port in [1, 3, 4, 5] {
            assert!(!network.process(port).members.contains_key(&NodeId::from(2)));
        }
        network.run_until(20 * SECOND, is_whole);
        assert!(network.process(2).downs.is_empty(), "seed {seed}");
    }
}

// With a new identity foca forgets its timers, and sets new ones only when a packet arrives: it
// would hold its last members for alive for ever.
#[test]
fn a_node_called_dead_whose_peers_then_die_notices_that_too() {
    for seed in 0..SEEDS / 10 {
        let mut network = Network::cluster(seed, 3);
        network.run_until(10 * SECOND, is_whole);
        network.stall(3, 30 * SECOND);
        network.run_until(25 * SECOND, |processes| {
            [1, 2].iter().all(|port| processes[&address(*port)].members.len() == 1)
        });
        network.kill(1);
        network.kill(2);
        // It reads the last words of the others when it wakes up.
        network.run_until(30 * SECOND + detection_time_max(3), |processes| {
            processes[&address(3)].members.is_empty()
        });
        network.start(1, 2, 1, &[]);
        network.run_until(5 * SECOND, is_whole);
    }
}

#[test]
fn a_partition_of_three_and_two_for_a_minute_heals() {
    let mut longest = Duration::ZERO;
    for seed in 0..SEEDS {
        let mut network = whole_cluster(seed);
        network.part(&[1, 2, 3], &[4, 5]);
        network.run_for(60 * SECOND);
        for (port, left) in [(1, 2), (2, 2), (3, 2), (4, 1), (5, 1)] {
            assert_eq!(network.process(port).members.len(), left, "seed {seed}, node {port}");
        }
        network.heal();
        longest = longest.max(network.run_until(30 * SECOND, is_whole));
    }
    println!("healed after at most {longest:?}");
}

#[test]
fn nodes_that_all_thought_each_other_dead_find_each_other_again() {
    let mut longest = Duration::ZERO;
    for seed in 0..SEEDS {
        let mut network = whole_cluster(seed);
        for port in ALL {
            let others: Vec<u16> = ALL.into_iter().filter(|other| *other != port).collect();
            network.part(&[port], &others);
        }
        network.run_for(120 * SECOND);
        assert!(network.processes.values().all(|process| process.members.is_empty()));
        network.heal();
        longest = longest.max(network.run_until(30 * SECOND, is_whole));
        network.run_for(60 * SECOND);
        assert!(is_whole(&network.processes), "seed {seed}: it stays whole");
    }
    println!("whole again after at most {longest:?}");
}

#[test]
fn a_restart_at_a_new_address_wins_at_once() {
    for seed in 0..SEEDS {
        let mut network = whole_cluster(seed);
        network.run_for(5 * SECOND);
        network.kill(3);
        network.start(3, 2, 33, &[1]);
        let took = network.run_until(3 * SECOND, is_whole);
        assert!(took < SUSPICION);
        for process in network.processes.values().filter(|p| p.gossip.run().node != NodeId::from(3))
        {
            assert_eq!(process.members[&NodeId::from(3)].gossip, address(33));
            assert_eq!(process.members[&NodeId::from(3)].incarnation.boot, 2);
        }
        network.run_for(60 * SECOND);
        assert!(is_whole(&network.processes), "seed {seed}: it stays whole");
        let conflicts = network.processes.values().map(|process| process.conflicts.len());
        assert_eq!(conflicts.sum::<usize>(), 0, "seed {seed}: the old run is dead");
    }
}

#[test]
fn a_restart_at_the_old_address_wins_at_once_also_over_a_run_called_dead() {
    for seed in 0..SEEDS {
        let mut network = whole_cluster(seed);
        network.kill(3);
        if seed % 2 == 0 {
            network.run_for(30 * SECOND);
        }
        network.start(3, 2, 3, &[1]);
        network.run_until(3 * SECOND, is_whole);
    }
}

#[test]
fn what_a_node_offers_reaches_everyone() {
    let mut network = whole_cluster(4);
    let offer = Offer { disk_free_bytes: 1 << 40, load_permille: 900, ..Offer::default() };
    network.tell(address(2), Event::Offer(offer));
    network.run_until(10 * SECOND, |processes| {
        let mut others = processes.iter().filter(|(at, _)| **at != address(2));
        others.all(|(_, process)| process.members[&NodeId::from(2)].offer == offer)
    });
}

#[test]
fn a_cluster_at_rest_sends_little_and_one_that_changes_not_much_more() {
    let mut network = whole_cluster(5);
    network.run_for(60 * SECOND);
    for (what, is_busy, packets_max) in [("at rest", false, 8), ("with new offers", true, 24)] {
        network.recorded = Some(Vec::new());
        for second in 0..60 {
            for port in ALL.into_iter().filter(|_| is_busy) {
                let offer = Offer { disk_free_bytes: second, ..Offer::default() };
                network.tell(address(port), Event::Offer(offer));
            }
            network.run_for(SECOND);
        }
        let recorded = network.recorded.take().unwrap();
        let bytes: usize = recorded.iter().map(|(.., bytes)| bytes.len()).sum();
        let per_node = |total: usize| total / 60 / ALL.len();
        let (packets, bytes) = (per_node(recorded.len()), per_node(bytes));
        println!("{what}: {packets} packets and {bytes} bytes a second from each node");
        assert!(packets <= packets_max, "{what}: {packets} packets a second");
    }
}

#[test]
fn two_processes_of_one_node_are_reported_to_both() {
    // The second process counts the same start, as with a copied directory, or a later one.
    for (seed, second_boot) in (0..SEEDS).map(|seed| (seed, 1 + seed % 2)) {
        let mut network = whole_cluster(seed);
        network.start(3, second_boot, 33, &[1]);
        let took = network.run_until(20 * SECOND, |processes| {
            [3, 33].iter().all(|port| !processes[&address(*port)].conflicts.is_empty())
        });
        assert!(took < 20 * SECOND);
        let runs = [3, 33].map(|port| network.process(port).gossip.run().incarnation);
        for port in [3, 33] {
            let conflict = network.process(port).conflicts[0];
            assert_eq!(conflict.node, NodeId::from(3));
            assert_eq!(conflict.earlier, runs[0].min(runs[1]));
            assert_eq!(conflict.later, runs[0].max(runs[1]));
        }
        // The others stay with the later one and report no end of it.
        network.run_for(60 * SECOND);
        for port in [1, 2, 4, 5] {
            let process = network.process(port);
            let member = process.members[&NodeId::from(3)];
            assert_eq!(member.incarnation, runs[0].max(runs[1]), "seed {seed}, node {port}");
            assert!(process.conflicts.len() <= 10, "{} reports", process.conflicts.len());
        }
    }
}

#[test]
fn an_older_copy_of_a_dead_node_is_reported_and_not_taken() {
    let mut network = Network::new(9);
    network.start(1, 1, 1, &[1]);
    network.start(3, 7, 3, &[1]);
    network.run_until(5 * SECOND, is_whole);
    network.kill(3);
    network.run_for(30 * SECOND);
    network.start(3, 6, 3, &[1]);
    network.run_for(30 * SECOND);
    assert!(network.process(1).members.is_empty());
    for port in [1, 3] {
        let conflict = network.process(port).conflicts[0];
        assert_eq!((conflict.earlier.boot, conflict.later.boot), (6, 7));
    }
    network.kill(3);
    network.start(3, 8, 3, &[1]);
    network.run_until(5 * SECOND, is_whole);
}

#[test]
fn two_processes_of_one_node_that_know_only_each_other_notice_too() {
    let mut network = Network::new(1);
    network.start(3, 1, 3, &[33]);
    network.start(3, 1, 33, &[3]);
    network.run_for(5 * SECOND);
    for port in [3, 33] {
        assert_eq!(network.process(port).conflicts.len(), 1);
        assert!(network.process(port).members.is_empty());
    }
}

#[test]
fn recorded_packets_are_dropped_now_and_after_restarts() {
    for seed in 0..10 {
        let mut network = Network::new(seed);
        network.recorded = Some(Vec::new());
        for port in ALL {
            network.start(port.into(), 1, port, &[1]);
        }
        network.run_until(10 * SECOND, is_whole);
        network.run_for(20 * SECOND);
        let recorded = network.recorded.take().unwrap();
        // What is still on its way arrives first.
        network.run_for(SECOND);

        // In the same runs: nothing is taken twice.
        let mut quiet = Network::new(0);
        std::mem::swap(&mut quiet.processes, &mut network.processes);
        quiet.now = network.now;
        // A packet that overtook the proof of its sender was dropped then, so it may count now.
        let early = quiet.dropped(DropReason::Unproven);
        for (round, allowed) in [early, 0].into_iter().enumerate() {
            let before = taken(&quiet);
            for (source, target, bytes) in &recorded {
                quiet.tell(*target, Event::Packet { source: *source, bytes });
            }
            let again = taken(&quiet) - before;
            assert!(again <= allowed, "seed {seed}, round {round}: {again} taken again");
        }
        let dropped = quiet.dropped(DropReason::Replayed);
        assert!(dropped >= 2 * recorded.len() as u64 - early, "{dropped} dropped");

        // After a restart of two of them: no dead run is met, nobody of the old is believed.
        let mut network = Network::new(seed + 100);
        network.now = quiet.now;
        for port in [1, 2] {
            network.start(port.into(), 2, port, &[1]);
        }
        network.run_until(10 * SECOND, is_whole);
        for (source, target, bytes) in recorded {
            network.deliver(source, target, bytes);
        }
        network.run_for(30 * SECOND);
        for port in [1, 2] {
            let process = network.process(port);
            assert_eq!(process.members.len(), 1, "seed {seed}");
            assert_eq!((process.ups, process.downs.len()), (1, 0), "seed {seed}");
            assert!(process.conflicts.is_empty());
        }
        assert!(network.dropped(DropReason::Misdirected) > 100);
    }
}

#[test]
fn packets_of_a_run_that_is_dead_are_dropped_and_prove_nothing() {
    for seed in 0..SEEDS / 10 {
        let mut network = Network::new(seed);
        network.recorded = Some(Vec::new());
        for port in ALL {
            network.start(port.into(), 1, port, &[1]);
        }
        network.run_until(10 * SECOND, is_whole);
        network.run_for(10 * SECOND);
        let recorded = network.recorded.take().unwrap();
        network.kill(2);
        network.start(2, 2, 22, &[1]);
        network.run_until(5 * SECOND, is_whole);
        for (source, target, bytes) in recorded.iter().chain(&recorded) {
            network.deliver(*source, *target, bytes.clone());
            network.run_for(Duration::from_millis(20));
        }
        assert!(is_whole(&network.processes), "seed {seed}");
        assert!(network.dropped(DropReason::Superseded) > 20, "seed {seed}");
        assert!(network.processes.values().all(|process| process.conflicts.is_empty()));
    }
}

fn taken(network: &Network) -> u64 {
    network.processes.values().map(|process| process.gossip.counters().taken).sum()
}

#[test]
fn strangers_are_dropped_and_counted() {
    let mut network = whole_cluster(2);
    let mut other_cluster = network.config(7, 1, 7, &[1]);
    other_cluster.cluster = Uuid::from_u128(0xC2);
    network.start_as(other_cluster);
    let mut other_secret = network.config(8, 1, 8, &[1]);
    other_secret.key = Key::from_secret(b"");
    network.start_as(other_secret);
    network.run_for(10 * SECOND);
    let counters = network.process(1).gossip.counters();
    assert!(counters.dropped(DropReason::Cluster) >= 8);
    assert!(counters.dropped(DropReason::Forged) >= 8);
    for port in [7, 8] {
        assert!(network.kill(port).members.is_empty());
    }
    assert!(is_whole(&network.processes));
}

#[test]
fn random_and_damaged_bytes_are_dropped_without_a_word() {
    let mut network = Network::new(6);
    network.recorded = Some(Vec::new());
    for port in ALL {
        network.start(port.into(), 1, port, &[1]);
    }
    network.run_until(10 * SECOND, is_whole);
    let recorded = network.recorded.take().unwrap();
    let before = taken(&network);
    let mut expected = 0;
    for _ in 0..20_000 {
        let index = network.random.below(recorded.len() as u64);
        let (source, target, mut bytes) = recorded[usize::try_from(index).unwrap()].clone();
        if network.random.one_in(2) {
            let length = network.random.below(1_600);
            bytes = network.random.bytes(usize::try_from(length).unwrap());
        } else if network.random.one_in(2) {
            let length = network.random.below(bytes.len() as u64);
            bytes.truncate(usize::try_from(length).unwrap());
        } else {
            let bit = network.random.below(bytes.len() as u64 * 8);
            bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        }
        expected += 1;
        network.tell(target, Event::Packet { source, bytes: &bytes });
    }
    assert_eq!(taken(&network), before);
    let counted = [
        DropReason::Truncated,
        DropReason::Oversized,
        DropReason::Foreign,
        DropReason::Version,
        DropReason::Cluster,
        DropReason::Forged,
    ];
    assert_eq!(counted.map(|reason| network.dropped(reason)).iter().sum::<u64>(), expected);
    assert!(counted.iter().all(|reason| network.dropped(*reason) > 0));
}

#[test]
fn a_join_list_that_comes_later_is_used() {
    let mut network = Network::new(12);
    network.start(1, 1, 1, &[]);
    network.start(2, 1, 2, &[]);
    network.run_for(10 * SECOND);
    assert!(network.process(2).members.is_empty());
    network.tell(address(2), Event::Seeds(vec![address(1)]));
    network.run_until(3 * SECOND, is_whole);
}

#[test]
fn after_any_storm_everyone_sees_everyone_again() {
    let mut longest = Duration::ZERO;
    for seed in 0..SEEDS / 4 {
        let mut network = Network::cluster(seed, 5);
        let mut boots = [1; 5];
        for _ in 0..60 {
            storm(&mut network, &mut boots);
        }
        network.lose(0);
        network.heal();
        for port in ALL {
            if !network.processes.contains_key(&address(port)) {
                restart(&mut network, &mut boots, port);
            }
        }
        longest = longest.max(network.run_until(60 * SECOND, is_whole));
        network.run_for(60 * SECOND);
        assert!(is_whole(&network.processes), "seed {seed}: it stays whole");
        let conflicts = network.processes.values().map(|process| process.conflicts.len());
        assert_eq!(conflicts.sum::<usize>(), 0, "seed {seed}: no node ran twice");
    }
    println!("whole after a storm within {longest:?}");
}

/// One misfortune, and some time to suffer from it.
fn storm(network: &mut Network, boots: &mut [u64; 5]) {
    let mut any = || u16::try_from(1 + network.random.below(5)).expect("at most five");
    let (one, other) = (any(), any());
    let runs = network.processes.contains_key(&address(one));
    match network.random.below(8) {
        0 | 1 if runs && network.processes.len() > 1 => {
            network.kill(one);
        }
        0..3 if !runs => restart(network, boots, one),
        3 if one != other => network.cut(one, other),
        4 if one != other => network.part(&[one], &[other]),
        5 => {
            let others: Vec<u16> = ALL.into_iter().filter(|port| *port != one).collect();
            network.part(&[one], &others);
        }
        6 if runs => {
            let time = Duration::from_millis(network.random.below(20_000));
            network.stall(one, time);
        }
        7 => network.heal(),
        _ => {
            let percent = network.random.below(30);
            network.lose(percent);
        }
    }
    let pause = Duration::from_millis(network.random.below(8_000));
    network.run_for(pause);
}

fn restart(network: &mut Network, boots: &mut [u64; 5], port: u16) {
    let boot = &mut boots[usize::from(port) - 1];
    *boot += 1;
    // Two of them are enough to find the rest.
    network.start(port.into(), *boot, port, &[1, 2]);
}

#[test]
fn equal_seeds_give_equal_histories() {
    let history = |seed| {
        let mut network = Network::cluster(seed, 4);
        network.recorded = Some(Vec::new());
        network.lose(10);
        network.run_for(30 * SECOND);
        network.kill(2);
        network.run_for(30 * SECOND);
        network.recorded.take().unwrap()
    };
    assert_eq!(history(1), history(1));
    assert_ne!(history(1), history(2));
}
