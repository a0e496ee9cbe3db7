//! Comparing replicas because somebody asks, and changing nothing.

use std::rc::Rc;

use heddle_types::{ApiError, CollectionId, ErrorCode, ShardId};
use heddle_wire::message::ShardComparison;

use super::side::Side;
use super::{Mode, Session};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ReplicaPlace, ShardPlace};

/// Compares the replicas of a shard: the replica of this node drives, or else the first one that
/// answers.
pub(crate) async fn check(
    core: &Rc<Core>,
    route: &CollectionRoute,
    place: &ShardPlace,
) -> ShardComparison {
    let mut problem = String::new();
    let here = place.here().into_iter();
    for replica in here.chain(0..place.replicas.len()) {
        let at = place.at(replica);
        let found = if at.is_here {
            let request = CoreRequest::CheckReplicas { collection: route.id, shard: place.id };
            core.call_home(at.home, request).await.and_then(|reply| expect_reply!(reply, Checked))
        } else {
            Side::other(core, route, at).check().await
        };
        match found {
            Ok(found) => return found,
            Err(error) => problem = format!("node {}: {error}", at.node),
        }
    }
    let replicas = place.replicas.len() as u32;
    ShardComparison { shard: place.id.0, replicas, problem, ..ShardComparison::default() }
}

/// Compares the replicas of a shard of which one is at home on this core.
///
/// Errors: `StaleEpoch` when none is.
pub(crate) async fn check_here(
    core: &Rc<Core>,
    collection: CollectionId,
    shard: ShardId,
) -> Result<ShardComparison, ApiError> {
    let is_home = |here: &ReplicaPlace| here.is_here && here.home == core.index;
    let route = core.registry.route_holding(collection, shard);
    let found = route.as_ref().and_then(|route| {
        let place = &route.shards[route.position(shard)?];
        let own = u8::try_from(place.replicas.iter().position(is_home)?).ok()?;
        Some((route, place, own))
    });
    let Some((route, place, own)) = found else {
        let message = format!("shard {shard} is not at home on this core");
        return Err(ApiError::transient(ErrorCode::StaleEpoch, message));
    };
    let engine = core.engine()?;
    let session = Session::new(core, &engine, (route, place), own, Mode::Check);
    let outcome = session.run().await;
    Ok(ShardComparison {
        shard: shard.0,
        replicas: place.replicas.len() as u32,
        took_part: outcome.took_part.len() as u32,
        leaves_differing: outcome.leaves_differing as u64,
        compared: outcome.objects_compared,
        lacking: outcome.copied,
        undeleted: outcome.buried,
        problem: String::new(),
    })
}
