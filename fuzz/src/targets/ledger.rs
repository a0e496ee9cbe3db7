//! Opening the ledger beside a shard's image.
//!
//! The input is the meaningful part of the first page, padded to 64 bytes, and the body behind it.

use futures::executor::block_on;
use heddle_core::checkpoint::{ImageWriter, read_ledger};
use heddle_sim::SimDisk;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{Device, Lsn, ShardId};

const DIRECTORY: &str = "shard";
const SHARD: ShardId = ShardId(3);
/// What of the first page the input holds.
const HEADER_BYTES: usize = 64;
/// Bytes of it that its checksum covers.
const HEADER_USED_BYTES: usize = 48;

/// Reads a ledger, as it is and with its checksums made right.
pub fn run(data: &[u8]) {
    let Some((header, body)) = data.split_first_chunk::<HEADER_BYTES>() else { return };
    let mut header = *header;
    check(&header, body);
    mend(&mut header, body);
    check(&header, body);
}

fn check(header: &[u8; HEADER_BYTES], body: &[u8]) {
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    let generation = u64::from_le_bytes(*header[24..].first_chunk().expect("it is longer"));
    let mut file = header.to_vec();
    file.resize(PAGE_SIZE_BYTES, 0);
    file.extend_from_slice(body);
    file.resize(file.len().next_multiple_of(PAGE_SIZE_BYTES), 0);
    disk.plant_file(&format!("{DIRECTORY}/ledger-{generation}"), file);
    match block_on(read_ledger(&disk, DIRECTORY, SHARD)) {
        Ok(Some((found, bytes))) => {
            assert_eq!(found, generation);
            assert!(body.starts_with(&bytes), "the bytes are those of the file");
        }
        Ok(None) => panic!("there is a ledger"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Makes the header one of this shard and its checksums right.
fn mend(header: &mut [u8; HEADER_BYTES], body: &[u8]) {
    header[..8].copy_from_slice(b"HEDDLLED");
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    header[16..24].copy_from_slice(&SHARD.0.to_le_bytes());
    let length = u64::from_le_bytes(*header[32..].first_chunk().expect("it is longer"));
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(body.len());
    header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
    let seed = crc32c::crc32c_append(crc32c::crc32c(&header[16..24]), &header[24..32]);
    let crc = crc32c::crc32c_append(seed, &(PAGE_SIZE_BYTES as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &body[..length]);
    header[40..44].copy_from_slice(&crc.to_le_bytes());
    let used = &header[..HEADER_USED_BYTES];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&used[..12]), &used[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// An empty ledger and one of several pages.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [&[][..], &[0x5A; 5_000]].iter().map(|body| block_on(ledger(body))).collect()
}

async fn ledger(body: &[u8]) -> Vec<u8> {
    const SOUND: &str = "the disk is sound";
    let disk = SimDisk::new(0);
    disk.set_latency_turns_max(0);
    disk.create_dir(DIRECTORY).await.expect(SOUND);
    let writer = ImageWriter::begin(disk.clone(), DIRECTORY, SHARD, 1).await.expect(SOUND);
    writer.ledger(body).await.expect(SOUND);
    writer.commit(Lsn(9), b"").await.expect(SOUND);
    let file = disk.file_bytes(&format!("{DIRECTORY}/ledger-1")).expect(SOUND);
    [&file[..HEADER_BYTES], body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mending_undoes_damage_to_checksums_and_changes_nothing_else() {
        for seed in seeds() {
            let (header, body) = seed.split_first_chunk::<HEADER_BYTES>().unwrap();
            let mut mended = *header;
            mended[12] ^= 1;
            mended[40] ^= 1;
            mend(&mut mended, body);
            assert_eq!(mended, *header);
        }
    }
}
