//! Candidates of several replicas of one shard become one list.
//!
//! Replicas of a shard have graphs of their own and may lag, so their candidates differ. A
//! candidate counts in its newest version among the replicas asked, and only in that: an older
//! one is dropped (the newer one stands in the list of its own replica if it is near enough), and
//! one that another replica knows to be deleted is dropped.

use heddle_types::{ObjectDigest, ObjectId, Stamp};

/// A candidate of a search.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hit {
    /// The object.
    pub id: ObjectId,
    /// Its version.
    pub stamp: Stamp,
    /// How far it is from the query; nearer is less.
    pub distance: f32,
}

/// The candidates of one query, found by several replicas of one shard.
///
/// ```
/// # use heddle_replication::{Hit, SearchMerge};
/// # use heddle_types::{ObjectDigest, ObjectId, Stamp};
/// let stamp = Stamp::default();
/// let hit = |row, distance| Hit { id: ObjectId::from_row(row), stamp, distance };
/// let merge = SearchMerge::new(vec![vec![hit(1, 0.1), hit(2, 0.2)], vec![hit(1, 0.1)]]);
/// // The second replica did not offer object 2. Does it know anything newer of it?
/// assert_eq!(merge.wanted(1).collect::<Vec<_>>(), [ObjectId::from_row(2)]);
/// let deleted = ObjectDigest::tombstone(stamp);
/// let merged = merge.finish(10, |_replica, _id| Some(deleted));
/// assert_eq!(merged.iter().map(|(hit, _)| hit.id).collect::<Vec<_>>(), [ObjectId::from_row(1)]);
/// ```
pub struct SearchMerge {
    replicas: usize,
    /// Every candidate with its replica, by id, newest version first.
    candidates: Vec<(Hit, u8)>,
}

impl SearchMerge {
    /// Takes the candidates of each replica, by position in `lists`, in whatever order.
    ///
    /// Cost: a sort of all candidates by id.
    #[must_use]
    pub fn new(lists: Vec<Vec<Hit>>) -> Self {
        let replicas = lists.len();
        let mut candidates = Vec::with_capacity(lists.iter().map(Vec::len).sum());
        for (replica, list) in lists.into_iter().enumerate() {
            candidates.extend(list.into_iter().map(|hit| (hit, replica as u8)));
        }
        candidates.sort_unstable_by(|(left, at), (right, other)| {
            left.id.cmp(&right.id).then(right.stamp.cmp(&left.stamp)).then(at.cmp(other))
        });
        Self { replicas, candidates }
    }

    /// Ids whose digest at a replica decides and is not known yet: candidates of others that it
    /// did not offer itself. Rising, without repetition; empty where all offered the same.
    pub fn wanted(&self, replica: u8) -> impl Iterator<Item = ObjectId> {
        self.groups().filter_map(move |group| {
            let is_offered = group.iter().any(|(_, source)| *source == replica);
            (!is_offered).then(|| group[0].0.id)
        })
    }

    /// The nearest `count` candidates that are up to date, nearest first, each with the replica
    /// that offered it. `digest_of` tells what [`SearchMerge::wanted`] asked for; none for what
    /// the replica has never had.
    ///
    /// Candidates of equal distance come by id. Cost: a sort of the candidates that are left.
    #[must_use]
    pub fn finish(
        &self,
        count: usize,
        mut digest_of: impl FnMut(u8, ObjectId) -> Option<ObjectDigest>,
    ) -> Vec<(Hit, u8)> {
        let mut merged: Vec<(Hit, u8)> = Vec::new();
        for group in self.groups() {
            // The newest version on offer; equal ones are told apart by nearness alone.
            let newest = group[0].0.stamp;
            let on_offer = group.iter().take_while(|(hit, _)| hit.stamp == newest);
            let best =
                on_offer.min_by(|(left, _), (right, _)| left.distance.total_cmp(&right.distance));
            let is_outdated = (0..self.replicas as u8)
                .filter(|replica| group.iter().all(|(_, source)| source != replica))
                .filter_map(|replica| digest_of(replica, group[0].0.id))
                .any(|known| (known.stamp, known.is_tombstone) > (newest, false));
            merged.extend(best.filter(|_| !is_outdated).copied());
        }
        let order = |(left, _): &(Hit, u8), (right, _): &(Hit, u8)| {
            left.distance.total_cmp(&right.distance).then(left.id.cmp(&right.id))
        };
        if count < merged.len() {
            merged.select_nth_unstable_by(count, order);
            merged.truncate(count);
        }
        merged.sort_unstable_by(order);
        merged
    }

    /// The candidates of each id.
    fn groups(&self) -> impl Iterator<Item = &[(Hit, u8)]> {
        self.candidates.chunk_by(|(left, _), (right, _)| left.id == right.id)
    }
}
