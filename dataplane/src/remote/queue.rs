//! The bounded queue under the inbox and under messages: many producers, one consumer, lock-free.
//!
//! A ring of cells, each with a sequence word that says whose turn it is (the scheme of Dmitry
//! Vyukov's bounded queue, <https://www.1024cores.net>, with one consumer).
//!
//! # Positions
//!
//! Pushes are numbered by *positions*. The low bits of a position name the cell, the high bits the
//! lap, so any capacity has an exact bound; `next` of the last cell is the first of the next lap.
//! A lap is at least 2 wide, so for a position `p` of a cell these are four different words:
//!
//! ```text
//!   sequence of the cell      what it means                       who may touch the value
//!   p                         free for p, or claimed for it       who claimed p, once one has
//!   p + 1                     published at p                      the consumer
//!   p + lap                   taken: free for the next lap        who claims p + lap
//!   ABANDONED                 closed before p was published       who claimed p
//! ```
//!
//! * A producer **claims** the position that `tail` names, if its cell is free for it, by a
//!   compare-and-swap that moves `tail` on; writes the value; **publishes** it with a
//!   compare-and-swap of the sequence from `p` to `p + 1` (release).
//! * The consumer looks at the cell its `head` names. Published: it takes the value, sets the
//!   sequence to `p + lap` (release), and moves on. Anything else is an empty queue.
//! * Closing sets a bit in `tail`, after which no claim succeeds, and then everything up to `tail`
//!   is taken or, where it was claimed and not yet published, marked ABANDONED.
//!
//! # Why it holds
//!
//! *One producer per position.* `tail` only moves by compare-and-swap, and every success is the
//! one that left the position behind: two producers never claim the same one.
//!
//! *The value is touched by one thread at a time.* Who claims `p` saw the sequence at `p` with
//! acquire: the release of the consumer that took the lap before, so that taking is over. The
//! consumer reads a value only after it saw `p + 1` with acquire, so writing is over. Between the
//! claim and the publication the sequence is still `p`, which lets nobody in: another producer
//! finds that `tail` has moved, the consumer that it is not published.
//!
//! *Full is really full.* A cell whose sequence is below the position of `tail` holds a value of
//! the lap before, claimed or published, and `capacity` positions are taken. (A sequence may be
//! read late. But a producer that knows by whatever way that a value was taken sees the cell
//! free, since taking happened before.)
//!
//! *Nothing is lost on closing.* `tail` is one word, so each claim is before the closing bit or
//! fails by it. For each claim before it either the publication or ABANDONED comes first in the
//! cell's sequence, and both are read-modify-writes: the producer that loses takes its value back
//! out and returns it as refused, the consumer that loses takes the value.
//!
//! # Nobody waits
//!
//! A push ends after a bounded number of its own steps unless *other pushes succeed* meanwhile:
//! the compare-and-swap of `tail` fails only for that reason. A full queue hands the value back at
//! once. A producer that is stopped between claim and publication (descheduled, or a signal
//! handler ran on top of it) holds up what was claimed after it, and no push: the consumer treats
//! its cell as empty, and the producer announces *after* publishing (see the head of `waker.rs`),
//! so the consumer looks again when the cell is there. Hence pushing a value that needs no drop is
//! async-signal-safe (signal-safety(7)): no lock, no allocation, no waiting, also when the handler
//! interrupts a push or the consumer itself.
//!
//! # Threads
//!
//! Push and close: any thread. Taking: one at a time, which the guard [`Consumer`] keeps.
//!
//! # Limits
//!
//! Positions have 63 bits and do not wrap in practice: at a push a nanosecond they would after
//! more than a century.
//!
//! # Unsafe
//!
//! The values lie in cells that the sequence words hand from one thread to another.

#![allow(unsafe_code)]

use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::mem::MaybeUninit;

/// In `tail`: no claim succeeds any more.
const CLOSED: u64 = 1 << 63;
/// As a sequence: the queue closed before the claimed position was published.
const ABANDONED: u64 = u64::MAX;

/// Why a value was not taken; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotPushed<T> {
    /// As many values as may be are in the queue.
    Full(T),
    /// The queue is closed.
    Closed(T),
}

struct Slot<T> {
    sequence: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

/// On cache lines of its own: two, since processors fetch them in pairs.
#[repr(align(128))]
struct Apart<T>(T);

/// See the head of this file.
pub(crate) struct Queue<T> {
    /// The position of the next claim, and [`CLOSED`].
    tail: Apart<AtomicU64>,
    /// The position of the next value to take. Written by the consumer alone.
    head: Apart<AtomicU64>,
    /// Somebody is taking.
    taking: AtomicBool,
    slots: Box<[Slot<T>]>,
    /// The distance of two positions of one cell: a power of two, greater than the capacity.
    lap: u64,
}

// SAFETY: a value moves from the thread that pushes it to the one that takes it, and no two threads
// touch it at once (see the head of this file).
unsafe impl<T: Send> Send for Queue<T> {}
// SAFETY: as above; no reference to a value is ever shared.
unsafe impl<T: Send> Sync for Queue<T> {}

impl<T> Queue<T> {
    /// For `capacity` values, at least one.
    pub(crate) fn new(capacity: usize) -> Queue<T> {
        let capacity = capacity.max(1) as u64;
        let slot = |position| Slot {
            sequence: AtomicU64::new(position),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        };
        Queue {
            tail: Apart(AtomicU64::new(0)),
            head: Apart(AtomicU64::new(0)),
            taking: AtomicBool::new(false),
            slots: (0..capacity).map(slot).collect(),
            lap: (capacity + 1).next_power_of_two(),
        }
    }

    /// How many values it holds at most.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, position: u64) -> &Slot<T> {
        &self.slots[(position & (self.lap - 1)) as usize]
    }

    /// The position after this one.
    fn next(&self, position: u64) -> u64 {
        match (position & (self.lap - 1)) + 1 < self.slots.len() as u64 {
            true => position + 1,
            false => (position & !(self.lap - 1)) + self.lap,
        }
    }

    /// Adds a value. Any thread, never waits; see the head of this file for signal handlers.
    ///
    /// # Errors
    ///
    /// The value comes back when the queue is full or closed.
    pub(crate) fn push(&self, value: T) -> Result<(), NotPushed<T>> {
        let mut tail = self.tail.0.load(Ordering::Relaxed);
        let slot = loop {
            if tail & CLOSED != 0 {
                return Err(NotPushed::Closed(value));
            }
            let slot = self.slot(tail);
            // Acquire: the value that was here before has been taken out.
            let sequence = slot.sequence.load(Ordering::Acquire);
            if sequence < tail {
                return Err(NotPushed::Full(value));
            }
            if sequence > tail {
                // Others have moved on, also by closing; what they did is visible now.
                tail = self.tail.0.load(Ordering::Relaxed);
                continue;
            }
            let next = self.next(tail);
            // Relaxed: the sequences pass the values on, this only numbers them.
            match self.tail.0.compare_exchange_weak(
                tail,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break slot,
                Err(newer) => tail = newer,
            }
        };
        // SAFETY: the position is claimed by this thread alone, and the value before is out.
        slot.value.with_mut(|place| unsafe { (*place).write(value) });
        // Release: who sees it published sees the value.
        match slot.sequence.compare_exchange(tail, tail + 1, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            // SAFETY: written just above. The closing consumer abandoned the cell without looking
            // into it, and nobody else comes here any more.
            Err(_) => Err(NotPushed::Closed(
                slot.value.with(|place| unsafe { (*place).assume_init_read() }),
            )),
        }
    }

    /// Whether a push would find no room just now.
    #[cfg(not(loom))]
    pub(crate) fn is_full(&self) -> bool {
        let tail = self.tail.0.load(Ordering::Relaxed) & !CLOSED;
        self.slot(tail).sequence.load(Ordering::Relaxed) < tail
    }

    /// Whether everything that was claimed has been taken.
    #[cfg(not(loom))]
    pub(crate) fn is_empty(&self) -> bool {
        let head = self.head.0.load(Ordering::Relaxed);
        self.tail.0.load(Ordering::Relaxed) & !CLOSED == head
    }

    /// The right to take values. None: somebody has it.
    pub(crate) fn consumer(&self) -> Option<Consumer<'_, T>> {
        // Acquire: `head` and the cells are as the consumer before left them.
        match self.taking.swap(true, Ordering::Acquire) {
            false => Some(Consumer { queue: self }),
            true => None,
        }
    }

    /// No push succeeds from here on. What is in the queue stays, to be taken by
    /// [`Consumer::pop`].
    pub(crate) fn close(&self) {
        self.tail.0.fetch_or(CLOSED, Ordering::Relaxed);
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        // Nobody is left to claim or to take; a cell not published holds nothing.
        self.close();
        if let Some(mut consumer) = self.consumer() {
            while let Some(value) = consumer.pop() {
                drop(value);
            }
        }
    }
}

/// Takes values out, in the order of their claims. One at a time exists.
pub(crate) struct Consumer<'a, T> {
    queue: &'a Queue<T>,
}

impl<T> Consumer<'_, T> {
    /// The oldest value. None: the queue is empty, or its oldest value is not yet published. After
    /// closing None is final: whatever was not published by then has gone back to its producer.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let queue = self.queue;
        loop {
            // Relaxed: written under the guard alone, which orders it.
            let head = queue.head.0.load(Ordering::Relaxed);
            let slot = queue.slot(head);
            // Acquire: the value was written before it was published.
            if slot.sequence.load(Ordering::Acquire) != head + 1 {
                if !self.abandon(slot, head) {
                    return None;
                }
                continue;
            }
            // SAFETY: published, so written, and taken only here, by the one consumer.
            let value = slot.value.with(|place| unsafe { (*place).assume_init_read() });
            // Release: whoever claims this cell next finds the value taken out.
            slot.sequence.store(head + queue.lap, Ordering::Release);
            queue.head.0.store(queue.next(head), Ordering::Relaxed);
            return Some(value);
        }
    }

    /// The oldest cell was not published when it was looked at. False: no more to be had now.
    fn abandon(&self, slot: &Slot<T>, head: u64) -> bool {
        let queue = self.queue;
        let tail = queue.tail.0.load(Ordering::Relaxed);
        if tail & CLOSED == 0 || tail & !CLOSED == head {
            return false;
        }
        // Claimed before the end. Its producer publishes first, or finds this and takes the value
        // back; either way the cell is looked at once more.
        // Release: a producer that finds the mark finds the queue closed.
        let marked =
            slot.sequence.compare_exchange(head, ABANDONED, Ordering::Release, Ordering::Relaxed);
        if marked.is_ok() {
            queue.head.0.store(queue.next(head), Ordering::Relaxed);
        }
        true
    }
}

impl<T> Drop for Consumer<'_, T> {
    fn drop(&mut self) {
        self.queue.taking.store(false, Ordering::Release);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn drain<T>(queue: &Queue<T>) -> Vec<T> {
        let mut consumer = queue.consumer().expect("nobody else takes");
        std::iter::from_fn(|| consumer.pop()).collect()
    }

    #[test]
    fn every_capacity_is_exact_over_many_laps() {
        for capacity in [1, 2, 3, 4, 5, 7, 8, 100] {
            let queue = Queue::new(capacity);
            assert_eq!(queue.capacity(), capacity);
            for lap in 0..50 {
                let values: Vec<usize> = (0..capacity).map(|i| lap * 1000 + i).collect();
                values.iter().for_each(|&value| queue.push(value).expect("room"));
                assert_eq!(queue.push(9), Err(NotPushed::Full(9)), "capacity {capacity}");
                assert_eq!(drain(&queue), values);
                assert!(drain(&queue).is_empty());
                // Half a lap: the next one starts in the middle.
                (0..capacity / 2).for_each(|value| queue.push(value).expect("room"));
                assert_eq!(drain(&queue).len(), capacity / 2);
            }
        }
    }

    #[test]
    fn a_capacity_of_none_is_one() {
        let queue = Queue::new(0);
        queue.push(1).expect("room for one");
        assert_eq!(queue.push(2), Err(NotPushed::Full(2)));
    }

    #[test]
    fn one_consumer_at_a_time() {
        let queue = Queue::<u8>::new(4);
        let consumer = queue.consumer();
        assert!(consumer.is_some() && queue.consumer().is_none());
        drop(consumer);
        assert!(queue.consumer().is_some());
    }

    #[test]
    fn a_closed_queue_hands_back_and_keeps_what_it_has() {
        let queue = Queue::new(4);
        queue.push(1).expect("room");
        queue.close();
        queue.close();
        assert_eq!(queue.push(2), Err(NotPushed::Closed(2)));
        assert_eq!(drain(&queue), [1]);
        assert_eq!(queue.push(3), Err(NotPushed::Closed(3)));
        assert!(drain(&queue).is_empty());
    }

    #[test]
    fn what_is_left_is_dropped_once() {
        let value = Arc::new(());
        let queue = Queue::new(4);
        for _ in 0..3 {
            queue.push(value.clone()).expect("room");
        }
        drop(queue.consumer().and_then(|mut consumer| consumer.pop()));
        assert_eq!(Arc::strong_count(&value), 3);
        drop(queue);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    /// A producer stopped between claim and publication, as in a signal handler's way.
    #[test]
    fn a_claimed_cell_is_empty_to_the_consumer_and_in_nobodys_way() {
        let queue = Queue::new(3);
        let claimed = queue.tail.0.load(Ordering::Relaxed);
        queue.tail.0.store(queue.next(claimed), Ordering::Relaxed);
        queue.push(7).expect("the next cell");
        assert!(drain(&queue).is_empty(), "the oldest is not there yet");
        queue.push(8).expect("and the next");
        assert_eq!(queue.push(9), Err(NotPushed::Full(9)), "a claimed cell counts");
        queue.slot(claimed).value.with_mut(|place| {
            // SAFETY: claimed above.
            unsafe { (*place).write(6) };
        });
        queue.slot(claimed).sequence.store(claimed + 1, Ordering::Release);
        assert_eq!(drain(&queue), [6, 7, 8]);
    }

    #[test]
    fn closing_passes_over_what_is_claimed() {
        let queue = Queue::new(3);
        let claimed = queue.tail.0.load(Ordering::Relaxed);
        queue.tail.0.store(queue.next(claimed), Ordering::Relaxed);
        queue.push(7).expect("the next cell");
        queue.close();
        assert_eq!(drain(&queue), [7]);
        assert_eq!(queue.slot(claimed).sequence.load(Ordering::Relaxed), ABANDONED);
        assert_eq!(queue.push(8), Err(NotPushed::Closed(8)));
    }

    #[test]
    fn threads_keep_their_order_and_lose_nothing() {
        const EACH: u64 = 20_000;
        let queue = Arc::new(Queue::new(7));
        let threads: Vec<_> = (0..3u64)
            .map(|thread| {
                let queue = queue.clone();
                std::thread::spawn(move || {
                    for count in 0..EACH {
                        while queue.push((thread, count)).is_err() {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 3];
        while next != [EACH; 3] {
            let taken = drain(&queue);
            if taken.is_empty() {
                std::thread::yield_now();
            }
            for (thread, count) in taken {
                assert_eq!(count, next[thread as usize], "in order per thread");
                next[thread as usize] += 1;
            }
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

/// Models. loom's cell fails a model in which two threads touch one value without an order between
/// them, and one that ends with a value neither taken nor handed back is found by counting.
#[cfg(test)]
#[cfg(loom)]
mod loom_models {
    use super::*;
    use crate::sync::Arc;
    use loom::thread;

    fn check(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    /// Boxed, so that a value dropped twice or not at all is found too.
    type Model = Arc<Queue<Box<usize>>>;

    fn push(queue: &Model, value: usize) -> thread::JoinHandle<Option<NotPushed<usize>>> {
        let queue = queue.clone();
        thread::spawn(move || match queue.push(Box::new(value)) {
            Ok(()) => None,
            Err(NotPushed::Full(value)) => Some(NotPushed::Full(*value)),
            Err(NotPushed::Closed(value)) => Some(NotPushed::Closed(*value)),
        })
    }

    fn drain(queue: &Model) -> Vec<usize> {
        let mut consumer = queue.consumer().expect("nobody else takes");
        std::iter::from_fn(|| consumer.pop()).map(|value| *value).collect()
    }

    #[test]
    fn two_producers_and_a_consumer() {
        check(|| {
            let queue: Model = Arc::new(Queue::new(2));
            let threads = [push(&queue, 1), push(&queue, 2)];
            let mut taken = drain(&queue);
            for thread in threads {
                assert_eq!(thread.join().unwrap(), None, "there is room for both");
            }
            taken.extend(drain(&queue));
            taken.sort();
            assert_eq!(taken, [1, 2]);
        });
    }

    /// Cells are used again while others push: the lap is what keeps them apart.
    #[test]
    fn a_full_queue_hands_back_and_its_cell_comes_again() {
        check(|| {
            let queue: Model = Arc::new(Queue::new(1));
            queue.push(Box::new(0)).unwrap();
            let threads = [push(&queue, 1), push(&queue, 2)];
            let mut taken = drain(&queue);
            let mut refused = Vec::new();
            for thread in threads {
                match thread.join().unwrap() {
                    None => {}
                    Some(NotPushed::Full(value)) => refused.push(value),
                    Some(NotPushed::Closed(_)) => panic!("nobody closed it"),
                }
            }
            taken.extend(drain(&queue));
            assert_eq!(taken[0], 0);
            assert!(!refused.contains(&0));
            taken.extend(refused);
            taken.sort();
            assert_eq!(taken, [0, 1, 2], "taken or handed back, each once");
        });
    }

    /// One after the other from one thread: taken in that order.
    #[test]
    fn one_producers_values_keep_their_order() {
        check(|| {
            let queue: Model = Arc::new(Queue::new(3));
            let first = {
                let queue = queue.clone();
                thread::spawn(move || {
                    queue.push(Box::new(1)).unwrap();
                    queue.push(Box::new(2)).unwrap();
                })
            };
            let second = push(&queue, 9);
            let mut taken = drain(&queue);
            first.join().unwrap();
            assert_eq!(second.join().unwrap(), None);
            taken.extend(drain(&queue));
            taken.retain(|value| *value != 9);
            assert_eq!(taken, [1, 2]);
        });
    }

    #[test]
    fn closing_takes_or_hands_back_each_value_once() {
        check(|| {
            let queue: Model = Arc::new(Queue::new(2));
            let threads = [push(&queue, 1), push(&queue, 2)];
            queue.close();
            let mut seen = drain(&queue);
            assert!(queue.push(Box::new(3)).is_err());
            for thread in threads {
                match thread.join().unwrap() {
                    None => {}
                    Some(NotPushed::Closed(value)) => seen.push(value),
                    Some(NotPushed::Full(_)) => panic!("there is room for both"),
                }
            }
            seen.sort();
            assert_eq!(seen, [1, 2], "taken or handed back, each once");
            assert!(drain(&queue).is_empty(), "the end is final");
        });
    }
}
