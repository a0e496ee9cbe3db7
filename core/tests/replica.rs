//! Writes stamped elsewhere: do replicas end alike, whatever order copies of writes arrive in, and
//! do stamps only ever grow?
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use std::pin::pin;

use common::*;
use futures::FutureExt;
use futures::future::join_all;
use heddle_core::engine::{Durability, Replicated, StampedChange, StampedWrite, Want};
use heddle_sim::{Crash, Random};
use heddle_types::{
    ApiError, ErrorCode, Hlc, NodeId, ObjectDigest, ObjectId, Properties, Stamp, Value,
};
use uuid::Uuid;

const NOW_US: u64 = 1_700_000_000_000_000;

fn stamp(us: u64, node: u128) -> Stamp {
    let hlc = Hlc::from_unix_us(NOW_US - 1_000_000 + us);
    Stamp { hlc, boot: 1, core: 0, node: NodeId(Uuid::from_u128(node)) }
}

fn content(stamp: &Stamp) -> Properties {
    properties([("year", Value::Int(stamp.hlc.0 as i64 % 1_000))])
}

fn put_of(row_number: u64, stamp: Stamp, created_us: i64) -> StampedWrite {
    let change = StampedChange::Put {
        created_us,
        vectors: vec![body_vector([(stamp.hlc.0 % 97) as f32; 6])],
        properties: row(&content(&stamp)),
    };
    StampedWrite { id: id(row_number), stamp, change, exact: false }
}

fn delete_of(row_number: u64, stamp: Stamp) -> StampedWrite {
    StampedWrite { id: id(row_number), stamp, change: StampedChange::Delete, exact: false }
}

fn exact(write: StampedWrite) -> StampedWrite {
    StampedWrite { exact: true, ..write }
}

async fn apply(engine: &SimEngine, write: StampedWrite) -> Result<Replicated, ApiError> {
    let results = engine.apply_stamped(SHARD, Durability::Sync, vec![write]).await.unwrap();
    results.into_iter().next().unwrap()
}

fn digest_of(engine: &SimEngine, row_number: u64) -> Option<ObjectDigest> {
    engine.digests(SHARD, &[id(row_number)]).unwrap()[0]
}

/// Writes to a few objects by three nodes, some with one stamp: a put, a deletion and a put of
/// another creation time.
fn writes(random: &mut Random, count: usize, objects: u64) -> Vec<StampedWrite> {
    let mut writes = Vec::new();
    while writes.len() < count {
        let (object, us) = (random.below(objects), random.below(40) * 1_000);
        let stamp = stamp(us, u128::from(random.below(3)));
        let created_us = NOW_US as i64 - random.below(3) as i64;
        // What one stamp writes is one thing, so its content follows from it.
        writes.push(exact(match random.below(4) {
            0 => delete_of(object, stamp),
            _ => put_of(object, stamp, created_us),
        }));
    }
    writes
}

/// What replicas must agree on in the end, with the rows.
async fn state(
    engine: &SimEngine,
    objects: u64,
) -> Vec<(Option<ObjectDigest>, Option<Properties>)> {
    let ids: Vec<ObjectId> = (0..objects).map(id).collect();
    let digests = engine.digests(SHARD, &ids).unwrap();
    let rows = engine.get(SHARD, &ids, Want::ALL).await.unwrap();
    let states = digests.into_iter().zip(rows).map(|(digest, object)| {
        let live = digest.filter(|digest| !digest.is_tombstone);
        assert_eq!(live.map(|live| live.stamp), object.as_ref().map(|object| object.stamp));
        let properties = object.map(|object| {
            assert_eq!(live.unwrap().created_us, object.created_us);
            assert_eq!(object.vectors[0].values, [(object.stamp.hlc.0 % 97) as f32; 6]);
            heddle_types::row::decode_row(&object.properties).unwrap()
        });
        (digest, properties)
    });
    states.collect()
}

/// What is left of writes by their definition: of each object the version that wins.
fn winners(writes: &[StampedWrite], objects: u64) -> Vec<Option<ObjectDigest>> {
    let version = |write: &StampedWrite| match &write.change {
        StampedChange::Put { created_us, .. } => ObjectDigest::live(write.stamp, *created_us),
        StampedChange::Delete => ObjectDigest::tombstone(write.stamp),
    };
    let of = |object| writes.iter().filter(|write| write.id == id(object)).map(version).max();
    (0..objects).map(of).collect()
}

#[test]
fn any_order_and_repetition_ends_in_the_same_state_also_after_a_replay() {
    const OBJECTS: u64 = 12;
    for seed in 0..30 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let writes = writes(&mut random, 150, OBJECTS);
        let expected = winners(&writes, OBJECTS);
        let mut states = Vec::new();
        for replica in 0..3 {
            let mut world = World::new(seed * 10 + replica);
            let mut order = writes.clone();
            order.extend((0..40).map(|_| writes[random.below(150) as usize].clone()));
            for place in (1..order.len()).rev() {
                order.swap(place, random.below(place as u64 + 1) as usize);
            }
            let with_image = random.one_in(2);
            let mut random = Random::new(seed * 10 + replica);
            let live = world.run(|engine| async move {
                let mut left = order.into_iter().peekable();
                while left.peek().is_some() {
                    // Several requests at once, so that writes meet others in flight.
                    let parts: Vec<Vec<StampedWrite>> = (0..4)
                        .map(|_| left.by_ref().take(random.below(9) as usize).collect())
                        .collect();
                    let calls = parts.into_iter().map(|part| {
                        let batched = random.one_in(3);
                        let durability =
                            if batched { Durability::Batched } else { Durability::Sync };
                        engine.apply_stamped(SHARD, durability, part)
                    });
                    for results in join_all(calls).await {
                        assert!(results.unwrap().iter().all(Result::is_ok));
                    }
                    if with_image && random.one_in(10) {
                        engine.checkpoint(SHARD).await.unwrap();
                    }
                }
                // Behind everything that was answered before its sync.
                apply(&engine, put_of(99, stamp(0, 0), 0)).await.unwrap();
                state(&engine, OBJECTS).await
            });
            let digests: Vec<_> = live.iter().map(|(digest, _)| *digest).collect();
            assert_eq!(digests, expected);
            let replayed = world.run(|engine| async move { state(&engine, OBJECTS).await });
            assert_eq!(replayed, live);
            states.push(live);
        }
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn outcomes_tell_what_became_of_a_write() {
    let mut world = World::new(1);
    world.run(|engine| async move {
        let created_us = NOW_US as i64 - 1_000_000 + 50;
        let first = put_of(1, stamp(50, 7), created_us);
        let applied = Ok(Replicated::Applied { existed: false, created_us });
        assert_eq!(apply(&engine, first.clone()).await, applied);
        let known = Ok(Replicated::Known { existed: false, created_us });
        assert_eq!(apply(&engine, first.clone()).await, known);
        let newest = stamp(50, 7);
        let superseded = Ok(Replicated::Superseded { newest });
        assert_eq!(apply(&engine, put_of(1, stamp(40, 7), 0)).await, superseded);
        assert_eq!(apply(&engine, delete_of(1, stamp(50, 6))).await, superseded);
        // A fresh write keeps the creation time, and so does a retry of it.
        let second = put_of(1, stamp(60, 1), created_us + 10);
        let applied = Ok(Replicated::Applied { existed: true, created_us });
        assert_eq!(apply(&engine, second.clone()).await, applied);
        let known = Ok(Replicated::Known { existed: true, created_us });
        assert_eq!(apply(&engine, second.clone()).await, known);
        // A copy brings its own; of one stamp the older one wins.
        let copy = |created_us| exact(put_of(1, stamp(60, 1), created_us));
        let superseded = Ok(Replicated::Superseded { newest: stamp(60, 1) });
        assert_eq!(apply(&engine, copy(created_us + 1)).await, superseded);
        let applied = Replicated::Applied { existed: true, created_us: created_us - 1 };
        assert_eq!(apply(&engine, copy(created_us - 1)).await, Ok(applied));
        let deleted = Ok(Replicated::Applied { existed: true, created_us: 0 });
        assert_eq!(apply(&engine, delete_of(1, stamp(60, 1))).await, deleted);
        let known = Ok(Replicated::Known { existed: true, created_us: 0 });
        assert_eq!(apply(&engine, delete_of(1, stamp(60, 1))).await, known);
        assert_eq!(apply(&engine, copy(0)).await, superseded, "on one stamp the deletion wins");
    });
}

#[test]
fn a_write_in_flight_counts_before_it_is_applied() {
    let mut world = World::new(2);
    world.run(|engine| async move {
        let created_us = NOW_US as i64 - 900_000;
        let batched = |write| engine.apply_stamped(SHARD, Durability::Batched, vec![write]);
        batched(put_of(1, stamp(50, 1), created_us)).await.unwrap();
        assert_eq!(digest_of(&engine, 1), None, "it is not visible before it is durable");
        let mut older = pin!(apply(&engine, put_of(1, stamp(40, 1), 0)));
        assert!(older.as_mut().now_or_never().is_none(), "it waits for what it lost to");
        let mut again = pin!(apply(&engine, put_of(1, stamp(50, 1), created_us)));
        assert!(again.as_mut().now_or_never().is_none(), "nothing is known before it is durable");
        let newer = batched(put_of(1, stamp(60, 1), created_us + 5)).await.unwrap().remove(0);
        assert_eq!(newer, Ok(Replicated::Applied { existed: true, created_us }));
        let superseded = Ok(Replicated::Superseded { newest: stamp(60, 1) });
        assert_eq!((older.await, again.await), (superseded.clone(), superseded));
        assert_eq!(digest_of(&engine, 1), Some(ObjectDigest::live(stamp(60, 1), created_us)));
        assert_eq!(engine.status().wal.records, 2, "what lost left no record");
    });
}

#[test]
fn a_deletion_of_what_is_not_there_is_remembered() {
    let mut world = World::new(3);
    for round in 0..3 {
        world.run(|engine| async move {
            if round == 0 {
                let deleted = apply(&engine, delete_of(5, stamp(50, 1))).await;
                assert_eq!(deleted, Ok(Replicated::Applied { existed: false, created_us: 0 }));
            }
            assert_eq!(digest_of(&engine, 5), Some(ObjectDigest::tombstone(stamp(50, 1))));
            let late = apply(&engine, put_of(5, stamp(49, 2), 0)).await;
            assert_eq!(late, Ok(Replicated::Superseded { newest: stamp(50, 1) }));
            if round == 1 {
                engine.checkpoint(SHARD).await.unwrap();
            }
        });
    }
}

#[test]
fn copies_read_here_are_applied_there_bit_for_bit() {
    let mut source = World::new(4);
    let mut target = World::new(5);
    let copies = source.run(|engine| async move {
        let mut random = Random::new(1);
        for object in 0..20 {
            put(&engine, random_item(&mut random, id(object))).await;
        }
        delete(&engine, id(3)).await;
        let ids: Vec<ObjectId> = (0..22).map(id).collect();
        let copies = engine.read_stamped(SHARD, ids.clone()).await.unwrap();
        assert!(copies[20].is_none() && copies[21].is_none());
        let digests = engine.digests(SHARD, &ids).unwrap();
        (copies, digests, dump(&engine, SHARD).await)
    });
    let (copies, digests, objects) = copies;
    target.run(|engine| async move {
        let travelled = copies.iter().flatten().map(|copy| {
            assert!(copy.exact);
            let mut bytes = Vec::new();
            copy.encode(&mut bytes);
            StampedWrite::decode(&bytes).unwrap()
        });
        let travelled = travelled.collect();
        let applied = engine.apply_stamped(SHARD, Durability::Sync, travelled).await.unwrap();
        assert!(applied.iter().all(|one| matches!(one, Ok(Replicated::Applied { .. }))));
        let ids: Vec<ObjectId> = (0..22).map(id).collect();
        assert_eq!(engine.digests(SHARD, &ids).unwrap(), digests);
        let found = dump(&engine, SHARD).await;
        assert_eq!(found.len(), objects.len());
        for (found, expected) in found.iter().zip(&objects) {
            let vectors = expected.vectors.iter().map(|v| (v.index, v.values.clone())).collect();
            let properties = heddle_types::row::decode_row(&expected.properties).unwrap();
            assert!(same_object(found, &(properties, vectors)));
        }
    });
}

#[test]
fn encoded_writes_round_trip_and_nothing_else_is_read() {
    let put = exact(put_of(1, stamp(7, 7), -4));
    for write in [put, delete_of(2, stamp(8, 8))] {
        let mut bytes = Vec::new();
        write.encode(&mut bytes);
        assert_eq!(StampedWrite::decode(&bytes), Ok(write.clone()));
        for length in 0..bytes.len() {
            assert!(StampedWrite::decode(&bytes[..length]).is_err(), "length {length}");
        }
        for (place, value) in [(0, 2), (1, 0), (1, 3), (2, 2), (3, 1)] {
            let mut wrong = bytes.clone();
            wrong[place] = value;
            assert!(StampedWrite::decode(&wrong).is_err(), "{value} at {place}");
        }
        bytes.push(0);
        assert!(StampedWrite::decode(&bytes).is_err());
    }
}

#[test]
fn a_stamp_of_the_future_is_refused_and_the_rest_of_the_call_applied() {
    let mut world = World::new(6);
    let clock = world.clock.clone();
    world.run(|engine| async move {
        let at = |us: u64| Stamp { hlc: Hlc::from_unix_us(us), ..stamp(0, 1) };
        let writes = vec![
            put_of(1, at(NOW_US + 500_001), 0),
            put_of(2, at(NOW_US + 500_000), 0),
            delete_of(3, at(u64::MAX >> 8)),
        ];
        let results = engine.apply_stamped(SHARD, Durability::Sync, writes.clone()).await.unwrap();
        assert_eq!(results[0].as_ref().unwrap_err().code, ErrorCode::ClockSkew);
        assert!(results[1].is_ok());
        assert_eq!(results[2].as_ref().unwrap_err().code, ErrorCode::ClockSkew);
        assert_eq!(digest_of(&engine, 1), None);
        // What was refused did not push the clock, what was taken did.
        assert!(engine.issue_stamp().await.unwrap().hlc < at(NOW_US + 500_001).hlc);
        engine.observe(Hlc(u64::MAX));
        assert!(engine.issue_stamp().await.is_ok());
        clock.advance_us(1);
        let results = engine.apply_stamped(SHARD, Durability::Sync, writes).await.unwrap();
        assert!(results[0].is_ok());
    });
}

#[test]
fn what_cannot_be_applied_is_refused_and_never_logged() {
    let mut world = World::new(7);
    world.run(|engine| async move {
        let mut write = put_of(1, stamp(50, 1), 0);
        let StampedChange::Put { vectors, .. } = &mut write.change else { unreachable!() };
        vectors[0].values.pop();
        let refused = apply(&engine, write).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidVector);
        assert_eq!(engine.status().wal.records, 0);
        let unknown = heddle_types::ShardId(77);
        let refused = engine.apply_stamped(unknown, Durability::Sync, Vec::new()).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::Unavailable);
    });
}

#[test]
fn stamps_only_grow_when_the_clock_is_set_back_and_the_node_starts_again() {
    let mut world = World::new(8);
    let (clock, mut newest) = (world.clock.clone(), Hlc::default());
    for _ in 0..6 {
        clock.set_unix_us(NOW_US.max(newest.unix_us()) - 50_000_000);
        let clock = clock.clone();
        // None of the issued stamps is ever written here.
        newest = world.run(|engine| async move {
            let mut newest = newest;
            let is_first = newest == Hlc::default();
            assert!(is_first || engine.issue_stamp().await.is_err(), "the log remembers");
            clock.advance_us(51_000_000);
            for _ in 0..20 {
                let stamp = engine.issue_stamp().await.unwrap();
                assert!(stamp.hlc > newest);
                newest = stamp.hlc;
            }
            newest
        });
    }
}

#[test]
fn whatever_the_log_gives_up_it_says_how_far_stamps_went() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let disk = world.disk.clone();
        let (newest, images) = world.run(|engine| async move {
            let newest = engine.issue_stamp().await.unwrap().hlc;
            let mut images = Vec::new();
            for round in 0..12 {
                // What is written has older stamps, so it says nothing.
                apply(&engine, big(round, stamp(round, 1))).await.unwrap();
                apply(&engine, big(round + 20, stamp(round, 1))).await.unwrap();
                engine.checkpoint(SHARD).await.unwrap();
                images.push(disk.crashed(Crash::Random(seed * 100 + round)));
            }
            assert!(engine.status().wal.segment_bytes < 12 * (64 << 10), "it gave much up");
            (newest, images)
        });
        for image in images {
            let mut world = World::new(seed);
            world.disk = image;
            world.clock.set_unix_us(newest.unix_us() - 1_000_000);
            world.run(|engine| async move {
                assert!(engine.issue_stamp().await.is_err(), "the log remembers");
            });
        }
    }
}

/// An object that fills a good part of a log segment.
fn big(row_number: u64, stamp: Stamp) -> StampedWrite {
    let mut write = put_of(row_number, stamp, 0);
    let StampedChange::Put { properties: row_bytes, .. } = &mut write.change else {
        unreachable!()
    };
    *row_bytes = row(&properties([("note", text(&"n".repeat(30_000)))]));
    write
}

#[test]
fn a_node_whose_clock_was_set_far_back_issues_no_stamps_until_it_has_caught_up() {
    let mut world = World::new(9);
    let clock = world.clock.clone();
    let newest = world.run(|engine| async move { engine.issue_stamp().await.unwrap().hlc });
    clock.set_unix_us(NOW_US - 60_000_000);
    let later = clock.clone();
    world.run(|engine| async move {
        let refused = engine.issue_stamp().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ClockSkew);
        later.advance_us(62_000_000);
        assert!(engine.issue_stamp().await.unwrap().hlc > newest);
    });
}

#[test]
fn no_crash_makes_a_stamp_go_back() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let (disk, clock) = (world.disk.clone(), world.clock.clone());
        let (image, newest) = world.run(|engine| async move {
            let mut newest = Hlc::default();
            for _ in 0..seed % 7 + 1 {
                newest = engine.issue_stamp().await.unwrap().hlc;
                clock.advance_us(300_000);
            }
            (disk.crashed(Crash::Random(seed)), newest)
        });
        world.disk = image;
        world.clock.set_unix_us(newest.unix_us() - 50_000_000);
        let clock = world.clock.clone();
        world.run(|engine| async move {
            assert!(engine.issue_stamp().await.is_err(), "the log remembers, the clock does not");
            clock.set_unix_us(newest.unix_us() + 600_000);
            assert!(engine.issue_stamp().await.unwrap().hlc > newest);
        });
    }
}

#[test]
fn a_core_that_stamps_for_others_alone_does_not_keep_its_log_for_ever() {
    let mut world = World::new(10);
    let clock = world.clock.clone();
    world.run(|engine| async move {
        let mut most = 0;
        for _ in 0..600 {
            engine.issue_stamp().await.unwrap();
            clock.advance_us(1_100_000);
            while engine.maintain().await.unwrap() {}
            most = most.max(engine.status().wal.segment_bytes);
        }
        assert!(engine.status().wal.bytes > 8 * (64 << 10), "the log has gone on and on");
        assert!(most <= 6 * (64 << 10), "{most}");
    });
}

#[test]
fn a_core_that_stamps_its_own_writes_logs_them_alone() {
    let mut world = World::new(11);
    let clock = world.clock.clone();
    world.run(|engine| async move {
        for object in 0..10 {
            clock.advance_us(5_000_000);
            put(&engine, random_item(&mut Random::new(object), id(object))).await;
        }
        assert!(delete(&engine, id(1)).await);
        assert!(!delete(&engine, id(1)).await, "not even a deletion of what is not there");
        assert_eq!(engine.status().wal.records, 11);
    });
}
