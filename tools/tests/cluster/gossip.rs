//! How soon a node that died is noticed by the others, and whether one that lives is called dead.
//!
//! As it stands one node of three dies once. For a measurement:
//!
//! ```text
//! HEDDLE_NODES=5 HEDDLE_SECONDS=600 HEDDLE_BUSY=4 \
//!     cargo test -p heddle --test cluster a_killed_node_is_noticed -- --nocapture
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, PATIENCE};

/// Pause between two looks at the members that a node sees.
const PAUSE: Duration = Duration::from_millis(50);
/// Time without a death in a measurement, in which nobody may be called dead.
const CALM: Duration = Duration::from_secs(20);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Threads that take CPU time from the nodes.
struct Busy {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(count: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        Self { threads: (0..count).map(spin).collect(), is_over: Arc::clone(&is_over) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn seen_by(cluster: &Cluster, position: usize) -> usize {
    cluster.counter(position, "heddle_gossip_members") as usize
}

fn running(cluster: &Cluster) -> Vec<usize> {
    (0..cluster.members.len()).filter(|position| cluster.is_running(*position)).collect()
}

/// Waits until every running node sees all others of them.
fn until_whole(cluster: &Cluster) {
    let running = running(cluster);
    let deadline = Instant::now() + PATIENCE;
    while running.iter().any(|position| seen_by(cluster, *position) + 1 < running.len()) {
        assert!(Instant::now() < deadline, "the nodes do not see each other");
        std::thread::sleep(PAUSE);
    }
}

/// Looks for a while; how often a node saw fewer others than there are.
fn false_alarms(cluster: &Cluster, time: Duration) -> usize {
    let running = running(cluster);
    let begun = Instant::now();
    let mut alarms = 0;
    while begun.elapsed() < time {
        for position in &running {
            alarms += usize::from(seen_by(cluster, *position) + 1 < running.len());
        }
        std::thread::sleep(PAUSE);
    }
    alarms
}

/// When each of those that live no longer counted the one that was killed.
fn notice(cluster: &Cluster) -> Vec<Duration> {
    let begun = Instant::now();
    let mut blind = running(cluster);
    let left = blind.len();
    let mut noticed = Vec::new();
    while !blind.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{blind:?} do not notice");
        blind.retain(|position| {
            let sees_others_only = seen_by(cluster, *position) < left;
            if sees_others_only {
                noticed.push(begun.elapsed());
            }
            !sees_others_only
        });
        std::thread::sleep(PAUSE);
    }
    noticed
}

#[test]
fn a_killed_node_is_noticed_by_all_and_nobody_else_is_called_dead() {
    let nodes = number("HEDDLE_NODES", 3) as usize;
    let seconds = number("HEDDLE_SECONDS", 0);
    let _busy = Busy::start(number("HEDDLE_BUSY", 0));
    let mut cluster = Cluster::start("gossip", nodes);
    until_whole(&cluster);
    let begun = Instant::now();
    let (mut noticed, mut alarms, mut kills) = (Vec::new(), 0, 0);
    loop {
        if seconds > 0 {
            alarms += false_alarms(&cluster, CALM);
        }
        let victim = kills % nodes;
        cluster.kill(victim);
        kills += 1;
        noticed.extend(notice(&cluster));
        cluster.spawn(victim);
        cluster.wait_ready(victim);
        until_whole(&cluster);
        if begun.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    noticed.sort_unstable();
    let mean = noticed.iter().sum::<Duration>() / noticed.len() as u32;
    let (median, last) = (noticed[noticed.len() / 2], noticed[noticed.len() - 1]);
    println!(
        "{nodes} nodes, {kills} kills in {:.0?}: noticed after {mean:.1?} on average, {median:.1?} \
         median, {last:.1?} at most; {alarms} looks at which a living node was missed",
        begun.elapsed()
    );
    assert_eq!(alarms, 0, "nodes that live were called dead");
}
