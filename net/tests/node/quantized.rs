//! Collections of every quantization and place: defined, written, found, killed, started again.

use heddle_client::{Client, Object, PutMode, Search, Want};
use heddle_types::{
    CollectionConfig, Distance, ErrorCode, ObjectId, Quantization, RawVectors, VectorConfig,
};

use crate::harness::{TempDir, TestNode, config};
use crate::objects::{block_on, connect};

const ROWS: u64 = 300;
const DIMS: u64 = 24;

/// Components without a pattern around zero, of lengths that differ.
fn vector(row: u64) -> Vec<f32> {
    let component = |place: u64| {
        let mut mixed = (row * DIMS + place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 32)) >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let length = 0.5 + (row % 7) as f32;
    (0..DIMS).map(|place| component(place) * length).collect()
}

/// One definition for every pair that the server takes, under each distance that has codes.
fn kinds() -> Vec<CollectionConfig> {
    let mut kinds = Vec::new();
    for distance in Distance::ALL.into_iter().filter(|distance| distance.has_codes()) {
        for quantization in Quantization::ALL {
            for raw in RawVectors::ALL {
                if raw == RawVectors::Memory || quantization.is_refined() {
                    let vector = VectorConfig {
                        dims: Some(DIMS as u32),
                        distance,
                        quantization: Some(quantization),
                        raw: Some(raw),
                        ..VectorConfig::default()
                    };
                    let name = format!("K{}", kinds.len());
                    let vectors = vec![vector];
                    kinds.push(CollectionConfig { name, vectors, ..Default::default() });
                }
            }
        }
    }
    kinds
}

async fn fill(client: &Client, kind: &CollectionConfig) {
    let created = client.create_collection(kind).await.unwrap();
    assert_eq!(created.vectors, kind.vectors);
    let objects: Vec<Object> = (0..ROWS)
        .map(|row| Object::new(ObjectId::from_row(row)).with_vector(vector(row)))
        .collect();
    let collection = client.collection(&kind.name);
    for outcome in collection.put_batch(PutMode::Replace, &objects).await.unwrap() {
        outcome.unwrap();
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

async fn check(client: &Client, kind: &CollectionConfig) {
    let what = &kind.vectors[0];
    let shown = client.collection_config(&kind.name).await.unwrap();
    assert_eq!(shown.vectors, kind.vectors);
    let collection = client.collection(&kind.name);
    assert_eq!(collection.count(None).await.unwrap(), ROWS);
    let ids: Vec<ObjectId> = (0..ROWS).map(ObjectId::from_row).collect();
    let stored = collection.get_batch(&ids, Want::ALL).await.unwrap();
    let is_exact = what.distance != Distance::Cosine || what.raw == Some(RawVectors::Disk);
    for (row, stored) in (0..ROWS).zip(stored) {
        let stored = stored.unwrap().unwrap();
        let (found, given) = (stored.vectors.get("").unwrap(), vector(row));
        if is_exact {
            assert_eq!(bits(found), bits(&given), "row {row} of {what:?}");
        }
        let is_near = |(found, given): (&f32, &f32)| (found - given).abs() <= 1e-5 * given.abs();
        assert!(found.iter().zip(&given).all(is_near), "row {row} of {what:?}");
    }
    // Under dot a vector need not be the nearest to itself.
    if what.distance == Distance::Dot {
        return;
    }
    for row in (0..ROWS).step_by(29) {
        for search in [Search::near(vector(row)), Search::near_object(ObjectId::from_row(row))] {
            let search = search.k(3).ef(200).with_vectors();
            let result = collection.search(&search).await.unwrap();
            assert_eq!(result.hits.len(), 3);
            assert_eq!(result.hits[0].id, ObjectId::from_row(row), "row {row} of {what:?}");
            let object = result.hits[0].object.as_ref().unwrap();
            if is_exact {
                let found = object.vectors.get("").unwrap();
                assert_eq!(bits(found), bits(&vector(row)), "row {row} of {what:?}");
            }
        }
    }
}

#[test]
fn every_kind_round_trips_through_a_kill_and_a_stop() {
    let dir = TempDir::new();
    let config = config(&dir, 2);
    let node = TestNode::start(&config);
    block_on(async {
        let client = connect(&node).await;
        for kind in kinds() {
            fill(&client, &kind).await;
            check(&client, &kind).await;
        }
    });
    node.kill();
    let check_all = |node: &TestNode| {
        block_on(async {
            let client = connect(node).await;
            for kind in kinds() {
                check(&client, &kind).await;
            }
        });
    };
    let node = TestNode::start(&config);
    check_all(&node);
    assert_eq!(node.terminate().code(), Some(0));
    check_all(&TestNode::start(&config));
}

#[test]
fn pairs_that_do_not_fit_are_refused_and_what_is_left_open_is_settled() {
    let dir = TempDir::new();
    let node = TestNode::start(&config(&dir, 1));
    block_on(async {
        let client = connect(&node).await;
        let define = |vector: VectorConfig| CollectionConfig {
            name: "Docs".to_owned(),
            vectors: vec![vector],
            ..CollectionConfig::default()
        };
        for distance in [Distance::Manhattan, Distance::Hamming] {
            let quantization = Some(Quantization::Bits8);
            let vector = VectorConfig { distance, quantization, ..VectorConfig::default() };
            let error = client.create_collection(&define(vector)).await.unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
            assert!(error.to_string().contains("8bit"), "{error}");
        }
        let raw = Some(RawVectors::Disk);
        for quantization in [Quantization::None, Quantization::Half] {
            let quantization = Some(quantization);
            let vector = VectorConfig { raw, quantization, ..VectorConfig::default() };
            let error = client.create_collection(&define(vector)).await.unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
            assert!(error.to_string().contains("raw disk"), "{error}");
        }
        let quantization = Some(Quantization::Bits4);
        let open = VectorConfig { quantization, ..VectorConfig::default() };
        let created = client.create_collection(&define(open.clone())).await.unwrap();
        assert_eq!(created.vectors[0], open, "it waits for the dimension");
        let docs = client.collection("Docs");
        let object = Object::new(ObjectId::from_row(1)).with_vector(vector(1));
        docs.put(object).await.unwrap();
        let settled = client.collection_config("Docs").await.unwrap().vectors.remove(0);
        assert_eq!(settled.dims, Some(DIMS as u32));
        assert_eq!(settled.quantization, Some(Quantization::Bits4));
        assert_eq!(settled.raw, Some(RawVectors::Disk));
    });
}
