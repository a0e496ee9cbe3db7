//! Writing to shards of this node for another one.

use std::rc::Rc;

use heddle_core::engine::PutItem;
use heddle_runtime::yield_if_needed;
use heddle_types::ApiError;
use heddle_wire::message::{
    ArchivedShardDeleteRequest, ArchivedShardPutRequest, DeleteReply, PutReply, ShardDeleteReply,
    ShardPutReply,
};

use crate::core::Core;
use crate::dispatch::durability;
use crate::dispatch::put::{COPY_BYTES, columns_of, item_at, put_mode, size_of_item};
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};

/// Writes the objects of a request; each succeeds or fails by itself.
pub(super) async fn put(
    core: &Rc<Core>,
    route: &CollectionRoute,
    shard: ShardAt,
    message: &ArchivedShardPutRequest,
) -> Result<ShardPutReply, ApiError> {
    let put = &message.put;
    let columns = columns_of(route, put)?;
    let mut items: Vec<PutItem> = Vec::with_capacity(put.len());
    let mut copied = 0;
    for (position, id) in put.ids().enumerate() {
        let item = item_at(put, &columns, position, id);
        copied += size_of_item(&item);
        items.push(item);
        if copied >= COPY_BYTES {
            copied = 0;
            yield_if_needed().await;
        }
    }
    let (mode, durability) = (put_mode(put), durability(message.durability()));
    let order = CoreRequest::Put { shard: shard.id, mode, durability, items };
    let written = expect_reply!(core.write_home(shard.home, order).await?, Written)?;
    let mut reply = PutReply::default();
    for outcome in &written {
        reply.push(outcome.as_ref().map(|written| written.stamp.hlc));
    }
    Ok(ShardPutReply { put: reply })
}

/// Deletes the objects of a request.
pub(super) async fn delete(
    core: &Rc<Core>,
    shard: ShardAt,
    message: &ArchivedShardDeleteRequest,
) -> Result<ShardDeleteReply, ApiError> {
    let ids = message.ids().collect();
    let durability = durability(message.durability());
    let order = CoreRequest::Delete { shard: shard.id, durability, ids };
    let deleted = expect_reply!(core.write_home(shard.home, order).await?, Deleted)?;
    let mut reply = DeleteReply::default();
    for outcome in &deleted {
        reply.push(outcome.as_ref().copied());
    }
    Ok(ShardDeleteReply { delete: reply })
}
