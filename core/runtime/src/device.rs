//! The [`Device`] seam on real files: direct IO through the core's io_uring rings.
//!
//! Files are opened with `O_DIRECT`; offsets and lengths are multiples of the page. Directory work
//! (list, rename, remove, sync) runs on the core's blocking thread, because it may wait for the
//! file system's journal. Data is copied once between the caller's buffer and one of the runtime,
//! which is the only memory the rings accept: about 0.1 us a KiB, against 80 us for the fastest
//! read of the disk.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use glommio::sync::RwLock;
use heddle_types::device::DeviceSpace;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode};
use rustix::fs::{Mode, OFlags};

use crate::gate::Gate;
use crate::queues::run_blocking;

/// Reads and writes of one core that are in the kernel at the same time.
pub const DEVICE_IO_IN_FLIGHT_MAX: usize = 64;
/// Longest path below the root, bytes.
pub const DEVICE_PATH_BYTES_MAX: usize = 1_024;
/// Zeros written by one step of [`DeviceFile::allocate`] (1 MiB).
const ALLOCATE_STEP_BYTES: usize = 1 << 20;
/// Writes of zeros in flight while a file is allocated.
const ALLOCATE_IN_FLIGHT: usize = 4;
/// Attributes of new files: the owner alone.
const FILE_MODE: u32 = 0o600;

const _: () = assert!(ALLOCATE_STEP_BYTES.is_multiple_of(PAGE_SIZE_BYTES));

/// A directory of the machine as a [`Device`]. Clones share their limits; stays on its core.
#[derive(Clone, Debug)]
pub struct GlommioDevice {
    shared: Rc<DeviceShared>,
}

#[derive(Debug)]
struct DeviceShared {
    root: PathBuf,
    in_flight: Rc<Gate>,
    // The runtime's open looks a file up by its name a second time and panics when that fails, so
    // names are changed only while nothing is being opened. Each core works in directories of its
    // own, which is why a lock of this core is enough.
    names: RwLock<()>,
}

impl GlommioDevice {
    /// A device for the files below `root`, which must be an existing directory.
    ///
    /// Errors: [`DeviceError::NotFound`] or [`DeviceError::Io`] when it is none.
    pub fn new(root: &Path) -> Result<Self, DeviceError> {
        let shown = root.display().to_string();
        let root = root.canonicalize().map_err(|error| from_io(&shown, "open", &error))?;
        if !root.is_dir() {
            let error = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(from_io(&shown, "open", &error));
        }
        let shared = DeviceShared {
            root,
            in_flight: Rc::new(Gate::new(DEVICE_IO_IN_FLIGHT_MAX)),
            names: RwLock::new(()),
        };
        Ok(Self { shared: Rc::new(shared) })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    // Joins a relative path to the root; anything that could leave it is refused.
    fn resolve(&self, path: &str) -> Result<PathBuf, DeviceError> {
        let stays_below = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !stays_below || path.contains('\0') || path.len() > DEVICE_PATH_BYTES_MAX {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(from_io(path, "resolve", &error));
        }
        Ok(self.shared.root.join(path))
    }

    async fn change_names<T: Send + 'static>(
        &self,
        path: &str,
        operation: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, DeviceError> {
        // The lock is never closed.
        let _guard = self.shared.names.write().await;
        run_blocking(work).await.map_err(|error| from_io(path, operation, &error))
    }
}

impl Device for GlommioDevice {
    type File = GlommioDeviceFile;

    async fn open(&self, path: &str, mode: OpenMode) -> Result<GlommioDeviceFile, DeviceError> {
        let full = self.resolve(path)?;
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        let _guard = self.shared.names.read().await;
        let file =
            options.dma_open(&full).await.map_err(|error| from_glommio(path, "open", error))?;
        Ok(GlommioDeviceFile {
            file,
            path: Rc::from(path),
            in_flight: Rc::clone(&self.shared.in_flight),
        })
    }

    async fn list(&self, path: &str) -> Result<Vec<String>, DeviceError> {
        let full = self.resolve(path)?;
        let names = run_blocking(move || list_names(&full)).await;
        names.map_err(|error| from_io(path, "list", &error))
    }

    async fn create_dir(&self, path: &str) -> Result<(), DeviceError> {
        let full = self.resolve(path)?;
        self.change_names(path, "create_dir", move || std::fs::create_dir_all(full)).await
    }

    async fn rename(&self, source: &str, target: &str) -> Result<(), DeviceError> {
        let from = self.resolve(source)?;
        let to = self.resolve(target)?;
        self.change_names(source, "rename", move || std::fs::rename(from, to)).await
    }

    async fn link(&self, source: &str, target: &str) -> Result<(), DeviceError> {
        let from = self.resolve(source)?;
        let to = self.resolve(target)?;
        self.change_names(source, "link", move || std::fs::hard_link(from, to)).await
    }

    async fn remove(&self, path: &str) -> Result<(), DeviceError> {
        let full = self.resolve(path)?;
        self.change_names(path, "remove", move || std::fs::remove_file(full)).await
    }

    async fn remove_tree(&self, path: &str) -> Result<(), DeviceError> {
        let full = self.resolve(path)?;
        if full == self.shared.root {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(from_io(path, "remove_tree", &error));
        }
        self.change_names(path, "remove_tree", move || match std::fs::remove_dir_all(full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        })
        .await
    }

    async fn sync_dir(&self, path: &str) -> Result<(), DeviceError> {
        let full = self.resolve(path)?;
        let synced = run_blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(full, flags, Mode::empty())?;
            rustix::fs::fsync(directory).map_err(io::Error::from)
        })
        .await;
        synced.map_err(|error| from_io(path, "sync_dir", &error))
    }

    async fn space(&self) -> Result<DeviceSpace, DeviceError> {
        let root = self.shared.root.clone();
        let found = run_blocking(move || rustix::fs::statvfs(root)).await;
        let found = found.map_err(|error| from_io("", "space", &error.into()))?;
        Ok(DeviceSpace {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }
}

fn list_names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        // A name that is not UTF-8 is none of ours.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// An open file of a [`GlommioDevice`].
///
/// A read or write that was begun goes on in the kernel when its future is dropped, with memory of
/// its own; do not drop a write and then write there again.
#[derive(Debug)]
pub struct GlommioDeviceFile {
    file: DmaFile,
    path: Rc<str>,
    in_flight: Rc<Gate>,
}

impl GlommioDeviceFile {
    /// Reads `length` bytes from the start as pieces of `piece_bytes`, several in flight.
    ///
    /// `consume` gets the pieces in order of their offsets, each with its offset. Both sizes are
    /// multiples of the page; the last piece may be smaller. Errors: as [`DeviceFile::read_at`].
    pub async fn read_pieces(
        &self,
        length: u64,
        piece_bytes: usize,
        in_flight: usize,
        mut consume: impl FnMut(u64, AlignedBuf),
    ) -> Result<(), DeviceError> {
        use futures::StreamExt;
        assert!(piece_bytes > 0 && piece_bytes.is_multiple_of(PAGE_SIZE_BYTES), "whole pages");
        let step = piece_bytes as u64;
        let reads = (0..length.div_ceil(step)).map(|piece| {
            let offset = piece * step;
            let wanted = step.min(length - offset) as usize;
            async move { self.read_at(offset, wanted).await.map(|bytes| (offset, bytes)) }
        });
        let mut reads = futures::stream::iter(reads).buffered(in_flight.max(1));
        while let Some(read) = reads.next().await {
            let (offset, bytes) = read?;
            consume(offset, bytes);
        }
        Ok(())
    }

    async fn write_pages(&self, offset: u64, buffer: DmaBuffer) -> Result<(), DeviceError> {
        let expected = buffer.len();
        let _permit = self.in_flight.permit().await;
        let found = self
            .file
            .write_at(buffer, offset)
            .await
            .map_err(|error| from_glommio(&self.path, "write", error))?;
        if found == expected {
            return Ok(());
        }
        // The kernel cuts a write short when space runs out in its middle.
        Err(DeviceError::NoSpace { path: self.path.to_string() })
    }
}

impl DeviceFile for GlommioDeviceFile {
    async fn length(&self) -> Result<u64, DeviceError> {
        self.file.file_size().await.map_err(|error| from_glommio(&self.path, "length", error))
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<AlignedBuf, DeviceError> {
        self.read_with(offset, length, AlignedBuf::from_slice).await
    }

    async fn read_with<R>(
        &self,
        offset: u64,
        length: usize,
        take: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, DeviceError> {
        assert_pages(offset, length);
        if length == 0 {
            return Ok(take(&[]));
        }
        let read = {
            let _permit = self.in_flight.permit().await;
            let read = self.file.read_at_aligned(offset, length).await;
            read.map_err(|error| from_glommio(&self.path, "read", error))?
        };
        if read.len() != length {
            return Err(DeviceError::Short {
                path: self.path.to_string(),
                offset,
                expected: length,
                found: read.len(),
            });
        }
        Ok(take(&read))
    }

    async fn write_at(&self, offset: u64, buffer: AlignedBuf) -> Result<AlignedBuf, DeviceError> {
        let pages = buffer.padded();
        assert_pages(offset, pages.len());
        if pages.is_empty() {
            return Ok(buffer);
        }
        let mut copy = self.file.alloc_dma_buffer(pages.len());
        copy.as_bytes_mut().copy_from_slice(pages);
        self.write_pages(offset, copy).await?;
        Ok(buffer)
    }

    async fn sync(&self) -> Result<(), DeviceError> {
        let synced = self.file.fdatasync().await;
        synced.map_err(|error| from_glommio(&self.path, "sync", error))
    }

    async fn allocate(&self, length: u64) -> Result<(), DeviceError> {
        use futures::TryStreamExt;
        assert!(length.is_multiple_of(PAGE_SIZE_BYTES as u64), "whole pages");
        if length == 0 {
            return Ok(());
        }
        let reserved = self.file.pre_allocate(length, false).await;
        reserved.map_err(|error| from_glommio(&self.path, "allocate", error))?;
        // Reserved extents count as unwritten until they are written once, and that change is
        // metadata which every later sync would have to journal: so the zeros are really written.
        let step = ALLOCATE_STEP_BYTES as u64;
        let offsets = (0..length.div_ceil(step)).map(|piece| Ok(piece * step));
        futures::stream::iter(offsets)
            .try_for_each_concurrent(ALLOCATE_IN_FLIGHT, |offset| async move {
                let wanted = step.min(length - offset) as usize;
                let mut zeros = self.file.alloc_dma_buffer(wanted);
                zeros.as_bytes_mut().fill(0);
                self.write_pages(offset, zeros).await
            })
            .await?;
        self.sync().await
    }

    async fn allocated_bytes(&self) -> Result<u64, DeviceError> {
        let found = self.file.stat().await;
        let found = found.map_err(|error| from_glommio(&self.path, "stat", error))?;
        Ok(found.allocated_file_size)
    }

    async fn close(self) -> Result<(), DeviceError> {
        let closed = self.file.close().await;
        closed.map(|_| ()).map_err(|error| from_glommio(&self.path, "close", error))
    }
}

#[track_caller]
fn assert_pages(offset: u64, length: usize) {
    assert!(
        offset.is_multiple_of(PAGE_SIZE_BYTES as u64) && length.is_multiple_of(PAGE_SIZE_BYTES),
        "direct IO needs whole pages: {length} bytes at {offset}"
    );
}

fn from_glommio(path: &str, operation: &'static str, error: GlommioError<()>) -> DeviceError {
    let error: io::Error = error.into();
    from_io(path, operation, &error)
}

fn from_io(path: &str, operation: &'static str, error: &io::Error) -> DeviceError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => DeviceError::NotFound { path },
        io::ErrorKind::AlreadyExists => DeviceError::Exists { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DeviceError::NoSpace { path },
        _ => DeviceError::Io {
            path,
            operation,
            os_code: error.raw_os_error(),
            source_text: error.to_string(),
        },
    }
}
