//! Searches on another thread while the home core writes.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use futures::executor::LocalPool;
use futures::task::LocalSpawnExt;
use heddle_core::shard::ShardView;
use heddle_index::{Quiescence, Scratch, SearchRequest};
use heddle_sim::Random;
use heddle_types::ObjectId;

/// Ids that were ever put are below this.
const IDS: u64 = 400;

fn search_on(view: &ShardView, quiescence: &Arc<Quiescence>, stop: &AtomicBool) -> u64 {
    let reader = quiescence.reader(1);
    let mut scratch = Scratch::new();
    let mut searches = 0;
    while !stop.load(Ordering::Acquire) {
        let _pin = reader.pin();
        let index = view.vector(0).expect("the dimension is known");
        let query = [3.0, 0.0, 0.1, -0.1, 0.2, 0.3];
        let mut hits = Vec::new();
        let request = SearchRequest::new(10, 40);
        index.search(&view.directory, &query, request, &mut scratch, &mut hits);
        for hit in &hits {
            let found = ObjectId(view.directory.id(hit.slot)).as_u128();
            assert!(found < u128::from(IDS), "{found}");
            let squares = index.vector(hit.slot).iter().zip(query).map(|(a, b)| (a - b) * (a - b));
            let exact: f32 = squares.sum();
            assert!((exact - hit.distance).abs() < 1e-3, "{exact} {}", hit.distance);
        }
        assert!(hits.windows(2).all(|pair| pair[0].distance <= pair[1].distance));
        searches += 1;
    }
    searches
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test is about a second thread")]
fn another_thread_searches_while_puts_and_sweeps_go_on() {
    let mut world = World::new(21);
    let quiescence = Quiescence::new(2);
    let mut pool = LocalPool::new();
    let (engine, _) = pool.run_until(world.open_with(Arc::clone(&quiescence))).unwrap();
    let running = engine.clone();
    let log = async move {
        let _failed = running.run_wal().await;
    };
    pool.spawner().spawn_local(log).unwrap();
    let view = engine.view(SHARD).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let searches = Arc::new(AtomicU64::new(0));
    let thread = {
        let (stop, searches) = (Arc::clone(&stop), Arc::clone(&searches));
        let (view, quiescence) = (Arc::clone(&view), Arc::clone(&quiescence));
        std::thread::spawn(move || {
            searches.store(search_on(&view, &quiescence, &stop), Ordering::Release);
        })
    };
    pool.run_until(async {
        let mut random = Random::new(21);
        let mut model = Model::default();
        for _ in 0..30 {
            for _ in 0..60 {
                let target = id(random.below(IDS));
                if random.one_in(5) {
                    assert_eq!(delete(&engine, target).await, model.delete(target));
                } else {
                    let item = random_item(&mut random, target);
                    model.put(&item);
                    put(&engine, item).await;
                }
            }
            link_all(&engine, 32);
            sweep_all(&engine);
        }
        check_model(&engine, &model).await;
    });
    stop.store(true, Ordering::Release);
    thread.join().expect("the searching thread found nothing wrong");
    assert!(searches.load(Ordering::Acquire) > 0);
}
