//! How a slab is made: sizes checked, memory found, bound, populated and sealed.
//!
//! Everything that can fail about a slab's memory fails here, with the limit named, and not later
//! when a slot is first touched.

use std::os::fd::{AsFd, OwnedFd};

use crate::access::Access;
use crate::error::{RegionError, RegionErrorKind};
use crate::index_set::IndexSet;
use crate::limits;
use crate::mapping::Mapping;
use crate::memfd;
use crate::page::{self, HugeOutcome, HugePages, PageSize};
use crate::range::page_rounded;
use crate::region::{CHUNK_LIMIT_BYTES, Inner};
use crate::slab::Slab;
use crate::slab_report::SlabReport;
use crate::source::Source;

pub(crate) const OPERATION: &str = "slab";
pub(crate) const SLOT_ALIGN_BYTES: usize = 64;

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
    pub(crate) fn new(slots: usize, slot_bytes: usize) -> Self {
        Self {
            slots,
            slot_bytes,
            huge_pages: HugePages::Auto,
            numa_node: None,
            name: "slab".to_owned(),
            access: Access::LOCAL,
        }
    }

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
        memfd::seal(OPERATION, fd.as_fd())?;
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
            sealed: true,
        };
        let mut inner = Inner::mapped(mapping, total, Source::Memfd);
        inner.fd = Some(fd);
        inner.huge = huge;
        inner.access = self.access;
        inner.leased = true;
        let region = inner.into_region();
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
pub(crate) fn stride_of(slot_bytes: usize) -> Result<usize, RegionError> {
    if slot_bytes == 0 || slot_bytes > CHUNK_LIMIT_BYTES {
        let message =
            format!("slots of {slot_bytes} bytes; a slot has 1 to {CHUNK_LIMIT_BYTES} bytes");
        return Err(RegionError::invalid(OPERATION, message));
    }
    let page_bytes = PageSize::base().bytes();
    let align = if slot_bytes >= page_bytes { page_bytes } else { SLOT_ALIGN_BYTES };
    Ok(slot_bytes.next_multiple_of(align))
}
