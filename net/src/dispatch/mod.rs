//! From a request frame to its reply frame: one file a message family.

mod backup;
mod chunks;
mod collection;
mod compare;
mod count;
mod delete;
mod get;
mod hello;
mod node;
mod objects;
mod put;
mod remote;
mod replicas;
mod scan;
mod search;
mod shards;
mod tenant;
mod terms;
mod tickets;
mod topology;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use heddle_core::engine::{Durability, Want};
use heddle_core::validate;
use heddle_runtime::RealClock;
use heddle_runtime::queues::{TimedOut, timeout};
use heddle_types::{ApiError, Clock, CollectionConfig, Epoch, ErrorCode, Filter};
use heddle_wire::message::{Durability as WireDurability, FEATURE_STALE_EPOCH, Want as WireWant};
use heddle_wire::{Body, Frame, MessageType, encode_error, encode_reply_into};

use crate::core::Core;
use crate::limits::CLIENT_EPOCH_PATIENCE;
use crate::registry::CollectionRoute;
use crate::server::request::{Answered, RequestFrame};
use crate::status;

pub(crate) use chunks::ObjectSize;
pub(crate) use replicas::{Conditional, Held, Latencies, Tails, answer_conditional};
pub(crate) use search::SearchRoom;
pub(crate) use shards::answer as answer_peer;
pub(crate) use tenant::active_of as active_tenants;

/// When a request stops being worth its work: its time is over, or nobody waits for the reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline<'a> {
    clock: RealClock,
    at_ns: Option<u64>,
    begun_ns: u64,
    // None when another node asked.
    request: Option<&'a RequestFrame>,
}

impl<'a> Deadline<'a> {
    fn of(core: &Core, request: &'a RequestFrame) -> Self {
        let (arrived_ns, budget_us) = (request.arrived_ns, request.header.deadline_us);
        Self { request: Some(request), ..Deadline::of_peer(core, arrived_ns, budget_us) }
    }

    /// Of another node's request.
    fn of_peer(core: &Core, arrived_ns: u64, budget_us: u32) -> Self {
        let budget_ns = u64::from(budget_us) * 1_000;
        let at_ns = (budget_ns > 0).then(|| arrived_ns.saturating_add(budget_ns));
        Self { clock: core.clock, at_ns, begun_ns: core.clock.monotonic_ns(), request: None }
    }

    /// The same time, for work that goes on when nobody waits for the reply.
    fn detached(&self) -> Deadline<'static> {
        let Self { clock, at_ns, begun_ns, .. } = *self;
        Deadline { clock, at_ns, begun_ns, request: None }
    }

    /// Did a client ask, whose request a worker answers?
    fn is_of_client(&self) -> bool {
        self.request.is_some()
    }

    /// What is left of the time; none without a deadline.
    fn left(&self) -> Option<Duration> {
        let left_ns = self.at_ns?.saturating_sub(self.clock.monotonic_ns());
        Some(Duration::from_nanos(left_ns))
    }

    /// When the work on the request began, monotonic nanoseconds.
    pub(crate) fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// Errors: `DeadlineExceeded` once it has passed, `Unavailable` once the connection is gone.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        // Without a deadline the time does not matter, so the clock is not asked.
        self.check_at(self.at_ns.map_or(0, |_| self.clock.monotonic_ns()))
    }

    fn check_at(&self, now_ns: u64) -> Result<(), ApiError> {
        if self.request.is_some_and(RequestFrame::is_abandoned) {
            return Err(ApiError::transient(ErrorCode::Unavailable, "the connection is gone"));
        }
        match self.at_ns {
            Some(at_ns) if now_ns >= at_ns => Err(ApiError::transient(
                ErrorCode::DeadlineExceeded,
                "the deadline passed before the work was done",
            )),
            _ => Ok(()),
        }
    }
}

/// Works on a request and says what to send back.
pub(crate) async fn answer(core: &Rc<Core>, request: &RequestFrame) -> Answered {
    let deadline = Deadline::of(core, request);
    let outcome = match deadline.check_at(deadline.begun_ns) {
        Ok(()) => work(core, request, deadline).await,
        Err(error) => Err(error),
    };
    let (frame, code) = match outcome {
        Ok(frame) => (frame, None),
        Err(error) => {
            tracing::trace!(message = request.kind.name(), %error, "refused");
            (encode_error(request.header.request_id, &error), Some(error.code))
        }
    };
    let at_ns = core.clock.monotonic_ns();
    let latency_us = at_ns.saturating_sub(request.arrived_ns) / 1_000;
    core.metrics.answered(request.kind, latency_us, code);
    Answered { frame, at_ns }
}

async fn work(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    match request.kind {
        MessageType::Hello => hello::answer(core, request),
        MessageType::Topology => topology::answer(core, request),
        MessageType::TopologyReplicas => topology::answer_replicas(core, request),
        MessageType::CollectionCreate => collection::create(core, request).await,
        MessageType::CollectionList => collection::list(core, request),
        MessageType::CollectionShow => collection::show(core, request),
        MessageType::CollectionDrop => collection::drop(core, request).await,
        MessageType::TenantChange => tenant::change(core, request).await,
        MessageType::TenantList => tenant::list(core, request),
        MessageType::Put => Box::pin(put::answer(core, request, deadline)).await,
        MessageType::PutWith => Box::pin(put::answer_with(core, request, deadline)).await,
        MessageType::Get => Box::pin(get::answer(core, request, deadline)).await,
        MessageType::Delete => delete::answer(core, request, deadline).await,
        MessageType::DeleteWith => delete::answer_with(core, request, deadline).await,
        MessageType::PutAt => Box::pin(put::answer_at(core, request, deadline)).await,
        MessageType::GetAt => Box::pin(get::answer_at(core, request, deadline)).await,
        MessageType::DeleteAt => Box::pin(delete::answer_at(core, request, deadline)).await,
        MessageType::Tickets => tickets::answer(core, request).await,
        MessageType::Search => search::answer(core, request, deadline).await,
        MessageType::SearchAt => search::answer_at(core, request, deadline).await,
        MessageType::Scan => Box::pin(scan::answer(core, request, deadline)).await,
        MessageType::ScanAt => Box::pin(scan::answer_at(core, request, deadline)).await,
        MessageType::Count => Box::pin(count::answer(core, request, deadline)).await,
        MessageType::CountAt => Box::pin(count::answer_at(core, request, deadline)).await,
        MessageType::Compare => compare::answer(core, request, deadline).await,
        MessageType::NodeStatus => status::answer(core, request).await,
        MessageType::NodeChange => node::change(core, request).await,
        MessageType::BackupBegin => backup::begin(core, request).await,
        MessageType::BackupRead => backup::read(core, request).await,
        MessageType::BackupEnd => backup::end(core, request).await,
    }
}

/// The engine's word for what a request asks of its acknowledgement.
fn durability(wire: WireDurability) -> Durability {
    match wire {
        WireDurability::Sync => Durability::Sync,
        WireDurability::Batched => Durability::Batched,
    }
}

/// What a request of ours asks of another node's acknowledgement.
fn wire_durability(durability: Durability) -> WireDurability {
    match durability {
        Durability::Sync => WireDurability::Sync,
        Durability::Batched => WireDurability::Batched,
    }
}

/// Encodes a reply to a request.
pub(crate) fn reply<M: Body>(request: &RequestFrame, message: &M) -> Result<Frame, ApiError> {
    Ok(encode_reply_into(request.reply_buffer(), request.header.request_id, message)?)
}

/// The parts of objects that a request wants, in the engine's words.
fn engine_want(bits: u8) -> Want {
    let want = WireWant::from_bits(bits);
    Want { properties: want.properties, vectors: want.vectors }
}

/// The route of the collection that a request names, whatever `epoch` the client routed it by. One
/// that the client has from another node and that has not come here yet is waited for.
///
/// Errors: `StaleEpoch` for an old epoch, if the client wants to hear of that; `Unavailable` for a
/// new one that does not come.
async fn route(
    core: &Core,
    request: &RequestFrame,
    (collection, tenant): (&str, &str),
    epoch: impl Into<u64>,
    deadline: Deadline<'_>,
) -> Result<Arc<CollectionRoute>, ApiError> {
    let epoch = Epoch(epoch.into());
    if epoch > core.registry.epoch() {
        Box::pin(catch_up(core, epoch, deadline)).await?;
    }
    let newest = core.registry.epoch();
    let is_stale = epoch != Epoch(0) && epoch < newest;
    if is_stale && request.features() & FEATURE_STALE_EPOCH != 0 {
        let message = format!("the request was routed by epoch {epoch}");
        return Err(ApiError::new(ErrorCode::StaleEpoch, message, format!("epoch {newest}")));
    }
    let route = core.registry.route(collection)?;
    if route.tenants.is_some() {
        return Box::pin(tenant::route(core, request.kind, route, tenant)).await;
    }
    if !tenant.is_empty() {
        return Err(ApiError::new(
            ErrorCode::InvalidArgument,
            format!("collection {collection} has no tenants, the request names {tenant:?}"),
            "no tenant",
        ));
    }
    Ok(route)
}

async fn catch_up(core: &Core, asked: Epoch, deadline: Deadline<'_>) -> Result<(), ApiError> {
    // Who is alone has the only catalog there is: the client's is from before it was restored.
    if core.registry.nodes().is_empty() {
        return Ok(());
    }
    reach(core, asked, deadline, CLIENT_EPOCH_PATIENCE).await.map(drop).map_err(|what| {
        let message = format!("the request was routed by another catalog: {what}");
        ApiError::transient(ErrorCode::Unavailable, message)
    })
}

/// Waits until the catalog has come to an epoch, at most so long and to the deadline; says which
/// one it has, or in words that it has not come so far.
async fn reach(
    core: &Core,
    asked: Epoch,
    deadline: Deadline<'_>,
    patience: Duration,
) -> Result<Epoch, String> {
    let patience = deadline.left().map_or(patience, |left| left.min(patience));
    timeout(patience, core.registry.reached(asked)).await.map_err(|TimedOut| {
        let (epoch, waited) = (core.registry.epoch(), patience.as_millis());
        format!("epoch {asked} has not come within {waited} ms, the catalog here has epoch {epoch}")
    })
}

/// Decodes and checks the filter of a request; empty bytes are none.
fn decode_filter(config: &CollectionConfig, bytes: &[u8]) -> Result<Option<Arc<Filter>>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let filter = Filter::decode(bytes).map_err(|error| {
        ApiError::new(ErrorCode::InvalidFilter, error.to_string(), "an encoded filter")
    })?;
    validate::check_filter(config, &filter)?;
    Ok(Some(Arc::new(filter)))
}
