//! Tickets: stamps that are given out before they are used, so that a write which is sent again is
//! the same write.
//!
//! A ticket is a stamp and a tag that only nodes of the cluster can make; any of them accepts it.

use std::rc::Rc;

use heddle_core::engine::Engine;
use heddle_types::limits::STAMP_AHEAD_US_MAX;
use heddle_types::{ApiError, Clock, ErrorCode, Stamp};
use heddle_wire::message::{STAMP_BYTES, TICKET_BYTES, TicketsReply, TicketsRequest};
use heddle_wire::{Frame, access};

use crate::core::Core;
use crate::limits::TICKET_GOOD_S;
use crate::server::request::RequestFrame;

/// Separates these tags from other uses of the cluster's secret.
const CONTEXT: &str = "heddle 2026 write ticket 1";

fn tag(secret: &[u8], stamp: &[u8; STAMP_BYTES]) -> [u8; TICKET_BYTES - STAMP_BYTES] {
    let key = blake3::derive_key(CONTEXT, secret);
    let hash = blake3::keyed_hash(&key, stamp);
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn ticket_of(secret: &[u8], stamp: &Stamp) -> [u8; TICKET_BYTES] {
    let stamp = stamp.encode();
    let mut ticket = [0; TICKET_BYTES];
    ticket[..STAMP_BYTES].copy_from_slice(&stamp);
    ticket[STAMP_BYTES..].copy_from_slice(&tag(secret, &stamp));
    ticket
}

/// The stamp of a ticket that is good at `now_us`.
///
/// Errors: `InvalidArgument` for one that no node of the cluster gave out, or that is too old.
fn stamp_of(secret: &[u8], ticket: &[u8; TICKET_BYTES], now_us: u64) -> Result<Stamp, ApiError> {
    let (stamp, given) = ticket.split_first_chunk::<STAMP_BYTES>().expect("a ticket has a stamp");
    let refuse = |what: &str| {
        let expected = format!("a ticket of this cluster, not older than {TICKET_GOOD_S} s");
        Err(ApiError::new(ErrorCode::InvalidArgument, what, expected))
    };
    // In time that does not depend on where they differ.
    let expected = tag(secret, stamp);
    let differing = given.iter().zip(&expected).fold(0, |seen, (a, b)| seen | (a ^ b));
    if differing != 0 {
        return refuse("the ticket was not given out by this cluster");
    }
    let stamp = Stamp::decode(stamp);
    let at_us = stamp.hlc.unix_us();
    if at_us.saturating_add(u64::from(TICKET_GOOD_S) * 1_000_000) < now_us {
        return refuse("the ticket is too old");
    }
    if at_us > now_us.saturating_add(STAMP_AHEAD_US_MAX) {
        let message = "the ticket is ahead of the clock of this node";
        return Err(ApiError::transient(ErrorCode::ClockSkew, message));
    }
    Ok(stamp)
}

/// The stamp that a ticket stands for. Errors: as for a ticket that is not good.
pub(super) fn redeem(core: &Core, ticket: &[u8; TICKET_BYTES]) -> Result<Stamp, ApiError> {
    stamp_of(core.node.config.cluster_secret.as_bytes(), ticket, core.clock.unix_us())
}

/// Answers a request for tickets.
pub(super) async fn answer(core: &Rc<Core>, request: &RequestFrame) -> Result<Frame, ApiError> {
    let count = access::<TicketsRequest>(&request.body)?.count.to_native();
    let engine: Engine<_, _> = core.engine()?;
    let mut reply = TicketsReply { tickets: Vec::new(), good_s: TICKET_GOOD_S };
    for _ in 0..count {
        let stamp = engine.issue_stamp().await?;
        reply
            .tickets
            .extend_from_slice(&ticket_of(core.node.config.cluster_secret.as_bytes(), &stamp));
    }
    super::reply(request, &reply)
}

#[cfg(test)]
mod tests {
    use heddle_types::{Hlc, NodeId};

    use super::*;

    #[test]
    fn a_ticket_is_good_for_its_cluster_and_its_time_alone() {
        let given_us = 1_800_000_000_000_000;
        let hlc = Hlc::from_unix_us(given_us);
        let stamp = Stamp { hlc, boot: 3, core: 1, node: NodeId::from(7) };
        let ticket = ticket_of(b"secret", &stamp);
        assert_eq!(stamp_of(b"secret", &ticket, given_us + 59_000_000), Ok(stamp));
        let code = |secret: &[u8], ticket: &[u8; TICKET_BYTES], now_us| {
            stamp_of(secret, ticket, now_us).unwrap_err().code
        };
        assert_eq!(code(b"secret", &ticket, given_us + 61_000_000), ErrorCode::InvalidArgument);
        assert_eq!(code(b"other", &ticket, given_us), ErrorCode::InvalidArgument);
        assert_eq!(code(b"secret", &ticket, given_us - 600_000), ErrorCode::ClockSkew);
        for at in [0, 9, STAMP_BYTES, TICKET_BYTES - 1] {
            let mut forged = ticket;
            forged[at] ^= 1;
            assert_eq!(code(b"secret", &forged, given_us), ErrorCode::InvalidArgument, "byte {at}");
        }
    }
}
