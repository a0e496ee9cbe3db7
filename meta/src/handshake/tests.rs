//! Handshakes between two machines, whole and disturbed.

use heddle_types::{ApiError, ErrorCode};
use heddle_wire::{HeaderError, encode_error};

use super::*;

fn party(number: u64, cluster: &str, secret: &str) -> Party {
    Party {
        end: End { node: NodeId::from(number), boot: 7, core: 3 },
        cluster: cluster.to_owned(),
        cluster_id: None,
        key: LinkKey::from_secret(secret.as_bytes()),
    }
}

fn dialer() -> Party {
    party(1, "heddle", "secret")
}

fn acceptor() -> Party {
    party(2, "heddle", "secret")
}

/// The frame as a receiver sees it.
fn received(frame: &[u8]) -> Result<Received<'_>, HandshakeError> {
    let (head, body) = frame.split_first_chunk().expect("a header at least");
    Ok(Received { header: read_header(head)?, body })
}

/// Everything that travelled, in order.
#[derive(Default)]
struct Transcript(Vec<Vec<u8>>);

type Outcome = (Result<End, HandshakeError>, Result<(End, Lane), HandshakeError>);

/// Runs a whole handshake: what each side has found.
fn shake(
    dialer: Party,
    acceptor: Party,
    expected: Option<NodeId>,
    transcript: &mut Transcript,
) -> Outcome {
    let (dialing, hello) = Dialer::start(dialer, Lane::Control, expected, [1; NONCE_BYTES]);
    transcript.0.push(hello.clone());
    let accepting = Acceptor::new(acceptor, [2; NONCE_BYTES]);
    let refused = |error: HandshakeError| {
        let frame = encode_error(0, &ApiError::from(&error));
        let told = received(&frame).unwrap();
        (told.header, told.body.to_vec(), error)
    };
    let (challenging, challenge) = match accepting.hello(received(&hello).unwrap()) {
        Ok(step) => step,
        Err(error) => {
            let (header, body, error) = refused(error);
            let found =
                dialing.challenged(Received { header, body: &body }).map(|_| unreachable!());
            return (found, Err(error));
        }
    };
    transcript.0.push(challenge.clone());
    let (proving, proof) = match dialing.challenged(received(&challenge).unwrap()) {
        Ok(step) => step,
        Err(error) => return (Err(error), Err(HandshakeError::Proof)),
    };
    transcript.0.push(proof.clone());
    match challenging.proven(received(&proof).unwrap()) {
        Ok((end, lane, accepted)) => {
            transcript.0.push(accepted.clone());
            (proving.accepted(received(&accepted).unwrap()), Ok((end, lane)))
        }
        Err(error) => {
            let (header, body, error) = refused(error);
            (proving.accepted(Received { header, body: &body }), Err(error))
        }
    }
}

fn run(dialer: Party, acceptor: Party, expected: Option<NodeId>) -> Outcome {
    shake(dialer, acceptor, expected, &mut Transcript::default())
}

fn assert_refused(found: Result<End, HandshakeError>, error: &HandshakeError) {
    let Err(HandshakeError::Refused(told)) = found else { panic!("{found:?}") };
    assert_eq!(told, ApiError::from(error));
}

#[test]
fn both_sides_learn_who_is_at_the_other_end() {
    for expected in [None, Some(acceptor().end.node)] {
        for secret in ["secret", ""] {
            let (dialer, acceptor) = (party(1, "heddle", secret), party(2, "heddle", secret));
            let (dialed, accepted) = run(dialer.clone(), acceptor.clone(), expected);
            assert_eq!(dialed, Ok(acceptor.end));
            assert_eq!(accepted, Ok((dialer.end, Lane::Control)));
        }
    }
}

#[test]
fn another_secret_is_refused_before_the_acceptor_has_shown_anything_that_depends_on_its_own() {
    let mut transcript = Transcript::default();
    let other = party(1, "heddle", "other");
    let (dialed, accepted) = shake(other, acceptor(), None, &mut transcript);
    assert_eq!(accepted, Err(HandshakeError::Proof));
    assert_refused(dialed, &HandshakeError::Proof);
    // The challenge is the same whatever the secret is.
    let mut with_third = Transcript::default();
    let third = party(2, "heddle", "third");
    assert_eq!(shake(dialer(), third, None, &mut with_third).1, Err(HandshakeError::Proof));
    assert_eq!(transcript.0[1], with_third.0[1]);
    assert_eq!(transcript.0.len(), 3);
}

#[test]
fn an_acceptor_that_does_not_know_the_secret_is_found_out() {
    let (dialing, hello) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
    let impostor = Acceptor::new(party(2, "heddle", "guess"), [2; NONCE_BYTES]);
    let (challenging, challenge) = impostor.hello(received(&hello).unwrap()).unwrap();
    let (proving, _proof) = dialing.challenged(received(&challenge).unwrap()).unwrap();
    // It takes any proof for good, and answers with what it can make.
    let answer = message::encode_proof(ACCEPTED_NUMBER, &challenging.proofs.acceptor);
    assert_eq!(proving.accepted(received(&answer).unwrap()), Err(HandshakeError::Proof));
}

#[test]
fn another_cluster_is_refused_by_its_name() {
    let (dialed, accepted) = run(party(1, "looms", "secret"), acceptor(), None);
    let error = HandshakeError::Cluster { found: "looms".to_owned() };
    assert_eq!(accepted, Err(error.clone()));
    assert_refused(dialed, &error);
}

#[test]
fn two_clusters_of_one_name_and_secret_refuse_each_other() {
    let own = ClusterId(uuid::Uuid::from_u128(7));
    let found = ClusterId(uuid::Uuid::from_u128(8));
    let knows = |party: Party, cluster_id| Party { cluster_id, ..party };
    for (of_dialer, of_acceptor) in [(None, Some(own)), (Some(own), None), (Some(own), Some(own))] {
        let outcome = run(knows(dialer(), of_dialer), knows(acceptor(), of_acceptor), None);
        assert_eq!(outcome.0, Ok(acceptor().end), "who knows of no cluster may belong to any");
        assert!(outcome.1.is_ok());
    }
    let (dialed, accepted) = run(knows(dialer(), Some(found)), knows(acceptor(), Some(own)), None);
    let error = HandshakeError::OtherCluster { own, found };
    assert_eq!(accepted, Err(error.clone()));
    assert_refused(dialed, &error);
    // A dialer does not rely on the acceptor to say so.
    let challenge =
        Challenge { end: acceptor().end, nonce: [2; NONCE_BYTES], cluster_id: Some(found) };
    let party = knows(dialer(), Some(own));
    let (dialing, _hello) = Dialer::start(party, Lane::Data, None, [1; NONCE_BYTES]);
    let refused = dialing.challenged(received(&challenge.encode()).unwrap()).unwrap_err();
    assert_eq!(refused, error);
}

#[test]
fn a_node_that_was_not_meant_says_so_and_is_not_trusted_when_it_does_not() {
    let expected = NodeId::from(9);
    let (dialed, accepted) = run(dialer(), acceptor(), Some(expected));
    let error = HandshakeError::OtherNode { expected, found: acceptor().end.node };
    assert_eq!(accepted, Err(error.clone()));
    assert_refused(dialed, &error);
    // One that answers all the same.
    let (dialing, _) = Dialer::start(dialer(), Lane::Data, Some(expected), [1; NONCE_BYTES]);
    let challenge =
        Challenge { end: acceptor().end, nonce: [2; NONCE_BYTES], cluster_id: None }.encode();
    assert_eq!(dialing.challenged(received(&challenge).unwrap()).unwrap_err(), error);
}

#[test]
fn a_node_that_dials_itself_notices_on_both_sides() {
    let (dialed, accepted) = run(dialer(), dialer(), None);
    assert_eq!(accepted, Err(HandshakeError::OwnNode));
    assert_refused(dialed, &HandshakeError::OwnNode);
    let (dialing, _) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
    let challenge =
        Challenge { end: dialer().end, nonce: [2; NONCE_BYTES], cluster_id: None }.encode();
    let error = dialing.challenged(received(&challenge).unwrap()).unwrap_err();
    assert_eq!(error, HandshakeError::OwnNode);
}

#[test]
fn a_recorded_handshake_is_of_no_use_to_either_side() {
    let mut transcript = Transcript::default();
    assert!(shake(dialer(), acceptor(), None, &mut transcript).1.is_ok());
    let [hello, challenge, proof, accepted] = &transcript.0[..] else { panic!("four messages") };
    // To an acceptor: it draws another nonce.
    let accepting = Acceptor::new(acceptor(), [3; NONCE_BYTES]);
    let (challenging, _) = accepting.hello(received(hello).unwrap()).unwrap();
    let error = challenging.proven(received(proof).unwrap()).unwrap_err();
    assert_eq!(error, HandshakeError::Proof);
    // To a dialer, which draws another one, too.
    let (dialing, _) = Dialer::start(dialer(), Lane::Control, None, [4; NONCE_BYTES]);
    let (proving, _) = dialing.challenged(received(challenge).unwrap()).unwrap();
    assert_eq!(proving.accepted(received(accepted).unwrap()), Err(HandshakeError::Proof));
}

#[test]
fn a_message_sent_back_to_its_sender_is_refused() {
    // A dialer hears its own messages.
    let (dialing, hello) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
    let error = dialing.challenged(received(&hello).unwrap()).unwrap_err();
    assert_eq!(error, HandshakeError::Type { found: HELLO_NUMBER, expected: CHALLENGE_NUMBER });
    let (dialing, hello) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
    let accepting = Acceptor::new(acceptor(), [2; NONCE_BYTES]);
    let (challenging, challenge) = accepting.hello(received(&hello).unwrap()).unwrap();
    let (proving, proof) = dialing.challenged(received(&challenge).unwrap()).unwrap();
    let error = proving.accepted(received(&proof).unwrap()).unwrap_err();
    assert_eq!(error, HandshakeError::Type { found: PROOF_NUMBER, expected: ACCEPTED_NUMBER });
    // Its proof under the number of the answer is another label's.
    let (dialing, _) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
    let (proving, _) = dialing.challenged(received(&challenge).unwrap()).unwrap();
    let reflected = message::encode_proof(ACCEPTED_NUMBER, &challenging.proofs.dialer);
    assert_eq!(proving.accepted(received(&reflected).unwrap()), Err(HandshakeError::Proof));
    // An acceptor hears its own.
    let error = challenging.proven(received(&challenge).unwrap()).unwrap_err();
    assert_eq!(error, HandshakeError::Type { found: CHALLENGE_NUMBER, expected: PROOF_NUMBER });
}

#[test]
fn every_field_stands_under_the_proof() {
    let hello = Hello {
        end: dialer().end,
        lane: Lane::Data,
        expected: None,
        nonce: [1; NONCE_BYTES],
        cluster_id: None,
        cluster: "heddle".to_owned(),
    };
    let challenge = Challenge { end: acceptor().end, nonce: [2; NONCE_BYTES], cluster_id: None };
    let key = dialer().key;
    let proof = |hello: &Hello, challenge: &Challenge| {
        let proofs = Proofs::of(&key, hello, challenge);
        (proofs.dialer, proofs.acceptor)
    };
    let original = proof(&hello, &challenge);
    assert_ne!(original.0, original.1);
    let end = hello.end;
    let hellos = [
        Hello { lane: Lane::Repair, ..hello.clone() },
        Hello { expected: Some(acceptor().end.node), ..hello.clone() },
        Hello { nonce: [9; NONCE_BYTES], ..hello.clone() },
        Hello { cluster: "heddles".to_owned(), ..hello.clone() },
        Hello { cluster_id: Some(ClusterId(uuid::Uuid::from_u128(1))), ..hello.clone() },
        Hello { end: End { node: NodeId::from(5), ..end }, ..hello.clone() },
        Hello { end: End { boot: 8, ..end }, ..hello.clone() },
        Hello { end: End { core: 4, ..end }, ..hello.clone() },
    ];
    let end = challenge.end;
    let challenges = [
        Challenge { nonce: [9; NONCE_BYTES], ..challenge.clone() },
        Challenge { cluster_id: Some(ClusterId(uuid::Uuid::from_u128(1))), ..challenge.clone() },
        Challenge { end: End { node: NodeId::from(5), ..end }, ..challenge.clone() },
        Challenge { end: End { boot: 8, ..end }, ..challenge.clone() },
        Challenge { end: End { core: 4, ..end }, ..challenge.clone() },
    ];
    let changed = hellos.iter().map(|hello| proof(hello, &challenge));
    let changed = changed.chain(challenges.iter().map(|challenge| proof(&hello, challenge)));
    let mut seen = vec![original];
    for pair in changed {
        assert!(!seen.contains(&pair));
        seen.push(pair);
    }
}

#[test]
fn messages_cut_short_or_drawn_out_are_refused_by_their_length() {
    let (_, hello) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
    let hello = &hello[HEADER_BYTES..];
    let challenge =
        Challenge { end: acceptor().end, nonce: [2; NONCE_BYTES], cluster_id: None }.body();
    let message = |number: u16, body: &[u8]| {
        let header = Header {
            version: heddle_wire::VERSION,
            type_number: number,
            body_length: body.len() as u32,
            body_crc32c: crc32c::crc32c(body),
            request_id: 0,
            deadline_us: 0,
        };
        [&header.encode()[..], body].concat()
    };
    let hear = |frame: &[u8]| {
        let accepting = Acceptor::new(acceptor(), [2; NONCE_BYTES]);
        accepting.hello(received(frame).unwrap()).map(|_| ())
    };
    let is_length =
        |error: Option<HandshakeError>| matches!(error, Some(HandshakeError::Length { .. }));
    let name_bytes = "heddle".len();
    for length in 0..hello.len() {
        let error = hear(&message(HELLO_NUMBER, &hello[..length])).err();
        // A shorter name is another name.
        let is_name = length > hello.len() - name_bytes;
        assert_eq!(is_length(error.clone()), !is_name, "{length}: {error:?}");
        assert_eq!(matches!(error, Some(HandshakeError::Cluster { .. })), is_name);
    }
    let long = [&hello[..96], &[b'h'; NAME_LENGTH_BYTES_MAX + 1]].concat();
    assert!(is_length(hear(&message(HELLO_NUMBER, &long)).err()));
    for length in (0..challenge.len()).chain([challenge.len() + 1]) {
        let mut bytes = challenge.clone();
        bytes.resize(length, 0);
        let (dialing, _) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
        let frame = message(CHALLENGE_NUMBER, &bytes);
        let error = dialing.challenged(received(&frame).unwrap()).err();
        assert!(is_length(error), "{length}");
    }
    for length in (0..PROOF_BYTES).chain([PROOF_BYTES + 1]) {
        let frame = message(PROOF_NUMBER, &vec![0; length]);
        let found = message::decode_proof(PROOF_NUMBER, received(&frame).unwrap());
        assert!(is_length(found.err()), "{length}");
    }
    let frame = message(HELLO_NUMBER, &[0; HANDSHAKE_BODY_BYTES_MAX + 1]);
    let error = received(&frame).unwrap_err();
    assert!(matches!(error, HandshakeError::Header(HeaderError::BodyLength { .. })));
}

#[test]
fn a_flipped_bit_anywhere_ends_the_handshake() {
    let mut transcript = Transcript::default();
    assert!(shake(dialer(), acceptor(), None, &mut transcript).0.is_ok());
    for (index, frame) in transcript.0.iter().enumerate() {
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let Ok(damaged) = received(&damaged) else { continue };
            let (dialing, hello) = Dialer::start(dialer(), Lane::Control, None, [1; NONCE_BYTES]);
            let accepting = Acceptor::new(acceptor(), [2; NONCE_BYTES]);
            if index == 0 {
                assert!(accepting.hello(damaged).is_err(), "bit {bit} of the hello");
                continue;
            }
            let (challenging, challenge) = accepting.hello(received(&hello).unwrap()).unwrap();
            if index == 1 {
                assert!(dialing.challenged(damaged).is_err(), "bit {bit} of the challenge");
                continue;
            }
            let (proving, _) = dialing.challenged(received(&challenge).unwrap()).unwrap();
            let is_refused = match index {
                2 => challenging.proven(damaged).is_err(),
                _ => proving.accepted(damaged).is_err(),
            };
            assert!(is_refused, "bit {bit} of message {index}");
        }
    }
}

#[test]
fn fields_without_a_meaning_are_refused() {
    let (_, hello) = Dialer::start(dialer(), Lane::Data, None, [1; NONCE_BYTES]);
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &dyn Fn(&HandshakeError) -> bool| {
        let mut body = hello[HEADER_BYTES..].to_vec();
        change(&mut body);
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&hello[..HEADER_BYTES]);
        let header = Header { body_crc32c: crc32c::crc32c(&body), ..read_header(&head).unwrap() };
        let error = Acceptor::new(acceptor(), [2; NONCE_BYTES])
            .hello(Received { header, body: &body })
            .unwrap_err();
        assert!(expected(&error), "{error:?}");
    };
    check(&|body| body[0] = 1, &|error| *error == HandshakeError::Version { found: 1 });
    check(&|body| body[2] = 3, &|error| matches!(error, HandshakeError::Field { .. }));
    check(&|body| body[3] = 1, &|error| matches!(error, HandshakeError::Field { .. }));
    check(&|body| body[16..32].fill(0), &|error| matches!(error, HandshakeError::Field { .. }));
    check(&|body| body[96] = 0xFF, &|error| *error == HandshakeError::ClusterText);
    let error = HandshakeError::Version { found: 2 };
    assert_eq!(ApiError::from(&error).code, ErrorCode::Unsupported);
}

#[test]
fn the_bytes_of_version_2_are_what_they_were() {
    let mut transcript = Transcript::default();
    assert!(shake(dialer(), acceptor(), None, &mut transcript).0.is_ok());
    let digest = |frame: &Vec<u8>| blake3::hash(frame).to_hex()[..16].to_owned();
    let found: Vec<String> = transcript.0.iter().map(digest).collect();
    assert_eq!(found, FRAMES_OF_VERSION_2);
}

/// First 8 bytes of the BLAKE3 of each frame.
const FRAMES_OF_VERSION_2: [&str; 4] =
    ["39bbc6985927aed1", "b0fa9e0bec61f883", "c8d9f5ab50d8d3ef", "80b068f5eab857e6"];
