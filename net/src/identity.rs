//! Who this node is: the identity file in its data directory.
//!
//! The uuids are drawn when the directory is first used and never change; an empty disk under an
//! old name is therefore a new node. The boot counter is raised, durably, before anything is
//! stamped, so two runs of one node never issue the same stamp.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use heddle_types::NodeId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Version of the data directory's layout. A directory of a higher version is refused.
pub const FORMAT_VERSION: u32 = 1;

const FILE: &str = "node.json";
const FILE_NEW: &str = "node.json.tmp";
/// What a directory may hold before its first start: the lock and the self-test of this very start,
/// an identity that a crash left unfinished, and what `mkfs` makes.
const HARMLESS: [&str; 4] = ["LOCK", "selftest.tmp", FILE_NEW, "lost+found"];

/// Identity of a node, as stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the directory's layout.
    pub format_version: u32,
    /// The node.
    pub node: NodeId,
    /// This very directory, so that a copied one can be told apart.
    pub disk: Uuid,
    /// Starts so far, this one included.
    pub boot: u32,
}

/// Why the identity could not be established. The file is as it was, or whole and new.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        #[source]
        source: io::Error,
    },
    /// The file is no identity.
    #[error("{path} is damaged: {source}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// There are files without an identity: not ours to write into.
    #[error("{path} holds {found} but no {FILE}: neither empty nor a whole Heddle data directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The first entry that does not belong there.
        found: String,
    },
    /// Written by a version that this one does not understand.
    #[error("{path} has format version {found}, this version reads up to {FORMAT_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// The part of any version's file that tells its version.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

/// Reads or draws the identity and counts this start. Durable when it returns.
///
/// The caller holds the lock of the directory. Cost: two syncs.
pub fn start(data_dir: &Path) -> Result<Identity, IdentityError> {
    let path = data_dir.join(FILE);
    let mut identity = match fs::read(&path) {
        Ok(bytes) => decode(&path, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => fresh(data_dir)?,
        Err(source) => return Err(IdentityError::Io { path, source }),
    };
    identity.boot += 1;
    store(data_dir, &identity)
        .map_err(|source| IdentityError::Io { path: data_dir.join(FILE_NEW), source })?;
    Ok(identity)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
    let damaged = |source| IdentityError::Damaged { path: path.to_owned(), source };
    let VersionOnly { format_version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format_version > FORMAT_VERSION {
        return Err(IdentityError::Version { path: path.to_owned(), found: format_version });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn fresh(data_dir: &Path) -> Result<Identity, IdentityError> {
    let path = || data_dir.to_owned();
    let refused = |source| IdentityError::Io { path: path(), source };
    for entry in fs::read_dir(data_dir).map_err(refused)? {
        let name = entry.map_err(refused)?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            let found = name.to_string_lossy().into_owned();
            return Err(IdentityError::Foreign { path: path(), found });
        }
    }
    Ok(Identity {
        format_version: FORMAT_VERSION,
        node: NodeId::random(),
        disk: Uuid::new_v4(),
        boot: 0,
    })
}

fn store(data_dir: &Path, identity: &Identity) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(identity)?;
    let (target, spare) = (data_dir.join(FILE), data_dir.join(FILE_NEW));
    overwrite(&spare, &bytes)?;
    fs::rename(&spare, target)?;
    // The next start may meet a full disk, and must be able to count itself: the file that it will
    // write has its block from now on. When even this fails, the disk is full already.
    let _ = overwrite(&spare, &bytes);
    File::open(data_dir)?.sync_all()
}

/// Writes a file in the blocks that it has; durable, but not at once.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// Writes a file so that readers see the old or the new one, whole.
pub(crate) fn replace_file(temporary: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn each_start_keeps_the_uuids_and_counts() {
        let dir = TempDir::new("identity");
        let first = start(dir.path()).unwrap();
        let second = start(dir.path()).unwrap();
        assert_eq!((first.boot, second.boot), (1, 2));
        assert_eq!(Identity { boot: 2, ..first }, second);
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused_by_the_entry_it_holds() {
        for name in ["logs", "holiday.jpg", ".bashrc"] {
            let dir = TempDir::new("identity");
            fs::create_dir(dir.path().join(name)).unwrap();
            let error = start(dir.path()).unwrap_err();
            assert!(matches!(&error, IdentityError::Foreign { found, .. } if found == name));
            assert!(error.to_string().contains(name), "{error}");
            assert!(!dir.path().join(FILE).exists());
        }
    }

    #[test]
    fn what_a_fresh_disk_or_a_broken_first_start_leaves_is_no_obstacle() {
        let dir = TempDir::new("identity");
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        for name in ["LOCK", "selftest.tmp", FILE_NEW] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        assert_eq!(start(dir.path()).unwrap().boot, 1);
    }

    #[test]
    fn a_newer_format_and_damage_are_told_apart() {
        let dir = TempDir::new("identity");
        let write = |text: &str| fs::write(dir.path().join(FILE), text).unwrap();
        write(r#"{"format_version":2,"something":"else"}"#);
        assert!(matches!(start(dir.path()), Err(IdentityError::Version { found: 2, .. })));
        write(r#"{"format_version":1,"node":"#);
        assert!(matches!(start(dir.path()), Err(IdentityError::Damaged { .. })));
    }
}
