//! One region in equal slots.
//!
//! A [`Slab`] made by [`Slab::new`] is a sealed memfd, mapped once, on huge pages when it can, and
//! populated at creation. One slab serves many: fixed buffers of io_uring, memory regions of RDMA,
//! import into Vulkan, another process. Slots start on 64-byte boundaries, and on page boundaries
//! when they are at least a page long (what O_DIRECT wants).
//!
//! The slab lives until its handles are gone and its slots are back; handles may go first. All
//! methods may be called from any thread. Taking and returning a slot are O(1) and lock-free;
//! returning takes a lock only to wake a waiter.
//!
//! Limits: 1 to 2^24 slots of 1 byte to 1 GiB.
//!
//! Unsafe is here because the caller's own memory, and slot references that the kernel held, are
//! taken on the caller's word.
#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::access::Access;
use crate::error::{RegionError, RegionErrorKind};
use crate::index_set::IndexSet;
use crate::lease::{Lease, LeaseFuture};
use crate::limits;
use crate::mapping::Mapping;
use crate::memfd;
use crate::page::{self, HugeOutcome, HugePages, PageSize};
use crate::pool::Pool;
use crate::region::{CHUNK_LIMIT_BYTES, Region, Source, page_rounded};
use crate::slot::{self, Shared, SlotRef};
use crate::sync::AtomicU32;

const OPERATION: &str = "slab";
const SLOT_ALIGN_BYTES: usize = 64;

/// A region in equal slots; see the head of this module. Clones are handles of the same slab.
#[derive(Clone)]
pub struct Slab {
    shared: Arc<Shared>,
}

/// What a slab was given when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlabReport {
    /// Its name.
    pub name: String,
    /// Slots it has.
    pub slots: usize,
    /// Bytes of a slot.
    pub slot_bytes: usize,
    /// Bytes from one slot to the next.
    pub stride_bytes: usize,
    /// Bytes of all of it, in whole pages.
    pub total_bytes: usize,
    /// The size of the pages it lies on (the base page size for the caller's memory).
    pub page_bytes: usize,
    /// Whether huge pages were obtained, and why not.
    pub huge: HugeOutcome,
    /// The NUMA node it is bound to.
    pub numa: Option<u32>,
    /// Whether every page was made present at creation.
    pub populated: bool,
    /// Whether its memfd's size is sealed.
    pub sealed: bool,
}

impl fmt::Display for SlabReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slab {:?}: {} slots of {} bytes, {} bytes apart, {} bytes on pages of {} bytes; {}; ",
            self.name,
            self.slots,
            self.slot_bytes,
            self.stride_bytes,
            self.total_bytes,
            self.page_bytes,
            self.huge
        )?;
        match self.numa {
            Some(node) => write!(f, "bound to NUMA node {node}; ")?,
            None => f.write_str("not bound to a NUMA node; ")?,
        }
        let not = |yes| if yes { "" } else { "not " };
        write!(f, "{}populated; {}sealed", not(self.populated), not(self.sealed))
    }
}

/// How a slab shall be made; from [`Slab::builder`].
#[derive(Clone, Debug)]
pub struct SlabBuilder {
    slots: usize,
    slot_bytes: usize,
    huge_pages: HugePages,
    numa_node: Option<u32>,
    name: String,
    access: Access,
}

impl SlabBuilder {
    /// Huge pages: automatic unless told otherwise.
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Binds the memory to a NUMA node (mbind(2), MPOL_BIND); building fails when it cannot be.
    pub fn numa_node(mut self, node: u32) -> Self {
        self.numa_node = Some(node);
        self
    }

    /// The name of the memfd, seen in `/proc/self/maps`; at most 249 bytes.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// What may be done to the memory; local reads and writes unless told otherwise.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Makes the slab.
    ///
    /// # Errors
    /// `InvalidArgument` for sizes outside the limits; `OutOfMemory` naming the limit when the
    /// memory is not available; `Unavailable` when huge pages are required, or a NUMA node named,
    /// and cannot be had.
    pub fn build(self) -> Result<Slab, RegionError> {
        let (stride, used) = self.layout()?;
        let (backing, huge) = self.back(used)?;
        let Backing { fd, mapping, total, page } = backing;
        let sealed = memfd::seal(fd.as_fd());
        let report = SlabReport {
            name: self.name,
            slots: self.slots,
            slot_bytes: self.slot_bytes,
            stride_bytes: stride,
            total_bytes: total,
            page_bytes: page.bytes(),
            huge: huge.clone(),
            numa: self.numa_node,
            populated: true,
            sealed,
        };
        let source = Source::Memfd;
        let region = Region::mapped(mapping, total, source, Some(fd), huge, self.access, true);
        region.chunk_for_stride(stride);
        Slab::assemble(region, report)
    }

    /// The stride, and the bytes all slots need.
    fn layout(&self) -> Result<(usize, usize), RegionError> {
        if self.slots == 0 || self.slots > IndexSet::CAPACITY_MAX {
            let message = format!(
                "{} slots; a slab has 1 to {}, make several",
                self.slots,
                IndexSet::CAPACITY_MAX
            );
            return Err(RegionError::invalid(OPERATION, message));
        }
        if !self.access.contains(Access::LOCAL) {
            let message = format!("the access is {}; leases need read|write", self.access);
            return Err(RegionError::invalid(OPERATION, message));
        }
        let stride = stride_of(self.slot_bytes)?;
        let used = self.slots.checked_mul(stride).ok_or_else(|| {
            let message = format!(
                "{} slots of {stride} bytes are more than addresses can name; ask for less",
                self.slots
            );
            RegionError::invalid(OPERATION, message)
        })?;
        Ok((stride, used))
    }

    /// The memory, on huge pages if that is asked for and possible.
    fn back(&self, used: usize) -> Result<(Backing, HugeOutcome), RegionError> {
        let reason = match self.huge_pages {
            HugePages::Never => "not asked for".to_owned(),
            wish => match self.back_huge(used, wish == HugePages::Require) {
                Ok(backing) => return Ok((backing, HugeOutcome::Obtained)),
                Err(reason) if wish == HugePages::Require => {
                    let message = format!(
                        "huge pages are required: {reason}; reserve some, or allow base pages"
                    );
                    let kind = RegionErrorKind::Unavailable;
                    return Err(RegionError::new(OPERATION, kind, message));
                }
                Err(reason) => reason,
            },
        };
        let page = PageSize::base();
        let total = page_rounded(OPERATION, used, page)?;
        limits::check_memory(OPERATION, total)?;
        let backing = self.map(total, page, None)?;
        Ok((backing, HugeOutcome::NotObtained(reason)))
    }

    fn back_huge(&self, used: usize, required: bool) -> Result<Backing, String> {
        let (pool, total) = page::pick_pool(used, required)?;
        let huge_bytes = Some(pool.page.bytes());
        self.map(total, pool.page, huge_bytes).map_err(|error| error.message.into_owned())
    }

    fn map(
        &self,
        total: usize,
        page: PageSize,
        huge_bytes: Option<usize>,
    ) -> Result<Backing, RegionError> {
        let fd = memfd::create(OPERATION, &self.name, total, huge_bytes)?;
        let mapping = Mapping::of_fd(OPERATION, fd.as_fd(), total)?;
        if let Some(node) = self.numa_node {
            mapping.bind_node(OPERATION, node)?;
        }
        mapping.populate(OPERATION, Some(fd.as_fd()))?;
        Ok(Backing { fd, mapping, total, page })
    }
}

/// The memory under a new slab.
struct Backing {
    fd: OwnedFd,
    mapping: Mapping,
    total: usize,
    page: PageSize,
}

/// Bytes from slot to slot: 64-byte aligned, page aligned from a page on.
fn stride_of(slot_bytes: usize) -> Result<usize, RegionError> {
    if slot_bytes == 0 || slot_bytes > CHUNK_LIMIT_BYTES {
        let message =
            format!("slots of {slot_bytes} bytes; a slot has 1 to {CHUNK_LIMIT_BYTES} bytes");
        return Err(RegionError::invalid(OPERATION, message));
    }
    let page_bytes = PageSize::base().bytes();
    let align = if slot_bytes >= page_bytes { page_bytes } else { SLOT_ALIGN_BYTES };
    Ok(slot_bytes.next_multiple_of(align))
}

impl Slab {
    /// A slab of `slots` slots of `slot_bytes` bytes with the usual options.
    ///
    /// # Errors
    /// As [`SlabBuilder::build`].
    pub fn new(slots: usize, slot_bytes: usize) -> Result<Self, RegionError> {
        Self::builder(slots, slot_bytes).build()
    }

    /// A slab with options.
    pub fn builder(slots: usize, slot_bytes: usize) -> SlabBuilder {
        SlabBuilder {
            slots,
            slot_bytes,
            huge_pages: HugePages::Auto,
            numa_node: None,
            name: "slab".to_owned(),
            access: Access::LOCAL,
        }
    }

    /// Cuts a region of the caller's into slots. It must start on a 64-byte boundary. When it is
    /// longer than 1 GiB, make the slab before the region is registered anywhere, so that no slot
    /// straddles two registered pieces.
    ///
    /// # Safety
    /// While a lease on a slot lives, nobody touches that slot but through the lease: no other
    /// slab over the same bytes, no [`Region::copy_in`], no other process, no device that this
    /// crate's user did not tell to.
    ///
    /// # Errors
    /// `InvalidArgument` for bad sizes or alignment, `NotVisible` without an address, `Permission`
    /// without local read and write access.
    pub unsafe fn over(region: Region, slot_bytes: usize) -> Result<Self, RegionError> {
        let stride = stride_of(slot_bytes)?;
        let Some(start) = region.as_ptr() else {
            let message = "the CPU cannot address this memory; leases need an address";
            return Err(RegionError::new(OPERATION, RegionErrorKind::NotVisible, message));
        };
        if !region.access().contains(Access::LOCAL) || region.is_leased() {
            let message = "leases need a region with read|write access that is no slab yet";
            return Err(RegionError::new(OPERATION, RegionErrorKind::Permission, message));
        }
        if start.as_ptr() as usize % SLOT_ALIGN_BYTES != 0 {
            let message = format!("the memory starts at {start:p}; align it to 64 bytes");
            return Err(RegionError::invalid(OPERATION, message));
        }
        // The last slot needs no padding behind it.
        let len = region.len_bytes();
        let slots = len.checked_sub(slot_bytes).map_or(0, |before| before / stride + 1);
        if slots == 0 || slots > IndexSet::CAPACITY_MAX {
            let message = format!(
                "{len} bytes make {slots} slots of {slot_bytes} bytes; a slab has 1 to {}",
                IndexSet::CAPACITY_MAX
            );
            return Err(RegionError::invalid(OPERATION, message));
        }
        if !region.chunk_for_stride(stride) {
            let message = "the region is cut for another slot size; make the slab before \
                           registering the region";
            return Err(RegionError::invalid(OPERATION, message));
        }
        let report = SlabReport {
            name: "caller's memory".to_owned(),
            slots,
            slot_bytes,
            stride_bytes: stride,
            total_bytes: len,
            page_bytes: PageSize::base().bytes(),
            huge: region.huge_pages().clone(),
            numa: None,
            populated: false,
            sealed: false,
        };
        Self::assemble(region, report)
    }

    fn assemble(region: Region, report: SlabReport) -> Result<Self, RegionError> {
        let Some(start) = region.as_ptr() else {
            let message = "the CPU cannot address this memory; leases need an address";
            return Err(RegionError::new(OPERATION, RegionErrorKind::NotVisible, message));
        };
        let shared = Shared {
            start,
            slots: report.slots as u32,           // at most 2^24
            slot_bytes: report.slot_bytes as u32, // at most 2^30
            stride: report.stride_bytes,
            pool: Pool::full(report.slots),
            references: (0..report.slots).map(|_| AtomicU32::new(0)).collect(),
            region,
            report,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn from_shared(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How many slots it has.
    pub fn slots(&self) -> usize {
        self.shared.slots as usize
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes as usize
    }

    /// Bytes from one slot to the next.
    pub fn stride_bytes(&self) -> usize {
        self.shared.stride
    }

    /// The memory under it.
    pub fn region(&self) -> &Region {
        &self.shared.region
    }

    /// What it was given when it was made.
    pub fn report(&self) -> &SlabReport {
        &self.shared.report
    }

    /// How many slots are free; one atomic load.
    pub fn available(&self) -> usize {
        self.shared.pool.available()
    }

    /// Whether a slot is free; one atomic load.
    pub fn has_available(&self) -> bool {
        self.shared.pool.has_available()
    }

    /// The first byte of a slot. Using it is the caller's `unsafe`.
    ///
    /// # Panics
    /// When the slab has no such slot.
    pub fn slot_ptr(&self, index: u32) -> NonNull<u8> {
        self.shared.slot_ptr(index)
    }

    /// A whole slot, or `None` when all are out: [`lease`](Self::lease) without the error's text.
    pub fn try_lease(&self) -> Option<Lease> {
        let slot = self.shared.pool.acquire()?;
        Some(Lease::whole(SlotRef::first(&self.shared, slot)))
    }

    /// A whole slot. It has whatever bytes its last user left.
    ///
    /// # Errors
    /// `Exhausted` when all are out.
    pub fn lease(&self) -> Result<Lease, RegionError> {
        self.try_lease().ok_or_else(|| {
            let message = format!(
                "all {} slots are out; drop a lease or span, await lease_async, or make more slots",
                self.slots()
            );
            RegionError::new("lease", RegionErrorKind::Exhausted, message)
        })
    }

    /// A whole slot as soon as one is free. Waiters are woken first come, first served; a
    /// [`lease`](Self::lease) in between may be faster. Dropping the future loses no slot.
    pub fn lease_async(&self) -> LeaseFuture {
        LeaseFuture::new(self.clone())
    }

    /// Takes back a slot reference given out by [`Lease::into_slot`] or
    /// [`share_slot`](Self::share_slot), as a lease of `len` bytes from `start`, all of it its
    /// capacity.
    ///
    /// # Safety
    /// The caller owns that reference and gives it up, `start..start + len` is inside the slot,
    /// and no other lease or span, and nothing in flight, has any of these bytes.
    pub unsafe fn lease_from_slot(&self, index: u32, start: usize, len: usize) -> Lease {
        debug_assert!(index < self.shared.slots && start + len <= self.slot_bytes());
        // SAFETY: the caller gives up a reference of its own.
        let slot = unsafe { SlotRef::adopt(&self.shared, index) };
        Lease::part(slot, start as u32, len as u32)
    }

    /// Adds a reference to a slot that is out, for a user that hands out parts of it one by one.
    ///
    /// # Safety
    /// The caller owns a reference to this slot; it owns one more after the call.
    pub unsafe fn share_slot(&self, index: u32) {
        slot::add_reference(&self.shared, index);
    }
}

impl PartialEq for Slab {
    /// Whether both are handles of the same slab.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Slab {}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("name", &self.shared.report.name)
            .field("region", &self.shared.region.id().get())
            .field("slots", &self.shared.slots)
            .field("slot_bytes", &self.shared.slot_bytes)
            .field("available", &self.available())
            .finish()
    }
}
