//! Deleting objects by id.

use std::rc::Rc;

use heddle_core::engine::Durability;
use heddle_types::{ApiError, Retry, Stamp};
use heddle_wire::message::{
    ArchivedDeleteRequest, DeleteAtReply, DeleteAtRequest, DeleteReply, DeleteRequest,
    DeleteWithReply, DeleteWithRequest, ShardDeleteReply, ShardDeleteRequest,
};
use heddle_wire::{Frame, access};

use super::Deadline;
use super::get::by_shard;
use super::objects::Wanted;
use super::remote::{self, Party};
use super::replicas::{ConditionalChange, ConditionalItem, Coordination, Stamped};
use super::terms::Terms;
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
    let terms = Terms::plain(Durability::Sync);
    let outcomes = delete(core, request, message, &terms, deadline).await?;
    super::reply(request, &plain_reply(&outcomes))
}

pub(super) async fn answer_with(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<DeleteWithRequest>(&request.body)?;
    let durability = message.durability();
    let asked = super::durability(durability);
    let outcomes = delete(core, request, &message.delete, &Terms::plain(asked), deadline).await?;
    super::reply(request, &DeleteWithReply::new(durability, plain_reply(&outcomes)))
}

pub(super) async fn answer_at(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<DeleteAtRequest>(&request.body)?;
    let terms = Terms::of(core, &message.terms)?;
    let outcomes = delete(core, request, &message.delete, &terms, deadline).await?;
    let mut reply = DeleteAtReply::default();
    outcomes.iter().for_each(|outcome| reply.push(outcome.as_ref().copied()));
    super::reply(request, &reply)
}

fn plain_reply(outcomes: &[Stamped]) -> DeleteReply {
    let mut reply = DeleteReply::default();
    let existed = outcomes.iter().map(|outcome| outcome.as_ref().map(|(_, existed)| *existed));
    existed.for_each(|outcome| reply.push(outcome));
    reply
}

async fn delete(
    core: &Rc<Core>,
    request: &RequestFrame,
    message: &ArchivedDeleteRequest,
    terms: &Terms,
    deadline: Deadline<'_>,
) -> Result<Vec<Stamped>, ApiError> {
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let count = message.ids().len();
    let groups = by_shard(&route, message.ids());
    if terms.are_coordinated(&route) {
        let coordination = Coordination { core, route: &route, terms, deadline };
        return coordinate(&coordination, &groups, count).await;
    }
    let durability = terms.durability;
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
    let replies = replies.into_iter().map(|(group, reply)| {
        // The home core does not tell its stamp.
        let stamped = |results: Vec<Result<bool, ApiError>>| {
            results.into_iter().map(|it| it.map(|existed| (Stamp::default(), existed))).collect()
        };
        (group, reply.map(stamped))
    });
    Ok(gather(count, replies))
}

/// Deletes from shards that are coordinated.
async fn coordinate(
    coordination: &Coordination<'_>,
    groups: &[Vec<Wanted>],
    count: usize,
) -> Result<Vec<Stamped>, ApiError> {
    let groups = groups.iter().enumerate();
    let calls = groups.filter(|(_, group)| !group.is_empty()).map(|(place, group)| {
        let items = group.iter().map(|wanted| ConditionalItem {
            condition: coordination.terms.condition(wanted.position),
            id: wanted.id,
            change: ConditionalChange::Delete,
        });
        let items: Vec<ConditionalItem> = items.collect();
        async move { (group, coordination.shard(place, items).await) }
    });
    let replies = futures::future::join_all(calls).await;
    if let Some(error) = all_refused(replies.iter().map(|(_, reply)| reply)) {
        return Err(error);
    }
    Ok(gather(count, replies.into_iter()))
}

/// The outcomes of all shards in the order of the request.
fn gather<'a>(
    count: usize,
    replies: impl Iterator<Item = (&'a Vec<Wanted>, Result<Vec<Stamped>, ApiError>)>,
) -> Vec<Stamped> {
    let missing = || Err(ApiError::internal("a shard did not answer for each object"));
    let mut outcomes: Vec<Stamped> = (0..count).map(|_| missing()).collect();
    for (group, reply) in replies {
        let results = match reply {
            Ok(results) => results,
            Err(error) => group.iter().map(|_| Err(error.clone())).collect(),
        };
        for (wanted, result) in group.iter().zip(results) {
            outcomes[wanted.position] = result;
        }
    }
    outcomes
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
