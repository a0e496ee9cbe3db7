//! Checkpoints: one shard's image and the superblocks that say which image counts.
//!
//! An image consists of named sections in chunks of 256 KiB, each with a checksum of its own.
//! Chunks that have changed since the image before are written front to back to a new file while
//! the shard serves; the others stay in the files of images before, which never change. The file
//! gets its name when it is whole and durable; then two superblocks are rewritten one after the
//! other to name it; then files go that it does not need. A crash at any point leaves one whole
//! image that a whole superblock names, or none if there was none.

mod error;
mod format;
mod ledger;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use heddle_types::Device;

pub use error::CheckpointError;
pub use ledger::read_ledger;
pub(crate) use ledger::verify_ledger;
pub use reader::ImageReader;
pub(crate) use reader::{image_file_bytes, verify_superblocks};
pub use writer::{ImageWriter, Previous, next_generation, repair_superblocks};

/// Number of a section inside an image; what it means is the caller's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionId(pub u32);

/// The two superblocks, in the order they are written.
const SUPERBLOCK_NAMES: [&str; 2] = ["superblock.0", "superblock.1"];
/// Beginning of an image's name.
const IMAGE_PREFIX: &str = "image-";
/// Beginning of a ledger's name.
const LEDGER_PREFIX: &str = "ledger-";
/// Ending of a name that is not an image or ledger yet.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

fn image_name(generation: u64) -> String {
    format!("{IMAGE_PREFIX}{generation}")
}

/// Path of an image.
pub(crate) fn image_path(directory: &str, generation: u64) -> String {
    format!("{directory}/{}", image_name(generation))
}

/// Paths of the two superblocks.
pub(crate) fn superblock_paths(directory: &str) -> [String; 2] {
    SUPERBLOCK_NAMES.map(|name| format!("{directory}/{name}"))
}

/// The generation of an image's name; `None` for any other name.
fn image_generation(name: &str) -> Option<u64> {
    let generation = name.strip_prefix(IMAGE_PREFIX)?.parse().ok()?;
    (image_name(generation) == name).then_some(generation)
}

fn ledger_name(generation: u64) -> String {
    format!("{LEDGER_PREFIX}{generation}")
}

/// The generation of a ledger's name; `None` for any other name.
fn ledger_generation(name: &str) -> Option<u64> {
    let generation = name.strip_prefix(LEDGER_PREFIX)?.parse().ok()?;
    (ledger_name(generation) == name).then_some(generation)
}

/// Path of a ledger.
pub(crate) fn ledger_path(directory: &str, generation: u64) -> String {
    format!("{directory}/{}", ledger_name(generation))
}

fn generation_of(name: &str) -> Option<u64> {
    image_generation(name).or_else(|| ledger_generation(name))
}

fn is_temporary(name: &str) -> bool {
    name.strip_suffix(TEMPORARY_SUFFIX).and_then(generation_of).is_some()
}

/// As [`remove_unused_images`] for an image that is one file; 0 when there is none.
pub async fn remove_other_images<D: Device>(
    device: &D,
    directory: &str,
    keep: u64,
) -> Result<(), CheckpointError> {
    remove_unused_images(device, directory, &[keep]).await
}

/// Removes image files of other generations than `keep` ([`ImageReader::files`], ascending), all
/// ledgers but that of the last of these, and what was never finished; for a start, after the image
/// in use was opened. Files of other kinds are left.
///
/// Errors: the device's; what is left is removed next time.
pub async fn remove_unused_images<D: Device>(
    device: &D,
    directory: &str,
    keep: &[u64],
) -> Result<(), CheckpointError> {
    let names = device.list(directory).await?;
    let is_other = |name: &&String| {
        is_temporary(name)
            || image_generation(name).is_some_and(|own| !keep.contains(&own))
            || ledger_generation(name).is_some_and(|own| keep.last() != Some(&own))
    };
    let others: Vec<&String> = names.iter().filter(is_other).collect();
    for name in &others {
        device.remove(&format!("{directory}/{name}")).await?;
    }
    if !others.is_empty() {
        device.sync_dir(directory).await?;
    }
    Ok(())
}
