//! Checkpoints: one shard's image and the superblocks that say which image counts.
//!
//! An image is a file of named sections in chunks of 256 KiB, each with a checksum of its own,
//! written front to back while the shard serves. It gets its name when it is whole and durable;
//! then two superblocks are rewritten one after the other to name it; then older images go. A crash
//! at any point leaves one whole image that a whole superblock names, or none if there was none.

mod error;
mod format;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use heddle_types::Device;

pub use error::CheckpointError;
pub use reader::ImageReader;
pub(crate) use reader::{image_file_bytes, verify_superblocks};
pub use writer::{ImageWriter, next_generation, repair_superblocks};

/// Number of a section inside an image; what it means is the caller's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionId(pub u32);

/// The two superblocks, in the order they are written.
const SUPERBLOCK_NAMES: [&str; 2] = ["superblock.0", "superblock.1"];
/// Beginning of an image's name.
const IMAGE_PREFIX: &str = "image-";
/// Ending of a name that is not an image yet.
const TEMPORARY_SUFFIX: &str = ".tmp";

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

fn is_temporary_image(name: &str) -> bool {
    let generation = name.strip_suffix(TEMPORARY_SUFFIX).and_then(image_generation);
    generation.is_some()
}

/// Removes images of other generations than `keep`, and images that were never finished; for a
/// start, after the image in use was opened (0 when there is none). Files of other kinds are left.
///
/// Errors: the device's; what is left is removed next time.
pub async fn remove_other_images<D: Device>(
    device: &D,
    directory: &str,
    keep: u64,
) -> Result<(), CheckpointError> {
    let names = device.list(directory).await?;
    let is_other = |name: &&String| {
        is_temporary_image(name) || image_generation(name).is_some_and(|own| own != keep)
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
