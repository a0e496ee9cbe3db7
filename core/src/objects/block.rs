//! Blocks of rows: compressed as one, checked as one, found by the place of a row. Pure functions.
//!
//! A block holds whole entries. Its place in the file follows from the lengths of those before it,
//! so the table of a segment is read once and kept: 16 bytes for some 4 KiB of rows.

use heddle_types::ShardId;
use heddle_types::limits::PROPERTY_ROW_BYTES_MAX;

use super::entry::{ENTRY_HEADER_BYTES, Fault, fault, u32_at};

/// A block that reached this size takes no further entry (4 KiB). A read opens a whole block:
/// four times as much would compress a tenth better and triple the time of one read.
pub(super) const BLOCK_BYTES_TARGET: usize = 4 << 10;
/// Largest block before compression: the target, not quite reached, and one largest entry.
pub(super) const BLOCK_BYTES_MAX: usize =
    BLOCK_BYTES_TARGET + (ENTRY_HEADER_BYTES + PROPERTY_ROW_BYTES_MAX).next_multiple_of(8);
/// Bytes of a block's record in the table.
pub(super) const BLOCK_RECORD_BYTES: usize = 16;
/// A block is stored as it is unless compression takes this share off: an eighth.
const WORTHWHILE_SHARE: usize = 8;

/// Bytes that one byte of LZ4 stands for at most: a byte of 255 more of a long match.
const LZ4_RATIO_MAX: u64 = 255;

const _: () = assert!(BLOCK_BYTES_MAX < 8 << 20);

/// How the bytes of a block are stored. Numbers are on disk and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Codec {
    /// As they are.
    Plain = 0,
    /// LZ4 block format, without the length in front.
    Lz4 = 1,
}

impl Codec {
    fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Plain),
            1 => Some(Self::Lz4),
            _ => None,
        }
    }
}

/// Where a block stands and how it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// Offset of its first row among all rows of the segment, before compression.
    pub(super) start: u64,
    /// Bytes of its rows before compression.
    pub(super) row_bytes: u32,
    /// Where its bytes begin in the file.
    pub(super) offset: u64,
    /// Bytes in the file.
    pub(super) stored_bytes: u32,
    pub(super) crc: u32,
    pub(super) codec: Codec,
}

/// The checksum of bytes at an offset of a segment's file.
pub(super) fn part_crc(shard: ShardId, segment: u32, offset: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(&shard.0.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &segment.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}

/// Compresses rows; keeps them as they are where little would be won.
pub(super) fn compress(rows: &[u8]) -> (Codec, Vec<u8>) {
    let compressed = lz4_flex::block::compress(rows);
    if compressed.len() <= rows.len() - rows.len() / WORTHWHILE_SHARE {
        (Codec::Lz4, compressed)
    } else {
        (Codec::Plain, rows.to_vec())
    }
}

impl Block {
    /// Checks the stored bytes and gives the rows back. Allocates what the table says a block
    /// holds, which is bounded.
    pub(super) fn open(
        &self,
        shard: ShardId,
        segment: u32,
        stored: Vec<u8>,
    ) -> Result<Vec<u8>, Fault> {
        let found = part_crc(shard, segment, self.offset, &stored);
        if found != self.crc {
            return Err(fault("block checksum", self.crc, found));
        }
        let expected = u64::from(self.row_bytes);
        let rows = match self.codec {
            Codec::Plain => stored,
            Codec::Lz4 => {
                let mut rows = vec![0; self.row_bytes as usize];
                let length = match lz4_flex::block::decompress_into(&stored, &mut rows) {
                    Ok(length) => length,
                    Err(_refused) => {
                        return Err(fault("compressed bytes of a block", expected, 0_u64));
                    }
                };
                rows.truncate(length);
                rows
            }
        };
        if rows.len() as u64 != expected {
            return Err(fault("bytes of a block", expected, rows.len() as u64));
        }
        Ok(rows)
    }

    /// Appends the record that [`decode_table`] reads.
    pub(super) fn encode_into(&self, table: &mut Vec<u8>) {
        table.extend_from_slice(&self.row_bytes.to_le_bytes());
        table.extend_from_slice(&self.stored_bytes.to_le_bytes());
        table.extend_from_slice(&self.crc.to_le_bytes());
        table.extend_from_slice(&(self.codec as u32).to_le_bytes());
    }
}

/// Decodes the table of a segment whose blocks begin at `offset` of the file and hold `row_bytes`
/// before and `stored_bytes` after compression.
pub(super) fn decode_table(
    table: &[u8],
    mut offset: u64,
    row_bytes: u64,
    stored_bytes: u64,
) -> Result<Vec<Block>, Fault> {
    let end = offset + stored_bytes;
    let mut blocks = Vec::with_capacity(table.len() / BLOCK_RECORD_BYTES);
    let mut start = 0;
    for record in table.chunks_exact(BLOCK_RECORD_BYTES) {
        let number = u32_at(record, 12);
        let Some(codec) = Codec::from_number(number) else {
            return Err(fault("codec of a block", Codec::Lz4 as u32, number));
        };
        let block = Block {
            start,
            row_bytes: u32_at(record, 0),
            offset,
            stored_bytes: u32_at(record, 4),
            crc: u32_at(record, 8),
            codec,
        };
        if block.row_bytes == 0 || block.row_bytes as usize > BLOCK_BYTES_MAX {
            return Err(fault("bytes of a block", BLOCK_BYTES_MAX as u64, block.row_bytes));
        }
        // Nothing is stored longer than it was, and none holds more than its codec can make of it.
        let rows_max = match codec {
            Codec::Plain => u64::from(block.stored_bytes),
            Codec::Lz4 => u64::from(block.stored_bytes) * LZ4_RATIO_MAX,
        };
        if block.stored_bytes > block.row_bytes || u64::from(block.row_bytes) > rows_max {
            return Err(fault("stored bytes of a block", block.row_bytes, block.stored_bytes));
        }
        start += u64::from(block.row_bytes);
        offset += u64::from(block.stored_bytes);
        blocks.push(block);
    }
    if start != row_bytes {
        return Err(fault("bytes of all blocks", row_bytes, start));
    }
    if offset != end {
        return Err(fault("stored bytes of all blocks", end, offset));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn block(rows: &[u8]) -> (Block, Vec<u8>) {
        let (codec, stored) = compress(rows);
        let block = Block {
            start: 0,
            row_bytes: rows.len() as u32,
            offset: 4_096,
            stored_bytes: stored.len() as u32,
            crc: part_crc(SHARD, 5, 4_096, &stored),
            codec,
        };
        (block, stored)
    }

    #[test]
    fn blocks_come_back_and_noise_is_stored_as_it_is() {
        let text = b"the same words again and again, ".repeat(500);
        let (packed, stored) = block(&text);
        assert_eq!(packed.codec, Codec::Lz4);
        assert!(stored.len() * 20 < text.len());
        assert_eq!(packed.open(SHARD, 5, stored), Ok(text));
        let mut random = crate::testing::Random::new(1);
        let noise: Vec<u8> = (0..5_000).map(|_| random.next() as u8).collect();
        let (plain, stored) = block(&noise);
        assert_eq!((plain.codec, stored.len()), (Codec::Plain, noise.len()));
        assert_eq!(plain.open(SHARD, 5, stored), Ok(noise));
    }

    #[test]
    fn every_bit_of_a_block_and_its_place_is_checked() {
        let (block, mut stored) = block(&b"row after row ".repeat(40));
        for bit in 0..stored.len() * 8 {
            stored[bit / 8] ^= 1 << (bit % 8);
            let error = block.open(SHARD, 5, stored.clone()).unwrap_err();
            assert_eq!(error.what, "block checksum", "bit {bit}");
            stored[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(block.open(ShardId(4), 5, stored.clone()).is_err());
        assert!(block.open(SHARD, 6, stored.clone()).is_err());
        assert!(Block { offset: 8_192, ..block }.open(SHARD, 5, stored.clone()).is_err());
        assert!(block.open(SHARD, 5, stored).is_ok());
    }

    #[test]
    fn compressed_bytes_that_lie_about_their_length_are_refused_although_the_checksum_holds() {
        let (good, stored) = block(&b"row after row ".repeat(40));
        for row_bytes in [1, good.row_bytes - 1, good.row_bytes + 1, BLOCK_BYTES_MAX as u32] {
            let lying = Block { row_bytes, ..good };
            assert!(lying.open(SHARD, 5, stored.clone()).is_err(), "{row_bytes}");
        }
    }

    #[test]
    fn a_table_whose_blocks_do_not_fill_the_segment_is_refused() {
        let (good, stored) = block(&b"row after row ".repeat(40));
        let mut table = Vec::new();
        good.encode_into(&mut table);
        good.encode_into(&mut table);
        let (rows, bytes) = (u64::from(good.row_bytes) * 2, stored.len() as u64 * 2);
        let blocks = decode_table(&table, 4_096, rows, bytes).unwrap();
        assert_eq!(blocks[0], good);
        let behind = 4_096 + stored.len() as u64;
        assert_eq!((blocks[1].start, blocks[1].offset), (rows / 2, behind));
        assert!(decode_table(&table, 4_096, rows + 8, bytes).is_err());
        assert!(decode_table(&table, 4_096, rows, bytes - 1).is_err());
        for (at, value) in [(0, 0), (0, u32::MAX), (4, u32::MAX), (12, 9)] {
            let mut wrong = table.clone();
            wrong[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert!(decode_table(&wrong, 4_096, rows, bytes).is_err(), "{value} at {at}");
        }
    }
}
