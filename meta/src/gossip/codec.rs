//! How foca's messages are laid out; docs/protocol.md has the same as a table.

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};
use thiserror::Error;

use super::details::DETAILS_BYTES;
use super::identity::{IDENTITY_BYTES, Identity};

/// Why bytes are no message, or a message does not fit. Nothing was changed in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes end within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// The kind of message is none of the known ones.
    #[error("message kind {found}, expected 0 to 10")]
    UnknownMessage {
        /// The number that was found.
        found: u8,
    },
    /// The state of a member is none of the known ones.
    #[error("member state {found}, expected 0 to 2")]
    UnknownState {
        /// The number that was found.
        found: u8,
    },
    /// Details have a fixed length.
    #[error("details of {found} bytes, expected {DETAILS_BYTES}")]
    DetailsLength {
        /// The length that was found.
        found: usize,
    },
    /// The packet has no room left.
    #[error("the packet has no room for it")]
    NoRoom,
}

const PING: u8 = 0;
const ACK: u8 = 1;
const PING_REQUEST: u8 = 2;
const INDIRECT_PING: u8 = 3;
const INDIRECT_ACK: u8 = 4;
const FORWARDED_ACK: u8 = 5;
const ANNOUNCE: u8 = 6;
const FEED: u8 = 7;
const GOSSIP: u8 = 8;
const BROADCAST: u8 = 9;
/// Tells its receiver that the sender holds it for down.
pub(super) const TURN_UNDEAD: u8 = 10;

/// Where the kind of the message stands.
pub(super) const KIND_OFFSET: usize = 2 * IDENTITY_BYTES + 2;

const MEMBER_BYTES: usize = IDENTITY_BYTES + 2 + 1;

/// Sender, its refutation count, target, kind, and what belongs to the kind.
pub(super) struct WireCodec;

impl Codec<Identity> for WireCodec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buffer: impl BufMut,
    ) -> Result<(), CodecError> {
        // The longest kind: a probe number and one more identity.
        if buffer.remaining_mut() < KIND_OFFSET + 1 + 1 + IDENTITY_BYTES {
            return Err(CodecError::NoRoom);
        }
        header.src.encode(&mut buffer);
        buffer.put_u16_le(header.src_incarnation);
        header.dst.encode(&mut buffer);
        let (kind, probe, other) = match &header.message {
            Message::Ping(probe) => (PING, Some(*probe), None),
            Message::Ack(probe) => (ACK, Some(*probe), None),
            Message::PingReq { target, probe_number } => {
                (PING_REQUEST, Some(*probe_number), Some(target))
            }
            Message::IndirectPing { origin, probe_number } => {
                (INDIRECT_PING, Some(*probe_number), Some(origin))
            }
            Message::IndirectAck { target, probe_number } => {
                (INDIRECT_ACK, Some(*probe_number), Some(target))
            }
            Message::ForwardedAck { origin, probe_number } => {
                (FORWARDED_ACK, Some(*probe_number), Some(origin))
            }
            Message::Announce => (ANNOUNCE, None, None),
            Message::Feed => (FEED, None, None),
            Message::Gossip => (GOSSIP, None, None),
            Message::Broadcast => (BROADCAST, None, None),
            Message::TurnUndead => (TURN_UNDEAD, None, None),
        };
        buffer.put_u8(kind);
        if let Some(probe) = probe {
            buffer.put_u8(probe);
        }
        if let Some(other) = other {
            other.encode(&mut buffer);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buffer: impl Buf) -> Result<Header<Identity>, CodecError> {
        let src = Identity::decode(&mut buffer)?;
        let src_incarnation = short(&mut buffer)?;
        let dst = Identity::decode(&mut buffer)?;
        let kind = byte(&mut buffer)?;
        let probe_number = if kind <= FORWARDED_ACK { byte(&mut buffer)? } else { 0 };
        let message = match kind {
            PING => Message::Ping(probe_number),
            ACK => Message::Ack(probe_number),
            PING_REQUEST => {
                Message::PingReq { target: Identity::decode(&mut buffer)?, probe_number }
            }
            INDIRECT_PING => {
                Message::IndirectPing { origin: Identity::decode(&mut buffer)?, probe_number }
            }
            INDIRECT_ACK => {
                Message::IndirectAck { target: Identity::decode(&mut buffer)?, probe_number }
            }
            FORWARDED_ACK => {
                Message::ForwardedAck { origin: Identity::decode(&mut buffer)?, probe_number }
            }
            ANNOUNCE => Message::Announce,
            FEED => Message::Feed,
            GOSSIP => Message::Gossip,
            BROADCAST => Message::Broadcast,
            TURN_UNDEAD => Message::TurnUndead,
            found => return Err(CodecError::UnknownMessage { found }),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        mut buffer: impl BufMut,
    ) -> Result<(), CodecError> {
        if buffer.remaining_mut() < MEMBER_BYTES {
            return Err(CodecError::NoRoom);
        }
        member.id().encode(&mut buffer);
        buffer.put_u16_le(member.incarnation());
        buffer.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buffer: impl Buf) -> Result<Member<Identity>, CodecError> {
        let identity = Identity::decode(&mut buffer)?;
        let incarnation = short(&mut buffer)?;
        let state = match byte(&mut buffer)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            found => return Err(CodecError::UnknownState { found }),
        };
        Ok(Member::new(identity, incarnation, state))
    }
}

fn byte(buffer: &mut impl Buf) -> Result<u8, CodecError> {
    buffer.try_get_u8().map_err(|_short| CodecError::Truncated)
}

fn short(buffer: &mut impl Buf) -> Result<u16, CodecError> {
    buffer.try_get_u16_le().map_err(|_short| CodecError::Truncated)
}

#[cfg(test)]
mod tests {
    use heddle_types::NodeId;

    use super::super::Incarnation;
    use super::*;

    fn identity(node: u64) -> Identity {
        Identity {
            node: NodeId::from(node),
            incarnation: Incarnation { boot: 3, run: node * 7 },
            renewal: 1,
            gossip: "192.0.2.1:7946".parse().unwrap(),
        }
    }

    fn messages() -> Vec<Message<Identity>> {
        let (target, origin) = (identity(3), identity(4));
        vec![
            Message::Ping(1),
            Message::Ack(255),
            Message::PingReq { target: target.clone(), probe_number: 2 },
            Message::IndirectPing { origin: origin.clone(), probe_number: 3 },
            Message::IndirectAck { target, probe_number: 4 },
            Message::ForwardedAck { origin, probe_number: 5 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ]
    }

    #[test]
    fn every_message_survives_its_encoding_and_no_prefix_of_it_is_one() {
        for (kind, message) in messages().into_iter().enumerate() {
            let (src, dst) = (identity(1), identity(2));
            let header = Header { src, src_incarnation: 9, dst, message };
            let mut bytes = Vec::new();
            WireCodec.encode_header(&header, &mut bytes).unwrap();
            assert_eq!(usize::from(bytes[KIND_OFFSET]), kind);
            assert_eq!(WireCodec.decode_header(&bytes[..]), Ok(header));
            for length in 0..bytes.len() {
                let cut = WireCodec.decode_header(&bytes[..length]);
                assert_eq!(cut, Err(CodecError::Truncated));
            }
            bytes[KIND_OFFSET] = 11;
            let unknown = WireCodec.decode_header(&bytes[..]);
            assert_eq!(unknown, Err(CodecError::UnknownMessage { found: 11 }));
        }
    }

    #[test]
    fn every_state_survives_its_encoding_and_a_full_buffer_stays_as_it_was() {
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(identity(5), 300, state);
            let mut bytes = Vec::new();
            WireCodec.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(bytes.len(), MEMBER_BYTES);
            assert_eq!(WireCodec.decode_member(&bytes[..]), Ok(member.clone()));
            *bytes.last_mut().unwrap() = 3;
            let unknown = WireCodec.decode_member(&bytes[..]);
            assert_eq!(unknown, Err(CodecError::UnknownState { found: 3 }));
            let mut full = Vec::new().limit(MEMBER_BYTES - 1);
            assert_eq!(WireCodec.encode_member(&member, &mut full), Err(CodecError::NoRoom));
            assert!(full.get_ref().is_empty());
        }
    }
}
