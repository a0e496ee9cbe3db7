//! The envelope of every packet: who sent it, which one it is, and a seal over all of it.

use std::fmt;

use heddle_types::NodeId;
use uuid::Uuid;

use super::counters::DropReason;
use super::details::{DETAILS_BYTES, Details};
use super::identity::{Incarnation, RUN_BYTES, Run};
use super::settings::PACKET_BYTES_MAX;

/// First bytes of each packet.
pub const MAGIC: [u8; 4] = *b"HDLG";
/// The version this code writes, and the only one it reads.
pub const VERSION: u8 = 1;

const SEALED_BYTES: usize = 72;
const SEAL_BYTES: usize = blake3::OUT_LEN;
/// Bytes before the body.
pub const ENVELOPE_BYTES: usize = SEALED_BYTES + SEAL_BYTES;

/// What packets are sealed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; blake3::KEY_LEN]);

impl Key {
    /// The key of a cluster's secret.
    ///
    /// An empty secret gives a key that everybody knows: the seal then finds damage and packets of
    /// other clusters, and keeps nobody out.
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> Self {
        Self(blake3::derive_key("heddle 2026 gossip packet seal 1", secret))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a packet is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A message of foca.
    Gossip,
    /// Proves that its sender lives, or asks for such a proof.
    Handshake,
    /// Tells a node that another process claims to be it.
    Conflict,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Gossip => 0,
            Self::Handshake => 1,
            Self::Conflict => 2,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        [Self::Gossip, Self::Handshake, Self::Conflict].into_iter().find(|k| k.number() == number)
    }
}

/// An opened packet: the seal was right, nothing else is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// What it is for.
    pub kind: Kind,
    /// Who sent it.
    pub sender: Run,
    /// Which packet of the sender's run it is, from 1.
    pub counter: u64,
    /// The run of the receiver it is meant for; 0 when the sender knows none.
    pub target: u64,
    /// What its kind says.
    pub body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Opens a packet. Errors: why it must be dropped; nothing of it may be used then.
    ///
    /// Cost: one hash over the packet.
    pub fn open(bytes: &'a [u8], cluster: Uuid, key: &Key) -> Result<Self, DropReason> {
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(DropReason::Oversized);
        }
        let (sealed, rest) =
            bytes.split_first_chunk::<SEALED_BYTES>().ok_or(DropReason::Truncated)?;
        let (seal, body) = rest.split_first_chunk::<SEAL_BYTES>().ok_or(DropReason::Truncated)?;
        if sealed[..4] != MAGIC {
            return Err(DropReason::Foreign);
        }
        if sealed[4] != VERSION {
            return Err(DropReason::Version);
        }
        if sealed[8..24] != *cluster.as_bytes() {
            return Err(DropReason::Cluster);
        }
        // The comparison of hashes takes the same time wherever they differ.
        if key.seal(sealed, body) != blake3::Hash::from_bytes(*seal) {
            return Err(DropReason::Forged);
        }
        let kind = Kind::of_number(sealed[5]).ok_or(DropReason::Malformed)?;
        let sender = run_at(sealed, 24);
        if sender.incarnation.run == 0 {
            return Err(DropReason::Malformed);
        }
        let (counter, target) = (number_at(sealed, 56), number_at(sealed, 64));
        Ok(Self { kind, sender, counter, target, body })
    }

    /// The packet as bytes.
    #[must_use]
    pub fn seal(&self, cluster: Uuid, key: &Key) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + self.body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, self.kind.number(), 0, 0]);
        bytes.extend_from_slice(cluster.as_bytes());
        self.sender.encode(&mut bytes);
        bytes.extend_from_slice(&self.counter.to_le_bytes());
        bytes.extend_from_slice(&self.target.to_le_bytes());
        debug_assert_eq!(bytes.len(), SEALED_BYTES);
        let seal = key.seal(&bytes, self.body);
        bytes.extend_from_slice(seal.as_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }
}

impl Key {
    fn seal(&self, sealed: &[u8], body: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(sealed);
        hasher.update(body);
        hasher.finalize()
    }

    /// Puts the right seal on bytes that are long enough to have one: for tests that damage the
    /// rest.
    pub fn mend(&self, bytes: &mut [u8]) {
        let Some((sealed, rest)) = bytes.split_first_chunk::<SEALED_BYTES>() else { return };
        let Some((_, body)) = rest.split_first_chunk::<SEAL_BYTES>() else { return };
        let seal = self.seal(sealed, body);
        bytes[SEALED_BYTES..ENVELOPE_BYTES].copy_from_slice(seal.as_bytes());
    }
}

fn number_at(bytes: &[u8; SEALED_BYTES], offset: usize) -> u64 {
    u64::from_le_bytes(*bytes[offset..].first_chunk().expect("the offsets are in the envelope"))
}

fn run_at(bytes: &[u8; SEALED_BYTES], offset: usize) -> Run {
    let node = *bytes[offset..].first_chunk().expect("the offsets are in the envelope");
    let boot = number_at(bytes, offset + 16);
    let incarnation = Incarnation { boot, run: number_at(bytes, offset + 24) };
    Run { node: NodeId(Uuid::from_bytes(node)), incarnation }
}

/// Body of a [`Kind::Handshake`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Handshake {
    /// The receiver shall send this number back; 0 for none.
    pub(super) challenge: u64,
    /// The number the receiver had sent; 0 for none.
    pub(super) answer: u64,
    /// What the sender offers.
    pub(super) details: Details,
}

impl Handshake {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + DETAILS_BYTES);
        bytes.extend_from_slice(&self.challenge.to_le_bytes());
        bytes.extend_from_slice(&self.answer.to_le_bytes());
        self.details.encode(&mut bytes);
        bytes
    }

    /// Reads the body of a packet of `sender`, who must speak of itself.
    pub(super) fn decode(body: &[u8], sender: Run) -> Result<Self, DropReason> {
        let (challenge, body) = body.split_first_chunk().ok_or(DropReason::Malformed)?;
        let (answer, body) = body.split_first_chunk().ok_or(DropReason::Malformed)?;
        let details = Details::decode(body).map_err(|_error| DropReason::Malformed)?;
        if details.run != sender {
            return Err(DropReason::Malformed);
        }
        let (challenge, answer) = (u64::from_le_bytes(*challenge), u64::from_le_bytes(*answer));
        Ok(Self { challenge, answer, details })
    }
}

/// Body of a [`Kind::Conflict`]: the two runs of one node that live at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Notice(pub(super) [Run; 2]);

impl Notice {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 * RUN_BYTES);
        self.0.iter().for_each(|run| run.encode(&mut bytes));
        bytes
    }

    pub(super) fn decode(mut body: &[u8]) -> Result<Self, DropReason> {
        let mut next = || Run::decode(&mut body).map_err(|_error| DropReason::Malformed);
        let notice = Self([next()?, next()?]);
        if body.is_empty() { Ok(notice) } else { Err(DropReason::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Offer;
    use super::*;

    const FIXTURE: &[u8] = include_bytes!("../../tests/fixtures/gossip-packet-1.bin");

    fn cluster() -> Uuid {
        Uuid::from_u128(0x1122_3344_5566_7788_99AA_BBCC_DDEE_FF00)
    }

    fn handshake() -> Handshake {
        let node = NodeId(Uuid::from_u128(0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10));
        let run = Run { node, incarnation: Incarnation { boot: 3, run: 0x5EED } };
        let offer = Offer {
            raft_port: 7_500,
            peer_port: 7_600,
            cores: 2,
            load_permille: 250,
            disk_free_bytes: 1 << 40,
        };
        let details = Details { run, sequence: 9, offer };
        Handshake { challenge: 0xC0FFEE, answer: 0xBEEF, details }
    }

    fn packet(body: &[u8]) -> Packet<'_> {
        let sender = handshake().details.run;
        Packet { kind: Kind::Handshake, sender, counter: 77, target: 0xABCD, body }
    }

    #[test]
    fn the_packet_of_version_1_is_read_and_written_as_it_was() {
        let key = Key::from_secret(b"fixture");
        let body = handshake().encode();
        let written = packet(&body).seal(cluster(), &key);
        assert_eq!(written, FIXTURE);
        let read = Packet::open(FIXTURE, cluster(), &key).unwrap();
        assert_eq!(read, packet(&body));
        assert_eq!(Handshake::decode(read.body, read.sender), Ok(handshake()));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let key = Key::from_secret(b"secret");
        let body = handshake().encode();
        let bytes = packet(&body).seal(cluster(), &key);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0..4 => DropReason::Foreign,
                4 => DropReason::Version,
                8..24 => DropReason::Cluster,
                _ => DropReason::Forged,
            };
            assert_eq!(Packet::open(&damaged, cluster(), &key), Err(expected), "bit {bit}");
        }
        for length in 0..bytes.len() {
            let short = length < ENVELOPE_BYTES;
            let expected = if short { DropReason::Truncated } else { DropReason::Forged };
            assert_eq!(Packet::open(&bytes[..length], cluster(), &key), Err(expected));
        }
        let long = [&bytes[..], &[0; PACKET_BYTES_MAX]].concat();
        assert_eq!(Packet::open(&long, cluster(), &key), Err(DropReason::Oversized));
    }

    #[test]
    fn a_secret_keeps_others_out_and_none_lets_everyone_in() {
        let body = handshake().encode();
        let bytes = packet(&body).seal(cluster(), &Key::from_secret(b"theirs"));
        let opened = Packet::open(&bytes, cluster(), &Key::from_secret(b"ours"));
        assert_eq!(opened, Err(DropReason::Forged));
        let open_to_all = packet(&body).seal(cluster(), &Key::from_secret(b""));
        assert!(Packet::open(&open_to_all, cluster(), &Key::from_secret(b"")).is_ok());
    }

    #[test]
    fn a_mended_packet_with_an_unknown_kind_or_no_run_is_malformed() {
        let key = Key::from_secret(b"secret");
        let bytes = packet(&[]).seal(cluster(), &key);
        for (offset, value) in [(5, vec![3]), (48, vec![0; 8])] {
            let mut changed = bytes.clone();
            changed[offset..offset + value.len()].copy_from_slice(&value);
            key.mend(&mut changed);
            let opened = Packet::open(&changed, cluster(), &key);
            assert_eq!(opened, Err(DropReason::Malformed));
        }
    }

    #[test]
    fn bodies_of_another_length_or_of_another_sender_are_malformed() {
        let (body, sender) = (handshake().encode(), handshake().details.run);
        let other = Run { node: NodeId::from(1), ..sender };
        assert_eq!(Handshake::decode(&body, other), Err(DropReason::Malformed));
        let notice = Notice([sender, other]);
        assert_eq!(Notice::decode(&notice.encode()), Ok(notice));
        for length in 0..body.len() {
            assert_eq!(Handshake::decode(&body[..length], sender), Err(DropReason::Malformed));
        }
        for length in 0..2 * RUN_BYTES {
            let cut = Notice::decode(&notice.encode()[..length]);
            assert_eq!(cut, Err(DropReason::Malformed));
        }
        let longer = [&notice.encode()[..], &[0]].concat();
        assert_eq!(Notice::decode(&longer), Err(DropReason::Malformed));
    }
}
