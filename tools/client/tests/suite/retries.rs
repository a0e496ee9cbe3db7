//! What is sent again, what is not, and what is reported?

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fake::{FakeServer, REQUESTS_MAX, is_unknown};
use heddle_client::{Client, ClientError, Object, Want};
use heddle_types::{ApiError, CollectionConfig, ErrorCode, Hlc, ObjectId, Retry};
use heddle_wire::MessageType;
use heddle_wire::message::{CountReply, CountRequest, GetReply, PutReply, PutRequest};

/// A port that nobody is given by chance.
const NOBODY: &str = "127.0.0.1:1";

fn object(row: u64) -> Object {
    Object::new(ObjectId::from_row(row)).with_vector(vec![1.0, 2.0])
}

fn written(stamp: u64) -> PutReply {
    let mut reply = PutReply::default();
    reply.push(Ok(Hlc(stamp)));
    reply
}

#[tokio::test]
async fn a_read_is_sent_again_after_the_connection_broke() {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.collection("Docs");
    let reader = tokio::spawn(async move { docs.count(None).await });
    server.next().await.close();
    let second = server.next().await;
    second.reply(&CountReply { count: 3 });
    assert_eq!(reader.await.unwrap().unwrap(), 3);
    assert_eq!(server.counters.topologies.load(Ordering::SeqCst), 2, "topology is fetched again");
}

#[tokio::test]
async fn a_put_that_was_sent_is_not_sent_again_and_its_outcome_is_unknown() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await;
    let docs = client.collection("Docs");
    let writer = tokio::spawn(async move { docs.put(object(1)).await });
    server.next().await.close();
    let outcome = writer.await.unwrap();
    assert!(is_unknown(&outcome), "{outcome:?}");
    // The next request is a new one, not the put again.
    let docs = client.collection("Docs");
    let reader = tokio::spawn(async move { docs.count(None).await });
    let next = server.next().await;
    assert_eq!(next.kind(), MessageType::Count);
    next.reply(&CountReply { count: 0 });
    reader.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_put_is_sent_again_when_the_user_asked_for_it() {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.retrying_writes().collection("Docs");
    let writer = tokio::spawn(async move { docs.put(object(1)).await });
    let first = server.next().await;
    let request: PutRequest = first.read();
    first.close();
    let second = server.next().await;
    assert_eq!(second.read::<PutRequest>(), request);
    second.reply(&written(9));
    assert_eq!(writer.await.unwrap().unwrap(), Hlc(9));
}

#[tokio::test]
async fn a_refusal_does_not_undo_an_attempt_before_whose_outcome_is_unknown() {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.retrying_writes().collection("Docs");
    let writer = tokio::spawn(async move { docs.put(object(1)).await });
    server.next().await.error(&ApiError::unknown("the home core was lost"));
    server.next().await.error(&ApiError::transient(ErrorCode::DiskFull, "no space"));
    let outcome = writer.await.unwrap();
    assert!(is_unknown(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn a_create_that_was_sent_is_never_sent_again() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await.retrying_writes();
    let config = CollectionConfig { name: "New".to_owned(), ..Default::default() };
    let creator = tokio::spawn(async move { client.create_collection(&config).await });
    let first = server.next().await;
    assert_eq!(first.kind(), MessageType::CollectionCreate);
    first.close();
    let outcome = creator.await.unwrap();
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert!(server.is_idle());
}

#[tokio::test]
async fn a_refusal_that_passes_is_waited_out_and_others_are_reported() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await;
    let docs = client.collection("Docs");
    let writer = tokio::spawn(async move { docs.put(object(1)).await });
    server.next().await.error(&ApiError::transient(ErrorCode::Overloaded, "queue is full"));
    server.next().await.error(&ApiError::transient(ErrorCode::Unavailable, "starting"));
    server.next().await.reply(&written(5));
    assert_eq!(writer.await.unwrap().unwrap(), Hlc(5));

    let docs = client.collection("Docs");
    let writer = tokio::spawn(async move { docs.put(object(1)).await });
    server.next().await.error(&ApiError::transient(ErrorCode::DiskFull, "no space"));
    let Err(ClientError::Api(error)) = writer.await.unwrap() else { panic!("the put fails") };
    assert_eq!((error.code, error.retry), (ErrorCode::DiskFull, Retry::Safe));
    assert!(server.is_idle());
}

#[tokio::test]
async fn a_stale_route_is_renewed_and_the_server_is_left_to_route() {
    let mut server = FakeServer::start(2).await;
    let docs = server.client().await.collection("Docs");
    let reader = tokio::spawn(async move { docs.count(None).await });
    let first = server.next().await;
    assert_eq!(first.read::<CountRequest>().epoch, 7);
    let stale = ApiError::transient(ErrorCode::StaleEpoch, "epoch 7 is over");
    first.error(&stale);
    let second = server.next().await;
    assert_eq!(second.read::<CountRequest>().epoch, 0);
    second.reply(&CountReply { count: 1 });
    assert_eq!(reader.await.unwrap().unwrap(), 1);
    assert_eq!(server.counters.topologies.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_deadline_ends_reads_as_timeouts_and_writes_as_unknown() {
    let mut server = FakeServer::start(1).await;
    let patient = server.client().await;
    // The connection is open before the clock runs.
    let docs = patient.collection("Docs");
    let reader = tokio::spawn(async move { docs.count(None).await });
    server.next().await.reply(&CountReply { count: 0 });
    reader.await.unwrap().unwrap();
    // Long enough for the request to leave on a machine that is busy with other things.
    let client = patient.with_deadline(Duration::from_secs(1));
    let outcome = client.collection("Docs").count(None).await;
    assert!(matches!(outcome, Err(ClientError::Timeout { .. })), "{outcome:?}");
    let late = server.next().await;
    let budget_us = late.header.deadline_us;
    assert!((1..=1_000_000).contains(&budget_us), "the header carries what is left: {budget_us}");
    let outcome = client.collection("Docs").put(object(1)).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    // A late reply belongs to nobody and harms nobody.
    late.reply(&CountReply { count: 99 });
    server.next().await.reply(&written(1));
    let docs = patient.collection("Docs");
    let reader = tokio::spawn(async move { docs.count(None).await });
    server.next().await.reply(&CountReply { count: 2 });
    assert_eq!(reader.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_request_that_waits_for_its_turn_times_out_as_not_applied() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await;
    let mut busy = Vec::new();
    for _ in 0..REQUESTS_MAX {
        let docs = client.collection("Docs");
        busy.push((tokio::spawn(async move { docs.count(None).await }), server.next().await));
    }
    let hasty = client.with_deadline(Duration::from_millis(40));
    let outcome = hasty.collection("Docs").put(object(1)).await;
    assert!(matches!(outcome, Err(ClientError::Timeout { .. })), "{outcome:?}");
    for (reader, request) in busy {
        request.reply(&CountReply { count: 0 });
        reader.await.unwrap().unwrap();
    }
    assert!(server.is_idle(), "the put was never sent");
}

#[tokio::test]
async fn nobody_there_is_a_connection_error_that_names_the_address() {
    let Err(error) = Client::connect([NOBODY]).await else { panic!("nobody is there") };
    assert!(matches!(error, ClientError::Connection { .. }), "{error:?}");
    assert!(error.to_string().contains(NOBODY), "{error}");
    assert!(Client::connect(Vec::<String>::new()).await.is_err());
}

#[tokio::test]
async fn the_first_address_that_answers_is_enough() {
    let server = FakeServer::start(1).await;
    let client = Client::connect([NOBODY, server.address.as_str()]).await.unwrap();
    assert_eq!(client.topology().nodes[0].native_address, server.address);
}

#[tokio::test]
async fn a_collection_that_is_not_there_is_looked_up_once_and_named() {
    let server = FakeServer::start(1).await;
    let client = server.client().await;
    let outcome = client.collection("Nope").get_batch(&[ObjectId::from_row(1)], Want::ALL).await;
    let Err(ClientError::Api(error)) = outcome else { panic!("there is no such collection") };
    assert_eq!(error.code, ErrorCode::UnknownCollection);
    assert!(error.message.contains("Nope"));
    assert_eq!(server.counters.topologies.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_reply_that_leaves_objects_out_is_reported_for_those_objects() {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.collection("Docs");
    let writer = tokio::spawn(async move {
        docs.put_batch(heddle_client::PutMode::Replace, &[object(1), object(2)]).await
    });
    server.next().await.reply(&written(5));
    let outcomes = writer.await.unwrap().unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap(), &Hlc(5));
    assert_eq!(outcomes[1].as_ref().unwrap_err().code(), Some(ErrorCode::Unknown));
}

#[tokio::test]
async fn a_reply_of_another_type_is_invalid_not_misread() {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.collection("Docs");
    let reader = tokio::spawn(async move { docs.count(None).await });
    server.next().await.reply(&GetReply::default());
    let outcome = reader.await.unwrap();
    assert!(matches!(outcome, Err(ClientError::InvalidReply { .. })), "{outcome:?}");
}
