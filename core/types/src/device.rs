//! The storage and time seams: everything below them may be the real machine or a simulated one.
//!
//! Storage code is async over [`Device`], so the same recovery and checkpoint code runs on io_uring
//! and on a fake disk that tears, loses and fails.

use std::future::Future;

use crate::buffer::AlignedBuf;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Must exist; read only.
    Read,
    /// Must exist; read and write.
    Write,
    /// Must not exist; created empty, read and write.
    CreateNew,
}

/// What the storage did not do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such file or directory. State is unchanged; retrying does not help.
    #[error("{path}: not found")]
    NotFound {
        /// The path, relative to the device's root.
        path: String,
    },
    /// The file exists already. State is unchanged.
    #[error("{path}: exists already")]
    Exists {
        /// The path, relative to the device's root.
        path: String,
    },
    /// No space is left. Bytes of the failed write may be on disk; retry when space returned.
    #[error("{path}: no space left on device")]
    NoSpace {
        /// The path, relative to the device's root.
        path: String,
    },
    /// Fewer bytes were there than asked for. State is unchanged.
    #[error("{path}: {found} bytes at offset {offset}, expected {expected}")]
    Short {
        /// The path, relative to the device's root.
        path: String,
        /// Where the read began.
        offset: u64,
        /// Bytes asked for.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The operating system refused. After a failed write or sync the file must not be used again.
    #[error("{path}: {operation} failed: {source_text} (os error {os_code:?})")]
    Io {
        /// The path, relative to the device's root.
        path: String,
        /// `open`, `read`, `write`, `sync`, …
        operation: &'static str,
        /// The system's error number, when there is one.
        os_code: Option<i32>,
        /// The system's words.
        source_text: String,
    },
}

/// Free and total bytes of the file system under a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceSpace {
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes an unprivileged process may still write.
    pub free_bytes: u64,
}

/// A directory tree of files with aligned IO. Paths are relative, `/`-separated, without `..`.
///
/// Directory changes (create, rename, remove) are durable only after [`Device::sync_dir`] of the
/// parent. Handles are cheap to clone and stay on one core.
pub trait Device: Clone + 'static {
    /// An open file.
    type File: DeviceFile;

    /// Opens a file.
    fn open(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> impl Future<Output = Result<Self::File, DeviceError>>;

    /// Names in a directory, sorted; a missing directory is an error.
    fn list(&self, path: &str) -> impl Future<Output = Result<Vec<String>, DeviceError>>;

    /// Creates a directory and its missing parents; an existing one is fine.
    fn create_dir(&self, path: &str) -> impl Future<Output = Result<(), DeviceError>>;

    /// Renames a file over whatever stands at `target`, atomically.
    fn rename(&self, source: &str, target: &str) -> impl Future<Output = Result<(), DeviceError>>;

    /// Gives a file a second name; it is one file under both. For files that do not change.
    fn link(&self, source: &str, target: &str) -> impl Future<Output = Result<(), DeviceError>>;

    /// Removes a file; while it has another name, that one stays.
    fn remove(&self, path: &str) -> impl Future<Output = Result<(), DeviceError>>;

    /// Removes a directory with all that is in it; a missing one is fine.
    fn remove_tree(&self, path: &str) -> impl Future<Output = Result<(), DeviceError>>;

    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &str) -> impl Future<Output = Result<(), DeviceError>>;

    /// Free and total space.
    fn space(&self) -> impl Future<Output = Result<DeviceSpace, DeviceError>>;
}

/// An open file. Offsets and lengths of reads and writes are multiples of the page size (4,096).
pub trait DeviceFile: 'static {
    /// Length of the file, bytes.
    fn length(&self) -> impl Future<Output = Result<u64, DeviceError>>;

    /// Reads exactly `length` bytes at `offset`; fewer is [`DeviceError::Short`].
    fn read_at(
        &self,
        offset: u64,
        length: usize,
    ) -> impl Future<Output = Result<AlignedBuf, DeviceError>>;

    /// Reads as [`DeviceFile::read_at`] does and hands the bytes to `take` where they arrived.
    ///
    /// For bytes that are only looked at or copied on: a device that reads into memory of its own
    /// spares the copy out of it.
    fn read_with<R>(
        &self,
        offset: u64,
        length: usize,
        take: impl FnOnce(&[u8]) -> R,
    ) -> impl Future<Output = Result<R, DeviceError>> {
        async move { Ok(take(&self.read_at(offset, length).await?)) }
    }

    /// Writes the whole padded buffer at `offset`. A short write is an error.
    fn write_at(
        &self,
        offset: u64,
        buffer: AlignedBuf,
    ) -> impl Future<Output = Result<AlignedBuf, DeviceError>>;

    /// Makes written data (and a grown length) durable: fdatasync.
    fn sync(&self) -> impl Future<Output = Result<(), DeviceError>>;

    /// Reserves `length` bytes of zeros from the start, so that later writes there change no
    /// metadata.
    fn allocate(&self, length: u64) -> impl Future<Output = Result<(), DeviceError>>;

    /// Bytes for which the file has blocks; less than its length where it has holes, and then a
    /// write there may find no space.
    fn allocated_bytes(&self) -> impl Future<Output = Result<u64, DeviceError>>;

    /// Closes the file; dropping without it closes later.
    fn close(self) -> impl Future<Output = Result<(), DeviceError>>;
}

/// Time. Only drivers read the machine's clocks; everything else asks this.
pub trait Clock: Clone + 'static {
    /// Wall time, microseconds since the Unix epoch.
    fn unix_us(&self) -> u64;

    /// Monotonic time, nanoseconds since an arbitrary start.
    fn monotonic_ns(&self) -> u64;
}
