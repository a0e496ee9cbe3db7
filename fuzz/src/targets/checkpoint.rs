//! Opening a shard's checkpoint and reading its image.
//!
//! The input is the superblock, padded to 128 bytes, and the image behind it.

use futures::executor::block_on;
use heddle_core::checkpoint::{CheckpointError, ImageReader, ImageWriter, SectionId};
use heddle_sim::SimDisk;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{Device, Lsn, ShardId};

const DIRECTORY: &str = "shard";
const SHARD: ShardId = ShardId(3);
/// What of a superblock's page the input holds.
const SUPERBLOCK_BYTES: usize = 128;
/// Bytes of a superblock that its checksum covers.
const SUPERBLOCK_USED_BYTES: usize = 96;

/// Opens a checkpoint, as it is and with its checksums made right, and reads every section.
pub fn run(data: &[u8]) {
    let Some((superblock, image)) = data.split_first_chunk::<SUPERBLOCK_BYTES>() else { return };
    let mut superblock = *superblock;
    let mut image = image.to_vec();
    image.resize(image.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
    check(&superblock, &image);
    mend(&mut superblock, &mut image);
    check(&superblock, &image);
}

fn check(superblock: &[u8; SUPERBLOCK_BYTES], image: &[u8]) {
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    let mut page = superblock.to_vec();
    page.resize(PAGE_SIZE_BYTES, 0);
    let image_path = format!("{DIRECTORY}/image-{}", u64_at(superblock, 24));
    disk.plant_file(&format!("{DIRECTORY}/superblock.0"), page);
    disk.plant_file(&image_path, image.to_vec());
    if let Err(error) = block_on(read(&disk, image.len() as u64)) {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(disk.file_bytes(&image_path).as_deref(), Some(image), "reading changed the image");
}

async fn read(disk: &SimDisk, image_bytes: u64) -> Result<(), CheckpointError> {
    let Some(image) = ImageReader::open(disk, DIRECTORY, SHARD).await? else { return Ok(()) };
    _ = (image.generation(), image.covers());
    assert!(image.meta().len() as u64 <= image_bytes);
    for (id, length) in image.sections().collect::<Vec<_>>() {
        assert!(length <= image_bytes, "a section is longer than its image");
        // Ids may repeat in a damaged table; the first of an id is the one that is read.
        let expected = image.section_bytes(id);
        let found = image.read_all(id).await.map(|bytes| bytes.len() as u64);
        assert!(found.is_err() || found.ok() == expected);
    }
    Ok(())
}

/// Makes the checksums of the superblock, the image's first page and its table right again.
fn mend(superblock: &mut [u8; SUPERBLOCK_BYTES], image: &mut [u8]) {
    superblock[..8].copy_from_slice(b"HEDDLSUP");
    // Both versions are read; whatever else stands there becomes the one that is written.
    let version = if superblock[8..12] == 1_u32.to_le_bytes() { 1_u32 } else { 2 };
    superblock[8..12].copy_from_slice(&version.to_le_bytes());
    superblock[16..24].copy_from_slice(&SHARD.0.to_le_bytes());
    if let Some(head) = image.get_mut(..32) {
        head[..8].copy_from_slice(b"HEDDLIMG");
        head[8..12].copy_from_slice(&version.to_le_bytes());
        head[16..32].copy_from_slice(&superblock[16..32]);
        seal(head);
    }
    let (table_offset, table_bytes) = (u64_at(superblock, 48), u64_at(superblock, 56));
    if let Some(table) = part(image, table_offset, table_bytes) {
        let seed = crc32c::crc32c(&superblock[16..32]);
        let crc = crc32c::crc32c_append(seed, &table_offset.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, table);
        superblock[64..68].copy_from_slice(&crc.to_le_bytes());
    }
    seal(&mut superblock[..SUPERBLOCK_USED_BYTES]);
}

/// Bytes 12 to 15 of a header are the checksum of the others.
fn seal(header: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn part(image: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let end = usize::try_from(offset.checked_add(length)?).ok()?;
    image.get(usize::try_from(offset).ok()?..end)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(*bytes[offset..].first_chunk().expect("the header is longer"))
}

/// Checkpoints with and without sections and meta.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let shapes: [(&[u64], &[u8]); 3] = [(&[], b""), (&[40], b"meta"), (&[0, 700], b"")];
    let written = shapes.iter().map(|(lengths, meta)| block_on(checkpoint(lengths, meta)));
    written.chain([first_version()]).collect()
}

/// An image of version 1 with one section of 700 bytes.
fn first_version() -> Vec<u8> {
    let mut image = vec![0; 3 * PAGE_SIZE_BYTES];
    image[PAGE_SIZE_BYTES..PAGE_SIZE_BYTES + 700].fill(0x5A);
    // Sections, meta bytes, chunks; id, zero, offset and length of the section; a checksum.
    let crc = crc32c::crc32c_append(crc32c::crc32c(&SHARD.0.to_le_bytes()), &1_u64.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &4_096_u64.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &image[PAGE_SIZE_BYTES..PAGE_SIZE_BYTES + 700]);
    let words = [1, 0, 1, 0, 1, 0, 4_096, 0, 700, 0, crc];
    for (word, place) in words.iter().zip(image[2 * PAGE_SIZE_BYTES..].chunks_exact_mut(4)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let mut superblock = [0; SUPERBLOCK_BYTES];
    superblock[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let fields = [1, 9, image.len() as u64, 2 * PAGE_SIZE_BYTES as u64, 4 * words.len() as u64];
    for (field, place) in fields.iter().zip(superblock[24..].chunks_exact_mut(8)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    mend(&mut superblock, &mut image);
    [&superblock[..], &image].concat()
}

async fn checkpoint(lengths: &[u64], meta: &[u8]) -> Vec<u8> {
    const SOUND: &str = "the disk is sound";
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.create_dir(DIRECTORY).await.expect(SOUND);
    let mut writer = ImageWriter::begin(disk.clone(), DIRECTORY, SHARD, 1).await.expect(SOUND);
    for (number, length) in (1..).zip(lengths) {
        writer.section(SectionId(number), *length).await.expect(SOUND);
        let bytes = vec![0x5A; usize::try_from(*length).expect("sections are small")];
        writer.write(&bytes).await.expect(SOUND);
    }
    writer.commit(Lsn(9), meta).await.expect(SOUND);
    let superblock = disk.file_bytes(&format!("{DIRECTORY}/superblock.0")).expect(SOUND);
    let image = disk.file_bytes(&format!("{DIRECTORY}/image-1")).expect(SOUND);
    [&superblock[..SUPERBLOCK_BYTES], &image].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_of_the_first_version_is_read() {
        let seed = first_version();
        let (superblock, image) = seed.split_first_chunk::<SUPERBLOCK_BYTES>().unwrap();
        let disk = SimDisk::new(0);
        let page = [&superblock[..], &[0; PAGE_SIZE_BYTES - SUPERBLOCK_BYTES]].concat();
        disk.plant_file(&format!("{DIRECTORY}/superblock.0"), page);
        disk.plant_file(&format!("{DIRECTORY}/image-1"), image.to_vec());
        let read = async {
            let image = ImageReader::open(&disk, DIRECTORY, SHARD).await?.expect("it is named");
            image.read_all(SectionId(1)).await
        };
        assert_eq!(block_on(read), Ok(vec![0x5A; 700]));
    }

    #[test]
    fn mending_undoes_damage_to_checksums_and_changes_nothing_else() {
        for seed in seeds() {
            let (superblock, image) = seed.split_first_chunk::<SUPERBLOCK_BYTES>().unwrap();
            let (mut mended, mut mended_image) = (*superblock, image.to_vec());
            mended[12] ^= 1;
            mended[64] ^= 1;
            mended_image[13] ^= 1;
            mend(&mut mended, &mut mended_image);
            assert_eq!((mended.as_slice(), mended_image.as_slice()), (&superblock[..], image));
        }
    }
}
