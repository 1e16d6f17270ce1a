//! Futex words: what wakes a wait, what ends it otherwise, and that no wake is lost on either way
//! to wait, in the ring or on a helper thread.

use super::net::{idle_turns, settled};
use super::remote::{beside, parked};
use crate::{Case, Cx, Skip};
use dataplane::operations::FutexWait;
use dataplane::{Capability, ErrorKind, FutexWord, Proactor, Submission, Wait, Woken};
use futures_util::future::join_all;
use std::future::IntoFuture;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "futex/woken", needs: &[], run: woken },
    Case { name: "futex/woken_by_an_operation", needs: &[], run: woken_by_an_operation },
    Case { name: "futex/another_value_ends_at_once", needs: &[], run: another_value },
    Case { name: "futex/changed_before_it_is_submitted", needs: &[], run: changed_before },
    Case { name: "futex/nobody_to_wake", needs: &[], run: nobody_to_wake },
    Case { name: "futex/one_of_several", needs: &[], run: one_of_several },
    Case { name: "futex/all_of_them", needs: &[], run: all_of_them },
    Case { name: "futex/words_apart", needs: &[], run: words_apart },
    Case { name: "futex/wakes_a_thread", needs: &[], run: wakes_a_thread },
    Case { name: "futex/blocking_times_out", needs: &[], run: blocking_times_out },
    Case { name: "futex/cancelled", needs: &[], run: cancelled },
    Case { name: "futex/cancel_wakes_nobody_else", needs: &[], run: cancel_wakes_nobody_else },
    Case { name: "futex/timed_out", needs: &[], run: timed_out },
    Case { name: "futex/dropped_at_once", needs: &[], run: dropped_at_once },
    Case { name: "futex/dropped_asleep", needs: &[], run: dropped_asleep },
    Case { name: "futex/the_operation_keeps_the_word", needs: &[], run: keeps_the_word },
    Case { name: "futex/an_untold_wake_is_passed_on", needs: &[], run: passed_on },
    Case { name: "futex/cancel_races_a_wake", needs: &[], run: cancel_races },
    Case { name: "futex/no_wake_is_lost", needs: &[], run: no_wake_is_lost },
    Case { name: "futex/ping_pong_with_a_thread", needs: &[], run: ping_pong },
    Case { name: "futex/callback", needs: &[], run: callback },
    Case { name: "futex/callback_that_panics", needs: &[], run: callback_that_panics },
    Case { name: "futex/in_a_batch", needs: &[], run: in_a_batch },
    Case { name: "futex/from_another_thread", needs: &[], run: from_another_thread },
    Case { name: "futex/shared_word", needs: &[], run: shared_word },
    Case { name: "futex/what_is_no_word_is_refused", needs: &[], run: no_word },
    Case { name: "futex/proactor_first", needs: &[], run: proactor_first },
    Case { name: "futex/too_many_for_the_helpers", needs: &[], run: too_many },
    Case { name: "futex/too_few_helpers", needs: &[], run: too_few_helpers },
    Case { name: "futex/files_go_on_beside_it", needs: &[], run: files_go_on },
];

/// Waits that fit on the helpers of a proactor by default.
const WAITS: usize = 3;
/// Longest that something here takes.
const LIMIT: Duration = Duration::from_secs(10);

type Waiting = Submission<FutexWait>;

fn wait(cx: &Cx<'_>, word: &FutexWord, expected: u32) -> Waiting {
    cx.io.futex_wait(word, expected).submit().expect("room")
}

/// Wakes so many that sleep; they may not be asleep yet.
fn wake(cx: &Cx<'_>, word: &FutexWord, mut count: u32) {
    cx.poll_until("sleepers to wake", || {
        count -= word.wake(count);
        count == 0
    });
}

fn woken(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(7);
    let waiting = wait(cx, &word, 7);
    idle_turns(cx);
    wake(cx, &word, 1);
    assert_eq!(cx.block_on(waiting).expect("woken"), Woken::Wake);
    assert_eq!(word.load(Ordering::Relaxed), 7, "the value is the caller's");
    settled(cx, 0);
    Ok(())
}

fn woken_by_an_operation(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let waiting = wait(cx, &word, 0);
    let deadline = Instant::now() + LIMIT;
    while cx.block_on(cx.io.futex_wake(&word, 1)).expect("a wake") == 0 {
        assert!(Instant::now() < deadline, "it never sleeps");
    }
    assert_eq!(cx.block_on(waiting).expect("woken"), Woken::Wake);
    Ok(())
}

fn another_value(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(1);
    for _ in 0..20 {
        assert_eq!(cx.block_on(wait(cx, &word, 2)).expect("no error"), Woken::Changed);
    }
    assert_eq!(word.wake(1), 0, "none of them sleeps");
    Ok(())
}

fn changed_before(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let request = cx.io.futex_wait(&word, 0);
    word.store(1, Ordering::Release);
    assert_eq!(word.wake(u32::MAX), 0);
    assert_eq!(cx.block_on(request).expect("no error"), Woken::Changed);
    Ok(())
}

fn nobody_to_wake(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    for count in [0, 1, u32::MAX] {
        assert_eq!(cx.block_on(cx.io.futex_wake(&word, count)).expect("a wake"), 0);
        assert_eq!(word.wake(count), 0);
    }
    Ok(())
}

fn one_of_several(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let mut waiting: Vec<Waiting> = (0..WAITS).map(|_| wait(cx, &word, 0)).collect();
    for left in (0..WAITS).rev() {
        wake(cx, &word, 1);
        cx.poll_until("one of them", || {
            waiting.retain_mut(|one| one.try_take().is_none());
            waiting.len() == left
        });
        idle_turns(cx);
        waiting.retain_mut(|one| one.try_take().is_none());
        assert_eq!(waiting.len(), left, "one wake for one of them");
    }
    Ok(())
}

fn all_of_them(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let waiting: Vec<Waiting> = (0..WAITS).map(|_| wait(cx, &word, 0)).collect();
    idle_turns(cx);
    word.store(1, Ordering::Release);
    word.wake(u32::MAX);
    for ended in cx.block_on(join_all(waiting)) {
        // One that came late found the other value.
        ended.expect("woken, or it found the change");
    }
    settled(cx, 0);
    Ok(())
}

fn words_apart(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = (FutexWord::new(0), FutexWord::new(0));
    let (mut first, second) = (wait(cx, &one, 0), wait(cx, &two, 0));
    wake(cx, &two, 1);
    assert_eq!(cx.block_on(second).expect("woken"), Woken::Wake);
    idle_turns(cx);
    assert!(first.try_take().is_none(), "the other word's");
    wake(cx, &one, 1);
    assert_eq!(cx.block_on(first).expect("woken"), Woken::Wake);
    Ok(())
}

fn wakes_a_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let inside = word.clone();
    let thread = thread::spawn(move || inside.wait(0, Some(LIMIT)));
    word.store(1, Ordering::Release);
    cx.block_on(cx.io.futex_wake(&word, 1)).expect("a wake");
    thread.join().expect("no panic").expect("woken, or it found the change");
    Ok(())
}

fn blocking_times_out(_: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let timeout = Duration::from_millis(1);
    let start = Instant::now();
    let late = word.wait(0, Some(timeout)).expect_err("nobody wakes it");
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    assert!(start.elapsed() >= timeout);
    assert_eq!(word.wait(1, Some(timeout)).expect("another value"), Woken::Changed);
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    for turns in [0, 1, 20] {
        let waiting = wait(cx, &word, 0);
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        waiting.cancel().expect("it is pending");
        let failed = cx.block_on(waiting).expect_err("cancelled");
        assert_eq!(failed.kind(), ErrorKind::Cancelled, "{failed}");
    }
    assert_eq!(word.wake(1), 0, "none of them sleeps");
    settled(cx, 0);
    Ok(())
}

fn cancel_wakes_nobody_else(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let (first, mut second) = (wait(cx, &word, 0), wait(cx, &word, 0));
    idle_turns(cx);
    first.cancel().expect("it is pending");
    assert_eq!(cx.block_on(first).expect_err("cancelled").kind(), ErrorKind::Cancelled);
    idle_turns(cx);
    assert!(second.try_take().is_none(), "it was not cancelled");
    wake(cx, &word, 1);
    assert_eq!(cx.block_on(second).expect("woken"), Woken::Wake);
    Ok(())
}

fn timed_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let timeout = Duration::from_millis(2);
    let failed = cx.block_on(cx.io.futex_wait(&word, 0).timeout(timeout)).expect_err("too late");
    assert_eq!(failed.kind(), ErrorKind::TimedOut, "{failed}");
    assert_eq!(word.wake(1), 0);
    settled(cx, 0);
    Ok(())
}

fn dropped_at_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    for _ in 0..20 {
        drop(wait(cx, &word, 0));
        settled(cx, 0);
    }
    assert_eq!(word.wake(u32::MAX), 0);
    Ok(())
}

fn dropped_asleep(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let waiting = wait(cx, &word, 0);
    idle_turns(cx);
    drop(waiting);
    settled(cx, 0);
    assert_eq!(word.wake(u32::MAX), 0, "nobody sleeps there any more");
    Ok(())
}

fn keeps_the_word(cx: &Cx<'_>) -> Result<(), Skip> {
    for word in [FutexWord::new(0), FutexWord::shared(0).expect("a memfd")] {
        let waiting = wait(cx, &word, 0);
        // The operation alone has it now.
        drop(word);
        idle_turns(cx);
        waiting.cancel().expect("it is pending");
        assert_eq!(cx.block_on(waiting).expect_err("cancelled").kind(), ErrorKind::Cancelled);
    }
    Ok(())
}

/// Runs `sleep` on a thread and returns when that sleeps in the kernel.
pub(super) fn asleep<T: Send + 'static>(
    cx: &Cx<'_>,
    sleep: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let (send, name) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let name = std::fs::read_link("/proc/thread-self").expect("proc(5)");
        send.send(name).expect("somebody waits");
        sleep()
    });
    let name = name.recv().expect("it says its name");
    let status = std::path::Path::new("/proc").join(name).join("status");
    cx.poll_until("a thread to sleep", || {
        std::fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tS"))
    });
    thread
}

fn passed_on(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let waiting = wait(cx, &word, 0);
    wake(cx, &word, 1);
    cx.poll_until("its result", || cx.io.stats().in_flight == 0);
    let inside = word.clone();
    let thread = asleep(cx, move || inside.wait(0, Some(LIMIT)));
    // Nobody has looked at what it ended with.
    drop(waiting);
    assert_eq!(thread.join().expect("no panic").expect("passed on"), Woken::Wake);
    // One that was told passes nothing on.
    let waiting = wait(cx, &word, 0);
    wake(cx, &word, 1);
    cx.poll_until("its result", || cx.io.stats().in_flight == 0);
    let inside = word.clone();
    let thread = asleep(cx, move || inside.wait(0, Some(LIMIT)));
    assert_eq!(cx.block_on(waiting).expect("woken"), Woken::Wake);
    assert!(!thread.is_finished());
    assert_eq!(word.wake(u32::MAX), 1, "the thread still sleeps");
    thread.join().expect("no panic").expect("woken");
    Ok(())
}

fn cancel_races(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    for round in 0..20 {
        let waiting = wait(cx, &word, 0);
        for _ in 0..round % 4 {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        let inside = word.clone();
        let waker = thread::spawn(move || inside.wake(1));
        // It may have ended meanwhile.
        let _ = waiting.cancel();
        let ended = cx.block_on(waiting);
        let found = waker.join().expect("no panic");
        match ended {
            Ok(end) => assert_eq!((end, found), (Woken::Wake, 1)),
            Err(failed) => {
                assert_eq!((failed.kind(), found), (ErrorKind::Cancelled, 0), "a wake was lost");
            }
        }
    }
    Ok(())
}

fn no_wake_is_lost(cx: &Cx<'_>) -> Result<(), Skip> {
    const ROUNDS: u32 = 300;
    let word = FutexWord::new(0);
    let inside = word.clone();
    let signaller = thread::spawn(move || {
        for _ in 0..ROUNDS {
            inside.fetch_add(1, Ordering::Release);
            inside.wake(1);
            if inside.load(Ordering::Relaxed).is_multiple_of(3) {
                thread::yield_now();
            }
        }
    });
    let mut seen = 0;
    while seen < ROUNDS {
        // It would wait for ever for a wake that was lost.
        cx.block_on(wait(cx, &word, seen)).expect("woken, or it found a change");
        seen = word.load(Ordering::Acquire);
    }
    signaller.join().expect("no panic");
    Ok(())
}

fn ping_pong(cx: &Cx<'_>) -> Result<(), Skip> {
    const ROUNDS: u32 = 100;
    let word = FutexWord::new(0);
    let inside = word.clone();
    let thread = thread::spawn(move || {
        for round in (1..ROUNDS).step_by(2) {
            while inside.load(Ordering::Acquire) != round {
                inside.wait(round - 1, Some(LIMIT)).expect("in time");
            }
            inside.store(round + 1, Ordering::Release);
            inside.wake(1);
        }
    });
    for round in (0..ROUNDS).step_by(2) {
        while word.load(Ordering::Acquire) != round {
            cx.block_on(wait(cx, &word, round - 1)).expect("no error");
        }
        word.store(round + 1, Ordering::Release);
        word.wake(1);
    }
    thread.join().expect("no panic");
    Ok(())
}

fn callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let (word, ended) = (FutexWord::new(0), std::rc::Rc::new(std::cell::Cell::new(None)));
    let inside = ended.clone();
    let told = move |end: Result<Woken, dataplane::Failed<FutexWait>>| inside.set(end.ok());
    cx.io.futex_wait(&word, 0).on_complete(told).expect("room");
    idle_turns(cx);
    assert_eq!(ended.get(), None);
    wake(cx, &word, 1);
    cx.poll_until("the callback", || ended.get().is_some());
    assert_eq!(ended.get(), Some(Woken::Wake));
    Ok(())
}

fn callback_that_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    cx.io.futex_wait(&word, 0).on_complete(|_| panic!("on purpose")).expect("room");
    let other = wait(cx, &word, 0);
    let mut left = 2;
    let mut panics = 0;
    let deadline = Instant::now() + LIMIT;
    while panics == 0 {
        assert!(Instant::now() < deadline, "it never panics");
        left -= word.wake(left);
        panics += usize::from(catch_unwind(AssertUnwindSafe(|| cx.io.poll(Wait::Now))).is_err());
    }
    wake(cx, &word, left);
    assert_eq!(cx.block_on(other).expect("woken"), Woken::Wake);
    assert_eq!(panics, 1);
    Ok(())
}

fn in_a_batch(cx: &Cx<'_>) -> Result<(), Skip> {
    let (word, other) = (FutexWord::new(0), FutexWord::new(1));
    let mut batch = cx.io.batch();
    let changed = batch.add(cx.io.futex_wait(&other, 0).into_operation());
    let waiting = batch.add(cx.io.futex_wait(&word, 0).into_operation());
    let waking = batch.add(cx.io.futex_wake(&other, 1).into_operation());
    let mut submitted = batch.submit().expect("room");
    let waiting = submitted.take(waiting).expect("once");
    let changed = submitted.take(changed).expect("once");
    assert_eq!(cx.block_on(changed).expect("no error"), Woken::Changed);
    let waking = submitted.take(waking).expect("once");
    assert_eq!(cx.block_on(waking).expect("a wake"), 0);
    wake(cx, &word, 1);
    assert_eq!(cx.block_on(waiting).expect("woken"), Woken::Wake);
    Ok(())
}

fn from_another_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let inside = word.clone();
    beside(cx, move |handle| {
        let waiting = handle.futex_wait(&inside, 0).submit().expect("room");
        let deadline = Instant::now() + LIMIT;
        while parked(handle.futex_wake(&inside, 1).into_future()).expect("a wake") == 0 {
            assert!(Instant::now() < deadline, "it never sleeps");
        }
        assert_eq!(parked(waiting).expect("woken"), Woken::Wake);
        let waiting = handle.futex_wait(&inside, 0).submit().expect("room");
        waiting.cancel();
        let kind = parked(waiting).expect_err("cancelled").kind();
        assert_eq!(kind, ErrorKind::Cancelled);
    });
    assert_eq!(word.wake(1), 0);
    Ok(())
}

fn shared_word(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::shared(3).expect("a memfd");
    let passed = word.fd().expect("it has one").try_clone_to_owned().expect("a descriptor");
    // Another mapping of the same word, as another process has one.
    let other = FutexWord::open(passed).expect("it is one");
    assert_eq!(other.load(Ordering::Relaxed), 3);
    let waiting = wait(cx, &word, 3);
    wake(cx, &other, 1);
    assert_eq!(cx.block_on(waiting).expect("woken"), Woken::Wake);
    other.store(4, Ordering::Relaxed);
    assert_eq!(cx.block_on(wait(cx, &word, 3)).expect("no error"), Woken::Changed);
    assert!(FutexWord::new(0).fd().is_none());
    Ok(())
}

fn no_word(_: &Cx<'_>) -> Result<(), Skip> {
    let pipe = std::io::pipe().expect("two descriptors").0;
    assert_eq!(FutexWord::open(pipe).expect_err("no memfd").kind(), ErrorKind::InvalidArgument);
    Ok(())
}

fn proactor_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let word = FutexWord::new(0);
    let mut waiting = io.futex_wait(&word, 0).submit().expect("room");
    io.poll(Wait::Now).expect("a poll");
    drop(io);
    let ended = waiting.try_take().expect("it has ended");
    assert_eq!(ended.expect_err("gone").kind(), ErrorKind::ShutDown);
    assert_eq!(word.wake(1), 0, "nobody sleeps there any more");
    Ok(())
}

fn too_many(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let waiting: Vec<Waiting> = (0..WAITS).map(|_| wait(cx, &word, 0)).collect();
    let mut last = wait(cx, &word, 0);
    idle_turns(cx);
    if cx.io.capabilities().contains(Capability::Futex) {
        assert!(last.try_take().is_none(), "the ring has room for many");
        last.cancel().expect("it is pending");
        assert_eq!(cx.block_on(last).expect_err("cancelled").kind(), ErrorKind::Cancelled);
    } else {
        let failed = cx.block_on(last).expect_err("no helper left");
        assert_eq!(failed.kind(), ErrorKind::Exhausted, "{failed}");
        assert!(failed.error.message().contains("helpers"), "{failed}");
    }
    wake(cx, &word, WAITS as u32);
    for ended in cx.block_on(join_all(waiting)) {
        assert_eq!(ended.expect("woken"), Woken::Wake);
    }
    // Their helpers are free again.
    let again = wait(cx, &word, 0);
    wake(cx, &word, 1);
    assert_eq!(cx.block_on(again).expect("woken"), Woken::Wake);
    Ok(())
}

fn too_few_helpers(cx: &Cx<'_>) -> Result<(), Skip> {
    if cx.io.capabilities().contains(Capability::Futex) {
        return Ok(()); // the ring waits, and needs none
    }
    for helpers in [0, 1] {
        let io = Proactor::with(cx.options.clone().helpers(helpers)).expect("a second proactor");
        let word = FutexWord::new(0);
        let mut waiting = io.futex_wait(&word, 0).submit().expect("room");
        io.poll(Wait::Now).expect("a poll");
        let mut ended = waiting.try_take();
        while ended.is_none() {
            io.poll(Duration::from_millis(1)).expect("a poll");
            ended = waiting.try_take();
        }
        let failed = ended.expect("it has ended").expect_err("no helper for it");
        assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
        assert!(failed.error.message().contains("futex"), "{failed}");
    }
    Ok(())
}

fn files_go_on(cx: &Cx<'_>) -> Result<(), Skip> {
    let word = FutexWord::new(0);
    let waiting: Vec<Waiting> = (0..WAITS).map(|_| wait(cx, &word, 0)).collect();
    idle_turns(cx);
    let found = cx.block_on(cx.io.resolve("127.0.0.1:80")).expect("a helper is left for names");
    assert_eq!(found.len(), 1);
    drop(waiting);
    settled(cx, 0);
    Ok(())
}
