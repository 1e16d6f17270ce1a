//! One piece of memory with an identity.
//!
//! A [`Region`] is a reference-counted handle: clones are the same memory, which lives until the
//! last handle, lease and span of it are gone. Back ends register regions and find them again by
//! their [`RegionId`], which is never reused in a process. Sizes are in bytes. Handles are `Send`
//! and `Sync`; the last drop unmaps, or runs the release callback, on its own thread.
//!
//! A region is *private* while nobody outside this crate's own handles can write it: anonymous
//! memory, and a memfd whose descriptor has not been asked for. There is no `&[u8]` over a region
//! as such (another handle may be copying in); leases and spans of a private slab give one.
//!
//! Unsafe is here because a region holds raw memory and takes foreign memory on the caller's word.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::{Bound, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::access::Access;
use crate::copy::Extent;
use crate::error::{RegionError, RegionErrorKind};
use crate::limits;
use crate::mapping::Mapping;
use crate::memfd;
use crate::page::{HugeOutcome, PageSize};
use crate::span::Span;

/// The largest piece io_uring registers as one fixed buffer: 1 GiB (io_uring_register(2)).
pub const CHUNK_LIMIT_BYTES: usize = 1 << 30;

/// The identity of a region: unique in the process, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(NonZeroU64);

impl RegionId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(NonZeroU64::new(id).expect("a 64-bit count does not wrap in the life of a process"))
    }

    /// The number itself, for tables and logs.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}", self.0)
    }
}

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
    /// A shared mapping of a file, which anybody with the file can write.
    FileMapping,
    /// The caller's memory, or a device's.
    Foreign,
}

/// What ends with the region.
enum Holder {
    Mapping { _mapping: Mapping },
    File { map: Option<memmap2::MmapRaw> },
    Foreign { release: Mutex<Option<Release>> },
}

type Release = Box<dyn FnOnce() + Send>;

struct Inner {
    id: RegionId,
    start: Option<NonNull<u8>>,
    len: usize,
    access: Access,
    source: Source,
    fd: Option<OwnedFd>,
    huge: HugeOutcome,
    shared: AtomicBool,
    /// A slab's own memory: written through leases only.
    leased: bool,
    chunk: OnceLock<usize>,
    holder: Holder,
    owner_pid: u32,
}

// SAFETY: the pointer is to memory of the process, not of a thread; it is dereferenced by leases
// and spans, whose rules are theirs, and by atomic copies.
unsafe impl Send for Inner {}
// SAFETY: as above; the other fields are Sync.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        let forked = self.owner_pid != std::process::id();
        match &mut self.holder {
            Holder::Mapping { .. } => {}
            Holder::File { map } if forked => std::mem::forget(map.take()),
            Holder::File { .. } => {}
            Holder::Foreign { release } => {
                let release = release.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
                let Some(release) = release.take() else { return };
                if forked {
                    return std::mem::forget(release);
                }
                // A panic must not leave a drop: a second one would abort. The panic hook has
                // told of it; its payload could panic again and is leaked.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(release)) {
                    std::mem::forget(payload);
                }
            }
        }
    }
}

/// Reference-counted memory; see the head of this module.
#[derive(Clone)]
pub struct Region {
    inner: Arc<Inner>,
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
        let huge = HugeOutcome::NotObtained("not asked for".into());
        Ok(Self::mapped(mapping, len, Source::Anonymous, None, huge, Access::LOCAL, false))
    }

    /// Private zeroed memory on huge pages, or on base pages when there are not enough; then
    /// [`huge_pages`](Self::huge_pages) has the reason and transparent huge pages are asked for.
    ///
    /// # Errors
    /// As [`anonymous`](Self::anonymous).
    pub fn huge(len: usize) -> Result<Self, RegionError> {
        const OPERATION: &str = "huge region";
        let pages = page_rounded(OPERATION, len, PageSize::base())?;
        let reason = match crate::page::pick_pool(len, false) {
            Ok((pool, total)) => {
                match Mapping::anonymous(OPERATION, total, Some(pool.page.bytes())) {
                    Ok(mapping) => {
                        let source = Source::HugePages;
                        let huge = HugeOutcome::Obtained;
                        let access = Access::LOCAL;
                        return Ok(Self::mapped(mapping, len, source, None, huge, access, false));
                    }
                    Err(error) => error.message.into_owned(),
                }
            }
            Err(reason) => reason,
        };
        limits::check_memory(OPERATION, pages)?;
        let mapping = Mapping::anonymous(OPERATION, pages, None)?;
        mapping.advise_huge();
        let huge = HugeOutcome::NotObtained(reason);
        Ok(Self::mapped(mapping, len, Source::Anonymous, None, huge, Access::LOCAL, false))
    }

    /// Zeroed memory of a sealed memfd (memfd_create(2)), which can be passed to other processes.
    /// The file is `len` rounded up to whole pages.
    ///
    /// # Errors
    /// As [`anonymous`](Self::anonymous), and `OutOfMemory` when descriptors ran out.
    pub fn memfd(len: usize) -> Result<Self, RegionError> {
        const OPERATION: &str = "memfd region";
        let pages = page_rounded(OPERATION, len, PageSize::base())?;
        limits::check_memory(OPERATION, pages)?;
        let fd = memfd::create(OPERATION, "region", pages, None)?;
        let mapping = Mapping::of_fd(OPERATION, fd.as_fd(), pages)?;
        memfd::seal(fd.as_fd());
        let huge = HugeOutcome::NotObtained("not asked for".into());
        Ok(Self::mapped(mapping, len, Source::Memfd, Some(fd), huge, Access::LOCAL, false))
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
        let next = "open the file with the permissions the access flags need";
        let failed = |doing: &str, error: std::io::Error| {
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
        let huge = HugeOutcome::NotObtained("a file mapping".into());
        let source = Source::FileMapping;
        Ok(Self::build(start, len, access, source, None, huge, true, false, holder))
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
        let holder = Holder::Foreign { release: Mutex::new(Some(Box::new(release))) };
        let huge = HugeOutcome::NotObtained("the caller's memory".into());
        let source = Source::Foreign;
        Ok(Self::build(Some(ptr), len, access, source, None, huge, true, false, holder))
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
        let holder = Holder::Foreign { release: Mutex::new(Some(Box::new(release))) };
        let huge = HugeOutcome::NotObtained("a device's memory".into());
        let source = Source::Foreign;
        Ok(Self::build(None, len, access, source, fd, huge, true, false, holder))
    }

    pub(crate) fn mapped(
        mapping: Mapping,
        len: usize,
        source: Source,
        fd: Option<OwnedFd>,
        huge: HugeOutcome,
        access: Access,
        leased: bool,
    ) -> Self {
        let start = Some(mapping.start());
        let holder = Holder::Mapping { _mapping: mapping };
        Self::build(start, len, access, source, fd, huge, false, leased, holder)
    }

    #[allow(clippy::too_many_arguments)] // the one constructor under all the typed ones above
    fn build(
        start: Option<NonNull<u8>>,
        len: usize,
        access: Access,
        source: Source,
        fd: Option<OwnedFd>,
        huge: HugeOutcome,
        shared: bool,
        leased: bool,
        holder: Holder,
    ) -> Self {
        let inner = Inner {
            id: RegionId::next(),
            start,
            len,
            access,
            source,
            fd,
            huge,
            shared: AtomicBool::new(shared),
            leased,
            chunk: OnceLock::new(),
            holder,
            owner_pid: std::process::id(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Its identity.
    pub fn id(&self) -> RegionId {
        self.inner.id
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.inner.len
    }

    /// Its first byte; `None` when the CPU cannot address it. Reading or writing through it is the
    /// caller's `unsafe`, beside everything else that may be using the memory.
    pub fn as_ptr(&self) -> Option<NonNull<u8>> {
        self.inner.start
    }

    /// What may be done to it.
    pub fn access(&self) -> Access {
        self.inner.access
    }

    /// Where its memory comes from.
    pub fn source(&self) -> Source {
        self.inner.source
    }

    /// Whether huge pages hold it, and why not.
    pub fn huge_pages(&self) -> &HugeOutcome {
        &self.inner.huge
    }

    /// Whether nobody else (another process, a device, the holder of a file) can write it.
    pub fn is_private(&self) -> bool {
        !self.inner.shared.load(Ordering::Acquire)
    }

    /// From now on others may write the memory: spans of it no longer give `&[u8]`. Call it before
    /// exporting the memory in a way this crate does not see.
    pub fn mark_shared(&self) {
        self.inner.shared.store(true, Ordering::Release);
    }

    /// The descriptor of a memfd (or of a device's memory). Whoever has it can write the memory,
    /// so asking for it marks the region as shared, for good. Slices that exist already are the
    /// caller's to watch: write through the descriptor only where no lease or borrowed span is.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.inner.fd.as_ref()?;
        self.mark_shared();
        Some(fd.as_fd())
    }

    /// The length of the pieces to register: at most 1 GiB, and for a slab a multiple of its
    /// stride, so that no slot straddles two.
    pub fn chunk_bytes(&self) -> usize {
        *self.inner.chunk.get_or_init(|| CHUNK_LIMIT_BYTES)
    }

    /// Fixes the chunk length for slots of this stride; false when another one is in use already
    /// and slots would straddle its borders.
    pub(crate) fn chunk_for_stride(&self, stride: usize) -> bool {
        let wanted = CHUNK_LIMIT_BYTES / stride * stride;
        let chunk = *self.inner.chunk.get_or_init(|| wanted);
        chunk % stride == 0 || self.inner.len <= chunk
    }

    /// The pieces to register, in order: address and length of each. None for a region without an
    /// address.
    pub fn chunks(&self) -> impl Iterator<Item = (NonNull<u8>, usize)> + '_ {
        let chunk = self.chunk_bytes();
        let offsets = (0..self.inner.len).step_by(chunk);
        self.inner.start.into_iter().flat_map(move |start| {
            offsets.clone().map(move |offset| {
                // SAFETY: the offset is below the region's length, so it stays inside.
                (unsafe { start.add(offset) }, chunk.min(self.inner.len - offset))
            })
        })
    }

    /// Which chunk holds this address. An address outside the region gives an index that no chunk
    /// has.
    pub fn chunk_index_of(&self, ptr: *const u8) -> usize {
        let Some(start) = self.inner.start else { return usize::MAX };
        let offset = (ptr as usize).wrapping_sub(start.as_ptr() as usize);
        if offset < self.inner.len { offset / self.chunk_bytes() } else { usize::MAX }
    }

    /// A shared span of part of the region, which it keeps alive. Over device memory it has no
    /// pointer. No exclusive access comes with it: others may hold spans of the same bytes.
    ///
    /// # Errors
    /// `OutOfRange` when the range is not inside the region.
    pub fn span(&self, range: impl RangeBounds<usize>) -> Result<Span, RegionError> {
        let (start, end) = resolve("span of a region", range, self.inner.len)?;
        Ok(Span::of_region(self.clone(), start, end - start))
    }

    /// Copies bytes into the region at `offset`. Safe beside other copies: a racing reader gets a
    /// mix of old and new bytes.
    ///
    /// # Errors
    /// `NotVisible` without an address; `Permission` without the `WRITE` access or when it is a
    /// slab's memory (write through a lease); `OutOfRange`.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), RegionError> {
        const OPERATION: &str = "copy into a region";
        if !self.inner.access.contains(Access::WRITE) {
            let message = format!("the region's access is {}; it needs write", self.inner.access);
            return Err(RegionError::new(OPERATION, RegionErrorKind::Permission, message));
        }
        self.extent(OPERATION, offset, from.len())?.copy_in(offset, from);
        Ok(())
    }

    /// Copies bytes out of the region from `offset`; the counterpart of [`copy_in`](Self::copy_in).
    ///
    /// # Errors
    /// `NotVisible` without an address; `Permission` for a slab's memory (read through a lease or
    /// its span); `OutOfRange`.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result<(), RegionError> {
        self.extent("copy out of a region", offset, to.len())?.copy_out(offset, to);
        Ok(())
    }

    /// The memory as atomic words, if `offset..offset + len` may be copied that way.
    fn extent(
        &self,
        operation: &'static str,
        offset: usize,
        len: usize,
    ) -> Result<Extent, RegionError> {
        resolve(operation, offset..offset.saturating_add(len), self.inner.len)?;
        if self.inner.leased {
            let message = "this is a slab's memory, which leases own; use a lease or its span";
            return Err(RegionError::new(operation, RegionErrorKind::Permission, message));
        }
        self.shared_extent(operation)
    }

    /// The memory as atomic words, for a span that knows that no lease is on its range.
    pub(crate) fn shared_extent(&self, operation: &'static str) -> Result<Extent, RegionError> {
        let Some(start) = self.inner.start else {
            let message = "the CPU cannot address this memory; copy it with its device";
            return Err(RegionError::new(operation, RegionErrorKind::NotVisible, message));
        };
        // SAFETY: the memory is mapped and initialised while this handle lives (by construction,
        // or on the word of `foreign`'s caller), and copies of it all use this one extent.
        Ok(unsafe { Extent::new(start, self.inner.len) })
    }

    pub(crate) fn is_leased(&self) -> bool {
        self.inner.leased
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("id", &self.inner.id.get())
            .field("len_bytes", &self.inner.len)
            .field("access", &self.inner.access)
            .field("source", &self.inner.source)
            .field("private", &self.is_private())
            .finish()
    }
}

impl PartialEq for Region {
    /// Whether both are handles of the same memory.
    fn eq(&self, other: &Self) -> bool {
        self.inner.id == other.inner.id
    }
}

impl Eq for Region {}

/// Refuses lengths that no memory has.
fn check_len(operation: &'static str, len: usize) -> Result<(), RegionError> {
    if len == 0 {
        return Err(RegionError::invalid(operation, "zero bytes; ask for at least one"));
    }
    if isize::try_from(len).is_err() {
        let message = format!("{len} bytes, the limit is {}; ask for less", isize::MAX);
        return Err(RegionError::invalid(operation, message));
    }
    Ok(())
}

/// `len` in whole pages.
pub(crate) fn page_rounded(
    operation: &'static str,
    len: usize,
    page: PageSize,
) -> Result<usize, RegionError> {
    check_len(operation, len)?;
    let rounded = page.round_up(len).filter(|bytes| isize::try_from(*bytes).is_ok());
    rounded.ok_or_else(|| {
        let message = format!("{len} bytes, the limit is {}; ask for less", isize::MAX);
        RegionError::invalid(operation, message)
    })
}

/// Any kind of range as start and end inside `0..len`.
pub(crate) fn resolve(
    operation: &'static str,
    range: impl RangeBounds<usize>,
    len: usize,
) -> Result<(usize, usize), RegionError> {
    let start = match range.start_bound() {
        Bound::Included(start) => Some(*start),
        Bound::Excluded(start) => start.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.checked_add(1),
        Bound::Excluded(end) => Some(*end),
        Bound::Unbounded => Some(len),
    };
    match (start, end) {
        (Some(start), Some(end)) if start <= end && end <= len => Ok((start, end)),
        _ => {
            let message = format!(
                "the range {:?}..{:?} is not inside 0..{len}; clip it to the length",
                range.start_bound(),
                range.end_bound()
            );
            Err(RegionError::new(operation, RegionErrorKind::OutOfRange, message))
        }
    }
}
