//! Tests of the simulated disk: it must be at least as unkind as a real one.

use futures::FutureExt;
use futures::executor::block_on;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode};

use super::{Crash, Fault, SimDisk};

async fn write(disk: &SimDisk, path: &str, byte: u8, pages: usize) -> super::SimFile {
    let file = disk.open(path, OpenMode::CreateNew).await.unwrap();
    file.write_at(0, AlignedBuf::from_slice(&vec![byte; pages * 4096])).await.unwrap();
    file
}

#[test]
fn unsynced_bytes_and_names_are_lost_or_kept_apart() {
    block_on(async {
        let disk = SimDisk::new(1);
        let file = write(&disk, "a", 7, 1).await;
        assert!(disk.crashed(Crash::LoseUnsynced).files().is_empty());
        assert_eq!(disk.crashed(Crash::KeepNames).file_bytes("a"), Some(Vec::new()));
        assert!(disk.crashed(Crash::KeepData).files().is_empty());
        assert_eq!(disk.crashed(Crash::KeepAll).file_bytes("a"), Some(vec![7; 4096]));
        file.sync().await.unwrap();
        assert!(disk.crashed(Crash::LoseUnsynced).files().is_empty(), "the name is not durable");
        disk.sync_dir("").await.unwrap();
        assert_eq!(disk.crashed(Crash::LoseUnsynced).file_bytes("a"), Some(vec![7; 4096]));
    });
}

#[test]
fn a_random_crash_tears_a_write_at_sectors() {
    block_on(async {
        let disk = SimDisk::new(1);
        let file = write(&disk, "a", 1, 1).await;
        file.sync().await.unwrap();
        disk.sync_dir("").await.unwrap();
        file.write_at(0, AlignedBuf::from_slice(&[2; 4096])).await.unwrap();
        let mut torn = 0;
        for seed in 0..20 {
            let bytes = disk.crashed(Crash::Random(seed)).file_bytes("a").unwrap();
            assert!(bytes.chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]));
            torn += usize::from(bytes.contains(&1) && bytes.contains(&2));
        }
        assert!(torn > 10, "most random crashes tear, {torn} of 20 did");
    });
}

#[test]
fn each_unsynced_effect_can_be_lost_or_torn_by_itself() {
    block_on(async {
        let disk = SimDisk::new(1);
        let file = write(&disk, "a", 1, 1).await;
        file.sync().await.unwrap();
        disk.sync_dir("").await.unwrap();
        file.write_at(0, AlignedBuf::from_slice(&[2; 4096])).await.unwrap();
        disk.create_dir("x").await.unwrap();
        assert_eq!(disk.unsynced(), 2, "a name and a write");
        let first = |crash| disk.crashed(crash).file_bytes("a").unwrap()[..1024].to_vec();
        let has_name = |crash| block_on_list(&disk.crashed(crash)).contains(&"x".to_owned());
        assert_eq!((first(Crash::Without(0)), has_name(Crash::Without(0))), (vec![2; 1024], false));
        assert_eq!((first(Crash::Without(1)), has_name(Crash::Without(1))), (vec![1; 1024], true));
        let torn = [[2; 512], [1; 512]].concat();
        assert_eq!((first(Crash::Torn(1)), has_name(Crash::Torn(1))), (torn, true));
        assert_eq!(first(Crash::Without(2)), vec![2; 1024], "there is no such effect");
    });
}

/// Names in the root, without the turns of an executor.
fn block_on_list(disk: &SimDisk) -> Vec<String> {
    disk.set_latency_turns_max(0);
    disk.list("").now_or_never().unwrap().unwrap()
}

#[test]
fn a_rename_is_whole_or_not_at_all() {
    block_on(async {
        let disk = SimDisk::new(1);
        write(&disk, "a", 1, 1).await.sync().await.unwrap();
        write(&disk, "b", 2, 1).await.sync().await.unwrap();
        disk.sync_dir("").await.unwrap();
        disk.rename("a", "b").await.unwrap();
        let before = disk.crashed(Crash::LoseUnsynced);
        assert_eq!(before.files(), ["a", "b"]);
        assert_eq!(before.file_bytes("b").unwrap()[0], 2);
        let after = disk.crashed(Crash::KeepNames);
        assert_eq!(after.files(), ["b"]);
        assert_eq!(after.file_bytes("b").unwrap()[0], 1);
    });
}

#[test]
fn a_failed_sync_loses_the_bytes_and_the_next_one_says_nothing() {
    block_on(async {
        let disk = SimDisk::new(1);
        let file = write(&disk, "a", 1, 1).await;
        disk.sync_dir("").await.unwrap();
        disk.fail_operation(disk.operations() + 1, Fault::Io);
        assert!(file.sync().await.is_err());
        file.sync().await.unwrap();
        assert_ne!(disk.crashed(Crash::KeepAll).file_bytes("a"), Some(vec![1; 4096]));
    });
}

#[test]
fn a_directory_that_was_not_synced_takes_its_files_along() {
    block_on(async {
        let disk = SimDisk::new(1);
        disk.create_dir("x/y").await.unwrap();
        write(&disk, "x/y/a", 1, 1).await.sync().await.unwrap();
        disk.sync_dir("x/y").await.unwrap();
        disk.sync_dir("x").await.unwrap();
        assert!(disk.crashed(Crash::LoseUnsynced).files().is_empty());
        disk.sync_dir("").await.unwrap();
        assert_eq!(disk.crashed(Crash::LoseUnsynced).files(), ["x/y/a"]);
        assert_eq!(disk.list("x").await.unwrap(), ["y"]);
        assert_eq!(disk.list("").await.unwrap(), ["x"]);
    });
}

#[test]
fn after_a_power_cut_nothing_works_and_the_last_write_may_be_torn() {
    block_on(async {
        let disk = SimDisk::new(1);
        let file = write(&disk, "a", 1, 1).await;
        file.sync().await.unwrap();
        disk.sync_dir("").await.unwrap();
        disk.fail_change(disk.changes() + 1, Fault::PowerCut);
        assert!(file.write_at(0, AlignedBuf::from_slice(&[2; 4096])).await.is_err());
        assert!(file.sync().await.is_err());
        assert!(disk.open("a", OpenMode::Read).await.is_err());
        assert_eq!(disk.crashed(Crash::KeepAll).file_bytes("a"), Some(vec![2; 4096]));
        assert_eq!(disk.crashed(Crash::LoseUnsynced).file_bytes("a"), Some(vec![1; 4096]));
    });
}

#[test]
fn space_is_limited_and_comes_back() {
    block_on(async {
        let disk = SimDisk::new(1);
        disk.set_space_bytes(8192);
        write(&disk, "a", 1, 1).await;
        let file = disk.open("b", OpenMode::CreateNew).await.unwrap();
        let full = file.allocate(8192).await;
        assert!(matches!(full, Err(DeviceError::NoSpace { .. })));
        disk.remove("a").await.unwrap();
        file.allocate(8192).await.unwrap();
        assert_eq!(disk.space().await.unwrap().free_bytes, 0);
    });
}
