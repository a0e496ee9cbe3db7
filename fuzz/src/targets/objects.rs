//! Opening an object segment of either version, reading all of it, and reading at any place.
//!
//! The input is a location of 20 bytes, and the file behind it.

use futures::executor::block_on;
use heddle_core::objects::{
    Location, NewObject, NewVector, ObjectConfig, ObjectError, ObjectStore, Parts,
};
use heddle_sim::SimDisk;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{Device, ObjectId, ShardId, Stamp};

const DIRECTORY: &str = "shard";
const PATH: &str = "shard/objects-0000000001";
const SHARD: ShardId = ShardId(3);
const CONFIG: ObjectConfig = ObjectConfig { memtable_bytes: 1 << 20 };
/// Bytes of the header before the first of its checksums' parts ends, and of all of it.
const HEAD_BYTES: usize = 48;
const HEADER_BYTES: usize = 96;

/// Opens a segment, as it is and with the checksums of its header and table made right.
pub fn run(data: &[u8]) {
    let Some((place, file)) = data.split_first_chunk::<{ Location::ENCODED_BYTES }>() else {
        return;
    };
    let mut file = file.to_vec();
    file.resize(file.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
    check(place, &file);
    mend(&mut file);
    check(place, &file);
}

fn check(place: &[u8; Location::ENCODED_BYTES], file: &[u8]) {
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.plant_file(PATH, file.to_vec());
    if let Err(error) = block_on(read(&disk, Location::decode(place))) {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(disk.file_bytes(PATH).as_deref(), Some(file), "reading changed the segment");
}

async fn read(disk: &SimDisk, place: Location) -> Result<(), ObjectError> {
    let opened = ObjectStore::open(disk.clone(), DIRECTORY, SHARD, CONFIG, &[1]).await;
    let (mut store, _) = opened?;
    let found = store.read_parts(place, Parts::Both).await;
    if let Ok(found) = found {
        assert!(found.row.is_some());
        assert_eq!(found.vectors.is_some(), place.has_vectors());
    }
    // Counting whatever is asked for must not underflow.
    if store.adopt(place).is_ok() {
        store.forget(place);
    }
    let mut scrub = store.begin_scrub(1).expect("the segment was opened");
    while !scrub.step(u64::MAX).await?.is_done {}
    Ok(())
}

/// Makes the checksums of the header and of the table right again.
fn mend(file: &mut [u8]) {
    let Some(header) = file.first_chunk_mut::<HEADER_BYTES>() else { return };
    header[..8].copy_from_slice(b"HEDDLOBJ");
    let version = 2 + (header[8] & 1);
    header[8..12].copy_from_slice(&[version, 0, 0, 0]);
    header[16..24].copy_from_slice(&SHARD.0.to_le_bytes());
    header[24..28].copy_from_slice(&1_u32.to_le_bytes());
    let (vectors, stored) = (u64_at(header, 40), u64_at(header, 48));
    let count = u64_at(header, 56) & 0xFFFF_FFFF;
    let page = PAGE_SIZE_BYTES as u64;
    let at = vectors
        .checked_next_multiple_of(page)
        .and_then(|vectors| vectors.checked_add(page)?.checked_add(stored));
    let table = at.and_then(|at| {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(usize::try_from(count * 16).ok()?)?;
        Some((at, file.get(start..end)?.to_vec()))
    });
    let Some(header) = file.first_chunk_mut::<HEADER_BYTES>() else { return };
    if let Some((at, table)) = table {
        let seed = [&SHARD.0.to_le_bytes()[..], &1_u32.to_le_bytes(), &at.to_le_bytes()].concat();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&seed), &table);
        header[60..64].copy_from_slice(&crc.to_le_bytes());
    }
    let head = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..HEAD_BYTES]);
    let rest = crc32c::crc32c_append(head, &header[HEAD_BYTES..HEADER_BYTES - 4]);
    header[12..16].copy_from_slice(&head.to_le_bytes());
    header[HEADER_BYTES - 4..].copy_from_slice(&rest.to_le_bytes());
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(*bytes[offset..].first_chunk().expect("the header is longer"))
}

/// Segments with rows alone, with vectors, with one large row; each with a place that is there.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let text = "a row like any other ".repeat(30);
    let large = "x".repeat(10_000);
    let shapes: [(&[&str], &[f32]); 3] =
        [(&[&text, "", &text], &[]), (&["row"], &[0.5; 9]), (&[&large], &[])];
    shapes.iter().map(|(rows, vector)| block_on(segment(rows, vector))).collect()
}

async fn segment(rows: &[&str], vector: &[f32]) -> Vec<u8> {
    const SOUND: &str = "the disk is sound";
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.create_dir(DIRECTORY).await.expect(SOUND);
    let opened = ObjectStore::open(disk.clone(), DIRECTORY, SHARD, CONFIG, &[]).await;
    let (mut store, _) = opened.expect(SOUND);
    let vectors = [NewVector { index: 0, values: vector }];
    let vectors = if vector.is_empty() { &[][..] } else { &vectors[..] };
    let mut place = None;
    for (slot, row) in (0..).zip(rows) {
        let (id, stamp) = (ObjectId::from_row(u64::from(slot)), Stamp::default());
        let row = row.as_bytes();
        place = Some(store.put(&NewObject {
            slot,
            id: &id,
            created_us: 1,
            stamp: &stamp,
            row,
            vectors,
        }));
    }
    let job = store.begin_flush().expect("there are rows");
    let flushed = job.run().await;
    store.finish_flush(flushed).expect(SOUND);
    let place = place.expect("there are rows").encode();
    [&place[..], &disk.file_bytes(PATH).expect(SOUND)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mending_undoes_damage_to_checksums_and_changes_nothing_else() {
        for seed in seeds() {
            let file = &seed[Location::ENCODED_BYTES..];
            let mut mended = file.to_vec();
            for at in [12, 60, 92] {
                mended[at] ^= 1;
            }
            mend(&mut mended);
            assert_eq!(mended, file);
        }
    }
}
