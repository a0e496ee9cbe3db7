//! Comparing the replicas of a collection, shard by shard.

use std::rc::Rc;

use heddle_types::ApiError;
use heddle_wire::message::{CompareReply, CompareRequest};
use heddle_wire::{Frame, access};

use super::Deadline;
use crate::core::Core;
use crate::repair;
use crate::server::request::RequestFrame;

pub(super) async fn answer(
    core: &Rc<Core>,
    request: &RequestFrame,
    deadline: Deadline<'_>,
) -> Result<Frame, ApiError> {
    let message = access::<CompareRequest>(&request.body)?;
    let names = (message.collection.as_str(), message.tenant.as_str());
    let route = super::route(core, request, names, message.epoch, deadline).await?;
    let mut reply = CompareReply::default();
    for place in &route.shards {
        deadline.check()?;
        reply.shards.push(repair::check(core, &route, place).await);
    }
    super::reply(request, &reply)
}
