//! Buffers whose elements begin at a 64-byte line.

/// Bytes of a line.
pub(crate) const LINE_BYTES: usize = 64;

/// One line of sixteen floats.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A growable buffer of `f32` that starts at a line and is zero where nothing was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct FloatLines(Vec<Line>);

impl FloatLines {
    /// Makes room for at least `count` floats; old contents may stay.
    pub(crate) fn resize(&mut self, count: usize) {
        self.0.resize(count.div_ceil(16), Line([0.0; 16]));
    }

    /// All floats, a multiple of sixteen.
    #[inline(always)]
    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: a line is sixteen floats without padding, so the lines are that many floats.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    /// All floats, a multiple of sixteen.
    #[inline(always)]
    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `floats`; the borrow of the buffer is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// One line of bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct ByteLine([u8; LINE_BYTES]);

/// A growable buffer of bytes that starts at a line.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteLines(Vec<ByteLine>);

impl ByteLines {
    /// Makes room for at least `count` bytes, all of them zero where the buffer grew.
    pub(crate) fn resize(&mut self, count: usize) {
        self.0.resize(count.div_ceil(LINE_BYTES), ByteLine([0; LINE_BYTES]));
    }

    /// All bytes, whole lines.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        let count = self.0.len() * LINE_BYTES;
        // SAFETY: a line is 64 bytes without padding.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), count) }
    }

    /// All bytes, whole lines.
    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let count = self.0.len() * LINE_BYTES;
        // SAFETY: as for `bytes`; the borrow of the buffer is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), count) }
    }

    /// The bytes as signed numbers.
    #[inline(always)]
    pub(crate) fn signed(&self) -> &[i8] {
        let count = self.0.len() * LINE_BYTES;
        // SAFETY: as for `bytes`; every byte is a valid `i8`.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), count) }
    }
}
