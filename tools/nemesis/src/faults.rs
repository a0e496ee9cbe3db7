//! What is done to a cluster.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Random;
use crate::cluster::Cluster;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    None,
    Kill,
    Pause,
    Cut,
    OneWay,
    SlowNet,
    Reset,
    Clock,
    Wipe,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::None,
        Self::Kill,
        Self::Pause,
        Self::Cut,
        Self::OneWay,
        Self::SlowNet,
        Self::Reset,
        Self::Clock,
        Self::Wipe,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::OneWay => "one-way",
            Self::SlowNet => "slow-net",
            Self::Reset => "reset",
            Self::Clock => "clock",
            Self::Wipe => "wipe",
        })
    }
}

/// Shortest and longest fault.
const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_millis(3_000);
const DELAY_MAX_MS: u64 = 200;
const RESET_ONE_IN: u64 = 40;
/// Clocks are wrong by up to so much: less than what replicas refuse.
const OFFSET_MS_MAX: u64 = 400;
const READY_LIMIT: Duration = Duration::from_secs(60);

fn between(random: &mut Random, shortest: Duration, longest: Duration) -> Duration {
    let span = (longest - shortest).as_millis() as u64;
    shortest + Duration::from_millis(random.below(span.max(1)))
}

/// Breaks the cluster again and again until `end`; how many faults there were.
pub(crate) fn disturb(
    cluster: &mut Cluster,
    fault: Fault,
    random: &mut Random,
    end: Instant,
) -> Result<u64, String> {
    let mut count = 0;
    while Instant::now() < end {
        std::thread::sleep(between(random, SHORT, LONG).min(end - Instant::now().min(end)));
        let node = random.below(cluster.count() as u64) as usize;
        let lasts = between(random, SHORT, LONG);
        match fault {
            Fault::None => continue,
            Fault::Kill => {
                cluster.kill(node);
                std::thread::sleep(lasts.min(SHORT * 2));
                restart(cluster, node)?;
            }
            Fault::Clock => {
                let far = random.below(2 * OFFSET_MS_MAX) as i64 - OFFSET_MS_MAX as i64;
                cluster.kill(node);
                cluster.set_clock_offset_ms(node, far);
                restart(cluster, node)?;
            }
            Fault::Wipe if count == 0 => {
                cluster.kill(node);
                cluster.wipe(node);
                cluster.run(node)?;
            }
            Fault::Wipe => continue,
            Fault::Pause => {
                cluster.signal(node, Signal::STOP);
                std::thread::sleep(lasts);
                cluster.signal(node, Signal::CONT);
            }
            Fault::Cut | Fault::OneWay | Fault::SlowNet | Fault::Reset => {
                spoil_network(cluster, fault, node, random);
                std::thread::sleep(lasts);
                cluster.network.mend();
            }
        }
        count += 1;
    }
    cluster.network.mend();
    Ok(count)
}

fn restart(cluster: &mut Cluster, node: usize) -> Result<(), String> {
    cluster.run(node)?;
    cluster.wait_ready(node, Instant::now() + READY_LIMIT)
}

fn spoil_network(cluster: &Cluster, fault: Fault, node: usize, random: &mut Random) {
    let network = &cluster.network;
    for other in (0..cluster.count()).filter(|other| *other != node) {
        match fault {
            Fault::Cut => {
                network.cut(node, other);
                network.cut(other, node);
            }
            Fault::OneWay => network.cut(node, other),
            Fault::SlowNet => {
                let delay = Duration::from_millis(1 + random.below(DELAY_MAX_MS));
                network.slow(node, other, delay);
                network.slow(other, node, delay);
            }
            _ => {
                network.reset_one_in(node, other, RESET_ONE_IN);
                network.reset_one_in(other, node, RESET_ONE_IN);
            }
        }
    }
}
