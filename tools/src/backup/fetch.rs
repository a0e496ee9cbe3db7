//! Fetching a backup from a node into a directory.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use heddle_client::{Client, DamagedShards, Uuid};
use heddle_meta::manifest::{FileEntry, MANIFEST, MANIFEST_BYTES_MAX, Manifest};

use super::{make_empty, sync_directory};
use crate::failure::Failure;

/// Bytes of one read (1 MiB), and reads that are on their way at the same time.
const PART_BYTES: u32 = 1 << 20;
const PARTS_IN_FLIGHT: usize = 4;
/// Images of all shards are written before the node answers; a header can ask for little more.
const BEGIN_DEADLINE: Duration = Duration::from_secs(3_600);

/// Takes a backup and writes it; what it holds.
///
/// Errors: the directory is no backup then, and what was written stays for whoever looks.
pub(crate) async fn fetch(
    client: &Client,
    directory: &Path,
    damaged: DamagedShards,
) -> Result<Manifest, Failure> {
    make_empty(directory)?;
    let begun = client.with_deadline(BEGIN_DEADLINE).begin_backup(damaged).await?;
    let (backup, manifest_bytes) = begun;
    let fetched = fetch_files(client, backup, manifest_bytes, directory).await;
    // The node gives it up by itself later otherwise.
    let ended = client.end_backup(backup).await;
    let manifest = fetched?;
    ended?;
    Ok(manifest)
}

async fn fetch_manifest(client: &Client, backup: Uuid, bytes: u64) -> Result<Manifest, Failure> {
    if bytes > MANIFEST_BYTES_MAX {
        let text = format!("the manifest has {bytes} bytes, expected {MANIFEST_BYTES_MAX} at most");
        return Err(Failure::failed(text));
    }
    let mut whole = Vec::new();
    let mut parts = pin!(parts_of(client, backup, MANIFEST, bytes));
    while let Some(part) = parts.try_next().await? {
        whole.extend_from_slice(&part);
    }
    // It comes from another machine, and with it the names.
    let manifest = Manifest::decode(&whole);
    manifest.map_err(|error| Failure::failed(format!("the manifest of the node {error}")))
}

/// The bytes of a file in order, several reads on their way. Errors: also when one comes back with
/// other than the bytes that were asked for.
fn parts_of<'a>(
    client: &'a Client,
    backup: Uuid,
    name: &'a str,
    bytes: u64,
) -> impl Stream<Item = Result<Vec<u8>, Failure>> + 'a {
    let offsets = (0..bytes).step_by(PART_BYTES as usize);
    let reads = offsets.map(move |offset| async move {
        let wanted = u32::try_from(bytes - offset).unwrap_or(PART_BYTES).min(PART_BYTES);
        let part = client.read_backup(backup, name, offset, wanted).await?;
        if part.len() != wanted as usize {
            let found = part.len();
            let message = format!("{name}: {found} bytes at {offset}, expected {wanted}");
            return Err(Failure::failed(message));
        }
        Ok(part)
    });
    futures::stream::iter(reads).buffered(PARTS_IN_FLIGHT)
}

async fn fetch_files(
    client: &Client,
    backup: Uuid,
    manifest_bytes: u64,
    directory: &Path,
) -> Result<Manifest, Failure> {
    let mut manifest = fetch_manifest(client, backup, manifest_bytes).await?;
    for file in &mut manifest.files {
        file.crc32c = fetch_file(client, backup, file, directory).await?;
    }
    let (temporary, path) = (directory.join(format!("{MANIFEST}.tmp")), directory.join(MANIFEST));
    let written = File::create_new(&temporary).and_then(|mut out| {
        out.write_all(&manifest.encode()?)?;
        out.sync_all()?;
        std::fs::rename(&temporary, &path)
    });
    written.map_err(|error| Failure::file(&path, error))?;
    sync_directory(directory)?;
    Ok(manifest)
}

/// Writes one file and makes it durable; the checksum of its bytes.
async fn fetch_file(
    client: &Client,
    backup: Uuid,
    file: &FileEntry,
    directory: &Path,
) -> Result<u32, Failure> {
    let path = directory.join(&file.name);
    let failed = |error| Failure::file(&path, error);
    let folder = path.parent().unwrap_or(directory);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut out = File::create_new(&path).map_err(failed)?;
    let mut crc = 0;
    let mut parts = pin!(parts_of(client, backup, &file.name, file.bytes));
    while let Some(part) = parts.try_next().await? {
        crc = crc32c::crc32c_append(crc, &part);
        out.write_all(&part).map_err(failed)?;
    }
    out.sync_all().map_err(failed)?;
    sync_directory(folder)?;
    if let Some(above) = folder.parent() {
        sync_directory(above)?;
    }
    Ok(crc)
}
