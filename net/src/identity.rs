//! Who this node is: the identity file in its data directory.
//!
//! The uuids are drawn when the directory is first used and never change; an empty disk under an old
//! name is therefore a new node. The boot counter is raised, durably, before anything is stamped, so
//! two runs of one node never issue the same stamp.

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
/// Folders that only a used data directory has.
const CONTENT: [&str; 4] = ["catalog.0", "catalog.1", "logs", "shards"];

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
    /// There is data without an identity: not ours to write into.
    #[error("{path} holds {found} but no {FILE}: not a Heddle data directory, or a damaged one")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What was found.
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
    for found in CONTENT {
        if data_dir.join(found).exists() {
            let path = data_dir.to_owned();
            return Err(IdentityError::Foreign { path, found: found.to_owned() });
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
    replace_file(&data_dir.join(FILE_NEW), &data_dir.join(FILE), &bytes)?;
    File::open(data_dir)?.sync_all()
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
    fn data_without_an_identity_is_refused() {
        let dir = TempDir::new("identity");
        fs::create_dir(dir.path().join("logs")).unwrap();
        let error = start(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Foreign { .. }), "{error}");
        assert!(!dir.path().join(FILE).exists());
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
