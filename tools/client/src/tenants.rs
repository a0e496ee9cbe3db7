//! The tenants of a collection.

use heddle_types::limits::{TENANT_BATCH_MAX, TENANT_LIST_MAX};
use heddle_types::{NodeId, ShardId};
use heddle_wire::message::{
    TenantAction, TenantChangeReply, TenantChangeRequest, TenantItem, TenantListReply,
    TenantListRequest,
};
use uuid::Uuid;

use crate::client::Client;
use crate::collection::Collection;
use crate::error::ClientError;

/// A tenant as the catalog has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Are its objects served? Else they rest on disk.
    pub is_active: bool,
    /// Its shards, each with the nodes of its replicas; empty when they were not asked for.
    pub shards: Vec<(ShardId, Vec<NodeId>)>,
}

/// A page of tenants, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantPage {
    /// The page.
    pub tenants: Vec<Tenant>,
    /// All tenants of the collection.
    pub total: u64,
    /// Those of them that are active.
    pub active: u64,
    /// More follow behind the last one of the page.
    pub has_more: bool,
}

impl Collection {
    /// Creates, activates, deactivates or deletes tenants; how many are other than before.
    ///
    /// 1,000 of them are one change, made for all or for none; more are cut into several. Errors:
    /// `InvalidName`, `UnknownTenant`, `TooLarge` with the limit; those of any call. Changes before
    /// the failing one stay. Not repeated by itself.
    pub async fn change_tenants(
        &self,
        action: TenantAction,
        tenants: &[String],
    ) -> Result<u64, ClientError> {
        let mut changed = 0;
        for names in tenants.chunks(TENANT_BATCH_MAX) {
            let request = TenantChangeRequest::new(self.name(), action, names.to_vec());
            let reply: TenantChangeReply = self.client().call(request).await?.decode()?;
            // Another node may not know of the change yet.
            self.client().announce(reply.epoch);
            changed += u64::from(reply.changed);
        }
        Ok(changed)
    }

    /// The tenants behind a name, at most 10,000; from the first for an empty one.
    ///
    /// Errors: those of any call, `InvalidArgument` for a collection without tenants.
    pub async fn tenants_after(&self, after: &str, limit: u32) -> Result<TenantPage, ClientError> {
        self.list(TenantListRequest {
            collection: self.name().to_owned(),
            tenants: Vec::new(),
            after: after.to_owned(),
            limit: limit.min(TENANT_LIST_MAX),
            places: 0,
        })
        .await
    }

    /// Those of up to 1,000 named tenants that exist, with their shards.
    ///
    /// Errors: as [`Collection::tenants_after`].
    pub async fn tenants_named(&self, names: &[String]) -> Result<Vec<Tenant>, ClientError> {
        let request = TenantListRequest {
            collection: self.name().to_owned(),
            tenants: names.to_vec(),
            after: String::new(),
            limit: TENANT_LIST_MAX,
            places: 1,
        };
        Ok(self.list(request).await?.tenants)
    }

    async fn list(&self, request: TenantListRequest) -> Result<TenantPage, ClientError> {
        let reply: TenantListReply = self.client().call(request).await?.decode()?;
        let TenantListReply { total, active, tenants, more, .. } = reply;
        let tenants = tenants.into_iter().map(tenant).collect();
        Ok(TenantPage { tenants, total, active, has_more: more == 1 })
    }
}

impl Client {
    /// Tells the client of a version of the catalog that it has heard of elsewhere.
    pub(crate) fn announce(&self, epoch: u64) {
        self.shared().announce(epoch);
    }
}

fn tenant(item: TenantItem) -> Tenant {
    let (nodes, _) = item.nodes.as_chunks::<16>();
    let mut start = 0;
    let shards = item.shards.iter().zip(&item.ends).map(|(shard, end)| {
        let replicas = nodes.get(start..*end as usize).unwrap_or_default();
        start = *end as usize;
        let replicas = replicas.iter().map(|id| NodeId(Uuid::from_bytes(*id)));
        (ShardId(*shard), replicas.collect())
    });
    let shards = shards.collect();
    Tenant { name: item.name, is_active: item.active == 1, shards }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_of_a_tenant_are_cut_by_shard() {
        let nodes = [[1; 16], [2; 16], [3; 16]].concat();
        let item = TenantItem {
            name: "t".to_owned(),
            active: 1,
            shards: vec![7, 8],
            ends: vec![2, 3],
            nodes,
        };
        let node = |byte| NodeId(Uuid::from_bytes([byte; 16]));
        let shards = vec![(ShardId(7), vec![node(1), node(2)]), (ShardId(8), vec![node(3)])];
        assert_eq!(tenant(item), Tenant { name: "t".to_owned(), is_active: true, shards });
    }
}
