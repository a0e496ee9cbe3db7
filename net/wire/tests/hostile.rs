//! Does any body make a decoder panic, or pass although its parts disagree?

mod samples;

use heddle_types::{ApiError, ErrorCode};
use heddle_wire::message::*;
use heddle_wire::{
    AlignedVec, Body, Frame, HEADER_BYTES, MessageError, access, decode_any, encode_reply,
    encode_request,
};

fn body_of(bytes: &[u8]) -> AlignedVec<16> {
    let mut body = AlignedVec::new();
    body.extend_from_slice(bytes);
    body
}

fn type_of(frame: &Frame) -> u16 {
    u16::from_le_bytes([frame[6], frame[7]])
}

fn numbers() -> Vec<u16> {
    samples::all().iter().map(|(_, frame)| type_of(frame)).collect()
}

#[test]
fn every_truncation_is_refused_or_read_without_panic() {
    for (name, frame) in samples::all() {
        let body = frame.body();
        assert_eq!(decode_any(type_of(&frame), &body_of(body)), Ok(()), "{name}");
        for length in 0..body.len() {
            let _ = decode_any(type_of(&frame), &body_of(&body[..length]));
            let _ = decode_any(type_of(&frame), &body_of(&body[body.len() - length..]));
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_read_without_panic() {
    for (_, frame) in samples::all() {
        let mut body = body_of(frame.body());
        for bit in 0..body.len() * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            let _ = decode_any(type_of(&frame), &body);
            body[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_word_set_to_an_extreme_is_refused_or_read_without_panic() {
    for (_, frame) in samples::all() {
        for offset in (0..frame.body().len().saturating_sub(3)).step_by(4) {
            for word in [0_u32, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX, 0xFFFF_FFF0] {
                let mut body = body_of(frame.body());
                body[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
                let _ = decode_any(type_of(&frame), &body);
            }
        }
    }
}

#[test]
fn random_bodies_are_refused_or_read_without_panic() {
    // SplitMix64; the seed is part of the test.
    let mut state = 0x5EED_u64;
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 32
    };
    let numbers = numbers();
    for _ in 0..20_000 {
        let length = (next() % 300) as usize;
        let bytes: Vec<u8> =
            (0..length).map(|_| if next() % 3 == 0 { 0 } else { next() as u8 }).collect();
        let number = numbers[next() as usize % numbers.len()];
        let _ = decode_any(number, &body_of(&bytes));
    }
}

#[test]
fn unknown_types_are_named() {
    for number in [0, 3, 0x7FFF, 0x8000, 0x8099] {
        let error = decode_any(number, &[]).unwrap_err();
        assert_eq!(error, MessageError::UnknownType { number });
        assert!(error.stream_goes_on());
        assert_eq!(ApiError::from(error).code, ErrorCode::UnknownMessage);
    }
}

#[test]
fn a_body_off_its_boundary_is_refused_not_misread() {
    let frame = encode_reply(1, &CountReply { count: 1 }).unwrap();
    let mut shifted = body_of(&[0; 8]);
    shifted.extend_from_slice(frame.body());
    let error = access::<CountReply>(&shifted[8..]).unwrap_err();
    assert_eq!(error, MessageError::Unaligned { found: 8, expected: 16 });
}

#[test]
fn vectors_are_read_where_they_lie() {
    let frame = encode_request(1, 0, &samples::search_request()).unwrap();
    let read = access::<SearchRequest>(frame.body()).unwrap();
    let body = frame.body().as_ptr_range();
    let queries = read.queries().as_ptr_range();
    assert!(body.contains(&queries.start.cast()) && queries.end.cast() <= body.end);
    assert_eq!(read.queries(), &[1.0, 2.0, 3.0, -1.0, -2.0, -3.0]);
    let frame = encode_request(1, 0, &samples::put_request()).unwrap();
    let read = access::<PutRequest>(frame.body()).unwrap();
    let (column, values) = read.vectors_of(1).next().unwrap();
    assert!(frame.body().as_ptr_range().contains(&values.as_ptr().cast()));
    assert_eq!((column, values), (0, &[4.0, 5.0, f32::MIN_POSITIVE][..]));
    assert_eq!(read.vectors_of(1).nth(1), Some((1, &[7.0][..])));
    assert_eq!(read.vectors_of(0).count(), 1);
    assert_eq!((read.row(0), read.row(1)), (&b"row one"[..], &b""[..]));
    assert_eq!(frame.as_slice().len(), HEADER_BYTES + frame.body().len());
}

fn search_error(change: impl FnOnce(&mut SearchRequest)) -> Option<MessageError> {
    let mut request = samples::search_request();
    change(&mut request);
    error_of(&request)
}

#[test]
fn an_unknown_durability_is_refused() {
    let unknown = PutWithRequest { durability: 2, put: samples::put_request() };
    let expected = MessageError::UnknownValue { field: "durability", found: 2 };
    assert_eq!(error_of(&unknown), Some(expected));
    let mut inner = PutWithRequest::new(Durability::Batched, samples::put_request());
    inner.put.mode = 2;
    let expected = MessageError::UnknownValue { field: "put mode", found: 2 };
    assert_eq!(error_of(&inner), Some(expected));
}

fn put_error(change: impl FnOnce(&mut PutRequest)) -> Option<MessageError> {
    let mut request = samples::put_request();
    change(&mut request);
    error_of(&request)
}

fn error_of<M: Request>(request: &M) -> Option<MessageError> {
    let frame = encode_request(1, 0, request).expect("the request fits into a frame");
    access::<M>(frame.body()).err()
}

fn is_mismatch(error: Option<MessageError>, expected_field: &str) -> bool {
    matches!(error, Some(MessageError::Mismatch { field, .. }) if field == expected_field)
}

fn is_too_large(error: Option<MessageError>, expected_field: &str) -> bool {
    matches!(error, Some(MessageError::TooLarge { field, .. }) if field == expected_field)
}

#[test]
fn searches_whose_parts_disagree_are_refused() {
    assert_eq!(search_error(|_| ()), None);
    assert!(is_mismatch(search_error(|r| r.queries.truncate(5)), "query values"));
    assert!(is_mismatch(search_error(|r| r.queries.clear()), "queries"));
    assert!(is_mismatch(search_error(|r| r.dims = 0), "queries"));
    assert!(is_mismatch(search_error(|r| r.near_id = vec![0; 16]), "dims beside a near id"));
    assert!(is_mismatch(search_error(|r| r.near_id = vec![0; 15]), "near id length"));
    assert!(is_too_large(search_error(|r| r.k = u32::MAX), "offset + k"));
    assert!(is_too_large(search_error(|r| r.ef = 100_001), "ef"));
    assert!(is_too_large(search_error(|r| r.dims = 65_536), "dims"));
    assert!(is_too_large(search_error(|r| r.vector = "v".repeat(129)), "vector name length"));
    assert!(is_too_large(search_error(|r| (r.queries, r.dims) = (vec![0.0; 1_025], 1)), "queries"));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = search_error(|r| r.queries[4] = bad).unwrap();
        assert_eq!(error, MessageError::NotFinite { field: "queries", index: 4 });
        assert_eq!(ApiError::from(error).code, ErrorCode::InvalidVector);
    }
    let error = search_error(|r| r.want = 8);
    assert_eq!(error, Some(MessageError::UnknownValue { field: "want flags", found: 8 }));
}

#[test]
fn puts_whose_parts_disagree_are_refused() {
    assert_eq!(put_error(|_| ()), None);
    assert!(is_mismatch(put_error(|r| r.ids.truncate(31)), "ids"));
    assert!(is_mismatch(put_error(|r| r.ids.truncate(16)), "property ends"));
    assert!(is_mismatch(put_error(|r| r.property_bytes.push(0)), "property ends"));
    assert!(is_mismatch(put_error(|r| r.vectors[0].values.truncate(5)), "vector values"));
    assert!(is_mismatch(put_error(|r| r.vectors[0].dims = 2), "vector values"));
    assert!(is_mismatch(put_error(|r| r.vectors[1].name.clear()), "twin vector column"));
    assert!(is_mismatch(
        put_error(|r| {
            r.vectors[0].values.clear();
            r.vectors[0].dims = 0;
        }),
        "vector values"
    ));
    let error = put_error(|r| r.property_ends = vec![8, 7]);
    assert_eq!(error, Some(MessageError::Order { field: "property ends", index: 1 }));
    let field = "rows of a vector column";
    let error = put_error(|r| r.vectors[0].rows = vec![1, 1]);
    assert_eq!(error, Some(MessageError::Order { field, index: 1 }));
    assert!(is_too_large(put_error(|r| r.vectors[1].rows = vec![2]), field));
    let error = put_error(|r| r.mode = 2);
    assert_eq!(error, Some(MessageError::UnknownValue { field: "put mode", found: 2 }));
    // A bad vector is the affair of its object, whose outcome names it.
    assert_eq!(put_error(|r| r.vectors[0].values[0] = f32::NAN), None);
}

fn shard_error<M: ShardRequest>(
    mut request: M,
    change: impl FnOnce(&mut M),
) -> Option<MessageError> {
    change(&mut request);
    let frame = encode_reply(1, &request).expect("the request fits into a frame");
    access::<M>(frame.body()).err()
}

#[test]
fn writes_to_a_shard_whose_parts_disagree_are_refused() {
    let put = |change: fn(&mut ShardPutRequest)| shard_error(samples::shard_put(), change);
    assert_eq!(put(|_| ()), None);
    let unknown = MessageError::UnknownValue { field: "durability", found: 2 };
    assert_eq!(put(|r| r.durability = 2), Some(unknown));
    assert!(is_mismatch(put(|r| r.put.tenant.push('t')), "length of names beside a shard"));
    assert!(is_mismatch(put(|r| r.put.ids.truncate(31)), "ids"));
    assert!(is_mismatch(put(|r| r.put.vectors[0].dims = 2), "vector values"));
    let delete = |change: fn(&mut ShardDeleteRequest)| shard_error(samples::shard_delete(), change);
    assert_eq!(delete(|_| ()), None);
    assert_eq!(delete(|r| r.durability = 2), Some(unknown));
    assert!(is_mismatch(delete(|r| r.ids.truncate(3)), "ids"));
    assert!(is_too_large(delete(|r| r.ids = vec![0; 16 * 10_001]), "ids"));
}

#[test]
fn reads_of_shards_whose_parts_disagree_are_refused() {
    let get = |change: fn(&mut ShardGetRequest)| shard_error(samples::shard_get(), change);
    assert_eq!(get(|_| ()), None);
    assert_eq!(get(|r| r.slots.clear()), None);
    assert!(is_mismatch(get(|r| r.shards.clear()), "shards"));
    assert!(is_mismatch(get(|r| _ = r.shards.pop()), "ends of shards"));
    assert!(is_mismatch(get(|r| _ = r.slots.pop()), "slots"));
    assert!(is_mismatch(get(|r| r.ends[1] = 2), "ends of shards"));
    let error = get(|r| r.ends = vec![3, 2]);
    assert_eq!(error, Some(MessageError::Order { field: "ends of shards", index: 1 }));
    assert!(is_too_large(get(|r| r.shards = vec![1; 513]), "shards"));
    let error = get(|r| r.want = 8);
    assert_eq!(error, Some(MessageError::UnknownValue { field: "want flags", found: 8 }));
    let scan = |change: fn(&mut ShardScanRequest)| shard_error(samples::shard_scan(), change);
    assert_eq!(scan(|_| ()), None);
    assert!(is_mismatch(scan(|r| r.after = vec![0; 15]), "cursor length"));
    assert!(is_too_large(scan(|r| r.limit = 10_001), "limit"));
    let count = |change: fn(&mut ShardCountRequest)| shard_error(samples::shard_count(), change);
    assert_eq!(count(|_| ()), None);
    assert!(is_mismatch(count(|r| r.shards.clear()), "shards"));
    assert!(is_too_large(count(|r| r.filter = vec![0; (4 << 20) + 1]), "filter length"));
}

#[test]
fn searches_of_shards_whose_parts_disagree_are_refused() {
    let search = |change: fn(&mut ShardSearchRequest)| shard_error(samples::shard_search(), change);
    assert_eq!(search(|_| ()), None);
    let all_pairs = |r: &mut ShardSearchRequest| {
        r.ends.clear();
        r.places.clear();
    };
    assert_eq!(search(all_pairs), None);
    assert!(is_mismatch(search(|r| r.ends.clear()), "places without ends"));
    assert!(is_mismatch(search(|r| r.queries.truncate(5)), "query values"));
    assert!(is_mismatch(search(|r| r.dims = 0), "queries"));
    assert!(is_mismatch(search(|r| r.shards.clear()), "shards"));
    assert!(is_mismatch(search(|r| r.ends = vec![1, 2]), "ends of pairs"));
    assert!(is_mismatch(search(|r| r.ends = vec![3]), "ends of pairs"));
    let order = Some(MessageError::Order { field: "places", index: 1 });
    assert_eq!(search(|r| r.places = vec![0, 1, 1]), order);
    assert!(is_too_large(search(|r| r.places = vec![0, 0, 2]), "places"));
    assert!(is_too_large(search(|r| r.k = 10_001), "k"));
    assert!(is_too_large(search(|r| r.ef = 100_001), "ef"));
    let zero = MessageError::UnknownValue { field: "ef", found: 0 };
    assert_eq!(search(|r| r.ef = 0), Some(zero));
    let error = search(|r| r.queries[4] = f32::NAN);
    assert_eq!(error, Some(MessageError::NotFinite { field: "queries", index: 4 }));
    let reply = |change: fn(&mut ShardSearchReply)| {
        let mut reply = samples::shard_search_reply();
        change(&mut reply);
        let frame = encode_reply(1, &reply).unwrap();
        access::<ShardSearchReply>(frame.body()).err()
    };
    assert_eq!(reply(|_| ()), None);
    assert!(is_mismatch(reply(|r| _ = r.slots.pop()), "slots"));
    assert!(is_mismatch(reply(|r| _ = r.evaluations.pop()), "evaluations"));
    assert!(is_mismatch(reply(|r| _ = r.exact.pop()), "exact flags"));
    let error = reply(|r| r.distances[1] = f32::NAN);
    assert_eq!(error, Some(MessageError::NotFinite { field: "distances", index: 1 }));
}

#[test]
fn a_batch_above_its_limit_is_refused() {
    let mut put = PutRequest::new("Docs", "", 0, PutMode::Replace);
    for row in 0..=10_000 {
        put.push(&heddle_types::ObjectId::from_row(row), b"");
    }
    assert!(is_too_large(error_of(&put), "ids"));
}

#[test]
fn a_message_larger_than_a_frame_is_not_encoded() {
    let definition = "x".repeat(CollectionCreateRequest::BODY_BYTES_MAX);
    let error = encode_request(1, 0, &CollectionCreateRequest { definition }).unwrap_err();
    assert_eq!(error.limit, CollectionCreateRequest::BODY_BYTES_MAX);
    assert!(error.found > error.limit);
    assert_eq!(ApiError::from(error).code, ErrorCode::TooLarge);
}

#[test]
fn routes_to_places_that_do_not_exist_are_refused() {
    let node = || TopologyNode {
        id: [1; 16],
        name: String::new(),
        address: String::new(),
        native_port: 1,
        http_port: 0,
        core_ports: vec![2],
    };
    let check = |change: fn(&mut TopologyCollection)| {
        let mut collection = TopologyCollection {
            id: [2; 16],
            definition: "{}".to_owned(),
            shard_ids: vec![1],
            shard_nodes: vec![0],
            shard_cores: vec![0],
            owners: vec![0, 0],
        };
        change(&mut collection);
        let (nodes, collections) = (vec![node()], vec![collection]);
        let reply = TopologyReply { epoch: 1, answering_node: 0, nodes, collections };
        let frame = encode_reply(1, &reply).unwrap();
        access::<TopologyReply>(frame.body()).err()
    };
    assert_eq!(check(|_| ()), None);
    let unknown = |field, found| Some(MessageError::UnknownValue { field, found });
    assert_eq!(check(|c| c.shard_nodes = vec![1]), unknown("shard node", 1));
    assert_eq!(check(|c| c.shard_cores = vec![1]), unknown("shard core", 1));
    assert_eq!(check(|c| c.owners[1] = 1), unknown("owner of a virtual shard", 1));
    assert!(is_mismatch(check(|c| c.shard_cores.clear()), "shard cores"));
}

#[test]
fn a_shard_without_a_replica_or_with_one_on_no_node_is_refused() {
    let check = |change: fn(&mut ShardReplicas)| {
        let mut reply = samples::topology_replicas();
        change(&mut reply.replicas[0]);
        let frame = encode_reply(1, &reply).unwrap();
        access::<TopologyReplicasReply>(frame.body()).err()
    };
    assert_eq!(check(|_| ()), None);
    let order = |index| Some(MessageError::Order { field: "ends of replicas", index });
    assert_eq!(check(|replicas| replicas.ends = vec![0, 4]), order(0));
    assert_eq!(check(|replicas| replicas.ends = vec![4, 4]), order(1));
    assert!(is_mismatch(check(|replicas| replicas.ends = vec![4]), "ends of replicas"));
    assert!(is_mismatch(check(|replicas| replicas.cores.truncate(3)), "replica cores"));
    let unknown = |found| Some(MessageError::UnknownValue { field: "node of a replica", found });
    assert_eq!(check(|replicas| replicas.nodes[3] = 7), unknown(7));
    assert_eq!(check(|replicas| replicas.cores[3] = 9), unknown(1));
}

#[test]
fn terms_that_do_not_fit_their_objects_are_refused() {
    let check = |change: fn(&mut PutAtRequest)| {
        let mut request = samples::put_at();
        change(&mut request);
        access::<PutAtRequest>(encode_reply(1, &request).unwrap().body()).err()
    };
    assert_eq!(check(|_| ()), None);
    let unknown = |field, found| Some(MessageError::UnknownValue { field, found });
    assert_eq!(check(|at| at.terms.level = 4), unknown("consistency level", 4));
    assert_eq!(check(|at| at.terms.conditions[0] = 3), unknown("condition", 3));
    assert!(is_mismatch(check(|at| at.terms.ticket.truncate(47)), "ticket length"));
    assert!(is_mismatch(check(|at| at.terms.conditions.truncate(1)), "conditions"));
    let stamps = "bytes of expected stamps";
    assert!(is_mismatch(check(|at| at.terms.expected.clear()), stamps));
    assert!(is_mismatch(check(|at| at.terms.conditions[1] = 0), stamps));
    let digests = |change: fn(&mut ReplicaDigestReply)| {
        let mut reply = samples::replica_digest_reply();
        change(&mut reply);
        access::<ReplicaDigestReply>(encode_reply(1, &reply).unwrap().body()).err()
    };
    assert_eq!(digests(|_| ()), None);
    assert_eq!(digests(|reply| reply.kinds[1] = 3), unknown("kind of a digest", 3));
    assert!(is_mismatch(digests(|reply| reply.kinds[1] = 1), "bytes of stamps"));
    assert!(is_mismatch(digests(|reply| reply.created_us.truncate(1)), "creation times"));
}

#[test]
fn conditions_and_outcomes_are_read_back_as_they_were_set() {
    let request = samples::put_at();
    let frame = encode_reply(1, &request).unwrap();
    let terms = &access::<PutAtRequest>(frame.body()).unwrap().terms;
    let again = {
        let mut again = request.terms.clone();
        again.set_conditions(&terms.conditions());
        again
    };
    assert_eq!(again, request.terms);
    assert_eq!(terms.conditions()[0], Condition::Absent);
    let refused = ApiError::new(ErrorCode::DiskFull, "full", "");
    let outcomes = [
        Ok(ReplicaOutcome::Applied { existed: false }),
        Err(refused.clone()),
        Ok(ReplicaOutcome::Known { existed: true }),
        Ok(ReplicaOutcome::Superseded),
    ];
    let mut reply = ReplicaWriteReply::default();
    outcomes.iter().for_each(|outcome| reply.push(outcome.as_ref().copied()));
    assert_eq!(reply.into_results(), outcomes);
}

#[test]
fn tenants_that_do_not_fit_together_are_refused() {
    let list = |change: fn(&mut TenantListReply)| {
        let mut reply = samples::tenant_list();
        change(&mut reply);
        access::<TenantListReply>(encode_reply(1, &reply).unwrap().body()).err()
    };
    assert_eq!(list(|_| ()), None);
    let unknown = |field, found| Some(MessageError::UnknownValue { field, found });
    assert_eq!(list(|r| r.tenants[0].active = 2), unknown("state of a tenant", 2));
    assert_eq!(list(|r| r.more = 2), unknown("more tenants", 2));
    assert!(is_mismatch(list(|r| r.tenants[0].nodes.truncate(47)), "nodes of a tenant"));
    assert!(is_mismatch(list(|r| r.tenants[0].ends.truncate(1)), "replicas of each shard"));
    let change = |change: fn(&mut TenantChangeRequest)| {
        let mut request = samples::tenant_change();
        change(&mut request);
        access::<TenantChangeRequest>(encode_request(1, 0, &request).unwrap().body()).err()
    };
    assert_eq!(change(|_| ()), None);
    assert_eq!(change(|r| r.action = 5), unknown("action on tenants", 5));
    let many = change(|r| r.tenants = vec!["t".to_owned(); 1_001]);
    assert!(matches!(many, Some(MessageError::TooLarge { limit: 1_000, .. })), "{many:?}");
    let long = change(|r| r.tenants.push("t".repeat(129)));
    assert!(matches!(long, Some(MessageError::TooLarge { limit: 128, .. })), "{long:?}");
}

#[test]
fn outcomes_keep_their_order_and_share_equal_errors() {
    let error = |text: &str| ApiError::new(ErrorCode::InvalidVector, text, "3");
    let mut reply = PutReply::default();
    let (first, second) = (error("first"), error("second"));
    for outcome in [Ok(heddle_types::Hlc(9)), Err(&first), Err(&first), Err(&second)] {
        reply.push(outcome);
    }
    assert_eq!(reply.errors.len(), 2);
    let results = reply.clone().into_results();
    assert_eq!(results[0], Ok(heddle_types::Hlc(9)));
    assert_eq!(results[2], Err(first));
    assert_eq!(results[3], Err(second));
    reply.outcomes[0] = 3;
    let frame = encode_reply(1, &reply).unwrap();
    let error = access::<PutReply>(frame.body()).unwrap_err();
    assert_eq!(error, MessageError::UnknownValue { field: "outcome", found: 3 });
}
