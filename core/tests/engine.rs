//! What an engine does with requests while it runs.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use common::*;
use futures::future::{join, join_all};
use heddle_core::engine::{ItemVector, PutItem, PutMode, Want};
use heddle_sim::Random;
use heddle_types::{ErrorCode, Filter, Operator, Properties, Value};

fn item(row_number: u64, year: i64, first: f32) -> PutItem {
    PutItem {
        id: id(row_number),
        properties: row(&properties([("year", Value::Int(year))])),
        vectors: vec![body_vector([first, 0.0, 0.0, 0.0, 0.0, 0.0])],
    }
}

#[test]
fn puts_are_visible_to_get_search_scan_and_count() {
    let mut world = World::new(1);
    world.run(|engine| async move {
        let items = (0..10).map(|n| item(n, 2000 + n as i64, n as f32)).collect();
        let written = engine.put(SHARD, PutMode::Replace, items).await.unwrap();
        let written: Vec<_> = written.into_iter().map(Result::unwrap).collect();
        assert!(written.iter().all(|written| written.created));
        assert!(written.windows(2).all(|pair| pair[0].stamp < pair[1].stamp));

        let got = engine.get(SHARD, &[id(3), id(77), id(0)], Want::ALL).await.unwrap();
        let third = got[0].as_ref().unwrap();
        assert_eq!(third.stamp, written[3].stamp);
        assert_eq!(third.properties, item(3, 2003, 3.0).properties);
        assert_eq!(third.vectors, item(3, 2003, 3.0).vectors);
        assert!(got[1].is_none() && got[2].is_some());

        let nearest = search(&engine, 0, &[6.9, 0.0, 0.0, 0.0, 0.0, 0.0], 2, None);
        assert_eq!([nearest[0].0, nearest[1].0], [id(7), id(6)]);
        let late = Filter::compare("year", Operator::GreaterThanEqual, Value::Int(2008));
        assert_eq!(engine.count(SHARD, Some(&late)).await.unwrap(), 2);
        let bitmap = engine.filter_bitmap(SHARD, &late).await.unwrap();
        let nearest = search(&engine, 0, &[0.0; 6], 5, Some(&bitmap));
        assert_eq!(nearest.iter().map(|hit| hit.0).collect::<Vec<_>>(), [id(8), id(9)]);
        let page = engine.scan(SHARD, Some(id(4)), 3, None, Want::NOTHING).await.unwrap();
        assert_eq!(page.iter().map(|o| o.id).collect::<Vec<_>>(), [id(5), id(6), id(7)]);
    });
}

#[test]
fn an_update_replaces_keeps_the_creation_time_and_takes_the_old_out() {
    let mut world = World::new(2);
    let clock = world.clock.clone();
    world.run(|engine| async move {
        put(&engine, item(1, 1999, 0.0)).await;
        clock.advance_us(5_000);
        let again = engine.put(SHARD, PutMode::Replace, vec![item(1, 2020, 9.0)]).await.unwrap();
        let again = again[0].clone().unwrap();
        assert!(!again.created);
        let object = engine.get(SHARD, &[id(1)], Want::ALL).await.unwrap().remove(0).unwrap();
        assert_eq!(object.created_us, 1_700_000_000_000_000);
        assert_eq!(object.updated_us, object.created_us + 5_000);
        assert_eq!(object.vectors, item(1, 2020, 9.0).vectors);
        let old = Filter::compare("year", Operator::Equal, Value::Int(1999));
        assert_eq!(engine.count(SHARD, Some(&old)).await.unwrap(), 0);
        assert_eq!(search(&engine, 0, &[0.0; 6], 9, None), [(id(1), 81.0)]);
    });
}

#[test]
fn a_delete_says_whether_the_object_existed() {
    let mut world = World::new(3);
    world.run(|engine| async move {
        put(&engine, item(1, 1, 0.0)).await;
        let results = engine.delete(SHARD, vec![id(1), id(2), id(1)]).await.unwrap();
        let results: Vec<bool> = results.into_iter().map(Result::unwrap).collect();
        assert_eq!(results, [true, false, false]);
        assert!(engine.get(SHARD, &[id(1)], Want::ALL).await.unwrap()[0].is_none());
        assert!(search(&engine, 0, &[0.0; 6], 9, None).is_empty());
        assert_eq!(engine.status().shards[0].tombstones, 1);
        put(&engine, item(1, 2, 0.0)).await;
        assert_eq!(engine.count(SHARD, None).await.unwrap(), 1);
        assert_eq!(engine.status().shards[0].tombstones, 0);
    });
}

#[test]
fn later_items_of_a_batch_win() {
    let mut world = World::new(4);
    world.run(|engine| async move {
        let batch = vec![item(1, 1, 1.0), item(1, 2, 2.0), item(1, 3, 3.0)];
        let results = engine.put(SHARD, PutMode::Replace, batch).await.unwrap();
        let created: Vec<bool> = results.iter().map(|r| r.as_ref().unwrap().created).collect();
        assert_eq!(created, [true, false, false]);
        let all = dump(&engine, SHARD).await;
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].properties, item(1, 3, 3.0).properties);
    });
}

#[test]
fn a_bad_item_is_refused_alone_and_by_name() {
    let mut world = World::new(5);
    world.run(|engine| async move {
        let mut wrong_dims = item(2, 1, 0.0);
        wrong_dims.vectors[0].values.pop();
        let mut not_finite = item(3, 1, 0.0);
        not_finite.vectors[0].values[2] = f32::NAN;
        let unknown = properties([("nope", Value::Int(1))]);
        let unknown = PutItem { properties: row(&unknown), ..item(4, 1, 0.0) };
        let wrong_type = properties([("year", text("x"))]);
        let wrong_type = PutItem { properties: row(&wrong_type), ..item(5, 1, 0.0) };
        let no_vector = PutItem { vectors: Vec::new(), ..item(6, 1, 0.0) };
        let zero = ItemVector { index: 1, values: vec![0.0; 3] };
        let zero = PutItem { vectors: vec![zero], ..item(7, 1, 0.0) };
        let mut twice = item(8, 1, 0.0);
        twice.vectors.push(twice.vectors[0].clone());
        let torn_row = PutItem { properties: vec![9], ..item(9, 1, 0.0) };
        let batch = vec![
            item(1, 1, 1.0),
            wrong_dims,
            not_finite,
            unknown,
            wrong_type,
            no_vector,
            zero,
            twice,
            torn_row,
        ];
        let results = engine.put(SHARD, PutMode::Replace, batch).await.unwrap();
        let codes: Vec<_> = results.iter().map(|r| r.as_ref().err().map(|e| e.code)).collect();
        let (vector, property) = (Some(ErrorCode::InvalidVector), Some(ErrorCode::InvalidProperty));
        let expected = [None, vector, vector, property, property, vector, vector, vector, property];
        assert_eq!(codes, expected);
        assert_eq!(engine.count(SHARD, None).await.unwrap(), 1);
        let error = engine.count(heddle_types::ShardId(9), None).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
    });
}

#[test]
fn a_merge_keeps_what_it_does_not_name() {
    let mut world = World::new(6);
    world.run(|engine| async move {
        let mut model = Model::default();
        let first = PutItem {
            id: id(1),
            properties: row(&properties([("year", Value::Int(1)), ("text", text("kept"))])),
            vectors: vec![
                body_vector([1.0; 6]),
                ItemVector { index: 1, values: vec![3.0, 4.0, 0.0] },
            ],
        };
        put(&engine, first.clone()).await;
        model.put(&first);
        let second = PutItem {
            id: id(1),
            properties: row(&properties([("year", Value::Int(2))])),
            vectors: vec![body_vector([2.0; 6])],
        };
        let bare = PutItem { id: id(2), properties: Vec::new(), vectors: Vec::new() };
        for item in [second, bare] {
            model.merge(&item);
            let results = engine.put(SHARD, PutMode::Merge, vec![item]).await.unwrap();
            assert!(results[0].is_ok(), "{results:?}");
        }
        check_model(&engine, &model).await;
        assert!(delete(&engine, id(2)).await);
    });
}

#[test]
fn concurrent_merges_of_one_object_lose_no_field() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.disk.set_latency_turns_max(5);
        world.run(|engine| async move {
            let mut random = Random::new(seed);
            put(&engine, item(1, 0, 0.0)).await;
            let names = ["text", "note", "tags", "score", "year"];
            let merges = names.iter().map(|name| {
                let value = match *name {
                    "tags" => Value::TextArray(vec!["t".to_owned()]),
                    "score" => Value::Number(2.5),
                    "year" => Value::Int(77),
                    _ => text(name),
                };
                let properties = row(&properties([(*name, value)]));
                let item = PutItem { id: id(1), properties, vectors: Vec::new() };
                engine.put(SHARD, PutMode::Merge, vec![item])
            });
            let others = (0..5).map(|_| {
                let other = item(2 + random.below(3), 1, 5.0);
                engine.put(SHARD, PutMode::Replace, vec![other])
            });
            let (merged, _) = join(join_all(merges), join_all(others)).await;
            assert!(merged.iter().flatten().flatten().all(Result::is_ok), "{merged:?}");
            let object = engine.get(SHARD, &[id(1)], Want::ALL).await.unwrap().remove(0).unwrap();
            let found: Properties = heddle_types::row::decode_row(&object.properties).unwrap();
            assert_eq!(found.len(), 5, "{found:?}");
            assert_eq!(found["year"], Value::Int(77));
        });
    }
}

#[test]
fn a_dropped_merge_lets_others_go_on() {
    let mut world = World::new(8);
    world.run(|engine| async move {
        put(&engine, item(1, 0, 0.0)).await;
        let merge = || PutItem { id: id(1), properties: Vec::new(), vectors: Vec::new() };
        for polls in 0..12 {
            let mut future = Box::pin(engine.put(SHARD, PutMode::Merge, vec![merge()]));
            for _ in 0..polls {
                let _either = futures::poll!(&mut future);
            }
            drop(future);
            put(&engine, item(1, polls, 0.0)).await;
        }
        let object = engine.get(SHARD, &[id(1)], Want::ALL).await.unwrap().remove(0).unwrap();
        assert_eq!(object.properties, item(1, 11, 0.0).properties);
    });
}

#[test]
fn dimensions_fixed_later_make_the_index() {
    let mut world = World::new(9);
    world.config.vectors[1].dims = None;
    let fixed = std::sync::Arc::new(schema());
    world.run(|engine| async move {
        let both = PutItem {
            vectors: vec![body_vector([1.0; 6]), ItemVector { index: 1, values: vec![1.0; 3] }],
            ..item(1, 1, 0.0)
        };
        let refused = engine.put(SHARD, PutMode::Replace, vec![both.clone()]).await.unwrap();
        assert_eq!(refused[0].as_ref().unwrap_err().code, ErrorCode::Unavailable);
        assert!(engine.view(SHARD).unwrap().vector(1).is_none());
        let version = engine.view_version();
        engine.fix_dims(SHARD, std::sync::Arc::clone(&fixed)).unwrap();
        assert!(engine.view_version() > version);
        put(&engine, both).await;
        assert_eq!(search(&engine, 1, &[1.0, 1.0, 1.0], 1, None)[0].0, id(1));
        let mut other = (*fixed).clone();
        other.vectors[1].dims = Some(4);
        assert!(engine.fix_dims(SHARD, std::sync::Arc::new(other)).is_err());
    });
}

#[test]
fn shards_come_and_go() {
    let mut world = World::new(10);
    let spec = world.spec(2);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let second = heddle_types::ShardId(2);
        engine.create_shard(spec.clone()).await.unwrap();
        assert_eq!(engine.views().len(), 2);
        put(&engine, item(1, 1, 0.0)).await;
        let results = engine.put(second, PutMode::Replace, vec![item(1, 2, 0.0)]).await.unwrap();
        assert!(results[0].is_ok());
        engine.checkpoint(second).await.unwrap();
        engine.drop_shard(second).await.unwrap();
        assert!(engine.view(second).is_none());
        assert!(disk.files().iter().all(|path| !path.starts_with("shards/0000000002")));
        let gone = engine.put(second, PutMode::Replace, vec![item(1, 2, 0.0)]).await.unwrap_err();
        assert_eq!(gone.code, ErrorCode::Unavailable);
        engine.create_shard(spec).await.unwrap();
        assert_eq!(engine.count(second, None).await.unwrap(), 0);
        assert_eq!(engine.count(SHARD, None).await.unwrap(), 1);
    });
    // Records of the dropped shard's first life carry a number that its second life shares here;
    // a real catalog never gives a number out twice, so the shard is left out.
    world.run(|engine| async move {
        assert_eq!(engine.count(SHARD, None).await.unwrap(), 1);
    });
}

#[test]
fn a_full_disk_refuses_writes_keeps_reading_and_recovers() {
    let mut world = World::new(11);
    let disk = world.disk.clone();
    world.run(|engine| async move {
        let mut random = Random::new(11);
        let mut model = Model::default();
        disk.set_space_bytes(disk.used_bytes() + 200_000);
        let mut refused = None;
        for n in 0..10_000 {
            let item = random_item(&mut random, id(n));
            let result = engine.put(SHARD, PutMode::Replace, vec![item.clone()]).await.unwrap();
            match &result[0] {
                Ok(_) => model.put(&item),
                Err(error) => {
                    refused = Some(error.clone());
                    break;
                }
            }
            let _a_full_disk_is_an_error = engine.maintain().await;
        }
        assert_eq!(refused.expect("the disk fills up").code, ErrorCode::DiskFull);
        check_model(&engine, &model).await;
        disk.set_space_bytes(u64::MAX);
        let mut accepted = 0;
        for n in 20_000..20_100 {
            let item = random_item(&mut random, id(n));
            let result = engine.put(SHARD, PutMode::Replace, vec![item.clone()]).await.unwrap();
            if result[0].is_ok() {
                model.put(&item);
                accepted += 1;
            }
        }
        assert!(accepted > 50, "{accepted}");
        check_model(&engine, &model).await;
    });
}

#[test]
fn the_memory_budget_refuses_puts_and_not_deletes() {
    let mut world = World::new(12);
    world.run(|engine| async move {
        put(&engine, item(1, 1, 0.0)).await;
        assert!(engine.status().shards[0].memory.total_bytes() > 0);
    });
    world.memory_bytes_max = 1;
    world.run(|engine| async move {
        let refused = engine.put(SHARD, PutMode::Replace, vec![item(2, 1, 0.0)]).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::MemoryFull);
        assert!(engine.get(SHARD, &[id(1)], Want::ALL).await.unwrap()[0].is_some());
        assert!(delete(&engine, id(1)).await);
    });
}

#[test]
fn churn_is_linked_swept_and_reused() {
    let mut world = World::new(13);
    world.run(|engine| async move {
        let mut random = Random::new(13);
        let mut model = Model::default();
        for round in 0..40 {
            for _ in 0..60 {
                let id_number = random.below(150);
                let item = random_item(&mut random, id(id_number));
                put(&engine, item.clone()).await;
                model.put(&item);
                if random.one_in(10) {
                    let gone = id(random.below(150));
                    assert_eq!(delete(&engine, gone).await, model.delete(gone));
                }
            }
            link_all(&engine, 16);
            sweep_all(&engine);
            if round % 8 == 0 {
                check_model(&engine, &model).await;
            }
        }
        check_model(&engine, &model).await;
        let published = engine.view(SHARD).unwrap().directory.published();
        assert!(published < 1_200, "slots are reused: {published} for 2,400 puts");
        let status = engine.status();
        assert!(status.shards[0].rows.segments > 0, "rows were flushed");
    });
}
