//! Deleting objects by id.

use std::rc::Rc;

use heddle_core::engine::Durability;
use heddle_types::{ApiError, Retry};
use heddle_wire::message::{
    ArchivedDeleteRequest, DeleteReply, DeleteRequest, DeleteWithReply, DeleteWithRequest,
};
use heddle_wire::{Frame, access};

use super::get::by_shard;
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::server::request::RequestFrame;

pub(super) async fn answer(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<DeleteRequest>(&request.body)?;
    super::reply(request, &delete(core, message, Durability::Sync).await?)
}

pub(super) async fn answer_with(
    core: &Rc<Core>,
    request: &RequestFrame,
) -> Result<Frame, ApiError> {
    let message = access::<DeleteWithRequest>(&request.body)?;
    let durability = message.durability();
    let delete = delete(core, &message.delete, super::durability(durability)).await?;
    super::reply(request, &DeleteWithReply::new(durability, delete))
}

async fn delete(
    core: &Rc<Core>,
    message: &ArchivedDeleteRequest,
    durability: Durability,
) -> Result<DeleteReply, ApiError> {
    let route = super::route(core, &message.collection, &message.tenant)?;
    let count = message.ids().len();
    let groups = by_shard(&route, message.ids());
    let calls = groups.iter().zip(&route.shards).filter(|(group, _)| !group.is_empty());
    let calls = calls.map(|(group, (shard, home))| async move {
        let ids = group.iter().map(|(_, id)| *id).collect();
        let order = CoreRequest::Delete { shard: *shard, durability, ids };
        let reply = core.call_write(*home, order).await;
        (group, reply.and_then(|reply| expect_reply!(reply, Deleted)))
    });
    let replies = futures::future::join_all(calls).await;
    if let Some(error) = all_refused(replies.iter().map(|(_, reply)| reply)) {
        return Err(error);
    }
    let mut outcomes: Vec<Result<bool, ApiError>> = vec![Ok(false); count];
    for (group, reply) in replies {
        match reply {
            Ok(results) => {
                for ((position, _), result) in group.iter().zip(results) {
                    outcomes[*position] = result;
                }
            }
            Err(error) => {
                group.iter().for_each(|(position, _)| outcomes[*position] = Err(error.clone()));
            }
        }
    }
    let mut reply = DeleteReply::default();
    for outcome in &outcomes {
        reply.push(outcome.as_ref().copied());
    }
    Ok(reply)
}

/// The error to answer with when no shard took any of the batch: the one that leaves most open.
pub(super) fn all_refused<'a, T: 'a>(
    replies: impl Iterator<Item = &'a Result<T, ApiError>>,
) -> Option<ApiError> {
    let mut worst: Option<&ApiError> = None;
    for reply in replies {
        let error = reply.as_ref().err()?;
        if worst.is_none_or(|_| error.retry == Retry::MayHaveApplied) {
            worst = Some(error);
        }
    }
    worst.cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_types::ErrorCode;

    #[test]
    fn a_batch_is_refused_as_a_whole_only_when_no_shard_took_part_of_it() {
        let full = || Err::<(), _>(ApiError::transient(ErrorCode::DiskFull, "full"));
        let lost = || Err::<(), _>(ApiError::unknown("lost"));
        let code =
            |replies: &[Result<(), ApiError>]| all_refused(replies.iter()).map(|error| error.code);
        assert_eq!(code(&[full(), Ok(())]), None);
        assert_eq!(code(&[full(), full()]), Some(ErrorCode::DiskFull));
        assert_eq!(code(&[full(), lost(), full()]), Some(ErrorCode::Unknown));
        assert_eq!(code(&[]), None);
    }
}
