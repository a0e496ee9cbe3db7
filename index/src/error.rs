//! What can go wrong in the index, as values.

/// Why an index operation was refused. Unless a variant says otherwise the index is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A parameter lies outside its range. Not worth a retry.
    #[error("parameter `{name}` is {found}, expected {minimum}..={maximum}")]
    Parameter {
        /// Which parameter.
        name: &'static str,
        /// What was given.
        found: u64,
        /// Smallest value allowed.
        minimum: u64,
        /// Largest value allowed.
        maximum: u64,
    },
    /// Two parameters exclude each other. Not worth a retry.
    #[error("{problem}")]
    Combination {
        /// Which, and why.
        problem: &'static str,
    },
    /// A vector has the wrong number of components. Not worth a retry.
    #[error("vector has {found} components, expected {expected}")]
    Dimension {
        /// Components of the index.
        expected: u32,
        /// Components given.
        found: usize,
    },
    /// A component is NaN or infinite. Not worth a retry.
    #[error("component {index} of the vector is not finite")]
    NotFinite {
        /// Position of the first such component.
        index: usize,
    },
    /// Cosine distance is undefined for a vector of length zero. Not worth a retry.
    #[error("a vector of length zero has no direction, cosine distance needs one")]
    ZeroVector,
    /// The slot already holds a vector: slots are written once until they are freed.
    #[error("slot {slot} already holds a vector")]
    SlotTaken {
        /// The slot.
        slot: u32,
    },
    /// The shard has no slot left. Nothing to retry before objects are deleted.
    #[error("the shard is full: {maximum} slots")]
    Full {
        /// How many slots a shard can have.
        maximum: u32,
    },
    /// The system refused memory. A retry may work when memory is free again.
    #[error("no memory for {bytes} bytes")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// The system's answer.
        #[source]
        source: rustix::io::Errno,
    },
    /// A memory image does not describe an index. The half-restored index is dropped.
    #[error("image section `{section}` at byte {offset}: {problem}")]
    Image {
        /// Which section.
        section: &'static str,
        /// Where in the section.
        offset: u64,
        /// What was wrong.
        problem: &'static str,
    },
}
