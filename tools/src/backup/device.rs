//! A directory as a device, for commands that read or write stored data without a node: plain
//! blocking calls of the operating system, one at a time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::rc::Rc;

use heddle_types::device::DeviceSpace;
use heddle_types::{AlignedBuf, Device, DeviceError, DeviceFile, OpenMode};
use rustix::fs::FallocateFlags;

/// Unit in which the system counts the blocks of a file.
const STAT_BLOCK_BYTES: u64 = 512;
/// Zeros written at once (1 MiB).
const ZEROS_BYTES: usize = 1 << 20;

/// A directory; clones share it. Paths come from storage code, which makes plain ones only.
#[derive(Clone, Debug)]
pub(super) struct Directory(Rc<PathBuf>);

/// An open file of it.
#[derive(Debug)]
pub(super) struct DirectoryFile {
    file: File,
    path: String,
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Self {
        Self(Rc::new(root))
    }
}

/// Makes a file `end` bytes long; from `start` on it holds zeros that are really written, as a log
/// needs them: a hole could find no space later, when records go there.
///
/// Errors: above all that there is no space, before anything is written.
pub(super) fn write_zeros(file: &File, start: u64, end: u64) -> io::Result<()> {
    let Some(length) = end.checked_sub(start).filter(|length| *length > 0) else { return Ok(()) };
    rustix::fs::fallocate(file, FallocateFlags::empty(), start, length)?;
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = start;
    while offset < end {
        let step = (end - offset).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..usize::try_from(step).unwrap_or(ZEROS_BYTES)], offset)?;
        offset += step;
    }
    Ok(())
}

fn refused(path: &str, operation: &'static str, error: &io::Error) -> DeviceError {
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

impl Device for Directory {
    type File = DirectoryFile;

    async fn open(&self, path: &str, mode: OpenMode) -> Result<DirectoryFile, DeviceError> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read).create_new(mode == OpenMode::CreateNew);
        let opened = options.open(self.0.join(path));
        let file = opened.map_err(|error| refused(path, "open", &error))?;
        Ok(DirectoryFile { file, path: path.to_owned() })
    }

    async fn list(&self, path: &str) -> Result<Vec<String>, DeviceError> {
        let names = || -> io::Result<Vec<String>> {
            let entries = std::fs::read_dir(self.0.join(path))?;
            let name = |entry: io::Result<std::fs::DirEntry>| {
                entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
            };
            entries.map(name).collect()
        };
        let mut names = names().map_err(|error| refused(path, "list", &error))?;
        names.sort_unstable();
        Ok(names)
    }

    async fn create_dir(&self, path: &str) -> Result<(), DeviceError> {
        let made = std::fs::create_dir_all(self.0.join(path));
        made.map_err(|error| refused(path, "create_dir", &error))
    }

    async fn rename(&self, source: &str, target: &str) -> Result<(), DeviceError> {
        let renamed = std::fs::rename(self.0.join(source), self.0.join(target));
        renamed.map_err(|error| refused(source, "rename", &error))
    }

    async fn link(&self, source: &str, target: &str) -> Result<(), DeviceError> {
        let linked = std::fs::hard_link(self.0.join(source), self.0.join(target));
        linked.map_err(|error| refused(source, "link", &error))
    }

    async fn remove(&self, path: &str) -> Result<(), DeviceError> {
        let removed = std::fs::remove_file(self.0.join(path));
        removed.map_err(|error| refused(path, "remove", &error))
    }

    async fn remove_tree(&self, path: &str) -> Result<(), DeviceError> {
        match std::fs::remove_dir_all(self.0.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(refused(path, "remove_tree", &error))
            }
            _ => Ok(()),
        }
    }

    async fn sync_dir(&self, path: &str) -> Result<(), DeviceError> {
        let synced = File::open(self.0.join(path)).and_then(|directory| directory.sync_all());
        synced.map_err(|error| refused(path, "sync_dir", &error))
    }

    async fn space(&self) -> Result<DeviceSpace, DeviceError> {
        let space = rustix::fs::statvfs(&*self.0);
        let space = space.map_err(|error| refused("", "space", &error.into()))?;
        Ok(DeviceSpace {
            total_bytes: space.f_blocks * space.f_frsize,
            free_bytes: space.f_bavail * space.f_frsize,
        })
    }
}

impl DeviceFile for DirectoryFile {
    async fn length(&self) -> Result<u64, DeviceError> {
        let data = self.file.metadata();
        Ok(data.map_err(|error| refused(&self.path, "length", &error))?.len())
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<AlignedBuf, DeviceError> {
        let mut buffer = AlignedBuf::zeroed(length);
        let mut found = 0;
        while found < length {
            let rest = &mut buffer.as_mut_slice()[found..];
            match self.file.read_at(rest, offset + found as u64) {
                Ok(0) => {
                    let (path, expected) = (self.path.clone(), length);
                    return Err(DeviceError::Short { path, offset, expected, found });
                }
                Ok(count) => found += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(refused(&self.path, "read", &error)),
            }
        }
        Ok(buffer)
    }

    async fn write_at(&self, offset: u64, buffer: AlignedBuf) -> Result<AlignedBuf, DeviceError> {
        let written = self.file.write_all_at(buffer.padded(), offset);
        written.map_err(|error| refused(&self.path, "write", &error))?;
        Ok(buffer)
    }

    async fn sync(&self) -> Result<(), DeviceError> {
        self.file.sync_data().map_err(|error| refused(&self.path, "sync", &error))
    }

    async fn allocate(&self, length: u64) -> Result<(), DeviceError> {
        let allocated = write_zeros(&self.file, 0, length);
        allocated.map_err(|error| refused(&self.path, "allocate", &error))
    }

    async fn allocated_bytes(&self) -> Result<u64, DeviceError> {
        let data = self.file.metadata();
        let data = data.map_err(|error| refused(&self.path, "allocated_bytes", &error))?;
        Ok(data.blocks() * STAT_BLOCK_BYTES)
    }

    async fn close(self) -> Result<(), DeviceError> {
        Ok(())
    }
}
