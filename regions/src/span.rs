//! A shared byte range, which every send uses.
//!
//! A [`Span`] is a range of a slot, of a region, or of ordinary memory, and keeps it alive. Clones
//! and slices share the bytes without copying. It is `Send` and `Sync`; dropping it is O(1) on any
//! thread (for ordinary memory: as `bytes::Bytes` does it).
//!
//! Bytes can be borrowed only where nobody can be writing: ordinary memory, and slots of a private
//! slab (once frozen, a slot is only read). Over anything else (a region that other handles copy
//! into, a file mapping, foreign or exported memory) there is no `&[u8]`: copy with
//! [`copy_to`](Span::copy_to), or vouch for it with [`bytes_unchecked`](Span::bytes_unchecked).
//!
//! Unsafe is here because a span turns slot memory into slices.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::RangeBounds;

use bytes::Bytes;

use crate::copy::Extent;
use crate::error::{RegionError, RegionErrorKind};
use crate::lease::Lease;
use crate::range::resolve;
use crate::region::{Region, RegionId};
use crate::slot::SlotRef;

/// A shared byte range; see the head of this module.
#[derive(Clone)]
pub struct Span {
    memory: Memory,
}

#[derive(Clone)]
enum Memory {
    Slot { slot: SlotRef, start: u32, len: u32 },
    Region { region: Region, start: usize, len: usize },
    Ordinary(Bytes),
}

impl Span {
    pub(crate) fn of_slot(slot: SlotRef, start: u32, len: u32) -> Self {
        Self { memory: Memory::Slot { slot, start, len } }
    }

    pub(crate) fn of_region(region: Region, start: usize, len: usize) -> Self {
        Self { memory: Memory::Region { region, start, len } }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match &self.memory {
            Memory::Slot { len, .. } => *len as usize,
            Memory::Region { len, .. } => *len,
            Memory::Ordinary(bytes) => bytes.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first byte, for the kernel: valid for `len` bytes while the span lives, null when the
    /// CPU cannot address the memory. Reading through it is `unsafe`: others may be writing.
    pub fn as_ptr(&self) -> *const u8 {
        match &self.memory {
            // SAFETY: the range was cut from inside the slot.
            Memory::Slot { slot, start, .. } => unsafe {
                slot.start().add(*start as usize).as_ptr().cast_const()
            },
            Memory::Region { region, start, .. } => match region.as_ptr() {
                // SAFETY: the range was cut from inside the region.
                Some(first) => unsafe { first.add(*start).as_ptr().cast_const() },
                None => std::ptr::null(),
            },
            Memory::Ordinary(bytes) => bytes.as_ptr(),
        }
    }

    /// The bytes, where nobody can be writing them.
    ///
    /// # Errors
    /// `Shared` when others can write the memory, `NotVisible` when the CPU cannot address it.
    pub fn bytes(&self) -> Result<&[u8], RegionError> {
        self.check_private("bytes of a span")?;
        // SAFETY: ordinary memory is `Bytes`, which is immutable. A slot of a private slab is
        // written only through a lease with the bytes in question, and none exists beside a span.
        Ok(unsafe { self.bytes_unchecked() })
    }

    /// The bytes, on the caller's word.
    ///
    /// # Safety
    /// The CPU can address the memory ([`as_ptr`](Self::as_ptr) is not null), and nobody writes
    /// these bytes while the slice lives.
    pub unsafe fn bytes_unchecked(&self) -> &[u8] {
        match &self.memory {
            Memory::Ordinary(bytes) => bytes,
            // SAFETY: `as_ptr` is valid for `len` initialised bytes while the span lives; that
            // nobody writes them is the caller's promise.
            _ => unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) },
        }
    }

    /// Copies `to.len()` bytes from `offset` on, also where others can write (then the copy may mix
    /// old and new bytes).
    ///
    /// # Errors
    /// `OutOfRange` when the span has fewer bytes, `NotVisible` when the CPU cannot address them,
    /// `Permission` for a plain region span of a slab (its leases own the bytes).
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) -> Result<(), RegionError> {
        const OPERATION: &str = "copy out of a span";
        let (from, end) = resolve(OPERATION, offset..offset.saturating_add(to.len()), self.len())?;
        match &self.memory {
            Memory::Region { region, start, .. } => region.copy_out(start + from, to),
            Memory::Slot { slot, start, .. } if !slot.shared().region.is_private() => {
                // SAFETY: the range was cut from inside the slot.
                let first = unsafe { slot.start().add(*start as usize) };
                // SAFETY: the span's bytes are mapped and initialised while it lives, and frozen:
                // this program only reads them, so where its words lie does not matter. The
                // extent has nothing beside them, where a lease may be.
                let extent = unsafe { Extent::new(first, self.len()) };
                extent.copy_out(from, to);
                Ok(())
            }
            _ => {
                to.copy_from_slice(&self.bytes()?[from..end]);
                Ok(())
            }
        }
    }

    /// A copy of all bytes.
    ///
    /// # Errors
    /// As [`copy_to`](Self::copy_to).
    pub fn to_vec(&self) -> Result<Vec<u8>, RegionError> {
        let mut copy = vec![0; self.len()];
        self.copy_to(0, &mut copy)?;
        Ok(copy)
    }

    /// A span of part of the bytes; nothing is copied.
    ///
    /// # Errors
    /// `OutOfRange` when the range is not inside the span.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Self, RegionError> {
        let (from, end) = resolve("slice of a span", range, self.len())?;
        let len = end - from;
        Ok(match &self.memory {
            Memory::Slot { slot, start, .. } => {
                // Both fit: they are inside a slot, which has at most 2^30 bytes.
                Self::of_slot(slot.clone(), start + from as u32, len as u32)
            }
            Memory::Region { region, start, .. } => {
                Self::of_region(region.clone(), start + from, len)
            }
            Memory::Ordinary(bytes) => Self { memory: Memory::Ordinary(bytes.slice(from..end)) },
        })
    }

    /// The region it is a part of; `None` for ordinary memory.
    pub fn region(&self) -> Option<&Region> {
        match &self.memory {
            Memory::Slot { slot, .. } => Some(&slot.shared().region),
            Memory::Region { region, .. } => Some(region),
            Memory::Ordinary(_) => None,
        }
    }

    /// That region's identity.
    pub fn region_id(&self) -> Option<RegionId> {
        self.region().map(Region::id)
    }

    /// Exclusive again, if this is the only reference to its slot: the lease has the same content
    /// and a capacity up to the slot's end.
    ///
    /// # Errors
    /// The span itself, when other leases or spans of the slot exist or it is no slot.
    pub fn try_unfreeze(self) -> Result<Lease, Self> {
        match self.memory {
            Memory::Slot { slot, start, len } if slot.is_unique() => {
                Ok(Lease::from_unique(slot, start, len))
            }
            memory => Err(Self { memory }),
        }
    }

    /// The same bytes as `bytes::Bytes`, without copying; the slot is out until those are dropped.
    ///
    /// # Errors
    /// The span itself, where [`bytes`](Self::bytes) would refuse.
    pub fn into_bytes(self) -> Result<Bytes, Self> {
        match self.memory {
            Memory::Ordinary(bytes) => Ok(bytes),
            memory => {
                let span = Self { memory };
                match span.bytes() {
                    Ok(_) => Ok(Bytes::from_owner(Private(span))),
                    Err(_) => Err(span),
                }
            }
        }
    }

    fn check_private(&self, operation: &'static str) -> Result<(), RegionError> {
        let message = match &self.memory {
            Memory::Ordinary(_) => return Ok(()),
            Memory::Slot { slot, .. } if slot.shared().region.is_private() => return Ok(()),
            Memory::Region { region, .. } if region.as_ptr().is_none() => {
                let message = "the CPU cannot address this memory; copy it with its device";
                return Err(RegionError::new(operation, RegionErrorKind::NotVisible, message));
            }
            _ => "others can write this memory; copy it out with copy_to or to_vec",
        };
        Err(RegionError::new(operation, RegionErrorKind::Shared, message))
    }
}

/// A span that was private when it became `Bytes`.
struct Private(Span);

impl AsRef<[u8]> for Private {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: it is a slot of a slab that was private when `Bytes` took it, and the rule for
        // exporting a slab later is to write only where no lease or borrowed span is.
        unsafe { self.0.bytes_unchecked() }
    }
}

impl From<Bytes> for Span {
    fn from(bytes: Bytes) -> Self {
        Self { memory: Memory::Ordinary(bytes) }
    }
}

impl From<Vec<u8>> for Span {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Span {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static [u8]> for Span {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl<const N: usize> From<&'static [u8; N]> for Span {
    fn from(bytes: &'static [u8; N]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<&'static str> for Span {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<Lease> for Span {
    fn from(lease: Lease) -> Self {
        lease.freeze()
    }
}

/// Shows where and how long; never the content.
impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Span");
        match &self.memory {
            Memory::Slot { slot, start, .. } => {
                debug.field("region", &slot.shared().region.id().get());
                debug.field("slot", &slot.index()).field("start", start);
            }
            Memory::Region { region, start, .. } => {
                debug.field("region", &region.id().get()).field("start", start);
            }
            Memory::Ordinary(_) => {
                debug.field("region", &"none");
            }
        }
        debug.field("len", &self.len()).finish()
    }
}

const _: () = {
    const fn is_shareable<T: Send + Sync + Clone>() {}
    is_shareable::<Span>();
    is_shareable::<Region>();
    is_shareable::<crate::Slab>();
    assert!(size_of::<Span>() <= 48);
};
