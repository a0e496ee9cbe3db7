//! Comparing the replicas of a collection.

use heddle_wire::message::{CompareReply, CompareRequest, ShardComparison};

use crate::call::Route;
use crate::collection::Collection;
use crate::error::ClientError;

impl Collection {
    /// Compares the replicas of every shard and changes nothing: what was found, a shard each, in
    /// the order of the catalog.
    ///
    /// Writes that are on their way may count as differences: ask again for those. Errors: the
    /// collection does not exist or no server answered; a shard that could not be compared says so
    /// itself.
    pub async fn compare(&self) -> Result<Vec<ShardComparison>, ClientError> {
        let (collection, tenant) = self.names();
        let request = CompareRequest { collection, tenant, epoch: 0 };
        let reply = self.client().send(Route::LeastLoaded, request).await?;
        Ok(reply.decode::<CompareReply>()?.shards)
    }
}
