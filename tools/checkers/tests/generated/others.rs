//! Sets, deletions and replicas.

use std::collections::BTreeMap;

use heddle_checkers::convergence::{self, Entry};
use heddle_checkers::resurrection::{self, Sighting, Where};
use heddle_checkers::set::{self, Add, Added, Scan};
use heddle_checkers::{Action, Operation, Outcome, Seen};

use crate::register::{FACTOR, good};
use crate::{HISTORIES, Random};

/// A set to which one element after the other is added, and scans that see all of it.
fn good_set(seed: u64) -> (Vec<Add>, Vec<Scan>) {
    let mut random = Random(seed);
    let (mut adds, mut scans, mut there) = (Vec::new(), Vec::new(), Vec::new());
    for element in 1..=200 {
        let moment = element * 10;
        let added = match random.below(8) {
            0 => Added::Refused,
            1 => Added::Unknown,
            _ => Added::At(moment + random.below(30)),
        };
        if matches!(added, Added::At(_)) || (added == Added::Unknown && random.one_in(2)) {
            there.push(element);
        }
        adds.push(Add { element, called: moment - random.below(10), added });
        if element % 10 == 0 {
            let called = moment - random.below(9);
            scans.push(Scan { called, returned: moment + 1, elements: there.clone() });
        }
    }
    let called = 3_000;
    scans.push(Scan { called, returned: called + 1, elements: there });
    (adds, scans)
}

#[test]
fn good_sets_pass_and_a_lost_a_doubled_and_an_invented_element_are_found() {
    for seed in 0..HISTORIES {
        let (adds, mut scans) = good_set(seed);
        let report = set::check(&adds, &scans);
        assert!(report.is_sound() && report.stale.is_empty(), "seed {seed}: {report:?}");
        assert!(report.stable > 100);
        let mut random = Random(seed ^ 0xBAD);
        let last = scans.last_mut().unwrap();
        let victim = random.below(last.elements.len() as u64) as usize;
        let element = last.elements[victim];
        match seed % 4 {
            0 => {
                last.elements.remove(victim);
                let lost = set::check(&adds, &scans).lost;
                assert_eq!(lost.iter().map(|(lost, _)| *lost).collect::<Vec<_>>(), [element]);
            }
            1 => {
                last.elements.push(element);
                assert_eq!(set::check(&adds, &scans).twice, [element]);
            }
            2 => {
                last.elements.push(9_999);
                assert_eq!(set::check(&adds, &scans).phantoms, [9_999]);
            }
            _ => {
                // Missed once, by a scan long after it was acknowledged.
                let elements = last.elements.clone();
                last.elements.remove(victim);
                scans.push(Scan { called: 4_000, returned: 4_001, elements });
                let stale = set::check(&adds, &scans).stale;
                assert_eq!(stale.iter().map(|(stale, _)| *stale).collect::<Vec<_>>(), [element]);
            }
        }
    }
}

#[test]
fn deletions_of_good_histories_stay_and_whatever_comes_back_is_found() {
    for seed in 0..HISTORIES {
        let history = good(seed);
        assert_eq!(resurrection::check(FACTOR, &history, &[], u64::MAX), [], "seed {seed}");
        // One key more: written, deleted, found again.
        let at = 10_000;
        let operation = |called, action| Operation {
            client: 9,
            key: 77,
            called,
            returned: called + 1,
            copies: 2,
            action,
        };
        let put = Action::Put { value: 9_001, outcome: Outcome::Done(10) };
        let delete = Action::Delete { outcome: Outcome::Done(20) };
        let mut history = [history, vec![operation(at, put), operation(at + 10, delete)]].concat();
        let sighting = |called, version, copies| Sighting {
            key: 77,
            version,
            called,
            returned: called + 1,
            copies,
        };
        // One replica may not know yet, and before the deletion everyone may find it.
        let fine = [sighting(at + 20, Some(10), 1), sighting(at + 5, Some(10), 2)];
        assert_eq!(resurrection::check(FACTOR, &history, &fine, at + 100), []);
        let (sightings, settled) = match seed % 4 {
            0 => (vec![sighting(at + 20, Some(10), 2)], u64::MAX),
            1 => (vec![sighting(at + 20, None, 3)], u64::MAX),
            2 => (vec![sighting(at + 20, Some(10), 1)], at + 20),
            _ => {
                let seen = Seen::Value { version: 10, value: 9_001 };
                history.push(operation(at + 20, Action::Read { seen }));
                (Vec::new(), u64::MAX)
            }
        };
        let found = resurrection::check(FACTOR, &history, &sightings, settled);
        assert_eq!(found.len(), 1, "seed {seed}");
        assert_eq!((found[0].key, found[0].deleted), (77, 20));
        assert_eq!(matches!(found[0].found, Where::Read(_)), seed % 4 == 3);
    }
}

#[test]
fn equal_replicas_pass_and_each_spoiled_entry_is_named() {
    for seed in 0..HISTORIES {
        let mut random = Random(seed);
        let mut entries = BTreeMap::new();
        for _ in 0..100 {
            let (key, version) = (random.below(1_000), random.next());
            let (is_tombstone, content) = (random.one_in(4), random.next());
            entries.insert(key, Entry { key, version, is_tombstone, content });
        }
        let entries: Vec<Entry<u64>> = entries.into_values().collect();
        let mut replicas = vec![entries.clone(), entries.iter().rev().copied().collect(), entries];
        assert_eq!(convergence::check(&replicas, None), [], "seed {seed}");
        let victim = random.below(replicas[1].len() as u64) as usize;
        let key = replicas[1][victim].key;
        match seed % 4 {
            0 => drop(replicas[1].remove(victim)),
            1 => replicas[1][victim].version ^= 1,
            2 => replicas[1][victim].is_tombstone ^= true,
            _ => replicas[1][victim].content ^= 1,
        }
        let found = convergence::check(&replicas, None);
        assert_eq!(found.iter().map(|found| found.key).collect::<Vec<_>>(), [key], "seed {seed}");
    }
}
