//! Copying in and out of memory that others may use at the same time.
//!
//! Over memory that another handle, process or device may be writing there is no `&[u8]`, and a
//! plain `memcpy` would be a data race. So these copies read and write whole aligned 8-byte words
//! with relaxed atomics, and every word of a region is always accessed at that one size: a copy
//! that needs part of a word reads the whole one, or exchanges it. Only the few bytes before the
//! first and after the last whole word of the *region* are single bytes, always. What a racing
//! reader gets is some mix of old and new bytes, and nothing worse.
//!
//! Unsafe is here because it dereferences raw memory.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORD: usize = 8;

/// The whole extent of a piece of memory, which fixes where its words lie.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    start: NonNull<u8>,
    len: usize,
}

impl Extent {
    /// # Safety
    /// The memory is mapped, initialised, readable (and writable, for `copy_in`) while the extent
    /// is used. If it is written meanwhile, then only through extents with the same start and
    /// length, or from outside this program.
    pub(crate) unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    /// Copies bytes `offset..offset + to.len()` out; the caller has checked the range.
    pub(crate) fn copy_out(self, offset: usize, to: &mut [u8]) {
        let end = self.check(offset, to.len());
        let mut done = 0;
        while done < to.len() {
            let at = offset + done;
            match self.word_at(at) {
                Some((word, within)) => {
                    let count = (WORD - within).min(end - at);
                    let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
                    to[done..done + count].copy_from_slice(&bytes[within..within + count]);
                    done += count;
                }
                None => {
                    to[done] = self.byte_at(at).load(Ordering::Relaxed);
                    done += 1;
                }
            }
        }
    }

    /// Copies `from` to bytes `offset..offset + from.len()`; the caller has checked the range.
    pub(crate) fn copy_in(self, offset: usize, from: &[u8]) {
        let end = self.check(offset, from.len());
        let mut done = 0;
        while done < from.len() {
            let at = offset + done;
            match self.word_at(at) {
                Some((word, within)) => {
                    let count = (WORD - within).min(end - at);
                    store_part(word, within, &from[done..done + count]);
                    done += count;
                }
                None => {
                    self.byte_at(at).store(from[done], Ordering::Relaxed);
                    done += 1;
                }
            }
        }
    }

    fn check(self, offset: usize, len: usize) -> usize {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        end.expect("the caller checked the range against the region")
    }

    /// The offsets that lie in whole aligned words.
    fn words(self) -> Range<usize> {
        let address = self.start.as_ptr() as usize;
        let head = address.next_multiple_of(WORD) - address;
        let end = (address + self.len) / WORD * WORD;
        head..end.saturating_sub(address).max(head)
    }

    /// The word that holds byte `at`, and the byte's place in it.
    fn word_at(&self, at: usize) -> Option<(&AtomicU64, usize)> {
        let words = self.words();
        if !words.contains(&at) {
            return None;
        }
        let within = (at - words.start) % WORD;
        // SAFETY: the word is aligned and lies wholly inside the extent, which `new`'s caller
        // vouches for; it is only ever accessed as this atomic.
        let word = unsafe { self.start.add(at - within).cast::<AtomicU64>().as_ref() };
        Some((word, within))
    }

    fn byte_at(&self, at: usize) -> &AtomicU8 {
        // SAFETY: inside the extent; bytes outside the whole words are only accessed as bytes.
        unsafe { self.start.add(at).cast::<AtomicU8>().as_ref() }
    }
}

fn store_part(word: &AtomicU64, within: usize, bytes: &[u8]) {
    if let Ok(whole) = <[u8; WORD]>::try_from(bytes) {
        return word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
    }
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
        let mut merged = old.to_ne_bytes();
        merged[within..within + bytes.len()].copy_from_slice(bytes);
        Some(u64::from_ne_bytes(merged))
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Every offset and length of odd extents against plain slices.
    #[test]
    fn every_range_of_misaligned_extents() {
        for (skip, len) in [(0, 40), (1, 39), (3, 29), (5, 4), (7, 1), (6, 10), (4, 0)] {
            let mut memory = [0u64; 6];
            let bytes = memory.as_mut_ptr().cast::<u8>();
            // SAFETY: at most 40 bytes of 48, which only this extent touches until the loop ends.
            let start = unsafe { NonNull::new(bytes.add(skip)).expect("an array has an address") };
            // SAFETY: as above.
            let extent = unsafe { Extent::new(start, len) };
            let mut oracle = vec![0u8; len];
            for offset in 0..len {
                for count in 0..=len - offset {
                    let fresh: Vec<u8> = (0..count).map(|i| (i * 7 + offset + 1) as u8).collect();
                    extent.copy_in(offset, &fresh);
                    oracle[offset..offset + count].copy_from_slice(&fresh);
                    let mut all = vec![0; len];
                    extent.copy_out(0, &mut all);
                    assert_eq!(all, oracle);
                    let mut part = vec![0; count];
                    extent.copy_out(offset, &mut part);
                    assert_eq!(part, fresh);
                }
            }
            let whole: Vec<u8> = memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert_eq!(&whole[skip..skip + len], &oracle[..]);
            assert!(whole[..skip].iter().chain(&whole[skip + len..]).all(|byte| *byte == 0));
        }
    }

    #[test]
    fn neighbours_in_one_word_do_not_lose_each_other() {
        let mut memory = [0u64; 1];
        let start = NonNull::new(memory.as_mut_ptr().cast::<u8>()).expect("it has an address");
        std::thread::scope(|scope| {
            for half in 0..2 {
                // SAFETY: both threads use the same extent; the array outlives the scope.
                let extent = unsafe { Extent::new(start, 8) };
                let address = extent.start.as_ptr() as usize;
                scope.spawn(move || {
                    let start = NonNull::new(address as *mut u8).expect("it has an address");
                    // SAFETY: as above; the address came from that extent.
                    let extent = unsafe { Extent::new(start, 8) };
                    for round in 0..=u16::MAX {
                        let value = [round as u8; 4];
                        extent.copy_in(half * 4, &value);
                        let mut back = [0; 4];
                        extent.copy_out(half * 4, &mut back);
                        assert_eq!(back, value);
                    }
                });
            }
        });
    }
}
