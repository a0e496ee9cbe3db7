//! What an index keeps of its vectors: the vectors themselves, codes, or both.
//!
//! A plane is an arena with one row a slot, in whole 64-byte lines so that a row never shares a
//! line with another. Without codes there is the raw plane alone and everything is computed from
//! it. With codes a walk reads the walk plane and the factors of a slot; what it finds is computed
//! again from the *best* plane: the raw one where it is kept, else the refine plane. A scan looks
//! at the signs first; they follow from the codes and are in no image.

use std::sync::Arc;

use crate::Slot;
use crate::arena::Arena;
use crate::codes::{CodeRows, Codec, CodecScratch, RefineRows, Signs};
use crate::distance::Rows;
use crate::error::IndexError;
use crate::limits::LANE_FLOATS;
use crate::params::{Codes, IndexParams, RawVectors};

/// Bytes that each plane holds for a slot; zero for a plane that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaneBytes {
    /// The vectors as 32-bit floats.
    pub raw: usize,
    /// The codes that a walk reads.
    pub walk: usize,
    /// The numbers that make distances of codes.
    pub factors: usize,
    /// What the codes leave out.
    pub refine: usize,
    /// The signs that a scan looks at first.
    pub signs: usize,
}

impl PlaneBytes {
    /// Bytes of a slot over all planes.
    #[must_use]
    pub fn total(&self) -> usize {
        self.raw + self.walk + self.factors + self.refine + self.signs
    }

    /// In the order of [`Planes::arenas`].
    fn imaged(&self) -> [usize; PLANES] {
        [self.raw, self.walk, self.factors, self.refine]
    }
}

/// Buffers of a writer that makes codes.
#[derive(Debug, Default)]
pub(crate) struct PlaneScratch {
    codec: CodecScratch,
    walk: Vec<u8>,
    factors: Vec<f32>,
    refine: Vec<u8>,
    signs: Vec<u8>,
}

/// Bytes of a line.
const LINE_BYTES: usize = 64;

/// Lines of a row that are asked for at once; the hardware follows a longer row by itself.
const PREFETCH_LINES: usize = 12;

/// Number of planes that an image holds.
pub(crate) const PLANES: usize = 4;

/// The planes of one view.
#[derive(Debug)]
pub(crate) struct Planes {
    /// None without codes.
    pub(crate) codec: Option<Arc<Codec>>,
    pub(crate) bytes: PlaneBytes,
    /// Floats from one raw row to the next.
    pub(crate) stride: usize,
    raw: Arena,
    walk: Arena,
    factors: Arena,
    refine: Arena,
    /// How rows of the sign plane are made and read; none without that plane.
    signs: Option<Signs>,
    sign_rows: Arena,
}

/// Sizes of the planes that the parameters ask for.
pub(crate) fn plane_bytes(params: &IndexParams, codec: Option<&Codec>) -> PlaneBytes {
    let has_raw = params.raw == RawVectors::Memory || params.codes == Codes::None;
    let stride = (params.dims as usize).next_multiple_of(LANE_FLOATS);
    let raw = if has_raw { stride * size_of::<f32>() } else { 0 };
    let Some(codec) = codec else { return PlaneBytes { raw, ..PlaneBytes::default() } };
    let layout = codec.layout();
    PlaneBytes {
        raw,
        walk: layout.walk_row_bytes,
        factors: layout.factor_count * size_of::<f32>(),
        // Where the vectors are, they say more than the residuals of their codes.
        refine: if has_raw { 0 } else { layout.refine_row_bytes },
        signs: Signs::of(codec).map_or(0, |signs| signs.row_bytes()),
    }
}

impl Planes {
    /// Reserves address space for `slots` rows, `expected` of which are likely to be used.
    pub(crate) fn reserve(
        params: &IndexParams,
        codec: Option<Arc<Codec>>,
        slots: usize,
        expected: usize,
    ) -> Result<Self, IndexError> {
        let bytes = plane_bytes(params, codec.as_deref());
        let arena = |row: usize| Arena::reserve(slots * row, expected * row);
        Ok(Self {
            signs: codec.as_deref().and_then(Signs::of),
            sign_rows: arena(bytes.signs)?,
            codec,
            bytes,
            stride: (params.dims as usize).next_multiple_of(LANE_FLOATS),
            raw: arena(bytes.raw)?,
            walk: arena(bytes.walk)?,
            factors: arena(bytes.factors)?,
            refine: arena(bytes.refine)?,
        })
    }

    /// The arenas of an image in the order of [`PlaneBytes`], with the bytes of a row.
    pub(crate) fn arenas(&self) -> [(&Arena, usize); PLANES] {
        let [raw, walk, factors, refine] = self.bytes.imaged();
        [(&self.raw, raw), (&self.walk, walk), (&self.factors, factors), (&self.refine, refine)]
    }

    pub(crate) fn arenas_mut(&mut self) -> [(&mut Arena, usize); PLANES] {
        let [raw, walk, factors, refine] = self.bytes.imaged();
        [
            (&mut self.raw, raw),
            (&mut self.walk, walk),
            (&mut self.factors, factors),
            (&mut self.refine, refine),
        ]
    }

    /// Owner only: makes the rows below `slots` accessible.
    pub(crate) fn commit(&self, slots: usize) -> Result<(), IndexError> {
        self.sign_rows.commit(slots * self.bytes.signs)?;
        self.arenas().into_iter().try_for_each(|(arena, row)| arena.commit(slots * row))
    }

    /// Owner only: writes the rows of a slot that is not published. `vector` is `[dims]`, of unit
    /// length under cosine.
    pub(crate) fn write(&self, slot: Slot, vector: &[f32], scratch: &mut PlaneScratch) {
        let slot = slot as usize;
        if self.has_raw() {
            self.raw.write_floats(slot * self.stride, vector);
        }
        let Some(codec) = &self.codec else { return };
        let PlaneScratch { codec: buffers, walk, factors, refine, signs } = scratch;
        let bytes = self.bytes;
        walk.resize(bytes.walk, 0);
        factors.resize(bytes.factors / size_of::<f32>(), 0.0);
        refine.resize(bytes.refine, 0);
        codec.encode(vector, buffers, walk, factors, refine);
        self.walk.write_row(slot * bytes.walk, walk);
        self.factors.write_floats(slot * factors.len(), factors);
        self.refine.write_row(slot * bytes.refine, refine);
        if let Some(maker) = &self.signs {
            signs.resize(bytes.signs, 0);
            maker.encode(codec, walk, factors, buffers, signs);
            self.sign_rows.write_row(slot * bytes.signs, signs);
        }
    }

    /// Owner only: writes the signs of a slot whose codes were restored and that is not published.
    pub(crate) fn derive_signs(&self, slot: Slot, scratch: &mut PlaneScratch) {
        let (Some(maker), Some(codec)) = (&self.signs, &self.codec) else { return };
        let PlaneScratch { codec: buffers, signs, .. } = scratch;
        signs.resize(self.bytes.signs, 0);
        maker.encode(codec, self.walk_row(slot), self.factor_row(slot), buffers, signs);
        self.sign_rows.write_row(slot as usize * self.bytes.signs, signs);
    }

    /// Copies the rows below `slots` of an outgrown view into this fresh one.
    pub(crate) fn copy_from(&mut self, old: &Self, slots: usize) -> Result<(), IndexError> {
        for ((new, row), (old, _)) in self.arenas_mut().into_iter().zip(old.arenas()) {
            new.copy_from(old, slots * row)?;
        }
        self.sign_rows.copy_from(&old.sign_rows, slots * self.bytes.signs)
    }

    /// Committed bytes of all planes.
    pub(crate) fn committed_bytes(&self) -> usize {
        let imaged = self.arenas().iter().map(|(arena, _)| arena.committed_bytes()).sum::<usize>();
        imaged + self.sign_rows.committed_bytes()
    }

    /// Whether the vectors themselves are here.
    #[inline]
    pub(crate) fn has_raw(&self) -> bool {
        self.bytes.raw > 0
    }

    /// The padded vector of a slot. Only with the raw plane.
    #[inline]
    pub(crate) fn raw_row(&self, slot: Slot) -> &[f32] {
        self.raw.floats(slot as usize * self.stride, self.stride)
    }

    /// The raw plane for the kernels.
    #[inline]
    pub(crate) fn raw_rows(&self) -> Rows {
        Rows { base: self.raw.float_base(), stride: self.stride }
    }

    /// The walk plane and the factors for the kernels.
    #[inline]
    pub(crate) fn code_rows(&self) -> CodeRows {
        CodeRows {
            base: self.walk.byte_base(),
            row_bytes: self.bytes.walk,
            factors: self.factors.float_base(),
            factor_count: self.bytes.factors / size_of::<f32>(),
        }
    }

    /// The refine plane for the kernels.
    #[inline]
    pub(crate) fn refine_rows(&self) -> RefineRows {
        RefineRows { base: self.refine.byte_base(), row_bytes: self.bytes.refine }
    }

    /// The sign plane: what reads it, and the row of slot 0.
    #[inline]
    pub(crate) fn signs(&self) -> Option<(&Signs, *const u8)> {
        self.signs.as_ref().map(|signs| (signs, self.sign_rows.byte_base()))
    }

    /// Sign row of a slot.
    #[cfg(test)]
    pub(crate) fn sign_row(&self, slot: Slot) -> &[u8] {
        self.sign_rows.bytes(slot as usize * self.bytes.signs, self.bytes.signs)
    }

    /// Asks for the first line of what the walk reads of a slot.
    #[inline(always)]
    pub(crate) fn prefetch_start(&self, slot: Slot) {
        let (arena, row) = match self.bytes.walk {
            0 => (&self.raw, self.bytes.raw),
            walk => (&self.walk, walk),
        };
        arena.prefetch_word(slot as usize * row / size_of::<u32>());
    }

    /// Asks for what the walk reads of a slot.
    #[inline]
    pub(crate) fn prefetch(&self, slot: Slot) {
        let ask = |arena: &Arena, row: usize| {
            let first = slot as usize * row;
            for line in 0..row.div_ceil(LINE_BYTES).min(PREFETCH_LINES) {
                arena.prefetch_word((first + line * LINE_BYTES) / size_of::<u32>());
            }
        };
        if self.codec.is_none() {
            return ask(&self.raw, self.bytes.raw);
        }
        ask(&self.walk, self.bytes.walk);
        ask(&self.factors, self.bytes.factors);
    }

    /// Codes of a slot.
    #[inline]
    pub(crate) fn walk_row(&self, slot: Slot) -> &[u8] {
        self.walk.bytes(slot as usize * self.bytes.walk, self.bytes.walk)
    }

    /// Factors of a slot.
    #[inline]
    pub(crate) fn factor_row(&self, slot: Slot) -> &[f32] {
        let count = self.bytes.factors / size_of::<f32>();
        self.factors.floats(slot as usize * count, count)
    }

    /// Residual of a slot; empty when the raw plane stands for it.
    #[inline]
    pub(crate) fn refine_row(&self, slot: Slot) -> &[u8] {
        self.refine.bytes(slot as usize * self.bytes.refine, self.bytes.refine)
    }
}
