//! Does the device keep what it promises on a real file system?

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use heddle_runtime::{GlommioDevice, run_single};
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode};

const PAGE: usize = heddle_types::limits::PAGE_SIZE_BYTES;

/// A directory on the disk of the build tree (not tmpfs, which has no direct IO).
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = base.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let magic = rustix::fs::statfs(&path).unwrap().f_type;
        assert_ne!(magic, 0x0102_1994, "direct IO cannot be tested on tmpfs");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn on_device<F: Future<Output = ()>>(name: &str, test: impl FnOnce(GlommioDevice) -> F) {
    let scratch = Scratch::new(name);
    run_single(async {
        test(GlommioDevice::new(&scratch.0).unwrap()).await;
    })
    .unwrap();
}

/// Bytes that differ from page to page.
fn pattern(length: usize, seed: u64) -> AlignedBuf {
    let mut state = seed | 1;
    let bytes: Vec<u8> = (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect();
    AlignedBuf::from_slice(&bytes)
}

#[test]
fn what_was_written_and_synced_is_read_back() {
    on_device("roundtrip", |device| async move {
        let file = device.open("a", OpenMode::CreateNew).await.unwrap();
        let data = pattern(5 * PAGE - 100, 7);
        let data = file.write_at(PAGE as u64, data).await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(file.length().await.unwrap(), 6 * PAGE as u64);
        let back = file.read_at(PAGE as u64, 5 * PAGE).await.unwrap();
        assert_eq!(back.as_slice(), data.padded());
        assert!(back[5 * PAGE - 100..].iter().all(|byte| *byte == 0), "the padding is zero");
        let hole = file.read_at(0, PAGE).await.unwrap();
        assert!(hole.iter().all(|byte| *byte == 0));
        file.close().await.unwrap();
        // Seen through the page cache as well.
        assert_eq!(&std::fs::read(device.root().join("a")).unwrap()[PAGE..], data.padded());
    });
}

#[test]
fn reading_past_the_end_is_short_and_says_how_much_was_there() {
    on_device("short", |device| async move {
        let file = device.open("a", OpenMode::CreateNew).await.unwrap();
        file.write_at(0, pattern(2 * PAGE, 1)).await.unwrap();
        let short = file.read_at(PAGE as u64, 2 * PAGE).await.unwrap_err();
        assert_eq!(
            short,
            DeviceError::Short {
                path: "a".to_owned(),
                offset: PAGE as u64,
                expected: 2 * PAGE,
                found: PAGE,
            }
        );
        assert_eq!(file.read_at(0, 0).await.unwrap().len(), 0);
        file.close().await.unwrap();
    });
}

#[test]
fn modes_create_find_and_protect() {
    on_device("modes", |device| async move {
        let missing = device.open("a", OpenMode::Read).await.unwrap_err();
        assert_eq!(missing, DeviceError::NotFound { path: "a".to_owned() });
        assert!(matches!(
            device.open("a", OpenMode::Write).await,
            Err(DeviceError::NotFound { .. })
        ));
        device.open("a", OpenMode::CreateNew).await.unwrap().close().await.unwrap();
        let exists = device.open("a", OpenMode::CreateNew).await.unwrap_err();
        assert_eq!(exists, DeviceError::Exists { path: "a".to_owned() });
        let reader = device.open("a", OpenMode::Read).await.unwrap();
        assert!(matches!(
            reader.write_at(0, pattern(PAGE, 1)).await,
            Err(DeviceError::Io { operation: "write", .. })
        ));
        reader.close().await.unwrap();
        let writer = device.open("a", OpenMode::Write).await.unwrap();
        writer.write_at(0, pattern(PAGE, 1)).await.unwrap();
        writer.close().await.unwrap();
    });
}

#[test]
fn an_allocated_file_is_all_zeros_and_its_extents_stay_as_they_are() {
    use std::os::unix::fs::MetadataExt;
    on_device("allocate", |device| async move {
        let length = (3 << 20) + 5 * PAGE as u64;
        let file = device.open("wal", OpenMode::CreateNew).await.unwrap();
        file.allocate(length).await.unwrap();
        assert_eq!(file.length().await.unwrap(), length);
        let full = device.root().join("wal");
        let blocks = std::fs::metadata(&full).unwrap().blocks();
        assert!(blocks * 512 >= length, "{blocks} blocks are not {length} bytes");
        let mut seen = 0;
        file.read_pieces(length, 1 << 20, 3, |offset, piece| {
            assert_eq!(offset, seen);
            assert!(piece.iter().all(|byte| *byte == 0));
            seen += piece.len() as u64;
        })
        .await
        .unwrap();
        assert_eq!(seen, length);
        file.write_at(length - PAGE as u64, pattern(PAGE, 3)).await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(file.length().await.unwrap(), length);
        assert_eq!(std::fs::metadata(&full).unwrap().blocks(), blocks);
        assert_eq!(file.allocated_bytes().await.unwrap(), blocks * 512);
        file.close().await.unwrap();
        // As long, and nothing but a hole.
        let hole = std::fs::File::create_new(device.root().join("hole")).unwrap();
        hole.set_len(length).unwrap();
        let file = device.open("hole", OpenMode::Read).await.unwrap();
        assert_eq!(file.length().await.unwrap(), length);
        assert!(file.allocated_bytes().await.unwrap() < PAGE as u64);
        file.close().await.unwrap();
    });
}

#[test]
fn many_writes_at_once_all_arrive() {
    on_device("many", |device| async move {
        let file = std::rc::Rc::new(device.open("a", OpenMode::CreateNew).await.unwrap());
        let count = heddle_runtime::device::DEVICE_IO_IN_FLIGHT_MAX * 4;
        file.allocate((count * PAGE) as u64).await.unwrap();
        let tasks: Vec<_> = (0..count)
            .map(|place| {
                let file = std::rc::Rc::clone(&file);
                heddle_runtime::spawn_joinable(heddle_runtime::Queue::Wal, async move {
                    let data = pattern(PAGE, place as u64 + 1);
                    file.write_at((place * PAGE) as u64, data).await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await, Some(()));
        }
        file.sync().await.unwrap();
        // Looked at where it arrived, it is what a read hands out.
        let whole = pattern(PAGE, 3);
        let same = file.read_with(2 * PAGE as u64, PAGE, |bytes| bytes == whole.as_slice()).await;
        assert_eq!(same, Ok(true));
        let end = (count * PAGE) as u64;
        let short = file.read_with(end, PAGE, <[u8]>::len).await.unwrap_err();
        assert!(matches!(short, DeviceError::Short { found: 0, .. }), "{short}");
        file.read_pieces((count * PAGE) as u64, 8 * PAGE, 8, |offset, piece| {
            for (place, page) in piece.chunks(PAGE).enumerate() {
                let place = offset as usize / PAGE + place;
                assert_eq!(page, pattern(PAGE, place as u64 + 1).as_slice(), "page {place}");
            }
        })
        .await
        .unwrap();
        let stats = heddle_runtime::stats::core_stats();
        assert!(stats.writes >= count as u64 && stats.write_bytes >= (count * PAGE) as u64);
        let again = heddle_runtime::stats::core_stats();
        assert!(again.writes >= stats.writes, "reading the counters must not reset them");
    });
}

#[test]
fn directories_are_made_listed_renamed_and_removed() {
    on_device("dirs", |device| async move {
        device.create_dir("x/y/z").await.unwrap();
        device.create_dir("x/y/z").await.unwrap();
        for name in ["b", "a", "c"] {
            let path = format!("x/y/{name}");
            device.open(&path, OpenMode::CreateNew).await.unwrap().close().await.unwrap();
        }
        device.sync_dir("x/y").await.unwrap();
        assert_eq!(device.list("x/y").await.unwrap(), ["a", "b", "c", "z"]);
        assert_eq!(device.list("").await.unwrap(), ["x"]);
        device.rename("x/y/a", "x/y/b").await.unwrap();
        device.remove("x/y/c").await.unwrap();
        assert_eq!(device.list("x/y").await.unwrap(), ["b", "z"]);
        let gone = DeviceError::NotFound { path: "x/y/c".to_owned() };
        assert_eq!(device.remove("x/y/c").await.unwrap_err(), gone);
        assert_eq!(device.rename("x/y/c", "x/y/d").await.unwrap_err(), gone);
        assert!(matches!(device.list("nothing").await, Err(DeviceError::NotFound { .. })));
        device.remove_tree("x").await.unwrap();
        device.remove_tree("x").await.unwrap();
        assert_eq!(device.list("").await.unwrap(), Vec::<String>::new());
        let space = device.space().await.unwrap();
        assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
    });
}

#[test]
fn paths_that_leave_the_root_are_refused() {
    on_device("paths", |device| async move {
        let long = "x".repeat(heddle_runtime::device::DEVICE_PATH_BYTES_MAX + 1);
        for path in ["../a", "x/../../a", "/etc/passwd", "..", "a\0b", &long] {
            let refused = device.open(path, OpenMode::Read).await.unwrap_err();
            assert!(
                matches!(refused, DeviceError::Io { operation: "resolve", .. }),
                "{path}: {refused}"
            );
            assert!(device.rename("a", path).await.is_err());
            assert!(device.remove_tree(path).await.is_err());
        }
        assert!(device.remove_tree("").await.is_err(), "the root stays");
        assert!(device.remove_tree(".").await.is_err(), "the root stays");
        assert!(device.root().is_dir());
    });
    assert!(matches!(
        GlommioDevice::new(Path::new("/nonexistent")),
        Err(DeviceError::NotFound { .. })
    ));
}

#[test]
fn files_may_be_opened_while_others_are_removed() {
    on_device("races", |device| async move {
        for round in 0..50 {
            let path = format!("f{round}");
            device.open(&path, OpenMode::CreateNew).await.unwrap().close().await.unwrap();
            let opener = device.clone();
            let opened = path.clone();
            let open = heddle_runtime::spawn_joinable(heddle_runtime::Queue::Wal, async move {
                match opener.open(&opened, OpenMode::Read).await {
                    Ok(file) => file.close().await.unwrap(),
                    Err(error) => assert!(matches!(error, DeviceError::NotFound { .. })),
                }
            });
            device.remove(&path).await.unwrap();
            assert_eq!(open.await, Some(()));
        }
    });
}

/// A small ext4 file system in a file, mounted; needs root and the loop driver.
struct SmallDisk {
    scratch: Scratch,
    mounted: bool,
}

impl SmallDisk {
    fn new() -> Result<Self, String> {
        let scratch = Scratch::new("small-disk");
        let image = scratch.0.join("image");
        let mount = scratch.0.join("mount");
        std::fs::create_dir(&mount).unwrap();
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let mut disk = Self { scratch, mounted: false };
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        disk.mounted = true;
        Ok(disk)
    }

    fn path(&self) -> PathBuf {
        self.scratch.0.join("mount")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            run(Command::new("umount").arg(self.path())).unwrap();
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

#[test]
fn a_full_disk_is_no_space_and_takes_writes_again_when_there_is_some() {
    let disk = match SmallDisk::new() {
        Ok(disk) => disk,
        Err(reason) => {
            println!("not tested: no small disk can be mounted here: {reason}");
            return;
        }
    };
    run_single(async {
        let device = GlommioDevice::new(&disk.path()).unwrap();
        let fill = device.open("fill", OpenMode::CreateNew).await.unwrap();
        let refused = fill.allocate(64 << 20).await.unwrap_err();
        assert_eq!(refused, DeviceError::NoSpace { path: "fill".to_owned() });
        let mut offset = 0;
        let full = loop {
            match fill.write_at(offset, pattern(256 << 10, 9)).await {
                Ok(written) => offset += written.len() as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(full, DeviceError::NoSpace { path: "fill".to_owned() });
        assert!(offset > 4 << 20, "{offset}");
        fill.close().await.unwrap();
        device.remove("fill").await.unwrap();
        let file = device.open("again", OpenMode::CreateNew).await.unwrap();
        file.write_at(0, pattern(1 << 20, 2)).await.unwrap();
        file.sync().await.unwrap();
        file.close().await.unwrap();
    })
    .unwrap();
}
