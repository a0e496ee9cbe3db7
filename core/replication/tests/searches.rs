//! Is a merged list what one replica would have found that had every newest version?

mod common;

use common::{Random, dead, id, live, stamp};
use heddle_replication::{Hit, SearchMerge};
use heddle_types::{ObjectDigest, ObjectId};

/// Where a version of an object lies: each write moves it.
fn distance(row: u64, hlc: u64) -> f32 {
    ((row * 7 + hlc * 13) % 11) as f32
}

fn hit(row: u64, version: ObjectDigest) -> Hit {
    let hlc = version.stamp.hlc.0;
    Hit { id: id(row), stamp: version.stamp, distance: distance(row, hlc) }
}

/// The nearest living versions, nearest first.
fn nearest(versions: &[Option<ObjectDigest>], count: usize) -> Vec<Hit> {
    let living = versions.iter().enumerate().filter_map(|(row, version)| {
        let version = version.filter(|version| !version.is_tombstone)?;
        Some(hit(row as u64, version))
    });
    let mut hits: Vec<Hit> = living.collect();
    hits.sort_by(|left, right| {
        left.distance.total_cmp(&right.distance).then(left.id.cmp(&right.id))
    });
    hits.truncate(count);
    hits
}

#[test]
fn replicas_that_lag_behind_give_the_list_of_one_that_does_not() {
    for seed in 0..2_000 {
        let mut random = Random::new(seed);
        let replicas = 1 + random.below(4);
        let rows = 1 + random.below(12);
        let count = 1 + random.below(6);
        let mut worlds = vec![vec![None; rows]; replicas];
        for world in &mut worlds {
            for version in world.iter_mut() {
                let hlc = 1 + random.next() % 3;
                let of_that_time = if hlc == 2 { dead(hlc) } else { live(hlc) };
                *version = Some(of_that_time).filter(|_| random.chance(80));
            }
        }
        let newest = (0..rows).map(|row| worlds.iter().map(|world| world[row]).max().flatten());
        let newest: Vec<Option<ObjectDigest>> = newest.collect();
        let lists = worlds.iter().map(|world| nearest(world, count)).collect();
        let merge = SearchMerge::new(lists);
        let mut asked = Vec::new();
        for replica in 0..replicas as u8 {
            asked.extend(merge.wanted(replica).map(|id| (replica, id)));
        }
        let digest_of = |replica: u8, id: ObjectId| {
            assert!(asked.contains(&(replica, id)), "seed {seed}: uses what it asked for");
            worlds[usize::from(replica)][id.as_u128() as usize]
        };
        let merged = merge.finish(count, digest_of);
        // Whatever is in the list is up to date, and lives; and whoever is nearer than its last
        // and was offered by a replica that had room for it is in it.
        let ids: Vec<ObjectId> = merged.iter().map(|(hit, _)| hit.id).collect();
        for (hit, source) in &merged {
            let row = hit.id.as_u128() as usize;
            assert_eq!(Some(hit.stamp), newest[row].map(|version| version.stamp), "seed {seed}");
            assert!(newest[row].is_some_and(|version| !version.is_tombstone), "seed {seed}");
            assert_eq!(worlds[usize::from(*source)][row], newest[row], "seed {seed}");
        }
        for world in &worlds {
            for offered in nearest(world, count) {
                let row = offered.id.as_u128() as usize;
                let is_newest = world[row] == newest[row];
                let is_near = merged.len() < count
                    || merged.last().is_some_and(|(last, _)| {
                        (offered.distance, offered.id) < (last.distance, last.id)
                    });
                assert!(!is_newest || !is_near || ids.contains(&offered.id), "seed {seed}");
            }
        }
        if worlds.iter().all(|world| *world == worlds[0]) {
            assert!(asked.is_empty(), "seed {seed}: equal replicas need no digests");
            let hits: Vec<Hit> = merged.iter().map(|(hit, _)| *hit).collect();
            assert_eq!(hits, nearest(&newest, count), "seed {seed}");
        }
    }
}

#[test]
fn what_another_replica_deleted_or_moved_is_dropped_also_at_the_same_stamp() {
    let old = Hit { id: id(1), stamp: stamp(5), distance: 0.5 };
    let check = |known: Option<ObjectDigest>, stays: bool| {
        let merge = SearchMerge::new(vec![vec![old], Vec::new()]);
        assert_eq!(merge.wanted(0).count(), 0);
        assert_eq!(merge.wanted(1).collect::<Vec<_>>(), [id(1)]);
        let merged = merge.finish(3, |_, _| known);
        assert_eq!(merged.len(), usize::from(stays), "{known:?}");
    };
    check(None, true);
    check(Some(live(4)), true);
    check(Some(dead(4)), true);
    check(Some(live(5)), true);
    check(Some(dead(5)), false);
    check(Some(live(6)), false);
    let moved = Hit { id: id(1), stamp: stamp(6), distance: 0.9 };
    let merge = SearchMerge::new(vec![vec![old], vec![moved]]);
    assert_eq!(merge.wanted(0).chain(merge.wanted(1)).count(), 0);
    assert_eq!(merge.finish(3, |_, _| None), [(moved, 1)]);
}

#[test]
fn equal_distances_come_by_id_and_no_replica_gives_no_hits() {
    let hit = |row, distance| Hit { id: id(row), stamp: stamp(1), distance };
    let merge = SearchMerge::new(vec![vec![hit(3, 1.0), hit(2, 1.0)], vec![hit(1, 1.0)]]);
    let ids =
        |count| merge.finish(count, |_, _| None).iter().map(|(h, _)| h.id).collect::<Vec<_>>();
    assert_eq!(ids(2), [id(1), id(2)]);
    assert_eq!(ids(0), []);
    assert!(SearchMerge::new(Vec::new()).finish(5, |_, _| None).is_empty());
}
