//! How full the disk is, and the reserve that lets deletions work when it is.
//!
//! The meta core looks once a second and tells every core by one number. From one level on space is
//! saved, from the next no new objects are taken, from the last only deletions are; then the
//! reserve, a file of nothing, is removed, so that log, images and rewritten rows have room to give
//! space back with. All of it goes back by itself when space does.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use heddle_core::engine::SpaceLevel;
use heddle_runtime::sleep;
use rustix::fs::FallocateFlags;

use crate::config::NodeConfig;
use crate::core::Core;

/// Name of the reserve in the data directory.
const RESERVE: &str = "reserve";
/// How often the file system is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The reserve takes at most this share of a file system: a twentieth.
const RESERVE_SHARE: u64 = 20;
/// The reserve consists of whole pages.
const PAGE: u64 = heddle_types::limits::PAGE_SIZE_BYTES as u64;
/// Per cent below a level at which it is left again, so that a level does not flicker.
const HYSTERESIS_PERCENT: u64 = 1;

/// What the reserve holds now, bytes.
pub(crate) fn reserved_bytes(config: &NodeConfig) -> u64 {
    fs::metadata(config.data_dir.join(RESERVE)).map_or(0, |file| file.len())
}

/// Bytes of a file system. What is neither used nor free is kept by the system for others, so the
/// share in use is, as `df` has it, that of the used among the used and the free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Space {
    pub(crate) total_bytes: u64,
    pub(crate) used_bytes: u64,
    /// What this process may still write.
    pub(crate) free_bytes: u64,
}

impl Space {
    /// Of the file system that holds a path; zeros when it cannot be asked.
    pub(crate) fn of(path: &Path) -> Self {
        match rustix::fs::statvfs(path) {
            Ok(space) => Self {
                total_bytes: space.f_blocks * space.f_frsize,
                used_bytes: space.f_blocks.saturating_sub(space.f_bfree) * space.f_frsize,
                free_bytes: space.f_bavail * space.f_frsize,
            },
            Err(_gone) => Self::default(),
        }
    }

    /// What this process may use in all, others' files included.
    fn usable_bytes(self) -> u64 {
        self.used_bytes.saturating_add(self.free_bytes)
    }

    /// The share in use, per cent, rounded down; 0 for a file system of unknown size.
    fn used_percent(self) -> u64 {
        let percent = u128::from(self.used_bytes) * 100;
        let percent = percent.checked_div(u128::from(self.usable_bytes())).unwrap_or_default();
        u64::try_from(percent).unwrap_or(100)
    }

    /// With so many bytes more in use.
    fn less(self, bytes: u64) -> Self {
        let taken = bytes.min(self.free_bytes);
        Self {
            free_bytes: self.free_bytes - taken,
            used_bytes: self.used_bytes.saturating_add(taken),
            ..self
        }
    }
}

/// The level of a file system; `present` is left only when it is clearly below.
fn level_of(config: &NodeConfig, space: Space, present: SpaceLevel) -> SpaceLevel {
    let used = space.used_percent();
    let from = |level| match level {
        SpaceLevel::Plenty => 0,
        SpaceLevel::Saving => config.disk_warn_percent,
        SpaceLevel::NoInserts => config.disk_no_insert_percent,
        SpaceLevel::DeletesOnly => config.disk_delete_only_percent,
    };
    let is_reached = |level: &SpaceLevel| {
        let margin = if *level <= present { HYSTERESIS_PERCENT } else { 0 };
        used >= from(*level).saturating_sub(margin)
    };
    SpaceLevel::ALL.into_iter().rev().find(is_reached).unwrap_or_default()
}

/// The file that keeps space free for deletions.
struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// The reserve of a node on a file system of so many bytes: the wish, at most a share of them.
    fn new(config: &NodeConfig, space: Space) -> Self {
        let most = space.usable_bytes() / RESERVE_SHARE;
        Self {
            path: config.data_dir.join(RESERVE),
            bytes: config.disk_reserve_bytes.min(most) / PAGE * PAGE,
        }
    }

    /// The space that is left once the reserve is (again) there. By this the level is found:
    /// what the reserve gave up is for deletions, and must not look like room for puts.
    fn space_beside(&self, space: Space) -> Space {
        space.less(self.bytes.saturating_sub(self.held_bytes()))
    }

    fn held_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Makes the file as long as it should be.
    fn take(&self) {
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path);
        let taken = open.and_then(|file| {
            file.set_len(0)?;
            Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?)
        });
        match taken {
            Ok(()) => tracing::info!(bytes = self.bytes, "space is reserved for deletions"),
            Err(error) => {
                // A part of it would count as whole.
                drop(fs::remove_file(&self.path));
                tracing::warn!(bytes = self.bytes, %error, "no space could be reserved");
            }
        }
    }

    fn give_up(&self) {
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(bytes = self.bytes, "the reserve is given up for deletions"),
            Err(error) => tracing::warn!(%error, "the reserve cannot be removed"),
        }
    }

    /// Follows the level: gone on a full disk, back once the disk leaves the level and has room.
    fn follow(&self, space: Space, level: SpaceLevel) {
        let held = self.held_bytes();
        if held > 0 && (level == SpaceLevel::DeletesOnly || held != self.bytes) {
            self.give_up();
        } else if held == 0 && self.bytes > 0 {
            let has_room = space.free_bytes > self.bytes;
            if level < SpaceLevel::DeletesOnly && has_room {
                self.take();
            }
        }
    }
}

/// Looks at the file system of the data directory, on the meta core, as long as the node runs.
pub(crate) async fn watch(core: Rc<Core>) {
    let config = &core.node.config;
    loop {
        let space = Space::of(&config.data_dir);
        let reserve = Reserve::new(config, space);
        let present = core.node.space();
        let level = level_of(config, reserve.space_beside(space), present);
        if level != present {
            core.node.set_space(level);
            let Space { total_bytes, free_bytes, .. } = space;
            let level = level.name();
            if core.node.space() > present {
                tracing::warn!(level, free_bytes, total_bytes, "the disk fills up");
            } else {
                tracing::info!(level, free_bytes, total_bytes, "the disk has more space again");
            }
        }
        reserve.follow(space, level);
        sleep(WATCH_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn space(used_percent: u64) -> Space {
        let used_bytes = used_percent * 10;
        // A fifth of the file system is kept for others.
        Space { total_bytes: 1_250, used_bytes, free_bytes: 1_000 - used_bytes }
    }

    #[test]
    fn levels_are_entered_at_their_share_and_left_one_per_cent_below() {
        use SpaceLevel::{DeletesOnly, NoInserts, Plenty, Saving};
        let config = NodeConfig::default();
        let level = |used, present| level_of(&config, space(used), present);
        for (used, expected) in
            [(0, Plenty), (84, Plenty), (85, Saving), (90, NoInserts), (95, DeletesOnly)]
        {
            assert_eq!(level(used, Plenty), expected, "{used}");
        }
        assert_eq!(level(94, DeletesOnly), DeletesOnly);
        assert_eq!(level(93, DeletesOnly), NoInserts);
        assert_eq!(level(88, DeletesOnly), Saving);
        assert_eq!(level(83, DeletesOnly), Plenty);
        assert_eq!(level_of(&config, Space::default(), Plenty), Plenty);
    }

    #[test]
    fn the_reserve_goes_on_a_full_disk_and_comes_back_with_space() {
        let dir = TempDir::new("reserve");
        let config = NodeConfig {
            data_dir: dir.path().to_path_buf(),
            disk_reserve_bytes: 64 << 10,
            ..NodeConfig::default()
        };
        let of = |free_bytes| Space {
            total_bytes: 100 << 20,
            used_bytes: (100 << 20) - free_bytes,
            free_bytes,
        };
        let roomy = of(50 << 20);
        let full = of(32 << 10);
        let reserve = Reserve::new(&config, roomy);
        let level = |space: Space, present| level_of(&config, reserve.space_beside(space), present);
        reserve.follow(full, SpaceLevel::Plenty);
        assert_eq!(reserve.held_bytes(), 0, "there is no room for it");
        reserve.follow(roomy, SpaceLevel::Plenty);
        assert_eq!(reserve.held_bytes(), 64 << 10);
        reserve.follow(full, SpaceLevel::NoInserts);
        assert_eq!(reserve.held_bytes(), 64 << 10);
        reserve.follow(full, SpaceLevel::DeletesOnly);
        assert_eq!(reserve.held_bytes(), 0);
        // What it gave up is no reason to take puts again.
        let at_the_level = of((5 << 20) + (32 << 10));
        assert_eq!(level(at_the_level, SpaceLevel::NoInserts), SpaceLevel::DeletesOnly);
        reserve.follow(roomy, level(roomy, SpaceLevel::DeletesOnly));
        assert_eq!(reserve.held_bytes(), 64 << 10);
        assert_eq!(level(at_the_level, SpaceLevel::Plenty), SpaceLevel::NoInserts);
        // On a small file system it is a twentieth of it.
        let small = Space { total_bytes: 640 << 10, used_bytes: 40 << 10, free_bytes: 600 << 10 };
        let reserve = Reserve::new(&config, small);
        reserve.follow(small, SpaceLevel::Plenty);
        assert_eq!(reserve.held_bytes(), 0, "the one of another size goes first");
        reserve.follow(small, SpaceLevel::Plenty);
        assert_eq!(reserve.held_bytes(), 32 << 10);
    }
}
