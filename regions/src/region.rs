//! One piece of memory with an identity.
//!
//! A [`Region`] is a reference-counted handle: clones are the same memory, which lives until the
//! last handle, lease and span of it are gone. Back ends register regions and find them again by
//! their [`RegionId`], which is never reused in a process. Sizes are in bytes. Handles are `Send`
//! and `Sync`; the last drop unmaps, or runs the release callback, on its own thread.
//!
//! A region is *private* while nobody outside this crate's own handles can write it: anonymous
//! memory, and a memfd whose descriptor has not been asked for, without remote writes. There is no
//! `&[u8]` over a region as such (another handle may be copying in); leases and spans of a private
//! slab give one.
//!
//! Unsafe is here because a region is a raw address that threads share.
#![allow(unsafe_code)]

use std::fmt;
use std::num::NonZeroU64;
use std::ops::RangeBounds;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::access::Access;
use crate::copy::Extent;
use crate::error::{RegionError, RegionErrorKind};
use crate::mapping::Mapping;
use crate::page::HugeOutcome;
use crate::range::resolve;
use crate::source::{Holder, Source};
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

/// What all handles of a region share.
pub(crate) struct Inner {
    id: RegionId,
    start: Option<NonNull<u8>>,
    len: usize,
    pub(crate) access: Access,
    source: Source,
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) huge: HugeOutcome,
    /// Others can write it; never goes back.
    shared: AtomicBool,
    /// A slab's own memory: touched through leases and their spans only.
    pub(crate) leased: bool,
    chunk_bytes: OnceLock<usize>,
    holder: Holder,
    owner_pid: u32,
}

impl Inner {
    pub(crate) fn new(
        start: Option<NonNull<u8>>,
        len: usize,
        access: Access,
        source: Source,
        holder: Holder,
    ) -> Self {
        Self {
            id: RegionId::next(),
            start,
            len,
            access,
            source,
            fd: None,
            huge: HugeOutcome::NotObtained("not asked for".into()),
            shared: AtomicBool::new(false),
            leased: false,
            chunk_bytes: OnceLock::new(),
            holder,
            owner_pid: std::process::id(),
        }
    }

    /// Over a mapping of ours, for local use.
    pub(crate) fn mapped(mapping: Mapping, len: usize, source: Source) -> Self {
        let start = Some(mapping.start());
        let holder = Holder::Mapping { _mapping: mapping };
        Self::new(start, len, Access::LOCAL, source, holder)
    }

    pub(crate) fn into_region(self) -> Region {
        let remote_writes = self.access.contains(Access::REMOTE_WRITE);
        let region = Region { inner: Arc::new(self) };
        if remote_writes {
            region.mark_shared();
        }
        region
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.holder.end(self.owner_pid != std::process::id());
    }
}

// SAFETY: the pointer is to memory of the process, not of a thread; it is dereferenced by leases
// and spans, whose rules are theirs, and by atomic copies.
unsafe impl Send for Inner {}
// SAFETY: as above; the other fields are Sync.
unsafe impl Sync for Inner {}

/// Reference-counted memory; see the head of this module.
#[derive(Clone)]
pub struct Region {
    inner: Arc<Inner>,
}

impl Region {
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
    /// so asking for it marks the region as shared, for good: spans give no `&[u8]` any more.
    /// Leases still do, whenever they were made.
    ///
    /// # Safety
    /// Nothing may write a byte through the descriptor, a duplicate of it or a mapping made with
    /// it while a lease, or a slice that was borrowed from a span before, covers that byte. Nor
    /// may a safe interface that allows it be given the descriptor.
    ///
    /// ```compile_fail,E0133
    /// let slab = regions::Slab::new(1, 4096)?;
    /// // Safe code cannot get behind the slices of a slab's leases.
    /// let descriptor = slab.region().fd();
    /// # Ok::<(), regions::RegionError>(())
    /// ```
    pub unsafe fn fd(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.inner.fd.as_ref()?;
        self.mark_shared();
        Some(fd.as_fd())
    }

    /// The length of the pieces to register: at most 1 GiB, and for a slab a multiple of its
    /// stride, so that no slot straddles two.
    pub fn chunk_bytes(&self) -> usize {
        *self.inner.chunk_bytes.get_or_init(|| CHUNK_LIMIT_BYTES)
    }

    /// Fixes the chunk length for slots of this stride; false when another one is in use already
    /// and slots would straddle its borders.
    pub(crate) fn chunk_for_stride(&self, stride: usize) -> bool {
        let wanted = CHUNK_LIMIT_BYTES / stride * stride;
        let chunk = *self.inner.chunk_bytes.get_or_init(|| wanted);
        chunk.is_multiple_of(stride) || self.inner.len <= chunk
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
        let extent = self.extent(OPERATION, offset, from.len())?;
        let _access = self.cpu_access(Access::READ | Access::WRITE)?;
        extent.copy_in(offset, from);
        Ok(())
    }

    /// Copies bytes out of the region from `offset`; the counterpart of [`copy_in`](Self::copy_in).
    ///
    /// # Errors
    /// `NotVisible` without an address; `Permission` for a slab's memory (read through a lease or
    /// its span); `OutOfRange`.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result<(), RegionError> {
        let extent = self.extent("copy out of a region", offset, to.len())?;
        let _access = self.cpu_access(Access::READ)?;
        extent.copy_out(offset, to);
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
        let Some(start) = self.inner.start else {
            let message = "the CPU cannot address this memory; copy it with its device";
            return Err(RegionError::new(operation, RegionErrorKind::NotVisible, message));
        };
        // SAFETY: the memory is mapped and initialised while this handle lives (by construction,
        // or on the word of `foreign`'s caller); it is no slab's own, and copies all use this one
        // extent. Slots of a slab over it are kept from copies by the word of `over`'s caller.
        Ok(unsafe { Extent::new(start, self.inner.len) })
    }

    /// The descriptor of a memfd, to be handed out only where [`fd`](Self::fd)'s promise holds.
    pub(crate) fn memfd_fd(&self) -> Option<BorrowedFd<'_>> {
        let is_memfd = self.inner.source == Source::Memfd;
        self.inner.fd.as_ref().filter(|_| is_memfd).map(|fd| fd.as_fd())
    }

    /// The descriptor of a dma-buf that is mapped here, to ask its driver something.
    pub(crate) fn dma_buf_fd(&self) -> Option<BorrowedFd<'_>> {
        let is_dma_buf = self.inner.source == Source::DmaBuf;
        self.inner.fd.as_ref().filter(|_| is_dma_buf).map(|fd| fd.as_fd())
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
