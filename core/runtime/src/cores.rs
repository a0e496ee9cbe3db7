//! Which CPU does what: a pure plan from the CPUs that this process may use.

use std::fmt;

use heddle_types::CoreIndex;
use heddle_types::limits::CORES_MAX;

/// CPUs from which on the meta core gets one of its own.
const META_OWN_CPUS_MIN: usize = 4;

/// Where the meta core runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaPlacement {
    /// On a CPU without a data core.
    Own(usize),
    /// On the CPU of the last data core, at a lower priority.
    SharedWithLast(usize),
}

impl MetaPlacement {
    /// The CPU.
    #[must_use]
    pub fn cpu(self) -> usize {
        match self {
            Self::Own(cpu) | Self::SharedWithLast(cpu) => cpu,
        }
    }
}

/// What a core of a node is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoreRole {
    /// Connections, searches, home of shards.
    Data,
    /// Catalog, membership, planning.
    Meta,
}

/// One pinned thread a core: data cores first, then the meta core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorePlan {
    /// CPU ids of the data cores, in core order; at least one.
    pub data_cores: Vec<usize>,
    /// CPU of the meta core.
    pub meta: MetaPlacement,
}

/// No plan can be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The affinity mask of the process is empty.
    #[error("this process may use no CPU")]
    NoCpu,
    /// More data cores were asked for than CPUs may be used.
    #[error("{requested} data cores were asked for; this process may use {available} CPUs")]
    TooMany {
        /// Data cores asked for.
        requested: usize,
        /// CPUs that may be used.
        available: usize,
    },
}

impl CorePlan {
    /// Plans for the given CPU ids; `requested` is the wanted count of data cores.
    ///
    /// Without a wish every CPU gets a data core, save one for the meta core where there are four
    /// or more. With a wish the meta core has a CPU of its own whenever one is left over.
    pub fn new(cpus: &[usize], requested: Option<usize>) -> Result<Self, PlanError> {
        let mut cpus = cpus.to_vec();
        cpus.sort_unstable();
        cpus.dedup();
        cpus.truncate(CORES_MAX);
        let available = cpus.len();
        let default = if available >= META_OWN_CPUS_MIN { available - 1 } else { available };
        let count = requested.unwrap_or(default).max(1);
        let Some(last) = cpus.last().copied() else { return Err(PlanError::NoCpu) };
        if count > available {
            return Err(PlanError::TooMany { requested: count, available });
        }
        let meta = match cpus.get(count) {
            Some(cpu) => MetaPlacement::Own(*cpu),
            None => MetaPlacement::SharedWithLast(last),
        };
        cpus.truncate(count);
        Ok(Self { data_cores: cpus, meta })
    }

    /// Plans for this process's affinity mask.
    pub fn of_this_process(requested: Option<usize>) -> Result<Self, PlanError> {
        Self::new(&online_cpus(), requested)
    }

    /// Cores of the node, the meta core included.
    #[must_use]
    pub fn core_count(&self) -> usize {
        self.data_cores.len() + 1
    }

    /// Position of the meta core: the last.
    #[must_use]
    pub fn meta_index(&self) -> CoreIndex {
        self.data_cores.len()
    }

    /// What the core at a position is for.
    #[must_use]
    pub fn role(&self, core: CoreIndex) -> CoreRole {
        if core < self.data_cores.len() { CoreRole::Data } else { CoreRole::Meta }
    }

    /// The CPU of the core at a position.
    #[must_use]
    pub fn cpu(&self, core: CoreIndex) -> usize {
        self.data_cores.get(core).copied().unwrap_or_else(|| self.meta.cpu())
    }

    /// Does the core at a position share its CPU with another?
    #[must_use]
    pub fn shares_cpu(&self, core: CoreIndex) -> bool {
        matches!(self.meta, MetaPlacement::SharedWithLast(cpu) if cpu == self.cpu(core))
    }

    /// Thread name of the core at a position: `data-0`, `meta`.
    #[must_use]
    pub fn thread_name(&self, core: CoreIndex) -> String {
        match self.role(core) {
            CoreRole::Data => format!("data-{core}"),
            CoreRole::Meta => "meta".to_owned(),
        }
    }
}

impl fmt::Display for CorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} data cores on CPUs {:?}, meta core ",
            self.data_cores.len(),
            self.data_cores
        )?;
        match self.meta {
            MetaPlacement::Own(cpu) => write!(f, "on CPU {cpu}"),
            MetaPlacement::SharedWithLast(cpu) => write!(f, "shares CPU {cpu}"),
        }
    }
}

/// CPU ids in the affinity mask of this process, ascending; empty when it cannot be read.
#[must_use]
pub fn online_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cpus: &[usize], requested: Option<usize>, data: &[usize], meta: MetaPlacement) {
        let plan = CorePlan::new(cpus, requested).unwrap();
        assert_eq!(plan.data_cores, data);
        assert_eq!(plan.meta, meta);
        assert_eq!(plan.core_count(), data.len() + 1);
        assert_eq!(plan.role(plan.meta_index()), CoreRole::Meta);
        let shared = matches!(meta, MetaPlacement::SharedWithLast(_));
        assert_eq!(plan.shares_cpu(plan.meta_index()), shared);
        assert_eq!(plan.shares_cpu(data.len() - 1), shared);
    }

    #[test]
    fn the_meta_core_has_its_own_cpu_from_four_cpus_on() {
        check(&[0], None, &[0], MetaPlacement::SharedWithLast(0));
        check(&[0, 1], None, &[0, 1], MetaPlacement::SharedWithLast(1));
        check(&[0, 1, 2], None, &[0, 1, 2], MetaPlacement::SharedWithLast(2));
        check(&[0, 1, 2, 3], None, &[0, 1, 2], MetaPlacement::Own(3));
        let many: Vec<usize> = (0..64).collect();
        check(&many, None, &many[..63], MetaPlacement::Own(63));
    }

    #[test]
    fn a_wish_is_met_and_a_cpu_left_over_goes_to_the_meta_core() {
        check(&[4, 2, 2, 9], Some(2), &[2, 4], MetaPlacement::Own(9));
        check(&[0, 1], Some(1), &[0], MetaPlacement::Own(1));
        check(&[0, 1, 2, 3], Some(4), &[0, 1, 2, 3], MetaPlacement::SharedWithLast(3));
        check(&[7], Some(0), &[7], MetaPlacement::SharedWithLast(7));
    }

    #[test]
    fn impossible_wishes_are_refused() {
        assert_eq!(CorePlan::new(&[], None), Err(PlanError::NoCpu));
        let refused = CorePlan::new(&[0, 1], Some(3));
        assert_eq!(refused, Err(PlanError::TooMany { requested: 3, available: 2 }));
    }

    #[test]
    fn this_process_may_use_a_cpu() {
        let plan = CorePlan::of_this_process(None).unwrap();
        assert!(plan.data_cores.iter().all(|cpu| online_cpus().contains(cpu)));
        assert_eq!(plan.thread_name(0), "data-0");
        assert_eq!(plan.thread_name(plan.meta_index()), "meta");
    }
}
