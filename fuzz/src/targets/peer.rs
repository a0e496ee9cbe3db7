//! The first bytes of a connection between nodes, as either end hears them.

use heddle_meta::handshake::{
    Acceptor, Dialer, End, HANDSHAKE_BODY_BYTES_MAX, HandshakeError, Lane, LinkKey, NONCE_BYTES,
    Nonce, Party, Received, read_header,
};
use heddle_types::{ApiError, NodeId};
use heddle_wire::{HEADER_BYTES, Header, encode_error};

const DIALER_NONCE: Nonce = [1; NONCE_BYTES];
const ACCEPTOR_NONCE: Nonce = [2; NONCE_BYTES];

fn party(number: u64) -> Party {
    Party {
        end: End { node: NodeId::from(number), boot: 1, core: 0 },
        cluster: "fuzz".to_owned(),
        cluster_id: None,
        key: LinkKey::from_secret(b"fuzz"),
    }
}

/// Hands the bytes to both ends, as they are and with the checksums of each message made right.
pub fn run(data: &[u8]) {
    hear(data);
    hear(&mended(data));
}

fn hear(bytes: &[u8]) {
    if let Err(error) = dial(bytes) {
        check(&error);
    }
    if let Err(error) = accept(bytes) {
        check(&error);
    }
}

fn check(error: &HandshakeError) {
    // What is told to the peer fits a message of the handshake.
    let told = ApiError::from(error);
    assert!(!told.message.is_empty());
    assert!(encode_error(0, &told).body().len() <= HANDSHAKE_BODY_BYTES_MAX, "{told}");
}

/// Takes messages off the front of a stream; what is cut off is no message.
struct Stream<'a>(&'a [u8]);

impl<'a> Stream<'a> {
    fn next(&mut self) -> Result<Option<Received<'a>>, HandshakeError> {
        let Some((head, rest)) = self.0.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = read_header(head)?;
        assert!(header.body_length as usize <= HANDSHAKE_BODY_BYTES_MAX);
        let Some((body, rest)) = rest.split_at_checked(header.body_length as usize) else {
            return Ok(None);
        };
        self.0 = rest;
        Ok(Some(Received { header, body }))
    }
}

fn dial(bytes: &[u8]) -> Result<(), HandshakeError> {
    let mut stream = Stream(bytes);
    let (dialer, _hello) = Dialer::start(party(1), Lane::Data, None, DIALER_NONCE);
    let Some(challenge) = stream.next()? else { return Ok(()) };
    let (proving, _proof) = dialer.challenged(challenge)?;
    let Some(accepted) = stream.next()? else { return Ok(()) };
    let peer = proving.accepted(accepted)?;
    assert_eq!(peer, party(2).end, "only the true acceptor can be proven");
    Ok(())
}

fn accept(bytes: &[u8]) -> Result<(), HandshakeError> {
    let mut stream = Stream(bytes);
    let acceptor = Acceptor::new(party(2), ACCEPTOR_NONCE);
    let Some(hello) = stream.next()? else { return Ok(()) };
    let (challenging, _challenge) = acceptor.hello(hello)?;
    let Some(proof) = stream.next()? else { return Ok(()) };
    let (peer, lane, _accepted) = challenging.proven(proof)?;
    assert_eq!((peer, lane), (party(1).end, Lane::Data), "only the true dialer can be proven");
    Ok(())
}

/// The stream with right magic, version and checksums; lengths and types stay as they are.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let mut at = 0;
    while let Some((head, rest)) = bytes[at..].split_first_chunk::<HEADER_BYTES>() {
        let number = |from: usize| u16::from_le_bytes([head[from], head[from + 1]]);
        let length = usize::from(number(8)).min(rest.len());
        let header = Header {
            version: heddle_wire::VERSION,
            type_number: number(6),
            body_length: u32::try_from(length).unwrap_or(u32::MAX),
            body_crc32c: crc32c::crc32c(&rest[..length]),
            request_id: 0,
            deadline_us: 0,
        };
        bytes[at..at + HEADER_BYTES].copy_from_slice(&header.encode());
        at += HEADER_BYTES + length;
    }
    bytes
}

/// What each side of a whole handshake hears, and a refusal.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    fn received(frame: &[u8]) -> Received<'_> {
        Stream(frame).next().expect("it is one of ours").expect("it is whole")
    }
    let (dialer, hello) = Dialer::start(party(1), Lane::Data, None, DIALER_NONCE);
    let acceptor = Acceptor::new(party(2), ACCEPTOR_NONCE);
    let (challenging, challenge) = acceptor.hello(received(&hello)).expect("it is right");
    let (_proving, proof) = dialer.challenged(received(&challenge)).expect("it is right");
    let (_, _, accepted) = challenging.proven(received(&proof)).expect("it is right");
    let refusal = encode_error(0, &ApiError::from(&HandshakeError::Proof)).as_slice().to_vec();
    let refused = [challenge.clone(), refusal.clone()].concat();
    vec![[hello, proof].concat(), [challenge, accepted].concat(), refused, refusal]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_go_all_the_way_and_mending_leaves_them_as_they_are() {
        let seeds = seeds();
        assert_eq!(accept(&seeds[0]), Ok(()));
        assert_eq!(dial(&seeds[1]), Ok(()));
        assert!(matches!(dial(&seeds[2]), Err(HandshakeError::Refused(_))));
        assert!(matches!(dial(&seeds[3]), Err(HandshakeError::Refused(_))));
        for seed in &seeds {
            assert_eq!(mended(seed), *seed);
            let mut damaged = seed.clone();
            damaged[0] ^= 1;
            assert_eq!(mended(&damaged), *seed);
        }
    }
}
