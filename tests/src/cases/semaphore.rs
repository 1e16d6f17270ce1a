//! Semaphores as operations: one, all of several, any of several; signals; failures; every end.

use super::net::{idle_turns, settled};
use crate::{Case, Cx, Skip};
use dataplane::fence::{Failure, Semaphore};
use dataplane::{ErrorKind, Proactor, Wait};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "semaphore/reached_before", needs: &[], run: reached_before },
    Case { name: "semaphore/reached_later", needs: &[], run: reached_later },
    Case { name: "semaphore/from_another_thread", needs: &[], run: from_another_thread },
    Case { name: "semaphore/by_callback", needs: &[], run: by_callback },
    Case { name: "semaphore/through_a_handle", needs: &[], run: through_a_handle },
    Case { name: "semaphore/all", needs: &[], run: all },
    Case { name: "semaphore/all_of_none", needs: &[], run: all_of_none },
    Case { name: "semaphore/any", needs: &[], run: any },
    Case { name: "semaphore/any_of_none_is_refused", needs: &[], run: any_of_none },
    Case { name: "semaphore/same_one_twice", needs: &[], run: same_one_twice },
    Case { name: "semaphore/failed_before", needs: &[], run: failed_before },
    Case { name: "semaphore/failed_meanwhile", needs: &[], run: failed_meanwhile },
    Case { name: "semaphore/failed_with_an_errno_of_ours", needs: &[], run: awkward_errnos },
    Case { name: "semaphore/one_of_all_failed", needs: &[], run: one_of_all_failed },
    Case { name: "semaphore/signal", needs: &[], run: signal },
    Case { name: "semaphore/signal_not_above", needs: &[], run: signal_not_above },
    Case { name: "semaphore/signal_failed_one", needs: &[], run: signal_failed_one },
    Case { name: "semaphore/signal_calls_with_nothing_borrowed", needs: &[], run: reentrant },
    Case { name: "semaphore/signal_with_a_panic", needs: &[], run: signal_with_a_panic },
    Case { name: "semaphore/signal_cancelled", needs: &[], run: signal_cancelled },
    Case { name: "semaphore/signal_cancelled_late", needs: &[], run: signal_cancelled_late },
    Case { name: "semaphore/cancel", needs: &[], run: cancel },
    Case { name: "semaphore/cancel_after_the_signal", needs: &[], run: cancel_after_the_signal },
    Case { name: "semaphore/cancel_race", needs: &[], run: cancel_race },
    Case { name: "semaphore/timeout", needs: &[], run: timeout },
    Case { name: "semaphore/dropped", needs: &[], run: dropped },
    Case { name: "semaphore/dropped_after_the_signal", needs: &[], run: dropped_after },
    Case { name: "semaphore/batch", needs: &[], run: batch },
    Case { name: "semaphore/proactor_goes_first", needs: &[], run: proactor_goes_first },
    Case { name: "semaphore/signal_after_the_proactor", needs: &[], run: signal_after_the_end },
    Case { name: "semaphore/last_handle_in_the_wait", needs: &[], run: last_handle },
];

fn reached_before(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(7);
    for wanted in [0, 3, 7] {
        assert_eq!(cx.block_on(cx.io.wait_semaphore(&semaphore, wanted)).expect("reached"), 7);
    }
    settled(cx, 0);
    Ok(())
}

fn reached_later(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let mut wait = cx.io.wait_semaphore(&semaphore, u64::MAX).submit().expect("room");
    idle_turns(cx);
    semaphore.signal(u64::MAX - 1).expect("above");
    idle_turns(cx);
    assert!(wait.try_take().is_none());
    semaphore.signal(u64::MAX).expect("above");
    assert_eq!(cx.block_on(wait).expect("reached"), u64::MAX);
    settled(cx, 0);
    Ok(())
}

fn from_another_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let signaller = std::thread::spawn({
        let semaphore = semaphore.clone();
        move || (1..=200).for_each(|value| semaphore.signal(value).expect("above"))
    });
    for value in (1..=200).step_by(7) {
        assert!(cx.block_on(cx.io.wait_semaphore(&semaphore, value)).expect("reached") >= value);
    }
    signaller.join().expect("no panic");
    Ok(())
}

fn by_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let seen = Rc::new(Cell::new(0));
    let inside = seen.clone();
    let told = move |ended: Result<u64, _>| inside.set(ended.expect("reached"));
    cx.io.wait_semaphore(&semaphore, 2).on_complete(told).expect("room");
    semaphore.signal(5).expect("above");
    assert_eq!(seen.get(), 0, "inside a poll, not before");
    cx.poll_until("the callback", || seen.get() == 5);
    Ok(())
}

fn through_a_handle(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = (Semaphore::new(0), Semaphore::new(0));
    let handle = cx.io.handle();
    let all = handle.wait_all_semaphores(&[(&one, 1), (&two, 1)]).submit().expect("room");
    let any = handle.wait_any_semaphore(&[(&one, 9), (&two, 1)]).submit().expect("room");
    let single = handle.wait_semaphore(&one, 1).submit().expect("room");
    cx.block_on(handle.signal_semaphore(&one, 1)).expect("above");
    cx.block_on(handle.signal_semaphore(&two, 4)).expect("above");
    cx.block_on(all).expect("both are reached");
    let reached = cx.block_on(any).expect("the second is reached");
    assert_eq!((reached.index, reached.value), (1, 4));
    assert_eq!(cx.block_on(single).expect("reached"), 1);
    Ok(())
}

fn all(cx: &Cx<'_>) -> Result<(), Skip> {
    let list: Vec<Semaphore> = (0..8).map(Semaphore::new).collect();
    let wanted: Vec<(&Semaphore, u64)> = list.iter().map(|one| (one, 8)).collect();
    let mut wait = cx.io.wait_all_semaphores(&wanted).submit().expect("room");
    for at in [3, 0, 7, 1, 6, 2, 5] {
        list[at].signal(8).expect("above");
        idle_turns(cx);
        assert!(wait.try_take().is_none(), "not all are reached");
    }
    list[4].signal(9).expect("above");
    cx.block_on(wait).expect("all are reached");
    settled(cx, 0);
    Ok(())
}

fn all_of_none(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.block_on(cx.io.wait_all_semaphores(&[])).expect("nothing is missing");
    settled(cx, 0);
    Ok(())
}

fn any(cx: &Cx<'_>) -> Result<(), Skip> {
    let list = [Semaphore::new(0), Semaphore::new(0), Semaphore::new(0)];
    for round in 1..=6 {
        let wanted: Vec<(&Semaphore, u64)> = list.iter().map(|one| (one, round)).collect();
        let wait = cx.io.wait_any_semaphore(&wanted).submit().expect("room");
        let first = (round % 3) as usize;
        list[first].signal(round).expect("above");
        let reached = cx.block_on(wait).expect("one is reached");
        assert_eq!((reached.index, reached.value), (first, round));
        // Those that lost were taken back.
        let all = format!("{list:?}");
        assert!(!all.contains("waiters: 1"), "{all}");
        for other in [1, 2] {
            list[(first + other) % 3].signal(round).expect("above");
        }
    }
    settled(cx, 0);
    Ok(())
}

fn any_of_none(cx: &Cx<'_>) -> Result<(), Skip> {
    let error = cx.io.wait_any_semaphore(&[]).submit().err().expect("refused").into_error();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    cx.note(error);
    Ok(())
}

fn same_one_twice(cx: &Cx<'_>) -> Result<(), Skip> {
    let one = Semaphore::new(0);
    let all = cx.io.wait_all_semaphores(&[(&one, 2), (&one, 4)]).submit().expect("room");
    let any = cx.io.wait_any_semaphore(&[(&one, 4), (&one, 2)]).submit().expect("room");
    one.signal(2).expect("above");
    assert_eq!(cx.block_on(any).expect("the second is reached").index, 1);
    one.signal(4).expect("above");
    cx.block_on(all).expect("both are reached");
    Ok(())
}

fn failed_before(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(3);
    semaphore.fail(Failure::with_errno(libc::EIO, "the device is lost"));
    let error = cx.block_on(cx.io.wait_semaphore(&semaphore, 1)).unwrap_err().into_error();
    cx.note(&error);
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(libc::EIO)));
    assert!(error.message().contains("the device is lost"), "{error}");
    settled(cx, 0);
    Ok(())
}

fn failed_meanwhile(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let wait = cx.io.wait_semaphore(&semaphore, 1).submit().expect("room");
    idle_turns(cx);
    semaphore.fail(Failure::new("nobody draws any more"));
    let failed = cx.block_on(wait).unwrap_err();
    cx.note(&failed.error);
    assert_eq!((failed.kind(), failed.error.errno()), (ErrorKind::Io, None));
    assert!(failed.operation().is_some(), "it comes back");
    Ok(())
}

/// Errnos that mean something to the engine arrive as what they are: the semaphore's.
fn awkward_errnos(cx: &Cx<'_>) -> Result<(), Skip> {
    for errno in [libc::EAGAIN, libc::EINTR, libc::ECANCELED, libc::ETIME, libc::ENOBUFS, 4095] {
        let semaphore = Semaphore::new(0);
        let wait = cx.io.wait_semaphore(&semaphore, 1).submit().expect("room");
        semaphore.fail(Failure::with_errno(errno, "broken"));
        let error = cx.block_on(wait).unwrap_err().into_error();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(errno)));
    }
    settled(cx, 0);
    Ok(())
}

fn one_of_all_failed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (sound, broken) = (Semaphore::new(0), Semaphore::new(0));
    let list = [(&sound, 1), (&broken, 1)];
    let all = cx.io.wait_all_semaphores(&list).submit().expect("room");
    let any = cx.io.wait_any_semaphore(&list).submit().expect("room");
    broken.fail(Failure::with_errno(libc::ENODEV, "unplugged"));
    for error in [
        cx.block_on(all).unwrap_err().into_error(),
        cx.block_on(any).map(|_| ()).unwrap_err().into_error(),
    ] {
        cx.note(&error);
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(error.message().contains("number 1"), "{error}");
    }
    sound.signal(1).expect("nobody is disturbed");
    settled(cx, 0);
    Ok(())
}

fn signal(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let wait = cx.io.wait_semaphore(&semaphore, 3).submit().expect("room");
    let signal = cx.io.signal_semaphore(&semaphore, 3).submit().expect("room");
    assert_eq!(semaphore.value(), Ok(0), "inside a poll, not before");
    cx.block_on(signal).expect("above");
    assert_eq!(semaphore.value(), Ok(3));
    assert_eq!(cx.block_on(wait).expect("reached"), 3);
    settled(cx, 0);
    Ok(())
}

fn signal_not_above(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(5);
    for value in [0, 5] {
        let error = cx.block_on(cx.io.signal_semaphore(&semaphore, value)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        cx.note(error);
    }
    assert_eq!(semaphore.value(), Ok(5));
    cx.block_on(cx.io.signal_semaphore(&semaphore, 6)).expect("above");
    Ok(())
}

fn signal_failed_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    semaphore.fail(Failure::with_errno(libc::EIO, "lost"));
    let error = cx.block_on(cx.io.signal_semaphore(&semaphore, 1)).unwrap_err().into_error();
    cx.note(&error);
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(libc::EIO)));
    Ok(())
}

fn reentrant(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let handle = cx.io.handle();
    let calls = Arc::new(AtomicUsize::new(0));
    let inside = calls.clone();
    let next = semaphore.clone();
    semaphore.on_reach(1, move |_| {
        // Submitting, and signalling again, from inside.
        drop(handle.nop().submit().expect("room"));
        next.signal(2).expect("above");
        inside.fetch_add(1, Ordering::SeqCst);
    });
    let wait = cx.io.wait_semaphore(&semaphore, 2).submit().expect("room");
    cx.block_on(cx.io.signal_semaphore(&semaphore, 1)).expect("above");
    assert_eq!(cx.block_on(wait).expect("reached"), 2);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    settled(cx, 0);
    Ok(())
}

fn signal_with_a_panic(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    semaphore.on_reach(1, |_| std::panic::resume_unwind(Box::new("from a callback")));
    let wait = cx.io.wait_semaphore(&semaphore, 1).submit().expect("room");
    let signal = cx.io.signal_semaphore(&semaphore, 1).submit().expect("room");
    let poll = catch_unwind(AssertUnwindSafe(|| cx.io.poll(Wait::Now)));
    assert!(poll.is_err(), "it leaves the poll");
    cx.block_on(signal).expect("it happened all the same");
    assert_eq!(cx.block_on(wait).expect("reached"), 1);
    settled(cx, 0);
    Ok(())
}

fn signal_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let signal = cx.io.signal_semaphore(&semaphore, 1).submit().expect("room");
    signal.cancel().expect("pending");
    assert_eq!(cx.block_on(signal).unwrap_err().kind(), ErrorKind::Cancelled);
    drop(cx.io.signal_semaphore(&semaphore, 1).submit().expect("room"));
    settled(cx, 0);
    assert_eq!(semaphore.value(), Ok(0), "nothing changed");
    Ok(())
}

fn signal_cancelled_late(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let signal = Rc::new(Cell::new(None));
    let seen = semaphore.clone();
    let (io, inside) = (cx.io.clone(), signal.clone());
    // Cancelled after it happened and before its result is delivered.
    let meanwhile = cx.io.wait_semaphore(&seen, 0).on_complete(move |_| {
        if let Some(id) = inside.take() {
            let _ = io.cancel(id);
        }
    });
    meanwhile.expect("room");
    let submitted = cx.io.signal_semaphore(&semaphore, 1).submit().expect("room");
    signal.set(Some(submitted.id()));
    match cx.block_on(submitted) {
        Ok(()) => assert_eq!(semaphore.value(), Ok(1)),
        Err(failed) => {
            assert_eq!(failed.kind(), ErrorKind::Cancelled);
            assert_eq!(semaphore.value(), Ok(0));
        }
    }
    settled(cx, 0);
    Ok(())
}

fn cancel(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let wait = cx.io.wait_semaphore(&semaphore, 1).submit().expect("room");
    let any = cx.io.wait_any_semaphore(&[(&semaphore, 1)]).submit().expect("room");
    let all = cx.io.wait_all_semaphores(&[(&semaphore, 1)]).submit().expect("room");
    idle_turns(cx);
    wait.cancel().expect("pending");
    any.cancel().expect("pending");
    all.cancel().expect("pending");
    assert!(format!("{semaphore:?}").contains("waiters: 0"), "taken back at once");
    // A signal that comes now is nobody's.
    semaphore.signal(1).expect("above");
    assert_eq!(cx.block_on(wait).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(cx.block_on(any).map(|_| ()).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(cx.block_on(all).unwrap_err().kind(), ErrorKind::Cancelled);
    settled(cx, 0);
    Ok(())
}

fn cancel_after_the_signal(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let wait = cx.io.wait_semaphore(&semaphore, 1).submit().expect("room");
    semaphore.signal(1).expect("above");
    let _ = wait.cancel();
    assert_eq!(cx.block_on(wait).expect("the signal came first"), 1);
    settled(cx, 0);
    Ok(())
}

fn cancel_race(cx: &Cx<'_>) -> Result<(), Skip> {
    for _ in 0..20 {
        let semaphore = Semaphore::new(0);
        let wait = cx.io.wait_semaphore(&semaphore, 1).submit().expect("room");
        let signaller = std::thread::spawn({
            let semaphore = semaphore.clone();
            move || semaphore.signal(1).expect("above")
        });
        let _ = wait.cancel();
        match cx.block_on(wait) {
            Ok(value) => assert_eq!(value, 1),
            Err(failed) => assert_eq!(failed.kind(), ErrorKind::Cancelled),
        }
        signaller.join().expect("no panic");
    }
    settled(cx, 0);
    Ok(())
}

fn timeout(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let wait = cx.io.wait_semaphore(&semaphore, 1).timeout(Duration::from_millis(1));
    let error = cx.block_on(wait).unwrap_err().into_error();
    cx.note(&error);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(format!("{semaphore:?}").contains("waiters: 0"));
    settled(cx, 0);
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    drop(cx.io.wait_semaphore(&semaphore, 1).submit().expect("room"));
    drop(cx.io.wait_any_semaphore(&[(&semaphore, 1)]).submit().expect("room"));
    drop(cx.io.wait_semaphore(&semaphore, 1));
    settled(cx, 0);
    assert!(format!("{semaphore:?}").contains("waiters: 0"));
    Ok(())
}

fn dropped_after(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = (Semaphore::new(0), Semaphore::new(0));
    let wait = cx.io.wait_any_semaphore(&[(&one, 1), (&two, 1)]).submit().expect("room");
    one.signal(1).expect("above");
    drop(wait);
    settled(cx, 0);
    assert!(format!("{two:?}").contains("waiters: 0"), "the other was taken back");
    Ok(())
}

fn batch(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = (Semaphore::new(0), Semaphore::new(0));
    let mut batch = cx.io.batch();
    let all = batch.add(cx.io.wait_all_semaphores(&[(&one, 1), (&two, 1)]).into_operation());
    let wait = batch.add(cx.io.wait_semaphore(&two, 1).into_operation());
    let signals =
        [&one, &two].map(|one| batch.add(cx.io.signal_semaphore(one, 1).into_operation()));
    let mut submitted = batch.submit().expect("room");
    for ticket in signals {
        cx.block_on(submitted.take(ticket).expect("the first time")).expect("above");
    }
    cx.block_on(submitted.take(all).expect("the first time")).expect("reached");
    cx.block_on(submitted.take(wait).expect("the first time")).expect("reached");
    Ok(())
}

fn proactor_goes_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let io = Proactor::with(cx.options.clone()).expect("another proactor");
    let mut wait = io.wait_semaphore(&semaphore, 1).submit().expect("room");
    let far = io.handle().wait_semaphore(&semaphore, 1).submit().expect("room");
    io.poll(Wait::Now).expect("a poll");
    drop(io);
    let ended = wait.try_take().expect("told").unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ShutDown);
    assert_eq!(cx.block_on(far).unwrap_err().kind(), ErrorKind::ShutDown);
    assert!(format!("{semaphore:?}").contains("waiters: 0"));
    semaphore.signal(1).expect("nobody is disturbed");
    Ok(())
}

fn signal_after_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let semaphore = Semaphore::new(0);
    let io = Proactor::with(cx.options.clone()).expect("another proactor");
    let mut signal = io.signal_semaphore(&semaphore, 1).submit().expect("room");
    drop(io);
    assert_eq!(signal.try_take().expect("told").unwrap_err().kind(), ErrorKind::ShutDown);
    assert_eq!(semaphore.value(), Ok(0), "it never had its turn");
    Ok(())
}

/// Drops of the user's run when the wait is dropped, where submitting is allowed.
fn last_handle(cx: &Cx<'_>) -> Result<(), Skip> {
    struct Submits(dataplane::Handle, Arc<AtomicUsize>);
    impl Drop for Submits {
        fn drop(&mut self) {
            drop(self.0.nop().submit().expect("room"));
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let semaphore = Semaphore::new(0);
    let submits = Submits(cx.io.handle(), drops.clone());
    semaphore.on_reach(9, move |_| drop(submits));
    let wait = cx.io.wait_semaphore(&semaphore, 1).submit().expect("room");
    drop(semaphore);
    idle_turns(cx);
    assert_eq!(drops.load(Ordering::SeqCst), 0, "the wait keeps it alive");
    drop(wait);
    cx.poll_until("the drop", || drops.load(Ordering::SeqCst) == 1);
    settled(cx, 0);
    Ok(())
}
