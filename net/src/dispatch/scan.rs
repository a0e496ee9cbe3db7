//! Listing objects in the order of their ids, over all shards.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{Object, Want};
use heddle_types::limits::NODE_BODY_BYTES_MAX;
use heddle_types::{ApiError, Consistency, ErrorCode, Filter, ObjectId};
use heddle_wire::message::{
    ArchivedScanRequest, ArchivedShardScanRequest, ObjectColumns, ScanAtReply, ScanAtRequest,
    ScanReply, ScanRequest, ShardScanReply, ShardScanRequest,
};
use heddle_wire::{Frame, access};

use super::chunks::{ChunkSize, push_object, size_of_object};
use super::objects::{owned_objects, wire_want};
use super::remote::{self, Party};
use super::replicas::Selection;
use super::{Deadline, engine_want};
use crate::core::Core;
use crate::message::{CoreRequest, ScanPage, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};
use crate::server::request::{ReplyBudget, RequestFrame};

/// Bytes at which a page ends before its limit (8 MiB).
const PAGE_BYTES: usize = 8 << 20;
/// Bytes at which a page for another node ends before its limit: what a cursor should have ready
/// (1 MiB).
const PEER_PAGE_BYTES: usize = 1 << 20;

/// One shard's part of the merge.
struct Cursor {
    /// Position of its shard in the route.
    place: usize,
    after: Option<ObjectId>,
    ready: VecDeque<Object>,
    // Bytes of `ready` when it was filled.
    ready_bytes: usize,
    done: bool,
    size: ChunkSize,
}

impl Cursor {
    fn new(place: usize, after: Option<ObjectId>, want: Want) -> Self {
        Self {
            place,
            after,
            ready: VecDeque::new(),
            ready_bytes: 0,
            done: false,
            size: ChunkSize::new(want),
        }
    }

    /// Asks for more when nothing is ready.
    async fn refill(&mut self, listing: &Listing<'_>, left: usize) -> Result<(), ApiError> {
        if self.done || !self.ready.is_empty() {
            return Ok(());
        }
        let objects = loop {
            let shard = listing.places.at(self.place);
            if shard.is_here {
                let limit = self.size.objects().min(left);
                let objects = listing.page(&shard, self.after, limit).await?;
                self.done = objects.len() < limit;
                break objects;
            }
            match Box::pin(listing.page_there(&shard, self.after, left)).await {
                Ok((objects, done)) => {
                    self.done = done;
                    break objects;
                }
                Err(error) => listing.places.leave(&shard, self.place, error)?,
            }
        };
        self.size.observe(objects.iter());
        listing.core.object_size.observe(listing.want, objects.iter());
        self.ready_bytes = objects.iter().map(size_of_object).sum();
        self.after = objects.last().map(|object| object.id).or(self.after);
        self.ready = objects.into();
        Ok(())
    }
}

/// What a scan lists.
struct Listing<'a> {
    core: &'a Core,
    places: Places<'a>,
    route: &'a CollectionRoute,
    filter: Option<Arc<Filter>>,
    /// The filter as it came.
    filter_bytes: &'a [u8],
    want: Want,
    deadline: Deadline<'a>,
}

/// Where the shards of a scan are read.
enum Places<'a> {
    /// At one replica each, and at another one when that fails.
    Selected(Selection<'a>),
    /// Here, because another node asks for it.
    Here(ShardAt),
}

impl Places<'_> {
    fn at(&self, place: usize) -> ShardAt {
        match self {
            Self::Selected(selection) => selection.at(place),
            Self::Here(shard) => *shard,
        }
    }

    fn leave(&self, shard: &ShardAt, place: usize, error: ApiError) -> Result<(), ApiError> {
        match self {
            Self::Selected(selection) => selection.leave(shard.node, std::iter::once(place), error),
            Self::Here(_) => Err(error),
        }
    }
}

impl Listing<'_> {
    /// Objects of a shard of this node; fewer than `limit` are the last ones.
    async fn page(
        &self,
        shard: &ShardAt,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<Vec<Object>, ApiError> {
        let page = ScanPage { after, limit, filter: self.filter.clone(), want: self.want };
        let order = CoreRequest::Scan { shard: shard.id, page };
        expect_reply!(self.core.call_home(shard.home, order).await?, Page)
    }

    /// Objects of a shard of another node, and whether they are the last ones.
    async fn page_there(
        &self,
        shard: &ShardAt,
        after: Option<ObjectId>,
        limit: usize,
    ) -> Result<(Vec<Object>, bool), ApiError> {
        let request = ShardScanRequest {
            head: remote::head(self.core, self.route),
            shard: shard.id.0,
            after: after.map_or_else(Vec::new, |id| id.0.to_vec()),
            limit: limit as u32,
            filter: self.filter_bytes.to_vec(),
            want: wire_want(self.want),
        };
        let party = Party::home_of(shard);
        let reply = remote::read(self.core, party, &request, self.deadline).await?;
        let scan = &reply.access::<ShardScanReply>()?.scan;
        let objects = owned_objects(&scan.objects, &self.route.config);
        let next = scan.next();
        if objects.is_empty() && next.is_some() {
            return Err(reply.broken("an empty page that is not the last"));
        }
        Ok((objects, next.is_none()))
    }
}

/// Lists objects of a shard of this node for another one: up to `limit`, and fewer when they have
/// many bytes. Says whether there may be more.
pub(super) async fn page_for_peer(
    core: &Core,
    route: &CollectionRoute,
    shard: ShardAt,
    message: &ArchivedShardScanRequest,
    budget: &ReplyBudget,
    deadline: Deadline<'_>,
) -> Result<(ObjectColumns, bool), ApiError> {
    let want = engine_want(message.want);
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let limit = message.limit.to_native() as usize;
    let (filter_bytes, places) = (&message.filter[..], Places::Here(shard));
    let listing = Listing { core, places, route, filter, filter_bytes, want, deadline };
    let mut cursor = Cursor::new(0, message.after(), want);
    let mut objects = ObjectColumns::default();
    while objects.len() < limit && objects.size_bytes() < PEER_PAGE_BYTES && !cursor.done {
        deadline.check()?;
        cursor.refill(&listing, limit - objects.len()).await?;
        // The page itself stays small, whatever the shard has ready.
        budget.reserve((objects.size_bytes() + cursor.ready_bytes).min(NODE_BODY_BYTES_MAX))?;
        while objects.size_bytes() < PEER_PAGE_BYTES
            && let Some(object) = cursor.ready.pop_front()
        {
            push_object(&mut objects, &route.config, &object, want);
        }
    }
    Ok((objects, !cursor.done || !cursor.ready.is_empty()))
}

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<ScanRequest>(&request.body)?;
    super::reply(request, &scan(core, request, message, deadline).await?)
}

pub(super) async fn answer_at(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let at = access::<ScanAtRequest>(&request.body)?;
    if at.level() != Consistency::One {
        let message = format!("a list at level {}", at.level());
        let expected = "level one, then reads by id at the level wanted";
        return Err(ApiError::new(ErrorCode::Unsupported, message, expected));
    }
    super::reply(request, &ScanAtReply { scan: scan(core, request, &at.scan, deadline).await? })
}

async fn scan(
    core: &Rc<Core>,
    request: &RequestFrame,
    message: &ArchivedScanRequest,
    deadline: Deadline<'_>,
) -> Result<ScanReply, ApiError> {
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let filter = super::decode_filter(&route.config, &message.filter)?;
    let want = engine_want(message.want);
    let limit = message.limit.to_native() as usize;
    if limit == 0 {
        return Err(ApiError::new(ErrorCode::InvalidArgument, "limit is 0", "at least 1"));
    }
    let expected = core.object_size.expected(&route.config, want, limit).min(PAGE_BYTES);
    request.reply.reserve(expected)?;
    let after = message.after();
    let cursor = |place| Cursor::new(place, after, want);
    let mut cursors: Vec<Cursor> = (0..route.shards.len()).map(cursor).collect();
    let (filter_bytes, route) = (&message.filter[..], &*route);
    let places = Places::Selected(Selection::of(core, route));
    let listing = Listing { core, places, route, filter, filter_bytes, want, deadline };
    let mut objects = ObjectColumns::default();
    let mut last = None;
    while objects.len() < limit && objects.size_bytes() < PAGE_BYTES {
        deadline.check()?;
        let left = limit - objects.len();
        let refills = cursors.iter_mut().map(|cursor| cursor.refill(&listing, left));
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
    Ok(ScanReply { objects, next })
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
