//! Where a region's memory comes from, and what ends with it.
//!
//! One constructor per source. Sizes are held against what is available before anything is mapped.
//! What a region holds (a mapping, a file mapping, the caller's release callback) ends with its
//! last handle, on that thread, and not in a forked child, which never had it.
//!
//! Unsafe is here because foreign memory is taken on the caller's word.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Mutex;

use crate::access::Access;
use crate::error::{RegionError, RegionErrorKind};
use crate::limits;
use crate::mapping::Mapping;
use crate::memfd;
use crate::page::{self, HugeOutcome, PageSize};
use crate::range::{check_len, page_rounded};
use crate::region::{Inner, Region};

/// Where a region's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// Private anonymous pages.
    Anonymous,
    /// Private pages from the pool of huge pages.
    HugePages,
    /// A sealed memfd, which other processes can be given.
    Memfd,
    /// A dma-buf, which a device can write.
    DmaBuf,
    /// A shared mapping of a file, which anybody with the file can write.
    FileMapping,
    /// The caller's memory, or a device's.
    Foreign,
}

/// What ends with the region.
pub(crate) enum Holder {
    Mapping { _mapping: Mapping },
    File { map: Option<memmap2::MmapRaw> },
    Foreign { release: Mutex<Option<Release>> },
}

type Release = Box<dyn FnOnce() + Send>;

impl Holder {
    fn foreign(release: impl FnOnce() + Send + 'static) -> Self {
        Self::Foreign { release: Mutex::new(Some(Box::new(release))) }
    }

    /// Ends what is held; `forked` in a process that only inherited the handle.
    pub(crate) fn end(&mut self, forked: bool) {
        match self {
            Self::Mapping { .. } => {} // knows its process itself
            Self::File { map } if forked => std::mem::forget(map.take()),
            Self::File { .. } => {}
            Self::Foreign { release } => {
                let release = release.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
                let Some(release) = release.take() else { return };
                if forked {
                    return std::mem::forget(release);
                }
                // A panic must not leave a drop: a second one would abort. The panic hook has
                // told of it. Its payload may panic in turn; what that leaves is leaked.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(release))
                    && let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload)))
                {
                    std::mem::forget(again);
                }
            }
        }
    }
}

impl Region {
    /// Private zeroed memory of `len` bytes (mmap(2), MAP_ANONYMOUS), populated on first touch.
    ///
    /// # Errors
    /// `InvalidArgument` for zero or absurd lengths; `OutOfMemory` naming the limit when that much
    /// memory is not available.
    pub fn anonymous(len: usize) -> Result<Self, RegionError> {
        const OPERATION: &str = "anonymous region";
        let pages = page_rounded(OPERATION, len, PageSize::base())?;
        limits::check_memory(OPERATION, pages)?;
        let mapping = Mapping::anonymous(OPERATION, pages, None)?;
        Ok(Inner::mapped(mapping, len, Source::Anonymous).into_region())
    }

    /// Private zeroed memory on huge pages, or on base pages when there are not enough; then
    /// [`huge_pages`](Self::huge_pages) has the reason and transparent huge pages are asked for.
    ///
    /// # Errors
    /// As [`anonymous`](Self::anonymous).
    pub fn huge(len: usize) -> Result<Self, RegionError> {
        const OPERATION: &str = "huge region";
        let pages = page_rounded(OPERATION, len, PageSize::base())?;
        let huge = page::pick_pool(len, false).and_then(|(pool, total)| {
            Mapping::anonymous(OPERATION, total, Some(pool.page.bytes()))
                .map_err(|error| error.message.into_owned())
        });
        let reason = match huge {
            Ok(mapping) => {
                let mut inner = Inner::mapped(mapping, len, Source::HugePages);
                inner.huge = HugeOutcome::Obtained;
                return Ok(inner.into_region());
            }
            Err(reason) => reason,
        };
        limits::check_memory(OPERATION, pages)?;
        let mapping = Mapping::anonymous(OPERATION, pages, None)?;
        mapping.advise_huge();
        let mut inner = Inner::mapped(mapping, len, Source::Anonymous);
        inner.huge = HugeOutcome::NotObtained(reason);
        Ok(inner.into_region())
    }

    /// Zeroed memory of a sealed memfd (memfd_create(2)), which can be passed to other processes.
    /// The file is `len` rounded up to whole pages.
    ///
    /// # Errors
    /// As [`anonymous`](Self::anonymous), and the system's error when no descriptor is left or the
    /// file cannot be sealed.
    pub fn memfd(len: usize) -> Result<Self, RegionError> {
        const OPERATION: &str = "memfd region";
        let pages = page_rounded(OPERATION, len, PageSize::base())?;
        limits::check_memory(OPERATION, pages)?;
        let fd = memfd::create(OPERATION, "region", pages, None)?;
        let mapping = Mapping::of_fd(OPERATION, fd.as_fd(), pages)?;
        memfd::seal(OPERATION, fd.as_fd())?;
        let mut inner = Inner::mapped(mapping, len, Source::Memfd);
        inner.fd = Some(fd);
        Ok(inner.into_region())
    }

    /// The descriptor of a memfd region, for another process. From now on the region is shared,
    /// for good.
    ///
    /// # Errors
    /// `Permission` for a slab's memory, whose leases give slices: see [`fd`](Self::fd);
    /// `Unavailable` for memory that is no memfd; the system's error when no descriptor is left.
    pub fn export(&self) -> Result<OwnedFd, RegionError> {
        const OPERATION: &str = "export a region";
        if self.is_leased() {
            let message = "this is a slab's memory, which leases own; its descriptor is unsafe";
            return Err(RegionError::new(OPERATION, RegionErrorKind::Permission, message));
        }
        let Some(fd) = self.memfd_fd() else {
            let message = "the region is no memfd; make it with Region::memfd";
            return Err(RegionError::new(OPERATION, RegionErrorKind::Unavailable, message));
        };
        self.mark_shared();
        fd.try_clone_to_owned().map_err(|error| {
            let next = "close some descriptors, or raise RLIMIT_NOFILE (ulimit -n)";
            RegionError::system(OPERATION, error.raw_os_error().unwrap_or(0), "dup", next)
        })
    }

    /// A region over a memfd that another process made, of which `len` bytes are used. Others can
    /// write it, so it is shared. Its size must be sealed (F_SEAL_SHRINK, F_SEAL_GROW and
    /// F_SEAL_SEAL): nobody can take mapped pages away by cutting the file. Whoever made it may
    /// still free pages (fallocate(2), FALLOC_FL_PUNCH_HOLE), which then read as zero; on huge
    /// pages, touching one when the pool is empty raises SIGBUS.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no memfd, not sealed, or shorter than `len`; the system's
    /// error when it cannot be mapped. The descriptor is closed then.
    pub fn from_memfd(fd: OwnedFd, len: usize) -> Result<Self, RegionError> {
        const OPERATION: &str = "region of a memfd";
        check_len(OPERATION, len)?;
        memfd::check_sealed(OPERATION, fd.as_fd())?;
        let file = File::from(fd);
        let size = file.metadata().map_err(|error| {
            let next = "check the seccomp profile for fstat";
            RegionError::system(OPERATION, error.raw_os_error().unwrap_or(0), "fstat", next)
        })?;
        let size = usize::try_from(size.len()).unwrap_or(usize::MAX);
        if size < len {
            let message = format!("the memfd has {size} bytes, and {len} are said to be used");
            return Err(RegionError::invalid(OPERATION, message));
        }
        // All of it: huge pages are unmapped as a whole.
        let mapping = Mapping::of_fd(OPERATION, file.as_fd(), size)?;
        let mut inner = Inner::mapped(mapping, len, Source::Memfd);
        inner.fd = Some(file.into());
        let region = inner.into_region();
        region.mark_shared();
        Ok(region)
    }

    /// A shared mapping of a whole file, as long as it is now. Others can write it at any time, so
    /// it is never private. Touching a page that the file no longer has raises SIGBUS (mmap(2)):
    /// do not truncate a mapped file. io_uring refuses to register such memory as a fixed buffer.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty file; the system's error when it cannot be mapped (a file
    /// opened without write permission and an access with `WRITE`, for example).
    pub fn map_file(file: &File, access: Access) -> Result<Self, RegionError> {
        const OPERATION: &str = "file region";
        let failed = |doing: &str, error: std::io::Error| {
            let next = "open the file with the permissions the access flags need";
            RegionError::system(OPERATION, error.raw_os_error().unwrap_or(0), doing, next)
        };
        let len = file.metadata().map_err(|error| failed("fstat", error))?.len();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        check_len(OPERATION, len)?;
        let mut options = memmap2::MmapOptions::new();
        options.len(len);
        let writes = access.contains(Access::WRITE) || access.contains(Access::REMOTE_WRITE);
        let map = if writes { options.map_raw(file) } else { options.map_raw_read_only(file) };
        let map = map.map_err(|error| failed("mmap of the file", error))?;
        map.advise(memmap2::Advice::DontFork).map_err(|e| failed("madvise(DONTFORK)", e))?;
        let start = NonNull::new(map.as_mut_ptr());
        let holder = Holder::File { map: Some(map) };
        let inner = Inner::new(start, len, access, Source::FileMapping, holder);
        let region = inner.into_region();
        region.mark_shared();
        Ok(region)
    }

    /// The caller's memory. `release` runs exactly once, when the last handle, lease and span of
    /// the region are gone, on the thread that dropped it; a panic in it is caught. If this call
    /// fails, `release` is dropped without being run: the memory is still the caller's.
    ///
    /// # Safety
    /// Until `release` runs, `ptr..ptr + len` is mapped and initialised, readable, and writable if
    /// `access` has `WRITE` or `REMOTE_WRITE`; and this program accesses it in no other way that
    /// races with this crate's copies, leases and spans.
    ///
    /// # Errors
    /// `InvalidArgument` for a zero length or a range that wraps around the address space.
    ///
    /// ```
    /// use regions::{Access, Region};
    /// use std::ptr::NonNull;
    ///
    /// let mut memory = Box::new([7u8; 64]);
    /// let ptr = NonNull::new(memory.as_mut_ptr()).expect("a box has an address");
    /// // SAFETY: the box moves into the release callback, so it lives as long as the region and
    /// // nobody else uses it.
    /// let region = unsafe { Region::foreign(ptr, 64, Access::LOCAL, move || drop(memory))? };
    /// let mut copy = [0; 2];
    /// region.copy_out(62, &mut copy)?;
    /// assert_eq!(copy, [7, 7]);
    /// # Ok::<(), regions::RegionError>(())
    /// ```
    pub unsafe fn foreign(
        ptr: NonNull<u8>,
        len: usize,
        access: Access,
        release: impl FnOnce() + Send + 'static,
    ) -> Result<Self, RegionError> {
        const OPERATION: &str = "foreign region";
        check_len(OPERATION, len)?;
        if (ptr.as_ptr() as usize).checked_add(len).is_none() {
            let message = format!("{len} bytes at {ptr:p} wrap around; check pointer and length");
            return Err(RegionError::invalid(OPERATION, message));
        }
        let holder = Holder::foreign(release);
        let region = Inner::new(Some(ptr), len, access, Source::Foreign, holder).into_region();
        region.mark_shared();
        Ok(region)
    }

    /// Memory of a device that the CPU cannot address: it has a length and perhaps a descriptor
    /// (a dma-buf), but no pointer. `release` runs once at the end, as for
    /// [`foreign`](Self::foreign).
    ///
    /// # Errors
    /// `InvalidArgument` for a zero length.
    pub fn device(
        len: usize,
        access: Access,
        fd: Option<OwnedFd>,
        release: impl FnOnce() + Send + 'static,
    ) -> Result<Self, RegionError> {
        check_len("device region", len)?;
        let holder = Holder::foreign(release);
        let mut inner = Inner::new(None, len, access, Source::Foreign, holder);
        inner.fd = fd;
        let region = inner.into_region();
        region.mark_shared();
        Ok(region)
    }
}
