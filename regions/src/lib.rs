//! Memory for zero-copy I/O.
//!
//! The crate knows no ring and no loop. It hands out memory whose owner is always known:
//!
//! * A [`Region`] is one piece of memory with an identity, reference counted. Back ends register
//!   regions; everything below is a part of one.
//! * A [`Slab`] is a region cut into equal slots, with a lock-free list of free ones.
//! * A [`Lease`] is exclusive: one byte range of one slot, readable and writable. It moves into a
//!   receive or a read.
//! * A [`Span`] is shared: a byte range of a slot, of a region, or of ordinary memory (`Vec<u8>`,
//!   `bytes::Bytes`, statics). Sends use it. [`Lease::freeze`] makes one, [`Span::try_unfreeze`]
//!   goes back when nobody else holds the slot.
//! * A [`SpanList`] is what a gathered send takes.
//!
//! A slot goes back to its slab when its last lease and span are gone, from whichever thread that
//! happens on; that drop is O(1), never blocks and takes no lock unless somebody waits for a slot.
//!
//! ```
//! use regions::{Slab, Span};
//!
//! let slab = Slab::new(4, 4096)?;
//! let mut lease = slab.lease()?;
//! lease[..5].copy_from_slice(b"hello");
//! lease.truncate(5);
//! let span = lease.freeze();
//! assert_eq!(span.bytes()?, b"hello");
//! let lease = span.try_unfreeze().expect("this span is the only one");
//! drop(lease);
//! assert_eq!(slab.available(), 4);
//! let ordinary = Span::from(vec![1u8, 2, 3]);
//! assert_eq!(ordinary.len(), 3);
//! # Ok::<(), regions::RegionError>(())
//! ```

mod access;
mod error;
mod index_set;
mod lease;
#[cfg(all(test, loom))]
mod loom_models;
mod memory;
mod region;
mod slab;
mod span;
mod span_list;
mod sync;

#[cfg(not(loom))]
use memory::vulkan;
use memory::{copy, dma_buf, limits, mapping, memfd, page, range, source};
use slab::{builder as slab_builder, pool, report as slab_report, slot};

pub use access::Access;
/// The version of the bindings that [`VulkanTarget`] takes devices of.
#[cfg(not(loom))]
pub use ash;
pub use dma_buf::CpuAccess;
pub use error::{RegionError, RegionErrorKind};
pub use index_set::IndexSet;
pub use lease::{Lease, LeaseFuture};
pub use page::{HugeOutcome, HugePagePool, HugePages, PageSize};
pub use region::{CHUNK_LIMIT_BYTES, Region, RegionId};
pub use slab::Slab;
pub use slab_builder::SlabBuilder;
pub use slab_report::SlabReport;
pub use source::Source;
pub use span::Span;
pub use span_list::{SPAN_LIST_LIMIT, SpanList, SpanListFull};
#[cfg(not(loom))]
pub use vulkan::{VulkanHandle, VulkanMemory, VulkanTarget};
