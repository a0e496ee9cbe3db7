//! How a write is to be made: what its request says, or else the defaults.

use heddle_core::engine::Durability;
use heddle_types::{ApiError, Consistency, Stamp};
use heddle_wire::message::{ArchivedWriteTerms, Condition};

use super::tickets;
use crate::core::Core;
use crate::registry::CollectionRoute;

/// How a write is to be made.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) level: Consistency,
    pub(super) durability: Durability,
    /// The stamp of its ticket.
    pub(super) ticket: Option<Stamp>,
    /// What must hold of each object; empty for nothing.
    pub(super) conditions: Vec<Condition>,
}

impl Terms {
    /// Of a plain request.
    pub(super) fn plain(durability: Durability) -> Self {
        let level = Consistency::Quorum;
        Self { level, durability, ticket: None, conditions: Vec::new() }
    }

    /// Of a request that brings its terms. Errors: those of a ticket that is not good.
    pub(super) fn of(core: &Core, terms: &ArchivedWriteTerms) -> Result<Self, ApiError> {
        let ticket = terms.ticket().map(|ticket| tickets::redeem(core, &ticket)).transpose()?;
        Ok(Self {
            level: terms.level(),
            durability: super::durability(terms.durability()),
            ticket,
            conditions: terms.conditions(),
        })
    }

    /// Are writes to this collection coordinated, rather than stamped by the home core of each
    /// shard?
    pub(super) fn are_coordinated(&self, route: &CollectionRoute) -> bool {
        route.is_replicated || self.ticket.is_some() || !self.conditions.is_empty()
    }

    /// What must hold of the object at a position of the request.
    pub(super) fn condition(&self, position: usize) -> Condition {
        self.conditions.get(position).copied().unwrap_or_default()
    }
}
