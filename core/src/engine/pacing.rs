//! Writers and what they leave behind: how fast rows may come when linking cannot follow.
//!
//! Every search scans what is not linked yet, and every replaced row holds a slot until a sweep has
//! freed it. So writers are slowed by the *burden* of their shard: the length of its tail over a
//! *quiet* length, whose scan costs about as much as a walk, or its dead slots over a sixth of all
//! its slots, whichever is more. Up to a burden of one rows come as they like. Beyond it each row
//! waits, in proportion to how far the burden is beyond and to the time that linking a row takes:
//! at a burden of two rows come as fast as they are linked, and there a steady load comes to rest.
//! While nobody searches, a tail burdens nobody and may be [`TAIL_UNSEARCHED_FACTOR`] times as
//! long. What writers do not use of the core is linking's and the sweep's. At a burden of
//! [`BURDEN_MAX`] they wait for it to fall; it gets there only while linking stands still for long,
//! as it does while an image is written.
//!
//! Source of the two limits and of a delay that grows between them: write stalls of RocksDB. The
//! difference: there the rate is a setting that is corrected, here the work itself is measured.

use std::cell::Cell;

use heddle_index::VectorWriter;
use heddle_types::limits::{
    BURDEN_MAX, DEAD_SHARE_QUIET, TAIL_ROWS_MIN, TAIL_UNSEARCHED_FACTOR, TAIL_WALK_EF,
};
use heddle_types::{Clock, Device};

use super::{Engine, ShardCell};
use crate::wal::Signal;

/// A burden of one.
pub(super) const ONE: u64 = 1 << 10;
/// The burden at which writers wait.
const FULL: u64 = BURDEN_MAX * ONE;
/// Time that a writer who comes late is given back (10 ms): timers are no finer than some of it.
const BURST_NS: u64 = 10_000_000;
/// Weight of the latest batch in what linking a row takes: one in so many.
const AVERAGED_BATCHES: u64 = 4;

/// So many rows, as a burden, of which `quiet` are one.
fn burden_of(rows: u64, quiet: u64) -> u64 {
    let burden = u128::from(rows) * u128::from(ONE) / u128::from(quiet.max(1));
    u64::try_from(burden).unwrap_or(u64::MAX)
}

/// How fast rows of one shard may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pacing {
    /// Nanoseconds from one linked row to the next while there is something to link; 0 at first.
    row_ns: u64,
    /// When the batch that is being linked began, or the one before it ended.
    begun_ns: Option<u64>,
    /// When the next row may come.
    free_at_ns: u64,
    /// A higher burden makes writers wait. A start may leave any; from there it only falls.
    burden_max: u64,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { row_ns: 0, begun_ns: None, free_at_ns: 0, burden_max: u64::MAX }
    }
}

impl Pacing {
    /// A batch to be linked was handed out.
    fn note_begun(&mut self, now_ns: u64) {
        self.begun_ns.get_or_insert(now_ns);
    }

    /// A batch was linked, so many rows of it; none when it has to be searched again. Some are left
    /// to be linked, or none.
    fn note_linked(&mut self, now_ns: u64, rows: u64, left: u64) {
        if rows == 0 {
            return;
        }
        if let Some(begun_ns) = self.begun_ns {
            let row_ns = now_ns.saturating_sub(begun_ns) / rows;
            self.row_ns = match self.row_ns {
                0 => row_ns,
                known => known - known / AVERAGED_BATCHES + row_ns / AVERAGED_BATCHES,
            };
        }
        self.begun_ns = (left > 0).then_some(now_ns);
    }

    /// Linking stands still for another reason than its own pace.
    pub(super) fn note_pause(&mut self) {
        self.begun_ns = None;
    }

    /// The burden has changed by work in the background.
    fn note_burden(&mut self, burden: u64) {
        self.burden_max = self.burden_max.min(burden.saturating_add(ONE)).max(FULL);
    }

    /// The same rows weigh more than before: that is no reason to stop.
    fn note_heavier(&mut self) {
        self.burden_max = u64::MAX;
    }

    /// Must writers wait until the burden is lower?
    fn is_full(&self, burden: u64) -> bool {
        burden >= self.burden_max
    }

    /// When one more row may come; it is counted as coming.
    fn admit(&mut self, now_ns: u64, burden: u64) -> u64 {
        let beyond = burden.min(FULL).saturating_sub(ONE);
        if beyond == 0 {
            return now_ns;
        }
        let pause_ns = u128::from(self.row_ns) * u128::from(beyond) / u128::from(ONE);
        let at_ns = self.free_at_ns.max(now_ns.saturating_sub(BURST_NS));
        self.free_at_ns = at_ns.saturating_add(u64::try_from(pause_ns).unwrap_or(u64::MAX));
        at_ns
    }
}

/// Writers that are held back, as whoever has a timer has to know.
#[derive(Default)]
pub(super) struct HeldWriters {
    /// When the first of them may go on, monotonic nanoseconds; `None` while there are none.
    next_ns: Cell<Option<u64>>,
    /// Nanoseconds that rows have been held back, added up.
    held_ns: Cell<u64>,
    /// One is held back that was not.
    came: Signal,
    /// Those whose time it may be look again.
    looks: Signal,
    /// A burden is no longer at its bound; those who wait for that look again.
    lower: Signal,
}

impl<D: Device, C: Clock> Engine<D, C> {
    /// Waits until some put is held back by the burden of its shard; how many nanoseconds until the
    /// first of those may go on? Let them by [`Engine::release_writers`].
    ///
    /// Whoever sets `paces_writers` in the configuration calls the two in turns.
    pub async fn held_writers(&self) -> u64 {
        let held = &self.inner.held;
        held.came.wait_until(|| held.next_ns.get().is_some()).await;
        let next_ns = held.next_ns.get().unwrap_or_default();
        next_ns.saturating_sub(self.inner.clock.monotonic_ns())
    }

    /// Lets puts go on whose time has come.
    pub fn release_writers(&self) {
        self.inner.held.next_ns.set(None);
        self.inner.held.looks.notify();
    }

    /// Tells whether anybody searches the shards of this core; counts from the next write on. At
    /// first somebody does.
    pub fn set_searched(&self, searched: bool) {
        if self.inner.searched.replace(searched) == searched {
            return;
        }
        if searched {
            let state = self.inner.state.borrow();
            state.shards.values().for_each(|cell| cell.pacing.borrow_mut().note_heavier());
        } else {
            self.release_all_writers();
        }
    }

    /// Nanoseconds that rows have been held back, added up.
    pub(super) fn writers_held_ns(&self) -> u64 {
        self.inner.held.held_ns.get()
    }

    /// Rows of the tail of a vector index that make a burden of one.
    fn quiet_rows(vector: &VectorWriter) -> u64 {
        u64::from(vector.rows_scanned_per_walk(TAIL_WALK_EF)).max(TAIL_ROWS_MIN)
    }

    /// What the writers of a shard have left behind, records on their way included.
    pub(super) fn burden(&self, cell: &ShardCell<D>) -> u64 {
        let coming = self.inner.state.borrow().pending.len() as u64;
        let shard = cell.shard.borrow();
        let directory = shard.directory();
        let factor = if self.inner.searched.get() { 1 } else { TAIL_UNSEARCHED_FACTOR };
        let quiet = u64::from(directory.published()) / DEAD_SHARE_QUIET;
        let dead = burden_of(u64::from(directory.dead_count()), quiet.max(TAIL_ROWS_MIN));
        let tails =
            shard.vectors().filter(|(_, vector)| vector.backlog() > 0).map(|(_, vector)| {
                burden_of(u64::from(vector.backlog()) + coming, factor * Self::quiet_rows(vector))
            });
        tails.fold(dead, u64::max)
    }

    /// Waits until the burden of the shard allows one more row.
    pub(super) async fn paced(&self, cell: &ShardCell<D>) {
        if !self.inner.config.paces_writers || self.burden(cell) <= ONE {
            return;
        }
        let begun_ns = self.inner.clock.monotonic_ns();
        let held = &self.inner.held;
        held.lower.wait_until(|| !self.is_full(cell)).await;
        let now_ns = self.inner.clock.monotonic_ns();
        let at_ns = cell.pacing.borrow_mut().admit(now_ns, self.burden(cell));
        let may_go = || {
            let is_due = self.inner.clock.monotonic_ns() >= at_ns;
            if is_due || self.burden(cell) <= ONE || self.is_over(cell) {
                return true;
            }
            let next_ns = held.next_ns.get();
            held.next_ns.set(Some(next_ns.map_or(at_ns, |next| next.min(at_ns))));
            if next_ns.is_none() {
                held.came.notify();
            }
            false
        };
        held.looks.wait_until(may_go).await;
        let waited_ns = self.inner.clock.monotonic_ns().saturating_sub(begun_ns);
        held.held_ns.set(held.held_ns.get().saturating_add(waited_ns));
    }

    fn is_full(&self, cell: &ShardCell<D>) -> bool {
        // What stands still for want of memory does not get less by waiting.
        let is_stuck = cell.book.borrow().link_failed;
        !is_stuck && !self.is_over(cell) && cell.pacing.borrow().is_full(self.burden(cell))
    }

    /// Will the shard take no more writes?
    fn is_over(&self, cell: &ShardCell<D>) -> bool {
        cell.dropped.get() || cell.book.borrow().poisoned || self.inner.state.borrow().failed
    }

    pub(super) fn note_link_begun(&self, cell: &ShardCell<D>) {
        cell.pacing.borrow_mut().note_begun(self.inner.clock.monotonic_ns());
    }

    pub(super) fn note_linked(&self, cell: &ShardCell<D>, rows: u64) {
        let left =
            cell.shard.borrow().vectors().map(|(_, vector)| u64::from(vector.backlog())).sum();
        let now_ns = self.inner.clock.monotonic_ns();
        cell.pacing.borrow_mut().note_linked(now_ns, rows, left);
        self.note_relief(cell);
    }

    /// The burden of a shard may have become lower.
    pub(super) fn note_relief(&self, cell: &ShardCell<D>) {
        if !self.inner.config.paces_writers {
            return;
        }
        let burden = self.burden(cell);
        cell.pacing.borrow_mut().note_burden(burden);
        if !self.is_full(cell) {
            self.inner.held.lower.notify();
        }
        // Those who wait for their time are woken by whoever has a timer, many at once.
        if burden <= ONE {
            self.inner.held.looks.notify();
        }
    }

    /// A shard or the log takes no more writes: nobody waits for it.
    pub(super) fn release_all_writers(&self) {
        self.inner.held.lower.notify();
        self.inner.held.looks.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace that has seen 64 rows linked in 6.4 ms: 100 us a row.
    fn measured() -> Pacing {
        let mut pacing = Pacing::default();
        pacing.note_begun(0);
        pacing.note_linked(6_400_000, 64, 1);
        pacing.note_burden(ONE);
        assert_eq!(pacing.row_ns, 100_000);
        pacing
    }

    /// Nanoseconds between rows at a burden.
    fn interval_ns(pacing: &mut Pacing, burden: u64) -> u64 {
        let now_ns = 1_000_000_000;
        let first = pacing.admit(now_ns, burden);
        pacing.admit(now_ns, burden) - first
    }

    #[test]
    fn a_burden_is_rows_over_what_is_quiet() {
        assert_eq!(burden_of(500, 1_000), ONE / 2);
        assert_eq!(burden_of(3_000, 1_000), 3 * ONE);
        assert_eq!(burden_of(u64::MAX, 1), u64::MAX);
        assert_eq!(burden_of(1, 0), ONE);
    }

    #[test]
    fn a_burden_of_one_holds_nobody_back() {
        let mut pacing = measured();
        assert_eq!(pacing.admit(7, ONE), 7);
        assert_eq!(pacing.admit(7, ONE), 7);
        assert!(!pacing.is_full(ONE));
    }

    #[test]
    fn rows_come_as_fast_as_they_are_linked_at_a_burden_of_two() {
        let mut pacing = measured();
        assert_eq!(interval_ns(&mut pacing, 2 * ONE), 100_000);
        assert_eq!(interval_ns(&mut pacing, 3 * ONE / 2), 50_000);
        assert_eq!(interval_ns(&mut pacing, 5 * ONE), 400_000);
        // No wait is longer than that at the bound.
        assert_eq!(interval_ns(&mut pacing, 100 * ONE), (BURDEN_MAX - 1) * 100_000);
    }

    #[test]
    fn without_a_measured_batch_only_the_bound_counts() {
        let mut pacing = Pacing::default();
        assert_eq!(interval_ns(&mut pacing, 5 * ONE), 0);
        pacing.note_burden(0);
        assert!(pacing.is_full(FULL) && !pacing.is_full(FULL - 1));
    }

    #[test]
    fn what_a_start_leaves_is_no_reason_to_wait_and_the_bound_falls_with_it() {
        let mut pacing = Pacing::default();
        assert!(!pacing.is_full(1_000 * ONE));
        pacing.note_burden(100 * ONE);
        assert!(pacing.is_full(101 * ONE) && !pacing.is_full(101 * ONE - 1));
        pacing.note_burden(50 * ONE);
        assert!(pacing.is_full(51 * ONE));
        pacing.note_burden(0);
        assert!(pacing.is_full(FULL) && !pacing.is_full(FULL - 1));
    }

    #[test]
    fn rows_that_weigh_more_since_somebody_searches_slow_writers_and_do_not_stop_them() {
        let mut pacing = measured();
        pacing.note_heavier();
        assert!(!pacing.is_full(32 * ONE));
        assert_eq!(interval_ns(&mut pacing, 32 * ONE), (BURDEN_MAX - 1) * 100_000);
        pacing.note_burden(31 * ONE);
        assert!(pacing.is_full(32 * ONE) && !pacing.is_full(32 * ONE - 1));
    }

    #[test]
    fn idle_time_and_pauses_do_not_count_as_linking() {
        let mut pacing = measured();
        pacing.note_linked(12_800_000, 64, 0);
        // Nothing was left to link for a second.
        pacing.note_begun(1_000_000_000);
        pacing.note_linked(1_006_400_000, 64, 500);
        assert_eq!(pacing.row_ns, 100_000);
        // An image came between.
        pacing.note_pause();
        pacing.note_linked(9_000_000_000, 64, 500);
        assert_eq!(pacing.row_ns, 100_000);
        // A batch that was refused is part of the next one's time.
        pacing.note_linked(9_006_400_000, 0, 500);
        pacing.note_linked(9_012_800_000, 64, 500);
        assert_eq!(pacing.row_ns, 125_000);
    }

    #[test]
    fn a_writer_who_comes_late_gets_some_of_the_time_back() {
        let mut pacing = measured();
        let now_ns = 1_000_000_000;
        let admitted = (0..300).filter(|_| pacing.admit(now_ns, 2 * ONE) <= now_ns);
        // 10 ms at 100 us a row, and the one that is due now.
        assert_eq!(admitted.count(), 101);
    }

    /// Writers without end on a core that links a row in 180 us or takes one in 40: the tail comes
    /// to rest at twice its quiet length, and stays below the bound through long images.
    #[test]
    fn a_steady_load_comes_to_rest_at_a_burden_of_two() {
        const QUIET: u64 = 4_000;
        let (mut pacing, mut now_ns, mut rows) = (Pacing::default(), 0u64, 0u64);
        let mut due_ns = None;
        let mut most = 0;
        for step in 0..10_000u64 {
            if (4_000..4_200).contains(&step) {
                // An image that takes two seconds.
                pacing.note_pause();
                now_ns += 10_000_000;
            } else {
                let batch = rows.min(64);
                pacing.note_begun(now_ns);
                now_ns += 180_000 * batch.max(1);
                rows -= batch;
                pacing.note_linked(now_ns, batch, rows);
                pacing.note_burden(burden_of(rows, QUIET));
            }
            for _ in 0..256 {
                let burden = burden_of(rows, QUIET);
                let at_ns = due_ns.unwrap_or_else(|| pacing.admit(now_ns, burden));
                due_ns = (at_ns > now_ns || pacing.is_full(burden)).then_some(at_ns);
                if due_ns.is_some() {
                    break;
                }
                now_ns += 40_000;
                rows += 1;
            }
            most = most.max(rows);
            if (2_000..4_000).contains(&step) || step > 8_000 {
                assert!((3 * QUIET / 2..5 * QUIET / 2).contains(&rows), "{rows} at {step}");
            }
        }
        assert!(most < BURDEN_MAX * QUIET, "{most}");
    }
}
