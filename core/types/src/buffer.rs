//! Page-aligned byte buffers: what direct IO reads into and writes from.

use crate::limits::PAGE_SIZE_BYTES;

#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE_BYTES]);

/// A zeroed buffer whose start and capacity are multiples of [`PAGE_SIZE_BYTES`].
///
/// Cost: one allocation; bytes beyond what was written are zero, so padding never leaks memory
/// contents to disk.
#[derive(Clone)]
pub struct AlignedBuf {
    pages: Vec<Page>,
    length: usize,
}

impl AlignedBuf {
    /// A zeroed buffer of `length` bytes; its capacity is rounded up to whole pages.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        let pages = vec![bytemuck::Zeroable::zeroed(); length.div_ceil(PAGE_SIZE_BYTES)];
        Self { pages, length }
    }

    /// A buffer holding a copy of `bytes`, zero padded to whole pages.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.as_mut_slice().copy_from_slice(bytes);
        buffer
    }

    /// Bytes in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Is no byte in use?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of memory that the buffer holds.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.pages.capacity() * PAGE_SIZE_BYTES
    }

    /// The bytes in use.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.pages)[..self.length]
    }

    /// The bytes in use, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..self.length]
    }

    /// The bytes in use and the zero padding up to the end of the last page.
    #[must_use]
    pub fn padded(&self) -> &[u8] {
        bytemuck::cast_slice(&self.pages)
    }

    /// Shortens the buffer to `length` bytes and zeroes what is cut off.
    ///
    /// Panics: `length` is larger than the buffer (a caller bug).
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length, "a buffer can only be shortened");
        self.as_mut_slice()[length..].fill(0);
        self.length = length;
        self.pages.truncate(length.div_ceil(PAGE_SIZE_BYTES));
    }

    /// Appends bytes, growing by whole pages.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.length;
        self.length += bytes.len();
        self.pages.resize(self.length.div_ceil(PAGE_SIZE_BYTES), bytemuck::Zeroable::zeroed());
        self.as_mut_slice()[start..].copy_from_slice(bytes);
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_is_page_aligned_and_padding_is_zero() {
        let mut buffer = AlignedBuf::from_slice(&[7; 5000]);
        assert_eq!(buffer.as_slice().as_ptr().addr() % PAGE_SIZE_BYTES, 0);
        assert_eq!(buffer.padded().len(), 8192);
        assert!(buffer.padded()[5000..].iter().all(|byte| *byte == 0));
        buffer.truncate(10);
        buffer.extend_from_slice(&[0; 20]);
        assert_eq!(&buffer[..10], &[7; 10]);
        assert!(buffer[10..].iter().all(|byte| *byte == 0));
    }
}
