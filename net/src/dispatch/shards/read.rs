//! Reading, listing and counting shards of this node for another one.

use std::cell::Cell;

use heddle_types::{ApiError, ObjectId};
use heddle_wire::message::{
    ArchivedShardCountRequest, ArchivedShardGetRequest, ArchivedShardScanRequest, GetReply,
    ObjectColumns, ScanReply, ShardCountReply, ShardGetReply, ShardScanReply,
};

use super::Job;
use crate::dispatch::chunks::push_object;
use crate::dispatch::objects::{By, Gathering, Part, Wanted};
use crate::dispatch::scan::page_for_peer;
use crate::dispatch::{decode_filter, engine_want};
use crate::limits::PEER_REPLY_BYTES;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};

/// Reads objects until the reply is large; says what it knows of those.
pub(super) async fn get(
    job: &Job<'_>,
    route: &CollectionRoute,
    shards: &[ShardAt],
    message: &ArchivedShardGetRequest,
) -> Result<ShardGetReply, ApiError> {
    let (ids, slots) = (message.ids(), message.slots());
    let gathering = Gathering {
        core: job.core,
        config: &route.config,
        want: message.want,
        budget: &job.budget,
        deadline: job.deadline,
        bytes: Cell::new(0),
    };
    gathering.expect(ids.len())?;
    let want = engine_want(message.want);
    let mut get = GetReply::default();
    for (shard, (_, part)) in shards.iter().zip(message.parts()) {
        let wanted: Vec<Wanted> = part
            .map(|position| Wanted {
                position,
                id: ObjectId(ids[position]),
                slot: slots.get(position).copied().unwrap_or_default(),
            })
            .collect();
        let take = |_, object: Option<_>| {
            get.found.push(u8::from(object.is_some()));
            if let Some(object) = object {
                push_object(&mut get.objects, &route.config, &object, want);
            }
        };
        let by = if slots.is_empty() { By::Id } else { By::Slot };
        let part = Part { place: 0, shard: *shard, wanted: &wanted, by };
        let read = gathering.of_shard(&part, PEER_REPLY_BYTES, take).await?;
        if read < wanted.len() {
            break;
        }
    }
    Ok(ShardGetReply { get })
}

/// Lists one page of a shard.
pub(super) async fn scan(
    job: &Job<'_>,
    route: &CollectionRoute,
    shard: ShardAt,
    message: &ArchivedShardScanRequest,
) -> Result<ShardScanReply, ApiError> {
    let page = page_for_peer(job.core, route, shard, message, &job.budget, job.deadline);
    let (objects, may_be_more): (ObjectColumns, bool) = page.await?;
    let next = match objects.ids.last_chunk::<16>() {
        Some(last) if may_be_more => last.to_vec(),
        _ => Vec::new(),
    };
    Ok(ShardScanReply { scan: ScanReply { objects, next } })
}

/// Counts the objects of each shard.
pub(super) async fn count(
    job: &Job<'_>,
    route: &CollectionRoute,
    shards: &[ShardAt],
    message: &ArchivedShardCountRequest,
) -> Result<ShardCountReply, ApiError> {
    let filter = decode_filter(&route.config, &message.filter)?;
    let calls = shards.iter().map(|shard| {
        let order = CoreRequest::Count { shard: shard.id, filter: filter.clone() };
        async move {
            job.deadline.check()?;
            expect_reply!(job.core.call_home(shard.home, order).await?, Count)
        }
    });
    Ok(ShardCountReply { counts: futures::future::try_join_all(calls).await? })
}
