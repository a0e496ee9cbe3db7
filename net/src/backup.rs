//! Taking a backup while the node serves, and handing its files out.
//!
//! The meta core fixes which collections are meant, every home core puts its shards into a folder
//! under the data directory, and a client fetches the files from there. There is one backup at a
//! time: a new one takes the place of one that was given up, one that nobody reads ends by itself,
//! and the next start removes what is left. Only the meta core opens and removes these files, so
//! that a file never goes while another core opens it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::lock::{Mutex, MutexGuard};
use heddle_core::engine::{BackupFile, BackupPart, SpaceLevel};
use heddle_meta::manifest::{FORMAT_VERSION, MANIFEST, MANIFEST_BYTES_MAX};
use heddle_meta::{Catalog, FileEntry, Manifest, MissingShard};
use heddle_runtime::{GlommioDevice, sleep};
use heddle_types::backup::is_backup_name;
use heddle_types::limits::PAGE_SIZE_BYTES;
use heddle_types::{
    AlignedBuf, ApiError, Clock, CoreIndex, Device, DeviceError, DeviceFile, ErrorCode, OpenMode,
    ShardId,
};
use uuid::Uuid;

use crate::core::Core;
use crate::message::{CoreAnswer, CoreReply, CoreRequest, expect_reply};
use crate::meta::shard_directory;
use crate::metrics::BackupReport;

/// Folder of backups under the data directory.
pub(crate) const BACKUPS: &str = "backups";
/// How often it is looked whether somebody still reads.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What a backup does about shards that are damaged and not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Damaged {
    /// It is refused.
    Refuse,
    /// It goes on without them and names them.
    LeaveOut,
}

/// A backup that is complete and waits to be fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) backup: Uuid,
    /// Bytes of its manifest, which is read like its files.
    pub(crate) manifest_bytes: u64,
}

/// A part of a file that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) backup: Uuid,
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What the cores put together for a backup.
pub(crate) struct Taken {
    backup: Uuid,
    files: Vec<BackupFile>,
    missing: Vec<(ShardId, String)>,
    dropped: Vec<ShardId>,
}

/// The backup of a node, on its meta core.
pub(crate) struct Backups {
    core: Rc<Core>,
    running: RefCell<Option<Running>>,
    // Held while one is taken: the next one removes its files.
    turn: Mutex<()>,
    // One device for all of it: names change only while none of its files is being opened.
    device: RefCell<Option<GlommioDevice>>,
}

/// A backup whose files wait.
struct Running {
    backup: Uuid,
    report: BackupReport,
    used_ns: u64,
}

/// Folder of a backup.
fn folder_of(backup: Uuid) -> String {
    format!("{BACKUPS}/{backup}")
}

fn refused(error: &DeviceError) -> ApiError {
    match error {
        DeviceError::NoSpace { .. } => ApiError::transient(ErrorCode::DiskFull, error.to_string()),
        _ => ApiError::internal(format!("backup: {error}")),
    }
}

impl Backups {
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        Self {
            core: Rc::clone(core),
            running: RefCell::default(),
            turn: Mutex::new(()),
            device: RefCell::default(),
        }
    }

    fn device(&self) -> Result<GlommioDevice, ApiError> {
        let mut device = self.device.borrow_mut();
        if let Some(device) = &*device {
            return Ok(device.clone());
        }
        let made = GlommioDevice::new(&self.core.node.config.data_dir);
        let made = made.map_err(|error| refused(&error))?;
        Ok(device.insert(made).clone())
    }

    /// Waits for the backup that is being taken, if there is one.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Errors: `DiskFull` on a disk that takes no new objects: what a backup keeps from being
    /// removed would fill it up.
    pub(crate) fn check_space(&self) -> Result<(), ApiError> {
        let level = self.core.node.space();
        if level < SpaceLevel::NoInserts {
            return Ok(());
        }
        let level = level.name();
        let message = format!("the disk is at level {level}: a backup would keep space in use");
        Err(ApiError::transient(ErrorCode::DiskFull, message))
    }

    /// Puts the shards of a catalog into a folder. Shards that are dropped meanwhile are named.
    ///
    /// Errors: `Corrupt` when shards are damaged and not to be left out, and those of the cores;
    /// nothing is left then.
    pub(crate) async fn take(
        &self,
        catalog: &Catalog,
        damaged: Damaged,
    ) -> Result<Taken, ApiError> {
        let mut homes = BTreeMap::<CoreIndex, Vec<ShardId>>::new();
        for (_, shard) in catalog.shards() {
            // A node that takes backups is alone: it has the only replica.
            homes.entry(shard.first().home as usize).or_default().push(shard.id);
        }
        // Before any image is written.
        let missing = self.find_damaged(&homes).await?;
        if damaged == Damaged::Refuse && !missing.is_empty() {
            return Err(refuse_damaged(catalog, &missing));
        }
        let left_out: BTreeSet<ShardId> = missing.iter().map(|(shard, _)| *shard).collect();
        homes.values_mut().for_each(|shards| shards.retain(|shard| !left_out.contains(shard)));
        let backup = Uuid::new_v4();
        self.running.take();
        let device = self.device()?;
        let taken = match self.fill(&device, &folder_of(backup), homes).await {
            Ok(part) => part,
            Err(error) => {
                self.clear(&device).await;
                return Err(error);
            }
        };
        let BackupPart { files, dropped } = taken;
        Ok(Taken { backup, files, missing, dropped })
    }

    /// The shards that are damaged and not served, each with the reason.
    async fn find_damaged(
        &self,
        homes: &BTreeMap<CoreIndex, Vec<ShardId>>,
    ) -> Result<Vec<(ShardId, String)>, ApiError> {
        let mut damaged = Vec::new();
        for (home, shards) in homes {
            let request = CoreRequest::FindDamaged(shards.clone());
            damaged.extend(expect_reply!(self.core.call(*home, request).await?, Damaged)?);
        }
        Ok(damaged)
    }

    async fn fill(
        &self,
        device: &GlommioDevice,
        folder: &str,
        homes: BTreeMap<CoreIndex, Vec<ShardId>>,
    ) -> Result<BackupPart, ApiError> {
        let made = async {
            device.remove_tree(BACKUPS).await?;
            device.create_dir(folder).await?;
            device.sync_dir(BACKUPS).await
        };
        made.await.map_err(|error| refused(&error))?;
        let calls = homes.into_iter().map(|(home, shards)| {
            let request = CoreRequest::BackUp { folder: folder.to_owned(), shards };
            async move { expect_reply!(self.core.call(home, request).await?, BackedUp) }
        });
        // All of them end before the folder goes.
        let answers: Vec<Result<BackupPart, ApiError>> = futures::future::join_all(calls).await;
        let mut all = BackupPart::default();
        for answer in answers {
            let part = answer?;
            all.files.extend(part.files);
            all.dropped.extend(part.dropped);
        }
        Ok(all)
    }

    /// Writes the manifest of what was taken, for a catalog of now; from then on it can be read.
    ///
    /// Collections of `catalog` that were dropped since are left out. Errors: `Unavailable` when a
    /// shard of another one was not there; the files are gone then.
    pub(crate) async fn complete(&self, taken: Taken, catalog: Catalog) -> Result<Begun, ApiError> {
        let backup = taken.backup;
        let device = self.device()?;
        let completed = match self.describe(taken, catalog) {
            Ok(manifest) => self.write_manifest(&device, backup, &manifest).await,
            Err(error) => Err(error),
        };
        if completed.is_err() {
            self.clear(&device).await;
        }
        completed
    }

    fn describe(&self, taken: Taken, catalog: Catalog) -> Result<Manifest, ApiError> {
        let names: BTreeMap<ShardId, String> =
            catalog.shards().map(|(entry, shard)| (shard.id, entry.config.name.clone())).collect();
        if let Some(shard) = taken.dropped.iter().find(|shard| names.contains_key(shard)) {
            let message = format!("shard {shard} was not served while the backup was taken");
            return Err(ApiError::transient(ErrorCode::Unavailable, message));
        }
        let is_known = |file: &BackupFile| {
            let shard = file.name.strip_prefix("shards/").and_then(|rest| rest.split('/').next());
            let shard = shard.and_then(|number| number.parse().ok()).map(ShardId);
            shard.is_none_or(|shard| names.contains_key(&shard))
        };
        // Whoever fetches them adds the checksums.
        let describe =
            |BackupFile { name, bytes, length }| FileEntry { name, bytes, length, crc32c: 0 };
        let missing = taken.missing.into_iter().filter_map(|(shard, reason)| {
            let collection = names.get(&shard)?.clone();
            Some(MissingShard { shard, collection, reason })
        });
        Ok(Manifest {
            format_version: FORMAT_VERSION,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.core.node.identity.node,
            taken_us: self.core.clock.unix_us(),
            data_cores: self.core.data_cores as u32,
            missing: missing.collect(),
            catalog,
            files: taken.files.into_iter().filter(is_known).map(describe).collect(),
        })
    }

    async fn write_manifest(
        &self,
        device: &GlommioDevice,
        backup: Uuid,
        manifest: &Manifest,
    ) -> Result<Begun, ApiError> {
        let bytes = manifest.encode();
        let bytes = bytes.map_err(|error| ApiError::internal(format!("backup: {error}")))?;
        let manifest_bytes = bytes.len() as u64;
        check_manifest_bytes(manifest_bytes)?;
        let path = format!("{}/{MANIFEST}", folder_of(backup));
        let written = async {
            let file = device.open(&path, OpenMode::CreateNew).await?;
            file.write_at(0, AlignedBuf::from_slice(&bytes)).await?;
            file.close().await
        };
        written.await.map_err(|error| refused(&error))?;
        let report = BackupReport {
            backup,
            taken_us: manifest.taken_us,
            files: manifest.files.len(),
            bytes: manifest.bytes(),
            read_bytes: 0,
            idle_s: 0,
        };
        let used_ns = self.core.clock.monotonic_ns();
        self.running.replace(Some(Running { backup, report, used_ns }));
        let missing = manifest.missing.len();
        tracing::info!(%backup, files = manifest.files.len(), missing, "backup taken");
        Ok(Begun { backup, manifest_bytes })
    }

    async fn clear(&self, device: &GlommioDevice) {
        if let Err(left) = device.remove_tree(BACKUPS).await {
            tracing::warn!(error = %left, "files of a failed backup are left");
        }
    }

    /// Notes that somebody reads a backup. Errors: `InvalidArgument` when it is none.
    fn touch(&self, part: &Part, bytes: u64) -> Result<(), ApiError> {
        let mut running = self.running.borrow_mut();
        let running = running.as_mut().filter(|running| running.backup == part.backup);
        let Some(running) = running else { return Err(unknown(part)) };
        running.used_ns = self.core.clock.monotonic_ns();
        running.report.read_bytes += bytes;
        Ok(())
    }

    /// Reads a part of a file of the backup.
    pub(crate) async fn read(&self, part: &Part) -> CoreAnswer {
        self.touch(part, 0)?;
        if part.name != MANIFEST && !is_backup_name(&part.name) {
            return Err(unknown(part));
        }
        let path = format!("{}/{}", folder_of(part.backup), part.name);
        let file = match self.device()?.open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(DeviceError::NotFound { .. }) => return Err(unknown(part)),
            Err(error) => return Err(refused(&error)),
        };
        let bytes = read_part(&file, part.offset, part.length).await;
        let bytes = bytes.map_err(|error| refused(&error))?;
        file.close().await.map_err(|error| refused(&error))?;
        self.touch(part, bytes.len() as u64)?;
        Ok(CoreReply::BackupBytes(bytes))
    }

    /// Gives a backup up; one that is gone already is fine.
    pub(crate) async fn end(&self, backup: Uuid) -> CoreAnswer {
        self.running.borrow_mut().take_if(|running| running.backup == backup);
        let removed = self.device()?.remove_tree(&folder_of(backup)).await;
        removed.map_err(|error| refused(&error))?;
        Ok(CoreReply::Done)
    }

    /// The backup whose files wait.
    pub(crate) fn report(&self) -> Option<BackupReport> {
        let now_ns = self.core.clock.monotonic_ns();
        let running = self.running.borrow();
        let running = running.as_ref()?;
        let idle_s = now_ns.saturating_sub(running.used_ns) / 1_000_000_000;
        Some(BackupReport { idle_s, ..running.report.clone() })
    }

    /// Ends a backup that nobody has read for too long.
    async fn end_if_idle(&self) {
        let limit_s = self.core.node.config.backup_idle_s;
        let Some(report) = self.report().filter(|report| report.idle_s >= limit_s) else { return };
        let (backup, idle_s) = (report.backup, report.idle_s);
        tracing::warn!(%backup, idle_s, "nobody reads the backup: it is given up");
        if let Err(error) = self.end(backup).await {
            tracing::warn!(%backup, %error, "files of a backup are left");
        }
    }

    /// Looks after the backup, on the meta core, as long as the node runs.
    pub(crate) async fn watch(&self) {
        loop {
            sleep(WATCH_INTERVAL).await;
            self.end_if_idle().await;
        }
    }
}

/// A manifest above what restore reads would be found out when it is too late.
fn check_manifest_bytes(bytes: u64) -> Result<(), ApiError> {
    if bytes <= MANIFEST_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the manifest of the backup has {bytes} bytes");
    let expected = format!("at most {MANIFEST_BYTES_MAX}: fewer files");
    Err(ApiError::new(ErrorCode::TooLarge, message, expected))
}

fn refuse_damaged(catalog: &Catalog, missing: &[(ShardId, String)]) -> ApiError {
    let name_of = |wanted: ShardId| {
        let found = catalog.shards().find(|(_, shard)| shard.id == wanted);
        found.map_or("", |(entry, _)| entry.config.name.as_str())
    };
    let lines = missing.iter().map(|(shard, reason)| format!("{}: {reason}", name_of(*shard)));
    let lines: Vec<String> = lines.collect();
    let message = format!("damaged shards cannot be backed up: {}", lines.join("; "));
    ApiError::new(ErrorCode::Corrupt, message, "a backup that leaves them out, if that is wanted")
}

fn unknown(part: &Part) -> ApiError {
    let text = format!("backup {} holds no file {:?}", part.backup, part.name);
    ApiError::new(ErrorCode::InvalidArgument, text, "a backup that was not given up")
}

/// A home core's part.
pub(crate) async fn of_core(core: &Core, folder: &str, shards: &[ShardId]) -> CoreAnswer {
    let engine = core.engine()?;
    let directory_of = |shard| Some(shard_directory(shard));
    Ok(CoreReply::BackedUp(engine.back_up_with(folder, shards, directory_of).await?))
}

/// Up to `wanted` bytes of a file, which consists of whole pages.
async fn read_part<F: DeviceFile>(
    file: &F,
    offset: u64,
    wanted: u64,
) -> Result<Vec<u8>, DeviceError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_restore_would_not_read_is_refused() {
        assert_eq!(check_manifest_bytes(MANIFEST_BYTES_MAX), Ok(()));
        let refused = check_manifest_bytes(MANIFEST_BYTES_MAX + 1).unwrap_err();
        assert_eq!(refused.code, ErrorCode::TooLarge);
    }
}
