//! Tests of checkpoints on a disk that loses, tears and fails.

use futures::executor::block_on;
use heddle_sim::{Crash, Fault, Random, SimDisk};
use heddle_types::{Device, Lsn, ShardId};

use super::*;

const DIRECTORY: &str = "shards/0000000003";
const SHARD: ShardId = ShardId(3);
/// Empty, short, exactly one chunk, several chunks.
const LENGTHS: [usize; 4] = [0, 100, 256 << 10, 600_000];

async fn new_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.set_latency_turns_max(0);
    disk.create_dir(DIRECTORY).await.unwrap();
    disk.sync_dir("shards").await.unwrap();
    disk.sync_dir("").await.unwrap();
    disk
}

fn content(generation: u64, section: usize) -> Vec<u8> {
    Random::new(generation * 10 + section as u64).bytes(LENGTHS[section])
}

async fn write(disk: &SimDisk, generation: u64) -> Result<(), CheckpointError> {
    let mut writer = ImageWriter::begin(disk.clone(), DIRECTORY, SHARD, generation).await?;
    for section in 0..LENGTHS.len() {
        let bytes = content(generation, section);
        writer.section(SectionId(section as u32), bytes.len() as u64).await?;
        for part in bytes.chunks(77_777) {
            writer.write(part).await?;
        }
    }
    writer.ledger(&ledger(generation)).await?;
    writer.commit(Lsn(generation * 100), &generation.to_le_bytes()).await
}

fn ledger(generation: u64) -> Vec<u8> {
    Random::new(generation + 500).bytes(5_000 + generation as usize)
}

/// The generation of the ledger, which is that of the image or of a later try.
async fn check_ledger(disk: &SimDisk, image: u64) {
    let (generation, bytes) = match read_ledger(disk, DIRECTORY, SHARD).await {
        Ok(Some(found)) => found,
        other => panic!("beside image {image}: {other:?}"),
    };
    assert!(generation >= image, "ledger {generation} beside image {image}");
    assert!(bytes == ledger(generation), "ledger {generation}");
}

/// The generation found, checked in full; 0 for none.
async fn read(disk: &SimDisk) -> Result<u64, CheckpointError> {
    let Some(reader) = ImageReader::open(disk, DIRECTORY, SHARD).await? else { return Ok(0) };
    let generation = reader.generation();
    assert_eq!(reader.covers(), Lsn(generation * 100));
    assert_eq!(reader.meta(), generation.to_le_bytes());
    assert_eq!(reader.sections().count(), LENGTHS.len());
    for (section, length) in LENGTHS.into_iter().enumerate() {
        let id = SectionId(section as u32);
        assert_eq!(reader.section_bytes(id), Some(length as u64));
        let bytes = reader.read_all(id).await?;
        assert!(bytes == content(generation, section), "section {section}");
    }
    Ok(generation)
}

#[test]
fn an_image_comes_back_and_replaces_the_one_before() {
    block_on(async {
        let disk = new_disk().await;
        assert_eq!(read(&disk).await, Ok(0));
        for generation in 1..4 {
            write(&disk, generation).await.unwrap();
            let crashed = disk.crashed(Crash::LoseUnsynced);
            assert_eq!(read(&crashed).await, Ok(generation));
            assert_eq!(crashed.files().len(), 4, "{:?}", crashed.files());
        }
        let reader = ImageReader::open(&disk, DIRECTORY, SHARD).await.unwrap().unwrap();
        let missing = reader.read_all(SectionId(9)).await;
        assert!(matches!(missing, Err(CheckpointError::NoSection { section: 9, .. })));
        let id = |section: usize| SectionId(section as u32);
        let ids = [id(3), id(9), id(0), id(2)];
        let mut parts = ids.map(|_| vec![0; LENGTHS[3]]);
        let outcomes = reader.read_sections(&ids, |position, offset, bytes| {
            parts[position][offset as usize..][..bytes.len()].copy_from_slice(bytes);
        });
        let outcomes = outcomes.await;
        assert!(matches!(outcomes[1], Err(CheckpointError::NoSection { section: 9, .. })));
        for (position, section) in [(0, 3), (2, 0), (3, 2)] {
            assert_eq!(outcomes[position], Ok(()));
            assert!(parts[position][..LENGTHS[section]] == content(3, section));
        }
        let other = ImageReader::open(&disk, DIRECTORY, ShardId(4)).await.err();
        assert!(matches!(other, Some(CheckpointError::Corrupt { what: "shard", .. })));
    });
}

#[test]
fn a_crash_at_any_change_leaves_the_old_image_or_the_new_one() {
    block_on(async {
        for first in [0, 1, 2] {
            let start = new_disk().await;
            for generation in 1..=first {
                write(&start, generation).await.unwrap();
            }
            let mut at = 1;
            loop {
                let disk = start.crashed(Crash::KeepAll);
                disk.fail_change(at, Fault::PowerCut);
                let finished = write(&disk, first + 1).await.is_ok();
                let mut crashes =
                    vec![Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData];
                crashes.extend((0..6).map(|salt| Crash::Random(at * 10 + salt)));
                for crash in crashes {
                    let crashed = disk.crashed(crash);
                    let found = read(&crashed).await.unwrap_or_else(|error| {
                        panic!("change {at}, {crash:?}: {error}");
                    });
                    assert!(found == first || found == first + 1, "change {at}, {crash:?}");
                    if found > 0 {
                        check_ledger(&crashed, found).await;
                    }
                    assert!(found == first + 1 || !finished, "a committed image is lost");
                    // Whatever is left, the next checkpoint works.
                    remove_other_images(&crashed, DIRECTORY, found).await.unwrap();
                    write(&crashed, found + 1).await.unwrap();
                    let again = crashed.crashed(Crash::LoseUnsynced);
                    assert_eq!(read(&again).await, Ok(found + 1));
                }
                if finished {
                    break;
                }
                at += 1;
            }
            assert!(at > 18, "a checkpoint has {at} changes only");
        }
    });
}

#[test]
fn any_operation_may_fail_and_one_whole_image_is_left() {
    block_on(async {
        let start = new_disk().await;
        write(&start, 1).await.unwrap();
        for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
            let mut at = 1;
            loop {
                let disk = start.crashed(Crash::KeepAll);
                disk.fail_operation(at, fault);
                let finished = write(&disk, 2).await.is_ok();
                let found = read(&disk.crashed(Crash::Random(at))).await.unwrap();
                assert!(found == 2 || (found == 1 && !finished));
                if finished {
                    break;
                }
                at += 1;
            }
        }
    });
}

#[test]
fn damage_is_named_wherever_it_is() {
    block_on(async {
        let disk = new_disk().await;
        write(&disk, 1).await.unwrap();
        let image = format!("{DIRECTORY}/image-1");
        let bytes = disk.file_bytes(&image).unwrap();
        let mut random = Random::new(5);
        let mut refused = 0;
        for _ in 0..150 {
            let bit = usize::try_from(random.below(bytes.len() as u64 * 8)).unwrap();
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            disk.plant_file(&image, damaged);
            match read(&disk).await {
                // Padding carries nothing.
                Ok(found) => assert_eq!(found, 1),
                Err(CheckpointError::Corrupt { file, .. }) => {
                    assert_eq!(file, image);
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused > 120, "{refused} of 150 flips were noticed");
        for length in [0, 1, 4096, 5000, bytes.len() / 2, bytes.len() - 1] {
            disk.plant_file(&image, bytes[..length].to_vec());
            assert!(read(&disk).await.is_err(), "length {length}");
        }
        disk.remove(&image).await.unwrap();
        assert!(matches!(read(&disk).await, Err(CheckpointError::Corrupt { .. })));
    });
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_not() {
    block_on(async {
        let start = new_disk().await;
        write(&start, 1).await.unwrap();
        write(&start, 2).await.unwrap();
        let paths = SUPERBLOCK_NAMES.map(|name| format!("{DIRECTORY}/{name}"));
        for path in &paths {
            for bytes in [Vec::new(), vec![0; 4096], vec![7; 4096]] {
                let disk = start.crashed(Crash::KeepAll);
                disk.plant_file(path, bytes);
                assert_eq!(read(&disk).await, Ok(2), "{path}");
            }
            let disk = start.crashed(Crash::KeepAll);
            disk.remove(path).await.unwrap();
            assert_eq!(read(&disk).await, Ok(2), "{path}");
        }
        let disk = start.crashed(Crash::KeepAll);
        paths.iter().for_each(|path| disk.plant_file(path, vec![0; 4096]));
        assert!(matches!(read(&disk).await, Err(CheckpointError::Corrupt { .. })));
    });
}

#[test]
fn sections_get_what_was_announced() {
    block_on(async {
        let disk = new_disk().await;
        let mut writer = ImageWriter::begin(disk.clone(), DIRECTORY, SHARD, 1).await.unwrap();
        writer.section(SectionId(1), 10).await.unwrap();
        let more = writer.write(&[0; 11]).await;
        assert!(matches!(more, Err(CheckpointError::SectionLength { found: 11, .. })));
        writer.abort().await.unwrap();
        assert!(disk.files().is_empty());
        let mut writer = ImageWriter::begin(disk.clone(), DIRECTORY, SHARD, 1).await.unwrap();
        writer.section(SectionId(1), 10).await.unwrap();
        writer.write(&[0; 9]).await.unwrap();
        let fewer = writer.commit(Lsn(1), &[]).await;
        assert!(matches!(fewer, Err(CheckpointError::SectionLength { found: 9, .. })));
        assert_eq!(read(&disk).await, Ok(0));
    });
}

#[test]
fn a_superblock_that_cannot_be_read_is_survived_when_the_other_is_whole() {
    block_on(async {
        let start = new_disk().await;
        write(&start, 1).await.unwrap();
        write(&start, 2).await.unwrap();
        // Each superblock is opened, measured and read.
        for at in 1..=6 {
            let disk = start.crashed(Crash::KeepAll);
            disk.set_latency_turns_max(0);
            disk.fail_operation(at, Fault::Io);
            assert_eq!(read(&disk).await, Ok(2), "operation {at}");
        }
        let disk = start.crashed(Crash::KeepAll);
        disk.remove(&format!("{DIRECTORY}/{}", SUPERBLOCK_NAMES[1])).await.unwrap();
        disk.fail_operation(disk.operations() + 1, Fault::Io);
        assert!(matches!(read(&disk).await, Err(CheckpointError::Device(_))));
    });
}

#[test]
fn missing_superblocks_beside_a_later_image_are_damage() {
    block_on(async {
        for generations in [1, 2] {
            let disk = new_disk().await;
            for generation in 1..=generations {
                write(&disk, generation).await.unwrap();
            }
            for name in SUPERBLOCK_NAMES {
                disk.remove(&format!("{DIRECTORY}/{name}")).await.unwrap();
            }
            match generations {
                // As a crash before the very first superblock leaves it.
                1 => assert_eq!(read(&disk).await, Ok(0)),
                _ => assert!(matches!(read(&disk).await, Err(CheckpointError::Corrupt { .. }))),
            }
        }
    });
}
