//! Everybody who waits for one semaphore, in the order of the values they wait for.
//!
//! The set is a B-tree keyed by (value, sequence): those whom a signal releases are at its front,
//! so a signal looks at these and at one more, however many wait for later values; equal values
//! are released in the order of arrival; a cancel finds its entry by key in O(log n). The owner is
//! the semaphore's lock. Nothing in here runs user code while that lock is held: what is taken
//! out is handed to the caller, who tells it, or drops it, after unlocking (dropping a waker or a
//! callback is user code too).

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Waker;

use crate::error::Failure;
use crate::semaphore::all_any::Group;

/// What a waiter is told: the value seen, at or above the one wanted, or why it never comes.
pub(crate) type Outcome = Result<u64, Failure>;

/// The name of one waiter in its semaphore; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    value: u64,
    sequence: u64,
}

impl Key {
    /// The value waited for.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        #[cfg(test)]
        count::comparison();
        (self.value, self.sequence).cmp(&(other.value, other.sequence))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Who is to be told.
pub(crate) enum Waiter {
    /// A task that polls again. It reads the outcome from the semaphore.
    Task(Waker),
    /// A function that takes the outcome.
    Callback(Box<dyn FnOnce(Outcome) + Send>),
    /// One of the semaphores of a wait for several, by its position there.
    Member(Arc<Group>, usize),
}

impl Waiter {
    /// Tells the outcome. This is user code: no lock may be held, and it may panic.
    pub(crate) fn tell(self, outcome: Outcome) {
        match self {
            Waiter::Task(waker) => waker.wake(),
            Waiter::Callback(callback) => callback(outcome),
            Waiter::Member(group, index) => group.settle(index, outcome),
        }
    }
}

/// The ordered set.
#[derive(Default)]
pub(crate) struct Waiters {
    entries: BTreeMap<Key, Waiter>,
    next_sequence: u64,
}

impl Waiters {
    /// Adds a waiter behind those that wait for the same value.
    pub(crate) fn insert(&mut self, value: u64, waiter: Waiter) -> Key {
        let key = Key { value, sequence: self.next_sequence };
        self.next_sequence += 1;
        self.entries.insert(key, waiter);
        key
    }

    /// Puts another waiter in the place of `key`'s, and hands back the one that was there.
    pub(crate) fn replace(&mut self, key: Key, waiter: Waiter) -> Option<Waiter> {
        self.entries.insert(key, waiter)
    }

    /// Takes a waiter out, unless it has been taken.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Waiter> {
        self.entries.remove(&key)
    }

    /// Whether anybody waits for `bound` or less.
    pub(crate) fn any_due(&self, bound: u64) -> bool {
        #[cfg(test)]
        count::visit();
        self.entries.first_key_value().is_some_and(|(key, _)| key.value <= bound)
    }

    /// Takes out the first of those who wait for `bound` or less.
    pub(crate) fn pop_due(&mut self, bound: u64) -> Option<(Key, Waiter)> {
        if self.any_due(bound) { self.entries.pop_first() } else { None }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The first panic of a round of user code, kept until everybody else has been told.
#[derive(Default)]
pub(crate) struct FirstPanic(Option<Box<dyn Any + Send>>);

impl FirstPanic {
    /// Runs user code; a panic in it ends here for now.
    pub(crate) fn catch(&mut self, user_code: impl FnOnce()) {
        let Err(payload) = catch_unwind(AssertUnwindSafe(user_code)) else { return };
        if self.0.is_none() {
            self.0 = Some(payload);
        } else if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            // A payload whose drop panics is nobody's to handle, and must not cost a wake.
            std::mem::forget(second);
        }
    }

    /// Goes on with the panic, if there was one.
    pub(crate) fn resume(self) {
        if let Some(payload) = self.0 {
            resume_unwind(payload);
        }
    }
}

/// What the set looked at, counted on this thread, so that tests measure steps and not time.
#[cfg(test)]
pub(crate) mod count {
    use std::cell::Cell;

    thread_local! {
        static COMPARISONS: Cell<u64> = const { Cell::new(0) };
        static VISITS: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn comparison() {
        COMPARISONS.set(COMPARISONS.get() + 1);
    }

    pub(super) fn visit() {
        VISITS.set(VISITS.get() + 1);
    }

    /// (key comparisons, looks at the front of the set) made while `work` ran.
    #[cfg(not(loom))]
    pub(crate) fn during(work: impl FnOnce()) -> (u64, u64) {
        let before = (COMPARISONS.get(), VISITS.get());
        work();
        (COMPARISONS.get() - before.0, VISITS.get() - before.1)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Semaphore;

    #[test]
    fn values_in_order_and_equals_in_order_of_arrival() {
        let mut waiters = Waiters::default();
        let waiter = || Waiter::Task(Waker::noop().clone());
        let keys: Vec<Key> = [5, 1, 5, 3].map(|value| waiters.insert(value, waiter())).into();
        assert!(!waiters.any_due(0));
        assert!(waiters.remove(keys[3]).is_some());
        assert!(waiters.remove(keys[3]).is_none());
        let mut order = Vec::new();
        while let Some((key, _)) = waiters.pop_due(5) {
            order.push(key);
        }
        assert_eq!(order, [keys[1], keys[0], keys[2]]);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn the_first_panic_wins_and_comes_back() {
        let mut first = FirstPanic::default();
        let mut ran = 0;
        for number in 0..3 {
            first.catch(|| {
                ran += 1;
                std::panic::panic_any(number);
            });
        }
        let caught = catch_unwind(AssertUnwindSafe(|| first.resume())).unwrap_err();
        assert_eq!((ran, *caught.downcast::<i32>().unwrap()), (3, 0));
    }
    /// What signals that release nobody look at, with `others` waiting for later values, and what
    /// the cancel of one of these compares.
    fn steps(others: u64) -> ((u64, u64), (u64, u64)) {
        let semaphore = Semaphore::new(0);
        let mut handles: Vec<_> =
            (0..others).map(|n| semaphore.on_reach(1_000_000 + n % 97, |_| ())).collect();
        let signals = count::during(|| {
            for value in 1..=100 {
                assert_eq!(semaphore.signal(value), Ok(()));
            }
        });
        let middle = handles.swap_remove(handles.len() / 2);
        let cancel = count::during(|| assert!(middle.cancel()));
        (signals, cancel)
    }

    #[test]
    fn a_signal_does_not_pay_for_those_it_does_not_release() {
        let (few, many) = (steps(1), steps(1 << 17));
        assert_eq!(few.0, (0, 100), "one look at the front for each signal, nothing compared");
        assert_eq!(many.0, few.0);
        // A B-tree of 2^17 entries, at least 6 to a node, is at most 7 levels of 11 keys.
        assert!(many.1.0 <= 77, "a cancel compared {} keys", many.1.0);
    }

    #[test]
    fn a_signal_looks_once_at_each_it_releases_and_at_one_more() {
        let semaphore = Semaphore::new(0);
        for value in 1..=1000 {
            semaphore.on_reach(value, |_| ());
        }
        // Once under the signal's own lock, then once for each of the ten, then at the eleventh.
        assert_eq!(count::during(|| semaphore.signal(10).unwrap()).1, 12);
    }
}
