//! From a request frame to its reply frame: one file a message family.

mod backup;
mod chunks;
mod collection;
mod delete;
mod get;
mod hello;
mod put;
mod scan;
mod search;
mod topology;

use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::Durability;
use heddle_core::validate;
use heddle_runtime::RealClock;
use heddle_types::{ApiError, Clock, CollectionConfig, ErrorCode, Filter};
use heddle_wire::message::Durability as WireDurability;
use heddle_wire::{Body, Frame, MessageType, encode_error, encode_reply_into};

use crate::core::Core;
use crate::registry::CollectionRoute;
use crate::server::request::{Answered, RequestFrame};
use crate::status;

pub(crate) use chunks::ObjectSize;
pub(crate) use search::SearchRoom;

/// When a request stops being worth its work: its time is over, or nobody waits for the reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline<'a> {
    clock: RealClock,
    at_ns: Option<u64>,
    begun_ns: u64,
    request: &'a RequestFrame,
}

impl<'a> Deadline<'a> {
    fn of(core: &Core, request: &'a RequestFrame) -> Self {
        let budget_ns = u64::from(request.header.deadline_us) * 1_000;
        let at_ns = (budget_ns > 0).then(|| request.arrived_ns.saturating_add(budget_ns));
        Self { clock: core.clock, at_ns, begun_ns: core.clock.monotonic_ns(), request }
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
        if self.request.is_abandoned() {
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
        MessageType::CollectionCreate => collection::create(core, request).await,
        MessageType::CollectionList => collection::list(core, request),
        MessageType::CollectionShow => collection::show(core, request),
        MessageType::CollectionDrop => collection::drop(core, request).await,
        MessageType::Put => Box::pin(put::answer(core, request)).await,
        MessageType::PutWith => Box::pin(put::answer_with(core, request)).await,
        MessageType::Get => Box::pin(get::answer(core, request, deadline)).await,
        MessageType::Delete => delete::answer(core, request).await,
        MessageType::DeleteWith => delete::answer_with(core, request).await,
        MessageType::Search => search::answer(core, request, deadline).await,
        MessageType::Scan => Box::pin(scan::answer(core, request, deadline)).await,
        MessageType::Count => scan::count(core, request, deadline).await,
        MessageType::NodeStatus => status::answer(core, request).await,
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

/// Encodes a reply to a request.
pub(crate) fn reply<M: Body>(request: &RequestFrame, message: &M) -> Result<Frame, ApiError> {
    Ok(encode_reply_into(request.reply_buffer(), request.header.request_id, message)?)
}

/// The route of the collection that a request names.
fn route(core: &Core, collection: &str, tenant: &str) -> Result<Arc<CollectionRoute>, ApiError> {
    let route = core.registry.route(collection)?;
    if !tenant.is_empty() {
        return Err(ApiError::new(
            ErrorCode::InvalidArgument,
            format!("collection {collection} has no tenants, the request names {tenant:?}"),
            "no tenant",
        ));
    }
    Ok(route)
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
