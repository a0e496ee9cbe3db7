//! Changes of one request to one shard: plain ones are stamped here and sent to all replicas, those
//! that depend on what is there are made by the first replica that can be reached.

use std::rc::Rc;
use std::sync::Arc;

use heddle_core::engine::{PutItem, StampedChange, StampedWrite};
use heddle_types::{ApiError, ErrorCode, ObjectId, Retry, Stamp};
use heddle_wire::message::{
    Condition, ReplicaConditionalReply, ReplicaConditionalRequest, WriteTerms,
};
use rustc_hash::FxHashMap;

use super::super::remote::{self, Party};
use super::super::terms::Terms;
use super::super::{Deadline, wire_durability};
use super::conditional::{Conditional, ConditionalChange, ConditionalItem, issue, put_of};
use super::write::{Stamped, WriteOrder, write};
use crate::core::Core;
use crate::message::{CoreRequest, expect_reply};
use crate::registry::{CollectionRoute, ShardAt};

/// Where changes go, and how they are to be made.
pub(in crate::dispatch) struct Coordination<'a> {
    pub(in crate::dispatch) core: &'a Rc<Core>,
    pub(in crate::dispatch) route: &'a Arc<CollectionRoute>,
    pub(in crate::dispatch) terms: &'a Terms,
    pub(in crate::dispatch) deadline: Deadline<'a>,
}

impl Coordination<'_> {
    /// Makes changes to one shard; what became of each, in order.
    ///
    /// Errors: nothing was applied, or every change has met the same error.
    pub(in crate::dispatch) async fn shard(
        &self,
        place: usize,
        items: Vec<ConditionalItem>,
    ) -> Result<Vec<Stamped>, ApiError> {
        self.deadline.check()?;
        let depends = |item: &ConditionalItem| {
            item.condition != Condition::Always
                || matches!(item.change, ConditionalChange::Merge(_))
        };
        let outcomes = if items.iter().any(depends) {
            self.by_first_replica(place, items).await?
        } else {
            self.by_all(place, items).await?
        };
        common_error(&outcomes).map_or(Ok(outcomes), Err)
    }

    async fn by_all(
        &self,
        place: usize,
        items: Vec<ConditionalItem>,
    ) -> Result<Vec<Stamped>, ApiError> {
        let Self { core, route, terms, deadline } = *self;
        let stamps = self.stamps(&items).await?;
        let writes = items.into_iter().zip(stamps).map(|(item, stamp)| {
            let change = match item.change {
                ConditionalChange::Replace(put) | ConditionalChange::Merge(put) => {
                    put_of(put, stamp)
                }
                ConditionalChange::Delete => StampedChange::Delete,
            };
            StampedWrite { id: item.id, stamp, change, exact: false }
        });
        Ok(write(WriteOrder {
            core: Rc::clone(core),
            route: Arc::clone(route),
            place,
            level: terms.level,
            durability: terms.durability,
            writes: writes.collect(),
            deadline: deadline.detached(),
        })
        .await)
    }

    /// One stamp for all of them; of an object that is named again, a later one each time.
    async fn stamps(&self, items: &[ConditionalItem]) -> Result<Vec<Stamp>, ApiError> {
        let first = match self.terms.ticket {
            Some(stamp) => stamp,
            None => issue(self.core).await?,
        };
        let mut stamps = vec![first; items.len()];
        if items.len() == 1 {
            return Ok(stamps);
        }
        let mut ranks: FxHashMap<ObjectId, usize> = FxHashMap::default();
        let mut by_rank = vec![first];
        for (item, stamp) in items.iter().zip(&mut stamps) {
            let rank = ranks.entry(item.id).or_default();
            if *rank > 0 && self.terms.ticket.is_some() {
                return Err(twice(item.id));
            }
            if *rank == by_rank.len() {
                by_rank.push(issue(self.core).await?);
            }
            *stamp = by_rank[*rank];
            *rank += 1;
        }
        Ok(stamps)
    }

    async fn by_first_replica(
        &self,
        place: usize,
        items: Vec<ConditionalItem>,
    ) -> Result<Vec<Stamped>, ApiError> {
        if self.terms.ticket.is_some() {
            let mut ids: Vec<ObjectId> = items.iter().map(|item| item.id).collect();
            ids.sort_unstable();
            if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(twice(pair[0]));
            }
        }
        let health = self.core.registry.health();
        let shard = &self.route.shards[place];
        let mut last = None;
        for replica in 0..shard.replicas.len() {
            let at = shard.at(replica);
            let is_able = if at.is_here {
                self.core.registry.view(at.id).is_ok()
            } else {
                health.of(at.node).is_alive
            };
            if !is_able {
                continue;
            }
            let made = if at.is_here {
                self.here(place, at, items.clone()).await
            } else {
                Box::pin(self.there(at, &items)).await
            };
            match made {
                Err(error) if error.retry == Retry::Safe => last = Some(error),
                made => return made,
            }
        }
        Err(last.unwrap_or_else(|| {
            let message = format!("no replica of shard {} can be reached", shard.id);
            ApiError::transient(ErrorCode::Unavailable, message)
        }))
    }

    async fn here(
        &self,
        place: usize,
        at: ShardAt,
        items: Vec<ConditionalItem>,
    ) -> Result<Vec<Stamped>, ApiError> {
        let Self { core, route, terms, deadline } = *self;
        let left_us = deadline.left().map_or(0, |left| left.as_micros().max(1));
        let order = CoreRequest::Conditional(Box::new(Conditional {
            route: Arc::clone(route),
            place,
            level: terms.level,
            durability: terms.durability,
            ticket: terms.ticket,
            items,
            budget_us: u32::try_from(left_us).unwrap_or(u32::MAX),
        }));
        expect_reply!(core.write_home(at.home, order).await?, Stamped)
    }

    async fn there(
        &self,
        at: ShardAt,
        items: &[ConditionalItem],
    ) -> Result<Vec<Stamped>, ApiError> {
        let Self { core, route, terms, deadline } = *self;
        let mut wire = WriteTerms::new(Some(terms.level), wire_durability(terms.durability));
        let conditions: Vec<Condition> = items.iter().map(|item| item.condition).collect();
        wire.set_conditions(&conditions);
        let is_merge = |item: &ConditionalItem| matches!(item.change, ConditionalChange::Merge(_));
        let mut message = ReplicaConditionalRequest {
            head: remote::head(core, route),
            shard: at.id.0,
            terms: wire,
            stamp: terms.ticket.map_or_else(Vec::new, |stamp| stamp.encode().to_vec()),
            merge: u8::from(items.iter().any(is_merge)),
            ends: Vec::with_capacity(items.len()),
            writes: Vec::new(),
        };
        for item in items {
            write_of(item).encode(&mut message.writes);
            message.ends.push(message.writes.len() as u32);
        }
        let reply = remote::write(core, Party::home_of(&at), &message, deadline).await?;
        // Whatever is wrong with the answer, the other node has worked on the request.
        let decoded = reply.decode::<ReplicaConditionalReply>();
        let outcomes = decoded.map_err(|error| ApiError::unknown(error.message))?.into_results();
        if outcomes.len() != items.len() {
            return Err(ApiError::unknown(reply.broken("not one outcome an object").message));
        }
        Ok(outcomes)
    }
}

/// A change as it travels; its stamp means nothing.
fn write_of(item: &ConditionalItem) -> StampedWrite {
    let stamp = Stamp::default();
    let change = match item.change.clone() {
        ConditionalChange::Replace(put) | ConditionalChange::Merge(put) => put_of(put, stamp),
        ConditionalChange::Delete => StampedChange::Delete,
    };
    StampedWrite { id: item.id, stamp, change, exact: false }
}

/// A change that has travelled.
pub(in crate::dispatch) fn item_of(
    write: StampedWrite,
    condition: Condition,
    merge: bool,
) -> ConditionalItem {
    let id = write.id;
    let change = match write.change {
        StampedChange::Put { vectors, properties, .. } => {
            let put = PutItem { id, properties, vectors };
            if merge { ConditionalChange::Merge(put) } else { ConditionalChange::Replace(put) }
        }
        StampedChange::Delete => ConditionalChange::Delete,
    };
    ConditionalItem { condition, id, change }
}

fn twice(id: ObjectId) -> ApiError {
    let message = format!("object {id} is named twice beside a ticket");
    ApiError::new(ErrorCode::InvalidArgument, message, "each object once: a ticket is one stamp")
}

/// The error that all of them have met, if it is the same one.
fn common_error(outcomes: &[Stamped]) -> Option<ApiError> {
    let first = outcomes.first()?.as_ref().err()?;
    let is_same = |outcome: &Stamped| outcome.as_ref().err() == Some(first);
    outcomes.iter().all(is_same).then(|| first.clone())
}
