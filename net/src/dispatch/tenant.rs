//! Tenants: whose shards a request is about, and changing and listing them. The meta core decides.

use std::rc::Rc;
use std::sync::Arc;

use heddle_meta::{TenantEntry, TenantState, Tenants};
use heddle_types::limits::TENANT_LIST_MAX;
use heddle_types::schema::check_tenant_name;
use heddle_types::{ApiError, ErrorCode};
use heddle_wire::message::{
    TenantAction, TenantChangeReply, TenantChangeRequest, TenantItem, TenantListReply,
    TenantListRequest,
};
use heddle_wire::{Frame, MessageType, access};

use crate::core::Core;
use crate::message::{CoreReply, CoreRequest, unexpected};
use crate::registry::CollectionRoute;
use crate::server::request::RequestFrame;

/// The route of a tenant, which is created or activated for it when the definition says so.
///
/// Errors: `InvalidArgument` for no name, `InvalidName`, `UnknownTenant`, `TenantInactive`, and
/// what a change is refused with.
pub(super) async fn route(
    core: &Core,
    kind: MessageType,
    route: Arc<CollectionRoute>,
    tenant: &str,
) -> Result<Arc<CollectionRoute>, ApiError> {
    let refused = match settled(&route, tenant) {
        Ok(route) => return Ok(route),
        Err(refused) => refused,
    };
    let asked = route.config.multi_tenancy;
    let is_put = matches!(kind, MessageType::Put | MessageType::PutWith);
    let action = match refused.code {
        ErrorCode::UnknownTenant if asked.auto_create && is_put => TenantAction::Create,
        ErrorCode::TenantInactive if asked.auto_activate => TenantAction::Activate,
        _ => return Err(refused),
    };
    let (collection, names) = (route.config.name.clone(), vec![tenant.to_owned()]);
    let order = CoreRequest::ChangeTenants { collection: collection.clone(), action, names };
    match core.call(core.meta_index(), order).await? {
        CoreReply::Tenants(..) => {
            let route = core.registry.route(&collection)?;
            settled(&route, tenant)
        }
        other => Err(unexpected(&other)),
    }
}

/// The route of a tenant as it is. Errors: as [`route`].
pub(super) fn settled(
    route: &CollectionRoute,
    tenant: &str,
) -> Result<Arc<CollectionRoute>, ApiError> {
    let collection = &route.config.name;
    if tenant.is_empty() {
        let message = format!("collection {collection} has tenants, the request names none");
        return Err(ApiError::new(ErrorCode::InvalidArgument, message, "the name of a tenant"));
    }
    check_tenant_name(tenant)?;
    match route.tenants.as_ref().and_then(|tenants| tenants.get(tenant)) {
        Some(entry) if entry.state == TenantState::Active => Ok(Arc::new(route.of_tenant(entry))),
        Some(_) => {
            let message = format!("tenant {tenant} of collection {collection} is inactive");
            Err(ApiError::new(ErrorCode::TenantInactive, message, "an active tenant"))
        }
        None => {
            let message = format!("collection {collection} has no tenant {tenant}");
            Err(ApiError::new(ErrorCode::UnknownTenant, message, "the name of an existing tenant"))
        }
    }
}

pub(super) async fn change(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<TenantChangeRequest>(&request.body)?;
    let names = message.tenants.iter().map(|name| name.as_str().to_owned()).collect();
    let (collection, action) = (message.collection.as_str().to_owned(), message.action());
    let order = CoreRequest::ChangeTenants { collection, action, names };
    match core.call_write(core.meta_index(), order).await? {
        CoreReply::Tenants(epoch, changed) => {
            super::reply(request, &TenantChangeReply { epoch: epoch.0, changed })
        }
        other => Err(unexpected(&other)),
    }
}

pub(super) fn list(core: &Core, request: &RequestFrame) -> Result<Frame, ApiError> {
    let message = access::<TenantListRequest>(&request.body)?;
    let route = core.registry.route(&message.collection)?;
    let Some(tenants) = &route.tenants else {
        let message = format!("collection {} has no tenants", route.config.name);
        let expected = "a collection with multi_tenancy.enabled true";
        return Err(ApiError::new(ErrorCode::InvalidArgument, message, expected));
    };
    let limit = message.limit.to_native().clamp(1, TENANT_LIST_MAX) as usize;
    let with_places = message.places == 1;
    let mut reply = TenantListReply {
        epoch: core.registry.epoch().0,
        total: tenants.len() as u64,
        active: active_of(tenants),
        ..TenantListReply::default()
    };
    if message.tenants.is_empty() {
        let mut rest = tenants.after(&message.after);
        let page = rest.by_ref().take(limit);
        reply.tenants = page.map(|(name, entry)| item(name, entry, with_places)).collect();
        reply.more = u8::from(rest.next().is_some());
    } else {
        let named = message
            .tenants
            .iter()
            .filter_map(|name| Some(item(name.as_str(), tenants.get(name.as_str())?, with_places)));
        reply.tenants = named.collect();
    }
    super::reply(request, &reply)
}

/// How many of them are active. Cost: a look at all, some ns each.
pub(crate) fn active_of(tenants: &Tenants) -> u64 {
    tenants.iter().filter(|(_, tenant)| tenant.state == TenantState::Active).count() as u64
}

fn item(name: &str, entry: &TenantEntry, with_places: bool) -> TenantItem {
    let active = u8::from(entry.state == TenantState::Active);
    let mut item = TenantItem { name: name.to_owned(), active, ..TenantItem::default() };
    if with_places {
        for shard in &entry.shards {
            item.shards.push(shard.id.0);
            for place in &shard.replicas {
                item.nodes.extend_from_slice(place.node.0.as_bytes());
            }
            item.ends.push((item.nodes.len() / 16) as u32);
        }
    }
    item
}
