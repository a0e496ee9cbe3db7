//! The bytes of the four messages, and of the refusal that may stand for any of them.
//!
//! ```text
//! hello                                  challenge                   proof, accepted
//!  0  version u16                         0  version u16              0  MAC 32
//!  2  lane u8                             2  zero 2
//!  3  zero                                4  core u32
//!  4  core u32                            8  boot u64
//!  8  boot u64                           16  node 16
//! 16  node 16                            32  nonce 32
//! 32  expected node 16, zero for any
//! 48  nonce 32                           64  cluster 16, zero for none
//! 80  cluster 16, zero for none
//! 96  name of the cluster, 1 to 128
//! ```

use heddle_types::limits::NAME_LENGTH_BYTES_MAX;
use heddle_types::{ApiError, ClusterId, NodeId};
use heddle_wire::kind::{ERROR_NUMBER, REPLY_BIT};
use heddle_wire::message::ErrorReply;
use heddle_wire::{AlignedVec, Header, VERSION, decode};
use uuid::Uuid;

use super::{End, HandshakeError, LINK_VERSION, Lane, NONCE_BYTES, Nonce, Received};

/// Number of the hello.
pub const HELLO_NUMBER: u16 = 0x0100;
/// Number of the challenge.
pub const CHALLENGE_NUMBER: u16 = HELLO_NUMBER | REPLY_BIT;
/// Number of the dialer's proof.
pub const PROOF_NUMBER: u16 = 0x0101;
/// Number of the acceptor's proof.
pub const ACCEPTED_NUMBER: u16 = PROOF_NUMBER | REPLY_BIT;
/// Largest body of a handshake (1 KiB): a refusal with its texts.
pub const HANDSHAKE_BODY_BYTES_MAX: usize = 1 << 10;

/// Bytes of a proof.
pub(super) const PROOF_BYTES: usize = blake3::OUT_LEN;

const HELLO_BYTES_MIN: usize = 96;
const CHALLENGE_BYTES: usize = 80;

const _: () = assert!(HELLO_BYTES_MIN + NAME_LENGTH_BYTES_MAX <= HANDSHAKE_BODY_BYTES_MAX);

/// The first message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) end: End,
    pub(super) lane: Lane,
    pub(super) expected: Option<NodeId>,
    pub(super) nonce: Nonce,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) cluster: String,
}

/// The second message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Challenge {
    pub(super) end: End,
    pub(super) nonce: Nonce,
    pub(super) cluster_id: Option<ClusterId>,
}

impl Hello {
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HELLO_BYTES_MIN + self.cluster.len());
        encode_end(self.lane.number(), &self.end, &mut body);
        body.extend_from_slice(self.expected.unwrap_or(NodeId(Uuid::nil())).0.as_bytes());
        body.extend_from_slice(&self.nonce);
        encode_cluster(self.cluster_id, &mut body);
        body.extend_from_slice(self.cluster.as_bytes());
        body
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(HELLO_NUMBER, &self.body())
    }

    pub(super) fn decode(received: Received<'_>) -> Result<Self, HandshakeError> {
        const MESSAGE: &str = "hello";
        let body = open(HELLO_NUMBER, received)?;
        let length = HandshakeError::Length {
            message: MESSAGE,
            found: body.len(),
            expected: HELLO_BYTES_MIN + 1,
        };
        let Some((fixed, name)) = body.split_first_chunk::<HELLO_BYTES_MIN>() else {
            return Err(length);
        };
        let mut reader = Reader { rest: fixed, message: MESSAGE };
        let (lane, end) = reader.end()?;
        let expected = NodeId(Uuid::from_bytes(reader.array()));
        let nonce = reader.array::<NONCE_BYTES>();
        let cluster_id = reader.cluster();
        if name.is_empty() || name.len() > NAME_LENGTH_BYTES_MAX {
            return Err(length);
        }
        let cluster = str::from_utf8(name).map_err(|_not| HandshakeError::ClusterText)?.to_owned();
        let lane = Lane::from_number(lane).ok_or(HandshakeError::Field {
            message: MESSAGE,
            field: "the lane",
            found: u64::from(lane),
        })?;
        let expected = Some(expected).filter(|node| !node.0.is_nil());
        Ok(Self { end, lane, expected, nonce, cluster_id, cluster })
    }
}

impl Challenge {
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(CHALLENGE_BYTES);
        encode_end(0, &self.end, &mut body);
        body.extend_from_slice(&self.nonce);
        encode_cluster(self.cluster_id, &mut body);
        body
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(CHALLENGE_NUMBER, &self.body())
    }

    pub(super) fn decode(received: Received<'_>) -> Result<Self, HandshakeError> {
        const MESSAGE: &str = "challenge";
        let body = open(CHALLENGE_NUMBER, received)?;
        let fixed: &[u8; CHALLENGE_BYTES] = exactly(MESSAGE, body)?;
        let mut reader = Reader { rest: fixed, message: MESSAGE };
        let (zero, end) = reader.end()?;
        if zero != 0 {
            let found = u64::from(zero);
            return Err(HandshakeError::Field { message: MESSAGE, field: "a zero", found });
        }
        let nonce = reader.array();
        Ok(Self { end, nonce, cluster_id: reader.cluster() })
    }
}

/// A proof as a frame.
pub(super) fn encode_proof(number: u16, proof: &blake3::Hash) -> Vec<u8> {
    encode(number, proof.as_bytes())
}

pub(super) fn decode_proof(
    number: u16,
    received: Received<'_>,
) -> Result<[u8; PROOF_BYTES], HandshakeError> {
    exactly("proof", open(number, received)?).copied()
}

fn exactly<'a, const N: usize>(
    message: &'static str,
    body: &'a [u8],
) -> Result<&'a [u8; N], HandshakeError> {
    let found = body.len();
    body.try_into().map_err(|_length| HandshakeError::Length { message, found, expected: N })
}

fn encode_end(lane: u8, end: &End, target: &mut Vec<u8>) {
    target.extend_from_slice(&LINK_VERSION.to_le_bytes());
    target.extend_from_slice(&[lane, 0]);
    target.extend_from_slice(&end.core.to_le_bytes());
    target.extend_from_slice(&end.boot.to_le_bytes());
    target.extend_from_slice(end.node.0.as_bytes());
}

fn encode_cluster(cluster: Option<ClusterId>, target: &mut Vec<u8>) {
    target.extend_from_slice(cluster.unwrap_or_default().0.as_bytes());
}

fn encode(number: u16, body: &[u8]) -> Vec<u8> {
    let header = Header {
        version: VERSION,
        type_number: number,
        body_length: body.len() as u32,
        body_crc32c: crc32c::crc32c(body),
        request_id: 0,
        deadline_us: 0,
    };
    [&header.encode()[..], body].concat()
}

/// The body of the message that is due.
fn open(number: u16, received: Received<'_>) -> Result<&[u8], HandshakeError> {
    let Received { header, body } = received;
    header.check_body(body)?;
    if header.type_number == ERROR_NUMBER {
        return Err(HandshakeError::Refused(refusal(body)?));
    }
    if header.type_number != number {
        return Err(HandshakeError::Type { found: header.type_number, expected: number });
    }
    Ok(body)
}

fn refusal(body: &[u8]) -> Result<ApiError, HandshakeError> {
    // The layout is read where its numbers are aligned.
    let mut aligned = AlignedVec::<16>::with_capacity(body.len());
    aligned.extend_from_slice(body);
    Ok(decode::<ErrorReply>(&aligned)?.into())
}

/// Takes fields off the front of a body whose length was checked.
struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (front, rest) = self.rest.split_first_chunk().expect("the length was checked");
        self.rest = rest;
        *front
    }

    fn cluster(&mut self) -> Option<ClusterId> {
        let found = ClusterId(Uuid::from_bytes(self.array()));
        (found != ClusterId::default()).then_some(found)
    }

    /// The part that hello and challenge begin with: the lane, and who sends.
    fn end(&mut self) -> Result<(u8, End), HandshakeError> {
        let version = u16::from_le_bytes(self.array());
        if version != LINK_VERSION {
            return Err(HandshakeError::Version { found: version });
        }
        let [lane, zero] = self.array();
        let message = self.message;
        if zero != 0 {
            let found = u64::from(zero);
            return Err(HandshakeError::Field { message, field: "a zero", found });
        }
        let core = u32::from_le_bytes(self.array());
        let boot = u64::from_le_bytes(self.array());
        let node = NodeId(Uuid::from_bytes(self.array()));
        if node.0.is_nil() {
            return Err(HandshakeError::Field { message, field: "the node", found: 0 });
        }
        Ok((lane, End { node, boot, core }))
    }
}
