//! What no call from outside can bring about at the right moment.

use std::pin::pin;

use futures::FutureExt;
use futures::executor::block_on;
use heddle_sim::{SimClock, SimDisk};
use heddle_types::{CollectionConfig, CollectionId, NodeId};

use super::*;
use crate::shard::ShardSpec;

const SHARD: ShardId = ShardId(1);

async fn open(disk: &SimDisk) -> Engine<SimDisk, SimClock> {
    let spec = ShardSpec {
        id: SHARD,
        collection: CollectionId::default(),
        config: Arc::new(CollectionConfig { name: "Docs".to_owned(), ..Default::default() }),
        directory: "shards/0000000001".to_owned(),
        seed: 5,
    };
    let config = EngineConfig::new(NodeId::default(), 1, 0);
    let clock = SimClock::new(1_700_000_000_000_000);
    let opened =
        Engine::open(disk.clone(), clock, config, Quiescence::new(1), vec![spec], |_| {}).await;
    opened.unwrap().0
}

fn image_files(disk: &SimDisk) -> Vec<String> {
    let is_of_image = |name: &String| name.contains("image-") || name.contains("superblock");
    disk.files().into_iter().filter(is_of_image).collect()
}

#[test]
fn a_shard_poisoned_while_its_image_waits_gets_none() {
    // The image would claim to cover a record that is only in the log, and the log would be given
    // up behind it.
    block_on(async {
        let disk = SimDisk::new(1);
        let engine = open(&disk).await;
        let cell = engine.cell(SHARD).unwrap();
        cell.book.borrow_mut().compacting = true;
        let mut checkpoint = pin!(engine.checkpoint(SHARD));
        assert!(checkpoint.as_mut().now_or_never().is_none(), "it waits for the compaction");
        cell.book.borrow_mut().poisoned = true;
        cell.book.borrow_mut().compacting = false;
        engine.inner.settled.notify();
        assert!(checkpoint.await.is_ok());
        assert_eq!(image_files(&disk), Vec::<String>::new());
        cell.book.borrow_mut().poisoned = false;
        engine.checkpoint(SHARD).await.unwrap();
        assert!(!image_files(&disk).is_empty());
    });
}

#[test]
fn a_shard_dropped_while_its_image_waits_gets_none() {
    block_on(async {
        let disk = SimDisk::new(1);
        let engine = open(&disk).await;
        let cell = engine.cell(SHARD).unwrap();
        cell.book.borrow_mut().compacting = true;
        let mut checkpoint = pin!(engine.checkpoint(SHARD));
        assert!(checkpoint.as_mut().now_or_never().is_none(), "it waits for the compaction");
        let mut dropping = pin!(engine.drop_shard(SHARD));
        assert!(dropping.as_mut().now_or_never().is_none(), "it waits for the image");
        cell.book.borrow_mut().compacting = false;
        engine.inner.settled.notify();
        assert!(matches!(checkpoint.await, Err(EngineError::NoShard { shard: SHARD })));
        assert_eq!(dropping.await, Ok(()));
        assert_eq!(image_files(&disk), Vec::<String>::new());
    });
}
