//! Requests for backups: the meta core does the work.

use std::rc::Rc;

use heddle_types::{ApiError, ErrorCode};
use heddle_wire::message::{
    BackupBeginReply, BackupBeginRequest, BackupEndReply, BackupEndRequest, BackupReadReply,
    BackupReadRequest,
};
use heddle_wire::{Frame, access};
use uuid::Uuid;

use crate::backup::{Damaged, Part};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::server::request::RequestFrame;

fn backup_id(bytes: &[u8]) -> Result<Uuid, ApiError> {
    Uuid::from_slice(bytes).map_err(|error| {
        ApiError::new(ErrorCode::InvalidArgument, error.to_string(), "16 bytes of a backup's id")
    })
}

/// Answers a request for a backup.
pub(super) async fn begin(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<BackupBeginRequest>(&request.body)?;
    let damaged = if message.damaged == 0 { Damaged::Refuse } else { Damaged::LeaveOut };
    let reply = core.call(core.meta_index(), CoreRequest::BeginBackup(damaged)).await?;
    let begun = expect_reply!(reply, Backup)?;
    let json = format!("{{\"manifest_bytes\":{}}}", begun.manifest_bytes);
    super::reply(request, &BackupBeginReply { backup: begun.backup.as_bytes().to_vec(), json })
}

/// Answers a read of a file of a backup.
pub(super) async fn read(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<BackupReadRequest>(&request.body)?;
    let part = Part {
        backup: backup_id(&message.backup)?,
        name: message.name.as_str().to_owned(),
        offset: message.offset.to_native(),
        length: u64::from(message.length.to_native()),
    };
    request.reply.reserve(message.length.to_native() as usize)?;
    let answer = core.call(core.meta_index(), CoreRequest::ReadBackup(part)).await?;
    let bytes = expect_reply!(answer, BackupBytes)?;
    super::reply(request, &BackupReadReply { bytes })
}

/// Answers the end of a backup.
pub(super) async fn end(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<BackupEndRequest>(&request.body)?;
    let backup = backup_id(&message.backup)?;
    core.call(core.meta_index(), CoreRequest::EndBackup(backup)).await?;
    super::reply(request, &BackupEndReply::default())
}
