//! Do requests reach the cores they belong to, and replies the callers they belong to?

use std::sync::atomic::Ordering;

use crate::fake::{FakeServer, Incoming, REQUESTS_MAX, home_of};
use heddle_client::{Object, PutMode, Scan, Search, Want};
use heddle_types::{ApiError, ErrorCode, Hlc, ObjectId, Properties, Value};
use heddle_wire::message::{
    CountReply, CountRequest, DeleteReply, DeleteRequest, GetReply, GetRequest, ObjectColumns,
    PutReply, PutRequest, ScanReply, ScanRequest, SearchReply, SearchRequest, TopologyNotice,
};
use heddle_wire::{MessageType, encode_reply};

fn rows(ids: &[u8]) -> Vec<u64> {
    let ids = ids.as_chunks::<16>().0;
    ids.iter().map(|id| u64::try_from(u128::from_be_bytes(*id)).expect("it is a row")).collect()
}

fn ids(rows: std::ops::Range<u64>) -> Vec<ObjectId> {
    rows.map(ObjectId::from_row).collect()
}

/// Is the request on the port of the core where all of its objects are at home?
fn is_at_home(incoming: &Incoming, ids: &[u8]) -> bool {
    let mut homes = rows(ids).into_iter().map(|row| home_of(&ObjectId::from_row(row), 2));
    homes.all(|home| incoming.core == Some(home))
}

#[tokio::test]
async fn replies_out_of_order_reach_their_callers_over_one_connection() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await;
    let mut callers = Vec::new();
    for caller in 0..3 {
        let docs = client.collection("Docs").tenant(format!("tenant{caller}"));
        callers.push(tokio::spawn(async move { docs.count(None).await }));
    }
    let mut requests = vec![server.next().await, server.next().await, server.next().await];
    requests.reverse();
    for request in &requests {
        let tenant = request.read::<CountRequest>().tenant;
        let caller = tenant.strip_prefix("tenant").and_then(|text| text.parse().ok());
        request.reply(&CountReply { count: caller.expect("a tenant has a number") });
    }
    for (caller, task) in callers.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().unwrap(), caller as u64);
    }
    // One to the common port for the topology, one to the core.
    assert_eq!(server.counters.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn no_more_requests_are_in_flight_than_the_server_takes() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await;
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let docs = client.collection("Docs");
            tokio::spawn(async move { docs.count(None).await })
        })
        .collect();
    let mut held = std::collections::VecDeque::new();
    for _ in 0..20 {
        if held.len() == REQUESTS_MAX as usize {
            assert!(server.is_idle(), "a request above the limit arrived");
            let oldest: Incoming = held.pop_front().expect("requests are held");
            oldest.reply(&CountReply { count: 1 });
        }
        held.push_back(server.next().await);
    }
    held.iter().for_each(|request| request.reply(&CountReply { count: 1 }));
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), 1);
    }
}

#[tokio::test]
async fn puts_go_home_and_outcomes_keep_the_order_of_the_batch() {
    let mut server = FakeServer::start(2).await;
    let docs = server.client().await.collection("Docs");
    let objects: Vec<Object> =
        ids(0..20).into_iter().map(|id| Object::new(id).with_vector(vec![1.0, 2.0])).collect();
    let writer = tokio::spawn(async move { docs.put_batch(PutMode::Merge, &objects).await });
    let requests = [server.next().await, server.next().await];
    assert_ne!(requests[0].core, requests[1].core);
    for request in &requests {
        let put: PutRequest = request.read();
        assert!(is_at_home(request, &put.ids));
        assert_eq!((put.mode, put.epoch, put.vectors[0].dims), (1, 7, 2));
        let mut reply = PutReply::default();
        for row in rows(&put.ids) {
            let error = ApiError::new(ErrorCode::InvalidVector, format!("row {row}"), "");
            reply.push(if row % 5 == 0 { Err(&error) } else { Ok(Hlc(row)) });
        }
        request.reply(&reply);
    }
    for (row, outcome) in writer.await.unwrap().unwrap().into_iter().enumerate() {
        match outcome {
            Ok(stamp) => assert_eq!(stamp, Hlc(row as u64)),
            Err(error) => assert!(error.to_string().contains(&format!("row {row}")), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_batch_is_cut_by_size_and_where_vectors_differ_in_length() {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.collection("Docs");
    let mut objects: Vec<Object> =
        ids(0..5).into_iter().map(|id| Object::new(id).with_vector(vec![0.5; 60_000])).collect();
    objects.extend(
        (0..30)
            .map(|row| Object::new(ObjectId::from_row(100 + row)).with_vector(vec![0.5; 60_000])),
    );
    objects.push(Object::new(ObjectId::from_row(200)).with_vector(vec![1.0]));
    objects.push(Object::new(ObjectId::from_row(201)).with_vector(Vec::new()));
    let twins = Object::new(ObjectId::from_row(202)).with_vector(vec![1.0]).with_vector(vec![2.0]);
    objects.push(twins);
    let writer = tokio::spawn(async move { docs.put_batch(PutMode::Replace, &objects).await });
    let mut seen = Vec::new();
    while seen.len() < 36 {
        let request = server.next().await;
        let put: PutRequest = request.read();
        assert!(request.header.body_length as usize <= (2 << 20) + 1_024);
        let mut reply = PutReply::default();
        rows(&put.ids).iter().for_each(|row| reply.push(Ok(Hlc(*row))));
        seen.extend(rows(&put.ids));
        request.reply(&reply);
    }
    let outcomes = writer.await.unwrap().unwrap();
    assert_eq!(outcomes[4].as_ref().unwrap(), &Hlc(4));
    assert_eq!(outcomes[35].as_ref().unwrap(), &Hlc(200));
    for outcome in &outcomes[36..] {
        assert_eq!(outcome.as_ref().unwrap_err().code(), Some(ErrorCode::InvalidVector));
    }
    assert!(server.is_idle(), "what cannot be written is not sent");
}

/// Answers a put of rows with their numbers.
fn answer_put(request: &Incoming, put: &PutRequest) {
    let mut reply = PutReply::default();
    rows(&put.ids).iter().for_each(|row| reply.push(Ok(Hlc(*row))));
    request.reply(&reply);
}

#[tokio::test]
async fn objects_of_one_id_are_sent_in_the_order_of_the_batch() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await;
    let docs = client.collection("Docs");
    let sized = |row, dims| Object::new(ObjectId::from_row(row)).with_vector(vec![0.5; dims]);
    // Vectors of another length begin another request. The third 1 shares the request of the
    // second; the 3 and the last 2 wait for the first request as well.
    let objects = [sized(1, 2), sized(2, 2), sized(1, 3), sized(1, 3), sized(3, 4), sized(2, 5)];
    let writer = tokio::spawn(async move { docs.put_batch(PutMode::Replace, &objects).await });
    let first = server.next().await;
    let put: PutRequest = first.read();
    assert_eq!(rows(&put.ids), [1, 2]);
    // It goes the same way, behind whatever was sent before.
    let other = client.collection("Docs");
    let counter = tokio::spawn(async move { other.count(None).await });
    let marker = server.next().await;
    assert_eq!(marker.kind(), MessageType::Count, "a put overtakes the one that it has to follow");
    marker.reply(&CountReply { count: 0 });
    counter.await.unwrap().unwrap();
    answer_put(&first, &put);
    let mut later = Vec::new();
    for _ in 0..3 {
        let request = server.next().await;
        let put: PutRequest = request.read();
        later.push((put.vectors[0].dims, rows(&put.ids)));
        answer_put(&request, &put);
    }
    later.sort_unstable();
    assert_eq!(later, [(3, vec![1, 1]), (4, vec![3]), (5, vec![2])]);
    let outcomes = writer.await.unwrap().unwrap();
    let stamps: Vec<Hlc> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(stamps, [1, 2, 1, 1, 3, 2].map(Hlc));
}

#[tokio::test]
async fn a_failed_request_of_a_get_fails_its_own_objects_only() {
    let mut server = FakeServer::start(2).await;
    let docs = server.client().await.collection("Docs");
    let reader = tokio::spawn(async move { docs.get_batch(&ids(0..10), Want::ALL).await });
    for request in [server.next().await, server.next().await] {
        let get: GetRequest = request.read();
        if request.core == Some(0) {
            request.error(&ApiError::new(ErrorCode::Corrupt, "a row is damaged", ""));
        } else {
            let found = vec![0; get.ids.len() / 16];
            request.reply(&GetReply { found, objects: ObjectColumns::default() });
        }
    }
    for (row, outcome) in (0..).zip(reader.await.unwrap().unwrap()) {
        match home_of(&ObjectId::from_row(row), 2) {
            0 => assert_eq!(outcome.unwrap_err().code(), Some(ErrorCode::Corrupt), "row {row}"),
            _ => assert_eq!(outcome.unwrap(), None, "row {row}"),
        }
    }
}

#[tokio::test]
async fn gets_and_deletes_are_put_together_from_their_cores() {
    let mut server = FakeServer::start(2).await;
    let client = server.client().await;
    let docs = client.collection("Docs");
    let reader = tokio::spawn(async move { docs.get_batch(&ids(0..10), Want::ALL).await });
    for request in [server.next().await, server.next().await] {
        let get: GetRequest = request.read();
        assert!(is_at_home(&request, &get.ids));
        let mut objects = ObjectColumns::default();
        let found = rows(&get.ids).into_iter().map(|row| {
            if row % 3 == 0 {
                let time = row as i64;
                objects.push(&ObjectId::from_row(row), time, time + 1, Hlc(row), Some(b""));
                objects.push_vector("", &[row as f32]);
            }
            u8::from(row % 3 == 0)
        });
        let found = found.collect();
        request.reply(&GetReply { found, objects });
    }
    for (row, object) in reader.await.unwrap().unwrap().into_iter().enumerate() {
        let object = object.unwrap();
        assert_eq!(object.is_some(), row % 3 == 0, "row {row}");
        if let Some(object) = object {
            assert_eq!(object.id, ObjectId::from_row(row as u64));
            assert_eq!(object.vectors[""], [row as f32]);
            assert_eq!((object.created_us, object.updated_us), (row as i64, row as i64 + 1));
            assert_eq!(object.properties, Some(Properties::new()));
        }
    }
    let docs = client.collection("Docs");
    let deleter = tokio::spawn(async move { docs.delete_batch(&ids(0..10)).await });
    for request in [server.next().await, server.next().await] {
        let delete: DeleteRequest = request.read();
        assert!(is_at_home(&request, &delete.ids));
        let mut reply = DeleteReply::default();
        rows(&delete.ids).iter().for_each(|row| reply.push(Ok(row % 2 == 0)));
        request.reply(&reply);
    }
    for (row, existed) in deleter.await.unwrap().unwrap().into_iter().enumerate() {
        assert_eq!(existed.unwrap(), row % 2 == 0);
    }
}

fn answer_search(request: &Incoming) {
    let search: SearchRequest = request.read();
    let queries = search.queries.len() / search.dims as usize;
    let mut reply = SearchReply::default();
    for query in 0..queries {
        let first = search.queries[query * search.dims as usize];
        reply.ids.extend_from_slice(&ObjectId::from_row(first as u64).0);
        reply.distances.push(first);
        reply.ends.push(query as u32 + 1);
        reply.evaluations.push(5);
        reply.server_us.push(6);
    }
    request.reply(&reply);
}

#[tokio::test]
async fn searches_go_to_the_core_with_fewer_requests_in_flight() {
    let mut server = FakeServer::start(2).await;
    let client = server.client().await;
    let search = |value: f32| {
        let docs = client.collection("Docs");
        tokio::spawn(async move { docs.search(&Search::near(vec![value, 0.0])).await })
    };
    let (first, request_one) = (search(1.0), server.next().await);
    let (second, request_two) = (search(2.0), server.next().await);
    assert_ne!(request_one.core, request_two.core);
    answer_search(&request_two);
    second.await.unwrap().unwrap();
    for _ in 0..3 {
        let (third, request_three) = (search(3.0), server.next().await);
        assert_eq!(request_three.core, request_two.core, "the other core is still busy");
        answer_search(&request_three);
        third.await.unwrap().unwrap();
    }
    answer_search(&request_one);
    let result = first.await.unwrap().unwrap();
    assert_eq!((result.hits[0].id, result.hits[0].distance), (ObjectId::from_row(1), 1.0));
}

#[tokio::test]
async fn a_batch_of_queries_is_spread_and_its_results_keep_their_order() {
    let mut server = FakeServer::start(2).await;
    let docs = server.client().await.collection("Docs");
    let queries: Vec<f32> = (0..100).flat_map(|query| [query as f32, 0.0, 0.0]).collect();
    let searcher = tokio::spawn(async move {
        docs.search_batch(&Search::template().k(1).ef(9), &queries, 3).await
    });
    let requests = [server.next().await, server.next().await];
    assert_ne!(requests[0].core, requests[1].core);
    requests.iter().rev().for_each(answer_search);
    let results = searcher.await.unwrap().unwrap();
    assert_eq!(results.len(), 100);
    for (query, result) in results.iter().enumerate() {
        assert_eq!(result.hits.len(), 1);
        assert_eq!(result.hits[0].id, ObjectId::from_row(query as u64));
        assert_eq!((result.evaluations, result.server_us), (5, 6));
    }
}

#[tokio::test]
async fn a_batch_that_is_no_whole_number_of_vectors_is_refused() {
    let server = FakeServer::start(1).await;
    let docs = server.client().await.collection("Docs");
    for (queries, dims) in [(&[1.0, 2.0, 3.0][..], 2), (&[1.0][..], 0)] {
        let outcome = docs.search_batch(&Search::template(), queries, dims).await;
        assert_eq!(outcome.unwrap_err().code(), Some(ErrorCode::InvalidArgument));
    }
}

#[tokio::test]
async fn a_scan_follows_its_cursor_to_the_end() {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.collection("Docs");
    let scanner = tokio::spawn(async move {
        let mut scanner = docs.scan(Scan { page_objects: 2, ..Scan::default() });
        let mut titles = Vec::new();
        while let Some(page) = scanner.next_page().await.unwrap() {
            titles.extend(page.into_iter().filter_map(|object| object.properties));
        }
        titles
    });
    let title = |row: u64| Properties::from([("n".to_owned(), Value::Int(row as i64))]);
    // The second page is empty and not the last: a filter may skip many objects.
    for (first, count, next) in [(0, 2, Some(1)), (2, 0, Some(8)), (9, 1, None)] {
        let request = server.next().await;
        assert_eq!(request.kind(), MessageType::Scan);
        let scan: ScanRequest = request.read();
        assert_eq!(scan.limit, 2);
        let after = rows(&scan.after);
        assert_eq!(after, if first == 0 { vec![] } else { vec![first - 1] });
        let mut objects = ObjectColumns::default();
        for row in first..first + count {
            let mut bytes = Vec::new();
            heddle_types::row::encode_row(&title(row), &mut bytes).unwrap();
            objects.push(&ObjectId::from_row(row), 0, 0, Hlc(0), Some(&bytes));
        }
        let next = next.map_or_else(Vec::new, |row| ObjectId::from_row(row).0.to_vec());
        request.reply(&ScanReply { objects, next });
    }
    assert_eq!(scanner.await.unwrap(), [title(0), title(1), title(9)]);
}

#[tokio::test]
async fn an_announced_topology_is_fetched_before_the_next_call_and_once() {
    let mut server = FakeServer::start(1).await;
    let client = server.client().await;
    let count = || {
        let docs = client.collection("Docs");
        tokio::spawn(async move { docs.count(None).await })
    };
    let fetched = |server: &FakeServer| server.counters.topologies.load(Ordering::SeqCst);
    let (counting, request) = (count(), server.next().await);
    assert_eq!(fetched(&server), 1);
    // The fake has epoch 7 and announces 8: the client asks once and goes on with what it gets.
    request.raw(&encode_reply(0, &TopologyNotice { epoch: 8 }).unwrap());
    request.reply(&CountReply { count: 1 });
    assert_eq!(counting.await.unwrap().unwrap(), 1);
    for _ in 0..2 {
        let (counting, request) = (count(), server.next().await);
        assert_eq!(fetched(&server), 2);
        request.raw(&encode_reply(0, &TopologyNotice { epoch: 7 }).unwrap());
        request.reply(&CountReply { count: 1 });
        assert_eq!(counting.await.unwrap().unwrap(), 1);
    }
}
