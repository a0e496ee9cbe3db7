//! The stored form of the cluster's state, and its hash.
//!
//! ```text
//!  0        8        12       16           24        28        32
//! ┌────────┬────────┬────────┬────────────┬─────────┬─────────┐
//! │ magic  │ version│ zero   │ length     │ payload │ header  │ payload …
//! │ 8 B    │ u32    │ u32    │ u64        │ crc u32 │ crc u32 │ (JSON)
//! └────────┴────────┴────────┴────────────┴─────────┴─────────┘
//! ```
//!
//! All numbers little endian, checksums CRC-32C. The JSON is canonical: fields in the order of the
//! source, maps in the order of their keys, so equal states have equal bytes.

use super::state::ClusterState;
use super::validate::Inconsistency;
use crate::catalog::TENANT_BYTES_MAX;

const MAGIC: &[u8; 8] = b"HDLCLUST";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
/// Largest encoded state (64 MiB, header included): one message between nodes, and a bound for what
/// a damaged length may ask for.
pub const CLUSTER_BYTES_MAX: usize = 64 << 20;

/// Largest canonical state without tenants in which a collection may be created (28 MiB). Tenants
/// may take 32 MiB, of which they count what they take at most; the 4 MiB that are left hold what
/// can be added otherwise: 1.3 MiB of nodes, 1 MiB of dimensions, 0.2 MiB of aliases, 0.2 MiB of
/// removed nodes, 0.1 MiB of recent commands.
pub(super) const CREATE_BYTES_MAX: usize = 28 << 20;

const _: () =
    assert!(CREATE_BYTES_MAX + TENANT_BYTES_MAX as usize + (4 << 20) <= CLUSTER_BYTES_MAX);

/// The state does not fit its stored form. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cluster's state of {found} bytes is above the limit {CLUSTER_BYTES_MAX}")]
pub struct EncodeError {
    /// Its size.
    pub found: usize,
}

/// Bytes that are no state of a cluster. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than a header, or than the header says.
    #[error("{found} bytes, expected {expected}")]
    Short {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be at least.
        expected: u64,
    },
    /// More bytes than any state has.
    #[error("{found} bytes are above the limit {CLUSTER_BYTES_MAX}")]
    TooLarge {
        /// Bytes there are.
        found: usize,
    },
    /// The header is damaged or starts something else.
    #[error("the header's magic or checksum is wrong")]
    Header,
    /// The state was written by a newer version.
    #[error("format version {found}, this server reads up to {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The payload is damaged.
    #[error("the payload's checksum is {found:#010x}, expected {expected:#010x}")]
    Payload {
        /// Checksum of the bytes that are there.
        found: u32,
        /// Checksum in the header.
        expected: u32,
    },
    /// The payload is whole and no state: a bug of its writer.
    #[error("the payload is not a cluster's state: {what}")]
    Malformed {
        /// What does not parse.
        what: String,
    },
    /// The payload is a state that no commands make.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistency),
}

impl ClusterState {
    /// The stored form.
    ///
    /// Errors: [`EncodeError`] above [`CLUSTER_BYTES_MAX`]. Cost: one pass, one buffer.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let payload = self.canonical();
        let found = HEADER_BYTES + payload.len();
        if found > CLUSTER_BYTES_MAX {
            return Err(EncodeError { found });
        }
        let mut bytes = Vec::with_capacity(found);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(&payload);
        Ok(bytes)
    }

    /// Reads what [`ClusterState::encode`] wrote, from a disk or a peer, and checks all of it.
    ///
    /// Memory is taken as bytes are parsed, never for a length that they claim.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let found = bytes.len();
        if found > CLUSTER_BYTES_MAX {
            return Err(DecodeError::TooLarge { found });
        }
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Short { found, expected: HEADER_BYTES as u64 });
        };
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let length = u64::from_le_bytes(std::array::from_fn(|i| header[16 + i]));
        if header[..8] != MAGIC[..] || u32_at(28) != crc32c::crc32c(&header[..28]) {
            return Err(DecodeError::Header);
        }
        if u32_at(8) > VERSION {
            return Err(DecodeError::Version { found: u32_at(8) });
        }
        if rest.len() as u64 != length {
            let expected = length.saturating_add(HEADER_BYTES as u64);
            return Err(DecodeError::Short { found, expected });
        }
        let (found, expected) = (crc32c::crc32c(rest), u32_at(24));
        if found != expected {
            return Err(DecodeError::Payload { found, expected });
        }
        let state: Self = serde_json::from_slice(rest)
            .map_err(|error| DecodeError::Malformed { what: error.to_string() })?;
        state.validate()?;
        Ok(state)
    }

    /// A fingerprint of the whole state: equal on two nodes exactly when their states are.
    ///
    /// murmur3 x64 128 over the canonical JSON, seed 0; for comparing, not for secrets.
    #[must_use]
    pub fn hash(&self) -> u128 {
        let canonical = self.canonical();
        murmur3::murmur3_x64_128(&mut canonical.as_slice(), 0)
            .expect("reading from memory cannot fail")
    }

    /// The canonical JSON.
    pub(super) fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("every key of the state is a string or a number")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{busy_state, node};
    use super::*;

    #[test]
    fn a_state_is_read_back_and_has_the_same_hash() {
        for state in [ClusterState::default(), busy_state()] {
            let back = ClusterState::decode(&state.encode().unwrap()).unwrap();
            assert_eq!(back, state);
            assert_eq!(back.hash(), state.hash());
        }
    }

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cluster-1.bin");

    /// As it was before clusters had identities.
    fn nameless() -> ClusterState {
        ClusterState { cluster: None, ..busy_state() }
    }

    #[test]
    fn a_state_of_version_1_is_read_written_and_hashed_as_it_was() {
        let encoded = nameless().encode().unwrap();
        if std::env::var_os("HEDDLE_WRITE_FIXTURES").is_some() && !std::fs::exists(FIXTURE).unwrap()
        {
            std::fs::write(FIXTURE, &encoded).unwrap();
        }
        let stored = std::fs::read(FIXTURE).unwrap();
        assert_eq!(ClusterState::decode(&stored), Ok(nameless()));
        assert!(stored == encoded, "a state is encoded differently than in version 1");
        let hashes = (ClusterState::default().hash(), nameless().hash());
        assert_eq!(
            hashes,
            (0x5cb7_167d_2a1f_076d_9eec_ab13_2807_6eb8, 0xbf4e_9018_a8cb_2d8e_eabb_fc65_69c2_73b0)
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = busy_state().encode().unwrap();
        for offset in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[offset] ^= 1 << (offset % 8);
            ClusterState::decode(&bytes).unwrap_err();
            ClusterState::decode(&whole[..offset]).unwrap_err();
        }
        let mut longer = whole;
        longer.push(0);
        assert!(matches!(ClusterState::decode(&longer), Err(DecodeError::Short { .. })));
    }

    /// The bytes of a payload with a header that fits it.
    fn wrapped(version: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_newer_version_and_a_payload_that_is_no_state_are_named() {
        let payload = ClusterState::default().canonical();
        assert_eq!(ClusterState::decode(&wrapped(VERSION, &payload)), Ok(ClusterState::default()));
        let newer = ClusterState::decode(&wrapped(VERSION + 1, &payload));
        assert_eq!(newer, Err(DecodeError::Version { found: 2 }));
        let other = ClusterState::decode(&wrapped(VERSION, b"{\"catalog\":[]}"));
        assert!(matches!(other, Err(DecodeError::Malformed { .. })), "{other:?}");
        let deep = ClusterState::decode(&wrapped(VERSION, &[b'['; 100_000]));
        assert!(matches!(deep, Err(DecodeError::Malformed { .. })), "{deep:?}");
    }

    #[test]
    fn a_payload_that_no_commands_make_is_refused_by_name() {
        let text = String::from_utf8(busy_state().canonical()).unwrap();
        let (first, second) = (node(1).id.to_string(), node(2).id.to_string());
        for (from, to, part) in [
            ("\"data_cores\":2".to_owned(), "\"data_cores\":1".to_owned(), "is at home on core"),
            (
                format!("\"{second}\":{{\"id\":\"{second}\""),
                format!("\"{second}\":{{\"id\":\"{first}\""),
                "calls itself",
            ),
            ("\"state\":\"voter\"".to_owned(), "\"state\":\"learner\"".to_owned(), "no node votes"),
            (
                "\"virtual_per_physical\":128".to_owned(),
                "\"virtual_per_physical\":64".to_owned(),
                "virtual shards",
            ),
            ("\"factor\":2".to_owned(), "\"factor\":3".to_owned(), "replicas, not 3"),
            ("\"shards_made\":".to_owned(), "\"shards_made\":0,\"x\":".to_owned(), "shards made"),
            ("\"epoch\":".to_owned(), "\"epoch\":900000000000000000".to_owned(), "epoch is"),
        ] {
            assert!(text.contains(&from), "{from}");
            let changed = text.replace(&from, &to);
            let refused = ClusterState::decode(&wrapped(VERSION, changed.as_bytes()));
            let message = refused.expect_err("the state is impossible").to_string();
            assert!(message.contains(part), "{from} -> {to}: {message}");
        }
    }
}
