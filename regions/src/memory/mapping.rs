//! The memory mappings this crate makes, and their end.
//!
//! A [`Mapping`] owns its address range and unmaps it on drop, on whichever thread that is. All are
//! `MADV_DONTFORK`: a forked child has nothing at these addresses, so dropping a mapping there
//! touches nothing (the process that made it is remembered).
//!
//! Unsafe is here because mapping, advising and unmapping are raw system calls: mmap(2),
//! madvise(2), mbind(2), munmap(2).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::error::{RegionError, RegionErrorKind};

/// An address range of ours.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    owner_pid: u32,
}

// SAFETY: a mapping is an address range of the process, bound to no thread; `Mapping` reads and
// writes nothing through it after creation.
unsafe impl Send for Mapping {}
// SAFETY: as above; its methods that take `&self` only ask or advise the kernel.
unsafe impl Sync for Mapping {}

/// `sysconf(_SC_PAGESIZE)`.
pub(crate) fn base_page_bytes() -> usize {
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every Linux answers _SC_PAGESIZE with a positive size")
}

/// The errno of the call that just failed.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

impl Mapping {
    /// Private zeroed memory; `huge_bytes` asks for reserved huge pages of that size.
    /// `len` is a multiple of the page size in question.
    pub(crate) fn anonymous(
        operation: &'static str,
        len: usize,
        huge_bytes: Option<usize>,
    ) -> Result<Self, RegionError> {
        let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        if let Some(bytes) = huge_bytes {
            flags |= libc::MAP_HUGETLB | ((bytes.trailing_zeros() as i32) << libc::MAP_HUGE_SHIFT);
        }
        Self::map(operation, len, flags, -1)
    }

    /// A shared mapping of the first `len` bytes of a memfd.
    pub(crate) fn of_fd(
        operation: &'static str,
        fd: BorrowedFd<'_>,
        len: usize,
    ) -> Result<Self, RegionError> {
        Self::map(operation, len, libc::MAP_SHARED, fd.as_raw_fd())
    }

    /// A shared mapping of a driver's memory, all of it.
    pub(crate) fn of_driver(
        operation: &'static str,
        fd: BorrowedFd<'_>,
        len: usize,
    ) -> Result<Self, RegionError> {
        Self::of_fd(operation, fd, len).map_err(|error| match error.errno {
            None | Some(libc::ENOMEM) => error,
            Some(code) => {
                let doing = format!("mmap of {len} bytes of a driver's memory");
                let next = "export it for reading and writing (O_RDWR), from a driver that lets \
                            the CPU map it, or copy it with its device";
                RegionError::system(operation, code, &doing, next)
            }
        })
    }

    fn map(operation: &'static str, len: usize, flags: i32, fd: i32) -> Result<Self, RegionError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel picks unused addresses, so no memory of anybody
        // is replaced; bad lengths and descriptors are errors.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, 0) };
        let start = (start != libc::MAP_FAILED).then_some(start.cast::<u8>());
        let Some(start) = start.and_then(NonNull::new) else {
            let doing = format!("mmap of {len} bytes");
            let next = "ask for less, or raise RLIMIT_AS (ulimit -v) or the pool of huge pages";
            return Err(RegionError::system(operation, errno(), &doing, next));
        };
        let mapping = Self { start, len, owner_pid: std::process::id() };
        mapping.advise(libc::MADV_DONTFORK).map_err(|errno| {
            let doing = "madvise(MADV_DONTFORK)";
            RegionError::system(operation, errno, doing, "check the seccomp profile for madvise")
        })?;
        Ok(mapping)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn advise(&self, advice: i32) -> Result<(), i32> {
        loop {
            // SAFETY: the range is ours, and the advices used here (DONTFORK, HUGEPAGE,
            // POPULATE_WRITE) change no byte of it.
            let result = unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) };
            match if result == 0 { 0 } else { errno() } {
                0 => return Ok(()),
                libc::EINTR | libc::EAGAIN => continue,
                code => return Err(code),
            }
        }
    }

    /// Lets the kernel use transparent huge pages here; whether it will is its business.
    pub(crate) fn advise_huge(&self) {
        let _ = self.advise(libc::MADV_HUGEPAGE);
    }

    /// Makes every page present and writable now (madvise(2), MADV_POPULATE_WRITE, Linux 5.14), so
    /// that running out of memory is an error here and not a signal later. Older kernels: the
    /// memfd is allocated by fallocate(2) if there is one, then each page is touched.
    pub(crate) fn populate(
        &self,
        operation: &'static str,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), RegionError> {
        const NEXT: &str = "ask for fewer or smaller slots, free memory, or raise the control \
                            group's memory limit";
        match self.advise(libc::MADV_POPULATE_WRITE) {
            Ok(()) => return Ok(()),
            Err(libc::EINVAL) => {}
            Err(code) => {
                let doing = format!("populating {} bytes", self.len);
                let mut error = RegionError::system(operation, code, &doing, NEXT);
                error.kind = RegionErrorKind::OutOfMemory;
                return Err(error);
            }
        }
        self.touch(operation, fd)
    }

    /// What [`populate`](Self::populate) does on kernels that cannot do it themselves.
    fn touch(
        &self,
        operation: &'static str,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), RegionError> {
        if let Some(fd) = fd {
            crate::memfd::allocate(operation, fd, self.len)?;
        }
        for offset in (0..self.len).step_by(base_page_bytes()) {
            // SAFETY: the offset lies in our mapping, which is new and zeroed and which nobody
            // else has seen yet.
            unsafe { self.start.add(offset).as_ptr().write_volatile(0) };
        }
        Ok(())
    }

    /// Binds the range to one NUMA node (mbind(2), MPOL_BIND), before it is populated.
    pub(crate) fn bind_node(&self, operation: &'static str, node: u32) -> Result<(), RegionError> {
        const MPOL_BIND: libc::c_ulong = 2;
        const NODES_MAX: u32 = 1024;
        const NEXT: &str = "name a node listed in /sys/devices/system/node/has_memory, or leave \
                            the placement to the system";
        if node >= NODES_MAX {
            let message = format!("NUMA node {node} is above {}; {NEXT}", NODES_MAX - 1);
            return Err(RegionError::invalid(operation, message));
        }
        let mut mask = [0u64; NODES_MAX as usize / 64];
        mask[node as usize / 64] = 1 << (node % 64);
        // SAFETY: the range is ours; the mask lives through the call and has as many bits as said
        // (the kernel counts one less than it is told).
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.len,
                MPOL_BIND,
                mask.as_ptr(),
                libc::c_ulong::from(NODES_MAX + 1),
                0 as libc::c_ulong,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let doing = format!("mbind to NUMA node {node}");
        let mut error = RegionError::system(operation, errno(), &doing, NEXT);
        error.kind = RegionErrorKind::Unavailable;
        Err(error)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.owner_pid != std::process::id() {
            return; // a forked child never had it
        }
        // SAFETY: the range is ours and its owner, the region, has no users left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// Pages of the mapping that are in memory, by mincore(2).
    fn resident(mapping: &Mapping) -> usize {
        let mut pages = vec![0u8; mapping.len / base_page_bytes()];
        let start = mapping.start.as_ptr().cast();
        // SAFETY: the range is mapped and there is a byte per page.
        let result = unsafe { libc::mincore(start, mapping.len, pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn both_ways_to_populate_make_all_pages_present() {
        let len = 16 * base_page_bytes();
        type Populate = fn(&Mapping, BorrowedFd<'_>) -> Result<(), RegionError>;
        let ways: [Populate; 2] =
            [|map, fd| map.populate("test", Some(fd)), |map, fd| map.touch("test", Some(fd))];
        for populate in ways {
            let fd = crate::memfd::create("test", "test", len, None).expect("64 KiB");
            let mapping = Mapping::of_fd("test", fd.as_fd(), len).expect("64 KiB");
            assert_eq!(resident(&mapping), 0);
            populate(&mapping, fd.as_fd()).expect("64 KiB");
            assert_eq!(resident(&mapping), 16);
        }
        let mapping = Mapping::anonymous("test", len, None).expect("64 KiB");
        mapping.touch("test", None).expect("64 KiB");
        assert_eq!(resident(&mapping), 16);
    }

    #[test]
    fn a_refused_mapping_says_what_was_asked() {
        let error = Mapping::anonymous("test", 1 << 60, None).err().expect("an exbibyte");
        assert_eq!(error.kind, RegionErrorKind::OutOfMemory);
        assert!(error.to_string().contains("mmap of 1152921504606846976 bytes"), "{error}");
    }
}
