//! Do searches on other cores stay correct while the home core stores, links, kills and reuses?
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;

use heddle_index::{
    Codes, DirectoryWriter, Hit, IndexParams, LinkScratch, Metric, Quiescence, RawVectors, Scratch,
    SearchRequest, SlotDirectory, VectorView, VectorWriter, distance,
};

const DIMS: usize = 16;
const SEED: u64 = 71;

fn number(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

/// The vector of an object follows from its id, so any reader can check what it was given.
fn vector_of(object: u64) -> Vec<f32> {
    let mut seed = object;
    (0..DIMS).map(|_| (number(&mut seed) >> 40) as f32 / (1u32 << 24) as f32).collect()
}

fn id_of(object: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&object.to_be_bytes());
    id
}

fn object_of(id: [u8; 16]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id[8..]);
    u64::from_be_bytes(bytes)
}

struct Home {
    directory: DirectoryWriter,
    writer: VectorWriter,
    quiescence: Arc<Quiescence>,
    live: Vec<(u32, u64)>,
    next_object: u64,
    reused: u64,
}

type Views = (Arc<VectorView>, Arc<SlotDirectory>);

impl Home {
    fn store(&mut self, count: usize) {
        for _ in 0..count {
            let object = self.next_object;
            self.next_object += 1;
            let high = self.directory.view().published();
            let slot = self.directory.push(id_of(object)).unwrap();
            self.reused += u64::from(slot < high);
            self.writer.store(slot, &vector_of(object)).unwrap();
            self.directory.publish(slot);
            self.live.push((slot, object));
        }
    }

    fn link(&mut self, scratch: &mut LinkScratch, count: usize) {
        let mut left = count.min(self.writer.backlog() as usize);
        while left > 0 {
            let linked = self.writer.link_next(left, &self.directory.view(), scratch).unwrap();
            assert!(linked > 0, "nothing of {left} slots was linked");
            left -= linked;
        }
    }

    fn kill(&mut self, random: &mut u64, count: usize) {
        for _ in 0..count.min(self.live.len()) {
            let at = number(random) as usize % self.live.len();
            let (slot, _) = self.live.swap_remove(at);
            self.directory.kill(slot);
            self.writer.kill(slot);
        }
    }

    fn sweep(&mut self) {
        let mut freed = Vec::new();
        self.writer.sweep_step(&self.directory.view(), 700, &mut freed);
        if !freed.is_empty() {
            let epoch = self.quiescence.retire_epoch();
            freed.iter().for_each(|&slot| self.directory.free(slot, epoch));
        }
    }
}

/// Searches until told to stop; every hit must be an object that was live at some time, at the
/// distance that its own vector has.
fn read(
    quiescence: &Arc<Quiescence>,
    core: usize,
    inbox: &std::sync::mpsc::Receiver<Views>,
    stop: &AtomicBool,
    objects: &AtomicU64,
) -> u64 {
    let reader = quiescence.reader(core);
    let views = inbox.recv().unwrap();
    let (mut scratch, mut hits) = (Scratch::new(), Vec::<Hit>::new());
    let mut random = SEED + core as u64;
    let mut searches = 0;
    while !stop.load(Ordering::Acquire) {
        let pin = reader.pin();
        let query = vector_of(number(&mut random) % objects.load(Ordering::Acquire).max(1));
        let request = SearchRequest::new(10, 40);
        let (view, directory) = (views.0.latest(), views.1.latest());
        view.search(&directory, &query, request, &mut scratch, &mut hits);
        assert!(hits.is_sorted_by(|a, b| (a.distance, a.slot) < (b.distance, b.slot)));
        for hit in &hits {
            let object = object_of(directory.id(hit.slot));
            assert!(object < objects.load(Ordering::Acquire), "object {object} was never stored");
            let expected = distance::distance(Metric::L2Squared, &query, &vector_of(object));
            assert!((hit.distance - expected).abs() < 1e-4, "{} {expected}", hit.distance);
        }
        drop(pin);
        searches += 1;
    }
    searches
}

#[test]
fn searches_see_only_whole_objects_while_the_home_core_changes_everything() {
    change_everything_under_readers(Codes::None);
}

#[test]
fn searches_on_codes_see_only_whole_objects_as_well() {
    change_everything_under_readers(Codes::FourBit);
}

fn change_everything_under_readers(codes: Codes) {
    let quiescence = Quiescence::new(2);
    let mut params = IndexParams::new(DIMS as u32, Metric::L2Squared);
    (params.flat_cutoff, params.ef_construction) = (0, 40);
    (params.codes, params.raw) = (codes, RawVectors::Memory);
    let mut home = Home {
        directory: DirectoryWriter::new(0, Arc::clone(&quiescence)).unwrap(),
        writer: VectorWriter::new(params).unwrap(),
        quiescence: Arc::clone(&quiescence),
        live: Vec::new(),
        next_object: 0,
        reused: 0,
    };
    let (stop, objects) = (AtomicBool::new(false), AtomicU64::new(0));
    let searches: Vec<u64> = std::thread::scope(|scope| {
        let mut outboxes = Vec::new();
        let readers: Vec<_> = (0..2)
            .map(|core| {
                let (outbox, inbox) = channel();
                outboxes.push(outbox);
                let (quiescence, stop, objects) = (&quiescence, &stop, &objects);
                scope.spawn(move || read(quiescence, core, &inbox, stop, objects))
            })
            .collect();
        let (mut scratch, mut random) = (LinkScratch::new(), SEED);
        for round in 0..600 {
            // Announced before the first of them can be found.
            objects.store(home.next_object + 30, Ordering::Release);
            home.store(30);
            home.link(&mut scratch, 25);
            if round > 100 {
                home.kill(&mut random, 28);
                home.sweep();
            }
            if round == 0 {
                let views = (home.writer.view(), home.directory.view());
                outboxes.iter().for_each(|outbox| outbox.send(views.clone()).unwrap());
            }
        }
        stop.store(true, Ordering::Release);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(searches.iter().all(|&count| count > 0), "seed {SEED}: {searches:?} searches");
    assert!(home.reused > 1_000, "seed {SEED}: {} slots reused", home.reused);
}

#[test]
fn growth_under_readers_keeps_old_views_alive() {
    let mut params = IndexParams::new(1_024, Metric::L2Squared);
    (params.flat_cutoff, params.ef_construction) = (0, 20);
    (params.codes, params.raw) = (Codes::None, RawVectors::Memory);
    let mut writer = VectorWriter::new(params).unwrap();
    let mut directory = DirectoryWriter::new(0, Quiescence::new(1)).unwrap();
    let first = writer.view();
    let vector = |slot: u32| vec![slot as f32; 1_024];
    std::thread::scope(|scope| {
        let mut old = None;
        for slot in 0..2_600u32 {
            let pushed = directory.push([0; 16]).unwrap();
            assert_eq!(pushed, slot);
            writer.store(slot, &vector(slot)).unwrap();
            directory.publish(slot);
            if slot == 1_000 {
                let (view, directory) = (writer.view(), directory.view());
                old = Some(scope.spawn(move || {
                    let (mut scratch, mut hits) = (Scratch::new(), Vec::new());
                    for _ in 0..50 {
                        let request = SearchRequest::new(1, 10);
                        view.search(&directory, &vector(17), request, &mut scratch, &mut hits);
                        assert_eq!((hits[0].slot, hits[0].distance), (17, 0.0));
                    }
                }));
            }
        }
        old.unwrap().join().unwrap();
    });
    assert!(writer.view_version() > 0);
    assert!(Arc::ptr_eq(&first.latest(), &writer.view()));
    assert_eq!(writer.view().vector(2_599)[0], 2_599.0);
}
