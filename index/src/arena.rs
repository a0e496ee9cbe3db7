//! Memory that other cores read while its owner fills it.
//!
//! An [`Arena`] is one contiguous range of zeroed memory: `base + position * stride` needs no
//! table. Large arenas reserve address space without access and commit it from the front, so a
//! reservation costs nothing until it is used; small ones are one plain mapping that the kernel
//! fills lazily; the smallest ones come from the heap, because a process has few mappings. Numbers
//! that change while others read are atomics; floats are written once per publication.
//!
//! Sharing rule: any core may read, one owner (the writer of the index) commits and writes. What is
//! read as plain floats was written before the position was published with release ordering, and is
//! not written again before every reader that could know the position has passed a quiescent point.
#![allow(unsafe_code, reason = "the one place where mapped memory becomes typed references")]

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
};

use crate::distance::prefetch;
use crate::error::IndexError;
use crate::limits::{
    ARENA_COMMIT_BYTES, ARENA_COMMIT_DIVISOR, ARENA_HEAP_BYTES, ARENA_HUGE_BYTES,
    ARENA_SMALL_BYTES, HUGE_PAGE_BYTES,
};

/// A contiguous, zeroed range of memory that grows from the front.
#[derive(Debug)]
pub(crate) struct Arena {
    backing: Backing,
    /// First usable byte: the start of the memory, or the first huge page boundary in it.
    base: *mut u8,
    capacity_bytes: usize,
    committed_bytes: AtomicUsize,
    huge: AtomicBool,
}

/// Where the memory of an arena comes from.
#[derive(Debug)]
enum Backing {
    /// There is none: the arena has no capacity.
    Nothing,
    /// From the allocator, by this layout.
    Heap(Layout),
    /// A mapping as the kernel gave it, and its length.
    Mapping(*mut c_void, usize),
}

// SAFETY: the memory belongs to this value alone and is given back only on drop; all access goes
// through methods that follow the sharing rule in the module head.
unsafe impl Send for Arena {}
// SAFETY: as for Send; concurrent reads see atomics or floats published before.
unsafe impl Sync for Arena {}

const PAGE_BYTES: usize = 4_096;
/// Alignment of memory from the heap: a cache line, as rows are padded to whole ones.
const LINE_BYTES: usize = 64;

impl Arena {
    /// Reserves `capacity_bytes`; `expected_bytes` says how much of it is likely to be used.
    pub(crate) fn reserve(
        capacity_bytes: usize,
        expected_bytes: usize,
    ) -> Result<Self, IndexError> {
        if capacity_bytes <= ARENA_HEAP_BYTES {
            return Self::on_heap(capacity_bytes);
        }
        let capacity_bytes = capacity_bytes.next_multiple_of(PAGE_BYTES);
        let small = capacity_bytes <= ARENA_SMALL_BYTES;
        let slack = if small { 0 } else { HUGE_PAGE_BYTES };
        let mapping_bytes = capacity_bytes + slack;
        let access = if small { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::empty() };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapped = unsafe { mmap_anonymous(core::ptr::null_mut(), mapping_bytes, access, flags) };
        let mapping =
            mapped.map_err(|source| IndexError::Memory { bytes: mapping_bytes, source })?;
        let shift = if small {
            0
        } else {
            mapping.addr().next_multiple_of(HUGE_PAGE_BYTES) - mapping.addr()
        };
        let arena = Self {
            backing: Backing::Mapping(mapping, mapping_bytes),
            base: mapping.cast::<u8>().wrapping_add(shift),
            capacity_bytes,
            committed_bytes: AtomicUsize::new(if small { capacity_bytes } else { 0 }),
            huge: AtomicBool::new(false),
        };
        if expected_bytes.min(capacity_bytes) >= ARENA_HUGE_BYTES {
            arena.advise_huge();
        }
        Ok(arena)
    }

    fn on_heap(capacity_bytes: usize) -> Result<Self, IndexError> {
        let bytes = capacity_bytes.next_multiple_of(LINE_BYTES);
        let layout = Layout::from_size_align(bytes, LINE_BYTES).expect("small and a power of two");
        let (backing, base) = if bytes == 0 {
            (Backing::Nothing, core::ptr::without_provenance_mut(LINE_BYTES))
        } else {
            // SAFETY: the layout has a size above zero (checked above).
            (Backing::Heap(layout), unsafe { alloc_zeroed(layout) })
        };
        if base.is_null() {
            return Err(IndexError::Memory { bytes, source: rustix::io::Errno::NOMEM });
        }
        Ok(Self {
            backing,
            base,
            capacity_bytes: bytes,
            committed_bytes: AtomicUsize::new(bytes),
            huge: AtomicBool::new(false),
        })
    }

    /// Bytes that may be read and written now.
    pub(crate) fn committed_bytes(&self) -> usize {
        self.committed_bytes.load(Ordering::Acquire)
    }

    /// Owner only: makes at least the first `bytes` accessible.
    pub(crate) fn commit(&self, bytes: usize) -> Result<(), IndexError> {
        let committed = self.committed_bytes.load(Ordering::Relaxed);
        if bytes <= committed {
            return Ok(());
        }
        assert!(bytes <= self.capacity_bytes, "commit stays inside the reservation");
        let step = (committed / ARENA_COMMIT_DIVISOR).max(ARENA_COMMIT_BYTES);
        let unit = if bytes >= ARENA_HUGE_BYTES { HUGE_PAGE_BYTES } else { ARENA_COMMIT_BYTES };
        let target = bytes.max(committed + step).next_multiple_of(unit).min(self.capacity_bytes);
        if target >= ARENA_HUGE_BYTES && !self.huge.load(Ordering::Relaxed) {
            self.advise_huge();
        }
        let start = self.base.wrapping_add(committed).cast::<c_void>();
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range lies inside our own mapping (asserted above) and nothing refers to it
        // yet, because accessors refuse positions beyond the committed length.
        unsafe { mprotect(start, target - committed, flags) }
            .map_err(|source| IndexError::Memory { bytes: target - committed, source })?;
        self.committed_bytes.store(target, Ordering::Release);
        Ok(())
    }

    /// Asks for 2 MiB pages. Refusal only costs speed, so it is not an error.
    fn advise_huge(&self) {
        self.huge.store(true, Ordering::Relaxed);
        let start = self.base.cast::<c_void>();
        // SAFETY: the range is our own mapping; the advice does not change its contents.
        let _refused_is_fine =
            unsafe { madvise(start, self.capacity_bytes, Advice::LinuxHugepage) };
    }

    /// Words `start..start + count` as atomics.
    ///
    /// Panics: the range is not committed (a bug of the index).
    #[inline]
    pub(crate) fn words(&self, start: usize, count: usize) -> &[AtomicU32] {
        assert!((start + count) * size_of::<AtomicU32>() <= self.committed_bytes());
        let first = self.base.cast::<AtomicU32>().wrapping_add(start);
        // SAFETY: the range is committed (checked above), aligned because the base is aligned to a
        // line at least, zeroed at the start, and only ever accessed as atomics.
        unsafe { core::slice::from_raw_parts(first, count) }
    }

    /// 64-bit words `start..start + count` as atomics.
    ///
    /// Panics: the range is not committed (a bug of the index).
    #[inline]
    pub(crate) fn longs(&self, start: usize, count: usize) -> &[AtomicU64] {
        assert!((start + count) * size_of::<AtomicU64>() <= self.committed_bytes());
        let first = self.base.cast::<AtomicU64>().wrapping_add(start);
        // SAFETY: as for `words`.
        unsafe { core::slice::from_raw_parts(first, count) }
    }

    /// Bit `index` of the arena read as a bit set; false beyond the committed memory.
    #[inline]
    pub(crate) fn bit(&self, index: usize) -> bool {
        self.long(index / 64) >> (index % 64) & 1 == 1
    }

    /// Word `index` of the arena read as a bit set; zero beyond the committed memory.
    #[inline]
    pub(crate) fn long(&self, index: usize) -> u64 {
        if (index + 1) * size_of::<u64>() > self.committed_bytes() {
            return 0;
        }
        self.longs(index, 1)[0].load(Ordering::Acquire)
    }

    /// Owner only: sets a bit; what was written before is visible to whoever sees it.
    pub(crate) fn set_bit(&self, index: usize) {
        let word = &self.longs(index / 64, 1)[0];
        // One owner writes, so a load and a store are enough.
        word.store(word.load(Ordering::Relaxed) | 1 << (index % 64), Ordering::Release);
    }

    /// Owner only: clears a bit.
    pub(crate) fn clear_bit(&self, index: usize) {
        let word = &self.longs(index / 64, 1)[0];
        word.store(word.load(Ordering::Relaxed) & !(1 << (index % 64)), Ordering::Release);
    }

    /// Owner only: commits memory for bits `0..count`.
    pub(crate) fn commit_bits(&self, count: usize) -> Result<(), IndexError> {
        self.commit(count.div_ceil(64) * size_of::<u64>())
    }

    /// Asks for the line that holds word `start`; a hint that never faults.
    #[inline(always)]
    pub(crate) fn prefetch_word(&self, start: usize) {
        prefetch(self.base.cast::<u32>().wrapping_add(start).cast::<u8>().cast_const());
    }

    /// Floats `start..start + count`; the caller got the position from a published place.
    ///
    /// Panics: the range is not committed (a bug of the index).
    #[inline]
    pub(crate) fn floats(&self, start: usize, count: usize) -> &[f32] {
        assert!((start + count) * size_of::<f32>() <= self.committed_bytes());
        let first = self.base.cast::<f32>().wrapping_add(start).cast_const();
        // SAFETY: the range is committed and aligned; by the sharing rule nobody writes a published
        // position before its readers are gone.
        unsafe { core::slice::from_raw_parts(first, count) }
    }

    /// Address of the first float, for the kernels that compute row addresses themselves.
    #[inline]
    pub(crate) fn float_base(&self) -> *const f32 {
        self.base.cast::<f32>().cast_const()
    }

    /// Bytes `start..start + count`; the caller got the position from a published place.
    ///
    /// Panics: the range is not committed (a bug of the index).
    #[inline]
    pub(crate) fn bytes(&self, start: usize, count: usize) -> &[u8] {
        assert!(start + count <= self.committed_bytes());
        let first = self.base.wrapping_add(start).cast_const();
        // SAFETY: the range is committed; by the sharing rule nobody writes a published position
        // before its readers are gone.
        unsafe { core::slice::from_raw_parts(first, count) }
    }

    /// Address of the first byte, for the kernels that compute row addresses themselves.
    #[inline]
    pub(crate) fn byte_base(&self) -> *const u8 {
        self.base.cast_const()
    }

    /// Owner only: writes bytes of a position that is not published.
    ///
    /// Panics: the range is not committed (a bug of the index).
    pub(crate) fn write_row(&self, start: usize, values: &[u8]) {
        assert!(start + values.len() <= self.committed_bytes());
        let target = self.base.wrapping_add(start);
        // SAFETY: as for `write_floats`.
        unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len()) };
    }

    /// Owner only: writes floats of a position that is not published.
    ///
    /// Panics: the range is not committed (a bug of the index).
    pub(crate) fn write_floats(&self, start: usize, values: &[f32]) {
        assert!((start + values.len()) * size_of::<f32>() <= self.committed_bytes());
        let target = self.base.cast::<f32>().wrapping_add(start);
        // SAFETY: the target is committed memory of this arena, `values` is not in it (the arena
        // hands out shared references only), and by the sharing rule no reader knows the position.
        unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len()) };
    }

    /// Copies the bytes at `offset` out; the range may be changing only if its readers use atomics.
    ///
    /// Panics: the range is not committed (a bug of the index).
    pub(crate) fn read_bytes(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.committed_bytes());
        let source = self.base.wrapping_add(offset).cast_const();
        // SAFETY: the source is committed, the target is foreign memory; the caller of an image
        // read keeps the owner from changing these positions while it reads.
        unsafe { core::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
    }

    /// Owner only, before the arena is shared: writes bytes at `offset`.
    ///
    /// Panics: the range is not committed (a bug of the index).
    pub(crate) fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.committed_bytes());
        let target = self.base.wrapping_add(offset);
        // SAFETY: `&mut self` proves that nobody else reads; the range is committed.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Copies the first `bytes` of `source` into this fresh arena.
    pub(crate) fn copy_from(&mut self, source: &Self, bytes: usize) -> Result<(), IndexError> {
        self.commit(bytes)?;
        assert!(bytes <= source.committed_bytes());
        // SAFETY: both ranges are committed and belong to different mappings; the owner, who alone
        // writes the source, is the one who copies.
        unsafe { core::ptr::copy_nonoverlapping(source.base.cast_const(), self.base, bytes) };
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        match self.backing {
            Backing::Nothing => {}
            Backing::Heap(layout) => {
                // SAFETY: `on_heap` got the memory by this layout, and no reference outlives the
                // arena.
                unsafe { dealloc(self.base, layout) };
            }
            Backing::Mapping(mapping, bytes) => {
                // SAFETY: the mapping was made by `reserve`, and no reference outlives the arena.
                let unmapped = unsafe { munmap(mapping, bytes) };
                debug_assert!(unmapped.is_ok(), "unmapping our own mapping cannot fail");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_reservation_commits_only_what_is_used() {
        let arena = Arena::reserve(64 << 30, 0).unwrap();
        assert_eq!(arena.committed_bytes(), 0);
        arena.commit(100).unwrap();
        assert_eq!(arena.committed_bytes(), ARENA_COMMIT_BYTES);
        arena.commit(ARENA_HUGE_BYTES + 1).unwrap();
        assert_eq!(arena.committed_bytes() % HUGE_PAGE_BYTES, 0);
        assert_eq!(arena.float_base().addr() % HUGE_PAGE_BYTES, 0);
        arena.write_floats(5, &[1.0, 2.0]);
        assert_eq!(arena.floats(4, 4), &[0.0, 1.0, 2.0, 0.0]);
    }

    #[test]
    fn growth_copies_what_was_written() {
        let small = Arena::reserve(4_096, 0).unwrap();
        small.words(7, 1)[0].store(9, Ordering::Relaxed);
        let mut large = Arena::reserve(1 << 30, 0).unwrap();
        large.copy_from(&small, 4_096).unwrap();
        assert_eq!(large.words(7, 1)[0].load(Ordering::Relaxed), 9);
        assert_eq!(large.words(8, 1)[0].load(Ordering::Relaxed), 0);
    }

    #[test]
    fn small_arenas_take_no_more_than_they_hold_and_start_with_zeros() {
        for bytes in [0, 1, 64, 1_000, ARENA_HEAP_BYTES] {
            let arena = Arena::reserve(bytes, 0).unwrap();
            assert_eq!(arena.committed_bytes(), bytes.next_multiple_of(LINE_BYTES));
            assert_eq!(arena.byte_base().addr() % LINE_BYTES, 0);
            assert!(arena.bytes(0, bytes).iter().all(|byte| *byte == 0));
            arena.write_row(0, &vec![7; bytes]);
        }
        assert_eq!(Arena::reserve(0, 0).unwrap().long(0), 0, "nothing is there");
    }

    #[test]
    fn a_reservation_beyond_the_address_space_is_an_error() {
        assert!(matches!(Arena::reserve(1 << 60, 0), Err(IndexError::Memory { .. })));
    }
}
