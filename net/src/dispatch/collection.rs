//! Creating, listing, showing and dropping collections. The meta core decides.

use std::rc::Rc;

use heddle_types::{ApiError, CollectionConfig, ErrorCode};
use heddle_wire::message::{
    CollectionCreateReply, CollectionCreateRequest, CollectionDropReply, CollectionDropRequest,
    CollectionEntry, CollectionListReply, CollectionListRequest, CollectionShowReply,
    CollectionShowRequest,
};
use heddle_wire::{Frame, access};

use crate::core::Core;
use crate::message::{CoreReply, CoreRequest, expect_reply, unexpected};
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

/// A definition as JSON text.
pub(super) fn definition(config: &CollectionConfig) -> String {
    serde_json::to_string(config).expect("a definition has text keys and finite numbers only")
}

fn entry(route: &CollectionRoute) -> CollectionEntry {
    CollectionEntry { id: route.id.0.into_bytes(), definition: definition(&route.config) }
}

pub(super) async fn create(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<CollectionCreateRequest>(&request.body)?;
    let mut config: CollectionConfig =
        serde_json::from_str(&message.definition).map_err(|error| {
            ApiError::new(
                ErrorCode::InvalidArgument,
                format!("the definition is not valid: {error}"),
                "a collection definition as JSON",
            )
        })?;
    config.fill_defaults();
    config.validate()?;
    let order = CoreRequest::CreateCollection(Box::new(config));
    match core.call_write(core.meta_index(), order).await? {
        CoreReply::Collection(epoch, route) => super::reply(
            request,
            &CollectionCreateReply { epoch: epoch.0, collection: entry(&route) },
        ),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn list(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<CollectionListRequest>(&request.body)?;
    let prefix = message.prefix.as_str();
    let routes = core.registry.routes();
    let listed = routes.iter().filter(|route| route.config.name.starts_with(prefix));
    super::reply(
        request,
        &CollectionListReply {
            epoch: core.registry.epoch().0,
            collections: listed.map(|route| entry(route)).collect(),
        },
    )
}

pub(super) fn show(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<CollectionShowRequest>(&request.body)?;
    let route = core.registry.route(&message.name)?;
    let epoch = core.registry.epoch().0;
    super::reply(request, &CollectionShowReply { epoch, collection: entry(&route) })
}

pub(super) async fn drop(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<CollectionDropRequest>(&request.body)?;
    let order = CoreRequest::DropCollection(message.name.as_str().to_owned());
    let epoch = expect_reply!(core.call_write(core.meta_index(), order).await?, Removed)?;
    super::reply(request, &CollectionDropReply { epoch: epoch.0 })
}
