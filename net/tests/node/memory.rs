//! The memory budget of a node: what it refuses, when it decides, and what the status says.

use heddle_types::{ApiError, ErrorCode, ObjectId};
use heddle_wire::message::{
    CollectionCreateRequest, ErrorReply, NodeStatusRequest, PutMode, PutRequest,
};
use heddle_wire::{FrameKind, decode, encode_request};

use crate::harness::{TempDir, TestNode, config};
use crate::objects::{docs, vector};
use crate::raw::RawClient;

/// The budget of the nodes here: the smallest one that is taken.
const BUDGET_BYTES: u64 = 64 << 20;
/// What they are filled up to.
const FILLED_BYTES: u64 = 44 << 20;

fn start() -> (TempDir, TestNode, RawClient) {
    let dir = TempDir::new();
    let mut config = config(&dir, 1);
    config.memory_bytes = BUDGET_BYTES;
    let node = TestNode::start(&config);
    let mut client = RawClient::connect(node.address());
    let definition = serde_json::to_string(&docs(1, Some(8))).unwrap();
    client.call(&CollectionCreateRequest { definition }).unwrap();
    (dir, node, client)
}

/// A node that holds so many vectors that little room is left.
fn start_filled() -> (TempDir, TestNode, RawClient) {
    let (dir, node, mut client) = start();
    let wide = heddle_types::CollectionConfig { name: "Wide".to_owned(), ..docs(1, Some(4_000)) };
    let definition = serde_json::to_string(&wide).unwrap();
    client.call(&CollectionCreateRequest { definition }).unwrap();
    let mut row = 0;
    while node.resident_bytes() < FILLED_BYTES {
        let mut request = PutRequest::new("Wide", "", 0, PutMode::Replace);
        for _ in 0..20 {
            request.push(&ObjectId::from_row(row), &[]);
            let values: Vec<f32> = (0..4_000).map(|place| (row + place) as f32).collect();
            assert!(request.push_vector("", &values));
            row += 1;
        }
        let reply = client.call(&request).unwrap();
        assert!(reply.into_results().iter().all(Result::is_ok));
    }
    (dir, node, client)
}

/// A put with so many bytes of rows that are none: it costs memory to read, and each of its objects
/// is refused by name once it was.
fn put_with_row(row_bytes: usize) -> Vec<u8> {
    let mut request = PutRequest::new("Docs", "", 0, PutMode::Replace);
    let row = vec![0xff; 500_000];
    for number in 0..row_bytes.div_ceil(row.len()) {
        request.push(&ObjectId::from_row(number as u64), &row);
        assert!(request.push_vector("", &vector(number as u64)));
    }
    encode_request(9, 0, &request).unwrap().to_vec()
}

fn small_put(client: &mut RawClient, number: u64) -> Result<(), ErrorCode> {
    let mut request = PutRequest::new("Docs", "", 0, PutMode::Replace);
    request.push(&ObjectId::from_row(number), &[]);
    assert!(request.push_vector("", &vector(number)));
    client.call(&request).map(drop).map_err(|error| error.code)
}

/// Was the put refused as a whole? Else the node has read it, and names what is wrong with each
/// object.
fn is_refused_for_memory(client: &mut RawClient) -> bool {
    let (header, body) = client.receive().expect("each put is answered");
    if header.kind() != FrameKind::Error {
        return false;
    }
    let error = ApiError::from(decode::<ErrorReply>(&body).unwrap());
    assert_eq!(error.code, ErrorCode::MemoryFull, "{error:?}");
    true
}

fn status(client: &mut RawClient) -> serde_json::Value {
    let reply = client.call(&NodeStatusRequest { section: 0 }).unwrap();
    serde_json::from_str(&reply.json).unwrap()
}

#[test]
fn a_request_larger_than_the_room_is_refused_by_its_header() {
    let (_dir, node, mut client) = start_filled();
    let huge = put_with_row(15 << 20);
    let (part, last) = huge.split_at(huge.len() - 1);
    // The node looks once a second at what it holds.
    loop {
        let before = node.resident_bytes();
        client.send_bytes(part);
        let held = node.resident_bytes().saturating_sub(before);
        client.send_bytes(last);
        if is_refused_for_memory(&mut client) {
            assert!(held < 4 << 20, "{held} bytes were held of a body that is thrown away");
            break;
        }
    }
    // The stream is in step, and what fits is taken: at once, or when the node has looked again,
    // for what it held of bodies that it has read goes back with them.
    let taken = loop {
        match small_put(&mut client, 1) {
            Err(ErrorCode::MemoryFull) => {}
            other => break other,
        }
    };
    assert_eq!(taken, Ok(()));
}

#[test]
fn requests_that_fit_alone_and_not_together_are_refused_until_there_is_room_again() {
    let (_dir, node, mut client) = start_filled();
    let body = put_with_row(5 << 20);
    let (part, last) = body.split_at(body.len() - 1);
    // Each waits for its last byte, so that the node holds it while the next ones come. How much
    // the allocator keeps of earlier ones differs, so it may take more than one round.
    loop {
        let mut slow: Vec<RawClient> = (0..14)
            .map(|_| {
                let mut other = RawClient::connect(node.address());
                other.send_bytes(part);
                other
            })
            .collect();
        slow.iter_mut().for_each(|other| other.send_bytes(last));
        if slow.iter_mut().map(is_refused_for_memory).filter(|refused| *refused).count() > 0 {
            break;
        }
    }
    // Nobody has to do anything for it: the same request fits again.
    loop {
        client.send_bytes(&body);
        if !is_refused_for_memory(&mut client) {
            break;
        }
    }
    assert_eq!(small_put(&mut client, 1), Ok(()));
}

#[test]
fn the_parts_in_the_status_add_up_to_the_total() {
    let (_dir, _node, mut client) = start();
    for number in 0..200 {
        assert_eq!(small_put(&mut client, number), Ok(()));
    }
    let status = status(&mut client);
    let parts = [
        "vector_bytes",
        "link_bytes",
        "directory_bytes",
        "property_bytes",
        "id_bytes",
        "row_memory_bytes",
        "row_table_bytes",
    ];
    let cores = status["cores"].as_array().unwrap().iter();
    let shards = cores.filter_map(|core| core["engine"]["shards"].as_array()).flatten();
    let sum: u64 = shards.flat_map(|shard| parts.map(|part| shard[part].as_u64().unwrap())).sum();
    assert!(sum > 0);
    assert_eq!(status["memory"]["shards_bytes"].as_u64(), Some(sum), "{status:#}");
}
