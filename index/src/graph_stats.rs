//! Figures about the shape of a graph, for benchmarks, tests and diagnosis.

use core::sync::atomic::Ordering;

use crate::Slot;
use crate::bitmap::SlotBitmap;
use crate::view::VectorView;

/// The shape of a graph at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphStats {
    /// Number of linked slots by the number of their layer-0 links.
    pub degrees: Vec<u32>,
    /// Number of linked slots by the number of layer-0 links that lead to them, from other linked
    /// slots; the last class counts all above.
    pub in_degrees: Vec<u32>,
    /// Linked slots that no way from the entry leads to, over links of any layer.
    pub unreachable: u32,
}

/// Classes of the histogram of links that lead to a slot.
const IN_DEGREE_CLASSES: usize = 65;

impl VectorView {
    /// Counts links and walks the whole graph.
    ///
    /// Cost: two reads of every link row, a bit and a word per slot. To be called on the home core,
    /// or while nothing is linked: nodes that move during the walk may be miscounted.
    #[must_use]
    pub fn graph_stats(&self) -> GraphStats {
        let high = self.high.load(Ordering::Acquire);
        let mut stats = GraphStats {
            degrees: vec![0; self.layout.base_links + 1],
            in_degrees: vec![0; IN_DEGREE_CLASSES],
            unreachable: 0,
        };
        let mut incoming = vec![0u32; high as usize];
        let reached = self.reachable(high);
        for slot in (0..high).filter(|&slot| self.is_linked(slot)) {
            let links = self.neighbours(slot, 0).filter(|&other| other < high);
            let degree = links.inspect(|&other| incoming[other as usize] += 1).count();
            stats.degrees[degree.min(self.layout.base_links)] += 1;
            stats.unreachable += u32::from(!reached.contains(slot));
        }
        for slot in (0..high).filter(|&slot| self.is_linked(slot)) {
            let class = (incoming[slot as usize] as usize).min(IN_DEGREE_CLASSES - 1);
            stats.in_degrees[class] += 1;
        }
        stats
    }

    /// All slots below `high` that links of any layer lead to, from the entry.
    fn reachable(&self, high: Slot) -> SlotBitmap {
        let mut seen = SlotBitmap::with_capacity(high);
        let mut open: Vec<Slot> = self.entry().map(|entry| entry.slot).into_iter().collect();
        open.iter().for_each(|&slot| {
            seen.insert(slot);
        });
        while let Some(slot) = open.pop() {
            for level in 0..=self.level_of(slot) {
                let unseen = self.neighbours(slot, level).filter(|&other| other < high);
                open.extend(unseen.filter(|&other| seen.insert(other)));
            }
        }
        seen
    }
}
