//! How other threads, and signal handlers, reach a loop that may be asleep: the arm-and-recheck
//! word and the bell.
//!
//! The loop (the *owner*, one thread) sleeps in the kernel. Producers (any thread) put work into
//! a queue it drains; anyone, even a signal handler, may ask it to return from its wait. Each of
//! them would have to write to an eventfd every time, a system call per item, unless the owner
//! says when that is needed. [`WakeWord`] is where it says so, [`Bell`] is the eventfd.
//!
//! # The word
//!
//! ```text
//!   63                                                   2     1        0
//!  +------------------------------------------------------+--------+---------+
//!  |  sequence: announcements so far, wraps around        |  WAKE  |  ARMED  |
//!  +------------------------------------------------------+--------+---------+
//! ```
//!
//! * A producer queues its item **first**, then [`announce`](WakeWord::announce)s: one
//!   read-modify-write that advances the sequence. If that finds ARMED, a second one clears it, and
//!   who cleared it rings the bell: one of those that found it, and only then.
//! * Who wants the loop to return calls [`request_wake`](WakeWord::request_wake): sets WAKE and
//!   clears ARMED, and rings on the same terms.
//! * The owner, each turn, in this order: **clear** the bell if it was seen readable,
//!   [`observe`](WakeWord::observe) the word, **drain** the queue,
//!   [`take_wake`](WakeWord::take_wake), and, when it has nothing to do,
//!   [`arm`](WakeWord::arm) with what it observed. It sleeps only if that says so.
//!
//! # Why no wake is lost
//!
//! Everything is decided by one atomic variable, so all changes to it have one order, and a
//! read-modify-write always acts on the newest value. Take the change a producer made, A, and the
//! owner's successful `arm(seen)`.
//!
//! 1. *A is part of `seen`.* The owner read A, or a later change, with acquire, and A was written
//!    with release after the item was queued (the changes in between are all read-modify-writes,
//!    so they pass the release on). The drain, which comes after, finds the item.
//! 2. *A is not part of `seen`, and comes before the value `arm` acted on.* Then that value has
//!    another sequence than `seen`, and `arm` refuses: the owner looks again.
//! 3. *A comes after the value `arm` acted on.* That value has ARMED, set there or left from an
//!    earlier sleep. Either A finds it, and then A or another that found it clears it and rings;
//!    or it was cleared before A, by one that found it and rings. The bell is level-triggered and
//!    the owner clears it only before it observes, so the ring ends this sleep. (In the second
//!    case it may end it before A has happened; then A is case 1, 2 or 3 of the next turn, and the
//!    argument starts again.)
//!
//! Case 3 is why finding ARMED already set needs no read-modify-write and no fresh value: if what
//! `arm` loads is stale, one of those that made it stale found ARMED, and rings. Who clears ARMED
//! late may clear that of the next sleep, and ends it early, which is harmless. An undisturbed loop
//! (its own work keeps it busy, no other thread comes near) therefore pays a few plain loads per
//! turn. No fence is needed between arming and sleeping either: nothing is decided by a second
//! variable.
//!
//! A wake request is the same with WAKE for the sequence: `arm` refuses while it is set, and only
//! the owner clears it.
//!
//! # What it costs
//!
//! ARMED is left set when the owner wakes for another reason (a completion, its deadline): there
//! is at most one ring for each time it was set, and the ring that comes while the owner is awake
//! is the price of never having to clear it. Many wakes before one poll are one write.
//!
//! While the owner is awake an announcement is a single read-modify-write without a load before
//! it: the line is asked for once, to be written.
//!
//! Between the read-modify-write and its ring a producer can be descheduled. Others that come in
//! that gap do not ring, and wait with it. A producer that dies there takes its process along.
//!
//! # Limits
//!
//! The sequence has 62 bits and wraps. Confusing two values would take 2^62 announcements
//! between one `observe` and its `arm`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sync::atomic::{AtomicU64, Ordering};

/// The owner announced that it is going to sleep.
const ARMED: u64 = 1 << 0;
/// Somebody wants the owner to return from its wait.
const WAKE: u64 = 1 << 1;
/// One announcement: the sequence is everything from here up.
const ANNOUNCEMENT: u64 = 1 << 2;
/// The bits that hold the sequence.
const SEQUENCE: u64 = !(ARMED | WAKE);

/// The arm-and-recheck word between one sleeping owner and any number of producers.
#[derive(Debug)]
pub(crate) struct WakeWord(AtomicU64);

impl WakeWord {
    /// Nothing announced, nothing requested, nobody asleep.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A producer has queued something. True: it must ring the bell, now.
    ///
    /// Any thread; lock-free. Call it after the item can be seen in the queue.
    pub(crate) fn announce(&self) -> bool {
        // Release: what the caller did before is visible to an owner that sees this change.
        self.disarm(self.0.fetch_add(ANNOUNCEMENT, Ordering::Release))
    }

    /// The owner shall return from its wait, this one or else the next. True: the caller must
    /// ring the bell, now.
    ///
    /// Any thread, and signal handlers; lock-free. It is a read-modify-write even when WAKE is
    /// set already: a plain load could see a WAKE that the owner has taken since.
    pub(crate) fn request_wake(&self) -> bool {
        // Release: as above.
        self.disarm(self.0.fetch_or(WAKE, Ordering::Release))
    }

    /// After a change that found `word`: clears ARMED if it was set. True: by this call and not by
    /// another's.
    fn disarm(&self, word: u64) -> bool {
        word & ARMED != 0 && self.0.fetch_and(!ARMED, Ordering::Relaxed) & ARMED != 0
    }

    /// The owner's snapshot, to be taken before it drains the queue and handed to
    /// [`arm`](Self::arm) afterwards. One load.
    pub(crate) fn observe(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The owner is about to sleep. False: something was announced since `seen`, or a wake is
    /// requested, so it must look again. True: it may sleep, and who comes now rings.
    ///
    /// Owner only. One load when ARMED is still set from an earlier sleep.
    pub(crate) fn arm(&self, seen: u64) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & WAKE != 0 || (word ^ seen) & SEQUENCE != 0 {
                return false;
            }
            if word & ARMED != 0 {
                return true;
            }
            // Relaxed: the owner publishes nothing with it (see the head of this file).
            match self.0.compare_exchange_weak(
                word,
                word | ARMED,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(newer) => word = newer,
            }
        }
    }

    /// Takes a requested wake, if there is one. Owner only; one load when there is none.
    pub(crate) fn take_wake(&self) -> bool {
        if self.0.load(Ordering::Relaxed) & WAKE == 0 {
            return false;
        }
        // Acquire: what was done before any of the requests taken here is visible now.
        self.0.fetch_and(!WAKE, Ordering::Acquire) & WAKE != 0
    }
}

/// The eventfd that ends the owner's sleep. Level-triggered: readable from the first ring until
/// it is cleared, see eventfd(2). Close-on-exec and non-blocking.
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    /// # Errors
    ///
    /// EMFILE or ENFILE when descriptors have run out, ENOMEM, as eventfd(2) says.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Makes the bell readable: one write(2) of 8 bytes.
    ///
    /// Any thread, and signal handlers: it takes no lock, allocates nothing and leaves `errno` as
    /// it was (signal-safety(7)). A saturated counter is readable already and counts as success.
    ///
    /// # Errors
    ///
    /// What write(2) says about a descriptor that is no longer ours, such as EBADF after somebody
    /// closed every descriptor of the process. The owner then stays asleep.
    pub(crate) fn ring(&self) -> io::Result<()> {
        let saved = Errno::last_raw();
        let outcome = loop {
            match self.0.write(1) {
                Ok(_) | Err(Errno::EAGAIN) => break Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => break Err(io::Error::from_raw_os_error(error as i32)),
            }
        };
        Errno::set_raw(saved);
        outcome
    }

    /// Takes all rings so far; a bell that is silent already is fine. Owner only, and before it
    /// observes the word.
    ///
    /// # Errors
    ///
    /// As [`ring`](Self::ring), of read(2).
    pub(crate) fn clear(&self) -> io::Result<()> {
        loop {
            match self.0.read() {
                Ok(_) | Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn readable(bell: &Bell) -> bool {
        let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn only_an_armed_word_asks_for_a_ring() {
        let word = WakeWord::new();
        assert!(!word.announce() && !word.request_wake());
        assert!(word.take_wake() && !word.take_wake());
        let seen = word.observe();
        assert!(word.arm(seen));
        assert!(word.announce(), "the first after arming rings");
        assert!(!word.announce() && !word.request_wake(), "and nobody else");
    }

    #[test]
    fn arming_is_refused_after_an_announcement_and_while_a_wake_waits() {
        let word = WakeWord::new();
        let seen = word.observe();
        word.announce();
        assert!(!word.arm(seen));
        assert!(!word.announce(), "a refused arm arms nothing");
        word.request_wake();
        let seen = word.observe();
        assert!(!word.arm(seen));
        assert!(word.take_wake());
        assert!(word.arm(seen), "taking the wake changes no sequence");
    }

    #[test]
    fn an_undisturbed_owner_stays_armed() {
        let word = WakeWord::new();
        for _ in 0..3 {
            let seen = word.observe();
            assert!(word.arm(seen));
        }
        assert!(word.request_wake(), "one ring for the three");
        assert!(!word.request_wake());
        assert!(word.take_wake());
    }

    #[test]
    fn the_sequence_wraps_around_and_leaves_the_low_bits_alone() {
        let word = WakeWord(AtomicU64::new(SEQUENCE | WAKE));
        let seen = word.observe();
        assert!(!word.announce());
        assert_eq!(word.observe(), WAKE);
        assert!(word.take_wake());
        assert!(!word.arm(seen), "the wrapped sequence is another one");
        let seen = word.observe();
        assert!(word.arm(seen) && word.announce());
    }

    #[test]
    fn a_ring_is_readable_until_cleared() {
        let bell = Bell::new().unwrap();
        assert!(!readable(&bell));
        bell.ring().unwrap();
        bell.ring().unwrap();
        assert!(readable(&bell));
        bell.clear().unwrap();
        assert!(!readable(&bell));
        bell.clear().unwrap();
    }

    #[test]
    fn a_saturated_bell_still_rings_and_errno_survives() {
        let bell = Bell::new().unwrap();
        bell.0.write(u64::MAX - 1).unwrap();
        assert_eq!(bell.0.write(1), Err(Errno::EAGAIN), "the counter is at its limit");
        Errno::set_raw(1234);
        bell.ring().unwrap();
        assert_eq!(Errno::last_raw(), 1234);
        assert!(readable(&bell));
        bell.clear().unwrap();
        assert!(!readable(&bell));
    }
}

/// Models. The bell is a counter with a condition variable, so a wake that is lost leaves the
/// owner asleep with nobody to run, which loom reports as a deadlock.
#[cfg(test)]
#[cfg(loom)]
mod loom_models {
    use super::*;
    use crate::sync::{Arc, atomic::AtomicUsize};
    use loom::sync::{Condvar, Mutex};
    use loom::thread;
    use std::collections::VecDeque;

    struct Model {
        word: WakeWord,
        queue: Mutex<VecDeque<usize>>,
        /// Rings not yet cleared, and all rings ever.
        bell: Mutex<(usize, usize)>,
        rang: Condvar,
        /// Producers that are not yet done.
        producers: AtomicUsize,
    }

    impl Model {
        fn new(word: u64, producers: usize) -> Arc<Self> {
            Arc::new(Self {
                word: WakeWord(AtomicU64::new(word)),
                queue: Mutex::new(VecDeque::new()),
                bell: Mutex::new((0, 0)),
                rang: Condvar::new(),
                producers: AtomicUsize::new(producers),
            })
        }

        fn ring_if(&self, must_ring: bool) {
            if must_ring {
                let mut bell = self.bell.lock().unwrap();
                bell.0 += 1;
                bell.1 += 1;
                self.rang.notify_one();
            }
        }

        /// Sleeps until the bell rings, then clears it.
        fn sleep(&self) {
            let mut bell = self.bell.lock().unwrap();
            while bell.0 == 0 {
                bell = self.rang.wait(bell).unwrap();
            }
            bell.0 = 0;
        }

        fn produce(&self, item: usize) {
            self.queue.lock().unwrap().push_back(item);
            self.ring_if(self.word.announce());
        }

        fn drain(&self) -> usize {
            self.queue.lock().unwrap().drain(..).count()
        }

        fn rings(&self) -> usize {
            self.bell.lock().unwrap().1
        }
    }

    fn check(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    /// Two producers; the owner sleeps until it has everything. `lazy` turns wake for another
    /// reason than the bell, and leave it alone.
    fn producers_and_owner(start: u64, lazy: usize) {
        check(move || {
            let model = Model::new(start, 2);
            let threads: Vec<_> = (0..2)
                .map(|item| {
                    let model = model.clone();
                    thread::spawn(move || model.produce(item))
                })
                .collect();
            let (mut received, mut arms, mut lazy) = (0, 0, lazy);
            while received < 2 {
                let seen = model.word.observe();
                received += model.drain();
                if received < 2 && model.word.arm(seen) {
                    arms += 1;
                    if lazy > 0 {
                        lazy -= 1;
                    } else {
                        model.sleep();
                    }
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
            assert!(model.rings() <= arms, "{} rings for {arms} arms", model.rings());
        });
    }

    #[test]
    fn no_item_is_left_behind_a_sleeping_owner() {
        producers_and_owner(0, 0);
    }

    #[test]
    fn waking_for_another_reason_loses_nothing() {
        producers_and_owner(0, 1);
    }

    #[test]
    fn the_sequence_may_wrap_meanwhile() {
        producers_and_owner(SEQUENCE, 0);
    }

    /// The queue's own lock could hide a missing ordering of the word. Here each thread stores
    /// to a plain relaxed cell, so only the word orders that against the owner's look at it.
    fn cells_and_owner(publish: fn(&WakeWord) -> bool) {
        check(move || {
            let model = Model::new(0, 2);
            let cells = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let (model, cells) = (model.clone(), cells.clone());
                    thread::spawn(move || {
                        cells[index].store(1, Ordering::Relaxed);
                        model.ring_if(publish(&model.word));
                    })
                })
                .collect();
            loop {
                let seen = model.word.observe();
                model.word.take_wake();
                if cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 1) {
                    break;
                }
                if model.word.arm(seen) {
                    model.sleep();
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn announcing_alone_publishes_what_was_queued() {
        cells_and_owner(WakeWord::announce);
    }

    #[test]
    fn every_wake_request_publishes_what_came_before_it() {
        cells_and_owner(WakeWord::request_wake);
    }

    /// A request ends the sleep, is seen by the owner, and shows what came before it.
    #[test]
    fn a_wake_request_is_never_lost() {
        check(|| {
            let model = Model::new(0, 1);
            let before = Arc::new(AtomicUsize::new(0));
            let waker = {
                let (model, before) = (model.clone(), before.clone());
                thread::spawn(move || {
                    before.store(1, Ordering::Relaxed);
                    model.ring_if(model.word.request_wake());
                    model.ring_if(model.word.request_wake());
                })
            };
            let producer = {
                let model = model.clone();
                thread::spawn(move || model.produce(0))
            };
            let (mut received, mut woken, mut arms) = (0, false, 0);
            while received < 1 || !woken {
                let seen = model.word.observe();
                received += model.drain();
                if model.word.take_wake() {
                    woken = true;
                    assert_eq!(before.load(Ordering::Relaxed), 1);
                }
                if (received < 1 || !woken) && model.word.arm(seen) {
                    arms += 1;
                    model.sleep();
                }
            }
            waker.join().unwrap();
            producer.join().unwrap();
            assert!(model.rings() <= arms);
        });
    }

    /// Two wakers, one owner that polls once for each request it takes: they may become one.
    #[test]
    fn concurrent_wake_requests_cost_one_ring() {
        check(|| {
            let model = Model::new(0, 0);
            let seen = model.word.observe();
            assert!(model.word.arm(seen));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let model = model.clone();
                    thread::spawn(move || model.ring_if(model.word.request_wake()))
                })
                .collect();
            model.sleep();
            assert!(model.word.take_wake(), "who rang had requested before");
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(model.rings(), 1);
        });
    }

    /// The owner ends when no producer is left. The last one leaves just as it falls asleep.
    #[test]
    fn the_last_producer_leaving_ends_the_sleep() {
        check(|| {
            let model = Model::new(0, 2);
            let threads: Vec<_> = (0..2)
                .map(|item| {
                    let model = model.clone();
                    thread::spawn(move || {
                        if item == 0 {
                            model.produce(item);
                        }
                        if model.producers.fetch_sub(1, Ordering::Relaxed) == 1 {
                            model.ring_if(model.word.announce());
                        }
                    })
                })
                .collect();
            let mut received = 0;
            loop {
                let seen = model.word.observe();
                let over = model.producers.load(Ordering::Relaxed) == 0;
                received += model.drain();
                if over {
                    break;
                }
                if model.word.arm(seen) {
                    model.sleep();
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
            received += model.drain();
            assert_eq!(received, 1);
        });
    }
}
