//! Which nodes the cluster has. The meta core decides.

use std::rc::Rc;

use heddle_types::ApiError;
use heddle_wire::message::{NodeChangeReply, NodeChangeRequest};
use heddle_wire::{Frame, access};

use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::server::request::RequestFrame;

pub(super) async fn change(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<NodeChangeRequest>(&request.body)?;
    let node = message.node.as_str().to_owned();
    let order = CoreRequest::ChangeNode { node, fate: message.fate() };
    let epoch = expect_reply!(core.call_write(core.meta_index(), order).await?, Removed)?;
    super::reply(request, &NodeChangeReply { epoch: epoch.0 })
}
