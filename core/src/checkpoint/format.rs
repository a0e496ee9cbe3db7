//! Bytes of an image and of a superblock. Pure functions, no IO.
//!
//! Offsets and version rules are drawn in `docs/format.md`.

use heddle_types::limits::{CHECKPOINT_CHUNK_BYTES, PAGE_SIZE_BYTES};
use heddle_types::{Lsn, ShardId};

/// Version of images and superblocks.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Bytes of a superblock that mean something; its file is one page.
pub(super) const SUPERBLOCK_BYTES: usize = 96;
/// Where the first section of an image begins; the page before it names the image.
pub(super) const FIRST_SECTION_OFFSET: u64 = PAGE_SIZE_BYTES as u64;
/// Most sections of an image.
pub(super) const SECTIONS_MAX: usize = 1_024;
/// Most bytes of `meta` (16 MiB).
pub(super) const META_BYTES_MAX: usize = 16 << 20;
/// Name of the fault that means "written by another version", not damage.
pub(super) const FAULT_VERSION: &str = "format version";

/// Most bytes of a ledger (4 GiB).
pub(super) const LEDGER_BYTES_MAX: u64 = 4 << 30;
/// Bytes of a ledger's first page that mean something.
const LEDGER_HEADER_BYTES: usize = 48;

const LEDGER_MAGIC: [u8; 8] = *b"HEDDLLED";
const SUPERBLOCK_MAGIC: [u8; 8] = *b"HEDDLSUP";
const IMAGE_MAGIC: [u8; 8] = *b"HEDDLIMG";
/// Bytes of the image's first page that mean something.
const IMAGE_HEADER_BYTES: usize = 32;
/// Bytes of the table before its sections: section count, chunk count, meta length.
const TABLE_HEADER_BYTES: usize = 16;
/// Bytes of a section in the table: id, zero, offset, length.
const TABLE_SECTION_BYTES: usize = 24;

/// What is wrong with bytes: a name, and the number expected and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) what: &'static str,
    pub(super) expected: u64,
    pub(super) found: u64,
}

pub(super) fn fault(what: &'static str, expected: impl Into<u64>, found: impl Into<u64>) -> Fault {
    Fault { what, expected: expected.into(), found: found.into() }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

/// Identity of one image; seeds every checksum in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ImageKey {
    pub(super) shard: ShardId,
    pub(super) generation: u64,
}

impl ImageKey {
    fn seed(self) -> u32 {
        let crc = crc32c::crc32c(&self.shard.0.to_le_bytes());
        crc32c::crc32c_append(crc, &self.generation.to_le_bytes())
    }

    /// Checksum of the chunk at `offset` of the image file.
    pub(super) fn chunk_crc(self, offset: u64, bytes: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.seed(), &offset.to_le_bytes());
        crc32c::crc32c_append(crc, bytes)
    }
}

/// First page of an image: for people and tools; the superblock is what is trusted.
pub(super) fn encode_image_header(key: ImageKey) -> [u8; IMAGE_HEADER_BYTES] {
    let mut out = [0; IMAGE_HEADER_BYTES];
    out[0..8].copy_from_slice(&IMAGE_MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&key.shard.0.to_le_bytes());
    out[24..32].copy_from_slice(&key.generation.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..12]), &out[16..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks that a first page is that of this image.
pub(super) fn check_image_header(bytes: &[u8], key: ImageKey) -> Result<(), Fault> {
    let expected = encode_image_header(key);
    let found = bytes.get(..IMAGE_HEADER_BYTES).unwrap_or_default();
    if found == expected {
        return Ok(());
    }
    let found = if found.len() < 16 { 0 } else { u32_at(found, 12) };
    Err(fault("image header", u32_at(&expected, 12), found))
}

/// First page of a ledger; its body begins on the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LedgerHeader {
    pub(super) key: ImageKey,
    pub(super) body_bytes: u64,
    pub(super) body_crc: u32,
}

impl LedgerHeader {
    pub(super) fn of(key: ImageKey, body: &[u8]) -> Self {
        let body_crc = key.chunk_crc(PAGE_SIZE_BYTES as u64, body);
        Self { key, body_bytes: body.len() as u64, body_crc }
    }

    pub(super) fn encode(&self) -> [u8; LEDGER_HEADER_BYTES] {
        let mut out = [0; LEDGER_HEADER_BYTES];
        out[0..8].copy_from_slice(&LEDGER_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.shard.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.generation.to_le_bytes());
        out[32..40].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[40..44].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = Self::crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn crc(bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..LEDGER_HEADER_BYTES])
    }

    /// Decodes the first page of the ledger of this shard and generation.
    pub(super) fn decode(bytes: &[u8], key: ImageKey) -> Result<Self, Fault> {
        if bytes.len() < LEDGER_HEADER_BYTES {
            return Err(fault("ledger length", LEDGER_HEADER_BYTES as u64, bytes.len() as u64));
        }
        let magic = u64::from_le_bytes(LEDGER_MAGIC);
        if u64_at(bytes, 0) != magic {
            return Err(fault("ledger magic", magic, u64_at(bytes, 0)));
        }
        let expected = Self::crc(bytes);
        if u32_at(bytes, 12) != expected {
            return Err(fault("ledger header checksum", expected, u32_at(bytes, 12)));
        }
        if u32_at(bytes, 8) != FORMAT_VERSION {
            return Err(fault(FAULT_VERSION, FORMAT_VERSION, u32_at(bytes, 8)));
        }
        let found = ImageKey { shard: ShardId(u64_at(bytes, 16)), generation: u64_at(bytes, 24) };
        if found.shard != key.shard {
            return Err(fault("shard", key.shard.0, found.shard.0));
        }
        if found.generation != key.generation {
            return Err(fault("generation", key.generation, found.generation));
        }
        Ok(Self { key, body_bytes: u64_at(bytes, 32), body_crc: u32_at(bytes, 40) })
    }
}

/// Which image is the checkpoint, and where its table stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Superblock {
    pub(super) key: ImageKey,
    /// The last record that the image covers.
    pub(super) covers: Lsn,
    pub(super) image_bytes: u64,
    pub(super) table_offset: u64,
    pub(super) table_bytes: u64,
    pub(super) table_crc: u32,
}

impl Superblock {
    pub(super) fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut out = [0; SUPERBLOCK_BYTES];
        out[0..8].copy_from_slice(&SUPERBLOCK_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.shard.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.key.generation.to_le_bytes());
        out[32..40].copy_from_slice(&self.covers.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.image_bytes.to_le_bytes());
        out[48..56].copy_from_slice(&self.table_offset.to_le_bytes());
        out[56..64].copy_from_slice(&self.table_bytes.to_le_bytes());
        out[64..68].copy_from_slice(&self.table_crc.to_le_bytes());
        let crc = Self::crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn crc(bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SUPERBLOCK_BYTES])
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() < SUPERBLOCK_BYTES {
            return Err(fault("superblock length", SUPERBLOCK_BYTES as u64, bytes.len() as u64));
        }
        let magic = u64::from_le_bytes(SUPERBLOCK_MAGIC);
        if u64_at(bytes, 0) != magic {
            return Err(fault("superblock magic", magic, u64_at(bytes, 0)));
        }
        let expected = Self::crc(bytes);
        if u32_at(bytes, 12) != expected {
            return Err(fault("superblock checksum", expected, u32_at(bytes, 12)));
        }
        if u32_at(bytes, 8) != FORMAT_VERSION {
            return Err(fault(FAULT_VERSION, FORMAT_VERSION, u32_at(bytes, 8)));
        }
        Ok(Self {
            key: ImageKey { shard: ShardId(u64_at(bytes, 16)), generation: u64_at(bytes, 24) },
            covers: Lsn(u64_at(bytes, 32)),
            image_bytes: u64_at(bytes, 40),
            table_offset: u64_at(bytes, 48),
            table_bytes: u64_at(bytes, 56),
            table_crc: u32_at(bytes, 64),
        })
    }
}

/// One section of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Section {
    pub(super) id: u32,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// One checksum per chunk, in order.
    pub(super) chunk_crcs: Vec<u32>,
}

/// Chunks of a section of `length` bytes.
pub(super) fn chunk_count(length: u64) -> u64 {
    length.div_ceil(CHECKPOINT_CHUNK_BYTES as u64)
}

/// The end of an image: what stands where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Table {
    pub(super) sections: Vec<Section>,
    pub(super) meta: Vec<u8>,
}

impl Table {
    /// `section count u32 | meta length u32 | chunk count u64`, sections, chunk checksums, meta.
    pub(super) fn encode(&self) -> Vec<u8> {
        let count = |number: usize| u32::try_from(number).expect("bounded by the writer");
        let chunks: usize = self.sections.iter().map(|section| section.chunk_crcs.len()).sum();
        let mut out = Vec::new();
        out.extend_from_slice(&count(self.sections.len()).to_le_bytes());
        out.extend_from_slice(&count(self.meta.len()).to_le_bytes());
        out.extend_from_slice(&(chunks as u64).to_le_bytes());
        for section in &self.sections {
            out.extend_from_slice(&section.id.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&section.offset.to_le_bytes());
            out.extend_from_slice(&section.length.to_le_bytes());
        }
        for crc in self.sections.iter().flat_map(|section| &section.chunk_crcs) {
            out.extend_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(&self.meta);
        out
    }

    /// Decodes a table whose checksum was right; sections must lie before `table_offset`.
    ///
    /// Allocates at most what the bytes hold.
    pub(super) fn decode(bytes: &[u8], table_offset: u64) -> Result<Self, Fault> {
        if bytes.len() < TABLE_HEADER_BYTES {
            return Err(fault("table length", TABLE_HEADER_BYTES as u64, bytes.len() as u64));
        }
        let section_count = u32_at(bytes, 0) as usize;
        let meta_bytes = u32_at(bytes, 4) as usize;
        let chunks = u64_at(bytes, 8);
        let sections_end =
            TABLE_HEADER_BYTES + section_count.min(SECTIONS_MAX) * TABLE_SECTION_BYTES;
        let expected = chunks.checked_mul(4).and_then(|crcs| crcs.checked_add(sections_end as u64));
        let expected = expected.and_then(|end| end.checked_add(meta_bytes as u64));
        if section_count > SECTIONS_MAX || expected != Some(bytes.len() as u64) {
            return Err(fault("table length", expected.unwrap_or(u64::MAX), bytes.len() as u64));
        }
        let mut crcs = bytes[sections_end..bytes.len() - meta_bytes].chunks_exact(4);
        let mut sections = Vec::with_capacity(section_count);
        for entry in bytes[TABLE_HEADER_BYTES..sections_end].chunks_exact(TABLE_SECTION_BYTES) {
            let (id, offset, length) = (u32_at(entry, 0), u64_at(entry, 8), u64_at(entry, 16));
            let end = offset.checked_add(length);
            if end.is_none_or(|end| end > table_offset) || !offset.is_multiple_of(4096) {
                return Err(fault("section end", table_offset, end.unwrap_or(u64::MAX)));
            }
            let wanted = chunk_count(length);
            if wanted > crcs.len() as u64 {
                return Err(fault("chunk checksums", wanted, crcs.len() as u64));
            }
            let taken = usize::try_from(wanted).unwrap_or(usize::MAX);
            let chunk_crcs = crcs.by_ref().take(taken).map(|crc| u32_at(crc, 0)).collect();
            sections.push(Section { id, offset, length, chunk_crcs });
        }
        if crcs.len() != 0 {
            return Err(fault("chunk checksums left", 0_u64, crcs.len() as u64));
        }
        Ok(Self { sections, meta: bytes[bytes.len() - meta_bytes..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_superblock_is_checked() {
        let key = ImageKey { shard: ShardId(3), generation: 9 };
        let superblock = Superblock {
            key,
            covers: Lsn(77),
            image_bytes: 1 << 20,
            table_offset: 4096,
            table_bytes: 100,
            table_crc: 5,
        };
        let mut bytes = superblock.encode();
        assert_eq!(Superblock::decode(&bytes), Ok(superblock));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn every_bit_of_a_ledger_header_is_checked() {
        let key = ImageKey { shard: ShardId(3), generation: 9 };
        let header = LedgerHeader::of(key, b"body");
        let mut bytes = header.encode();
        assert_eq!(LedgerHeader::decode(&bytes, key), Ok(header));
        let other = ImageKey { shard: ShardId(4), generation: 9 };
        assert_eq!(LedgerHeader::decode(&bytes, other), Err(fault("shard", 4_u64, 3_u64)));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(LedgerHeader::decode(&bytes, key).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_table_of_any_bytes_is_an_error_or_lies_inside_the_image() {
        let section = |id, offset, length: u64| Section {
            id,
            offset,
            length,
            chunk_crcs: vec![id; usize::try_from(chunk_count(length)).unwrap()],
        };
        let table = Table {
            sections: vec![section(1, 4096, 300_000), section(2, 307_200, 0)],
            meta: b"meta".to_vec(),
        };
        let mut bytes = table.encode();
        assert_eq!(Table::decode(&bytes, 307_200), Ok(table));
        assert!(Table::decode(&bytes, 307_199).is_err());
        for length in 0..bytes.len() {
            assert!(Table::decode(&bytes[..length], 307_200).is_err(), "length {length}");
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(table) = Table::decode(&bytes, 307_200) {
                let ends = table.sections.iter().map(|section| section.offset + section.length);
                assert!(ends.max().unwrap_or(0) <= 307_200, "bit {bit}");
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
