//! One process for each data directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Name of the lock file in the data directory.
pub const LOCK_FILE: &str = "LOCK";
/// Most bytes read back from a lock file.
const LOCK_FILE_BYTES_MAX: u64 = 256;

/// The lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds the directory. Nothing was changed.
    #[error(
        "another heddle serve uses this data directory: {} is held by {holder}; stop that process \
         or give this one another data_dir",
        path.display()
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself: its process id and address.
        holder: String,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}

/// The right to use a data directory, until it is dropped or the process ends in any way.
#[derive(Debug)]
pub struct DataLock {
    file: File,
    path: PathBuf,
}

impl DataLock {
    /// Takes the lock of a directory and writes this process's id and `address` into it.
    ///
    /// The kernel gives the lock back when the process ends, however it ends; the file stays.
    pub fn acquire(directory: &Path, address: &str) -> Result<Self, LockError> {
        let path = directory.join(LOCK_FILE);
        match Self::try_acquire(&path, address) {
            Ok(Ok(file)) => Ok(Self { file, path }),
            Ok(Err(holder)) => Err(LockError::Held { path, holder }),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }

    fn try_acquire(path: &Path, address: &str) -> io::Result<Result<File, String>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.take(LOCK_FILE_BYTES_MAX).read_to_string(&mut holder)?;
                let holder = holder.trim();
                let unknown = "a process that has not written its id yet";
                return Ok(Err(if holder.is_empty() { unknown } else { holder }.to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        // Written over what was there and then cut: on a full disk the old block is all there is.
        let text = format!("pid {} address {address}\n", std::process::id());
        file.rewind()?;
        match file.write_all(text.as_bytes()) {
            Ok(()) => file.set_len(text.len() as u64)?,
            // The lock is held all the same; the text only helps people.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => return Err(error),
        }
        Ok(Ok(file))
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataLock {
    fn drop(&mut self) {
        // Closing the file gives the lock back as well; this only makes it happen when a child
        // process still has the descriptor.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_is_refused_with_the_holders_id_until_it_is_free() {
        let directory = std::env::temp_dir().join(format!("heddle-lock-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let lock = DataLock::acquire(&directory, "127.0.0.1:7700").unwrap();
        let refused = DataLock::acquire(&directory, "127.0.0.1:7701").unwrap_err();
        let expected = format!("pid {} address 127.0.0.1:7700", std::process::id());
        assert!(matches!(&refused, LockError::Held { holder, .. } if *holder == expected));
        assert!(refused.to_string().contains(&expected));
        drop(lock);
        let again = DataLock::acquire(&directory, "127.0.0.1:7701").unwrap();
        assert!(again.path().ends_with(LOCK_FILE));
        drop(again);
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(matches!(DataLock::acquire(&directory, ""), Err(LockError::Io { .. })));
    }
}
