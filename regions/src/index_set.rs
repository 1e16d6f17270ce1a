//! A lossless, lock-free set of small integers.
//!
//! It is a slab's list of free slots, and it carries returns from other threads to a loop's owner:
//! there a drop sets a bit that the owner sweeps. That is why `insert` cannot fail, block or
//! allocate, whatever the number of threads.
//!
//! # Design
//!
//! Level 0 has one bit per index. A bit of level `n + 1` says "this word of level `n` may have
//! members"; the highest level is one word. Three rules keep that right without a lock:
//!
//! * **Up**: whoever sets a bit then looks at each level above and sets what is missing there.
//! * **Down**: whoever finds a word empty clears its bit above and *then looks again*; a word that
//!   is no longer empty gets its bit back (and the levels above theirs).
//!   Either the setter's look comes after the clear, and it repairs, or it came before, and then
//!   the clearer's second look sees the new member: the accesses are `SeqCst`, so one of the two
//!   sees the other.
//! * **Count**: between a clear and its repair the upper levels say too little. So they are only a
//!   hint where to look. The truth about "is there anything" is a count that is raised before a
//!   bit is set and lowered after one is cleared: it is never below the number of members. When
//!   the count says yes and the levels say no, `take` reads the leaves one after another, which
//!   happens only in that short window.
//!
//! Memory is one bit per index and 1/63 more. Indexes are below 2^24 on four levels.

use crate::sync::{AtomicU64, AtomicUsize, Ordering, model_fence};

/// Members per word. The model uses tiny words so that a few members already need summaries.
const BITS: usize = if cfg!(loom) { 2 } else { 64 };
const LEVELS_MAX: usize = 4;

/// A lossless lock-free set of the integers below its capacity; all methods may be called from any
/// thread at any time.
///
/// An insert happens before the `take`, `remove` or `drain` that hands the index out, so what was
/// written before the insert is visible after it.
///
/// ```
/// let set = regions::IndexSet::empty(100);
/// assert!(set.insert(7) && !set.insert(7));
/// assert_eq!(set.take(), Some(7));
/// assert!(set.is_empty() && set.take().is_none());
/// ```
pub struct IndexSet {
    /// Never below the number of bits set in level 0.
    members: AtomicUsize,
    /// All levels one behind the other, level 0 first.
    words: Box<[AtomicU64]>,
    /// Where each level begins in `words`.
    begins: [usize; LEVELS_MAX],
    height: usize,
    capacity: usize,
}

/// What one walk from the top to a leaf found.
enum Walk {
    Taken(usize),
    /// A summary bit promised what was gone; it has been repaired.
    Stale,
    /// The top says that nothing is there.
    Nothing,
}

impl IndexSet {
    /// The largest capacity: 2^24.
    pub const CAPACITY_MAX: usize = 1 << 24;

    /// A set without members that can hold the indexes below `capacity`.
    ///
    /// # Panics
    /// When `capacity` is above [`CAPACITY_MAX`](Self::CAPACITY_MAX).
    pub fn empty(capacity: usize) -> Self {
        Self::build(capacity, false)
    }

    /// A set that has every index below `capacity`.
    ///
    /// # Panics
    /// When `capacity` is above [`CAPACITY_MAX`](Self::CAPACITY_MAX).
    pub fn full(capacity: usize) -> Self {
        Self::build(capacity, true)
    }

    fn build(capacity: usize, full: bool) -> Self {
        assert!(capacity <= Self::CAPACITY_MAX, "an index set holds at most 2^24 indexes");
        let mut words = Vec::new();
        let mut begins = [0; LEVELS_MAX];
        let mut height = 0;
        let mut bits = capacity.max(1);
        loop {
            begins[height] = words.len();
            height += 1;
            let filled = if full { bits.min(capacity) } else { 0 };
            let count = bits.div_ceil(BITS);
            words.extend((0..count).map(|word| AtomicU64::new(filled_word(filled, word))));
            if count == 1 {
                break;
            }
            bits = count;
        }
        let members = AtomicUsize::new(if full { capacity } else { 0 });
        Self { members, words: words.into_boxed_slice(), begins, height, capacity }
    }

    /// How many indexes it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Adds `index`; false when it was there already. Never fails, blocks or allocates.
    ///
    /// # Panics
    /// When `index` is not below the capacity.
    pub fn insert(&self, index: usize) -> bool {
        assert!(index < self.capacity, "index {index} of a set of {}", self.capacity);
        let bit = 1 << (index % BITS);
        self.members.fetch_add(1, Ordering::SeqCst);
        let before = self.word(0, index / BITS).fetch_or(bit, Ordering::SeqCst);
        if before & bit != 0 {
            self.members.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        self.raise(0, index / BITS);
        true
    }

    /// Removes some member, the lowest one as a rule. `None` means that every member whose insert
    /// happened before this call has been taken by somebody.
    pub fn take(&self) -> Option<usize> {
        while !self.is_empty() {
            match self.walk() {
                Walk::Taken(index) => return Some(index),
                Walk::Stale => continue,
                Walk::Nothing => {
                    let leaves = self.capacity.div_ceil(BITS);
                    return (0..leaves).find_map(|leaf| self.take_from(leaf));
                }
            }
        }
        None
    }

    /// Removes `index`; false when it was not there.
    pub fn remove(&self, index: usize) -> bool {
        if index >= self.capacity {
            return false;
        }
        let bit = 1 << (index % BITS);
        let before = self.word(0, index / BITS).fetch_and(!bit, Ordering::SeqCst);
        if before & bit == 0 {
            return false;
        }
        self.members.fetch_sub(1, Ordering::SeqCst);
        if before == bit {
            self.lower(0, index / BITS);
        }
        true
    }

    /// Whether `index` is a member now.
    pub fn contains(&self, index: usize) -> bool {
        let bit = 1 << (index % BITS);
        index < self.capacity && self.word(0, index / BITS).load(Ordering::SeqCst) & bit != 0
    }

    /// One atomic load. It may say "not empty" a moment too long; it never says "empty" while a
    /// member is there whose insert happened before this call.
    pub fn is_empty(&self) -> bool {
        self.members.load(Ordering::SeqCst) == 0
    }

    /// The number of members: exact when nobody changes the set, and never too small.
    pub fn len(&self) -> usize {
        self.members.load(Ordering::SeqCst).min(self.capacity)
    }

    /// Takes every member, a word at a time, and gives each to `each`.
    ///
    /// Meant for one sweeper: then it delivers every member whose insert happened before the call.
    /// While other threads take or remove, a member may be left for the next sweep (`is_empty`
    /// still tells of it); none is lost or delivered twice. Inserts during the sweep may or may not
    /// be delivered by it. If `each` panics, what was not delivered is put back.
    pub fn drain(&self, mut each: impl FnMut(usize)) {
        if !self.is_empty() {
            self.sweep(self.height - 1, 0, &mut each);
        }
    }

    /// Empties one word from the top down: its bits are cleared before what they stand for is
    /// looked at, so a later insert below sets them again.
    fn sweep(&self, level: usize, index: usize, each: &mut dyn FnMut(usize)) {
        let bits = self.word(level, index).swap(0, Ordering::SeqCst);
        model_fence();
        let mut rest = Rest { set: self, level, index, bits };
        while rest.bits != 0 {
            let child = index * BITS + rest.bits.trailing_zeros() as usize;
            rest.bits &= rest.bits - 1;
            if level == 0 {
                self.members.fetch_sub(1, Ordering::SeqCst);
                each(child);
            } else {
                self.sweep(level - 1, child, each);
            }
        }
    }

    fn word(&self, level: usize, index: usize) -> &AtomicU64 {
        &self.words[self.begins[level] + index]
    }

    /// Whether every word with members has its bit set above: so whenever nobody changes the set.
    #[cfg(test)]
    pub(crate) fn levels_agree(&self) -> bool {
        (1..self.height).all(|level| {
            let words = self.begins[level] - self.begins[level - 1];
            (0..words).all(|index| {
                let above = self.word(level, index / BITS).load(Ordering::SeqCst);
                self.word(level - 1, index).load(Ordering::SeqCst) == 0
                    || above & (1 << (index % BITS)) != 0
            })
        })
    }

    fn walk(&self) -> Walk {
        let top = self.height - 1;
        let mut index = 0;
        for level in (1..=top).rev() {
            let bits = self.word(level, index).load(Ordering::SeqCst);
            if bits == 0 && level == top {
                return Walk::Nothing;
            }
            if bits == 0 {
                self.lower(level, index);
                return Walk::Stale;
            }
            index = index * BITS + bits.trailing_zeros() as usize;
        }
        match self.take_from(index) {
            Some(found) => Walk::Taken(found),
            None if top == 0 => Walk::Nothing,
            None => {
                self.lower(0, index);
                Walk::Stale
            }
        }
    }

    fn take_from(&self, leaf: usize) -> Option<usize> {
        let word = self.word(0, leaf);
        let mut seen = word.load(Ordering::SeqCst);
        while seen != 0 {
            let bit = seen & seen.wrapping_neg();
            let before = word.fetch_and(!bit, Ordering::SeqCst);
            if before & bit != 0 {
                self.members.fetch_sub(1, Ordering::SeqCst);
                if before == bit {
                    self.lower(0, leaf);
                }
                return Some(leaf * BITS + bit.trailing_zeros() as usize);
            }
            seen = before;
        }
        None
    }

    /// After a bit of this word was set: every level above says so.
    fn raise(&self, mut level: usize, mut index: usize) {
        while level + 1 < self.height {
            let bit = 1 << (index % BITS);
            (level, index) = (level + 1, index / BITS);
            model_fence();
            let above = self.word(level, index);
            if above.load(Ordering::SeqCst) & bit == 0 {
                above.fetch_or(bit, Ordering::SeqCst);
            }
        }
    }

    /// After this word was seen empty: the levels above stop promising, then it is looked at again.
    fn lower(&self, mut level: usize, mut index: usize) {
        while level + 1 < self.height {
            let bit = 1 << (index % BITS);
            let before = self.word(level + 1, index / BITS).fetch_and(!bit, Ordering::SeqCst);
            model_fence();
            if self.word(level, index).load(Ordering::SeqCst) != 0 {
                return self.raise(level, index);
            }
            if before != bit {
                return; // others live under that word, or somebody else cleared it
            }
            (level, index) = (level + 1, index / BITS);
        }
    }
}

/// The part of a swept word that has not been delivered yet; goes back if the sweep is cut short.
struct Rest<'a> {
    set: &'a IndexSet,
    level: usize,
    index: usize,
    bits: u64,
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        if self.bits != 0 {
            self.set.word(self.level, self.index).fetch_or(self.bits, Ordering::SeqCst);
            self.set.raise(self.level, self.index);
        }
    }
}

/// Word number `word` of a level whose first `filled` bits are set.
fn filled_word(filled: usize, word: usize) -> u64 {
    let bits = filled.saturating_sub(word * BITS).min(BITS);
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}

impl std::fmt::Debug for IndexSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IndexSet({} of {})", self.len(), self.capacity)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn capacities_around_word_borders() {
        for capacity in [0, 1, 63, 64, 65, 4095, 4096, 4097, 262_145] {
            let set = IndexSet::full(capacity);
            assert!(set.levels_agree());
            assert_eq!(set.len(), capacity);
            let mut seen = Vec::new();
            set.drain(|index| seen.push(index));
            assert!(seen.iter().copied().eq(0..capacity), "capacity {capacity}");
            assert!(set.is_empty() && set.take().is_none());
            if let Some(last) = capacity.checked_sub(1) {
                assert!(set.insert(last) && !set.insert(last) && set.contains(last));
                assert_eq!(set.len(), 1);
                assert_eq!(set.take(), Some(last));
            }
            assert!(!set.contains(capacity) && !set.remove(capacity));
        }
    }

    #[test]
    fn the_largest_set_takes_its_last_member_by_levels() {
        let set = IndexSet::empty(IndexSet::CAPACITY_MAX);
        assert!(set.insert(IndexSet::CAPACITY_MAX - 1));
        assert!(matches!(set.walk(), Walk::Taken(index) if index == IndexSet::CAPACITY_MAX - 1));
        assert!(set.levels_agree() && set.is_empty());
    }

    #[test]
    #[should_panic(expected = "at most 2^24")]
    fn a_capacity_above_the_limit_panics() {
        let _ = IndexSet::empty(IndexSet::CAPACITY_MAX + 1);
    }

    #[test]
    #[should_panic(expected = "index 5 of a set of 5")]
    fn an_index_above_the_capacity_panics() {
        IndexSet::empty(5).insert(5);
    }

    #[test]
    fn a_panic_in_a_sweep_puts_the_rest_back() {
        let set = IndexSet::full(5000);
        let mut given = 0;
        let swept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            set.drain(|_| {
                given += 1;
                assert!(given < 100, "the hundredth is one too many");
            });
        }));
        assert!(swept.is_err());
        assert!(set.levels_agree());
        let mut rest = 0;
        set.drain(|_| rest += 1);
        assert_eq!(given + rest, 5000);
    }

    #[test]
    fn a_random_history_agrees_with_an_ordinary_set() {
        let set = IndexSet::empty(300);
        let mut oracle = std::collections::BTreeSet::new();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..20_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let index = (state >> 8) as usize % 300;
            match state % 3 {
                0 => assert_eq!(set.insert(index), oracle.insert(index)),
                1 => assert_eq!(set.remove(index), oracle.remove(&index)),
                _ => assert_eq!(set.take(), oracle.pop_first()),
            }
            assert_eq!(set.len(), oracle.len());
        }
        assert!(set.levels_agree());
    }

    #[test]
    fn threads_lose_and_double_nothing() {
        let set = IndexSet::full(130);
        let owned: Vec<_> = (0..130).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let index = set.take().expect("four threads never hold 130 members");
                        assert_eq!(owned[index].swap(1, Ordering::SeqCst), 0);
                        owned[index].store(0, Ordering::SeqCst);
                        assert!(set.insert(index));
                    }
                });
            }
        });
        assert_eq!(set.len(), 130);
        assert!(set.levels_agree());
        let mut seen = Vec::new();
        set.drain(|index| seen.push(index));
        assert!(seen.into_iter().eq(0..130));
    }
}
