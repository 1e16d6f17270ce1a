//! Registered memory: which regions the backend knows, and under which indexes.
//!
//! Registration is by region, use is by range: a span of a registered region finds its fixed-buffer
//! index here, so a sub-span stays fixed without anybody naming a handle. A region is registered
//! in pieces of at most 1 GiB (the kernel's limit for one entry).
//!
//! The registry holds the region while it is registered, and after that until the backend reports
//! every entry released: a cleared entry's memory may still be read by an operation in flight.

use regions::{Region, RegionId, Span};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Name of a registration: place in the registry and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RegId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

struct Entry {
    region: Region,
    base: usize,
    chunk_bytes: usize,
    first: u32,
    count: u32,
    /// Entries the backend has not reported released since unregistering.
    unreleased: u32,
    generation: u32,
    active: bool,
    /// Handles that asked for this region: registering twice shares the entry.
    holders: Holders,
}

/// How many handles hold a registration. Handles come on the poll owner's thread and go on any;
/// the one that makes it zero says so, and is believed when it still is zero by then: the region
/// may have been registered again meanwhile.
pub(crate) type Holders = Arc<AtomicU32>;

/// Most registrations of one proactor.
pub(crate) const MAX_REGISTRATIONS: usize = 65536;

/// The registered regions of one proactor.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Vec<Option<Entry>>,
    generation: u32,
    active: usize,
}

impl Registry {
    /// A registration of the same region, shared.
    pub(crate) fn share(&mut self, region: RegionId) -> Option<(RegId, Holders)> {
        for (index, place) in self.entries.iter_mut().enumerate() {
            if let Some(entry) = place
                && entry.active
                && entry.region.id() == region
            {
                entry.holders.fetch_add(1, Ordering::Relaxed);
                let id = RegId { index: index as u32, generation: entry.generation };
                return Some((id, entry.holders.clone()));
            }
        }
        None
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_REGISTRATIONS && self.entries.iter().all(Option::is_some)
    }

    pub(crate) fn install(&mut self, region: Region, first: u32, count: u32) -> (RegId, Holders) {
        self.generation += 1;
        let holders = Holders::new(AtomicU32::new(1));
        let base = region.as_ptr().map_or(0, |at| at.as_ptr() as usize);
        let chunk_bytes = region.chunk_bytes();
        let generation = self.generation;
        let entry = Entry {
            region,
            base,
            chunk_bytes,
            first,
            count,
            unreleased: 0,
            generation,
            active: true,
            holders: holders.clone(),
        };
        self.active += 1;
        let index = match self.entries.iter().position(Option::is_none) {
            Some(index) => {
                self.entries[index] = Some(entry);
                index
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        };
        (RegId { index: index as u32, generation }, holders)
    }

    /// The last holder is gone, it was said; the entries to give back when that is still so.
    pub(crate) fn leave(&mut self, index: u32) -> Option<(u32, u32)> {
        let entry = self.entries.get_mut(index as usize)?.as_mut()?;
        // Acquire: what the holders did with the region comes before its release.
        if !entry.active || entry.holders.load(Ordering::Acquire) > 0 {
            return None;
        }
        entry.active = false;
        entry.unreleased = entry.count;
        self.active -= 1;
        Some((entry.first, entry.count))
    }

    /// A backend entry was released; the region goes with its last one.
    pub(crate) fn released(&mut self, index: u32) -> Option<Region> {
        let place = self.entries.iter_mut().find(|place| {
            place.as_ref().is_some_and(|e| {
                !e.active && e.unreleased > 0 && (e.first..e.first + e.count).contains(&index)
            })
        })?;
        let entry = place.as_mut()?;
        entry.unreleased -= 1;
        if entry.unreleased > 0 {
            return None;
        }
        place.take().map(|entry| entry.region)
    }

    /// The fixed-buffer index of `bytes` at `at`, when the span's region is registered.
    #[inline]
    pub(crate) fn fixed_index(&self, span: &Span, at: *const u8, bytes: usize) -> Option<u16> {
        if self.active == 0 {
            return None;
        }
        self.fixed_index_of(span.region_id()?, at, bytes)
    }

    /// As [`fixed_index`](Self::fixed_index), by region.
    #[inline]
    pub(crate) fn fixed_index_of(
        &self,
        region: RegionId,
        at: *const u8,
        bytes: usize,
    ) -> Option<u16> {
        if self.active == 0 || bytes == 0 {
            return None;
        }
        let found = self.entries.iter().flatten().find(|e| e.active && e.region.id() == region)?;
        let offset = (at as usize).checked_sub(found.base)?;
        let chunk = offset / found.chunk_bytes;
        if chunk != (offset + bytes - 1) / found.chunk_bytes || chunk >= found.count as usize {
            return None;
        }
        u16::try_from(found.first as usize + chunk).ok()
    }

    /// Regions registered, and regions waiting for the kernel to release them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.active, self.entries.iter().flatten().count() - self.active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regions::Slab;

    #[test]
    fn a_sub_span_of_a_registered_slab_is_fixed() {
        let slab = Slab::new(4, 4096).expect("slab");
        let mut registry = Registry::default();
        let (id, holders) = registry.install(slab.region().clone(), 7, 1);
        let span = slab.lease().expect("free").freeze();
        let part = span.slice(10..20).expect("inside");
        assert_eq!(registry.fixed_index(&part, part.as_ptr(), part.len()), Some(7));
        let other = Span::from(vec![1u8; 10]);
        assert_eq!(registry.fixed_index(&other, other.as_ptr(), 10), None);
        assert_eq!(registry.leave(id.index), None, "somebody holds it");
        holders.fetch_sub(1, Ordering::Release);
        assert_eq!(registry.leave(id.index), Some((7, 1)));
        assert_eq!(registry.fixed_index(&part, part.as_ptr(), part.len()), None);
        assert_eq!(registry.counts(), (0, 1), "held until the kernel releases it");
        assert!(registry.released(7).is_some());
        assert_eq!(registry.counts(), (0, 0));
    }

    #[test]
    fn registering_twice_shares_the_entry() {
        let slab = Slab::new(1, 64).expect("slab");
        let mut registry = Registry::default();
        let (id, holders) = registry.install(slab.region().clone(), 0, 1);
        let (again, _) = registry.share(slab.region().id()).expect("it is registered");
        assert_eq!((again, holders.load(Ordering::Relaxed)), (id, 2));
        // Both go before anybody looks: that is said once.
        holders.fetch_sub(2, Ordering::Release);
        assert_eq!(registry.leave(id.index), Some((0, 1)));
        assert_eq!(registry.leave(id.index), None);
    }
}
