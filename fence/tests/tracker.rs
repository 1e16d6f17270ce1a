//! The tracker: releases, histories, claims, failures, cancels, races.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::thread;

use fence::{Axis, Failure, Frontier, FrontierError, Reach, Semaphore, SignalError};
use fence::{ReachCallback, Tainted, Tracker};
use support::{Counter, Random, block_on, poll};

const A: Axis = Axis::new(1);
const B: Axis = Axis::new(2);
const C: Axis = Axis::new(3);

type Outcome = Result<Frontier, FrontierError>;
type Log = Arc<Mutex<Vec<Outcome>>>;

fn of(pairs: &[(Axis, u64)]) -> Frontier {
    pairs.iter().copied().collect()
}

fn tracker() -> (Tracker, [Semaphore; 3]) {
    let (tracker, all) = (Tracker::new(), [(); 3].map(|()| Semaphore::new(0)));
    for (axis, semaphore) in [A, B, C].into_iter().zip(&all) {
        tracker.add(axis, semaphore).expect("a new axis");
    }
    (tracker, all)
}

fn on_reach(tracker: &Tracker, target: Frontier, log: &Log) -> ReachCallback {
    let log = Arc::clone(log);
    tracker.on_reach(target, move |outcome| {
        log.lock().expect("no panic under this lock").push(outcome)
    })
}

fn taken(log: &Log) -> Vec<Outcome> {
    std::mem::take(&mut log.lock().expect("no panic under this lock"))
}

fn no_waiters(all: &[Semaphore]) -> bool {
    all.iter().all(|semaphore| format!("{semaphore:?}").contains("waiters: 0"))
}

#[test]
fn the_types_may_go_where_they_should() {
    fn send_sync<T: Send + Sync + 'static>() {}
    fn send<T: Send + Unpin + 'static>() {}
    send_sync::<Tracker>();
    send_sync::<Tainted<Frontier>>();
    send_sync::<FrontierError>();
    send::<Reach>();
    send::<ReachCallback>();
}

#[test]
fn a_frontier_is_reached_with_its_last_axis() {
    let (tracker, all) = tracker();
    let (log, counter) = (Log::default(), Arc::<Counter>::default());
    let target = of(&[(A, 2), (B, 1)]);
    let mut reach = tracker.reach(target.clone());
    assert!(poll(&mut reach, &counter).is_pending());
    let callback = on_reach(&tracker, target.clone(), &log);
    tracker.signal(A, 5, &Frontier::new()).unwrap();
    tracker.signal(C, 1, &Frontier::new()).unwrap();
    assert_eq!((counter.wakes(), taken(&log)), (0, vec![]));
    all[1].signal(1).unwrap();
    assert_eq!(counter.wakes(), 1, "a signal of the semaphore itself counts too");
    assert_eq!(taken(&log), [Ok(target.clone())]);
    assert_eq!(poll(&mut reach, &counter), Poll::Ready(Ok(target.clone())));
    assert!(!callback.cancel());
    on_reach(&tracker, target.clone(), &log);
    assert_eq!(taken(&log), [Ok(target)], "reached already: called at once");
    assert_eq!(block_on(tracker.reach(Frontier::new())), Ok(Frontier::new()));
    assert!(!on_reach(&tracker, Frontier::new(), &log).cancel());
    assert_eq!(taken(&log), [Ok(Frontier::new())]);
    assert!(no_waiters(&all));
}

#[test]
fn an_unknown_axis_is_named_and_nothing_changes() {
    let (tracker, all) = tracker();
    let (log, stranger) = (Log::default(), Axis::new(99));
    let unknown = FrontierError::Unknown { axis: stranger };
    let target = of(&[(A, 1), (stranger, 1)]);
    assert_eq!(block_on(tracker.reach(target.clone())), Err(unknown.clone()));
    assert!(!on_reach(&tracker, target.clone(), &log).cancel());
    assert_eq!(taken(&log), [Err(unknown.clone())]);
    assert_eq!(tracker.signal(stranger, 1, &Frontier::new()), Err(unknown.clone()));
    let carried = of(&[(stranger, 1)]);
    assert_eq!(tracker.signal(A, 1, &carried), Err(unknown.clone()));
    assert_eq!(tracker.history(stranger), Err(unknown.clone()));
    assert_eq!(tracker.fail(stranger, Failure::new("lost")), Err(unknown.clone()));
    assert_eq!(tracker.semaphore(stranger).map(drop), Err(unknown.clone()));
    assert_eq!(tracker.remove(stranger).map(drop), Err(unknown.clone()));
    assert_eq!(tracker.add(A, &all[1]), Err(FrontierError::Taken { axis: A }));
    assert!(unknown.to_string().contains("axis 99"), "{unknown}");
    assert_eq!(tracker.current(), Frontier::new());
    assert!(no_waiters(&all));
}

#[test]
fn a_signal_carries_what_its_signaller_knew() {
    let (tracker, _) = tracker();
    tracker.signal(A, 3, &Frontier::new()).unwrap();
    let known = block_on(tracker.reach(of(&[(A, 2)]))).unwrap();
    assert_eq!(known, of(&[(A, 2)]));
    tracker.signal(B, 1, &known).unwrap();
    let known = block_on(tracker.reach(of(&[(B, 1)]))).unwrap();
    assert_eq!(known, of(&[(A, 2), (B, 1)]), "B's 1 came after A's 2");
    tracker.signal(C, 7, &known).unwrap();
    assert_eq!(tracker.history(C), Ok(of(&[(A, 2), (B, 1), (C, 7)])), "and so on, transitively");
    tracker.signal(B, 2, &of(&[(A, 1), (B, 2)])).unwrap();
    assert_eq!(tracker.history(B), Ok(of(&[(A, 2), (B, 2)])), "merged; its own epoch may be named");
    assert_eq!(tracker.current(), of(&[(A, 3), (B, 2), (C, 7)]));
}

#[test]
fn the_history_is_there_when_the_waiter_is_told() {
    let (tracker, _) = tracker();
    tracker.signal(A, 4, &Frontier::new()).unwrap();
    let (asked, log) = (tracker.clone(), Log::default());
    let notes = Arc::clone(&log);
    tracker.on_reach(of(&[(B, 1)]), move |outcome| {
        notes.lock().unwrap().extend([outcome, asked.history(B)]);
    });
    tracker.signal(B, 1, &of(&[(A, 4)])).unwrap();
    let both = of(&[(A, 4), (B, 1)]);
    assert_eq!(taken(&log), [Ok(both.clone()), Ok(both)]);
}

#[test]
fn a_refused_signal_carries_nothing() {
    let (tracker, all) = tracker();
    tracker.signal(A, 3, &Frontier::new()).unwrap();
    tracker.signal(B, 2, &Frontier::new()).unwrap();
    let not_reached = |axis, epoch, value| Err(FrontierError::NotReached { axis, epoch, value });
    assert_eq!(tracker.signal(B, 3, &of(&[(A, 4)])), not_reached(A, 4, 3));
    assert_eq!(tracker.signal(B, 3, &of(&[(B, 4)])), not_reached(B, 4, 2), "its own, ahead");
    let error = SignalError::NotAbove { value: 2, current: 2 };
    let refused = FrontierError::Signal { axis: B, error };
    assert_eq!(tracker.signal(B, 2, &of(&[(A, 3)])), Err(refused));
    assert_eq!((all[1].value(), tracker.history(B)), (Ok(2), Ok(of(&[(B, 2)]))));
    all[0].fail(Failure::new("lost"));
    assert_eq!(tracker.signal(B, 3, &of(&[(A, 3)])), Ok(()), "what was reached stays true");
    let error = tracker.signal(A, 9, &of(&[(B, 3)])).unwrap_err();
    assert_eq!((error.axis(), error.failure().map(Failure::message)), (A, Some("lost")));
    assert_eq!(tracker.history(A), Ok(of(&[(A, 3)])));
}

#[test]
fn a_claim_is_confirmed_or_comes_back() {
    let (tracker, _) = tracker();
    tracker.signal(A, 3, &Frontier::new()).unwrap();
    let decoded = |frontier: &Frontier| {
        let mut bytes = Vec::new();
        frontier.encode(&mut bytes);
        Frontier::decode(&bytes).unwrap()
    };
    let truth = of(&[(A, 3)]);
    assert_eq!(tracker.confirm(decoded(&truth)), Ok(truth.clone()));
    let lie = Tainted::new(of(&[(A, 3), (B, 1)]));
    let error = FrontierError::NotReached { axis: B, epoch: 1, value: 0 };
    assert_eq!(tracker.confirm(lie.clone()), Err((lie.clone(), error)));
    let log = Log::default();
    let sink = Arc::clone(&log);
    tracker.on_reach(lie, move |outcome| sink.lock().unwrap().push(outcome));
    tracker.signal(B, 1, &truth).unwrap();
    assert_eq!(taken(&log), [Ok(of(&[(A, 3), (B, 1)]))], "a claim may be waited for");
    tracker.fail(A, Failure::new("lost")).unwrap();
    assert_eq!(tracker.confirm(decoded(&truth)), Ok(truth), "reached before the failure");
    let stranger = Tainted::from(of(&[(Axis::new(9), 1)]));
    let (_, error) = tracker.confirm(stranger).unwrap_err();
    assert_eq!(error, FrontierError::Unknown { axis: Axis::new(9) });
    let kept = Tainted::new(5).check(|_| Err("no")).unwrap_err();
    assert_eq!(kept, (Tainted::new(5), "no"));
}

#[test]
fn a_failed_axis_is_named_to_present_and_future_waiters() {
    let (tracker, all) = tracker();
    let (log, counter) = (Log::default(), Arc::<Counter>::default());
    let target = of(&[(A, 1), (B, 1), (C, 1)]);
    let mut reach = tracker.reach(target.clone());
    assert!(poll(&mut reach, &counter).is_pending());
    let callback = on_reach(&tracker, target.clone(), &log);
    let failure = Failure::with_errno(5, "unplugged");
    assert_eq!(tracker.fail(B, failure.clone()), Ok(true));
    assert_eq!(tracker.fail(B, Failure::new("again")), Ok(false));
    let error = FrontierError::Failed { axis: B, failure: failure.clone() };
    assert_eq!(counter.wakes(), 1);
    assert_eq!(poll(&mut reach, &counter), Poll::Ready(Err(error.clone())));
    assert_eq!(taken(&log), [Err(error.clone())]);
    assert!(!callback.cancel());
    assert!(no_waiters(&all), "the entries at the other axes are taken back: {all:?}");
    assert_eq!(block_on(tracker.reach(target.clone())), Err(error.clone()));
    on_reach(&tracker, target, &log);
    assert_eq!(taken(&log), [Err(error.clone())]);
    assert!(no_waiters(&all), "{all:?}");
    assert_eq!(error.failure(), Some(&failure));
    assert!(error.to_string().contains("axis 2 failed: unplugged (errno 5)"), "{error}");
}

#[test]
fn a_cancelled_wait_leaves_nothing() {
    let (tracker, all) = tracker();
    let (log, counter) = (Log::default(), Arc::<Counter>::default());
    let target = of(&[(A, 1), (B, 1)]);
    let mut reach = tracker.reach(target.clone());
    assert!(poll(&mut reach, &counter).is_pending());
    let callback = on_reach(&tracker, target, &log);
    tracker.signal(A, 1, &Frontier::new()).unwrap();
    drop(reach);
    assert!(callback.cancel());
    assert!(no_waiters(&all), "{all:?}");
    assert_eq!(Arc::strong_count(&log), 1, "what the callback owned is dropped");
    tracker.signal(B, 1, &Frontier::new()).unwrap();
    assert_eq!((counter.wakes(), taken(&log)), (0, vec![]));
}

#[test]
fn a_callback_nobody_can_tell_is_dropped_with_the_last_semaphore() {
    let (tracker, all) = tracker();
    let log = Log::default();
    let callback = on_reach(&tracker, of(&[(A, 1), (B, 1)]), &log);
    drop(on_reach(&tracker, of(&[(A, 1), (B, 1)]), &log));
    drop((tracker, all));
    assert!(callback.cancel(), "the handle keeps the semaphores, so it was still to be told");
    assert_eq!(Arc::strong_count(&log), 1, "and nothing else keeps the other callback");
    assert_eq!(taken(&log), []);
    let (tracker, all) = self::tracker();
    on_reach(&tracker, of(&[(A, 1)]), &log);
    drop(tracker);
    all[0].signal(1).unwrap();
    assert_eq!(taken(&log), [Ok(of(&[(A, 1)]))], "the tracker is gone, the semaphore is not");
}

#[test]
fn a_removed_axis_leaves_the_histories_and_its_waits_go_on() {
    let (tracker, all) = tracker();
    tracker.signal(A, 3, &Frontier::new()).unwrap();
    tracker.signal(B, 1, &of(&[(A, 3)])).unwrap();
    let counter = Arc::<Counter>::default();
    let mut reach = tracker.reach(of(&[(A, 4)]));
    assert!(poll(&mut reach, &counter).is_pending());
    assert_eq!(tracker.remove(A).unwrap().value(), Ok(3));
    assert_eq!(tracker.history(B), Ok(of(&[(B, 1)])));
    tracker.add(A, &Semaphore::new(0)).unwrap();
    assert_eq!(tracker.history(A), Ok(Frontier::new()));
    all[0].signal(4).unwrap();
    assert_eq!(poll(&mut reach, &counter), Poll::Ready(Ok(of(&[(A, 4)]))));
}

#[test]
fn callbacks_may_use_the_tracker_and_a_panic_costs_nobody_a_wake() {
    let (tracker, all) = tracker();
    let log = Log::default();
    let (inner, notes) = (tracker.clone(), Arc::clone(&log));
    tracker.on_reach(of(&[(A, 1)]), |_| panic!("first"));
    tracker.on_reach(of(&[(A, 1)]), move |known| {
        on_reach(&inner, of(&[(B, 1)]), &notes);
        inner.signal(B, 1, &known.unwrap()).unwrap();
        assert!(inner.remove(C).is_ok());
    });
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tracker.signal(A, 1, &Frontier::new())
    }));
    assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "first");
    assert_eq!(taken(&log), [Ok(of(&[(A, 1), (B, 1)]))]);
    assert!(no_waiters(&all));
    assert_eq!(tracker.signal(A, 2, &Frontier::new()), Ok(()));
}

/// Threads that signal what they waited for, others that cancel: each kept callback runs once, and
/// no history ever claims what was not reached.
#[test]
fn signals_waits_and_cancels_race() {
    const ROUNDS: u64 = 400;
    let (tracker, all) = tracker();
    let (ran, kept) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for (axis, before) in [(A, None), (B, Some(A)), (C, Some(B))] {
            let (tracker, start) = (&tracker, &start);
            scope.spawn(move || {
                start.wait();
                for epoch in 1..=ROUNDS {
                    let target: Frontier =
                        before.map(|before| (before, epoch)).into_iter().collect();
                    let known: Frontier = block_on(tracker.reach(target)).unwrap();
                    tracker.signal(axis, epoch, &known).unwrap();
                    let history = tracker.history(axis).unwrap();
                    assert!(tracker.confirm(history.clone().into()).is_ok());
                    assert!(history.dominates(&known));
                }
            });
        }
        let mut random = Random(0x9E37_79B9);
        start.wait();
        while all[2].value().unwrap() < ROUNDS {
            let now = tracker.current();
            let target = now.iter().map(|(axis, epoch)| (axis, epoch + random.below(3)));
            let target: Frontier = target.map(|(a, e)| (a, e.min(ROUNDS))).collect();
            let count = Arc::clone(&ran);
            let callback = tracker.on_reach(target, move |outcome| {
                assert!(outcome.is_ok());
                count.fetch_add(1, Ordering::SeqCst);
            });
            if random.below(2) == 0 || !callback.cancel() {
                kept.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    assert_eq!(ran.load(Ordering::SeqCst), kept.load(Ordering::SeqCst));
    assert!(no_waiters(&all), "{all:?}");
    let end = of(&[(A, ROUNDS), (B, ROUNDS), (C, ROUNDS)]);
    assert_eq!(tracker.history(C), Ok(end));
}
