//! The deadline queue: which key expires next.
//!
//! One per proactor, used on its thread alone. Timers, per-operation timeouts and shutdown all
//! become entries here; the kernel sees only the earliest, as the timeout of the loop's wait.
//!
//! # Shape
//!
//! A 4-ary min-heap in one array, ordered by (time, order of insertion), and beside it an array
//! that says for each key where in the heap it stands. That makes removal, which is what happens
//! to nearly every timeout, O(log n) without a search and without tombstones. Four children share
//! two cache lines, and the heap is half as deep as a binary one.
//!
//! # Units and limits
//!
//! Times are nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)), which is also the clock of
//! [`Instant`] on Linux. Keys are small dense integers (slot indexes): the position array has an
//! entry for every key up to the largest one ever inserted. Nothing is allocated once the largest
//! key and the largest number of entries have been reached.

use std::sync::LazyLock;
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

/// Children per node.
const ARITY: usize = 4;
/// In `positions`: this key has no deadline.
const ABSENT: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at_ns: u64,
    /// Counts insertions, so that equal times expire first come, first served.
    order: u64,
    key: u32,
}

/// The deadline of what has none, whatever the proactor's default.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// An indexed heap of deadlines, at most one per key.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    heap: Vec<Entry>,
    /// `heap[positions[key]].key == key`, or `ABSENT`.
    positions: Vec<u32>,
    inserted: u64,
}

impl Deadlines {
    /// Room for keys `0..keys`, all of them at once, without a further allocation.
    pub(crate) fn with_keys(keys: usize) -> Self {
        Self { heap: Vec::with_capacity(keys), positions: vec![ABSENT; keys], inserted: 0 }
    }

    /// Sets the deadline of `key`, replacing an earlier one. A replaced deadline counts as
    /// inserted now, behind others of the same time.
    pub(crate) fn insert(&mut self, key: u32, at_ns: u64) {
        let entry = Entry { at_ns, order: self.inserted, key };
        self.inserted += 1;
        if key as usize >= self.positions.len() {
            self.positions.resize(key as usize + 1, ABSENT);
        }
        match self.positions[key as usize] {
            ABSENT => {
                self.heap.push(entry);
                self.settle(self.heap.len() - 1, entry);
            }
            position => self.settle(position as usize, entry),
        }
    }

    /// Forgets the deadline of `key`. False: it had none, or it has expired.
    pub(crate) fn remove(&mut self, key: u32) -> bool {
        match self.positions.get(key as usize) {
            None | Some(&ABSENT) => false,
            Some(&position) => {
                self.take(position as usize);
                true
            }
        }
    }

    /// The deadline of `key`.
    pub(crate) fn at_ns(&self, key: u32) -> Option<u64> {
        let position = *self.positions.get(key as usize)?;
        self.heap.get(position as usize).map(|entry| entry.at_ns)
    }

    /// When the next one expires.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.at_ns)
    }

    /// Takes the earliest key whose time is `now_ns` or before.
    pub(crate) fn pop_expired(&mut self, now_ns: u64) -> Option<u32> {
        let first = *self.heap.first()?;
        if first.at_ns > now_ns {
            return None;
        }
        self.take(0);
        Some(first.key)
    }

    /// How many keys have a deadline.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Takes the entry at `position` out and closes the gap with the last one.
    fn take(&mut self, position: usize) {
        let gone = self.heap.swap_remove(position);
        self.positions[gone.key as usize] = ABSENT;
        if let Some(&moved) = self.heap.get(position) {
            self.settle(position, moved);
        }
    }

    /// Puts `entry` where it belongs, starting from the hole at `position`.
    fn settle(&mut self, position: usize, entry: Entry) {
        let risen = self.rise(position, entry);
        let at = if risen == position { self.sink(position, entry) } else { risen };
        self.place(at, entry);
    }

    /// Moves the hole up past every parent that is later than `entry`.
    fn rise(&mut self, mut hole: usize, entry: Entry) -> usize {
        while hole > 0 {
            let parent = (hole - 1) / ARITY;
            if self.heap[parent] < entry {
                break;
            }
            self.place(hole, self.heap[parent]);
            hole = parent;
        }
        hole
    }

    /// Moves the hole down past every child that is earlier than `entry`.
    fn sink(&mut self, mut hole: usize, entry: Entry) -> usize {
        loop {
            let first = hole * ARITY + 1;
            let children = first..self.heap.len().min(first + ARITY);
            match children.min_by_key(|&child| self.heap[child]) {
                Some(child) if self.heap[child] < entry => {
                    self.place(hole, self.heap[child]);
                    hole = child;
                }
                _ => return hole,
            }
        }
    }

    fn place(&mut self, position: usize, entry: Entry) {
        self.heap[position] = entry;
        // A heap has at most one entry per u32 key, so a position fits.
        self.positions[entry.key as usize] = position as u32;
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, the time of every deadline.
pub(crate) fn now_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// The same clock as of the last timer tick: cheaper, and up to a tick (1 to 10 ms) behind
/// [`now_ns`], never ahead. Good enough to skip work, not to expire a deadline.
pub(crate) fn coarse_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn read_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux always has its monotonic clocks");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// The deadline that `at` stands for. A time before the process's first deadline becomes that, one
/// beyond the clock's range its end (584 years). Never earlier than `at`, later only by the time
/// between two readings of the clock, and always by the same: equal instants stay equal.
pub(crate) fn instant_to_ns(at: Instant) -> u64 {
    /// One moment in both clocks: the closest of several readings, as a thread may lose its
    /// processor between two.
    static BASE: LazyLock<(Instant, u64)> = LazyLock::new(|| {
        let reading = |_| {
            let before_ns = now_ns();
            let instant = Instant::now();
            // The later reading: this errs towards late, and a deadline must not be early.
            let after_ns = now_ns();
            (after_ns - before_ns, (instant, after_ns))
        };
        let closest = (0..16).map(reading).min_by_key(|(gap_ns, _)| *gap_ns);
        closest.expect("sixteen readings").1
    });
    let (instant, ns) = *BASE;
    let ahead = at.saturating_duration_since(instant);
    ns.saturating_add(u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    struct XorShift(u64);

    impl XorShift {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }
    }

    fn assert_indexed(deadlines: &Deadlines) {
        for (position, entry) in deadlines.heap.iter().enumerate() {
            assert_eq!(deadlines.positions[entry.key as usize] as usize, position);
            assert!(position == 0 || deadlines.heap[(position - 1) / ARITY] < *entry);
        }
        let present = deadlines.positions.iter().filter(|&&at| at != ABSENT).count();
        assert_eq!(present, deadlines.len());
    }

    #[test]
    fn equal_times_expire_in_order_of_insertion() {
        let mut deadlines = Deadlines::default();
        for key in [5, 1, 9, 3, 7, 0, 2] {
            deadlines.insert(key, 100);
        }
        deadlines.insert(5, 100);
        let expired: Vec<_> = std::iter::from_fn(|| deadlines.pop_expired(100)).collect();
        assert_eq!(expired, [1, 9, 3, 7, 0, 2, 5]);
    }

    #[test]
    fn nothing_expires_before_its_time_and_nothing_twice() {
        let mut deadlines = Deadlines::with_keys(4);
        deadlines.insert(3, 10);
        deadlines.insert(3, 20);
        assert_eq!((deadlines.len(), deadlines.next_ns()), (1, Some(20)));
        assert_eq!(deadlines.pop_expired(19), None);
        assert_eq!(deadlines.pop_expired(20), Some(3));
        assert_eq!(deadlines.pop_expired(u64::MAX), None);
        assert!(!deadlines.remove(3));
        assert!(!deadlines.remove(1_000_000), "a key never seen");
        assert_eq!((deadlines.len(), deadlines.next_ns()), (0, None));
    }

    #[test]
    fn behaves_like_a_sorted_map() {
        const KEYS: u64 = 300;
        for seed in 1..=8_u64 {
            let mut random = XorShift(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut deadlines = Deadlines::default();
            let mut model: BTreeMap<(u64, u64), u32> = BTreeMap::new();
            let mut by_key: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            for order in 0..20_000 {
                let key = random.below(KEYS) as u32;
                let time = random.below(1_000);
                match random.below(8) {
                    0..=3 => {
                        deadlines.insert(key, time);
                        if let Some(old) = by_key.insert(key, (time, order)) {
                            model.remove(&old);
                        }
                        model.insert((time, order), key);
                    }
                    4..=5 => {
                        let old = by_key.remove(&key).and_then(|old| model.remove(&old));
                        assert_eq!(deadlines.remove(key), old.is_some(), "seed {seed}");
                    }
                    _ => {
                        let due = model.first_key_value().filter(|((at, _), _)| *at <= time);
                        let due = due.map(|(at, key)| (*at, *key));
                        if let Some((at, key)) = due {
                            model.remove(&at);
                            by_key.remove(&key);
                        }
                        let expected = due.map(|(_, key)| key);
                        assert_eq!(deadlines.pop_expired(time), expected, "seed {seed}");
                    }
                }
                assert_eq!(deadlines.next_ns(), model.keys().next().map(|(at, _)| *at));
                assert_eq!(deadlines.len(), model.len());
                if order % 64 == 0 {
                    assert_indexed(&deadlines);
                }
            }
        }
    }

    #[test]
    fn steady_state_allocates_nothing() {
        let mut deadlines = Deadlines::with_keys(64);
        let room = (deadlines.heap.capacity(), deadlines.positions.capacity());
        let mut random = XorShift(7);
        for _ in 0..10_000 {
            deadlines.insert(random.below(64) as u32, random.below(1_000));
            deadlines.pop_expired(random.below(500));
        }
        assert_eq!((deadlines.heap.capacity(), deadlines.positions.capacity()), room);
    }

    #[test]
    fn the_clocks_agree() {
        let before = now_ns();
        assert!(coarse_ns() <= now_ns(), "the coarse clock is never ahead");
        assert!(before <= now_ns());
    }

    #[test]
    fn an_instant_becomes_its_own_time() {
        let (hour, hour_ns) = (Duration::from_secs(3600), 3_600_000_000_000);
        let earliest = now_ns();
        let start = Instant::now();
        let future = instant_to_ns(start + hour);
        let past = instant_to_ns(start);
        let latest = now_ns();
        assert!((earliest + hour_ns..=latest + hour_ns).contains(&future));
        assert!((earliest..=latest).contains(&past), "the past is now");
        assert_eq!(instant_to_ns(start + hour), future, "equal instants stay equal");
    }
}
