//! How much memory there is before any is asked for.
//!
//! The kernel maps 200 GiB on a 24 GiB machine without a word and kills somebody when the pages are
//! touched. So the size is first held against what the system says is available (`MemAvailable` in
//! proc_meminfo(5)) and against every limit of the control groups above this process, version 2
//! (`memory.max`) and version 1 (`memory.limit_in_bytes`); see
//! Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. It is a check and not a
//! reservation: others may take the memory in between, and then populating reports it.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use crate::error::{RegionError, RegionErrorKind};

/// A limit, how much of it is left, and the next step when that is not enough.
struct Room {
    left_bytes: u64,
    limit: String,
    next: &'static str,
}

/// Refuses `bytes` of new base-page memory when they cannot be there.
pub(crate) fn check_memory(operation: &'static str, bytes: usize) -> Result<(), RegionError> {
    let rooms = available_memory().into_iter().chain(group_rooms());
    check(operation, bytes, rooms)
}

/// Refuses a file larger than RLIMIT_FSIZE: the kernel would answer with a fatal SIGXFSZ.
pub(crate) fn check_file_size(operation: &'static str, bytes: usize) -> Result<(), RegionError> {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_FSIZE) else { return Ok(()) };
    let limit = format!("RLIMIT_FSIZE is {soft} bytes");
    let next = "raise it (ulimit -f) or ask for less";
    check(operation, bytes, [Room { left_bytes: soft, limit, next }].into_iter())
}

fn check(
    operation: &'static str,
    bytes: usize,
    rooms: impl Iterator<Item = Room>,
) -> Result<(), RegionError> {
    let tightest = rooms.min_by_key(|room| room.left_bytes);
    match tightest {
        Some(room) if bytes as u64 > room.left_bytes => {
            let message = format!(
                "{bytes} bytes asked for, {} left: {}; {}",
                room.left_bytes, room.limit, room.next
            );
            Err(RegionError::new(operation, RegionErrorKind::OutOfMemory, message))
        }
        _ => Ok(()),
    }
}

fn available_memory() -> Option<Room> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let left_bytes = field(&meminfo, "MemAvailable:")?.checked_mul(1024)?;
    let limit = "available memory (MemAvailable in /proc/meminfo)".to_owned();
    Some(Room { left_bytes, limit, next: "ask for fewer or smaller slots, or free memory" })
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn group_rooms() -> Vec<Room> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let base = Path::new("/sys/fs/cgroup");
    let mut rooms = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if controllers.is_empty() {
            rooms.extend(ancestors(base, path).iter().filter_map(|dir| room_v2(dir)));
            let hybrid = base.join("unified");
            rooms.extend(ancestors(&hybrid, path).iter().filter_map(|dir| room_v2(dir)));
        } else if controllers.split(',').any(|name| name == "memory") {
            let base = base.join("memory");
            rooms.extend(ancestors(&base, path).iter().filter_map(|dir| room_v1(dir)));
        }
    }
    rooms
}

/// The group's folder and all above it up to the mount. In a container the path may not be visible
/// below the mount; then only what exists is read, the mount itself at least.
fn ancestors(mount: &Path, path: &str) -> Vec<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    relative.ancestors().map(|part| mount.join(part)).collect()
}

fn room_v2(dir: &Path) -> Option<Room> {
    room(dir, "memory.max", "memory.current", "inactive_file ")
}

fn room_v1(dir: &Path) -> Option<Room> {
    room(dir, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
}

/// What one group still allows: its limit, less its usage, where page cache that can go at once
/// does not count. `None` when it has no limit ("max").
fn room(dir: &Path, limit_file: &str, usage_file: &str, cache_field: &str) -> Option<Room> {
    let number = |file: &str| -> Option<u64> {
        std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
    };
    let limit_bytes = number(limit_file)?;
    let usage_bytes = number(usage_file).unwrap_or(0);
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cache_bytes = field(&stat, cache_field).unwrap_or(0);
    let used_bytes = usage_bytes.saturating_sub(cache_bytes);
    let limit = format!("the control group's {} is {limit_bytes}", dir.join(limit_file).display());
    let next = "ask for less, or raise that limit";
    Some(Room { left_bytes: limit_bytes.saturating_sub(used_bytes), limit, next })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn group(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("group-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder in the temporary directory");
        for (file, text) in files {
            std::fs::write(dir.join(file), text).expect("as above");
        }
        dir
    }

    #[test]
    fn a_version_2_group_counts_cache_as_room() {
        let files = [
            ("memory.max", "1000\n"),
            ("memory.current", "700\n"),
            ("memory.stat", "anon 400\ninactive_file 200\nactive_file 100\n"),
        ];
        let dir = group("v2", &files);
        let found = room_v2(&dir).expect("it has a limit");
        assert_eq!(found.left_bytes, 500);
        let error = check("slab", 501, [found].into_iter()).expect_err("one byte too many");
        assert_eq!(error.kind, RegionErrorKind::OutOfMemory);
        let text = error.to_string();
        assert!(text.contains("501") && text.contains("500 left"), "{text}");
        assert!(text.contains("memory.max is 1000"), "{text}");
        std::fs::write(dir.join("memory.max"), "max\n").expect("the folder is there");
        assert!(room_v2(&dir).is_none(), "no limit");
        std::fs::remove_dir_all(dir).expect("it was made above");
    }

    #[test]
    fn a_version_1_group_and_the_tightest_limit() {
        let files = [("memory.limit_in_bytes", "900"), ("memory.usage_in_bytes", "1000")];
        let dir = group("v1", &files);
        let tight = room_v1(&dir).expect("it has a limit");
        assert_eq!(tight.left_bytes, 0, "a group over its limit has no room");
        let wide = Room { left_bytes: 5000, limit: "wide".into(), next: "nothing" };
        let error = check("slab", 1, [wide, tight].into_iter()).expect_err("no room in the group");
        assert!(error.to_string().contains("memory.limit_in_bytes"), "{error}");
        std::fs::remove_dir_all(dir).expect("it was made above");
    }

    #[test]
    fn all_groups_above_are_looked_at() {
        let dirs = ancestors(Path::new("/m"), "/a/b");
        assert_eq!(dirs, [Path::new("/m/a/b"), Path::new("/m/a"), Path::new("/m/")]);
    }

    #[test]
    fn this_machine_says_how_much_is_available() {
        let room = available_memory().expect("Linux has had MemAvailable since 3.14");
        assert!(room.left_bytes > 0);
        let error = check_memory("slab", 1 << 50).expect_err("nobody has a PiB");
        assert_eq!(error.kind, RegionErrorKind::OutOfMemory);
        check_memory("slab", 4096).expect("a page is there");
    }
}
