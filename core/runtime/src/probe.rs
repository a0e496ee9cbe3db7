//! Can this machine run a node well? Checks for the boot self-test and for `heddle doctor`.
//!
//! Each check looks at one thing, says what it found, and what to do about it. Judgements are pure
//! functions of what was found.

use std::fmt;
use std::io;
use std::path::Path;

use heddle_types::limits::{PAGE_SIZE_BYTES, WAL_SEGMENT_BYTES};
use heddle_types::{AlignedBuf, Clock};
use io_uring::opcode;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::clock::RealClock;
use crate::cores::{CorePlan, online_cpus};

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// A node runs, but not as well or as safely as it could.
    Warn,
    /// A node must not be started.
    Fail,
}

impl fmt::Display for CheckState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What was looked at: `kernel`, `io_uring`, …
    pub name: &'static str,
    /// How it came out.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl Check {
    fn new(name: &'static str, state: CheckState, found: impl Into<String>, advice: &str) -> Self {
        let advice = if state == CheckState::Ok { "" } else { advice };
        Self { name, state, found: found.into(), advice: advice.to_owned() }
    }
}

/// Whether a directory holds a node's data already. Then a full disk is no reason not to start:
/// what is stored can be read, and often only a node that runs can make room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Directory {
    Fresh,
    Used,
}

impl Directory {
    fn of(path: &Path) -> Self {
        if path.join(IDENTITY_FILE).exists() { Self::Used } else { Self::Fresh }
    }

    /// The state of something without which no node can begin, but a node that has begun can go on.
    fn state_of_full_disk(self) -> CheckState {
        match self {
            Self::Fresh => CheckState::Fail,
            Self::Used => CheckState::Warn,
        }
    }
}

/// The file that every used data directory has.
const IDENTITY_FILE: &str = "node.json";
/// Log segments that each core makes at its first start: one in use and one spare.
const SEGMENTS_PER_CORE: u64 = 2;

/// Bytes that the logs of a fresh node take before anything is stored.
#[must_use]
pub fn fresh_log_bytes(cores: usize, segment_bytes: u64) -> u64 {
    (cores as u64).saturating_mul(SEGMENTS_PER_CORE).saturating_mul(segment_bytes)
}

/// Looks at everything, for a node on all CPUs of the process with log segments of the usual size.
/// Takes a few milliseconds, writes and removes one file of one page in `data_directory`. Call it
/// where blocking is fine.
#[must_use]
pub fn checks(data_directory: &Path) -> Vec<Check> {
    checks_for(data_directory, fresh_log_bytes(online_cpus().len(), WAL_SEGMENT_BYTES))
}

/// The same for a node whose logs take `log_bytes` at its first start, see [`fresh_log_bytes`].
#[must_use]
pub fn checks_for(data_directory: &Path, log_bytes: u64) -> Vec<Check> {
    vec![
        judge_kernel(&rustix::system::uname().release().to_string_lossy()),
        check_io_uring(),
        judge_memlock(getrlimit(Resource::Memlock).current),
        check_file_system(data_directory),
        check_direct_io(data_directory),
        check_clock(),
        check_cores(),
        check_huge_pages(),
        judge_open_files(getrlimit(Resource::Nofile).current),
        check_disk_space(data_directory, log_bytes),
        check_memory(),
    ]
}

// Kernels before 6.1 lose wake-ups of linked rings. The ENOMEM of ring setup under memory pressure
// was fixed in 6.6.86, 6.12.21, 6.13.9 and 6.14.
fn judge_kernel(release: &str) -> Check {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    let state = match version {
        (0..=5, ..) | (6, 0, _) => CheckState::Fail,
        (6, 6, 86..) | (6, 12, 21..) | (6, 13, 9..) | (6, 14.., _) | (7.., ..) => CheckState::Ok,
        _ => CheckState::Warn,
    };
    let advice = "use Linux 6.6.86, 6.12.21, 6.14 or newer; before 6.1 a node does not start";
    Check::new("kernel", state, release, advice)
}

/// What the runtime puts into its rings.
const OPCODES: [(&str, u8); 22] = [
    ("read", opcode::Read::CODE),
    ("write", opcode::Write::CODE),
    ("read fixed", opcode::ReadFixed::CODE),
    ("write fixed", opcode::WriteFixed::CODE),
    ("fsync", opcode::Fsync::CODE),
    ("fallocate", opcode::Fallocate::CODE),
    ("open", opcode::OpenAt::CODE),
    ("close", opcode::Close::CODE),
    ("statx", opcode::Statx::CODE),
    ("poll add", opcode::PollAdd::CODE),
    ("poll remove", opcode::PollRemove::CODE),
    ("timeout", opcode::Timeout::CODE),
    ("timeout remove", opcode::TimeoutRemove::CODE),
    ("link timeout", opcode::LinkTimeout::CODE),
    ("cancel", opcode::AsyncCancel::CODE),
    ("accept", opcode::Accept::CODE),
    ("connect", opcode::Connect::CODE),
    ("send", opcode::Send::CODE),
    ("recv", opcode::Recv::CODE),
    ("send message", opcode::SendMsg::CODE),
    ("recv message", opcode::RecvMsg::CODE),
    ("splice", opcode::Splice::CODE),
];

fn check_io_uring() -> Check {
    const ADVICE: &str = "allow io_uring: sysctl kernel.io_uring_disabled=0, and a seccomp profile \
        that permits io_uring_setup, io_uring_enter and io_uring_register (containers block them)";
    let missing = missing_opcodes();
    let (state, found) = match missing {
        Ok(missing) if missing.is_empty() => {
            (CheckState::Ok, format!("allowed, all {} operations", OPCODES.len()))
        }
        Ok(missing) => (CheckState::Fail, format!("operations missing: {}", missing.join(", "))),
        Err(error) => (CheckState::Fail, format!("refused: {error}")),
    };
    Check::new("io_uring", state, found, ADVICE)
}

fn missing_opcodes() -> io::Result<Vec<&'static str>> {
    let ring = io_uring::IoUring::new(8)?;
    let mut supported = io_uring::register::Probe::new();
    ring.submitter().register_probe(&mut supported)?;
    let missing = OPCODES.iter().filter(|(_, code)| !supported.is_supported(*code));
    Ok(missing.map(|(name, _)| *name).collect())
}

fn judge_memlock(limit: Option<u64>) -> Check {
    let advice = "set LimitMEMLOCK=infinity (systemd) or ulimit -l unlimited: every core \
        registers its IO memory three times; with less a node runs without registered buffers, and \
        below 512 KiB not at all";
    let (state, found) = match limit {
        None => (CheckState::Ok, "unlimited".to_owned()),
        Some(bytes) if bytes < 512 << 10 => (CheckState::Fail, show_bytes(bytes)),
        Some(bytes) if bytes < 64 << 20 => (CheckState::Warn, show_bytes(bytes)),
        Some(bytes) => (CheckState::Ok, show_bytes(bytes)),
    };
    Check::new("memlock", state, found, advice)
}

fn check_file_system(directory: &Path) -> Check {
    match rustix::fs::statfs(directory) {
        Ok(found) => judge_file_system(u64::try_from(found.f_type).unwrap_or(0)),
        Err(error) => Check::new(
            "file system",
            CheckState::Fail,
            format!("{}: {error}", directory.display()),
            "create the data directory and make it readable for this user",
        ),
    }
}

fn judge_file_system(magic: u64) -> Check {
    let (name, state) = match magic {
        0xEF53 => ("ext4", CheckState::Ok),
        0x5846_5342 => ("xfs", CheckState::Ok),
        0x0102_1994 => ("tmpfs: nothing survives a restart", CheckState::Fail),
        0x6969 => ("nfs: another machine's cache answers syncs", CheckState::Fail),
        0x9123_683E => ("btrfs: copies on write, preallocation is void", CheckState::Warn),
        0x2FC1_2FC1 => ("zfs: copies on write, preallocation is void", CheckState::Warn),
        0x794C_7630 => ("overlayfs: a container's layer, lost with it", CheckState::Warn),
        _ => ("unknown", CheckState::Warn),
    };
    let found = format!("{name} (0x{magic:X})");
    Check::new("file system", state, found, "put the data directory on ext4 or xfs, local disk")
}

fn check_direct_io(directory: &Path) -> Check {
    let path = directory.join("probe.tmp");
    let tried = try_direct_io(&path);
    // It may never have been made.
    let _ = std::fs::remove_file(&path);
    let advice = "use a local disk whose file system supports O_DIRECT, writable for this user; \
        a slow sync limits durable writes: prefer drives with power loss protection";
    match tried {
        Ok(found) => judge_direct_io(found, advice),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            let state = Directory::of(directory).state_of_full_disk();
            Check::new("direct IO", state, format!("not tried: {error}"), "free some space")
        }
        Err(error) => Check::new("direct IO", CheckState::Fail, error.to_string(), advice),
    }
}

/// What a page of direct IO costs, microseconds (medians).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DirectIo {
    write_sync_us: u64,
    read_us: u64,
    same: bool,
    // A write of less than a sector went through: then it went through a cache.
    cached: bool,
}

fn judge_direct_io(found: DirectIo, advice: &str) -> Check {
    let DirectIo { write_sync_us, read_us, same, cached } = found;
    let mut text = format!("write and sync of a page {write_sync_us} us, read {read_us} us");
    let state = if !same {
        text.push_str(", and the bytes read are not those written");
        CheckState::Fail
    } else if cached {
        text.push_str(", but through a cache");
        CheckState::Warn
    } else if write_sync_us > 20_000 {
        CheckState::Warn
    } else {
        CheckState::Ok
    };
    Check::new("direct IO", state, text, advice)
}

fn try_direct_io(path: &Path) -> io::Result<DirectIo> {
    const ROUNDS: usize = 9;
    let clock = RealClock;
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let mut writes = Vec::new();
    let mut reads = Vec::new();
    let mut same = true;
    for round in 0..ROUNDS {
        let byte = u8::try_from(round).unwrap_or(0) + 1;
        let page = AlignedBuf::from_slice(&[byte; PAGE_SIZE_BYTES]);
        let start = clock.monotonic_ns();
        let written = rustix::io::pwrite(&file, page.as_slice(), 0)?;
        rustix::fs::fdatasync(&file)?;
        let middle = clock.monotonic_ns();
        let mut back = AlignedBuf::zeroed(PAGE_SIZE_BYTES);
        let read = rustix::io::pread(&file, back.as_mut_slice(), 0)?;
        reads.push(clock.monotonic_ns().saturating_sub(middle) / 1_000);
        writes.push(middle.saturating_sub(start) / 1_000);
        same &= written == read && page.as_slice() == back.as_slice();
    }
    let part = AlignedBuf::zeroed(PAGE_SIZE_BYTES);
    let cached = rustix::io::pwrite(&file, &part.as_slice()[..100], 0) != Err(Errno::INVAL);
    writes.sort_unstable();
    reads.sort_unstable();
    let middle = ROUNDS / 2;
    Ok(DirectIo { write_sync_us: writes[middle], read_us: reads[middle], same, cached })
}

fn check_clock() -> Check {
    const READINGS: u64 = 10_000;
    let clock = RealClock;
    let start = clock.monotonic_ns();
    for _ in 0..READINGS {
        std::hint::black_box(clock.monotonic_ns());
    }
    let spent_ns = clock.monotonic_ns().saturating_sub(start);
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = std::fs::read_to_string(source).unwrap_or_default();
    judge_clock(spent_ns / READINGS, spent_ns > 0, clock.unix_us() / 1_000_000, source.trim())
}

fn judge_clock(reading_ns: u64, moves: bool, unix_seconds: u64, source: &str) -> Check {
    let year_2025 = 1_735_689_600;
    let year_2100 = 4_102_444_800;
    let sane = (year_2025..year_2100).contains(&unix_seconds);
    let state = if !moves || !sane {
        CheckState::Fail
    } else if reading_ns > 200 {
        CheckState::Warn
    } else {
        CheckState::Ok
    };
    let found = format!(
        "{reading_ns} ns a reading, source {source}, {unix_seconds} s since 1970{}",
        if moves { "" } else { ", monotonic time stands still" }
    );
    let advice = "set the time (chrony or ntpd), and use the tsc or kvm-clock clock source: every \
        other makes each reading a system call";
    Check::new("clock", state, found, advice)
}

fn check_cores() -> Check {
    let advice = "give the process at least one CPU, and no CPU quota: a core that is stopped in \
        the middle of a query is worse than one core less";
    let cpus = online_cpus();
    let quota = std::thread::available_parallelism().map_or(cpus.len(), usize::from);
    match CorePlan::new(&cpus, None) {
        Err(error) => Check::new("cores", CheckState::Fail, error.to_string(), advice),
        Ok(plan) if quota < cpus.len() => {
            let found = format!("{plan}; a quota allows the time of {quota}");
            Check::new("cores", CheckState::Warn, found, advice)
        }
        Ok(plan) => Check::new("cores", CheckState::Ok, plan.to_string(), advice),
    }
}

fn check_huge_pages() -> Check {
    let enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
    let enabled = std::fs::read_to_string(enabled).unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    judge_huge_pages(&enabled, meminfo_field(&meminfo, "HugePages_Free:").unwrap_or(0))
}

fn judge_huge_pages(enabled: &str, hugetlb_free: u64) -> Check {
    let chosen = enabled.split(['[', ']']).nth(1).unwrap_or("unknown");
    let usable = chosen == "madvise" || chosen == "always" || hugetlb_free > 0;
    let state = if usable { CheckState::Ok } else { CheckState::Warn };
    let found = format!("transparent: {chosen}, {hugetlb_free} reserved pages free");
    let advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: without huge pages a \
        search spends a third of its time on address translation";
    Check::new("huge pages", state, found, advice)
}

fn judge_open_files(limit: Option<u64>) -> Check {
    let state = match limit {
        Some(..1_024) => CheckState::Fail,
        Some(..16_384) => CheckState::Warn,
        _ => CheckState::Ok,
    };
    let found = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let advice = "set LimitNOFILE=65536 or more: 10,000 clients and the files of every shard";
    Check::new("open files", state, found, advice)
}

fn check_disk_space(path: &Path, log_bytes: u64) -> Check {
    match rustix::fs::statvfs(path) {
        Ok(found) => judge_disk_space(
            Directory::of(path),
            DiskSpace {
                free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
                total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
                log_bytes,
            },
        ),
        Err(error) => {
            let found = format!("{}: {error}", path.display());
            Check::new("disk space", CheckState::Fail, found, "create the data directory")
        }
    }
}

/// Room on a file system, and what the logs of a fresh node need of it.
#[derive(Clone, Copy, Debug)]
struct DiskSpace {
    free_bytes: u64,
    total_bytes: u64,
    log_bytes: u64,
}

fn judge_disk_space(directory: Directory, space: DiskSpace) -> Check {
    let DiskSpace { free_bytes, total_bytes, log_bytes } = space;
    let state = if free_bytes < log_bytes {
        directory.state_of_full_disk()
    } else if free_bytes / 3 < total_bytes / 20 {
        CheckState::Warn
    } else {
        CheckState::Ok
    };
    let found = format!("{} free of {}", show_bytes(free_bytes), show_bytes(total_bytes));
    let advice = format!(
        "free some space: the logs of a new node take {}, and once the disk is full writes are \
         refused, reads go on",
        show_bytes(log_bytes)
    );
    Check::new("disk space", state, found, &advice)
}

fn check_memory() -> Check {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name| meminfo_field(&meminfo, name).unwrap_or(0) << 10;
    judge_memory(bytes("MemAvailable:"), bytes("MemTotal:"), bytes("SwapTotal:"))
}

fn judge_memory(available_bytes: u64, total_bytes: u64, swap_bytes: u64) -> Check {
    let state = if available_bytes < 256 << 20 {
        CheckState::Fail
    } else if available_bytes < 1 << 30 || swap_bytes > 0 {
        CheckState::Warn
    } else {
        CheckState::Ok
    };
    let found = format!(
        "{} available of {}, swap {}",
        show_bytes(available_bytes),
        show_bytes(total_bytes),
        show_bytes(swap_bytes)
    );
    let advice = "a node wants 1 GiB and more available, and no swap: a search that pages is a \
        search that times out";
    Check::new("memory", state, found, advice)
}

fn meminfo_field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with(name))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

// Rounded to one decimal of the largest fitting unit.
fn show_bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x10_0000 => (1 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1u64 << 30, "GiB"),
    };
    let tenths = bytes % unit * 10 / unit;
    format!("{}.{tenths} {name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckState::{Fail, Ok as Good, Warn};

    #[test]
    fn kernels_are_judged_by_their_known_faults() {
        let table = [
            ("5.15.0-100-generic", Fail),
            ("6.0.19", Fail),
            ("6.1.0-13-amd64", Warn),
            ("6.6.85", Warn),
            ("6.6.86", Good),
            ("6.12.20", Warn),
            ("6.12.21-rt", Good),
            ("6.13.8", Warn),
            ("6.13.9", Good),
            ("6.14", Good),
            ("6.18.44-fc-v445", Good),
            ("7.0.0", Good),
            ("unknown", Fail),
        ];
        for (release, state) in table {
            assert_eq!(judge_kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn limits_are_judged_at_their_edges() {
        assert_eq!(judge_memlock(None).state, Good);
        assert_eq!(judge_memlock(Some((512 << 10) - 1)).state, Fail);
        assert_eq!(judge_memlock(Some(8 << 20)).state, Warn);
        assert_eq!(judge_memlock(Some(64 << 20)).state, Good);
        assert_eq!(judge_open_files(Some(1_023)).state, Fail);
        assert_eq!(judge_open_files(Some(16_383)).state, Warn);
        assert_eq!(judge_open_files(Some(16_384)).state, Good);
        assert_eq!(judge_open_files(None).state, Good);
        assert_eq!(judge_memory(1 << 30, 2 << 30, 0).state, Good);
        assert_eq!(judge_memory(2 << 30, 2 << 30, 1).state, Warn);
        assert_eq!(judge_memory(100 << 20, 2 << 30, 0).state, Fail);
    }

    #[test]
    fn a_full_disk_keeps_only_a_fresh_node_from_starting() {
        let judge = |directory, free_bytes| {
            let log_bytes = fresh_log_bytes(4, 64 << 20);
            judge_disk_space(directory, DiskSpace { free_bytes, total_bytes: 1 << 40, log_bytes })
        };
        assert_eq!(judge(Directory::Fresh, (512 << 20) - 1).state, Fail);
        assert_eq!(judge(Directory::Used, 0).state, Warn);
        for directory in [Directory::Fresh, Directory::Used] {
            assert_eq!(judge(directory, 100 << 30).state, Warn);
            assert_eq!(judge(directory, 800 << 30).state, Good);
        }
        let directory = scratch("full-disk");
        let state = |log_bytes| check_disk_space(&directory, log_bytes).state;
        assert_eq!(state(u64::MAX), Fail);
        std::fs::write(directory.join(IDENTITY_FILE), b"{}").unwrap();
        assert_eq!(state(u64::MAX), Warn);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn places_and_clocks_that_lose_data_fail() {
        assert_eq!(judge_file_system(0xEF53).state, Good);
        assert_eq!(judge_file_system(0x0102_1994).state, Fail);
        assert_eq!(judge_file_system(7).state, Warn);
        assert_eq!(judge_clock(25, true, 1_790_000_000, "tsc").state, Good);
        assert_eq!(judge_clock(900, true, 1_790_000_000, "hpet").state, Warn);
        assert_eq!(judge_clock(25, true, 12, "tsc").state, Fail);
        assert_eq!(judge_clock(25, false, 1_790_000_000, "tsc").state, Fail);
        let good = DirectIo { write_sync_us: 150, read_us: 80, same: true, cached: false };
        assert_eq!(judge_direct_io(good, "x").state, Good);
        assert_eq!(judge_direct_io(good, "x").advice, "");
        assert_eq!(judge_direct_io(DirectIo { same: false, ..good }, "x").state, Fail);
        let cached = judge_direct_io(DirectIo { cached: true, ..good }, "x");
        assert_eq!((cached.state, cached.advice.as_str()), (Warn, "x"));
    }

    #[test]
    fn huge_pages_are_read_from_the_kernels_list() {
        assert_eq!(judge_huge_pages("always [madvise] never\n", 0).state, Good);
        assert_eq!(judge_huge_pages("always madvise [never]\n", 0).state, Warn);
        assert_eq!(judge_huge_pages("always madvise [never]\n", 4).state, Good);
        assert_eq!(judge_huge_pages("", 0).state, Warn);
        let meminfo = "MemTotal:       24103 kB\nHugePages_Free:        3\n";
        assert_eq!(meminfo_field(meminfo, "HugePages_Free:"), Some(3));
        assert_eq!(meminfo_field(meminfo, "Missing:"), None);
        assert_eq!(show_bytes(1_572_864), "1.5 MiB");
    }

    // On the disk of the source tree: the place of temporary files may be tmpfs.
    fn scratch(test: &str) -> std::path::PathBuf {
        let name = format!("../../target/tmp/probe-{test}-{}", std::process::id());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn this_machine_is_looked_at_and_nothing_is_left_behind() {
        let directory = scratch("all");
        let found = checks(&directory);
        assert_eq!(found.len(), 11);
        for check in &found {
            println!("{:<12} {:<5} {} {}", check.name, check.state, check.found, check.advice);
        }
        std::fs::remove_dir(directory).unwrap();
        let missing = checks(Path::new("/nonexistent"));
        assert!(missing.iter().filter(|check| check.state == Fail).count() >= 3);
    }
}
