//! Shards with several replicas: what survives nodes that die and lag, and what every level sees.
//!
//! The nodes know each other from a list, so nobody tells them who lives: a node that is down is
//! found out by asking it.

use heddle_client::{Client, Condition, Object, PutMode};
use heddle_types::{ApiError, Consistency, ErrorCode, Hlc, ObjectId, Properties, Stamp, Value};
use heddle_wire::message::{
    CountAtRequest, DeleteAtRequest, DeleteRequest, Durability, GetAtRequest, PutAtRequest,
    PutRequest, SearchAtRequest, TICKET_BYTES, TicketsRequest, WriteTerms,
};

use crate::harness::TestNode;
use crate::objects::{block_on, docs, object, vector};
use crate::spread::{
    Site, count_request, get_request, ids, put_request, search_request, status_of,
};

const LEVELS: [Consistency; 3] = Consistency::LEVELS;

/// Three nodes with a replica each of every shard.
struct Trio {
    // Before their directories.
    nodes: Vec<Option<TestNode>>,
    site: Site,
}

impl Trio {
    fn start(shards: usize) -> Self {
        let site = Site::new(3);
        let places = vec![vec![0, 1, 2]; shards];
        let places: Vec<&[usize]> = places.iter().map(Vec::as_slice).collect();
        let catalog = site.replicated_catalog(docs(1, Some(8)), &places);
        let nodes = site.start_all(&catalog).into_iter().map(Some).collect();
        Self { nodes, site }
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].take().unwrap().kill();
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node] = Some(self.site.restart(node));
    }

    fn put(&self, through: usize, level: Consistency, put: PutRequest) -> Vec<Outcome> {
        let terms = WriteTerms::new(Some(level), Durability::Sync);
        match self.site.raw(through).call(&PutAtRequest { terms, put }) {
            Ok(reply) => reply.into_results(),
            Err(error) => vec![Err(error)],
        }
    }

    fn delete(&self, through: usize, rows: std::ops::Range<u64>) {
        let terms = WriteTerms::new(None, Durability::Sync);
        let (collection, tenant) = ("Docs".to_owned(), String::new());
        let delete = DeleteRequest { collection, tenant, epoch: 0, ids: ids(rows) };
        let reply = self.site.raw(through).call(&DeleteAtRequest { terms, delete }).unwrap();
        assert!(reply.delete.into_results().iter().all(Result::is_ok));
    }

    /// The stamps of the rows that a node finds at a level.
    fn stamps(
        &self,
        through: usize,
        level: Consistency,
        rows: std::ops::Range<u64>,
    ) -> Vec<Option<Hlc>> {
        let get = GetAtRequest::new(level, get_request(rows));
        let reply = self.site.raw(through).call(&get).unwrap();
        let mut stamps = reply.get.objects.stamps.iter();
        let found = reply.get.found.iter();
        found.map(|flag| (*flag == 1).then(|| Hlc(*stamps.next().unwrap()))).collect()
    }

    /// The ids that a search for a row's vector finds.
    fn found(&self, through: usize, level: Consistency, row: u64) -> Vec<ObjectId> {
        let search = SearchAtRequest::new(level, search_request(row));
        let reply = self.site.raw(through).call(&search).unwrap().search;
        reply.ids.as_chunks::<16>().0.iter().map(|id| ObjectId(*id)).collect()
    }

    fn count(&self, through: usize, level: Consistency) -> u64 {
        let count = CountAtRequest::new(level, count_request());
        self.site.raw(through).call(&count).unwrap().count.count
    }
}

type Outcome = Result<Stamp, ApiError>;

fn all_written(outcomes: &[Outcome]) -> Vec<Hlc> {
    outcomes.iter().map(|outcome| outcome.as_ref().unwrap().hlc).collect()
}

#[test]
fn every_node_answers_at_every_level_what_was_written_through_any() {
    const ROWS: u64 = 60;
    let trio = Trio::start(2);
    for (through, level) in LEVELS.into_iter().enumerate() {
        let rows = through as u64 * 20..(through as u64 + 1) * 20;
        all_written(&trio.put(through, level, put_request(rows)));
    }
    // A write at level one may not have come everywhere yet; reading at level all brings it there.
    let newest = trio.stamps(0, Consistency::All, 0..ROWS);
    assert!(newest.iter().all(Option::is_some));
    for through in 0..3 {
        for level in LEVELS {
            assert_eq!(trio.stamps(through, level, 0..ROWS), newest, "{through} {level}");
            assert_eq!(trio.count(through, level), ROWS, "{through} {level}");
            let found = trio.found(through, level, 33);
            assert_eq!((found.len(), found[0]), (5, ObjectId::from_row(33)), "{through} {level}");
        }
    }
}

#[test]
fn quorum_writes_survive_the_loss_of_any_one_node() {
    const ROWS: u64 = 40;
    for lost in 0..3 {
        let mut trio = Trio::start(1);
        let written = all_written(&trio.put(0, Consistency::Quorum, put_request(0..ROWS)));
        trio.kill(lost);
        let (one, other) = ((lost + 1) % 3, (lost + 2) % 3);
        let expected: Vec<Option<Hlc>> = written.into_iter().map(Some).collect();
        assert_eq!(trio.stamps(one, Consistency::Quorum, 0..ROWS), expected, "without {lost}");
        // Two of three go on writing, and what they take is read through the other one.
        let more = all_written(&trio.put(one, Consistency::Quorum, put_request(ROWS..ROWS + 5)));
        let more: Vec<Option<Hlc>> = more.into_iter().map(Some).collect();
        assert_eq!(trio.stamps(other, Consistency::Quorum, ROWS..ROWS + 5), more);
        let refused = trio.put(one, Consistency::All, put_request(90..91));
        let error = refused[0].as_ref().unwrap_err();
        assert_eq!(error.code, ErrorCode::Unknown, "two of three have it: {error}");
    }
}

#[test]
fn a_stale_replica_is_brought_up_to_date_before_a_quorum_read_is_answered() {
    let mut trio = Trio::start(1);
    let old = all_written(&trio.put(0, Consistency::All, put_request(0..10)));
    trio.kill(2);
    let new = all_written(&trio.put(0, Consistency::Quorum, put_request(0..10)));
    assert!(old < new);
    // What it keeps for the replica that is away goes with it.
    trio.kill(0);
    trio.restart(2);
    let of = |stamps: &[Hlc]| -> Vec<Option<Hlc>> { stamps.iter().copied().map(Some).collect() };
    assert_eq!(trio.stamps(2, Consistency::One, 0..10), of(&old), "it lags");
    assert_eq!(trio.stamps(2, Consistency::Quorum, 0..5), of(&new[..5]));
    trio.kill(1);
    assert_eq!(trio.stamps(2, Consistency::One, 0..5), of(&new[..5]), "repaired by the read");
    assert_eq!(trio.stamps(2, Consistency::One, 5..10), of(&old[5..]), "not read, not repaired");
}

#[test]
fn what_was_deleted_does_not_come_back_from_a_replica_that_lags() {
    let mut trio = Trio::start(1);
    all_written(&trio.put(0, Consistency::All, put_request(0..20)));
    trio.kill(2);
    trio.delete(0, 0..10);
    trio.kill(0);
    trio.restart(2);
    assert!(trio.found(2, Consistency::One, 3).contains(&ObjectId::from_row(3)), "it lags");
    for through in [1, 2] {
        let found = trio.found(through, Consistency::Quorum, 3);
        assert_eq!(found.len(), 5, "through {through}");
        let deleted = |id: &ObjectId| (0..10).any(|row| *id == ObjectId::from_row(row));
        assert!(!found.iter().any(deleted), "through {through}: {found:?}");
    }
    assert_eq!(trio.stamps(2, Consistency::Quorum, 0..10), vec![None; 10]);
    // The tombstones are there now: the replica alone knows as well.
    assert_eq!(trio.stamps(2, Consistency::One, 0..10), vec![None; 10]);
    assert!(!trio.found(2, Consistency::One, 3).contains(&ObjectId::from_row(3)));
}

#[test]
fn a_quorum_search_misses_nothing_fresh_when_a_replica_lags() {
    let mut trio = Trio::start(2);
    all_written(&trio.put(0, Consistency::All, put_request(0..40)));
    trio.kill(2);
    all_written(&trio.put(0, Consistency::Quorum, put_request(40..60)));
    trio.kill(0);
    trio.restart(2);
    for row in 40..60 {
        let id = ObjectId::from_row(row);
        assert!(!trio.found(2, Consistency::One, row).contains(&id), "it lags");
        assert_eq!(trio.found(2, Consistency::Quorum, row)[0], id);
    }
}

/// Three nodes; the second and third hold a replica each of two shards.
fn pair() -> (Site, Vec<TestNode>) {
    const ROWS: u64 = 40;
    let site = Site::new(3);
    let catalog = site.replicated_catalog(docs(1, Some(8)), &[&[1, 2], &[2, 1]]);
    let nodes = site.start_all(&catalog);
    let terms = WriteTerms::new(Some(Consistency::All), Durability::Sync);
    let put = PutAtRequest { terms, put: put_request(0..ROWS) };
    all_written(&site.raw(0).call(&put).unwrap().into_results());
    (site, nodes)
}

#[test]
fn reads_at_level_one_go_on_through_the_replica_that_is_left() {
    let (site, mut nodes) = pair();
    nodes.remove(1).kill();
    let mut raw = site.raw(0);
    for row in 0..10 {
        let found = raw.call(&search_request(row)).unwrap();
        assert_eq!(found.ids[..16], ids(row..row + 1));
        assert_eq!(raw.call(&count_request()).unwrap().count, 40);
        let got = raw.call(&GetAtRequest::new(Consistency::One, get_request(0..40))).unwrap();
        assert_eq!(got.get.found, vec![1; 40]);
    }
    let wanted = heddle_wire::message::SearchRequest { want: 3, ..search_request(7) };
    assert_eq!(raw.call(&wanted).unwrap().objects.len(), 5, "with the objects");
    let (collection, tenant) = ("Docs".to_owned(), String::new());
    let (after, filter) = (Vec::new(), Vec::new());
    let scan = heddle_wire::message::ScanRequest {
        collection,
        tenant,
        epoch: 0,
        after,
        limit: 100,
        filter,
        want: 0,
    };
    assert_eq!(raw.call(&scan).unwrap().objects.len(), 40);
    let status = block_on(status_of(&site, 0));
    let cores = status["cores"].as_array().unwrap();
    let failed_over: u64 =
        cores.iter().map(|core| core["routing"]["failed_over"].as_u64().unwrap()).sum();
    assert!(failed_over > 0, "a read began at the node that is gone: {status}");
}

#[test]
fn a_search_does_not_wait_for_a_replica_that_hangs() {
    let (site, nodes) = pair();
    nodes[1].freeze();
    let mut raw = site.raw(0);
    for row in 0..20 {
        // Without a second replica it would take until the link is given up.
        let found = raw.call(&search_request(row)).unwrap();
        assert_eq!(found.ids[..16], ids(row..row + 1));
    }
    let status = block_on(status_of(&site, 0));
    let cores = status["cores"].as_array().unwrap();
    let won: u64 = cores.iter().map(|core| core["routing"]["hedges_won"].as_u64().unwrap()).sum();
    assert!(won > 0, "{status}");
}

#[test]
fn an_older_write_that_comes_late_changes_nothing() {
    let trio = Trio::start(1);
    let ticket = ticket(&trio, 1);
    let newer = all_written(&trio.put(0, Consistency::All, put_request(7..8)));
    let late = put_with(&trio, 2, &ticket);
    assert_eq!(late.unwrap_err().code, ErrorCode::Unknown, "a newer one is there");
    for through in 0..3 {
        let stamps = trio.stamps(through, Consistency::One, 7..8);
        assert_eq!(stamps, [Some(newer[0])], "through {through}");
    }
}

fn ticket(trio: &Trio, through: usize) -> Vec<u8> {
    let reply = trio.site.raw(through).call(&TicketsRequest { count: 1 }).unwrap();
    assert_eq!(reply.tickets.len(), TICKET_BYTES);
    reply.tickets
}

/// Writes row 7 with a ticket.
fn put_with(trio: &Trio, through: usize, ticket: &[u8]) -> Outcome {
    let mut terms = WriteTerms::new(None, Durability::Sync);
    terms.ticket = ticket.to_vec();
    let request = PutAtRequest { terms, put: put_request(7..8) };
    trio.site.raw(through).call(&request)?.into_results().remove(0)
}

#[test]
fn a_write_that_is_sent_again_with_its_ticket_is_the_same_write() {
    let trio = Trio::start(1);
    let ticket = ticket(&trio, 0);
    let first = put_with(&trio, 1, &ticket).unwrap();
    let again = put_with(&trio, 2, &ticket).unwrap();
    assert_eq!(first, again);
    let mut forged = ticket.clone();
    forged[0] ^= 1;
    assert_eq!(put_with(&trio, 0, &forged).unwrap_err().code, ErrorCode::InvalidArgument);
    let mut twice = put_request(7..8);
    let more = put_request(7..8);
    twice.push(&ObjectId::from_row(7), b"");
    assert_eq!(more.len() + 1, twice.len());
    let mut terms = WriteTerms::new(None, Durability::Sync);
    terms.ticket = ticket;
    let refused = trio.site.raw(0).call(&PutAtRequest { terms, put: twice });
    let code = match refused {
        Ok(reply) => reply.into_results().remove(0).unwrap_err().code,
        Err(error) => error.code,
    };
    assert_eq!(code, ErrorCode::InvalidArgument, "one stamp for two writes of an object");
}

fn numbered(row: u64, number: i64) -> Object {
    let properties = Properties::from([("row".to_owned(), Value::Int(number))]);
    Object::new(ObjectId::from_row(row)).with_properties(properties).with_vector(vector(row))
}

async fn number_of(client: &Client, row: u64) -> (i64, Stamp) {
    let docs = client.collection("Docs");
    let (found, stamp) = docs.get_version(ObjectId::from_row(row)).await.unwrap().unwrap();
    match found.properties.unwrap()["row"] {
        Value::Int(number) => (number, stamp),
        ref other => panic!("{other:?} is no number"),
    }
}

#[test]
fn conditional_writes_from_all_nodes_lose_no_update() {
    const ROUNDS: i64 = 8;
    let trio = Trio::start(1);
    block_on(async {
        let mut clients = Vec::new();
        for node in 0..3 {
            clients.push(trio.site.client(&[node]).await);
        }
        let docs = clients[0].collection("Docs");
        let first = docs.put_if(&numbered(1, 0), Condition::Absent).await.unwrap();
        let again = docs.put_if(&numbered(1, 9), Condition::Absent).await.unwrap_err();
        assert_eq!(again.code(), Some(ErrorCode::ConditionFailed));
        assert_eq!(number_of(&clients[1], 1).await, (0, first));
        let increments = clients.iter().map(|client| async move {
            let mut done = 0;
            while done < ROUNDS {
                let (number, stamp) = number_of(client, 1).await;
                let next = numbered(1, number + 1);
                let docs = client.collection("Docs");
                match docs.put_if(&next, Condition::StampIs(stamp)).await {
                    Ok(_) => done += 1,
                    Err(error) => assert_eq!(error.code(), Some(ErrorCode::ConditionFailed)),
                }
            }
        });
        futures::future::join_all(increments).await;
        assert_eq!(number_of(&clients[2], 1).await.0, 3 * ROUNDS);
        let id = ObjectId::from_row(1);
        let refused = docs.delete_if(id, Condition::StampIs(first)).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::ConditionFailed));
        let (_, stamp) = number_of(&clients[0], 1).await;
        assert!(docs.delete_if(id, Condition::StampIs(stamp)).await.unwrap());
    });
}

#[test]
fn merges_through_all_nodes_keep_what_each_of_them_sets() {
    let trio = Trio::start(1);
    block_on(async {
        let docs = trio.site.client(&[0]).await.collection("Docs");
        docs.put(object(4)).await.unwrap();
        for (node, name) in [(1, "row"), (2, "parity")] {
            let value = if name == "row" { Value::Int(44) } else { Value::Text("four".to_owned()) };
            let properties = Properties::from([(name.to_owned(), value)]);
            let change = Object::new(ObjectId::from_row(4)).with_properties(properties);
            trio.site.client(&[node]).await.collection("Docs").merge(change).await.unwrap();
        }
        let found = docs.get(ObjectId::from_row(4)).await.unwrap().unwrap();
        let properties = found.properties.unwrap();
        assert_eq!(properties["row"], Value::Int(44));
        assert_eq!(properties["parity"], Value::Text("four".to_owned()));
        assert_eq!(found.vectors[""], vector(4));
        let twice = [object(5), object(5)];
        let outcomes = docs.put_batch(PutMode::Merge, &twice).await.unwrap();
        assert!(outcomes.iter().all(Result::is_ok), "an object that is named twice: {outcomes:?}");
    });
}
