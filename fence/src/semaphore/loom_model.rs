//! Models of the races, checked over every interleaving by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p fence --release --lib loom --target-dir target/loom`.
//!
//! A lost wake shows as a deadlock, which loom reports. `wait_blocking` without a timeout is the
//! waiting side: it drives the same future that every runtime drives.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;

use crate::{Axis, Failure, Frontier, FrontierError, Reached, Semaphore, Tracker, WaitError};
use crate::{wait_all, wait_any};

/// Counts wakes. Its own atomics are std's: the count is read after joining, and must not add to
/// the interleavings.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, counter: &Arc<Counter>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(counter));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

fn spawn<R: 'static>(
    semaphore: &Semaphore,
    work: impl FnOnce(Semaphore) -> R + 'static,
) -> thread::JoinHandle<R> {
    let semaphore = semaphore.clone();
    thread::spawn(move || work(semaphore))
}

#[test]
fn signal_against_registration() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let signaller = spawn(&semaphore, |semaphore| semaphore.signal(1));
        assert_eq!(semaphore.wait_blocking(1, None), Ok(1));
        assert_eq!(signaller.join().unwrap(), Ok(()));
    });
}

#[test]
fn two_signals_against_two_waiters() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let first = spawn(&semaphore, |semaphore| semaphore.signal(1).is_ok());
        let waiter = spawn(&semaphore, |semaphore| semaphore.wait_blocking(1, None));
        let second = semaphore.signal(2);
        assert_eq!(second, Ok(()));
        assert!(waiter.join().unwrap().unwrap() >= 1);
        first.join().unwrap();
        assert_eq!(semaphore.value().unwrap(), 2);
    });
}

#[test]
fn signal_against_cancel_of_a_future() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let counters: [Arc<Counter>; 2] = Default::default();
        let (mut dropped, mut kept) = (semaphore.wait(1), semaphore.wait(1));
        assert!(poll(&mut dropped, &counters[0]).is_pending());
        assert!(poll(&mut kept, &counters[1]).is_pending());
        let signaller = spawn(&semaphore, |semaphore| semaphore.signal(1).unwrap());
        drop(dropped);
        signaller.join().unwrap();
        assert_eq!(counters[1].0.load(Ordering::SeqCst), 1, "the one behind it is woken");
        assert_eq!(poll(&mut kept, &counters[1]), Poll::Ready(Ok(1)));
    });
}

#[test]
fn signal_against_cancel_of_a_callback() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let callback = semaphore.on_reach(1, move |outcome| {
            assert_eq!(outcome, Ok(1));
            count.fetch_add(1, Ordering::SeqCst);
        });
        let signaller = spawn(&semaphore, |semaphore| semaphore.signal(1).unwrap());
        let cancelled = callback.cancel();
        signaller.join().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), usize::from(!cancelled));
    });
}

#[test]
fn signal_against_a_new_waker() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let counters: [Arc<Counter>; 2] = Default::default();
        let mut wait = semaphore.wait(1);
        assert!(poll(&mut wait, &counters[0]).is_pending());
        let signaller = spawn(&semaphore, |semaphore| semaphore.signal(1).unwrap());
        let second = poll(&mut wait, &counters[1]);
        signaller.join().unwrap();
        if second.is_pending() {
            assert_eq!(counters[1].0.load(Ordering::SeqCst), 1, "the newest waker is woken");
        }
    });
}

#[test]
fn fail_against_wait() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let failing = spawn(&semaphore, |semaphore| semaphore.fail(Failure::new("lost")));
        let failure = Failure::new("lost");
        let error = WaitError::Failed { wanted: 1, failure };
        assert_eq!(semaphore.wait_blocking(1, None), Err(error));
        assert!(failing.join().unwrap());
    });
}

#[test]
fn fail_against_signal_tells_the_truth() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let counter = Arc::<Counter>::default();
        let mut wait = semaphore.wait(1);
        assert!(poll(&mut wait, &counter).is_pending());
        let failing = spawn(&semaphore, |semaphore| semaphore.fail(Failure::new("lost")));
        let signalled = semaphore.signal(1).is_ok();
        assert!(failing.join().unwrap());
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        match poll(&mut wait, &counter) {
            Poll::Ready(Ok(1)) => assert!(signalled),
            Poll::Ready(Err(WaitError::Failed { wanted: 1, .. })) => assert!(!signalled),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn two_failures_have_one_winner() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let other = spawn(&semaphore, |semaphore| semaphore.fail(Failure::new("theirs")));
        let ours = semaphore.fail(Failure::new("ours"));
        assert_ne!(ours, other.join().unwrap());
        let failed = semaphore.value().unwrap_err();
        assert_eq!(failed.failure.message(), if ours { "ours" } else { "theirs" });
    });
}

#[test]
fn link_against_signal() {
    loom::model(|| {
        let (source, target) = (Semaphore::new(0), Semaphore::new(0));
        let signaller = spawn(&source, |source| source.signal(1).unwrap());
        let waiter = spawn(&target, |target| target.wait_blocking(1, None));
        source.link(&target);
        assert_eq!(waiter.join().unwrap(), Ok(1));
        signaller.join().unwrap();
    });
}

#[test]
fn unlink_against_signal() {
    loom::model(|| {
        let (source, target) = (Semaphore::new(0), Semaphore::new(0));
        let link = source.link(&target);
        let signaller = spawn(&source, |source| source.signal(1).unwrap());
        assert!(link.unlink());
        signaller.join().unwrap();
        let before = target.value().unwrap();
        source.signal(2).unwrap();
        assert_eq!(target.value().unwrap(), before);
    });
}

#[test]
fn signals_around_a_cycle() {
    loom::model(|| {
        let (one, two) = (Semaphore::new(0), Semaphore::new(0));
        one.link(&two);
        let back = two.link(&one);
        let other = spawn(&one, |one| one.signal(1).is_ok());
        two.signal(2).unwrap();
        other.join().unwrap();
        assert_eq!((one.value().unwrap(), two.value().unwrap()), (2, 2));
        assert!(back.unlink());
    });
}

#[test]
fn fail_against_signal_through_a_link() {
    loom::model(|| {
        let (source, target) = (Semaphore::new(0), Semaphore::new(0));
        let counter = Arc::<Counter>::default();
        let mut wait = target.wait(1);
        assert!(poll(&mut wait, &counter).is_pending());
        source.link(&target);
        let failing = spawn(&source, |source| source.fail(Failure::new("lost")));
        let signalled = source.signal(1).is_ok();
        assert!(failing.join().unwrap());
        assert!(target.value().is_err());
        let reached = poll(&mut wait, &counter) == Poll::Ready(Ok(1));
        assert_eq!(reached, signalled, "a target reaches what its source had before it failed");
    });
}

#[test]
fn all_of_two_against_their_signals() {
    loom::model(|| {
        let (one, two) = (Semaphore::new(0), Semaphore::new(0));
        let counter = Arc::<Counter>::default();
        let signallers =
            [spawn(&one, |one| one.signal(1).unwrap()), spawn(&two, |two| two.signal(1).unwrap())];
        let mut wait = wait_all(&[(&one, 1), (&two, 1)]);
        let first = poll(&mut wait, &counter);
        for signaller in signallers {
            signaller.join().unwrap();
        }
        assert_eq!(counter.0.load(Ordering::SeqCst), usize::from(first.is_pending()));
        assert_eq!(poll(&mut wait, &counter), Poll::Ready(Ok(())));
    });
}

#[test]
fn any_of_two_against_signal_and_cancel() {
    loom::model(|| {
        let (one, two) = (Semaphore::new(0), Semaphore::new(0));
        let counter = Arc::<Counter>::default();
        let mut dropped = wait_any(&[(&one, 1), (&two, 1)]);
        assert!(poll(&mut dropped, &counter).is_pending());
        let mut kept = wait_any(&[(&one, 1), (&two, 1)]);
        assert!(poll(&mut kept, &counter).is_pending());
        let signaller = spawn(&two, |two| two.signal(1).unwrap());
        drop(dropped);
        signaller.join().unwrap();
        let reached = Reached { index: 1, value: 1 };
        assert_eq!(poll(&mut kept, &counter), Poll::Ready(Ok(reached)));
    });
}

/// What a cancel says is certain: true and the callback never runs, false and it runs once.
#[test]
fn fail_against_cancel_of_a_callback() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let callback = semaphore.on_reach(1, move |outcome| {
            assert!(outcome.is_err());
            count.fetch_add(1, Ordering::SeqCst);
        });
        let failing = spawn(&semaphore, |semaphore| semaphore.fail(Failure::new("lost")));
        let cancelled = callback.cancel();
        assert!(failing.join().unwrap());
        assert_eq!(ran.load(Ordering::SeqCst), usize::from(!cancelled));
        assert_eq!(Arc::strong_count(&ran), 1, "run or not, what it owned is dropped");
    });
}

#[test]
fn two_signals_against_cancel_of_a_callback() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let callback = semaphore.on_reach(1, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let first = spawn(&semaphore, |semaphore| semaphore.signal(1).is_ok());
        let canceller = thread::spawn(move || callback.cancel());
        semaphore.signal(2).unwrap();
        first.join().unwrap();
        let cancelled = canceller.join().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), usize::from(!cancelled));
    });
}

/// A cancel when the signal came first, or comes first while the callback is being registered.
#[test]
fn signal_against_registration_and_cancel_of_a_callback() {
    loom::model(|| {
        let semaphore = Semaphore::new(0);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let signaller = spawn(&semaphore, |semaphore| semaphore.signal(1).unwrap());
        let callback = semaphore.on_reach(1, move |outcome| {
            assert_eq!(outcome, Ok(1));
            count.fetch_add(1, Ordering::SeqCst);
        });
        let cancelled = callback.cancel();
        signaller.join().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), usize::from(!cancelled));
    });
}

#[test]
fn relay_against_cancel_of_a_callback() {
    loom::model(|| {
        let (source, target) = (Semaphore::new(0), Semaphore::new(0));
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        source.link(&target);
        let callback = target.on_reach(1, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let signaller = spawn(&source, |source| source.signal(1).unwrap());
        let cancelled = callback.cancel();
        signaller.join().unwrap();
        assert_eq!(target.value().unwrap(), 1);
        assert_eq!(ran.load(Ordering::SeqCst), usize::from(!cancelled));
    });
}

#[test]
fn all_of_two_against_signal_and_drop() {
    loom::model(|| {
        let (one, two) = (Semaphore::new(1), Semaphore::new(0));
        let counters: [Arc<Counter>; 2] = Default::default();
        let mut dropped = wait_all(&[(&one, 1), (&two, 1)]);
        let mut kept = wait_all(&[(&one, 1), (&two, 1)]);
        assert!(poll(&mut dropped, &counters[0]).is_pending());
        assert!(poll(&mut kept, &counters[1]).is_pending());
        let signaller = spawn(&two, |two| two.signal(1).unwrap());
        drop(dropped);
        signaller.join().unwrap();
        assert_eq!(counters[1].0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut kept, &counters[1]), Poll::Ready(Ok(())));
        assert_eq!(Arc::strong_count(&counters[0]), 1, "nothing of the dropped one is left");
    });
}

#[test]
fn any_of_two_has_one_winner() {
    loom::model(|| {
        let (one, two) = (Semaphore::new(0), Semaphore::new(0));
        let counter = Arc::<Counter>::default();
        let mut wait = wait_any(&[(&one, 1), (&two, 1)]);
        assert!(poll(&mut wait, &counter).is_pending());
        let signaller = spawn(&one, |one| one.signal(1).unwrap());
        two.fail(Failure::new("lost"));
        signaller.join().unwrap();
        assert_eq!(counter.0.load(Ordering::SeqCst), 1, "woken by the one that decided");
        let Poll::Ready(outcome) = poll(&mut wait, &counter) else { panic!("still pending") };
        assert!(outcome.is_err() || outcome == Ok(Reached { index: 0, value: 1 }));
    });
}

const ONE: Axis = Axis::new(1);
const TWO: Axis = Axis::new(2);

fn tracker() -> (Tracker, Frontier) {
    let tracker = Tracker::new();
    for axis in [ONE, TWO] {
        tracker.add(axis, &Semaphore::new(0)).expect("a new axis");
    }
    (tracker, Frontier::from_iter([(ONE, 1), (TWO, 1)]))
}

fn signal(tracker: &Tracker, axis: Axis) -> thread::JoinHandle<()> {
    let tracker = tracker.clone();
    thread::spawn(move || tracker.signal(axis, 1, &Frontier::new()).expect("the first signal"))
}

#[test]
fn a_frontier_callback_is_told_once_or_cancelled() {
    loom::model(|| {
        let (tracker, target) = tracker();
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        tracker.signal(ONE, 1, &Frontier::new()).unwrap();
        let signaller = signal(&tracker, TWO);
        let callback = tracker.on_reach(target.clone(), move |outcome| {
            assert_eq!(outcome, Ok(target));
            count.fetch_add(1, Ordering::SeqCst);
        });
        let cancelled = callback.cancel();
        signaller.join().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), usize::from(!cancelled));
        assert_eq!(Arc::strong_count(&ran), 1);
    });
}

/// The decision against the registration: whoever decides, or registers after it, takes the other
/// entries back, and the callback runs once.
#[test]
fn a_frontier_callback_against_the_failure_of_its_first_axis() {
    loom::model(|| {
        let (tracker, target) = tracker();
        let other = tracker.semaphore(TWO).unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let one = tracker.semaphore(ONE).unwrap();
        let failing = spawn(&one, |one| one.fail(Failure::new("lost")));
        tracker.on_reach(target, move |outcome| {
            let failure = Failure::new("lost");
            assert_eq!(outcome, Err(FrontierError::Failed { axis: ONE, failure }));
            count.fetch_add(1, Ordering::SeqCst);
        });
        assert!(failing.join().unwrap());
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        assert!(format!("{other:?}").contains("waiters: 0"), "{other:?}");
    });
}

#[test]
fn two_axes_reached_at_once_tell_a_frontier_callback_once() {
    loom::model(|| {
        let (tracker, target) = tracker();
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        tracker.on_reach(target, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let signaller = signal(&tracker, ONE);
        tracker.signal(TWO, 1, &Frontier::new()).unwrap();
        signaller.join().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    });
}

/// Whoever sees the epoch, without a lock, finds what its signal carried.
#[test]
fn the_history_is_never_behind_the_value() {
    loom::model(|| {
        let (tracker, target) = tracker();
        tracker.signal(ONE, 1, &Frontier::new()).unwrap();
        let two = tracker.semaphore(TWO).unwrap();
        let signalling = tracker.clone();
        let carried = Frontier::from_iter([(ONE, 1)]);
        let signaller = thread::spawn(move || signalling.signal(TWO, 1, &carried).unwrap());
        if two.value().unwrap() == 1 {
            assert_eq!(tracker.history(TWO), Ok(target));
        }
        signaller.join().unwrap();
    });
}
