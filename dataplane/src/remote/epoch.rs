//! The rule by which nobody sleeps through a signal, and a signal for nobody costs no system call.
//!
//! Two words: the *epoch*, which every signal moves on, and the number of those who *wait*. A
//! waiter has seen an epoch; it counts itself, then asks the kernel to sleep while the epoch is
//! still that one. A signaller moves the epoch, then looks whether somebody waits, and only then
//! calls the kernel.
//!
//! # No wake is lost
//!
//! Between its two steps each side has a sequentially consistent fence, and of two such fences one
//! comes first.
//!
//! - The waiter's comes first: the signaller, which reads the count after its own, sees the waiter
//!   counted, and calls the kernel. The kernel compares and sleeps in one step under the lock that
//!   a wake takes too. Compared before that wake: the waiter sleeps, and is found. After: the epoch
//!   was moved before the wake was asked for, so the comparison fails.
//! - The signaller's comes first: the waiter, which compares after its own, sees the epoch moved
//!   and does not sleep. Nobody needs to wake it.
//!
//! A wake for a few when more are asleep leaves the others asleep, as asked; whoever comes to wait
//! later for an epoch that is past does not sleep at all. The count may be too high, when a process
//! that waits is killed: that costs later signals a needless call each, nothing else. It is too low
//! for nobody who keeps to the rule.

use crate::sync::atomic::{AtomicU32, Ordering, fence};

/// Counts a waiter in. What it does next is to sleep while the epoch is the one it has seen.
pub(crate) fn enter(waiters: &AtomicU32) {
    waiters.fetch_add(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Counts a waiter out.
pub(crate) fn leave(waiters: &AtomicU32) {
    waiters.fetch_sub(1, Ordering::Relaxed);
}

/// Moves the epoch on. True: somebody may sleep, the kernel is to wake.
pub(crate) fn advance(epoch: &AtomicU32, waiters: &AtomicU32) -> bool {
    // What was written before a signal is seen by who sees the epoch.
    epoch.fetch_add(1, Ordering::Release);
    fence(Ordering::SeqCst);
    waiters.load(Ordering::Relaxed) > 0
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// Both words, and a futex: compare and sleep in one step under the lock a wake takes.
    #[derive(Default)]
    struct Model {
        epoch: AtomicU32,
        waiters: AtomicU32,
        bucket: Mutex<()>,
        woken: Condvar,
    }

    impl Model {
        fn wait(&self, seen: u32) {
            while self.epoch.load(Ordering::Acquire) == seen {
                enter(&self.waiters);
                let bucket = self.bucket.lock().unwrap();
                if self.epoch.load(Ordering::Relaxed) == seen {
                    drop(self.woken.wait(bucket).unwrap());
                }
                leave(&self.waiters);
            }
        }

        fn signal(&self) {
            if advance(&self.epoch, &self.waiters) {
                drop(self.bucket.lock().unwrap());
                self.woken.notify_all();
            }
        }
    }

    #[test]
    fn a_waiter_never_sleeps_through_a_signal() {
        loom::model(|| {
            let model = Arc::new(Model::default());
            let inside = model.clone();
            let waiter = thread::spawn(move || inside.wait(0));
            model.signal();
            waiter.join().unwrap();
            assert_eq!(model.waiters.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn two_waiters_and_a_signal_each() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let model = Arc::new(Model::default());
            let waiters = [0, 0].map(|seen| {
                let inside = model.clone();
                thread::spawn(move || inside.wait(seen))
            });
            model.signal();
            for waiter in waiters {
                waiter.join().unwrap();
            }
        });
    }

    #[test]
    fn what_was_written_before_a_signal_is_seen_after_it() {
        loom::model(|| {
            let model = Arc::new((Model::default(), AtomicU32::new(0)));
            let inside = model.clone();
            let waiter = thread::spawn(move || {
                inside.0.wait(0);
                inside.1.load(Ordering::Relaxed)
            });
            model.1.store(1, Ordering::Relaxed);
            model.0.signal();
            assert_eq!(waiter.join().unwrap(), 1);
        });
    }
}
