//! Contexts of one thread: they poll the case's own proactor, and finish on the spot what need not
//! wait.

use crate::{Case, Cx, Skip};
use dataplane::regions::SpanList;
use dataplane::{Capability, ErrorKind, LocalContext, LocalContextHandle, Wait, ZeroCopy};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "local_context/out_of_work_is_stopped", needs: &[], run: out_of_work },
    Case { name: "local_context/one_at_a_time_in_order", needs: &[], run: in_order },
    Case { name: "local_context/a_wait_ends_at_the_callers_time", needs: &[], run: callers_time },
    Case { name: "local_context/a_wait_ends_at_a_timer", needs: &[], run: a_timer },
    Case { name: "local_context/a_wait_ends_at_a_deadline", needs: &[], run: a_deadline },
    Case { name: "local_context/a_busy_loop_reaps", needs: &[], run: a_busy_loop },
    Case { name: "local_context/poll_ends_whatever_is_posted", needs: &[], run: poll_ends },
    Case { name: "local_context/a_guard_is_work", needs: &[], run: a_guard },
    Case { name: "local_context/stop_and_restart", needs: &[], run: stop_and_restart },
    Case { name: "local_context/an_operation_is_work", needs: &[], run: an_operation },
    Case { name: "local_context/a_callback_posts", needs: &[], run: a_callback_posts },
    Case { name: "local_context/a_callback_does_not_run_it", needs: &[], run: inside_a_poll },
    Case { name: "local_context/woken_from_another_thread", needs: &[], run: woken_elsewhere },
    Case { name: "local_context/a_task_wakes_itself_fairly", needs: &[], run: wakes_itself },
    Case { name: "local_context/an_aborted_task_is_dropped", needs: &[], run: an_aborted_task },
    Case { name: "local_context/a_poll_of_the_proactor_runs_none", needs: &[], run: only_in_a_run },
    Case { name: "local_context/a_value_is_taken_without_waiting", needs: &[], run: taken },
    Case { name: "local_context/a_tasks_task_ends_the_poll", needs: &[], run: woken_by_a_task },
    Case { name: "local_context/panics_leave_the_run", needs: &[], run: panics },
    Case { name: "local_context/nested_each_with_its_budget", needs: &[], run: nested },
    Case { name: "local_context/nested_in_itself_it_never_waits", needs: &[], run: in_itself },
    Case { name: "local_context/its_end_drops_what_never_ran", needs: &[], run: its_end },
    Case { name: "local_context/what_is_there_is_received_at_once", needs: &[], run: inline_recv },
    Case { name: "local_context/the_inline_budget_is_bounded", needs: &[], run: inline_budget },
    Case { name: "local_context/order_is_kept_inline", needs: &[], run: inline_order },
    Case { name: "local_context/a_large_send_goes_on_in_the_ring", needs: &[], run: inline_large },
    Case { name: "local_context/inline_errors_are_errors", needs: &[], run: inline_errors },
    Case { name: "local_context/inline_if_it_is_copied", needs: &[], run: inline_if_copied },
    Case { name: "local_context/a_chatty_connection_starves_nobody", needs: &[], run: chatty },
];

fn counter() -> (Rc<Cell<usize>>, impl Fn() + Clone + 'static) {
    let count = Rc::new(Cell::new(0));
    let theirs = count.clone();
    (count, move || theirs.set(theirs.get() + 1))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(2)
}

fn hour() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Runs it to its end, which must not be far.
fn run(context: &LocalContext) -> usize {
    let count = context.run_until(Duration::from_secs(10)).expect("it polls");
    assert!(context.stopped(), "not at its end after ten seconds");
    count
}

fn out_of_work(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (count, add) = counter();
    assert_eq!((context.run(), context.stopped()), (Ok(0), true));
    context.post(add);
    assert_eq!((context.run(), context.poll(), context.run_one()), (Ok(0), Ok(0), Ok(0)));
    context.restart();
    assert_eq!((run(&context), count.get()), (1, 1));
    Ok(())
}

fn in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let seen = Rc::new(RefCell::new(Vec::new()));
    for at in 0..4 {
        let seen = seen.clone();
        context.post(move || seen.borrow_mut().push(at));
    }
    assert_eq!((context.run_one(), context.poll_one(), context.poll()), (Ok(1), Ok(1), Ok(2)));
    assert_eq!(*seen.borrow(), [0, 1, 2, 3]);
    assert!(context.stopped());
    Ok(())
}

fn callers_time(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let _work = context.work();
    // A later timer, and a later deadline, do not prolong it.
    let timer = cx.io.sleep_until(hour()).submit().expect("room");
    let until = soon();
    assert_eq!(context.wait_one(until), Ok(0));
    assert!(Instant::now() >= until);
    assert_eq!(context.wait_one(Wait::Now), Ok(0));
    drop(timer);
    Ok(())
}

fn a_timer(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let at = soon();
    let (count, add) = counter();
    drop(context.submit(cx.io.sleep_until(at), move |ended| {
        ended.expect("a timer");
        add();
    }));
    let begun = Instant::now();
    assert!(context.run_until(hour()).expect("it polls") >= 1);
    assert!(Instant::now() >= at && begun.elapsed() < Duration::from_secs(60));
    assert_eq!(count.get(), 1);
    Ok(())
}

fn a_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, _two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let kind = Rc::new(Cell::new(None));
    let told = kind.clone();
    let receive = one.recv(slab.lease().expect("a slot")).deadline(soon());
    drop(context.submit(receive, move |ended| {
        told.set(Some(ended.expect_err("nobody sends").kind()));
    }));
    assert!(context.run_until(hour()).expect("it polls") >= 1);
    assert_eq!(kind.get(), Some(ErrorKind::TimedOut));
    Ok(())
}

/// Posts itself for ever.
fn again(handle: &LocalContextHandle) {
    let next = handle.clone();
    // Refused only at the end.
    let _ = handle.post(move || again(&next));
}

fn a_busy_loop(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    again(&context.handle());
    let (stop, timer) = (context.handle(), cx.io.sleep_until(soon()));
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let received = Rc::new(Cell::new(0));
    let told = received.clone();
    let task = context.spawn(async move {
        timer.await.expect("a timer");
        one.send_all(vec![1; 40]).await.expect("sent");
        let filled = two.recv(slab.lease().expect("a slot")).await.expect("received");
        told.set(filled.len());
        stop.stop();
    });
    let ran = context.run_until(Duration::from_secs(10)).expect("it polls");
    assert!(ran > 32 && context.stopped(), "handlers without end, and yet: {ran}");
    assert_eq!(received.get(), 40);
    assert!(task.is_finished());
    Ok(())
}

fn poll_ends(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    again(&context.handle());
    assert_eq!((context.poll(), context.poll()), (Ok(1), Ok(1)));
    assert!(context.run_until(soon()).expect("it polls") > 2);
    Ok(())
}

fn a_guard(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (work, second) = (context.work(), context.work().clone());
    drop(work);
    assert_eq!((context.run_until(soon()), context.stopped()), (Ok(0), false));
    // From inside its own handler the last one ends the run.
    context.post(move || drop(second));
    assert_eq!(run(&context), 1);
    Ok(())
}

fn stop_and_restart(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (count, add) = counter();
    let inside = context.clone();
    context.post(move || {
        inside.stop();
        inside.restart();
    });
    context.post(add);
    assert_eq!((context.run(), count.get()), (Ok(1), 0), "the stop counts for the run it ended");
    assert_eq!((context.run(), count.get()), (Ok(1), 1));
    Ok(())
}

fn an_operation(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (count, add) = counter();
    let inside = context.handle();
    drop(context.submit(cx.io.nop(), move |ended| {
        ended.expect("a no-op");
        assert!(inside.is_running_here());
        add();
    }));
    assert!(run(&context) >= 1);
    assert_eq!(count.get(), 1);
    assert!(!context.is_running_here());
    Ok(())
}

/// A callback runs inside the poll that the runner sleeps in, which then returns to what it posted.
fn a_callback_posts(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let work = context.work();
    let (count, add) = counter();
    let handle = context.handle();
    let called = cx.io.sleep_until(soon()).on_complete(move |ended| {
        ended.expect("a timer");
        handle.post(add).expect("it is there");
        drop(work);
    });
    called.expect("room");
    assert_eq!((run(&context), count.get()), (1, 1));
    Ok(())
}

fn inside_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (_work, inside) = (context.work(), context.clone());
    let kind = Rc::new(Cell::new(None));
    let told = kind.clone();
    let called = cx.io.nop().on_complete(move |_| {
        told.set(Some(inside.run().expect_err("a poll is under way").kind()));
    });
    called.expect("room");
    cx.poll_until("the callback", || kind.get().is_some());
    assert_eq!(kind.get(), Some(ErrorKind::Busy));
    Ok(())
}

fn woken_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let mut thread = None;
    let task = context.spawn(poll_fn(move |cx| match thread.take() {
        Some(woken) => {
            let _: std::thread::JoinHandle<()> = woken;
            Poll::Ready(7)
        }
        None => {
            let waker = cx.waker().clone();
            thread = Some(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(2));
                waker.wake_by_ref();
                waker.wake();
            }));
            Poll::Pending
        }
    }));
    assert_eq!(run(&context), 2, "two wakings before its turn are one");
    assert_eq!(cx.block_on(task), Ok(7));
    Ok(())
}

fn wakes_itself(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let order = Rc::new(RefCell::new(Vec::new()));
    for name in ["one", "two"] {
        let (order, mut turns) = (order.clone(), 0);
        drop(context.spawn(poll_fn(move |cx| {
            order.borrow_mut().push(name);
            turns += 1;
            cx.waker().wake_by_ref();
            if turns == 3 { Poll::Ready(()) } else { Poll::Pending }
        })));
    }
    assert_eq!(run(&context), 6);
    assert_eq!(*order.borrow(), ["one", "two", "one", "two", "one", "two"]);
    Ok(())
}

fn an_aborted_task(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let held = Rc::new(());
    let (inside, timer) = (held.clone(), cx.io.sleep_until(hour()));
    let task = context.spawn(async move {
        let _inside = inside;
        timer.await.expect("an hour");
    });
    assert_eq!(context.run_one(), Ok(1));
    task.abort();
    assert_eq!(Rc::strong_count(&held), 1, "at once");
    assert_eq!((context.stopped(), context.run()), (true, Ok(0)), "it was the last piece of work");
    assert_eq!(cx.block_on(task).expect_err("no value").kind(), ErrorKind::Cancelled);
    Ok(())
}

/// Woken or not, from here or elsewhere: its tasks are the run's.
fn only_in_a_run(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (count, add) = counter();
    let waker = Rc::new(RefCell::new(None));
    let (theirs, beside) = (waker.clone(), cx.io.spawn(async { 3 }));
    let task = context.spawn(poll_fn(move |cx| {
        add();
        theirs.replace(Some(cx.waker().clone())).map_or(Poll::Pending, |_| Poll::Ready(5))
    }));
    assert_eq!((cx.block_on(beside), count.get()), (Ok(3), 0));
    assert_eq!((context.run_one(), count.get()), (Ok(1), 1));
    let waker = waker.borrow().clone().expect("it was polled");
    std::thread::spawn(move || waker.wake()).join().expect("it only wakes");
    cx.poll_until("the wake", || {
        let beside = cx.io.spawn(async { 4 });
        cx.block_on(beside) == Ok(4)
    });
    assert_eq!((count.get(), task.is_finished()), (1, false));
    assert_eq!((run(&context), count.get()), (1, 2));
    assert_eq!(cx.block_on(task), Ok(5));
    Ok(())
}

fn taken(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let mut task = context.spawn(async { 7 });
    assert_eq!((task.try_take(), task.is_finished()), (None, false));
    run(&context);
    assert_eq!((task.is_finished(), task.try_take()), (true, Some(Ok(7))));
    assert_eq!((task.try_take(), task.is_finished()), (None, true));
    Ok(())
}

/// A task of the proactor, polled inside the poll that the runner sleeps in, wakes one of its own.
fn woken_by_a_task(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let handle = context.handle();
    let (count, add) = counter();
    let (work, timer) = (context.work(), cx.io.sleep_until(soon()));
    cx.io
        .spawn(async move {
            timer.await.expect("a timer");
            drop(handle.spawn(async move { add() }));
            drop(work);
        })
        .detach();
    assert_eq!((run(&context), count.get()), (1, 1));
    Ok(())
}

/// Expected: thrown past the hook.
fn thrown<T>() -> T {
    resume_unwind(Box::new("out of a handler"))
}

fn panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (count, add) = counter();
    context.post(thrown::<()>);
    let task = context.spawn(async { thrown::<()>() });
    context.post(add);
    for _ in 0..2 {
        assert!(catch_unwind(AssertUnwindSafe(|| context.run())).is_err());
        assert!(!context.stopped() && !context.is_running_here());
    }
    assert_eq!((run(&context), count.get()), (1, 1), "and the rest is there, once");
    assert_eq!(cx.block_on(task).expect_err("no value").kind(), ErrorKind::Panicked);
    Ok(())
}

fn nested(cx: &Cx<'_>) -> Result<(), Skip> {
    let (outer, inner) = (LocalContext::new(cx.io), LocalContext::new(cx.io));
    outer.set_inline_budget(2);
    inner.set_inline_budget(1);
    let (count, add) = counter();
    let (around, within, adding) = (outer.clone(), inner.clone(), add.clone());
    outer.post(move || {
        around.dispatch(adding.clone());
        let (second, first) = (within.clone(), adding.clone());
        within.post(move || {
            second.dispatch(first.clone());
            second.dispatch(first);
        });
        assert_eq!(within.run(), Ok(2), "one on the spot, one from the queue");
        assert!(around.is_running_here() && !within.is_running_here());
        around.dispatch(adding.clone());
        around.dispatch(adding);
    });
    assert_eq!((run(&outer), count.get()), (2, 5), "two on the spot, whatever the other spent");
    Ok(())
}

fn in_itself(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (count, add) = counter();
    let inside = context.clone();
    context.post(move || {
        inside.post(add);
        assert_eq!((inside.run(), inside.run_one()), (Ok(1), Ok(0)));
    });
    assert_eq!(run(&context), 1);
    context.restart();
    // A task that runs its own context while it has been woken is not lost.
    let (within, mut turns) = (context.clone(), 0);
    let task = context.spawn(poll_fn(move |cx| {
        turns += 1;
        cx.waker().wake_by_ref();
        within.poll().expect("it polls");
        if turns == 3 { Poll::Ready(turns) } else { Poll::Pending }
    }));
    run(&context);
    assert_eq!((count.get(), cx.block_on(task)), (1, Ok(3)));
    Ok(())
}

fn its_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (held, handle) = (Rc::new(()), context.handle());
    let (posted, waiting, timer) = (held.clone(), held.clone(), cx.io.sleep_until(hour()));
    let (inside, later) = (handle.clone(), handle.clone());
    let task = context.spawn(async move {
        let _both = (waiting, inside);
        timer.await.expect("an hour");
    });
    assert_eq!(context.run_one(), Ok(1));
    context.post(move || panic!("dropped without being run: {posted:?}"));
    let guard = context.work();
    drop(context);
    assert_eq!(Rc::strong_count(&held), 1);
    drop(guard);
    let refused = later.post(|| ()).expect_err("it is gone");
    assert_eq!(refused.kind(), ErrorKind::ShutDown);
    assert_eq!(cx.block_on(task).expect_err("no value").kind(), ErrorKind::Cancelled);
    assert_eq!(cx.block_on(handle.spawn(async {})).expect_err("gone").kind(), ErrorKind::Cancelled);
    Ok(())
}

/// A message that is there is received, and one that fits is sent, in the turn that asks for it.
fn inline_recv(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let task = context.spawn(async move {
        one.send_all(b"at once".to_vec()).await.expect("sent");
        two.recv(slab.lease().expect("a slot")).await.expect("received").to_vec()
    });
    let before = cx.io.stats().inline;
    assert_eq!(run(&context), 1, "one turn for both");
    assert_eq!(cx.io.stats().inline - before, 2);
    assert_eq!(cx.block_on(task).expect("it ends"), *b"at once");
    Ok(())
}

fn inline_budget(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, two) = cx.unix_pair();
    let sent = move |count: usize| {
        let (one, io) = (one.clone(), cx.io.clone());
        async move {
            for at in 0..count {
                one.send_all(vec![at as u8]).await.expect("sent");
            }
            io.stats().inline
        }
    };
    let before = cx.io.stats().inline;
    context.set_inline_budget(0);
    let none = context.spawn(sent(3));
    run(&context);
    assert_eq!(cx.block_on(none).expect("it ends") - before, 0, "zero is none");
    context.restart();
    context.set_inline_budget(2);
    let two_each_turn = context.spawn(sent(5));
    assert!(run(&context) >= 2, "the third goes to the ring, and so do the two turns");
    let inline = cx.block_on(two_each_turn).expect("it ends") - before;
    assert!((2..=4).contains(&inline), "{inline} of five");
    // Outside of the context's handlers everything takes the ring.
    let inline = cx.io.stats().inline;
    let slab = cx.slab(1, 64);
    let filled = cx.block_on(two.recv_all(slab.lease().expect("a slot")).timeout(Duration::ZERO));
    drop(filled);
    assert_eq!(cx.io.stats().inline, inline);
    Ok(())
}

/// Sends of several tasks on one stream: what was submitted first arrives first.
fn inline_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, two) = cx.unix_pair();
    context.set_inline_budget(2);
    let submitting = one.clone();
    let all = context.spawn(async move {
        let sends: Vec<_> =
            (0..6u8).map(|at| submitting.send_all(vec![at; 10]).submit().expect("room")).collect();
        for send in sends {
            send.await.expect("sent");
        }
        submitting.finish().await.expect("half closed");
    });
    run(&context);
    cx.block_on(all).expect("it ends");
    let slab = cx.slab(1, 64);
    let filled = cx.block_on(two.recv_all(slab.lease().expect("a slot"))).expect("received");
    let expected: Vec<u8> = (0..6u8).flat_map(|at| [at; 10]).collect();
    assert_eq!(filled[..], expected);
    Ok(())
}

fn inline_large(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, two) = cx.unix_pair();
    let bytes = Cx::pattern(1 << 20, 3);
    let (sent, slab) = (bytes.clone(), cx.slab(1, 1 << 20));
    let sending = context.spawn(async move {
        let sent = one.send_all(sent).await.expect("sent");
        sent.bytes
    });
    let receiving = context.spawn(async move {
        let filled = two.recv_all(slab.lease().expect("a slot")).await.expect("received");
        filled.to_vec()
    });
    run(&context);
    assert_eq!(cx.block_on(sending), Ok(1 << 20));
    assert!(cx.block_on(receiving).expect("it ends") == bytes);
    Ok(())
}

fn inline_errors(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, two) = cx.unix_pair();
    cx.block_on(two.close()).expect("closed");
    let slab = cx.slab(1, 64);
    let lease = slab.lease().expect("a slot");
    let task = context.spawn(async move {
        let sent = one.send_all(vec![1]).await.expect_err("nobody receives");
        let filled = one.recv(lease).await;
        (sent.kind(), filled.map(|filled| filled.len()).map_err(|failed| failed.kind()))
    });
    run(&context);
    let (sent, received) = cx.block_on(task).expect("it ends");
    cx.note(format!("send: {sent:?}, then recv: {received:?}"));
    assert_eq!(slab.available(), 1);
    Ok(())
}

/// What is to go out without a copy goes to the ring: the plain call copies.
fn inline_if_copied(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, two) = cx.tcp_pair();
    let can = cx.io.capabilities().contains(Capability::ZeroCopySend);
    for (policy, is_inline) in [(ZeroCopy::Never, true), (ZeroCopy::Always, !can)] {
        one.zero_copy(policy).expect("a policy");
        let (one, before) = (one.clone(), cx.io.stats().inline);
        let task = context.spawn(async move {
            let mut list = SpanList::new();
            for part in ["two ", "parts"] {
                list.push(part.as_bytes().to_vec().into()).expect("two fit");
            }
            one.send_vectored(list).await.expect("sent").bytes
        });
        run(&context);
        assert_eq!(cx.block_on(task), Ok(9));
        assert_eq!(cx.io.stats().inline - before, u64::from(is_inline), "{policy:?}");
        context.restart();
    }
    let slab = cx.slab(1, 18);
    let filled = cx.block_on(two.recv_all(slab.lease().expect("a slot"))).expect("received");
    assert_eq!(filled[..], *b"two partstwo parts");
    Ok(())
}

/// One task always has data; another's handler gets its turn all the same.
fn chatty(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = LocalContext::new(cx.io);
    let (one, two) = cx.unix_pair();
    let (slab, stop) = (cx.slab(1, 64), context.handle());
    let done = Rc::new(Cell::new(false));
    let ended = done.clone();
    let chat = context.spawn(async move {
        let mut rounds = 0u64;
        while !ended.get() {
            one.send_all(vec![1; 8]).await.expect("sent");
            two.recv(slab.lease().expect("a slot")).await.expect("received");
            rounds += 1;
        }
        rounds
    });
    context.post(move || {
        done.set(true);
        drop(stop);
    });
    run(&context);
    let rounds = cx.block_on(chat).expect("it ends");
    // The budget of sixteen is eight rounds; the next operation waits its turn behind the handler.
    assert!((1..=9).contains(&rounds), "{rounds} rounds before the other's turn");
    Ok(())
}
