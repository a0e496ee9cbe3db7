//! How much memory there is, and how much the process holds.

use std::fs;
use std::rc::Rc;
use std::time::Duration;

use heddle_runtime::sleep;

use crate::core::Core;

/// How often the memory of the process is compared with its budget.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Share of the machine or container that a node takes when it is not told: the rest is for page
/// tables, socket buffers and whoever else runs there.
const SHARE_NUMERATOR: u64 = 4;
const SHARE_DENOMINATOR: u64 = 5;

/// The memory budget of the node: the wish, or a share of what there is.
pub(crate) fn budget(wanted_bytes: u64) -> u64 {
    if wanted_bytes != 0 {
        return wanted_bytes;
    }
    let machine = read("/proc/meminfo").and_then(|text| meminfo_total(&text));
    let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    let available = [machine, container].into_iter().flatten().min().unwrap_or(u64::MAX);
    available / SHARE_DENOMINATOR * SHARE_NUMERATOR
}

/// Bytes of this process that are in memory; 0 when the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    let pages = read("/proc/self/statm")
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Compares the memory of the process with its budget, on the meta core, as long as the node runs.
///
/// Each engine keeps its own sum below the budget; this adds up what none of them sees: all cores
/// together, request bodies, caches, what the allocator holds back.
pub(crate) async fn watch(core: Rc<Core>) {
    let node = &core.node;
    loop {
        let resident_bytes = resident_bytes();
        let was_full = node.is_memory_full(0);
        node.set_resident_bytes(resident_bytes);
        let full = node.is_memory_full(0);
        if full != was_full {
            let budget_bytes = node.memory_bytes;
            if full {
                tracing::warn!(resident_bytes, budget_bytes, "memory is used up: puts are refused");
            } else {
                tracing::info!(resident_bytes, budget_bytes, "memory is free again");
            }
        }
        sleep(WATCH_INTERVAL).await;
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_met_and_otherwise_a_share_of_the_machine_is_taken() {
        assert_eq!(budget(123), 123);
        let text = "MemTotal:       16384 kB\nMemFree: 1 kB\n";
        assert_eq!(meminfo_total(text), Some(16 << 20));
        assert_eq!(meminfo_total("MemTotal: much"), None);
        assert!(budget(0) > 0);
        assert!(resident_bytes() > 0);
    }
}
