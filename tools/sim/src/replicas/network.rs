//! The network between nodes: it loses, doubles, delays and cuts, each direction on its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::Random;

use super::time::{now_us, sleep_us};

/// How bad the network is while nothing special happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Messages lost, percent.
    pub(crate) loss_percent: u64,
    /// Requests that arrive twice, percent.
    pub(crate) double_percent: u64,
    /// Mean of the exponential delay of a message.
    pub(crate) delay_us_mean: u64,
}

/// Directions that nothing passes.
pub(crate) type Cut = Vec<(usize, usize)>;

/// The links of all nodes.
pub(crate) struct Network {
    weather: Cell<Weather>,
    random: RefCell<Random>,
    /// How many cuts lie over a direction.
    cuts: RefCell<BTreeMap<(usize, usize), u32>>,
    /// Messages of a direction are held back until then.
    clogged_until: RefCell<BTreeMap<(usize, usize), u64>>,
    pub(crate) sent: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    pub(crate) doubled: Cell<u64>,
    pub(crate) cut_off: Cell<u64>,
}

impl Network {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        Self {
            weather: Cell::new(weather),
            random: RefCell::new(Random::new(seed)),
            cuts: RefCell::default(),
            clogged_until: RefCell::default(),
            sent: Cell::default(),
            lost: Cell::default(),
            doubled: Cell::default(),
            cut_off: Cell::default(),
        }
    }

    pub(crate) fn cut(&self, cut: &Cut) {
        let mut cuts = self.cuts.borrow_mut();
        for direction in cut {
            *cuts.entry(*direction).or_insert(0) += 1;
        }
    }

    pub(crate) fn mend(&self, cut: &Cut) {
        let mut cuts = self.cuts.borrow_mut();
        for direction in cut {
            if let Some(count) = cuts.get_mut(direction) {
                *count = count.saturating_sub(1);
            }
        }
    }

    pub(crate) fn clog(&self, direction: (usize, usize), until_us: u64) {
        self.clogged_until.borrow_mut().insert(direction, until_us);
    }

    /// Everything passes from now on, quickly.
    pub(crate) fn heal(&self) {
        self.cuts.borrow_mut().clear();
        self.clogged_until.borrow_mut().clear();
        self.weather.set(Weather { loss_percent: 0, double_percent: 0, delay_us_mean: 500 });
    }

    fn is_cut(&self, source: usize, target: usize) -> bool {
        self.cuts.borrow().get(&(source, target)).is_some_and(|count| *count > 0)
    }

    /// Whether a second copy of a request is under way; it may be late.
    pub(crate) fn doubles(&self) -> bool {
        let percent = self.weather.get().double_percent;
        let is_doubled = percent > 0 && self.random.borrow_mut().below(100) < percent;
        self.doubled.set(self.doubled.get() + u64::from(is_doubled));
        is_doubled
    }

    /// Takes a message its way; false when it does not arrive.
    pub(crate) async fn travel(&self, source: usize, target: usize) -> bool {
        if source == target {
            return true;
        }
        self.sent.set(self.sent.get() + 1);
        let (is_lost, delay_us) = {
            let (weather, mut random) = (self.weather.get(), self.random.borrow_mut());
            let is_lost = random.below(100) < weather.loss_percent;
            (is_lost, exponential(&mut random, weather.delay_us_mean))
        };
        let clogged_until = self.clogged_until.borrow().get(&(source, target)).copied();
        let clogged_us = clogged_until.map_or(0, |until| until.saturating_sub(now_us()));
        let was_cut = self.is_cut(source, target);
        sleep_us(delay_us + clogged_us).await;
        if is_lost {
            self.lost.set(self.lost.get() + 1);
        } else if was_cut || self.is_cut(source, target) {
            self.cut_off.set(self.cut_off.get() + 1);
        } else {
            return true;
        }
        false
    }
}

/// A draw of an exponential distribution in whole numbers: geometric over 64ths of the mean, so
/// that it is the same on every machine. At most ten times the mean.
pub(crate) fn exponential(random: &mut Random, mean: u64) -> u64 {
    let mut steps = 0;
    while steps < 640 && !random.one_in(64) {
        steps += 1;
    }
    mean * steps / 64 + random.below(mean / 64 + 1)
}
