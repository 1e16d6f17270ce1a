//! Notifications: an epoch to wait for, from threads, from operations and through shared memory.

use super::futex::asleep;
use super::net::{idle_turns, settled};
use super::remote::{beside, parked};
use crate::{Case, Cx, Skip};
use dataplane::operations::WaitNotification;
use dataplane::{ErrorKind, Notification, Proactor, Submission, Wait};
use futures_util::future::join_all;
use std::cell::Cell;
use std::future::IntoFuture;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "notification/signal_ends_a_wait", needs: &[], run: signal_ends_a_wait },
    Case { name: "notification/a_past_epoch_is_no_wait", needs: &[], run: past_epoch },
    Case { name: "notification/signals_may_be_seen_as_one", needs: &[], run: seen_as_one },
    Case { name: "notification/all_of_them", needs: &[], run: all_of_them },
    Case { name: "notification/none_of_them", needs: &[], run: none_of_them },
    Case { name: "notification/wakes_a_thread", needs: &[], run: wakes_a_thread },
    Case { name: "notification/wakes_so_many_threads", needs: &[], run: so_many_threads },
    Case { name: "notification/blocking_times_out", needs: &[], run: blocking_times_out },
    Case { name: "notification/who_waits_is_counted", needs: &[], run: counted },
    Case { name: "notification/a_wake_is_no_signal", needs: &[], run: a_wake_is_no_signal },
    Case { name: "notification/signal_as_an_operation", needs: &[], run: signal_operation },
    Case { name: "notification/signal_dropped_is_sent", needs: &[], run: signal_dropped },
    Case { name: "notification/cancelled", needs: &[], run: cancelled },
    Case { name: "notification/timed_out", needs: &[], run: timed_out },
    Case { name: "notification/dropped", needs: &[], run: dropped },
    Case { name: "notification/an_untold_wake_is_passed_on", needs: &[], run: passed_on },
    Case { name: "notification/no_signal_is_lost", needs: &[], run: no_signal_is_lost },
    Case { name: "notification/ping_pong_with_a_thread", needs: &[], run: ping_pong },
    Case { name: "notification/work_for_threads", needs: &[], run: work_for_threads },
    Case { name: "notification/from_another_thread", needs: &[], run: from_another_thread },
    Case { name: "notification/shared", needs: &[], run: shared },
    Case { name: "notification/what_is_none_is_refused", needs: &[], run: none_is_refused },
    Case { name: "notification/proactor_first", needs: &[], run: proactor_first },
];

/// Longest that something here takes.
const LIMIT: Duration = Duration::from_secs(10);
/// Waits that fit on the helpers of a proactor by default.
const WAITS: usize = 3;

fn wait(cx: &Cx<'_>, notification: &Notification, seen: u32) -> Submission<WaitNotification> {
    cx.io.wait_notification(notification, seen).submit().expect("room")
}

fn signal_ends_a_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    for turns in [0, 1, 20] {
        let seen = notification.epoch();
        let mut waiting = wait(cx, &notification, seen);
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        assert!(waiting.try_take().is_none(), "nobody signalled");
        notification.signal(1);
        assert_eq!(cx.block_on(waiting).expect("signalled"), seen.wrapping_add(1));
    }
    settled(cx, 0);
    assert_eq!(notification.waiting(), 0);
    Ok(())
}

fn past_epoch(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::default();
    let seen = notification.epoch();
    assert_eq!(notification.signal(1), 0, "nobody sleeps");
    assert_eq!(cx.block_on(wait(cx, &notification, seen)).expect("past"), seen + 1);
    assert_eq!(notification.wait(seen, None).expect("past"), seen + 1);
    Ok(())
}

fn seen_as_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let waiting = wait(cx, &notification, 0);
    idle_turns(cx);
    for _ in 0..10 {
        notification.signal_all();
    }
    let epoch = cx.block_on(waiting).expect("signalled");
    assert_eq!(epoch, 10, "it is told the epoch of the moment it looks");
    let mut again = wait(cx, &notification, epoch);
    idle_turns(cx);
    assert!(again.try_take().is_none(), "it has seen all of them");
    Ok(())
}

fn all_of_them(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let waiting: Vec<_> = (0..WAITS).map(|_| wait(cx, &notification, 0)).collect();
    idle_turns(cx);
    notification.signal_all();
    for ended in cx.block_on(join_all(waiting)) {
        assert_eq!(ended.expect("signalled"), 1);
    }
    settled(cx, 0);
    Ok(())
}

fn none_of_them(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let inside = notification.clone();
    let thread = asleep(cx, move || inside.wait(0, Some(LIMIT)));
    assert_eq!(notification.signal(0), 0);
    assert_eq!(notification.epoch(), 1);
    assert_eq!(notification.signal(u32::MAX), 1, "it still slept");
    assert_eq!(thread.join().expect("no panic").expect("signalled"), 2);
    Ok(())
}

fn wakes_a_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let inside = notification.clone();
    let thread = asleep(cx, move || inside.wait(0, Some(LIMIT)));
    assert_eq!(notification.waiting(), 1);
    assert_eq!(notification.signal(1), 1);
    assert_eq!(thread.join().expect("no panic").expect("signalled"), 1);
    assert_eq!(notification.waiting(), 0);
    Ok(())
}

fn so_many_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let sleep = |_| {
        let inside = notification.clone();
        asleep(cx, move || inside.wait(0, Some(LIMIT)).expect("signalled"))
    };
    let threads: Vec<_> = (0..4).map(sleep).collect();
    assert_eq!(notification.signal(3), 3);
    cx.poll_until("three", || threads.iter().filter(|one| one.is_finished()).count() == 3);
    assert_eq!(notification.signal_all(), 1);
    for thread in threads {
        thread.join().expect("no panic");
    }
    Ok(())
}

fn blocking_times_out(_: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let (timeout, start) = (Duration::from_millis(1), Instant::now());
    let late = notification.wait(0, Some(timeout)).expect_err("nobody signals");
    assert_eq!(late.kind(), ErrorKind::TimedOut, "{late}");
    assert!(start.elapsed() >= timeout);
    assert_eq!(notification.waiting(), 0);
    assert_eq!(notification.wait(5, Some(Duration::ZERO)).expect("another epoch"), 0);
    Ok(())
}

fn counted(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let waiting: Vec<_> = (0..WAITS).map(|_| wait(cx, &notification, 0)).collect();
    idle_turns(cx);
    assert_eq!(notification.waiting() as usize, WAITS);
    notification.signal_all();
    cx.poll_until("their results", || cx.io.stats().in_flight == 0);
    assert_eq!(notification.waiting(), 0, "told or not");
    drop(waiting);
    assert_eq!(notification.waiting(), 0);
    Ok(())
}

fn a_wake_is_no_signal(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::shared().expect("a memfd");
    let passed = notification.fd().expect("it has one").try_clone_to_owned().expect("room");
    // The epoch is the file's first word.
    let word = dataplane::FutexWord::open(passed).expect("a set of words");
    let mut waiting = wait(cx, &notification, 0);
    cx.poll_until("a sleeper", || word.wake(1) == 1);
    idle_turns(cx);
    assert!(waiting.try_take().is_none(), "the epoch is the same");
    notification.signal(1);
    assert_eq!(cx.block_on(waiting).expect("signalled"), 1);
    Ok(())
}

fn signal_operation(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let waiting = wait(cx, &notification, 0);
    let woken = cx.block_on(cx.io.signal_notification(&notification, 1)).expect("sent");
    assert!(woken <= 1);
    assert_eq!(cx.block_on(waiting).expect("signalled"), 1);
    // Steps of a sequence: the wait after the signal finds its epoch past.
    let mut batch = cx.io.batch();
    let signal = batch.add(cx.io.signal_notification(&notification, 1).into_operation());
    let wait = cx.io.wait_notification(&notification, 1).into_operation();
    let wait = batch.after(&signal, wait).map_err(|failed| failed.error).expect("one after it");
    let mut submitted = batch.submit().expect("room");
    let (signal, wait) = (submitted.take(signal), submitted.take(wait));
    cx.block_on(signal.expect("once")).expect("sent");
    assert_eq!(cx.block_on(wait.expect("once")).expect("past"), 2);
    Ok(())
}

fn signal_dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    drop(cx.io.signal_notification(&notification, 1).submit().expect("room"));
    settled(cx, 0);
    assert_eq!(notification.epoch(), 1);
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    for turns in [0, 1, 20] {
        let waiting = wait(cx, &notification, 0);
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        waiting.cancel().expect("it is pending");
        let failed = cx.block_on(waiting).expect_err("cancelled");
        assert_eq!(failed.kind(), ErrorKind::Cancelled, "{failed}");
        drop(failed);
        assert_eq!(notification.waiting(), 0);
    }
    Ok(())
}

fn timed_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let waiting = cx.io.wait_notification(&notification, 0).timeout(Duration::from_millis(1));
    let failed = cx.block_on(waiting).expect_err("too late");
    assert_eq!(failed.kind(), ErrorKind::TimedOut, "{failed}");
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    for turns in [0, 20] {
        let waiting = wait(cx, &notification, 0);
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        drop(waiting);
        settled(cx, 0);
        assert_eq!(notification.waiting(), 0);
    }
    assert_eq!(notification.signal_all(), 0);
    Ok(())
}

fn passed_on(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    for seen in 0..5 {
        let waiting = wait(cx, &notification, seen);
        idle_turns(cx);
        let inside = notification.clone();
        let thread = asleep(cx, move || inside.wait(seen, Some(LIMIT)));
        assert_eq!(notification.signal(1), 1, "one of the two");
        idle_turns(cx);
        // Was it the operation, nobody has looked: then the wake is for the thread.
        drop(waiting);
        settled(cx, 0);
        assert_eq!(thread.join().expect("no panic").expect("passed on"), seen + 1);
    }
    Ok(())
}

fn no_signal_is_lost(cx: &Cx<'_>) -> Result<(), Skip> {
    const ROUNDS: u32 = 300;
    let notification = Notification::new();
    let inside = notification.clone();
    let signaller = thread::spawn(move || {
        for round in 0..ROUNDS {
            inside.signal(1);
            if round.is_multiple_of(3) {
                thread::yield_now();
            }
        }
    });
    let mut seen = 0;
    while seen < ROUNDS {
        // It would wait for ever for a signal that was lost.
        seen = cx.block_on(wait(cx, &notification, seen)).expect("signalled");
    }
    signaller.join().expect("no panic");
    assert_eq!(seen, ROUNDS);
    Ok(())
}

fn ping_pong(cx: &Cx<'_>) -> Result<(), Skip> {
    const ROUNDS: u32 = 100;
    let (ping, pong) = (Notification::new(), Notification::new());
    let (far_ping, far_pong) = (ping.clone(), pong.clone());
    let thread = thread::spawn(move || {
        for round in 0..ROUNDS {
            assert_eq!(far_ping.wait(round, Some(LIMIT)).expect("in time"), round + 1);
            far_pong.signal(1);
        }
    });
    for round in 0..ROUNDS {
        let answer = wait(cx, &pong, round);
        ping.signal(1);
        assert_eq!(cx.block_on(answer).expect("answered"), round + 1);
    }
    thread.join().expect("no panic");
    Ok(())
}

fn work_for_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    const ITEMS: u32 = 200;
    let (ready, done) = (Notification::new(), Arc::new(AtomicU32::new(0)));
    let items = Arc::new(AtomicU32::new(0));
    let work = |_| {
        let (ready, done, items) = (ready.clone(), done.clone(), items.clone());
        thread::spawn(move || {
            loop {
                let seen = ready.epoch();
                let take = |left: u32| left.checked_sub(1);
                if items.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                } else if done.load(Ordering::Relaxed) >= ITEMS {
                    return;
                } else {
                    ready.wait(seen, Some(LIMIT)).expect("in time");
                }
            }
        })
    };
    let threads: Vec<_> = (0..3).map(work).collect();
    for _ in 0..ITEMS {
        cx.block_on(cx.io.nop()).expect("a no-op");
        items.fetch_add(1, Ordering::Release);
        ready.signal(1);
    }
    cx.poll_until("all of it", || done.load(Ordering::Relaxed) == ITEMS);
    ready.signal_all();
    for thread in threads {
        thread.join().expect("no panic");
    }
    Ok(())
}

fn from_another_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let notification = Notification::new();
    let inside = notification.clone();
    beside(cx, move |handle| {
        let waiting = handle.wait_notification(&inside, 0).submit().expect("room");
        parked(handle.signal_notification(&inside, 1).into_future()).expect("sent");
        assert_eq!(parked(waiting).expect("signalled"), 1);
    });
    assert_eq!(notification.epoch(), 1);
    Ok(())
}

fn shared(cx: &Cx<'_>) -> Result<(), Skip> {
    let near = Notification::shared().expect("a memfd");
    let passed = near.fd().expect("it has one").try_clone_to_owned().expect("room");
    let far = Notification::open(passed).expect("it is one");
    for round in 0..10 {
        let waiting = wait(cx, &near, round);
        idle_turns(cx);
        assert_eq!(far.waiting(), 1, "counted for both");
        far.signal(1);
        assert_eq!(cx.block_on(waiting).expect("signalled"), round + 1);
    }
    let thread = asleep(cx, move || far.wait(10, Some(LIMIT)));
    assert_eq!(near.signal_all(), 1);
    assert_eq!(thread.join().expect("no panic").expect("signalled"), 11);
    assert!(Notification::new().fd().is_none());
    Ok(())
}

fn none_is_refused(_: &Cx<'_>) -> Result<(), Skip> {
    let pipe = std::io::pipe().expect("two descriptors").0;
    let refused = Notification::open(pipe).expect_err("no memfd");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    Ok(())
}

fn proactor_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let notification = Notification::new();
    let told = Rc::new(Cell::new(None));
    let inside = told.clone();
    let callback = move |ended: Result<u32, dataplane::Failed<WaitNotification>>| {
        inside.set(ended.err().map(|failed| failed.kind()));
    };
    io.wait_notification(&notification, 0).on_complete(callback).expect("room");
    io.poll(Wait::Now).expect("a poll");
    drop(io);
    assert_eq!(told.get(), Some(ErrorKind::ShutDown));
    assert_eq!(notification.waiting(), 0);
    assert_eq!(notification.signal_all(), 0);
    Ok(())
}
