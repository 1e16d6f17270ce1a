//! Free slots, and who waits for one.
//!
//! # Design
//!
//! Taking and returning touch only the [`IndexSet`]. A waiter queues under a lock, publishes the
//! queue's length in `waiting`, and *then* tries to take once more; a return inserts its slot and
//! *then* reads `waiting`. Both sides write first and read second with `SeqCst`, so either the
//! waiter finds the slot or the return finds the waiter: no wake is lost.
//!
//! A return wakes the longest waiting one by taking it out of the queue. It does not hand it the
//! slot, so a slot is never parked with a task that may not run. Whoever was woken and does not use
//! it (its future was dropped, or it had found a slot already) wakes the next. Whoever was woken
//! and finds the slot gone queues again with its old ticket, that is, in its old place.
//!
//! Waker code (clone, wake, drop) is the user's; it runs without the lock.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::index_set::IndexSet;
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, model_fence};

/// A waiter's place: lower is earlier. `None` while it does not wait.
pub(crate) type Ticket = Option<u64>;

pub(crate) struct Pool {
    free: IndexSet,
    /// The queue's length, written only under its lock.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

struct Queue {
    next_ticket: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Pool {
    /// A pool with all of `slots` free.
    pub(crate) fn full(slots: usize) -> Self {
        Self {
            free: IndexSet::full(slots),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue { next_ticket: 0, wakers: BTreeMap::new() }),
        }
    }

    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn has_available(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn acquire(&self) -> Option<usize> {
        self.free.take()
    }

    /// Returns a slot; wakes one waiter if there is any.
    pub(crate) fn release(&self, slot: usize) {
        self.free.insert(slot);
        model_fence();
        if self.waiting.load(Ordering::SeqCst) != 0 {
            self.wake_one();
        }
    }

    /// Takes a slot or queues `waker`; the ticket belongs to the caller until [`Pool::cancel`].
    pub(crate) fn poll_acquire(&self, ticket: &mut Ticket, waker: &Waker) -> Option<usize> {
        let first = ticket.is_none() && self.waiting.load(Ordering::SeqCst) == 0;
        if first && let Some(slot) = self.acquire() {
            return Some(slot);
        }
        self.enqueue(ticket, waker.clone());
        model_fence();
        let slot = self.acquire()?;
        self.cancel(ticket);
        Some(slot)
    }

    /// Ends a wait. If a wake had been spent on it, the next waiter gets it.
    pub(crate) fn cancel(&self, ticket: &mut Ticket) {
        let Some(number) = ticket.take() else { return };
        let mut queue = self.lock();
        let waker = queue.wakers.remove(&number);
        self.waiting.store(queue.wakers.len(), Ordering::SeqCst);
        drop(queue);
        if waker.is_none() && self.has_available() {
            self.wake_one();
        }
    }

    fn enqueue(&self, ticket: &mut Ticket, waker: Waker) {
        let mut queue = self.lock();
        let number = *ticket.get_or_insert(queue.next_ticket);
        queue.next_ticket = queue.next_ticket.max(number + 1);
        let replaced = queue.wakers.insert(number, waker);
        self.waiting.store(queue.wakers.len(), Ordering::SeqCst);
        drop(queue);
        drop(replaced);
    }

    fn wake_one(&self) {
        let mut queue = self.lock();
        let first = queue.wakers.pop_first();
        self.waiting.store(queue.wakers.len(), Ordering::SeqCst);
        drop(queue);
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }

    /// No code of the user runs under the lock, so a poisoned one is still consistent.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
