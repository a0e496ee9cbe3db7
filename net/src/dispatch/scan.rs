//! Listing objects in the order of their ids, over all shards; counting.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{Object, Want};
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_types::{ApiError, CoreIndex, ErrorCode, Filter, ObjectId, ShardId};
use heddle_wire::message::{CountReply, CountRequest, ObjectColumns, ScanReply, ScanRequest};
use heddle_wire::{Frame, access};

use super::Deadline;
use super::chunks::{ChunkSize, push_object, size_of_object};
use super::get::engine_want;
use crate::core::Core;
use crate::message::{CoreRequest, ScanPage, expect_reply};
use crate::server::request::RequestFrame;

/// Bytes at which a page ends before its limit (8 MiB).
const PAGE_BYTES: usize = 8 << 20;

/// One shard's part of the merge.
struct Cursor {
    shard: ShardId,
    home: CoreIndex,
    after: Option<ObjectId>,
    ready: VecDeque<Object>,
    // Bytes of `ready` when it was filled.
    ready_bytes: usize,
    done: bool,
    size: ChunkSize,
}

impl Cursor {
    /// Asks for more when nothing is ready.
    async fn refill(
        &mut self,
        core: &Core,
        filter: &Option<Arc<Filter>>,
        want: Want,
        left: usize,
    ) -> Result<(), ApiError> {
        if self.done || !self.ready.is_empty() {
            return Ok(());
        }
        let limit = self.size.objects().min(left);
        let page = ScanPage { after: self.after, limit, filter: filter.clone(), want };
        let order = CoreRequest::Scan { shard: self.shard, page };
        let objects = expect_reply!(core.call(self.home, order).await?, Page)?;
        self.size.observe(objects.iter());
        core.object_size.observe(want, objects.iter());
        self.ready_bytes = objects.iter().map(size_of_object).sum();
        self.done = objects.len() < limit;
        self.after = objects.last().map(|object| object.id).or(self.after);
        self.ready = objects.into();
        Ok(())
    }
}

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<ScanRequest>(&request.body)?;
    let route = super::route(core, &message.collection, &message.tenant)?;
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let want = engine_want(message.want);
    let limit = message.limit.to_native() as usize;
    if limit == 0 {
        return Err(ApiError::new(ErrorCode::InvalidArgument, "limit is 0", "at least 1"));
    }
    let expected = core.object_size.expected(&route.config, want, limit).min(PAGE_BYTES);
    request.reply.reserve(expected)?;
    let mut cursors: Vec<Cursor> = route
        .shards
        .iter()
        .map(|(shard, home)| Cursor {
            shard: *shard,
            home: *home,
            after: message.after(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            done: false,
            size: ChunkSize::new(want),
        })
        .collect();
    let mut objects = ObjectColumns::default();
    let mut last = None;
    while objects.len() < limit && objects.size_bytes() < PAGE_BYTES {
        deadline.check()?;
        let left = limit - objects.len();
        let refills = cursors.iter_mut().map(|cursor| cursor.refill(core, &filter, want, left));
        futures::future::try_join_all(refills).await?;
        let ready: usize = cursors.iter().map(|cursor| cursor.ready_bytes).sum();
        // The page itself stays small, whatever the shards have ready.
        request.reply.reserve((objects.size_bytes() + ready).min(NODE_BODY_BYTES_MAX))?;
        if !push_least(&mut cursors, limit, &mut last, |object| {
            push_object(&mut objects, &route.config, object, want);
            if objects.size_bytes() < PAGE_BYTES { objects.len() } else { limit }
        }) {
            break;
        }
    }
    let at_end = cursors.iter().all(|cursor| cursor.done && cursor.ready.is_empty());
    let next = match last {
        Some(ObjectId(id)) if !at_end => id.to_vec(),
        _ => Vec::new(),
    };
    super::reply(request, &ScanReply { objects, next })
}

/// Takes objects in the order of their ids until a cursor has to be refilled or the page is full.
/// False when nothing was left at all.
fn push_least(
    cursors: &mut [Cursor],
    limit: usize,
    last: &mut Option<ObjectId>,
    mut push: impl FnMut(&Object) -> usize,
) -> bool {
    let mut pushed = false;
    loop {
        if cursors.iter().any(|cursor| cursor.ready.is_empty() && !cursor.done) {
            return true;
        }
        let heads = cursors.iter_mut().filter(|cursor| !cursor.ready.is_empty());
        let least = heads.min_by_key(|cursor| cursor.ready.front().map(|object| object.id));
        let Some(object) = least.and_then(|cursor| cursor.ready.pop_front()) else {
            return pushed;
        };
        pushed = true;
        *last = Some(object.id);
        if push(&object) >= limit {
            return true;
        }
    }
}

pub(super) async fn count(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<CountRequest>(&request.body)?;
    let route = super::route(core, &message.collection, &message.tenant)?;
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let calls = route.shards.iter().map(|(shard, home)| {
        let order = CoreRequest::Count { shard: *shard, filter: filter.clone() };
        async move {
            deadline.check()?;
            expect_reply!(core.call(*home, order).await?, Count)
        }
    });
    let counts = futures::future::try_join_all(calls).await?;
    super::reply(request, &CountReply { count: counts.iter().sum() })
}
