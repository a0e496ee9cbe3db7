//! Makes the checksums of a damaged segment right again, so that damage gets past them.
//!
//! Written from the format's description, not from its code: the two check each other.

use heddle_types::limits::PAGE_SIZE_BYTES;

const SEGMENT_MAGIC: &[u8; 8] = b"HEDDLWAL";
const BATCH_MAGIC: &[u8; 4] = b"HBAT";
/// Headers of segments, batches and records are equally long.
const HEADER_BYTES: usize = 64;

/// Recomputes the checksum of the segment header and of everything that looks like a batch.
pub(super) fn checksums(segment: &mut [u8]) {
    let Some(header) = segment.get_mut(..HEADER_BYTES) else { return };
    header[..8].copy_from_slice(SEGMENT_MAGIC);
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    // The checksums inside are seeded with the log's identity and the segment's number.
    let seed = crc32c::crc32c_append(crc32c::crc32c(&header[16..24]), &header[24..32]);
    for page in 1..segment.len() / PAGE_SIZE_BYTES {
        batch(&mut segment[page * PAGE_SIZE_BYTES..], seed);
    }
}

fn batch(bytes: &mut [u8], seed: u32) {
    if bytes.get(4..8) != Some(BATCH_MAGIC.as_slice()) {
        return;
    }
    seal(bytes, seed);
    let mut at = HEADER_BYTES;
    for _ in 0..u32_at(bytes, 24) {
        let Some(payload) = record(&mut bytes[at..], seed) else { return };
        at += HEADER_BYTES + payload.next_multiple_of(8);
        if at > bytes.len() {
            return;
        }
    }
}

/// Seals the record at the start of `bytes`; returns the length of its payload.
fn record(bytes: &mut [u8], seed: u32) -> Option<usize> {
    let (header, rest) = bytes.split_at_mut_checked(HEADER_BYTES)?;
    let length = usize::try_from(u32_at(header, 4)).ok()?;
    if let Some(payload) = rest.get(..length) {
        header[24..28].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    }
    seal(header, seed);
    Some(length)
}

/// The first four bytes of a header are the checksum of the others.
fn seal(bytes: &mut [u8], seed: u32) {
    let crc = crc32c::crc32c_append(seed, &bytes[4..HEADER_BYTES]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let field = bytes[offset..offset + 4].first_chunk().expect("four bytes");
    u32::from_le_bytes(*field)
}

#[cfg(test)]
mod tests {
    use super::super::seeds;
    use super::*;

    #[test]
    fn mending_undoes_damage_to_checksums_and_changes_nothing_else() {
        for seed in seeds() {
            let mut mended = seed.clone();
            checksums(&mut mended);
            assert_eq!(mended, seed, "a sound segment stays as it is");
            mended[12] ^= 1;
            checksums(&mut mended);
            assert_eq!(mended, seed);
        }
    }

    #[test]
    fn any_bytes_can_be_mended() {
        for length in [0, 63, 64, PAGE_SIZE_BYTES, 2 * PAGE_SIZE_BYTES + 1] {
            checksums(&mut vec![0xff; length]);
        }
        let mut hostile = vec![0xff; 3 * PAGE_SIZE_BYTES];
        hostile[2 * PAGE_SIZE_BYTES + 4..][..4].copy_from_slice(BATCH_MAGIC);
        checksums(&mut hostile);
    }
}
