//! The hash tree of a shard's replica: sums over the objects of each leaf, by which two replicas
//! find in one message what they do not both have.
//!
//! A leaf holds the objects whose tokens share their top bits, and its sum is the wrapping sum of
//! a 128-bit hash of each object's digest. Sums are kept as objects come and go, in any order; an
//! inner node is the sum of its children, so a tree is compared with a lower one at the lower one's
//! height, and needs no inner nodes stored.

/// Most levels of a tree: 2^20 leaves, 16 MiB.
const HEIGHT_MAX: u8 = 20;

/// The leaves of one replica's tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeLeaves {
    height: u8,
    sums: Vec<u128>,
}

impl TreeLeaves {
    /// Most levels of a tree.
    pub const HEIGHT_MAX: u8 = HEIGHT_MAX;

    /// An empty tree of `2^height` leaves; heights above the most are cut to it.
    #[must_use]
    pub fn new(height: u8) -> Self {
        let height = height.min(HEIGHT_MAX);
        Self { height, sums: vec![0; 1 << height] }
    }

    /// A tree of given sums; none when their number is no power of two or too large.
    #[must_use]
    pub fn from_sums(sums: Vec<u128>) -> Option<Self> {
        let height = sums.len().checked_ilog2()?;
        let fits = sums.len().is_power_of_two() && height <= u32::from(HEIGHT_MAX);
        fits.then_some(Self { height: height as u8, sums })
    }

    /// Levels below the root.
    #[must_use]
    pub fn height(&self) -> u8 {
        self.height
    }

    /// The sum of each leaf, in the order of tokens.
    #[must_use]
    pub fn sums(&self) -> &[u128] {
        &self.sums
    }

    /// The sum of everything.
    #[must_use]
    pub fn root(&self) -> u128 {
        self.sums.iter().fold(0, |sum, leaf| sum.wrapping_add(*leaf))
    }

    /// Takes an object in: `hash` is that of its id and digest.
    pub fn add(&mut self, token: u64, hash: u128) {
        let leaf = &mut self.sums[leaf_of(token, self.height)];
        *leaf = leaf.wrapping_add(hash);
    }

    /// Takes an object out that was taken in with the same hash.
    pub fn subtract(&mut self, token: u64, hash: u128) {
        let leaf = &mut self.sums[leaf_of(token, self.height)];
        *leaf = leaf.wrapping_sub(hash);
    }

    /// The same tree with fewer levels; a copy when it has no more than that.
    #[must_use]
    pub fn fold(&self, height: u8) -> Self {
        let height = height.min(self.height);
        let group = 1_usize << (self.height - height);
        let sum = |leaves: &[u128]| leaves.iter().fold(0_u128, |sum, leaf| sum.wrapping_add(*leaf));
        Self { height, sums: self.sums.chunks_exact(group).map(sum).collect() }
    }

    /// The leaves that are not equal in all of `trees`, at the height of the lowest one.
    #[must_use]
    pub fn differing(trees: &[&Self]) -> LeafSet {
        let height = trees.iter().map(|tree| tree.height).min().unwrap_or(0);
        let mut differing = LeafSet::empty(height);
        let Some((first, others)) = trees.split_first() else { return differing };
        let first = first.fold(height);
        for other in others {
            let other = other.fold(height);
            for (leaf, (left, right)) in first.sums.iter().zip(&other.sums).enumerate() {
                if left != right {
                    differing.insert(leaf);
                }
            }
        }
        differing
    }
}

/// Leaves of a tree of some height.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafSet {
    height: u8,
    words: Vec<u64>,
}

impl LeafSet {
    /// No leaf of a tree of that height.
    #[must_use]
    pub fn empty(height: u8) -> Self {
        let height = height.min(HEIGHT_MAX);
        Self { height, words: vec![0; (1_usize << height).div_ceil(64)] }
    }

    /// A set of given words, 64 leaves each, lowest bit first; none when their number does not fit
    /// the height, or a bit is set that is no leaf.
    #[must_use]
    pub fn from_words(height: u8, words: Vec<u64>) -> Option<Self> {
        if height > HEIGHT_MAX || words.len() != (1_usize << height).div_ceil(64) {
            return None;
        }
        let is_within = height >= 6 || words[0] >> (1_u32 << height) == 0;
        is_within.then_some(Self { height, words })
    }

    /// The words, 64 leaves each, lowest bit first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Levels of the tree.
    #[must_use]
    pub fn height(&self) -> u8 {
        self.height
    }

    /// Puts a leaf in; one that the tree does not have is ignored.
    pub fn insert(&mut self, leaf: usize) {
        if leaf >> self.height == 0 {
            self.words[leaf / 64] |= 1 << (leaf % 64);
        }
    }

    /// Whether the objects of a token are in one of the leaves.
    #[must_use]
    pub fn contains(&self, token: u64) -> bool {
        let leaf = leaf_of(token, self.height);
        self.words[leaf / 64] & (1 << (leaf % 64)) != 0
    }

    /// How many leaves there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

/// The leaf of a token: its top bits.
fn leaf_of(token: u64, height: u8) -> usize {
    token.checked_shr(64 - u32::from(height)).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, the same each run.
    fn noise(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state ^ (state >> 29)
        }
    }

    #[test]
    fn what_comes_and_goes_in_any_order_leaves_the_same_sums() {
        let mut next = noise(1);
        let objects: Vec<(u64, u128)> =
            (0..500).map(|_| (next(), u128::from(next()) << 60)).collect();
        let mut forward = TreeLeaves::new(7);
        objects.iter().for_each(|(token, hash)| forward.add(*token, *hash));
        let mut backward = TreeLeaves::new(7);
        objects.iter().rev().for_each(|(token, hash)| backward.add(*token, *hash));
        backward.add(3, 99);
        backward.subtract(3, 99);
        assert_eq!(forward, backward);
        assert_eq!(forward.fold(0).sums(), [forward.root()]);
        assert_eq!(forward.fold(3).fold(2), forward.fold(2));
    }

    #[test]
    fn trees_of_different_height_differ_where_an_object_does() {
        let mut next = noise(2);
        let (mut high, mut low) = (TreeLeaves::new(9), TreeLeaves::new(4));
        for _ in 0..2_000 {
            let (token, hash) = (next(), u128::from(next()));
            high.add(token, hash);
            low.add(token, hash);
        }
        assert!(TreeLeaves::differing(&[&high, &low, &high]).is_empty());
        let token = 0x7fff_0000_0000_0000;
        high.add(token, 5);
        let differing = TreeLeaves::differing(&[&low, &high, &low]);
        assert_eq!((differing.height(), differing.len()), (4, 1));
        assert!(differing.contains(token) && !differing.contains(!token));
    }

    #[test]
    fn sums_and_words_of_the_wrong_number_are_no_tree() {
        for count in [0, 3, (1 << HEIGHT_MAX) + 1] {
            assert_eq!(TreeLeaves::from_sums(vec![0; count]), None, "{count}");
        }
        assert_eq!(TreeLeaves::from_sums(vec![1, 2]).map(|tree| tree.height()), Some(1));
        for (height, words) in [(3, vec![1 << 8]), (3, vec![0, 0]), (7, vec![0]), (21, vec![0])] {
            assert_eq!(LeafSet::from_words(height, words.clone()), None, "{height} {words:?}");
        }
        let set = LeafSet::from_words(3, vec![0x81]).unwrap();
        assert!(set.contains(u64::MAX) && set.contains(0) && !set.contains(1 << 62));
        let mut whole = LeafSet::empty(0);
        whole.insert(0);
        whole.insert(1);
        assert!(whole.len() == 1 && whole.contains(u64::MAX));
    }
}
