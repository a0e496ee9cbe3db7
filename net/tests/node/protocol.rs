//! What a client may do wrong, and what it may do that looks wrong.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heddle_types::limits::{CONNECTION_REPLY_BYTES_MAX, CONNECTION_REQUESTS_IN_FLIGHT_MAX};
use heddle_types::{ApiError, ErrorCode, ObjectId};
use heddle_wire::message::{
    CollectionCreateRequest, CollectionListRequest, GetRequest, HelloReply, HelloRequest, PutMode,
    PutRequest, Request, ScanRequest, SearchRequest, Want,
};
use heddle_wire::{
    FrameKind, HEADER_BYTES, Header, MessageType, VERSION, decode, encode_reply, encode_request,
};

use crate::harness::{TempDir, TestNode, config};
use crate::http::{ask, value};
use crate::objects::{docs, vector};
use crate::raw::RawClient;

fn hello() -> HelloRequest {
    HelloRequest {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        client: "test".to_owned(),
    }
}

fn start() -> (TempDir, TestNode) {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    (dir, node)
}

fn create_docs(client: &mut RawClient) {
    let definition = serde_json::to_string(&docs(1, Some(8))).unwrap();
    client.call(&CollectionCreateRequest { definition }).unwrap();
}

fn put_of(rows: std::ops::Range<u64>, row_bytes: usize) -> PutRequest {
    let mut request = PutRequest::new("Docs", "", 0, PutMode::Replace);
    for row in rows {
        request.push(&ObjectId::from_row(row), &[]);
        assert!(request.push_vector("", &vector(row)));
        assert!(row_bytes == 0 || row_bytes > 8);
    }
    request
}

/// Sends bytes on a fresh connection; the error frame that comes before the server closes.
fn refused(node: &TestNode, bytes: &[u8]) -> (u64, ApiError) {
    let mut client = RawClient::connect(node.address());
    client.send_bytes(bytes);
    let error = client.receive_error();
    client.expect_close();
    error
}

fn hello_bytes() -> Vec<u8> {
    encode_request(9, 0, &hello()).unwrap().to_vec()
}

/// A hello whose header was changed and signed again.
fn with_header(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut bytes = hello_bytes();
    let head = bytes[..HEADER_BYTES].try_into().unwrap();
    let mut header = heddle_wire::header::parse(head, usize::MAX).unwrap();
    change(&mut header);
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    bytes
}

#[test]
fn a_stream_that_is_out_of_step_gets_an_error_and_a_close() {
    let (_dir, node) = start();
    let changed = |place: usize| {
        let mut bytes = hello_bytes();
        bytes[place] ^= 1;
        bytes
    };
    for (bytes, id, code) in [
        (changed(0), 0, ErrorCode::Protocol),
        (b"GET / HTTP/1.1\r\nHost: heddle\r\nAccept: */*\r\n\r\n".to_vec(), 0, ErrorCode::Protocol),
        (changed(16), 0, ErrorCode::Protocol),
        (changed(HEADER_BYTES + 3), 9, ErrorCode::Protocol),
        (with_header(|header| header.version = 77), 9, ErrorCode::Protocol),
        (with_header(|header| header.body_length = u32::MAX), 9, ErrorCode::TooLarge),
        (with_header(|header| header.body_length = 0x8000_0000), 9, ErrorCode::TooLarge),
        (with_header(|header| header.body_length -= 1), 9, ErrorCode::Protocol),
    ] {
        let (found_id, error) = refused(&node, &bytes);
        assert_eq!((found_id, error.code), (id, code), "{error}");
    }
    let mut client = RawClient::connect(node.address());
    client.call(&hello()).unwrap();
}

#[test]
fn a_frame_that_is_only_wrong_in_itself_leaves_the_stream_in_step() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    client.send_bytes(&with_header(|header| header.type_number = 0x7ABC));
    let (id, error) = client.receive_error();
    assert_eq!((id, error.code), (9, ErrorCode::UnknownMessage));
    let reply = client.call(&hello()).unwrap();
    client.send_bytes(&encode_reply::<HelloReply>(5, &reply).unwrap());
    let (id, error) = client.receive_error();
    assert_eq!((id, error.code), (5, ErrorCode::Protocol));
    // The body of one message under the number of another.
    let number = MessageType::Search.request_number();
    client.send_bytes(&with_header(|header| header.type_number = number));
    let (id, error) = client.receive_error();
    assert_eq!((id, error.code), (9, ErrorCode::Protocol));
    client.call(&hello()).unwrap();
}

#[test]
fn a_truncated_frame_is_named_and_closed() {
    let (_dir, node) = start();
    for length in [1, HEADER_BYTES - 1, HEADER_BYTES, hello_bytes().len() - 1] {
        let mut client = RawClient::connect(node.address());
        client.send_bytes(&hello_bytes()[..length]);
        client.finish_sending();
        let (id, error) = client.receive_error();
        assert_eq!(error.code, ErrorCode::Protocol, "{error}");
        assert_eq!(id, if length < HEADER_BYTES { 0 } else { 9 });
        client.expect_close();
    }
}

#[test]
fn a_half_closed_connection_gets_its_replies() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    for id in 0..20 {
        client.send(id, &hello());
    }
    client.finish_sending();
    for _ in 0..20 {
        let (header, _) = client.receive().expect("every request is answered");
        assert_eq!(header.kind(), FrameKind::Reply(MessageType::Hello));
    }
    client.expect_close();
}

#[test]
fn pipelined_requests_are_all_answered_whatever_pieces_they_come_in() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    const COUNT: u64 = 3 * CONNECTION_REQUESTS_IN_FLIGHT_MAX as u64;
    let bytes: Vec<u8> =
        (0..COUNT).flat_map(|id| encode_request(id, 0, &hello()).unwrap().to_vec()).collect();
    for piece in [bytes.len(), 1_000, 7] {
        bytes.chunks(piece).for_each(|chunk| client.send_bytes(chunk));
        let mut ids: Vec<u64> =
            (0..COUNT).map(|_| client.receive().unwrap().0.request_id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..COUNT).collect::<Vec<u64>>(), "pieces of {piece}");
    }
}

#[test]
fn searches_that_come_together_are_each_answered_once_with_their_own_neighbours() {
    const ROWS: u64 = 200;
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    create_docs(&mut client);
    client.call(&put_of(0..ROWS, 0)).unwrap();
    let mut bytes = Vec::new();
    for row in 0..ROWS {
        // Every third one also fetches its object, so it waits for a home core half-way.
        let want = if row % 3 == 0 { Want::ALL } else { Want::default() };
        let request =
            SearchRequest { queries: vector(row).to_vec(), k: 1, want: want.bits(), ..search() };
        bytes.extend_from_slice(&encode_request(row, 10_000_000, &request).unwrap());
    }
    client.send_bytes(&bytes);
    let mut answered = Vec::new();
    for _ in 0..ROWS {
        let (header, body) = client.receive().unwrap();
        let row = header.request_id;
        let reply: heddle_wire::message::SearchReply = decode(&body).unwrap();
        assert_eq!(reply.ids, ObjectId::from_row(row).0, "query {row}");
        assert_eq!(reply.ends, [1], "query {row}");
        assert_eq!(reply.objects.len(), usize::from(row % 3 == 0), "query {row}");
        answered.push(row);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..ROWS).collect::<Vec<_>>());
}

#[test]
fn work_whose_deadline_has_passed_is_not_done() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    // They arrive together, so the last waits for all others: far longer than a microsecond.
    let bytes: Vec<u8> =
        (0..100).flat_map(|id| encode_request(id, 1, &hello()).unwrap().to_vec()).collect();
    client.send_bytes(&bytes);
    for _ in 0..100 {
        let (header, body) = client.receive().unwrap();
        if header.request_id == 99 {
            assert_eq!(header.kind(), FrameKind::Error);
            let error = decode::<heddle_wire::message::ErrorReply>(&body).unwrap();
            assert_eq!(ApiError::from(error).code, ErrorCode::DeadlineExceeded);
        }
    }
    client.send_bytes(&encode_request(1, 10_000_000, &hello()).unwrap());
    assert_eq!(client.receive().unwrap().0.kind(), FrameKind::Reply(MessageType::Hello));
}

#[test]
fn a_reader_that_does_not_read_is_not_read_from() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    create_docs(&mut client);
    client.call(&put_of(0..1_000, 0)).unwrap();
    let ids = (0..1_000).flat_map(|row| ObjectId::from_row(row).0).collect();
    let get = GetRequest {
        collection: "Docs".to_owned(),
        tenant: String::new(),
        epoch: 0,
        ids,
        want: Want::ALL.bits(),
    };
    let frame = encode_request(1, 0, &get).unwrap();
    // Far more than the sockets of both sides hold: at some point the server must stop.
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    while client.stream.write_all(&frame).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "the server reads and reads");
    }
    let held = node.resident_bytes();
    assert!(held < 512 << 20, "{held} bytes are held for one slow reader");
    let mut other = RawClient::connect(node.address());
    other.call(&hello()).unwrap();
    // It was slow, not gone: everything that was sent whole is answered once it reads.
    for _ in 0..sent {
        assert_eq!(client.receive().unwrap().0.kind(), FrameKind::Reply(MessageType::Get));
    }
    assert!(CONNECTION_REPLY_BYTES_MAX < held as usize);
}

#[test]
fn five_thousand_idle_connections_cost_little_and_block_nobody() {
    const COUNT: usize = 5_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    if limit.maximum.is_some_and(|most| most < COUNT as u64 + 200) {
        println!("skipped: only {:?} open files are allowed", limit.maximum);
        return;
    }
    let (_dir, node) = start();
    let before = node.resident_bytes();
    let mut idle: Vec<RawClient> = (1..=COUNT)
        .map(|number| {
            let mut client = RawClient::connect(node.address());
            // At once: a connection that says nothing is soon closed.
            if number.is_multiple_of(50) {
                client.call(&hello()).unwrap();
            }
            client
        })
        .collect();
    let mut other = RawClient::connect(node.address());
    create_docs(&mut other);
    let each = node.resident_bytes().saturating_sub(before) / COUNT as u64;
    assert!(each < 16 << 10, "{each} bytes for each idle connection");
    idle[COUNT - 1].call(&CollectionListRequest::default()).unwrap();
}

#[test]
fn a_body_of_many_mebibytes_arrives_whole() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    put_wide(&mut client);
    let get = GetRequest {
        collection: "Wide".to_owned(),
        tenant: String::new(),
        epoch: 0,
        ids: ObjectId::from_row(899).0.to_vec(),
        want: Want::ALL.bits(),
    };
    let reply = client.call(&get).unwrap();
    assert_eq!(reply.objects.vectors[0].values[3_999], 4_898.0);
}

/// 900 objects of 16 KB.
fn put_wide(client: &mut RawClient) {
    let mut config = docs(1, Some(4_000));
    config.name = "Wide".to_owned();
    let definition = serde_json::to_string(&config).unwrap();
    client.call(&CollectionCreateRequest { definition }).unwrap();
    let mut request = PutRequest::new("Wide", "", 0, PutMode::Replace);
    for row in 0..900 {
        request.push(&ObjectId::from_row(row), &[]);
        let values: Vec<f32> = (0..4_000).map(|place| (row + place) as f32).collect();
        assert!(request.push_vector("", &values));
    }
    let reply = client.call(&request).unwrap();
    assert!(reply.into_results().iter().all(Result::is_ok));
}

#[test]
fn bodies_that_never_end_hold_no_more_than_the_core_allows() {
    let (_dir, node) = start();
    let before = node.resident_bytes();
    let mut head = with_header(|header| header.body_length = 16 << 20);
    head.truncate(HEADER_BYTES);
    let part = vec![0; 12 << 20];
    let slow: Vec<RawClient> = (0..40)
        .map(|_| {
            let mut client = RawClient::connect(node.address());
            client.send_bytes(&head);
            client.send_bytes(&part);
            client
        })
        .collect();
    let held = node.resident_bytes() - before;
    assert!(held < 400 << 20, "{held} bytes for 480 MiB of halves");
    let mut other = RawClient::connect(node.address());
    other.call(&hello()).unwrap();
    drop(slow);
    create_docs(&mut other);
    let stored = other.call(&put_of(0..100, 0)).unwrap();
    assert!(stored.into_results().iter().all(Result::is_ok));
}

#[test]
fn replies_in_the_making_are_bounded() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    put_wide(&mut client);
    let scan = ScanRequest {
        collection: "Wide".to_owned(),
        tenant: String::new(),
        epoch: 0,
        after: Vec::new(),
        limit: 900,
        filter: Vec::new(),
        want: Want::ALL.bits(),
    };
    let before = node.resident_bytes();
    let most = AtomicU64::new(0);
    // Each reads by itself: replies that wait for their turn too long would be cut off.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = RawClient::connect(node.address());
                (0..128).for_each(|id| client.send(id, &scan));
                for _ in 0..5 {
                    let (header, body) = client.receive().expect("every scan is answered");
                    assert_eq!(header.kind(), FrameKind::Reply(MessageType::Scan));
                    assert!(body.len() > 8 << 20);
                    most.fetch_max(node.resident_bytes() - before, Ordering::Relaxed);
                }
            });
        }
    });
    let most = most.into_inner();
    assert!(most < 500 << 20, "{most} bytes for 1,024 scans of 8 MiB");
}

#[test]
fn a_first_vector_of_zeros_fixes_the_dimension_where_it_has_a_place() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    let definition = serde_json::to_string(&docs(1, None)).unwrap();
    client.call(&CollectionCreateRequest { definition }).unwrap();
    let mut request = PutRequest::new("Docs", "", 0, PutMode::Replace);
    request.push(&ObjectId::from_row(0), &[]);
    assert!(request.push_vector("", &[0.0; 8]));
    let stored = client.call(&request).unwrap().into_results();
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    assert_eq!(client.call(&search()).unwrap().ids.len(), 16);
}

#[test]
fn work_for_a_connection_that_is_gone_ends() {
    const ROWS: u64 = 3_000;
    const SEARCHES: u64 = 40;
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    create_docs(&mut client);
    client.call(&put_of(0..ROWS, 0)).unwrap();
    let queries = (0..1_024).flat_map(vector).collect();
    let many = SearchRequest { queries, k: 1, ef: 100_000, ..search() };
    (0..SEARCHES).for_each(|id| client.send(id, &many));
    client.send(SEARCHES, &hello());
    // Closing with a reply unread resets the connection.
    assert!(client.stream.peek(&mut [0]).unwrap() > 0);
    drop(client);
    let page = loop {
        let (_, page) = ask(&node, "GET", "/metrics");
        let answered = "heddle_request_duration_seconds_count{core=\"0\",operation=\"search\"}";
        if page.contains(answered) && value(&page, answered) as u64 == SEARCHES {
            break page;
        }
    };
    let ended = "heddle_request_errors_total{core=\"0\",operation=\"search\",code=\"Unavailable\"}";
    assert!(page.contains(ended), "all searches were done to the end, for nobody");
    assert!(value(&page, ended) as u64 > SEARCHES / 2, "{}", value(&page, ended));
}

fn search() -> SearchRequest {
    SearchRequest {
        collection: "Docs".to_owned(),
        tenant: String::new(),
        epoch: 0,
        vector: String::new(),
        queries: vec![0.5; 8],
        dims: 8,
        near_id: Vec::new(),
        k: 10,
        ef: 0,
        offset: 0,
        max_distance: f32::NAN,
        autocut: 0,
        filter: Vec::new(),
        want: 0,
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let (_dir, node) = start();
    let mut client = RawClient::connect(node.address());
    create_docs(&mut client);
    let mut check = |change: fn(&mut SearchRequest), code| {
        let mut request = search();
        change(&mut request);
        let error = call_unchecked(&mut client, &request);
        assert_eq!(error.code, code, "{error}");
    };
    check(|search| search.collection = "Nothing".to_owned(), ErrorCode::UnknownCollection);
    check(|search| search.tenant = "someone".to_owned(), ErrorCode::InvalidArgument);
    check(|search| search.vector = "other".to_owned(), ErrorCode::InvalidVector);
    check(|search| search.k = 0, ErrorCode::InvalidArgument);
    check(|search| search.autocut = 1, ErrorCode::Unsupported);
    check(|search| search.filter = vec![9, 9, 9], ErrorCode::InvalidFilter);
    check(
        |search| {
            search.queries = vec![0.5; 4];
            search.dims = 4;
        },
        ErrorCode::InvalidVector,
    );
    check(
        |search| {
            search.queries = Vec::new();
            search.dims = 0;
            search.near_id = ObjectId::from_row(1).0.to_vec();
        },
        ErrorCode::ObjectNotFound,
    );
    let mut outcome = |definition: &str| {
        let definition = definition.to_owned();
        client.call(&CollectionCreateRequest { definition }).unwrap_err().code
    };
    assert_eq!(outcome("{"), ErrorCode::InvalidArgument);
    assert_eq!(outcome(r#"{"name":"A","vektors":[]}"#), ErrorCode::InvalidArgument);
    assert_eq!(outcome(r#"{"name":"a b"}"#), ErrorCode::InvalidName);
    let many = r#"{"name":"A","replication":{"factor":3}}"#;
    assert_eq!(outcome(many), ErrorCode::Unsupported);
}

fn call_unchecked<M: Request>(client: &mut RawClient, message: &M) -> ApiError {
    match client.call(message) {
        Ok(_) => panic!("the request is bad"),
        Err(error) => error,
    }
}
