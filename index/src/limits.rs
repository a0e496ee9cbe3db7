//! Every bound of the index in one place, with its arithmetic.

/// Most components a vector may have.
pub const DIMS_MAX: u32 = 65_536;

/// Smallest and largest number of links a node gets per upper layer (twice as many at layer 0).
pub const M_MIN: u16 = 4;
/// See [`M_MIN`].
pub const M_MAX: u16 = 128;

/// Smallest candidate pool of an insert.
pub const EF_CONSTRUCTION_MIN: u16 = 8;
/// Largest candidate pool of an insert.
pub const EF_CONSTRUCTION_MAX: u16 = 4_096;

/// Largest candidate pool of a search; larger requests are clamped.
pub const EF_MAX: u32 = 65_536;

/// Slots of one shard: a pool entry keeps a slot in 31 bits beside the "expanded" bit.
pub const SLOTS_MAX: u32 = (1 << 31) - 2;

/// Highest layer a node can be drawn on. With `m` = 4 a shard needs 4^15 nodes to reach it.
pub const LEVEL_MAX: usize = 15;

/// Vectors of fewer components are not worth codes: their planes, rounded up to whole lines, are as
/// large as the vectors.
pub const CODES_DIMS_MIN: u32 = 64;

/// From this dimension on the default codes have four bits a component, below it eight.
pub const FOUR_BIT_DIMS_MIN: u32 = 256;

/// Floats in one 64-byte line: rows are padded to it, so kernels have no tail in the hot loop.
pub const LANE_FLOATS: usize = 16;

/// Words (u32) in one 64-byte line.
pub const LINE_WORDS: usize = 16;

/// Arenas up to this size come from the heap: a node holds thousands of shards of a hundred rows,
/// with some 15 arenas each, and may have 65,530 mappings (Linux's default). Below the size from
/// which the allocator makes mappings of its own.
pub const ARENA_HEAP_BYTES: usize = 128 << 10;

/// Arenas up to this size are one plain mapping (touched lazily), without a second memory area for
/// the uncommitted rest.
pub const ARENA_SMALL_BYTES: usize = 8 << 20;

/// Until a shard outgrows [`ARENA_SMALL_BYTES`], each reservation holds this many times as many
/// slots as the one before: four moves from the first one to 32,768 slots.
pub const ARENA_SMALL_FACTOR: usize = 4;

/// The reservation of a shard that outgrew [`ARENA_SMALL_BYTES`]. Address space only: 16 GiB for
/// 8,000 large shards is 2^47.
pub const ARENA_LARGE_BYTES: usize = 16 << 30;

/// Each further reservation is this many times the one before.
pub const ARENA_GROWTH_FACTOR: usize = 8;

/// An arena asks for 2 MiB pages once it holds this much; below, the rounding would cost more
/// memory than the faster address translation is worth.
pub const ARENA_HUGE_BYTES: usize = 4 << 20;

/// Size of a huge page, and the alignment of large reservations.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Smallest step by which an arena commits memory.
pub const ARENA_COMMIT_BYTES: usize = 256 << 10;

/// An arena commits an eighth of what it holds at a time, so the number of system calls is
/// logarithmic and at most 12.5 % is committed ahead of use.
pub const ARENA_COMMIT_DIVISOR: usize = 8;

/// Slots of the smallest index: a shard of a hundred rows, as many tenants have, needs not move.
pub const SLOTS_MIN: usize = 128;

/// Upper rows beyond twice their mean that a reservation has room for: a fair draw never needs
/// them. Small ones have fewer, and growth covers an unfair draw.
pub const UPPER_ROWS_SPARE_MAX: usize = 1_024;
/// See [`UPPER_ROWS_SPARE_MAX`].
pub const UPPER_ROWS_SPARE_MIN: usize = 24;

/// Most slots linked as one batch. Members are compared with each other: half as many distances
/// each, beside the thousand or two of a search.
pub const LINK_BATCH_MAX: usize = 512;

/// A batch is at most this part of the graph: its members do not walk over each other's links.
pub const LINK_BATCH_RATIO: usize = 8;

/// Slots a scan hands to the kernel at a time.
pub const SCAN_BLOCK: usize = 128;

/// Slots whose signs a scan looks at at a time: few of them are left, and these wait for memory
/// together.
pub const GLANCE_BLOCK: usize = 2_048;

/// Candidates that are rescored at a time once there are as many hits as wanted: enough to have
/// some rows on their way from memory, few because each block may be the last.
pub const RESCORE_BLOCK: usize = 8;

/// Most candidates that are rescored at a time.
pub const RESCORE_FIRST_MAX: usize = 128;

/// Evaluations after which a search offers to yield: about 200 us at 50 to 100 ns each.
pub const STEP_EVALUATIONS: u64 = 2_048;

const _: () = assert!(SCAN_BLOCK >= 2 * M_MAX as usize / 2);
const _: () = assert!(ARENA_HEAP_BYTES < ARENA_SMALL_BYTES);
const _: () = assert!(ARENA_SMALL_BYTES < ARENA_LARGE_BYTES);
const _: () = assert!(HUGE_PAGE_BYTES.is_power_of_two());
