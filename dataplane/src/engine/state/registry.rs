//! Registered memory: which regions the backend knows, and under which indexes.
//!
//! Registration is by region, use is by range: a span of a registered region finds its fixed-buffer
//! index here, so a sub-span stays fixed without anybody naming a handle. A region is registered
//! in pieces of at most 1 GiB (the kernel's limit for one entry).
//!
//! The registry holds the region while it is registered, and after that until the backend reports
//! every entry released: a cleared entry's memory may still be read by an operation in flight.

use crate::remote::inbox::Shared;
use regions::{Region, RegionId, Span};
use std::sync::{Arc, Weak};

/// What the registrations of one region share. The last of them to go, wherever that happens,
/// sets the entry's bit in the return map.
pub(crate) struct Held {
    shared: Arc<Shared>,
    index: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.shared.origin.is_here() && !self.shared.is_closed() {
            self.shared.returns.registrations.insert(self.index as usize);
            self.shared.announce();
        }
    }
}

struct Entry {
    region: Region,
    base: usize,
    chunk_bytes: usize,
    first: u32,
    count: u32,
    /// Entries the backend has not reported released since unregistering.
    unreleased: u32,
    active: bool,
    /// Those who asked for this region: registering twice shares the entry. Dead once the last of
    /// them is gone, also before its bit was swept.
    held: Weak<Held>,
}

/// Most registrations of one proactor.
pub(crate) const MAX_REGISTRATIONS: usize = 65536;

/// The registered regions of one proactor.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Vec<Option<Entry>>,
    active: usize,
}

impl Registry {
    /// A registration of the same region, shared. One whose last holder is gone already is on its
    /// way out, and not shared any more.
    pub(crate) fn share(&self, region: RegionId) -> Option<Arc<Held>> {
        let mut same = self.entries.iter().flatten().filter(|entry| entry.region.id() == region);
        same.find_map(|entry| entry.held.upgrade())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_REGISTRATIONS && self.entries.iter().all(Option::is_some)
    }

    pub(crate) fn install(
        &mut self,
        region: Region,
        first: u32,
        count: u32,
        shared: &Arc<Shared>,
    ) -> Arc<Held> {
        let vacant = self.entries.iter().position(Option::is_none);
        let index = vacant.unwrap_or(self.entries.len());
        let held = Arc::new(Held { shared: shared.clone(), index: index as u32 });
        let entry = Entry {
            base: region.as_ptr().map_or(0, |at| at.as_ptr() as usize),
            chunk_bytes: region.chunk_bytes(),
            region,
            first,
            count,
            unreleased: 0,
            active: true,
            held: Arc::downgrade(&held),
        };
        self.active += 1;
        match vacant {
            Some(index) => self.entries[index] = Some(entry),
            None => self.entries.push(Some(entry)),
        }
        held
    }

    /// The last holder is gone: the entries to give back.
    pub(crate) fn leave(&mut self, index: u32) -> Option<(u32, u32)> {
        let entry = self.entries.get_mut(index as usize)?.as_mut().filter(|e| e.active)?;
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
        if offset + bytes <= found.chunk_bytes {
            return u16::try_from(found.first).ok();
        }
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

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new("", (1, 1), 1, 1).expect("an eventfd"))
    }

    #[test]
    fn a_sub_span_of_a_registered_slab_is_fixed() {
        let slab = Slab::new(4, 4096).expect("slab");
        let mut registry = Registry::default();
        let held = registry.install(slab.region().clone(), 7, 1, &shared());
        let span = slab.lease().expect("free").freeze();
        let part = span.slice(10..20).expect("inside");
        assert_eq!(registry.fixed_index(&part, part.as_ptr(), part.len()), Some(7));
        let other = Span::from(vec![1u8; 10]);
        assert_eq!(registry.fixed_index(&other, other.as_ptr(), 10), None);
        assert_eq!(registry.leave(held.index), Some((7, 1)));
        assert_eq!(registry.fixed_index(&part, part.as_ptr(), part.len()), None);
        assert_eq!(registry.counts(), (0, 1), "held until the kernel releases it");
        assert!(registry.released(7).is_some());
        assert_eq!(registry.counts(), (0, 0));
    }

    /// More than one entry: a file with nothing in it is mapped, and no byte of it is touched.
    #[test]
    fn each_gib_of_a_large_region_has_its_own_index() {
        const CHUNK_BYTES: usize = 1 << 30;
        let path = std::env::temp_dir().join(format!("dataplane-sparse-{}", std::process::id()));
        let file = std::fs::File::create_new(&path).expect("a file");
        std::fs::remove_file(&path).expect("it is there");
        file.set_len(2 * CHUNK_BYTES as u64 + 4096).expect("a hole");
        let region = Region::map_file(&file, regions::Access::READ).expect("mapped");
        let (id, start) = (region.id(), region.as_ptr().expect("an address").as_ptr());
        let mut registry = Registry::default();
        let held = registry.install(region, 4, 3, &shared());
        let index = |at: usize, bytes| {
            let at = start.wrapping_add(at);
            registry.fixed_index_of(id, at, bytes)
        };
        assert_eq!(index(CHUNK_BYTES - 1, 1), Some(4));
        assert_eq!(index(CHUNK_BYTES, CHUNK_BYTES), Some(5));
        assert_eq!(index(2 * CHUNK_BYTES, 4096), Some(6));
        assert_eq!(index(CHUNK_BYTES - 1, 2), None, "no entry holds both bytes");
        assert_eq!(index(3 * CHUNK_BYTES, 1), None, "past its end");
        assert_eq!(registry.leave(held.index), Some((4, 3)));
        assert_eq!(registry.leave(held.index), None, "once");
        assert!(registry.released(4).is_none() && registry.released(6).is_none());
        assert_eq!(registry.released(5).map(|region| region.id()), Some(id), "with its last entry");
        assert!(registry.released(5).is_none());
    }

    #[test]
    fn registering_twice_shares_the_entry() {
        let slab = Slab::new(1, 64).expect("slab");
        let mut registry = Registry::default();
        let shared = shared();
        let one = registry.install(slab.region().clone(), 0, 1, &shared);
        let two = registry.share(slab.region().id()).expect("it is registered");
        assert!(Arc::ptr_eq(&one, &two));
        drop(one);
        assert!(shared.returns.registrations.is_empty(), "the other one holds it");
        drop(two);
        assert!(!shared.returns.registrations.is_empty());
        assert!(registry.share(slab.region().id()).is_none(), "it is on its way out");
        let again = registry.install(slab.region().clone(), 1, 1, &shared);
        shared.returns.registrations.drain(|index| {
            assert_eq!(registry.leave(index as u32), Some((0, 1)), "the old one");
        });
        let found = registry.share(slab.region().id()).expect("the new one stays");
        assert!(Arc::ptr_eq(&again, &found));
    }
}
