//! Peers that are not who they should be, or do what no peer should.

use std::io::{Read, Write};
use std::net::TcpStream;

use futures::future::join_all;
use heddle_meta::handshake::{Acceptor, Dialer, Received, read_header};
use heddle_runtime::net::{Accepted, Listener, Socket};
use heddle_runtime::{sleep, spawn, spawn_joinable, yield_now};
use heddle_types::Retry;
use heddle_wire::message::ErrorReply;
use heddle_wire::{HEADER_BYTES, Header, decode};

use super::*;
use crate::limits::{LINK_BYTES_IN_FLIGHT_MAX, PEERS_UNPROVEN_MAX};
use crate::peer::dial::{Message, nonce};

#[test]
fn another_secret_is_refused_on_both_sides() {
    let node = Node::start(2, "another secret");
    with_links(SECRET, async |links| {
        let error = call(&links, &node.target(), ECHO).await.unwrap_err();
        assert_eq!((error.code, error.retry), (ErrorCode::Unavailable, Retry::Safe));
        assert!(error.message.contains("different cluster secrets"), "{error}");
        let report = node.report().await;
        assert_eq!((report.refused, report.accepted, report.served), (1, 0, 0));
    });
}

#[test]
fn a_node_that_was_not_meant_is_not_asked() {
    let node = Node::start(2, SECRET);
    with_links(SECRET, async |links| {
        let target = Target { node: Some(NodeId::from(9)), ..node.target() };
        let error = call(&links, &target, ECHO).await.unwrap_err();
        assert_eq!((error.code, error.retry), (ErrorCode::Unavailable, Retry::Safe));
        assert!(error.message.contains(&NodeId::from(9).to_string()), "{error}");
        assert!(error.message.contains(&NodeId::from(2).to_string()), "{error}");
        assert_eq!(node.report().await.lanes[0].served, 0);
    });
}

#[test]
fn a_node_notices_that_it_dials_itself() {
    let node = Node::start(1, SECRET);
    with_links(SECRET, async |links| {
        let error = call(&links, &node.target(), ECHO).await.unwrap_err();
        assert!(error.message.contains("dialed itself"), "{error}");
    });
}

/// Sends bytes to a node and reads until it closes.
fn send(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset is a close, too.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn bytes_of_no_handshake_close_their_connection_alone() {
    let node = Node::start(2, SECRET);
    let noise: Vec<u8> = body(4_096).to_vec();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: there\r\n\r\n......"[..], &noise] {
        let answer = send(node.address, bytes);
        assert!(answer.len() >= HEADER_BYTES, "{} bytes", answer.len());
        assert_eq!(answer[..4], *b"HDDL");
        assert_eq!(answer[6..8], [0xFF, 0xFF], "an error");
    }
    with_links(SECRET, async |links| {
        call(&links, &node.target(), ECHO).await.unwrap();
        assert_eq!(node.report().await.refused, 2);
    });
}

#[test]
fn a_crowd_that_never_proves_itself_does_not_keep_others_out() {
    let node = Node::start(2, SECRET);
    let crowd: Vec<_> =
        (0..PEERS_UNPROVEN_MAX + 20).map(|_| TcpStream::connect(node.address).unwrap()).collect();
    with_links(SECRET, async |links| {
        call(&links, &node.target(), ECHO).await.unwrap();
        let report = node.report().await;
        assert!(report.crowded_out >= 20, "{report:?}");
        assert_eq!(report.served, 1);
    });
    drop(crowd);
}

/// A dialer without any of our code behind the handshake.
struct RawPeer(TcpStream);

impl RawPeer {
    fn dial(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        let (dialer, hello) = Dialer::start(party(7, SECRET), Lane::Data, None, nonce());
        stream.write_all(&hello).unwrap();
        let mut peer = Self(stream);
        let (header, body) = peer.read();
        let (proving, proof) = dialer.challenged(Received { header, body: &body }).unwrap();
        peer.0.write_all(&proof).unwrap();
        let (header, body) = peer.read();
        proving.accepted(Received { header, body: &body }).unwrap();
        peer
    }

    fn read(&mut self) -> (Header, Vec<u8>) {
        let mut head = [0; HEADER_BYTES];
        self.0.read_exact(&mut head).unwrap();
        let header = heddle_wire::header::parse(&head, 1 << 20).unwrap();
        let mut body = vec![0; header.body_length as usize];
        self.0.read_exact(&mut body).unwrap();
        (header, body)
    }

    fn read_error(&mut self) -> (u64, ApiError) {
        let (header, body) = self.read();
        assert_eq!(header.type_number, 0xFFFF);
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(&body);
        (header.request_id, decode::<ErrorReply>(&aligned).unwrap().into())
    }

    fn is_at_end(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap() == 0
    }
}

fn frame(type_number: u16, request_id: u64, body: &[u8]) -> Vec<u8> {
    let header = Header {
        version: heddle_wire::VERSION,
        type_number,
        body_length: body.len() as u32,
        body_crc32c: crc32c::crc32c(body),
        request_id,
        deadline_us: 0,
    };
    [&header.encode()[..], body].concat()
}

#[test]
fn numbers_that_are_no_request_between_nodes_are_answered_and_the_stream_goes_on() {
    let node = Node::start(2, SECRET);
    let mut peer = RawPeer::dial(node.address);
    for kind in [0x0001, 0x0020, 0x0100, 0x0101, 0x010F, 0x0200, 0x8110, 0xFFFF] {
        peer.0.write_all(&frame(kind, u64::from(kind), b"something")).unwrap();
        let (request_id, error) = peer.read_error();
        assert_eq!((request_id, error.code), (u64::from(kind), ErrorCode::UnknownMessage));
    }
    peer.0.write_all(&frame(ECHO, 5, b"abc")).unwrap();
    let (header, body) = peer.read();
    assert_eq!((header.type_number, header.request_id), (ECHO | REPLY_BIT, 5));
    assert_eq!(body, b"cba");
}

#[test]
fn a_stream_out_of_step_is_told_and_closed() {
    let node = Node::start(2, SECRET);
    let mut damaged_head = frame(ECHO, 1, b"abc");
    damaged_head[16] ^= 1;
    let mut damaged_body = frame(ECHO, 1, b"abc");
    damaged_body[HEADER_BYTES] ^= 1;
    let mut long = frame(ECHO, 1, b"");
    let header =
        Header { body_length: u32::MAX, ..read_header(long[..].try_into().unwrap()).unwrap() };
    long.copy_from_slice(&header.encode());
    for (bytes, code) in [
        (damaged_head, ErrorCode::Protocol),
        (damaged_body, ErrorCode::Protocol),
        (long, ErrorCode::TooLarge),
        (body(500).to_vec(), ErrorCode::Protocol),
    ] {
        let mut peer = RawPeer::dial(node.address);
        peer.0.write_all(&bytes).unwrap();
        assert_eq!(peer.read_error().1.code, code);
        assert!(peer.is_at_end());
    }
}

#[test]
fn a_request_whose_budget_is_used_up_is_not_begun() {
    let node = Node::start(2, SECRET);
    let mut peer = RawPeer::dial(node.address);
    let mut bytes = Vec::new();
    for request_id in 1..=2_000 {
        let header = frame(HOLD, request_id, b"");
        let header = read_header(header[..].try_into().unwrap()).unwrap();
        // A microsecond is over before a task begins.
        bytes.extend_from_slice(&Header { deadline_us: 1, ..header }.encode());
    }
    peer.0.write_all(&bytes).unwrap();
    let (_, error) = peer.read_error();
    assert_eq!((error.code, error.retry), (ErrorCode::DeadlineExceeded, Retry::Safe));
}

/// Accepts one connection, and does with it what it is told after the handshake.
async fn impostor<F>(behaviour: impl FnOnce(Socket) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_address();
    spawn(Queue::Control, async move {
        let socket = listener.accept().await.and_then(Accepted::into_socket).unwrap();
        let acceptor = Acceptor::new(party(2, SECRET), nonce());
        let hello = Message::read(&socket).await.unwrap();
        let (challenging, challenge) = acceptor.hello(hello.received()).unwrap();
        socket.write_all(&challenge).await.unwrap();
        let proof = Message::read(&socket).await.unwrap();
        let (_, _, accepted) = challenging.proven(proof.received()).unwrap();
        socket.write_all(&accepted).await.unwrap();
        behaviour(socket).await;
    });
    address
}

#[test]
fn an_answer_of_another_kind_or_broken_ends_the_link() {
    with_links(SECRET, async |links| {
        let mut damaged = frame(ECHO | REPLY_BIT, 1, b"abc");
        damaged[HEADER_BYTES] ^= 1;
        for bytes in [
            frame(FAIL | REPLY_BIT, 1, b"abc"),
            frame(ECHO, 1, b"abc"),
            damaged,
            frame(0xFFFF, 1, b"no error"),
            body(64).to_vec(),
        ] {
            let address = impostor(async move |socket: Socket| {
                let mut request = [0; HEADER_BYTES + 100];
                socket.read_exact(&mut request).await.unwrap();
                socket.write_all(&bytes).await.unwrap();
                // Until the dialer closes.
                let _ = socket.read(&mut [0]).await;
            })
            .await;
            let target = Target { node: None, address: address.to_string() };
            let error = call(&links, &target, ECHO).await.unwrap_err();
            assert_eq!(error.retry, Retry::MayHaveApplied, "{error}");
            assert!(matches!(error.code, ErrorCode::Unavailable | ErrorCode::Protocol), "{error}");
        }
    });
}

#[test]
fn a_peer_that_does_not_read_holds_up_its_callers_and_nobody_takes_more_memory() {
    const CALL_BYTES: usize = 16 << 20;
    let calls_max = LINK_BYTES_IN_FLIGHT_MAX / CALL_BYTES;
    with_links(SECRET, async |links| {
        let address = impostor(async |socket: Socket| {
            sleep(PATIENCE).await;
            drop(socket);
        })
        .await;
        let target = Target { node: None, address: address.to_string() };
        let request = body(CALL_BYTES);
        let calls: Vec<_> = (0..2 * calls_max)
            .map(|_| {
                let (links, target) = (Rc::clone(&links), target.clone());
                let request = request.clone();
                let call = async move {
                    links.call(&target, Lane::Data, ECHO, request, 2 * PATIENCE).await
                };
                spawn_joinable(Queue::Search, call)
            })
            .collect();
        while links.report().links.first().is_none_or(|link| link.in_flight < calls_max) {
            yield_now().await;
        }
        let link = &links.report().links[0];
        assert_eq!(link.in_flight, calls_max);
        assert_eq!(link.bytes_in_flight, LINK_BYTES_IN_FLIGHT_MAX);
        // A call that waits for room has not left.
        let budget = Duration::from_millis(20);
        let error = links.call(&target, Lane::Data, ECHO, body(1), budget).await.unwrap_err();
        assert_eq!((error.code, error.retry), (ErrorCode::DeadlineExceeded, Retry::Safe));
        calls.iter().for_each(|call| call.cancel());
        assert!(join_all(calls).await.iter().all(Option::is_none));
        while links.report().links[0].bytes_in_flight > 0 {
            yield_now().await;
        }
    });
}

#[test]
fn a_dialer_that_does_not_read_its_answers_is_not_heard_any_further() {
    const REQUEST_BYTES: usize = 4 << 20;
    // What is not read is held by the kernel twice, by our side once.
    let requests_max = 2 * crate::limits::PEER_REPLY_BYTES_MAX / REQUEST_BYTES;
    let node = Node::start(2, SECRET);
    let mut peer = RawPeer::dial(node.address);
    peer.0.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let request = frame(ECHO, 1, &body(REQUEST_BYTES));
    let mut taken = 0;
    while peer.0.write_all(&request).is_ok() {
        taken += 1;
        assert!(taken <= requests_max, "{taken} requests were taken");
    }
    assert!(taken >= 1);
}
