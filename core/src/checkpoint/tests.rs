//! Tests of checkpoints on a disk that loses, tears and fails.

use futures::executor::block_on;
use heddle_sim::{Crash, Fault, Random, SimDisk};
use heddle_types::limits::{CHECKPOINT_CHUNK_BYTES, PAGE_SIZE_BYTES};
use heddle_types::{AlignedBuf, Device, DeviceFile, Lsn, OpenMode, ShardId};

use super::format::{ImageKey, Superblock, encode_image_header};
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

/// What a section of a generation holds when each image changes one section: the one whose turn it
/// is. The first image has all of them.
fn mixed(generation: u64, section: usize) -> Vec<u8> {
    let sections = LENGTHS.len() as u64;
    let changed = (1..=generation).rev().find(|turn| turn % sections == section as u64);
    content(changed.unwrap_or(100), section)
}

async fn write_after(
    disk: &SimDisk,
    generation: u64,
    previous: Previous,
) -> Result<Previous, CheckpointError> {
    let begun = ImageWriter::begin(disk.clone(), DIRECTORY, SHARD, generation).await?;
    let mut writer = begun.with_previous(previous);
    for section in 0..LENGTHS.len() {
        let bytes = mixed(generation, section);
        writer.section(SectionId(section as u32), bytes.len() as u64).await?;
        writer.write(&bytes).await?;
    }
    writer.ledger(&ledger(generation)).await?;
    writer.commit_and_keep(Lsn(generation * 100), &generation.to_le_bytes()).await
}

/// The generation found, checked in full; 0 for none.
async fn read_mixed(disk: &SimDisk) -> Result<u64, CheckpointError> {
    let Some(reader) = ImageReader::open(disk, DIRECTORY, SHARD).await? else { return Ok(0) };
    let generation = reader.generation();
    assert_eq!(reader.covers(), Lsn(generation * 100));
    for section in 0..LENGTHS.len() {
        let bytes = reader.read_all(SectionId(section as u32)).await?;
        assert!(bytes == mixed(generation, section), "section {section}");
    }
    Ok(generation)
}

fn image_files(disk: &SimDisk) -> Vec<u64> {
    let prefix = format!("{DIRECTORY}/");
    let names = disk.files();
    let own = names.iter().filter_map(|name| image_generation(name.strip_prefix(&prefix)?));
    let mut files: Vec<u64> = own.collect();
    files.sort_unstable();
    files
}

#[test]
fn only_chunks_that_changed_are_written() {
    block_on(async {
        let disk = new_disk().await;
        let mut previous = write_after(&disk, 1, Previous::default()).await.unwrap();
        let whole: usize = LENGTHS.iter().sum();
        for generation in 2..40 {
            let before = disk.bytes_written();
            previous = write_after(&disk, generation, previous).await.unwrap();
            let written = disk.bytes_written() - before;
            let changed = LENGTHS[(generation % 4) as usize] as u64;
            // Header, table, ledger, superblocks; and what is left in files that are given up.
            let kept = written <= changed + 60_000;
            let moved = written <= whole as u64 + 60_000;
            assert!(kept || moved, "image {generation}: {written} bytes for {changed}");
            assert!(kept || generation > 2, "the second image is written whole");
            let crashed = disk.crashed(Crash::LoseUnsynced);
            assert_eq!(read_mixed(&crashed).await, Ok(generation));
            let reader = ImageReader::open(&crashed, DIRECTORY, SHARD).await.unwrap().unwrap();
            assert_eq!(reader.files(), image_files(&crashed), "no other file is left");
            let images = image_files(&crashed).into_iter().map(|file| {
                let path = format!("{DIRECTORY}/{}", image_name(file));
                crashed.file_bytes(&path).unwrap().len()
            });
            let total: usize = images.sum();
            assert!(total <= 3 * whole + 100_000, "image {generation}: {total} bytes of files");
        }
    });
}

#[test]
fn an_image_that_did_not_change_is_a_table() {
    block_on(async {
        let disk = new_disk().await;
        let previous = write_after(&disk, 4, Previous::default()).await.unwrap();
        let before = disk.bytes_written();
        // Section 1 is empty but for 100 bytes; its turn changes nothing else.
        write_after(&disk, 5, previous).await.unwrap();
        let written = disk.bytes_written() - before;
        assert!(written < 40_000, "{written} bytes");
        assert_eq!(read_mixed(&disk).await, Ok(5));
        assert_eq!(image_files(&disk), [4, 5]);
    });
}

#[test]
fn a_crash_at_any_change_of_an_image_in_several_files_leaves_the_old_one_or_the_new_one() {
    block_on(async {
        for first in [2, 3, 5, 6] {
            let mut at = 1;
            loop {
                let disk = new_disk().await;
                let mut previous = Previous::default();
                for generation in 1..=first {
                    previous = write_after(&disk, generation, previous).await.unwrap();
                }
                disk.fail_change(disk.changes() + at, Fault::PowerCut);
                let finished = write_after(&disk, first + 1, previous).await.is_ok();
                let mut crashes =
                    vec![Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepNames, Crash::KeepData];
                crashes.extend((0..4).map(|salt| Crash::Random(at * 10 + salt)));
                for crash in crashes {
                    let crashed = disk.crashed(crash);
                    let found = read_mixed(&crashed).await.unwrap_or_else(|error| {
                        panic!("after {first}, change {at}, {crash:?}: {error}");
                    });
                    assert!(found == first || found == first + 1, "change {at}, {crash:?}");
                    assert!(found == first + 1 || !finished, "a committed image is lost");
                    check_ledger(&crashed, found).await;
                    // As a start does, then an image that is written whole.
                    let reader = ImageReader::open(&crashed, DIRECTORY, SHARD).await.unwrap();
                    let files = reader.unwrap().files();
                    repair_superblocks(&crashed, DIRECTORY, SHARD).await.unwrap();
                    remove_unused_images(&crashed, DIRECTORY, &files).await.unwrap();
                    let again = crashed.crashed(Crash::LoseUnsynced);
                    assert_eq!(read_mixed(&again).await, Ok(found));
                    write_after(&again, found + 1, Previous::default()).await.unwrap();
                    assert_eq!(read_mixed(&again).await, Ok(found + 1));
                    assert_eq!(image_files(&again), [found + 1]);
                }
                if finished {
                    break;
                }
                at += 1;
            }
            assert!(at > 12, "a checkpoint has {at} changes only");
        }
    });
}

#[test]
fn damage_to_an_older_file_is_named() {
    block_on(async {
        let disk = new_disk().await;
        let previous = write_after(&disk, 1, Previous::default()).await.unwrap();
        write_after(&disk, 2, previous).await.unwrap();
        let path = format!("{DIRECTORY}/image-1");
        let bytes = disk.file_bytes(&path).unwrap();
        let mut damaged = bytes.clone();
        damaged[PAGE_SIZE_BYTES + 5] ^= 1;
        disk.plant_file(&path, damaged);
        match read_mixed(&disk).await {
            Err(CheckpointError::Corrupt {
                file, offset: 4_096, what: "chunk checksum", ..
            }) => {
                assert_eq!(file, path);
            }
            other => panic!("{other:?}"),
        }
        disk.plant_file(&path, bytes[..300_000 / 4_096 * 4_096].to_vec());
        let short = read_mixed(&disk).await;
        assert!(matches!(short, Err(CheckpointError::Corrupt { what: "file length", .. })));
        disk.remove(&path).await.unwrap();
        let gone = read_mixed(&disk).await;
        assert!(matches!(gone, Err(CheckpointError::Corrupt { what: "file length", .. })));
    });
}

#[test]
fn images_of_the_first_version_are_read_and_replaced() {
    block_on(async {
        let disk = new_disk().await;
        let key = ImageKey { shard: SHARD, generation: 7 };
        let bytes = Random::new(3).bytes(300_000);
        let mut file = encode_image_header(key, 1).to_vec();
        file.resize(PAGE_SIZE_BYTES, 0);
        file.extend_from_slice(&bytes);
        file.resize(file.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
        let table_offset = file.len() as u64;
        let mut table = Vec::new();
        // Sections, meta bytes, chunks; then id, zero, offset and length of the section.
        let words: [u32; 10] = [1, 4, 2, 0, 5, 0, 4_096, 0, 300_000, 0];
        words.iter().for_each(|word| table.extend_from_slice(&word.to_le_bytes()));
        for (chunk, offset) in
            bytes.chunks(CHECKPOINT_CHUNK_BYTES).zip([4_096, 4_096 + (256 << 10)])
        {
            table.extend_from_slice(&key.chunk_crc(offset, chunk).to_le_bytes());
        }
        table.extend_from_slice(b"meta");
        file.extend_from_slice(&table);
        file.resize(file.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
        let superblock = Superblock {
            version: 1,
            key,
            covers: Lsn(70),
            image_bytes: file.len() as u64,
            table_offset,
            table_bytes: table.len() as u64,
            table_crc: key.chunk_crc(table_offset, &table),
        };
        disk.plant_file(&format!("{DIRECTORY}/image-7"), file);
        for name in SUPERBLOCK_NAMES {
            let page = AlignedBuf::from_slice(&superblock.encode()).padded().to_vec();
            disk.plant_file(&format!("{DIRECTORY}/{name}"), page);
        }
        let reader = ImageReader::open(&disk, DIRECTORY, SHARD).await.unwrap().unwrap();
        assert_eq!(
            (reader.generation(), reader.covers(), reader.meta()),
            (7, Lsn(70), &b"meta"[..])
        );
        assert!(reader.read_all(SectionId(5)).await.unwrap() == bytes);
        // Such an image has no ledger.
        assert_eq!(read_ledger(&disk, DIRECTORY, SHARD).await, Ok(None));
        write(&disk, 8).await.unwrap();
        assert_eq!(read(&disk.crashed(Crash::LoseUnsynced)).await, Ok(8));
        let newer = disk.open(&format!("{DIRECTORY}/superblock.0"), OpenMode::Write).await.unwrap();
        let superblock = Superblock { version: 3, ..superblock };
        newer.write_at(0, AlignedBuf::from_slice(&superblock.encode())).await.unwrap();
        let refused = read(&disk).await;
        assert!(matches!(refused, Err(CheckpointError::Version { found: 3, expected: 2, .. })));
    });
}
