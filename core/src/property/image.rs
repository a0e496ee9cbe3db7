//! The encoded form of the indexes, in chunks small enough to write between other work.
//!
//! ```text
//! chunk  = entry *
//! entry  = field u16 , part u8 , form u8 , key length u16 , count u32 , key , slots
//! part   = 0 presence (empty key), 1 value, 2 prefix of a long text
//! slots  = form 0: count x u32, ascending; form 1: bitmap of `count` 64-bit words
//! ```
//!
//! All numbers little endian. Only slots below the image's slot count are written, so values that
//! arrive while the chunks are made do not disturb them; nothing may be reclaimed meanwhile.

use std::ops::Bound;

use heddle_types::Slot;
use roaring::RoaringBitmap;

use super::PropertyIndex;
use super::field::{Field, Values};
use super::ordered::{KEY_OVERHEAD_BYTES, Key, Ordered};
use super::postings::Postings;

const PART_PRESENT: u8 = 0;
const PART_VALUE: u8 = 1;
const PART_CUT: u8 = 2;
const FORM_LIST: u8 = 0;
const FORM_WORDS: u8 = 1;

/// Where the next chunk begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PropertyCursor {
    field: usize,
    part: u8,
    /// Encoded key of the last value written in this part.
    after: Option<Vec<u8>>,
}

/// Why bytes are not a chunk of this index. The index may hold a part of them and is not to be
/// used; it can be rebuilt from the stored rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("property image, byte {offset}: {problem}")]
pub struct PropertyImageError {
    /// Where in the chunk.
    pub offset: usize,
    /// What was wrong.
    pub problem: &'static str,
}

impl PropertyIndex {
    /// Appends entries from the cursor on until `out` holds `bytes_aim` bytes or the last entry is
    /// written. True: call again for the next chunk.
    ///
    /// A chunk may be longer than `bytes_aim` by one entry: `slots / 8` bytes at most.
    pub fn encode_chunk(
        &self,
        cursor: &mut PropertyCursor,
        slots: u32,
        bytes_aim: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        while let Some(field) = self.fields.get(cursor.field) {
            let number = u16::try_from(cursor.field).expect("properties are few");
            let mut writer = EntryWriter { field: number, slots, out: &mut *out };
            if cursor.part == PART_PRESENT {
                writer.entry(PART_PRESENT, &[], &field.present.range(..slots).collect::<Vec<_>>());
                *cursor = PropertyCursor { field: cursor.field, part: PART_VALUE, after: None };
            }
            let next = encode_values(&field.values, cursor, bytes_aim, &mut writer);
            *cursor = next
                .unwrap_or(PropertyCursor { field: cursor.field + 1, ..PropertyCursor::default() });
            if out.len() >= bytes_aim {
                break;
            }
        }
        cursor.field < self.fields.len()
    }

    /// Reads one chunk into empty indexes of the same layout. Every byte is checked.
    pub fn decode_chunk(&mut self, bytes: &[u8], slots: u32) -> Result<(), PropertyImageError> {
        let mut reader = EntryReader { bytes, offset: 0, slots };
        while reader.offset < bytes.len() {
            let entry = reader.entry()?;
            let wrong = |problem| PropertyImageError { offset: entry.offset, problem };
            let Some(field) = self.fields.get_mut(entry.field) else {
                return Err(wrong("no such property"));
            };
            self.memory_bytes += decode_entry(field, &entry).ok_or(wrong("no key of this type"))?;
        }
        Ok(())
    }
}

/// Writes values of one property; the cursor to go on with, or `None` when all are written.
fn encode_values(
    values: &Values,
    cursor: &PropertyCursor,
    bytes_aim: usize,
    writer: &mut EntryWriter<'_>,
) -> Option<PropertyCursor> {
    let after = cursor.after.as_deref();
    let stopped_at = match values {
        Values::Whole(index) => writer.keys(PART_VALUE, index, after, bytes_aim),
        Values::Numbers(index) => writer.keys(PART_VALUE, index, after, bytes_aim),
        Values::Booleans(index) => writer.keys(PART_VALUE, index, after, bytes_aim),
        Values::Uuids(index) => writer.keys(PART_VALUE, index, after, bytes_aim),
        Values::Texts(index) => {
            if cursor.part == PART_VALUE {
                match writer.keys(PART_VALUE, &index.whole, after, bytes_aim) {
                    None => {
                        let part = PART_CUT;
                        return Some(PropertyCursor { field: cursor.field, part, after: None });
                    }
                    stopped => stopped,
                }
            } else {
                writer.keys(PART_CUT, &index.cut, after, bytes_aim)
            }
        }
        Values::Nothing => None,
    };
    let part = cursor.part;
    stopped_at.map(|key| PropertyCursor { field: cursor.field, part, after: Some(key) })
}

struct EntryWriter<'a> {
    field: u16,
    slots: u32,
    out: &'a mut Vec<u8>,
}

impl EntryWriter<'_> {
    /// Writes keys until the chunk is full; the encoded last key, or `None` after the last one.
    fn keys<K: Key>(
        &mut self,
        part: u8,
        index: &Ordered<K>,
        after: Option<&[u8]>,
        bytes_aim: usize,
    ) -> Option<Vec<u8>> {
        let after = after.map(|bytes| K::decode(bytes).expect("the cursor holds an encoded key"));
        let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for (key, postings) in index.from(start) {
            let mut encoded = Vec::new();
            key.encode(&mut encoded);
            let slots = postings.below(self.slots);
            if !slots.is_empty() {
                self.entry(part, &encoded, &slots);
            }
            if self.out.len() >= bytes_aim {
                return Some(encoded);
            }
        }
        None
    }

    fn entry(&mut self, part: u8, key: &[u8], slots: &[Slot]) {
        let words = self.slots.div_ceil(64) as usize;
        let is_dense = slots.len() > words * 2;
        let (form, count) = if is_dense { (FORM_WORDS, words) } else { (FORM_LIST, slots.len()) };
        self.out.extend_from_slice(&self.field.to_le_bytes());
        self.out.extend_from_slice(&[part, form]);
        let key_length = u16::try_from(key.len()).expect("keys are bounded by the text limit");
        self.out.extend_from_slice(&key_length.to_le_bytes());
        let count = u32::try_from(count).expect("slots are 32-bit");
        self.out.extend_from_slice(&count.to_le_bytes());
        self.out.extend_from_slice(key);
        if is_dense {
            let mut bits = vec![0u64; words];
            for slot in slots {
                bits[*slot as usize / 64] |= 1 << (slot % 64);
            }
            bits.iter().for_each(|word| self.out.extend_from_slice(&word.to_le_bytes()));
        } else {
            slots.iter().for_each(|slot| self.out.extend_from_slice(&slot.to_le_bytes()));
        }
    }
}

struct Entry<'a> {
    offset: usize,
    field: usize,
    part: u8,
    key: &'a [u8],
    slots: RoaringBitmap,
}

fn decode_entry(field: &mut Field, entry: &Entry<'_>) -> Option<usize> {
    match (entry.part, &mut field.values) {
        (PART_PRESENT, _) if entry.key.is_empty() => {
            field.present |= &entry.slots;
            Some(0)
        }
        (PART_VALUE, Values::Whole(index)) => restore(index, entry),
        (PART_VALUE, Values::Numbers(index)) => restore(index, entry),
        (PART_VALUE, Values::Booleans(index)) => restore(index, entry),
        (PART_VALUE, Values::Uuids(index)) => restore(index, entry),
        (PART_VALUE, Values::Texts(index)) => restore(&mut index.whole, entry),
        (PART_CUT, Values::Texts(index)) => restore(&mut index.cut, entry),
        _ => None,
    }
}

fn restore<K: Key>(index: &mut Ordered<K>, entry: &Entry<'_>) -> Option<usize> {
    let key = K::decode(entry.key)?;
    let postings = Postings::from_bitmap(entry.slots.clone())?;
    let bytes = size_of::<K>() + key.heap_bytes() + KEY_OVERHEAD_BYTES + postings.heap_bytes();
    index.set(key, postings).then_some(bytes)
}

/// A cursor over a chunk: nothing is allocated beyond the bytes that are there.
struct EntryReader<'a> {
    bytes: &'a [u8],
    offset: usize,
    slots: u32,
}

impl<'a> EntryReader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], PropertyImageError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let error = PropertyImageError { offset: self.offset, problem: "ends inside an entry" };
        let taken = rest.get(..length).ok_or(error)?;
        self.offset += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PropertyImageError> {
        Ok(*self.take(N)?.first_chunk().expect("take returned N bytes"))
    }

    fn entry(&mut self) -> Result<Entry<'a>, PropertyImageError> {
        let offset = self.offset;
        let wrong = |problem| PropertyImageError { offset, problem };
        let field = usize::from(u16::from_le_bytes(self.array()?));
        let [part, form] = self.array()?;
        let key_length = usize::from(u16::from_le_bytes(self.array()?));
        let count = u32::from_le_bytes(self.array()?) as usize;
        let key = self.take(key_length)?;
        let slots = match form {
            FORM_LIST => {
                let bytes = self.take(count.checked_mul(4).ok_or(wrong("count is too large"))?)?;
                let slots = bytes
                    .chunks_exact(4)
                    .map(|four| Slot::from_le_bytes(*four.first_chunk().expect("four bytes")));
                RoaringBitmap::from_sorted_iter(slots)
                    .map_err(|_unsorted| wrong("slots are not ascending"))?
            }
            FORM_WORDS => {
                if count != self.slots.div_ceil(64) as usize {
                    return Err(wrong("a bitmap of another length"));
                }
                let bytes = self.take(count.checked_mul(8).ok_or(wrong("count is too large"))?)?;
                RoaringBitmap::from_lsb0_bytes(0, bytes)
            }
            _ => return Err(wrong("unknown form")),
        };
        if slots.max().is_some_and(|largest| largest >= self.slots) {
            return Err(wrong("a slot beyond the end"));
        }
        Ok(Entry { offset, field, part, key, slots })
    }
}
