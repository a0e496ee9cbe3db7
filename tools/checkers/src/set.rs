//! Sets that only grow: what was added is found by every scan from then on.
//!
//! After Jepsen's set-full. An element is known once it was acknowledged or seen. One that scans
//! miss after that and find again is stale for that long; one that they miss to the end is lost.
//!
//! Cost: linear in the elements of all scans, times a logarithm.

use std::collections::BTreeMap;

/// What came of adding an element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// Acknowledged at this time.
    At(u64),
    /// It may be there or come later.
    Unknown,
    /// It never comes.
    Refused,
}

/// An element that was added, at most once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Add {
    /// The element.
    pub element: u64,
    /// When it was called.
    pub called: u64,
    /// What came of it.
    pub added: Added,
}

/// A list of the whole set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// When it was called.
    pub called: u64,
    /// When it came back.
    pub returned: u64,
    /// What it found, in any order.
    pub elements: Vec<u64>,
}

/// What a check found. Elements are in ascending order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Known, and missed by the last scans that could have found them; each with how long after it
    /// was known it was last seen (0: never).
    pub lost: Vec<(u64, u64)>,
    /// Missed by a scan that was called after they were known, found later; each with how long
    /// after it was known a scan still missed it.
    pub stale: Vec<(u64, u64)>,
    /// Acknowledged, and no scan was called after that.
    pub never_read: Vec<u64>,
    /// More than once in one scan.
    pub twice: Vec<u64>,
    /// Found though nobody had added them by then, or though they were refused.
    pub phantoms: Vec<u64>,
    /// Found by every scan since they were known.
    pub stable: usize,
}

impl Report {
    /// Nothing is lost, doubled or invented. Stale elements are a matter of the level.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.lost.is_empty() && self.twice.is_empty() && self.phantoms.is_empty()
    }
}

/// The value below which a share of the latencies of `report.stale` or `report.lost` lies: `share`
/// in thousandths. None for no latencies.
#[must_use]
pub fn quantile(latencies: &[(u64, u64)], share: usize) -> Option<u64> {
    let mut sorted: Vec<u64> = latencies.iter().map(|(_, latency)| *latency).collect();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * share.min(1_000)).div_ceil(1_000)).copied()
}

/// Where an element was found.
#[derive(Default)]
struct Presence {
    /// Scans by call, ascending.
    scans: Vec<usize>,
    first_seen: Option<u64>,
}

/// Checks a history.
///
/// Panics: an element is added twice.
#[must_use]
pub fn check(adds: &[Add], scans: &[Scan]) -> Report {
    let mut order: Vec<&Scan> = scans.iter().collect();
    order.sort_by_key(|scan| (scan.called, scan.returned));
    let mut report = Report::default();
    let mut elements: BTreeMap<u64, (Add, Presence)> = BTreeMap::new();
    for add in adds {
        let other = elements.insert(add.element, (*add, Presence::default()));
        assert!(other.is_none(), "element {} is added twice", add.element);
    }
    for (position, scan) in order.iter().enumerate() {
        let mut found = scan.elements.clone();
        found.sort_unstable();
        report.twice.extend(found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
        found.dedup();
        for element in found {
            let Some((add, presence)) = elements.get_mut(&element) else {
                report.phantoms.push(element);
                continue;
            };
            if add.added == Added::Refused || add.called > scan.returned {
                report.phantoms.push(element);
                continue;
            }
            presence.scans.push(position);
            let first = presence.first_seen.get_or_insert(scan.returned);
            *first = scan.returned.min(*first);
        }
    }
    for list in [&mut report.twice, &mut report.phantoms] {
        list.sort_unstable();
        list.dedup();
    }
    for (add, presence) in elements.values() {
        judge(add, presence, &order, &mut report);
    }
    report
}

fn judge(add: &Add, presence: &Presence, scans: &[&Scan], report: &mut Report) {
    let acknowledged = match add.added {
        Added::At(at) => Some(at),
        Added::Unknown | Added::Refused => None,
    };
    let Some(known) = acknowledged.into_iter().chain(presence.first_seen).min() else { return };
    // Scans that were called after it was known must find it.
    let from = scans.partition_point(|scan| scan.called <= known);
    if from == scans.len() && presence.scans.is_empty() {
        report.never_read.push(add.element);
        return;
    }
    let mut present = presence.scans.iter().rev().copied().peekable();
    let missed = (from..scans.len()).rev().find(|position| present.next_if_eq(position).is_none());
    let Some(missed) = missed else {
        report.stable += 1;
        return;
    };
    match presence.scans.last() {
        Some(last) if *last > missed => {
            report.stale.push((add.element, scans[missed].called - known));
        }
        last => {
            let seen = last.map_or(0, |last| scans[*last].called.saturating_sub(known));
            report.lost.push((add.element, seen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(called: u64, elements: &[u64]) -> Scan {
        Scan { called, returned: called + 1, elements: elements.to_vec() }
    }

    fn add(element: u64, called: u64, added: Added) -> Add {
        Add { element, called, added }
    }

    #[test]
    fn what_scans_miss_and_find_again_is_stale_for_as_long_as_they_miss_it() {
        let adds = [add(1, 0, Added::At(10)), add(2, 0, Added::At(5))];
        let scans = [scan(20, &[2]), scan(30, &[2]), scan(40, &[1, 2])];
        let report = check(&adds, &scans);
        assert_eq!(report.stale, [(1, 20)]);
        assert_eq!(report.stable, 1);
        assert!(report.is_sound());
    }

    #[test]
    fn what_scans_miss_to_the_end_is_lost_once_it_was_acknowledged_or_seen() {
        let adds = [add(1, 0, Added::At(5)), add(2, 0, Added::Unknown), add(3, 0, Added::Unknown)];
        let report = check(&adds, &[scan(10, &[2]), scan(20, &[])]);
        assert_eq!(report.lost, [(1, 0), (2, 0)]);
        assert_eq!(check(&adds, &[]).never_read, [1]);
    }

    #[test]
    fn doubled_and_invented_elements_are_named() {
        let adds = [add(1, 0, Added::At(5)), add(2, 9, Added::Refused), add(3, 90, Added::At(99))];
        let report = check(&adds, &[scan(10, &[1, 1, 2, 3, 7])]);
        assert_eq!((report.twice, report.phantoms), (vec![1], vec![2, 3, 7]));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_latencies() {
        let latencies: Vec<(u64, u64)> = (0..=100).rev().map(|latency| (0, latency)).collect();
        assert_eq!(
            [0, 500, 990, 1_000].map(|share| quantile(&latencies, share).unwrap()),
            [0, 50, 99, 100]
        );
        assert_eq!(quantile(&[], 500), None);
    }
}
