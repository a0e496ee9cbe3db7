//! Images: what is written comes back, and nothing wrong gets in.

use std::sync::Arc;

use crate::testing::{Random, Shard};
use crate::{
    DirectoryWriter, IndexError, IndexParams, Metric, Quiescence, SearchRequest, VectorWriter,
};

fn params() -> IndexParams {
    let mut params = IndexParams::new(20, Metric::Cosine);
    params.flat_cutoff = 0;
    params.ef_construction = 60;
    params.seed = 77;
    params
}

/// 800 linked slots, 50 in the tail, some dead, some gone.
fn shard() -> Shard {
    let base = Random::new(41).vectors(850, 20, 8);
    let mut shard = Shard::with(params(), &base[..800]);
    (100..140).for_each(|slot| shard.kill(slot));
    shard.sweep(1_000);
    (200..210).for_each(|slot| shard.kill(slot));
    base[800..].iter().for_each(|vector| {
        shard.store(vector);
    });
    shard
}

const SLOTS: u32 = 810;

fn image_of(shard: &Shard) -> Vec<Vec<u8>> {
    let view = shard.writer.view();
    let plan = view.image_plan(SLOTS);
    let read = |(section, planned): (usize, &crate::ImageSection)| {
        let mut bytes = vec![0xAA; planned.bytes as usize];
        for (piece, out) in bytes.chunks_mut(1_000).enumerate() {
            view.image_read(SLOTS, section, piece as u64 * 1_000, out);
        }
        bytes
    };
    plan.iter().enumerate().map(read).collect()
}

fn restore(image: &[Vec<u8>]) -> Result<VectorWriter, IndexError> {
    let mut restorer = VectorWriter::restore(params(), SLOTS)?;
    for (section, bytes) in image.iter().enumerate() {
        for (piece, bytes) in bytes.chunks(777).enumerate() {
            restorer.write(section, piece as u64 * 777, bytes)?;
        }
    }
    restorer.finish()
}

#[test]
fn an_image_of_more_slots_than_the_index_ever_held_reads_zeros_beyond_its_memory() {
    // Another vector of the same objects filled the slots; this one has a single vector.
    let mut shard = Shard::new(params());
    shard.store(&[1.0; 20]);
    let view = shard.writer.view();
    let slots = 1_000_000;
    for (section, planned) in view.image_plan(slots).iter().enumerate() {
        let mut last = vec![0xAA; planned.bytes.min(1_000) as usize];
        view.image_read(slots, section, planned.bytes - last.len() as u64, &mut last);
        assert!(section == 0 || last.iter().all(|&byte| byte == 0), "{}", planned.name);
    }
}

#[test]
fn an_image_restores_the_same_graph_vectors_and_tail() {
    let mut shard = shard();
    let image = image_of(&shard);
    // Slots 810.. came after the image began; they are in the tail, so the graph is the same.
    let checksum = shard.writer.checksum();
    let restored = restore(&image).unwrap();
    assert_eq!(restored.checksum(), checksum);
    let (old, new) = (shard.writer.view(), restored.view());
    let mut tail = Vec::new();
    restored.next_unlinked(&mut tail, 1_000);
    for slot in 0..SLOTS {
        assert_eq!(old.holds(slot), new.holds(slot));
        if old.holds(slot) {
            assert_eq!(old.vector(slot), new.vector(slot));
            assert_eq!(old.norm(slot), new.norm(slot));
            assert_eq!(tail.contains(&slot), !old.is_linked(slot));
        }
    }
    assert_eq!(image_of(&Shard { writer: restored, ..self::shard() }), image);
    shard.writer = restore(&image).unwrap();
    (810..850).for_each(|slot| {
        if let Some(vector) = shard.vectors.get_mut(slot) {
            *vector = None;
        }
    });
    shard.link_all(8);
    assert_eq!(shard.writer.backlog(), 0);
    let query = vec![0.3; 20];
    let (hits, _) = shard.search(&query, SearchRequest::new(10, 60));
    assert_eq!(hits.len(), 10);
}

#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let shard = shard();
    let image = image_of(&shard);
    let mut random = Random::new(42);
    let (mut refused, mut accepted) = (0, 0);
    for section in (0..image.len()).filter(|&section| !image[section].is_empty()) {
        for _ in 0..60 {
            let mut broken = image.clone();
            let at = random.below(broken[section].len() as u64) as usize;
            broken[section][at] ^= 1 << random.below(8);
            match restore(&broken) {
                Err(IndexError::Image { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
                Ok(writer) => {
                    accepted += 1;
                    let mut shard = Shard::new(params());
                    shard.writer = writer;
                    shard.search(&[0.5; 20], SearchRequest::new(5, 40));
                    shard.link_all(8);
                }
            }
        }
    }
    println!("{refused} refused, {accepted} accepted");
    assert!(refused > 150);
}

#[test]
fn garbage_truncation_and_foreign_parameters_are_refused() {
    let image = image_of(&shard());
    let mut random = Random::new(43);
    for section in (0..image.len()).filter(|&section| !image[section].is_empty()) {
        let mut broken = image.clone();
        broken[section].iter_mut().for_each(|byte| *byte = random.next() as u8);
        assert!(matches!(restore(&broken), Err(IndexError::Image { .. })), "section {section}");
    }
    let nothing = VectorWriter::restore(params(), SLOTS).unwrap().finish();
    assert!(matches!(nothing, Err(IndexError::Image { section: "header", .. })));
    let mut zeroed = image.clone();
    zeroed[7].fill(0);
    assert!(matches!(restore(&zeroed), Err(IndexError::Image { section: "vectors", .. })));
    for foreign in [
        IndexParams { seed: 1, ..params() },
        IndexParams { metric: Metric::Dot, ..params() },
        IndexParams { m: 8, ..params() },
        IndexParams { dims: 19, ..params() },
    ] {
        let mut restorer = VectorWriter::restore(foreign, SLOTS).unwrap();
        let written = restorer.write(0, 0, &image[0]);
        assert!(matches!(written, Err(IndexError::Image { section: "header", .. })));
    }
    let mut restorer = VectorWriter::restore(params(), SLOTS).unwrap();
    assert!(restorer.write(1, u64::MAX, &[1]).is_err());
    assert!(restorer.write(99, 0, &[1]).is_err());
    assert!(restorer.write(4, 0, &[1]).is_err(), "rows before the header are unknown");
}

#[test]
fn a_directory_comes_back_with_its_free_and_dead_slots() {
    let shard = shard();
    let old = shard.directory.view();
    let quiescence = Quiescence::new(1);
    let restore = |change: &dyn Fn(usize, &mut Vec<u8>)| {
        let mut restorer = DirectoryWriter::restore(SLOTS, Arc::clone(&quiescence)).unwrap();
        for (section, planned) in old.image_plan(SLOTS).iter().enumerate() {
            let mut bytes = vec![0; planned.bytes as usize];
            old.image_read(SLOTS, section, 0, &mut bytes);
            change(section, &mut bytes);
            restorer.write(section, 0, &bytes).unwrap();
        }
        restorer.finish()
    };
    let mut writer = restore(&|_, _| {}).unwrap();
    let new = writer.view();
    for slot in 0..SLOTS {
        assert_eq!(old.is_live(slot), new.is_live(slot));
        assert_eq!(old.is_dead(slot), new.is_dead(slot));
    }
    assert_eq!(new.dead_count(), 10);
    let free = writer.free_count();
    assert_eq!(writer.push([9; 16]).is_ok_and(|slot| slot < SLOTS), free > 0);
    let live_but_free = restore(&|section, bytes| {
        if section == 1 {
            bytes[0] = 0;
        }
    });
    assert!(matches!(live_but_free, Err(IndexError::Image { section: "live", .. })));
    let beyond = restore(&|section, bytes| {
        if section == 1 {
            *bytes.last_mut().unwrap() = 0xFF;
        }
    });
    assert!(matches!(beyond, Err(IndexError::Image { section: "occupied", .. })));
}

/// Images of indexes with codes, with and without the vectors beside them.
mod codes {
    use super::*;
    use crate::{Codes, RawVectors};

    fn params_of(codes: Codes, raw: RawVectors) -> IndexParams {
        IndexParams { codes, raw, ..params() }
    }

    fn shard_of(params: IndexParams) -> Shard {
        let base = Random::new(44).vectors(SLOTS as usize, 20, 8);
        let mut shard = Shard::with(params, &base[..SLOTS as usize - 20]);
        base[SLOTS as usize - 20..].iter().for_each(|vector| {
            shard.store(vector);
        });
        shard
    }

    fn restore_with(params: &IndexParams, image: &[Vec<u8>]) -> Result<VectorWriter, IndexError> {
        let mut restorer = VectorWriter::restore(params.clone(), SLOTS)?;
        for (section, bytes) in image.iter().enumerate() {
            restorer.write(section, 0, bytes)?;
        }
        restorer.finish()
    }

    #[test]
    fn an_image_carries_the_planes_that_exist_and_restores_them() {
        let profiles = [
            (Codes::Half, RawVectors::Memory, [true, true, true, false]),
            (Codes::EightBit, RawVectors::Memory, [true, true, true, false]),
            (Codes::FourBit, RawVectors::Absent, [false, true, true, true]),
            (Codes::OneBit, RawVectors::Absent, [false, true, true, true]),
        ];
        for (codes, raw, expected) in profiles {
            let params = params_of(codes, raw);
            let mut shard = shard_of(params.clone());
            let image = image_of(&shard);
            let planes: Vec<bool> = image[7..].iter().map(|section| !section.is_empty()).collect();
            assert_eq!(planes, expected, "{codes:?} {raw:?}");
            let restored = restore_with(&params, &image).unwrap();
            assert_eq!(restored.checksum(), shard.writer.checksum());
            let query = vec![0.3; 20];
            let before = shard.search(&query, SearchRequest::new(10, 60));
            shard.writer = restored;
            assert_eq!(image_of(&shard), image);
            assert_eq!(shard.search(&query, SearchRequest::new(10, 60)), before);
            for other in [Codes::None, Codes::EightBit, Codes::FourBit] {
                if other != codes {
                    let foreign = params_of(other, RawVectors::Memory);
                    let found = restore_with(&foreign, &image);
                    assert!(matches!(found, Err(IndexError::Image { section: "header", .. })));
                }
            }
        }
    }

    #[test]
    fn signs_are_in_no_image_and_come_back_from_the_codes() {
        let dims = 300;
        for codes in [Codes::FourBit, Codes::EightBit] {
            let raw = RawVectors::Absent;
            let params = IndexParams { dims, ..params_of(codes, raw) };
            let base = Random::new(46).vectors(SLOTS as usize, dims as usize, 8);
            let shard = Shard::with(params.clone(), &base);
            let image = image_of(&shard);
            assert!(image.len() == 11);
            let (old, new) = (shard.writer.view(), restore_with(&params, &image).unwrap().view());
            for slot in 0..SLOTS {
                assert_eq!(old.planes.sign_row(slot), new.planes.sign_row(slot));
                assert!(old.planes.sign_row(slot).iter().any(|&byte| byte != 0));
            }
        }
    }

    #[test]
    fn damaged_codes_are_refused_or_harmless() {
        let params = params_of(Codes::EightBit, RawVectors::Absent);
        let image = image_of(&shard_of(params.clone()));
        let mut random = Random::new(45);
        for section in 8..11 {
            for _ in 0..80 {
                let mut broken = image.clone();
                let at = random.below(broken[section].len() as u64) as usize;
                broken[section][at] ^= 0x80 >> random.below(8);
                match restore_with(&params, &broken) {
                    Err(IndexError::Image { section: named, .. }) => {
                        assert_eq!(named, ["walk", "factors", "refine"][section - 8]);
                    }
                    Err(other) => panic!("{other}"),
                    Ok(writer) => {
                        let mut shard = Shard::new(params.clone());
                        shard.writer = writer;
                        let (hits, _) = shard.search(&[0.5; 20], SearchRequest::new(5, 40));
                        assert!(hits.iter().all(|hit| hit.distance.is_finite()));
                    }
                }
            }
        }
        for (section, name) in [(8, "walk"), (10, "refine")] {
            let mut broken = image.clone();
            broken[section].fill(0x80);
            let found = restore_with(&params, &broken);
            assert!(matches!(found, Err(IndexError::Image { section, .. }) if section == name));
        }
        // A slot has two factors of four bytes here, the second of them two short floats.
        for (at, byte) in [(3, 0xff), (5, 0xff), (7, 0xff), (8 * 300 + 7, 0xc0)] {
            let mut broken = image.clone();
            broken[9][at] = byte;
            let found = restore_with(&params, &broken);
            assert!(matches!(found, Err(IndexError::Image { section: "factors", .. })), "{at}");
        }
    }
}
