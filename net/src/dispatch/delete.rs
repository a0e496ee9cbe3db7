//! Deleting objects by id.

use std::rc::Rc;

use heddle_core::engine::Durability;
use heddle_types::{ApiError, Retry};
use heddle_wire::message::{
    ArchivedDeleteRequest, DeleteReply, DeleteRequest, DeleteWithReply, DeleteWithRequest,
    ShardDeleteReply, ShardDeleteRequest,
};
use heddle_wire::{Frame, access};

use super::Deadline;
use super::get::by_shard;
use super::objects::Wanted;
use super::remote::{self, Party};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};
use crate::server::request::RequestFrame;

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<DeleteRequest>(&request.body)?;
    super::reply(request, &delete(core, request, message, Durability::Sync, deadline).await?)
}

pub(super) async fn answer_with(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<DeleteWithRequest>(&request.body)?;
    let durability = message.durability();
    let asked = super::durability(durability);
    let delete = delete(core, request, &message.delete, asked, deadline).await?;
    super::reply(request, &DeleteWithReply::new(durability, delete))
}

async fn delete(
    core: &Rc<Core>,
    request: &RequestFrame,
    message: &ArchivedDeleteRequest,
    durability: Durability,
    deadline: Deadline<'_>,
) -> Result<DeleteReply, ApiError> {
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let count = message.ids().len();
    let groups = by_shard(&route, message.ids());
    let calls = groups.iter().zip(&route.firsts).filter(|(group, _)| !group.is_empty());
    let route = &*route;
    let calls = calls.map(|(group, shard)| async move {
        let outcomes = if shard.is_here {
            let ids = group.iter().map(|wanted| wanted.id).collect();
            let order = CoreRequest::Delete { shard: shard.id, durability, ids };
            let reply = core.write_home(shard.home, order).await;
            reply.and_then(|reply| expect_reply!(reply, Deleted))
        } else {
            Box::pin(delete_there(core, route, shard, durability, group, deadline)).await
        };
        (group, outcomes)
    });
    let replies = futures::future::join_all(calls).await;
    if let Some(error) = all_refused(replies.iter().map(|(_, reply)| reply)) {
        return Err(error);
    }
    let mut outcomes: Vec<Result<bool, ApiError>> = vec![Ok(false); count];
    for (group, reply) in replies {
        match reply {
            Ok(results) => {
                for (wanted, result) in group.iter().zip(results) {
                    outcomes[wanted.position] = result;
                }
            }
            Err(error) => {
                group.iter().for_each(|wanted| outcomes[wanted.position] = Err(error.clone()));
            }
        }
    }
    let mut reply = DeleteReply::default();
    for outcome in &outcomes {
        reply.push(outcome.as_ref().copied());
    }
    Ok(reply)
}

/// Deletes objects of a shard of another node.
async fn delete_there(
    core: &Core,
    route: &CollectionRoute,
    shard: &ShardAt,
    durability: Durability,
    group: &[Wanted],
    deadline: Deadline<'_>,
) -> Result<Vec<Result<bool, ApiError>>, ApiError> {
    let message = ShardDeleteRequest {
        head: remote::head(core, route),
        shard: shard.id.0,
        durability: super::wire_durability(durability) as u8,
        ids: group.iter().flat_map(|wanted| wanted.id.0).collect(),
    };
    let reply = remote::write(core, Party::home_of(shard), &message, deadline).await?;
    // Whatever is wrong with the answer, the other node has worked on the request.
    let decoded = reply.decode::<ShardDeleteReply>();
    let delete = decoded.map_err(|error| ApiError::unknown(error.message))?.delete;
    if delete.outcomes.len() != group.len() {
        return Err(ApiError::unknown(reply.broken("not one outcome an object").message));
    }
    Ok(delete.into_results())
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
