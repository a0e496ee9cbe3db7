//! Bytes of an image and of a superblock. Pure functions, no IO.
//!
//! Offsets and version rules are drawn in `docs/format.md`.

use std::collections::BTreeSet;

use heddle_types::limits::{CHECKPOINT_CHUNK_BYTES, PAGE_SIZE_BYTES};
use heddle_types::{Lsn, ShardId};

/// Version of images and superblocks that are written.
pub(super) const FORMAT_VERSION: u32 = 2;
/// The oldest version that is read: sections are runs of chunks in one file.
const FORMAT_VERSION_MIN: u32 = 1;
/// Version of ledgers.
const LEDGER_VERSION: u32 = 1;
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
/// Most files of an image.
pub(super) const FILES_MAX: usize = 64;
/// Bytes of the table before its files: counts of sections, meta bytes, chunks, files, and zero.
const TABLE_HEADER_BYTES: usize = 24;
/// Bytes of a file in the table: its generation.
const TABLE_FILE_BYTES: usize = 8;
/// Bytes of a section in the table: id, zero, length.
const TABLE_SECTION_BYTES: usize = 16;
/// Bytes of a chunk in the table: file, checksum, offset, LSN.
const TABLE_CHUNK_BYTES: usize = 24;

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
pub(super) fn encode_image_header(key: ImageKey, version: u32) -> [u8; IMAGE_HEADER_BYTES] {
    let mut out = [0; IMAGE_HEADER_BYTES];
    out[0..8].copy_from_slice(&IMAGE_MAGIC);
    out[8..12].copy_from_slice(&version.to_le_bytes());
    out[16..24].copy_from_slice(&key.shard.0.to_le_bytes());
    out[24..32].copy_from_slice(&key.generation.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..12]), &out[16..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks that a first page is that of this image file, in the version of the superblock.
pub(super) fn check_image_header(bytes: &[u8], key: ImageKey, version: u32) -> Result<(), Fault> {
    let expected = encode_image_header(key, version);
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
        out[8..12].copy_from_slice(&LEDGER_VERSION.to_le_bytes());
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
        if u32_at(bytes, 8) != LEDGER_VERSION {
            return Err(fault(FAULT_VERSION, LEDGER_VERSION, u32_at(bytes, 8)));
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
    pub(super) version: u32,
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
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
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
        let version = u32_at(bytes, 8);
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return Err(fault(FAULT_VERSION, FORMAT_VERSION, version));
        }
        Ok(Self {
            version,
            key: ImageKey { shard: ShardId(u64_at(bytes, 16)), generation: u64_at(bytes, 24) },
            covers: Lsn(u64_at(bytes, 32)),
            image_bytes: u64_at(bytes, 40),
            table_offset: u64_at(bytes, 48),
            table_bytes: u64_at(bytes, 56),
            table_crc: u32_at(bytes, 64),
        })
    }
}

/// One chunk of a section, in one of the files of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    /// Generation of the file that holds it.
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) crc: u32,
    /// What the image covered for which it was written.
    pub(super) lsn: Lsn,
}

/// One section of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Section {
    pub(super) id: u32,
    pub(super) length: u64,
    pub(super) chunks: Vec<Chunk>,
}

impl Section {
    /// Bytes of the chunk at a position: all but the last are full.
    pub(super) fn chunk_bytes(&self, position: usize) -> usize {
        let begin = position as u64 * CHECKPOINT_CHUNK_BYTES as u64;
        let bytes = self.length.saturating_sub(begin).min(CHECKPOINT_CHUNK_BYTES as u64);
        usize::try_from(bytes).expect("a chunk is 256 KiB at most")
    }
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
    /// Generations of the files that hold the chunks, ascending.
    pub(super) fn files(&self) -> Vec<u64> {
        let chunks = self.sections.iter().flat_map(|section| &section.chunks);
        let files: BTreeSet<u64> = chunks.map(|chunk| chunk.file).collect();
        files.into_iter().collect()
    }

    /// Counts `sections u32 | meta bytes u32 | chunks u64 | files u32 | 0 u32`, then files,
    /// sections, chunks in the order of the sections, meta.
    pub(super) fn encode(&self) -> Vec<u8> {
        let count = |number: usize| u32::try_from(number).expect("bounded by the writer");
        let files = self.files();
        let chunks: usize = self.sections.iter().map(|section| section.chunks.len()).sum();
        let mut out = Vec::new();
        out.extend_from_slice(&count(self.sections.len()).to_le_bytes());
        out.extend_from_slice(&count(self.meta.len()).to_le_bytes());
        out.extend_from_slice(&(chunks as u64).to_le_bytes());
        out.extend_from_slice(&count(files.len()).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        files.iter().for_each(|file| out.extend_from_slice(&file.to_le_bytes()));
        for section in &self.sections {
            out.extend_from_slice(&section.id.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&section.length.to_le_bytes());
        }
        for chunk in self.sections.iter().flat_map(|section| &section.chunks) {
            let file = files.binary_search(&chunk.file).expect("it was collected from the chunks");
            out.extend_from_slice(&count(file).to_le_bytes());
            out.extend_from_slice(&chunk.crc.to_le_bytes());
            out.extend_from_slice(&chunk.offset.to_le_bytes());
            out.extend_from_slice(&chunk.lsn.0.to_le_bytes());
        }
        out.extend_from_slice(&self.meta);
        out
    }

    /// Decodes a table whose checksum was right. Chunks of the superblock's own file lie before the
    /// table; whether the other files are there and long enough is for the reader to see.
    ///
    /// Allocates about what the bytes hold.
    pub(super) fn decode(bytes: &[u8], superblock: &Superblock) -> Result<Self, Fault> {
        if superblock.version == 1 {
            return v1::decode(bytes, superblock);
        }
        if bytes.len() < TABLE_HEADER_BYTES {
            return Err(fault("table length", TABLE_HEADER_BYTES as u64, bytes.len() as u64));
        }
        let (section_count, meta_bytes) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4) as usize);
        let (chunks, file_count) = (u64_at(bytes, 8), u32_at(bytes, 16) as usize);
        if section_count > SECTIONS_MAX || file_count > FILES_MAX {
            return Err(fault("table counts", SECTIONS_MAX as u64, section_count as u64));
        }
        let files_end = TABLE_HEADER_BYTES + file_count * TABLE_FILE_BYTES;
        let sections_end = files_end + section_count * TABLE_SECTION_BYTES;
        let expected = chunks.checked_mul(TABLE_CHUNK_BYTES as u64);
        let expected = expected.and_then(|bytes| bytes.checked_add(sections_end as u64));
        let expected = expected.and_then(|end| end.checked_add(meta_bytes as u64));
        if expected != Some(bytes.len() as u64) {
            return Err(fault("table length", expected.unwrap_or(u64::MAX), bytes.len() as u64));
        }
        let files = bytes[TABLE_HEADER_BYTES..files_end].chunks_exact(TABLE_FILE_BYTES);
        let files: Vec<u64> = files.map(|file| u64_at(file, 0)).collect();
        let meta_begin = bytes.len() - meta_bytes;
        let mut rest = bytes[sections_end..meta_begin].chunks_exact(TABLE_CHUNK_BYTES);
        let mut sections = Vec::with_capacity(section_count);
        for entry in bytes[files_end..sections_end].chunks_exact(TABLE_SECTION_BYTES) {
            let (id, length) = (u32_at(entry, 0), u64_at(entry, 8));
            let wanted = chunk_count(length);
            if wanted > rest.len() as u64 {
                return Err(fault("chunks", wanted, rest.len() as u64));
            }
            let taken = usize::try_from(wanted).unwrap_or(usize::MAX);
            let chunks = rest.by_ref().take(taken).map(|chunk| decode_chunk(chunk, &files));
            let section = Section { id, length, chunks: chunks.collect::<Result<_, _>>()? };
            section.check(superblock)?;
            sections.push(section);
        }
        if rest.len() != 0 {
            return Err(fault("chunks left", 0_u64, rest.len() as u64));
        }
        Ok(Self { sections, meta: bytes[meta_begin..].to_vec() })
    }
}

fn decode_chunk(bytes: &[u8], files: &[u64]) -> Result<Chunk, Fault> {
    let file = u32_at(bytes, 0);
    let Some(file) = files.get(file as usize) else {
        return Err(fault("file of a chunk", files.len() as u64, file));
    };
    let (crc, offset, lsn) = (u32_at(bytes, 4), u64_at(bytes, 8), Lsn(u64_at(bytes, 16)));
    Ok(Chunk { file: *file, offset, crc, lsn })
}

impl Section {
    /// Chunks lie on pages behind the first one; no file is newer than the superblock's, and in
    /// that one they lie before the table.
    fn check(&self, superblock: &Superblock) -> Result<(), Fault> {
        let own = superblock.key.generation;
        for (position, chunk) in self.chunks.iter().enumerate() {
            let end = chunk.offset.checked_add(self.chunk_bytes(position) as u64);
            let limit = if chunk.file == own { superblock.table_offset } else { u64::MAX };
            let is_page = chunk.offset.is_multiple_of(PAGE_SIZE_BYTES as u64);
            if end.is_none_or(|end| end > limit) || chunk.offset < FIRST_SECTION_OFFSET || !is_page
            {
                return Err(fault("chunk end", limit, end.unwrap_or(u64::MAX)));
            }
            if chunk.file > own {
                return Err(fault("file of a chunk", own, chunk.file));
            }
        }
        Ok(())
    }
}

/// Tables of version 1: each section is one run of chunks in the superblock's own file.
mod v1 {
    use super::{
        CHECKPOINT_CHUNK_BYTES, Chunk, Fault, SECTIONS_MAX, Section, Superblock, Table,
        chunk_count, fault, u32_at, u64_at,
    };

    /// Bytes before the sections: section count u32, meta bytes u32, chunk count u64.
    const HEADER_BYTES: usize = 16;
    /// Bytes of a section: id u32, zero u32, offset u64, length u64.
    const SECTION_BYTES: usize = 24;

    pub(super) fn decode(bytes: &[u8], superblock: &Superblock) -> Result<Table, Fault> {
        if bytes.len() < HEADER_BYTES {
            return Err(fault("table length", HEADER_BYTES as u64, bytes.len() as u64));
        }
        let (section_count, meta_bytes) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4) as usize);
        let sections_end = HEADER_BYTES + section_count.min(SECTIONS_MAX) * SECTION_BYTES;
        let crcs = u64_at(bytes, 8).checked_mul(4);
        let expected = crcs.and_then(|crcs| crcs.checked_add(sections_end as u64));
        let expected = expected.and_then(|end| end.checked_add(meta_bytes as u64));
        if section_count > SECTIONS_MAX || expected != Some(bytes.len() as u64) {
            return Err(fault("table length", expected.unwrap_or(u64::MAX), bytes.len() as u64));
        }
        let meta_begin = bytes.len() - meta_bytes;
        let mut crcs = bytes[sections_end..meta_begin].chunks_exact(4);
        let mut sections = Vec::with_capacity(section_count);
        for entry in bytes[HEADER_BYTES..sections_end].chunks_exact(SECTION_BYTES) {
            let (id, offset, length) = (u32_at(entry, 0), u64_at(entry, 8), u64_at(entry, 16));
            let end = offset.checked_add(length);
            if end.is_none_or(|end| end > superblock.table_offset) {
                return Err(fault("section end", superblock.table_offset, end.unwrap_or(u64::MAX)));
            }
            let wanted = chunk_count(length);
            if wanted > crcs.len() as u64 {
                return Err(fault("chunk checksums", wanted, crcs.len() as u64));
            }
            let taken = usize::try_from(wanted).unwrap_or(usize::MAX);
            let place = |(crc, index): (&[u8], u64)| Chunk {
                file: superblock.key.generation,
                offset: offset + index * CHECKPOINT_CHUNK_BYTES as u64,
                crc: u32_at(crc, 0),
                lsn: superblock.covers,
            };
            let chunks = crcs.by_ref().take(taken).zip(0..).map(place).collect();
            let section = Section { id, length, chunks };
            section.check(superblock)?;
            sections.push(section);
        }
        if crcs.len() != 0 {
            return Err(fault("chunk checksums left", 0_u64, crcs.len() as u64));
        }
        Ok(Table { sections, meta: bytes[meta_begin..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_superblock_is_checked() {
        let key = ImageKey { shard: ShardId(3), generation: 9 };
        let superblock = Superblock {
            version: FORMAT_VERSION,
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

    fn superblock(version: u32, table_offset: u64) -> Superblock {
        let key = ImageKey { shard: ShardId(3), generation: 9 };
        let (covers, table_bytes, table_crc) = (Lsn(77), 100, 5);
        let image_bytes = 1 << 20;
        Superblock { version, key, covers, image_bytes, table_offset, table_bytes, table_crc }
    }

    fn ends_of(table: &Table, own: u64) -> u64 {
        let ends = table.sections.iter().flat_map(|section| {
            let chunks = section.chunks.iter().enumerate();
            let own = chunks.filter(move |(_, chunk)| chunk.file == own);
            own.map(|(position, chunk)| chunk.offset + section.chunk_bytes(position) as u64)
        });
        ends.max().unwrap_or(0)
    }

    #[test]
    fn a_table_of_any_bytes_is_an_error_or_lies_inside_the_image() {
        let chunk = |file, offset| Chunk { file, offset, crc: 7, lsn: Lsn(70) };
        let table = Table {
            sections: vec![
                Section {
                    id: 1,
                    length: 300_000,
                    chunks: vec![chunk(4, 1 << 20), chunk(9, 4_096)],
                },
                Section { id: 2, length: 0, chunks: Vec::new() },
                Section { id: 3, length: 5_000, chunks: vec![chunk(9, 45_056)] },
            ],
            meta: b"meta".to_vec(),
        };
        assert_eq!(table.files(), [4, 9]);
        let mut bytes = table.encode();
        let own = superblock(2, 50_056);
        assert_eq!(Table::decode(&bytes, &own), Ok(table));
        assert!(Table::decode(&bytes, &superblock(2, 50_055)).is_err());
        for length in 0..bytes.len() {
            assert!(Table::decode(&bytes[..length], &own).is_err(), "length {length}");
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(table) = Table::decode(&bytes, &own) {
                assert!(ends_of(&table, 9) <= 50_056, "bit {bit}");
                assert!(table.files().iter().all(|file| *file <= 9), "bit {bit}");
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Two sections of 300,000 and 0 bytes, as version 1 wrote them.
    fn first_version() -> Vec<u8> {
        let mut bytes = Vec::new();
        let words: [u32; 16] = [2, 4, 2, 0, 1, 0, 4_096, 0, 300_000, 0, 2, 0, 307_200, 0, 0, 0];
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        [11_u32, 12].iter().for_each(|crc| bytes.extend_from_slice(&crc.to_le_bytes()));
        bytes.extend_from_slice(b"meta");
        bytes
    }

    #[test]
    fn tables_of_the_first_version_are_read() {
        let mut bytes = first_version();
        let own = superblock(1, 307_200);
        let table = Table::decode(&bytes, &own).unwrap();
        let lsn = Lsn(77);
        let chunks = vec![
            Chunk { file: 9, offset: 4_096, crc: 11, lsn },
            Chunk { file: 9, offset: 4_096 + (256 << 10), crc: 12, lsn },
        ];
        assert_eq!(table.sections[0], Section { id: 1, length: 300_000, chunks });
        assert_eq!(table.meta, b"meta");
        assert!(Table::decode(&bytes, &superblock(1, 300_000)).is_err());
        for length in 0..bytes.len() {
            assert!(Table::decode(&bytes[..length], &own).is_err(), "length {length}");
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(table) = Table::decode(&bytes, &own) {
                assert!(ends_of(&table, 9) <= 307_200, "bit {bit}");
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
