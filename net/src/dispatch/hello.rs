//! Who we are and what we allow.

use heddle_types::limits::{
    CLIENT_BODY_BYTES_MAX, CONNECTION_BYTES_IN_FLIGHT_MAX, CONNECTION_REQUESTS_IN_FLIGHT_MAX,
};
use heddle_types::{ApiError, Clock, ErrorCode};
use heddle_wire::message::{FEATURES, HelloReply, HelloRequest};
use heddle_wire::{Frame, VERSION, access};

use crate::core::Core;
use crate::server::request::RequestFrame;

pub(super) fn answer(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<HelloRequest>(&request.body)?;
    let (low, high) = (message.version_min.to_native(), message.version_max.to_native());
    if !(low..=high).contains(&VERSION) {
        return Err(ApiError::new(
            ErrorCode::Protocol,
            format!("the client speaks versions {low} to {high}"),
            format!("version {VERSION}"),
        ));
    }
    tracing::debug!(client = message.client.as_str(), "hello");
    let features = message.features.to_native() & FEATURES;
    request.set_features(features);
    super::reply(
        request,
        &HelloReply {
            version: VERSION,
            core: core.index as u16,
            core_count: core.data_cores as u16,
            features,
            node_id: core.node.identity.node.0.into_bytes(),
            node_name: core.node.config.name.clone(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            server_time_us: core.clock.unix_us(),
            body_bytes_max: CLIENT_BODY_BYTES_MAX as u32,
            requests_in_flight_max: CONNECTION_REQUESTS_IN_FLIGHT_MAX as u32,
            bytes_in_flight_max: CONNECTION_BYTES_IN_FLIGHT_MAX as u32,
        },
    )
}
