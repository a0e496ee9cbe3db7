//! Which replica of each shard a request reads: the one of this node, else one of the least loaded
//! node that lives, and another one once that fails.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use heddle_replication::{Candidate, ReplicaOrder, replica_order};
use heddle_types::{ApiError, Consistency, ErrorCode, NodeId, Retry};

use crate::core::Core;
use crate::registry::{CollectionRoute, ReplicaPlace, ShardAt, ShardPlace};

/// In which order to ask the replicas of a shard. One of this node that is not served comes last.
pub(super) fn order_of(core: &Core, shard: &ShardPlace) -> ReplicaOrder {
    let health = core.registry.health();
    let candidate = |replica: &ReplicaPlace| {
        if replica.is_here {
            let is_served = core.registry.view(shard.id).is_ok();
            return Candidate { is_here: is_served, is_alive: is_served, load: 0 };
        }
        let known = health.of(replica.node);
        Candidate { is_here: false, is_alive: known.is_alive, load: known.load_permille }
    };
    let candidates: Vec<Candidate> = shard.replicas.iter().map(candidate).collect();
    replica_order(&candidates, core.next_turn() as u64)
}

/// May another replica answer what this one has refused?
fn may_try_another(error: &ApiError) -> bool {
    let is_of_replica = matches!(error.code, ErrorCode::Corrupt | ErrorCode::Internal);
    error.retry != Retry::Never || is_of_replica
}

/// The replicas of each shard that a request has not asked yet, the next one last.
type Untried = Rc<RefCell<Vec<Vec<u8>>>>;

/// A replica of each shard of a collection, for one request.
pub(in crate::dispatch) struct Selection<'a> {
    core: &'a Core,
    route: &'a CollectionRoute,
    // Where the shards are read when nothing else was chosen; not used once something was.
    firsts: &'a [ShardAt],
    chosen: RefCell<Option<Vec<ShardAt>>>,
    untried: Untried,
}

impl<'a> Selection<'a> {
    /// One replica of each shard.
    pub(in crate::dispatch) fn of(core: &'a Core, route: &'a CollectionRoute) -> Self {
        if !route.is_replicated {
            let (firsts, chosen) = (&route.firsts[..], RefCell::default());
            return Self { core, route, firsts, chosen, untried: Untried::default() };
        }
        let selections = Self::several(core, route, Consistency::One);
        let first = selections.ok().and_then(|mut selections| selections.pop());
        first.expect("one of several replicas is on another node")
    }

    /// As many replicas of each shard as a level asks for, each in a selection of its own. Those of
    /// this node are in the first one, or in none when they are not served.
    ///
    /// Errors: `Unavailable` when too few are left of a shard.
    pub(in crate::dispatch) fn several(
        core: &'a Core,
        route: &'a CollectionRoute,
        level: Consistency,
    ) -> Result<Vec<Self>, ApiError> {
        if !route.is_replicated {
            return Ok(vec![Self::of(core, route)]);
        }
        let factor = route.shards.iter().map(|shard| shard.replicas.len()).min().unwrap_or(1);
        let needed = level.needed(factor).max(1);
        let mut untried: Vec<Vec<u8>> = Vec::with_capacity(route.shards.len());
        for shard in &route.shards {
            let is_here = |replica: &u8| shard.replicas[usize::from(*replica)].is_here;
            let mut order = order_of(core, shard).to_vec();
            order.reverse();
            if core.registry.view(shard.id).is_err() {
                order.retain(|replica| !is_here(replica));
            }
            if order.len() < needed {
                let message = format!(
                    "{} of {factor} replicas of shard {} are served, {needed} needed for {level}",
                    order.len(),
                    shard.id
                );
                return Err(ApiError::transient(ErrorCode::Unavailable, message));
            }
            untried.push(order);
        }
        let selected: Vec<Vec<ShardAt>> = (0..needed)
            .map(|_| {
                let shards = route.shards.iter().zip(&mut untried);
                let next = shards.map(|(shard, untried)| {
                    let replica = untried.pop().expect("a level needs no more than there are");
                    shard.at(usize::from(replica))
                });
                next.collect()
            })
            .collect();
        let untried = Rc::new(RefCell::new(untried));
        let selection = |places| {
            let (chosen, untried) = (RefCell::new(Some(places)), Rc::clone(&untried));
            Self { core, route, firsts: &route.firsts, chosen, untried }
        };
        Ok(selected.into_iter().map(selection).collect())
    }

    pub(in crate::dispatch) fn route(&self) -> &'a CollectionRoute {
        self.route
    }

    /// The shards where they are read now.
    pub(in crate::dispatch) fn places(&self) -> Cow<'a, [ShardAt]> {
        match &*self.chosen.borrow() {
            Some(places) => Cow::Owned(places.clone()),
            None => Cow::Borrowed(self.firsts),
        }
    }

    /// A shard, by its position in the route, where it is read now.
    pub(in crate::dispatch) fn at(&self, place: usize) -> ShardAt {
        self.chosen.borrow().as_deref().unwrap_or(self.firsts)[place]
    }

    /// Is every shard read on this node?
    pub(in crate::dispatch) fn is_all_here(&self) -> bool {
        match &*self.chosen.borrow() {
            Some(places) => places.iter().all(|shard| shard.is_here),
            None => self.route.is_all_here,
        }
    }

    /// Reads shards elsewhere that were read at a node which has failed.
    ///
    /// Errors: the failure, when it is none of the node, or a shard has no other replica.
    pub(in crate::dispatch) fn leave(
        &self,
        node: NodeId,
        places: impl Iterator<Item = usize>,
        failure: ApiError,
    ) -> Result<(), ApiError> {
        if !may_try_another(&failure) {
            return Err(failure);
        }
        let mut untried = self.untried.borrow_mut();
        let mut chosen = self.chosen.borrow_mut();
        let now = chosen.get_or_insert_with(|| self.firsts.to_vec());
        for place in places {
            // Another part of the request may have left it already.
            if now[place].node == node {
                let next = untried.get_mut(place).and_then(Vec::pop);
                let Some(next) = next else { return Err(failure) };
                now[place] = self.route.shards[place].at(usize::from(next));
                self.core.metrics.replicas_failed_over.add(1);
            }
        }
        Ok(())
    }

    /// Another replica of each of these shards that lives, to be asked beside the ones that are
    /// read now; none when a shard has no other one. Nobody else gets these.
    pub(in crate::dispatch) fn seconds(&self, places: &[usize]) -> Option<Vec<ShardAt>> {
        let health = self.core.registry.health();
        let mut untried = self.untried.borrow_mut();
        let alive_of = |place: usize, untried: &[Vec<u8>]| {
            let shard = &self.route.shards[place];
            let is_alive =
                |replica: &u8| health.of(shard.replicas[usize::from(*replica)].node).is_alive;
            untried.get(place)?.iter().rposition(is_alive)
        };
        let found: Option<Vec<usize>> =
            places.iter().map(|place| alive_of(*place, &untried)).collect();
        let taken = places.iter().zip(found?).map(|(place, at)| {
            self.route.shards[*place].at(usize::from(untried[*place].remove(at)))
        });
        Some(taken.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_replica_may_answer_is_asked_there() {
        let bad = ApiError::new(ErrorCode::InvalidVector, "3 dimensions", "8");
        assert!(!may_try_another(&bad));
        assert!(may_try_another(&ApiError::new(ErrorCode::Corrupt, "quarantined", "")));
        assert!(may_try_another(&ApiError::transient(ErrorCode::Unavailable, "gone")));
    }
}
