//! A shard without a usable image, put together again from its ledger and its rows.
//!
//! Every version of an object carries its stamp, in rows, log records and tombstones alike, and the
//! newest counts. So the order in which they come does not matter, and the log may be replayed
//! before the rows are read. Each row that counts is put anew, which gives it a slot and a place of
//! its own; the segments it came from are dead then and go as all dead ones do.
//!
//! A ledger is `meta bytes u32 | meta (the image's, JSON) | tombstones`.

use heddle_types::{Device, Hlc, ObjectId, Slot, Stamp};

use super::Shard;
use super::image::{ImageMeta, RestoreError, decode_tombstones};
use super::slots::WriterTable;
use super::view::ShardSpec;
use crate::engine::ItemVector;

/// What an image's ledger holds: `tombstones` are those of the image.
pub(crate) fn encode_ledger(meta: &ImageMeta, tombstones: &[u8]) -> Vec<u8> {
    let meta = serde_json::to_vec(meta).expect("the meta is plain data");
    let length = u32::try_from(meta.len()).expect("the meta of an image is bounded");
    [&length.to_le_bytes()[..], &meta, tombstones].concat()
}

/// Takes a ledger apart: the meta, and the bytes of the tombstones.
///
/// Errors: [`RestoreError::Unfit`] when it is none, or that of another shard.
pub(crate) fn decode_ledger<'a>(
    bytes: &'a [u8],
    spec: &ShardSpec,
) -> Result<(ImageMeta, &'a [u8]), RestoreError> {
    let parts = bytes.split_first_chunk::<4>().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        rest.split_at_checked(length)
    });
    let Some((meta, tombstones)) = parts else {
        let problem = format!("ledger of {} bytes ends inside of its meta", bytes.len());
        return Err(RestoreError::Unfit(problem));
    };
    Ok((ImageMeta::decode(meta, spec)?, tombstones))
}

/// The deletions of an image, with whole stamps.
pub(crate) fn deletions(
    meta: &ImageMeta,
    tombstones: &[u8],
) -> Result<Vec<(ObjectId, Stamp)>, RestoreError> {
    let writers = WriterTable::from_writers(meta.writers.clone());
    let tombstones = decode_tombstones(tombstones, meta.writers.len())?;
    Ok(tombstones.into_iter().map(|(id, stamp)| (id, writers.lengthen(stamp))).collect())
}

/// The vectors of one index as an image holds them, by slot.
pub(crate) struct HeldVectors {
    pub(crate) index: u8,
    pub(crate) dims: usize,
    pub(crate) row_bytes: usize,
    /// A bit a slot.
    pub(crate) present: Vec<u8>,
    /// A float a slot under cosine, else empty.
    pub(crate) norms: Vec<u8>,
    pub(crate) rows: Vec<u8>,
}

impl HeldVectors {
    /// The vector of a slot as it was put; `None` when the slot has none.
    pub(crate) fn vector(&self, slot: Slot) -> Option<ItemVector> {
        let slot = slot as usize;
        let is_present = self.present.get(slot / 8).is_some_and(|bits| bits >> (slot % 8) & 1 == 1);
        if !is_present {
            return None;
        }
        let start = slot.checked_mul(self.row_bytes)?;
        let row = self.rows.get(start..)?.get(..self.dims * 4)?;
        let norm = self.norms.get(slot * 4..).and_then(|rest| rest.first_chunk());
        let norm = norm.map_or(1.0, |norm| f32::from_le_bytes(*norm));
        let four = row.chunks_exact(4).filter_map(|four| four.first_chunk::<4>());
        let values = four.map(|four| f32::from_le_bytes(*four) * norm).collect();
        Some(ItemVector { index: self.index, values })
    }
}

impl<D: Device> Shard<D> {
    /// No stamp that was in the shard before is newer than this one.
    pub(crate) fn note_newest(&mut self, newest: Hlc) {
        self.newest = self.newest.max(newest);
    }
}
