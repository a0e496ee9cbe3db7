//! Taking a backup while the node serves, and handing its files out.
//!
//! The meta core holds the catalog still, every home core puts its shards into a folder under the
//! data directory, and a client fetches the files from there. There is one backup at a time: a new
//! one takes the place of one that was given up, and the next start removes what is left.

use std::rc::Rc;

use heddle_core::engine::BackupFile;
use heddle_meta::manifest::FORMAT_VERSION;
use heddle_meta::{Catalog, FileEntry, Manifest};
use heddle_runtime::GlommioDevice;
use heddle_types::backup::is_backup_name;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{
    ApiError, Clock, CoreIndex, Device, DeviceError, DeviceFile, ErrorCode, OpenMode, ShardId,
};
use heddle_wire::message::{
    BackupBeginReply, BackupBeginRequest, BackupEndReply, BackupEndRequest, BackupReadReply,
    BackupReadRequest,
};
use heddle_wire::{Frame, access};
use uuid::Uuid;

use crate::core::Core;
use crate::dispatch;
use crate::message::{CoreAnswer, CoreReply, CoreRequest, expect_reply};
use crate::server::request::RequestFrame;

/// Folder of backups under the data directory.
pub(crate) const BACKUPS: &str = "backups";
/// Folder of a backup.
fn folder_of(backup: Uuid) -> String {
    format!("{BACKUPS}/{backup}")
}

fn device(core: &Core) -> Result<GlommioDevice, ApiError> {
    GlommioDevice::new(&core.node.config.data_dir).map_err(|error| refused(&error))
}

fn refused(error: &DeviceError) -> ApiError {
    match error {
        DeviceError::NoSpace { .. } => ApiError::transient(ErrorCode::DiskFull, error.to_string()),
        _ => ApiError::internal(format!("backup: {error}")),
    }
}

fn backup_id(bytes: &[u8]) -> Result<Uuid, ApiError> {
    Uuid::from_slice(bytes).map_err(|error| {
        ApiError::new(ErrorCode::InvalidArgument, error.to_string(), "16 bytes of a backup's id")
    })
}

/// Takes a backup of these shards, by home core. The caller holds the catalog still.
pub(crate) async fn take(
    core: &Rc<Core>,
    catalog: Catalog,
    shards: Vec<(CoreIndex, Vec<ShardId>)>,
) -> Result<(Uuid, Manifest), ApiError> {
    let device = device(core)?;
    let backup = Uuid::new_v4();
    let folder = folder_of(backup);
    let made = async {
        device.remove_tree(BACKUPS).await?;
        device.create_dir(&folder).await?;
        device.sync_dir(BACKUPS).await
    };
    made.await.map_err(|error| refused(&error))?;
    let calls = shards.into_iter().map(|(home, shards)| {
        let request = CoreRequest::BackUp { folder: folder.clone(), shards };
        async move { expect_reply!(core.call(home, request).await?, BackedUp) }
    });
    // All of them end before the folder goes.
    let answers: Vec<Result<Vec<BackupFile>, ApiError>> = futures::future::join_all(calls).await;
    let mut files = Vec::new();
    for answer in answers {
        match answer {
            Ok(some) => files.extend(some),
            Err(error) => {
                if let Err(left) = device.remove_tree(BACKUPS).await {
                    tracing::warn!(error = %left, "files of a failed backup are left");
                }
                return Err(error);
            }
        }
    }
    // Whoever fetches them adds the checksums.
    let describe =
        |BackupFile { name, bytes, length }| FileEntry { name, bytes, length, crc32c: 0 };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        node: core.node.identity.node,
        taken_us: core.clock.unix_us(),
        data_cores: core.data_cores as u32,
        catalog,
        files: files.into_iter().map(describe).collect(),
    };
    tracing::info!(%backup, files = manifest.files.len(), "backup taken");
    Ok((backup, manifest))
}

/// A home core's part.
pub(crate) async fn of_core(core: &Core, folder: &str, shards: &[ShardId]) -> CoreAnswer {
    let engine = core.engine()?;
    Ok(CoreReply::BackedUp(engine.back_up(folder, shards).await?))
}

/// Answers a request for a backup.
pub(crate) async fn begin(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    access::<BackupBeginRequest>(&request.body)?;
    let reply = core.call(core.meta_index(), CoreRequest::BeginBackup).await?;
    let (backup, manifest) = *expect_reply!(reply, Backup)?;
    let json = serde_json::to_string(&manifest)
        .map_err(|error| ApiError::internal(format!("backup: {error}")))?;
    dispatch::reply(request, &BackupBeginReply { backup: backup.as_bytes().to_vec(), json })
}

/// Answers a read of a file of a backup.
pub(crate) async fn read(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<BackupReadRequest>(&request.body)?;
    let backup = backup_id(&message.backup)?;
    let name = message.name.as_str();
    let unknown = || {
        let text = format!("backup {backup} holds no file {name:?}");
        ApiError::new(ErrorCode::InvalidArgument, text, "a backup that was not given up")
    };
    if !is_backup_name(name) {
        return Err(unknown());
    }
    let path = format!("{}/{name}", folder_of(backup));
    let file = match device(core)?.open(&path, OpenMode::Read).await {
        Ok(file) => file,
        Err(DeviceError::NotFound { .. }) => return Err(unknown()),
        Err(error) => return Err(refused(&error)),
    };
    let (offset, wanted) = (message.offset.to_native(), u64::from(message.length.to_native()));
    request.reply.reserve(wanted as usize)?;
    let bytes = part(&file, offset, wanted).await.map_err(|error| refused(&error))?;
    file.close().await.map_err(|error| refused(&error))?;
    dispatch::reply(request, &BackupReadReply { bytes })
}

/// Up to `wanted` bytes of a file, which consists of whole pages.
async fn part<F: DeviceFile>(file: &F, offset: u64, wanted: u64) -> Result<Vec<u8>, DeviceError> {
    let page = PAGE_SIZE_BYTES as u64;
    let end = file.length().await?.min(offset.saturating_add(wanted));
    if offset >= end {
        return Ok(Vec::new());
    }
    let first = offset - offset % page;
    let in_memory = |bytes: u64| usize::try_from(bytes).expect("a part is a few MiB");
    let pages = file.read_at(first, in_memory(end.next_multiple_of(page) - first)).await?;
    Ok(pages[in_memory(offset - first)..in_memory(end - first)].to_vec())
}

/// Answers the end of a backup.
pub(crate) async fn end(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<BackupEndRequest>(&request.body)?;
    let folder = folder_of(backup_id(&message.backup)?);
    device(core)?.remove_tree(&folder).await.map_err(|error| refused(&error))?;
    dispatch::reply(request, &BackupEndReply::default())
}
