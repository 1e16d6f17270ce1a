//! Page sizes: asked of the system, never assumed (64 KiB base pages exist).

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

/// The size of a page, a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(usize);

/// Whether a slab shall lie on huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// On huge pages when enough are free and little is wasted; else on base pages, and the report
    /// says why.
    #[default]
    Auto,
    /// On base pages.
    Never,
    /// On huge pages, or an error.
    Require,
}

/// Which pages some memory lies on, and why not on better ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HugeOutcome {
    /// Huge pages from the kernel's reserved pool.
    Obtained,
    /// Base pages, for this reason.
    NotObtained(String),
}

impl HugeOutcome {
    /// Whether huge pages were obtained.
    pub fn is_obtained(&self) -> bool {
        matches!(self, Self::Obtained)
    }
}

impl fmt::Display for HugeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Obtained => f.write_str("huge pages"),
            Self::NotObtained(reason) => write!(f, "no huge pages ({reason})"),
        }
    }
}

/// One pool of reserved huge pages, from `/sys/kernel/mm/hugepages`
/// (Documentation/admin-guide/mm/hugetlbpage.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePagePool {
    /// The size of its pages.
    pub page: PageSize,
    /// How many the pool has.
    pub total: u64,
    /// How many are neither used nor promised to somebody.
    pub free: u64,
}

impl PageSize {
    /// The base page size, `sysconf(_SC_PAGESIZE)`.
    pub fn base() -> Self {
        static BASE: OnceLock<usize> = OnceLock::new();
        Self(*BASE.get_or_init(crate::mapping::base_page_bytes))
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// `len` rounded up to whole pages; `None` when that is more than a `usize` holds.
    pub fn round_up(self, len: usize) -> Option<usize> {
        len.checked_next_multiple_of(self.0)
    }

    /// The pools of huge pages this kernel has, smallest page first; empty when it has none.
    pub fn huge_pools() -> Vec<HugePagePool> {
        read_pools(Path::new("/sys/kernel/mm/hugepages"))
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0 / 1024)
    }
}

fn read_pools(root: &Path) -> Vec<HugePagePool> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut pools: Vec<_> = entries.flatten().filter_map(|e| read_pool(&e.path())).collect();
    pools.sort_by_key(|pool| pool.page);
    pools
}

/// Reads a folder named like `hugepages-2048kB`.
fn read_pool(folder: &Path) -> Option<HugePagePool> {
    let name = folder.file_name()?.to_str()?;
    let kib: usize = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let number = |file: &str| -> Option<u64> {
        std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    };
    let free = number("free_hugepages")?.saturating_sub(number("resv_hugepages")?);
    let bytes = kib.checked_mul(1024).filter(|bytes| bytes.is_power_of_two())?;
    Some(HugePagePool { page: PageSize(bytes), total: number("nr_hugepages")?, free })
}

/// A pool that can hold `len` bytes now, and `len` in its pages; or why there is none. Unless
/// `required`, a pool is passed over when an eighth of its pages would be wasted.
pub(crate) fn pick_pool(len: usize, required: bool) -> Result<(HugePagePool, usize), String> {
    pick_from(&PageSize::huge_pools(), len, required)
}

fn pick_from(
    pools: &[HugePagePool],
    len: usize,
    required: bool,
) -> Result<(HugePagePool, usize), String> {
    let mut reason = "this kernel has no pools of huge pages".to_owned();
    for pool in pools {
        let Some(total) = pool.page.round_up(len) else { continue };
        if !required && total - len > total / 8 {
            reason = format!("{len} bytes would waste most of a page of {}", pool.page);
            break;
        }
        let needed = (total / pool.page.bytes()) as u64;
        if needed <= pool.free {
            return Ok((*pool, total));
        }
        if reason.starts_with("this") {
            reason = format!(
                "{needed} pages of {} needed, {} free of {}; raise vm.nr_hugepages",
                pool.page, pool.free, pool.total
            );
        }
    }
    Err(reason)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn pool(mib: usize, free: u64) -> HugePagePool {
        HugePagePool { page: PageSize(mib * MIB), total: 100, free }
    }

    #[test]
    fn the_base_page_is_asked_for() {
        let base = PageSize::base();
        assert!(base.bytes().is_power_of_two() && base.bytes() >= 4096);
        assert_eq!(base.round_up(1), Some(base.bytes()));
        assert_eq!(base.round_up(usize::MAX), None);
    }

    #[test]
    fn a_pool_is_picked_by_room_and_waste() {
        let pools = [pool(2, 8), pool(1024, 1)];
        assert_eq!(pick_from(&pools, 16 * MIB, false), Ok((pools[0], 16 * MIB)));
        assert_eq!(pick_from(&pools, 1024 * MIB, false), Ok((pools[1], 1024 * MIB)));
        assert_eq!(pick_from(&pools, MIB, true), Ok((pools[0], 2 * MIB)));
        let waste = pick_from(&pools, MIB, false).expect_err("half a page is wasted");
        assert!(waste.contains("waste"), "{waste}");
        let dry = pick_from(&[pool(2, 0)], 4 * MIB, true).expect_err("no page is free");
        assert!(dry.contains("2 pages") && dry.contains("vm.nr_hugepages"), "{dry}");
        assert!(pick_from(&[], MIB, true).expect_err("no pools").contains("no pools"));
    }

    #[test]
    fn pools_are_read_from_folders() {
        let root = std::env::temp_dir().join(format!("pools-{}", std::process::id()));
        let folder = root.join("hugepages-2048kB");
        std::fs::create_dir_all(&folder).expect("a folder in the temporary directory");
        std::fs::create_dir_all(root.join("hugepages-odd")).expect("as above");
        for (file, number) in [("nr_hugepages", 9), ("free_hugepages", 5), ("resv_hugepages", 2)] {
            std::fs::write(folder.join(file), format!("{number}\n")).expect("as above");
        }
        let pools = read_pools(&root);
        std::fs::remove_dir_all(&root).expect("it was made above");
        assert_eq!(pools, [HugePagePool { page: PageSize(2 * MIB), total: 9, free: 3 }]);
        assert!(read_pools(Path::new("/nonexistent")).is_empty());
    }
}
