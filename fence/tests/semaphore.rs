//! One semaphore: values, failure, callbacks, futures, blocking waits, panics.

mod support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fence::{
    Callback, Failed, Failure, Link, Semaphore, SignalError, Wait, WaitAll, WaitAny, WaitError,
};
use support::{Counter, block_on, poll};

/// What callbacks report, in order.
type Log = Arc<Mutex<Vec<(u32, Result<u64, Failure>)>>>;

fn note(log: &Log, name: u32) -> impl FnOnce(Result<u64, Failure>) + Send + 'static {
    let log = Arc::clone(log);
    move |outcome| log.lock().expect("no panic under this lock").push((name, outcome))
}

fn taken(log: &Log) -> Vec<(u32, Result<u64, Failure>)> {
    std::mem::take(&mut log.lock().expect("no panic under this lock"))
}

#[test]
fn the_types_may_go_where_they_should() {
    fn send<T: Send + 'static>() {}
    fn sync<T: Sync>() {}
    send::<Semaphore>();
    sync::<Semaphore>();
    send::<Wait>();
    send::<WaitAll>();
    send::<WaitAny>();
    send::<Callback>();
    send::<Link>();
    sync::<Failure>();
    send::<SignalError>();
}

#[test]
fn a_signal_must_go_forward() {
    let semaphore = Semaphore::new(5);
    assert_eq!(semaphore.value(), Ok(5));
    for value in [0, 4, 5] {
        assert_eq!(semaphore.signal(value), Err(SignalError::NotAbove { value, current: 5 }));
    }
    assert_eq!(semaphore.signal(9), Ok(()));
    assert_eq!(semaphore.clone().value(), Ok(9));
    assert_eq!(semaphore.signal(u64::MAX), Ok(()));
    let error = SignalError::NotAbove { value: u64::MAX, current: u64::MAX };
    assert_eq!(semaphore.signal(u64::MAX), Err(error));
}

#[test]
fn the_first_failure_stays() {
    let semaphore = Semaphore::new(3);
    let failure = Failure::with_errno(5, "lost");
    assert!(semaphore.fail(failure.clone()));
    assert!(!semaphore.fail(Failure::new("later")));
    assert_eq!(semaphore.value(), Err(Failed { value: 3, failure: failure.clone() }));
    assert_eq!(
        semaphore.signal(4),
        Err(SignalError::Failed { value: 4, failure: failure.clone() })
    );
    let error = WaitError::Failed { wanted: 1, failure: failure.clone() };
    assert_eq!(semaphore.wait_blocking(1, None), Err(error.clone()));
    assert_eq!(block_on(semaphore.wait(1)), Err(error));
    let log = Log::default();
    assert!(!semaphore.on_reach(1, note(&log, 0)).cancel());
    assert_eq!(taken(&log), [(0, Err(failure))]);
}

#[test]
fn callbacks_run_in_the_order_of_values_and_then_of_arrival() {
    let semaphore = Semaphore::new(0);
    let log = Log::default();
    for (name, value) in [(0, 7), (1, 3), (2, 7), (3, 8), (4, 1)] {
        semaphore.on_reach(value, note(&log, name));
    }
    semaphore.signal(7).unwrap();
    assert_eq!(taken(&log), [(4, Ok(7)), (1, Ok(7)), (0, Ok(7)), (2, Ok(7))]);
    semaphore.on_reach(7, note(&log, 5));
    assert_eq!(taken(&log), [(5, Ok(7))], "reached already: called at once");
    semaphore.fail(Failure::new("lost"));
    assert_eq!(taken(&log), [(3, Err(Failure::new("lost")))]);
}

#[test]
fn a_cancelled_callback_never_runs_and_is_dropped() {
    let semaphore = Semaphore::new(0);
    let log = Log::default();
    let callback = semaphore.on_reach(1, note(&log, 0));
    assert_eq!(Arc::strong_count(&log), 2);
    assert!(callback.cancel());
    assert_eq!(Arc::strong_count(&log), 1);
    let late = semaphore.on_reach(1, note(&log, 1));
    semaphore.signal(1).unwrap();
    assert!(!late.cancel());
    assert_eq!(taken(&log), [(1, Ok(1))]);
}

#[test]
fn a_cancel_is_certain_whoever_came_first() {
    let semaphore = Semaphore::new(0);
    let log = Log::default();
    let own = Arc::new(Mutex::new(None::<Callback>));
    let (handle, notes) = (Arc::clone(&own), Arc::clone(&log));
    *own.lock().unwrap() = Some(semaphore.on_reach(1, move |outcome| {
        assert!(!handle.lock().unwrap().take().unwrap().cancel(), "it runs at this moment");
        notes.lock().unwrap().push((0, outcome));
    }));
    semaphore.on_reach(2, |_| std::panic::panic_any("before it"));
    let behind = semaphore.on_reach(2, note(&log, 1));
    let failed = semaphore.on_reach(9, note(&log, 2));
    semaphore.signal(1).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| semaphore.signal(2))).is_err());
    assert!(!behind.cancel());
    semaphore.fail(Failure::new("lost"));
    assert!(!failed.cancel());
    assert_eq!(taken(&log), [(0, Ok(1)), (1, Ok(2)), (2, Err(Failure::new("lost")))]);
    let orphan = Semaphore::new(0).on_reach(1, note(&log, 3));
    assert!(orphan.cancel(), "the handle keeps the semaphore, so it was still to be told");
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn a_failure_ends_blocked_waits_with_and_without_a_timeout() {
    let semaphore = Semaphore::new(3);
    let waiters = [None, Some(Duration::from_secs(3600))].map(|timeout| {
        let semaphore = semaphore.clone();
        std::thread::spawn(move || semaphore.wait_blocking(4, timeout))
    });
    // Both are registered: each is in its sleep or on the way there.
    while !format!("{semaphore:?}").contains("waiters: 2") {
        std::thread::yield_now();
    }
    semaphore.fail(Failure::with_errno(5, "lost"));
    for waiter in waiters {
        let failure = Failure::with_errno(5, "lost");
        let error = WaitError::Failed { wanted: 4, failure };
        assert_eq!(waiter.join().unwrap(), Err(error));
    }
}

#[test]
fn a_callback_may_use_its_semaphore_and_cancel_another_that_is_due() {
    let semaphore = Semaphore::new(0);
    let log = Log::default();
    let other = Arc::new(Mutex::new(None::<Callback>));
    let (again, victim) = (semaphore.clone(), Arc::clone(&other));
    let notes = Arc::clone(&log);
    semaphore.on_reach(1, move |_| {
        let victim = victim.lock().unwrap().take().unwrap();
        assert!(victim.cancel(), "it was due, and had not begun");
        again.on_reach(2, note(&notes, 2));
        again.signal(2).unwrap();
        assert!(again.fail(Failure::new("enough")));
    });
    *other.lock().unwrap() = Some(semaphore.on_reach(1, note(&log, 1)));
    semaphore.on_reach(3, note(&log, 3));
    semaphore.signal(1).unwrap();
    assert_eq!(taken(&log), [(2, Ok(2)), (3, Err(Failure::new("enough")))]);
}

#[test]
fn a_panic_in_a_callback_costs_nobody_else_a_wake() {
    let semaphore = Semaphore::new(0);
    let (log, counter) = (Log::default(), Arc::<Counter>::default());
    semaphore.on_reach(1, note(&log, 0));
    semaphore.on_reach(1, |_| std::panic::panic_any("first"));
    let mut wait = semaphore.wait(1);
    assert!(poll(&mut wait, &counter).is_pending());
    semaphore.on_reach(1, |_| std::panic::panic_any("second"));
    semaphore.on_reach(1, note(&log, 1));
    let caught = catch_unwind(AssertUnwindSafe(|| semaphore.signal(1))).unwrap_err();
    assert_eq!(*caught.downcast::<&str>().unwrap(), "first");
    assert_eq!(taken(&log), [(0, Ok(1)), (1, Ok(1))]);
    assert_eq!(counter.wakes(), 1);
    assert_eq!(poll(&mut wait, &counter), Poll::Ready(Ok(1)));
    assert_eq!(semaphore.signal(2), Ok(()), "the semaphore is as good as before");
}

#[test]
fn a_future_registers_once_and_wakes_its_newest_waker() {
    let semaphore = Semaphore::new(0);
    let (old, new) = (Arc::<Counter>::default(), Arc::<Counter>::default());
    let mut wait = semaphore.wait(2);
    assert!(poll(&mut wait, &old).is_pending());
    assert!(poll(&mut wait, &new).is_pending());
    assert_eq!(Arc::strong_count(&old), 1, "the old waker is gone");
    semaphore.signal(1).unwrap();
    assert_eq!((old.wakes(), new.wakes()), (0, 0));
    semaphore.signal(4).unwrap();
    assert_eq!((old.wakes(), new.wakes()), (0, 1));
    assert_eq!(poll(&mut wait, &new), Poll::Ready(Ok(4)));
    assert_eq!(block_on(semaphore.wait(4)), Ok(4));
}

#[test]
fn a_dropped_future_leaves_nothing_behind_whoever_came_first() {
    let semaphore = Semaphore::new(0);
    let counter = Arc::<Counter>::default();
    let mut waits: Vec<Wait> = (0..4).map(|_| semaphore.wait(1)).collect();
    for wait in &mut waits {
        assert!(poll(wait, &counter).is_pending());
    }
    drop(waits.pop());
    semaphore.signal(1).unwrap();
    assert_eq!(counter.wakes(), 3);
    drop(waits.pop());
    semaphore.fail(Failure::new("lost"));
    assert_eq!(poll(&mut waits[0], &counter), Poll::Ready(Ok(1)), "reached before the failure");
    drop(waits);
    assert_eq!(counter.wakes(), 3);
    assert_eq!(Arc::strong_count(&counter), 1);
}

#[test]
fn a_registered_future_gets_the_failure() {
    let semaphore = Semaphore::new(0);
    let counter = Arc::<Counter>::default();
    let mut wait = semaphore.wait(1);
    assert!(poll(&mut wait, &counter).is_pending());
    semaphore.fail(Failure::with_errno(19, "unplugged"));
    assert_eq!(counter.wakes(), 1);
    let failure = Failure::with_errno(19, "unplugged");
    let error = WaitError::Failed { wanted: 1, failure };
    assert_eq!(poll(&mut wait, &counter), Poll::Ready(Err(error)));
}

#[test]
fn a_blocking_wait_tells_a_timeout_from_the_rest() {
    let semaphore = Semaphore::new(1);
    let timed_out = WaitError::TimedOut { wanted: 2, value: 1 };
    assert_eq!(semaphore.wait_blocking(2, Some(Duration::ZERO)), Err(timed_out.clone()));
    assert_eq!(semaphore.wait_blocking(2, Some(Duration::from_millis(5))), Err(timed_out));
    assert_eq!(semaphore.wait_blocking(1, Some(Duration::ZERO)), Ok(1));
    assert!(format!("{semaphore:?}").contains("waiters: 0"), "{semaphore:?}");
    let signaller = semaphore.clone();
    let waiter = std::thread::spawn(move || signaller.wait_blocking(2, Some(Duration::MAX)));
    semaphore.signal(2).unwrap();
    assert_eq!(waiter.join().unwrap(), Ok(2));
}

/// A waker that uses the semaphore whenever it is woken or dropped: with a lock held, this would
/// never return.
struct Reentrant(Semaphore);

impl Wake for Reentrant {
    fn wake(self: Arc<Self>) {
        let _ = self.0.on_reach(u64::MAX, |_| ()).cancel();
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        let _ = self.0.on_reach(u64::MAX, |_| ()).cancel();
    }
}

#[test]
fn wakers_are_woken_and_dropped_without_the_lock() {
    let semaphore = Semaphore::new(0);
    let waker = || Waker::from(Arc::new(Reentrant(semaphore.clone())));
    let mut wait = semaphore.wait(1);
    for _ in 0..3 {
        let polled = std::pin::Pin::new(&mut wait).poll(&mut Context::from_waker(&waker()));
        assert!(polled.is_pending());
    }
    semaphore.signal(1).unwrap();
    let mut cancelled = semaphore.wait(2);
    let polled = std::pin::Pin::new(&mut cancelled).poll(&mut Context::from_waker(&waker()));
    assert!(polled.is_pending());
    drop(cancelled);
    assert!(format!("{semaphore:?}").contains("waiters: 0"), "{semaphore:?}");
}
