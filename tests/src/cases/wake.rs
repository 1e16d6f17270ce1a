//! Waking a poll: from anywhere, once for many, never lost.

use crate::{Case, Cx, Skip};
use dataplane::{Proactor, Wait};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "wake/before_a_poll", needs: &[], run: before_a_poll },
    Case { name: "wake/many_count_as_one", needs: &[], run: many_count_as_one },
    Case { name: "wake/during_a_poll", needs: &[], run: during_a_poll },
    Case { name: "wake/from_many_threads", needs: &[], run: from_many_threads },
    Case { name: "wake/from_a_callback", needs: &[], run: from_a_callback },
    Case { name: "wake/calls_from_other_threads", needs: &[], run: calls },
    Case { name: "wake/after_the_end", needs: &[], run: after_the_end },
];

/// Far longer than any wake takes: what ends earlier was woken.
const LONG: Duration = Duration::from_secs(5);

/// Polls for a long time; whether it ended before that.
fn is_woken(io: &Proactor) -> bool {
    let begun = Instant::now();
    io.poll(LONG).expect("a poll");
    begun.elapsed() < LONG
}

fn before_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.io.handle().wake();
    assert!(is_woken(cx.io), "a wake before the poll is not lost");
    Ok(())
}

fn many_count_as_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    for _ in 0..1000 {
        handle.wake();
    }
    assert!(is_woken(cx.io));
    let until = Instant::now() + Duration::from_millis(2);
    assert_eq!(cx.io.poll(until).expect("a poll"), 0);
    assert!(Instant::now() >= until, "nothing is left of the others");
    Ok(())
}

fn during_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    for _ in 0..5 {
        let handle = cx.io.handle();
        let waking = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1));
            handle.wake();
        });
        assert!(is_woken(cx.io), "it slept through");
        waking.join().expect("it only wakes");
    }
    Ok(())
}

fn from_many_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let done = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (handle, done) = (cx.io.handle(), done.clone());
            std::thread::spawn(move || {
                for _ in 0..200 {
                    done.fetch_add(1, Ordering::Release);
                    handle.wake();
                }
            })
        })
        .collect();
    // Every count is followed by a wake: a poll that sleeps with one unseen would sleep on.
    while done.load(Ordering::Acquire) < 800 {
        assert!(is_woken(cx.io), "a wake was lost");
    }
    for thread in threads {
        thread.join().expect("it only wakes");
    }
    Ok(())
}

fn from_a_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let ran = Rc::new(Cell::new(0));
    for _ in 0..3 {
        let (handle, count) = (cx.io.handle(), ran.clone());
        let told = move |_: Result<(), _>| {
            count.set(count.get() + 1);
            handle.wake();
        };
        cx.io.nop().on_complete(told).expect("room");
    }
    cx.poll_until("three callbacks", || ran.get() == 3);
    cx.block_on(cx.io.nop()).expect("the loop goes on");
    Ok(())
}

fn calls(cx: &Cx<'_>) -> Result<(), Skip> {
    let here = std::thread::current().id();
    let handle = cx.io.handle();
    let calling = std::thread::spawn(move || {
        let calls: Vec<_> = (0..50u32)
            .map(|n| handle.call(move |io| (n, std::thread::current().id(), io.backend())))
            .collect();
        calls
    });
    let calls = calling.join().expect("it only submits");
    let answers = cx.block_on(futures_util::future::join_all(calls));
    for (n, answer) in answers.into_iter().enumerate() {
        let (number, thread, backend) = answer.expect("the proactor lives");
        assert_eq!((number as usize, thread, backend), (n, here, cx.io.backend()));
    }
    Ok(())
}

fn after_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second one");
    let handle = io.handle();
    let called = handle.call(|_| 1);
    io.shutdown(Wait::Now).expect("shut down");
    handle.wake();
    assert!(handle.is_closed());
    // The call was in the inbox when the end came: it ran, or it is refused; it does not wait.
    let before = cx.block_on(called).map_err(|error| error.kind());
    let late = cx.block_on(handle.call(|_| 2)).map_err(|error| error.kind());
    cx.note(format!("{before:?}, then {late:?}"));
    assert!(late.is_err());
    Ok(())
}
