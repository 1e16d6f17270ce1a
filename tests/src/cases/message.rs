//! Messages: 64 bits from anywhere to a proactor's handler, in order, bounded, never lost silently.

use super::remote::{beside, parked};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, MessageError, Options, Proactor, Wait};
use futures_util::future::FutureExt;
use std::cell::{Cell, RefCell};
use std::future::IntoFuture;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "message/to_oneself", needs: &[], run: to_oneself },
    Case { name: "message/not_before_a_poll", needs: &[], run: not_before_a_poll },
    Case { name: "message/every_value", needs: &[], run: every_value },
    Case { name: "message/ends_a_sleep", needs: &[], run: ends_a_sleep },
    Case { name: "message/in_order_per_sender", needs: &[], run: in_order_per_sender },
    Case { name: "message/exhausted_clears", needs: &[], run: exhausted_clears },
    Case { name: "message/capacity_is_an_option", needs: &[], run: capacity },
    Case { name: "message/capacity_out_of_range", needs: &[], run: capacity_out_of_range },
    Case { name: "message/target_gone", needs: &[], run: target_gone },
    Case { name: "message/target_goes_with_some_queued", needs: &[], run: goes_with_some },
    Case { name: "message/without_a_handler_is_counted", needs: &[], run: without_a_handler },
    Case { name: "message/no_handler_ends_no_sleep", needs: &[], run: no_handler_no_end },
    Case { name: "message/handler_replaced", needs: &[], run: handler_replaced },
    Case { name: "message/handler_replaced_from_inside", needs: &[], run: replaced_inside },
    Case { name: "message/handler_removed_from_inside", needs: &[], run: removed_inside },
    Case { name: "message/removed_and_back_inside", needs: &[], run: removed_and_back },
    Case { name: "message/handler_drops_freely", needs: &[], run: drops_freely },
    Case { name: "message/handler_may_do_everything", needs: &[], run: may_do_everything },
    Case { name: "message/handler_may_not_poll", needs: &[], run: may_not_poll },
    Case { name: "message/handler_that_panics", needs: &[], run: that_panics },
    Case { name: "message/bounded_in_one_turn", needs: &[], run: bounded_in_one_turn },
    Case { name: "message/endless_ones_starve_nobody", needs: &[], run: endless_ones },
    Case { name: "message/a_full_proactor_still_gets_them", needs: &[], run: full_proactor },
    Case { name: "message/no_completion_is_one", needs: &[], run: no_completion_is_one },
    Case { name: "message/as_an_operation", needs: &[], run: as_an_operation },
    Case { name: "message/operation_exhausted", needs: &[], run: operation_exhausted },
    Case { name: "message/operation_to_nobody", needs: &[], run: operation_to_nobody },
    Case { name: "message/operation_dropped_is_sent", needs: &[], run: operation_dropped },
    Case { name: "message/operation_cancelled_is_sent", needs: &[], run: operation_cancelled },
    Case { name: "message/operation_timed_out_is_sent", needs: &[], run: operation_timed_out },
    Case { name: "message/operations_keep_order", needs: &[], run: operations_keep_order },
    Case { name: "message/in_a_batch", needs: &[], run: in_a_batch },
    Case { name: "message/a_refused_batch_sends_none", needs: &[], run: a_refused_batch },
    Case { name: "message/operation_from_another_thread", needs: &[], run: from_another },
    Case { name: "message/ping_pong_of_two_loops", needs: &[], run: ping_pong },
    Case { name: "message/handler_ends_with_the_proactor", needs: &[], run: ends_with_it },
];

/// What a handler was given.
type Seen = Rc<RefCell<Vec<u64>>>;

/// A handler that writes down what it is given.
fn listen(io: &Proactor) -> Seen {
    let seen = Seen::default();
    let inside = seen.clone();
    io.on_message(move |payload| inside.borrow_mut().push(payload)).expect("a live proactor");
    seen
}

/// A proactor like the case's, with room for so many messages.
fn another(cx: &Cx<'_>, messages: usize) -> Proactor {
    Proactor::with(cx.options.clone().messages(messages)).expect("a second proactor")
}

fn turn(io: &Proactor) -> usize {
    io.poll(Wait::Now).expect("a turn")
}

fn to_oneself(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    cx.io.handle().message(7).expect("room");
    assert_eq!(turn(cx.io), 1, "a message is something delivered");
    assert_eq!(*seen.borrow(), [7]);
    assert_eq!((cx.io.stats().messages, cx.io.stats().unhandled_messages), (1, 0));
    Ok(())
}

fn not_before_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    cx.io.handle().message(1).expect("room");
    assert!(seen.borrow().is_empty(), "the handler runs inside poll");
    assert_eq!(turn(cx.io) + turn(cx.io), 1, "once");
    Ok(())
}

fn every_value(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    let values: Vec<u64> = (0..64).map(|bit| 1 << bit).chain([0, u64::MAX, 1 << 56]).collect();
    let handle = cx.io.handle();
    values.iter().for_each(|&value| handle.message(value).expect("room"));
    cx.poll_until("the messages", || seen.borrow().len() == values.len());
    assert_eq!(*seen.borrow(), values, "no value means anything to the proactor");
    assert_eq!(cx.io.stats().stale_events, 0);
    Ok(())
}

fn ends_a_sleep(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    let handle = cx.io.handle();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2));
        handle.message(5)
    });
    let begun = Instant::now();
    assert_eq!(cx.io.poll(Duration::from_secs(9)).expect("a poll"), 1);
    assert!(begun.elapsed() < Duration::from_secs(9));
    assert_eq!(*seen.borrow(), [5]);
    assert_eq!(thread.join().expect("no panic"), Ok(()));
    Ok(())
}

fn in_order_per_sender(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    let threads: Vec<_> = (0..3u64)
        .map(|thread| {
            let handle = cx.io.handle();
            std::thread::spawn(move || {
                for count in 0..1000 {
                    while handle.message(thread << 32 | count).is_err() {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    cx.poll_until("the messages", || seen.borrow().len() == 3000);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    for thread in 0..3 {
        let seen = seen.borrow();
        let of_it = seen.iter().filter(|payload| *payload >> 32 == thread).copied();
        assert!(of_it.eq((0..1000).map(|count| thread << 32 | count)), "sender {thread}");
    }
    Ok(())
}

fn exhausted_clears(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 3);
    let (seen, handle) = (listen(&io), io.handle());
    for round in 0..3 {
        for value in 0..3 {
            handle.message(round * 3 + value).expect("room");
        }
        assert_eq!(handle.message(99), Err(MessageError::Exhausted));
        turn(&io);
    }
    assert!(seen.borrow().iter().copied().eq(0..9), "the refused ones were not sent");
    let error = dataplane::Error::from(MessageError::Exhausted);
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Exhausted, "message"));
    assert!(error.message().contains("Options::messages"));
    cx.note(error);
    Ok(())
}

fn capacity(cx: &Cx<'_>) -> Result<(), Skip> {
    for capacity in [1, 2, 5, 64] {
        let io = another(cx, capacity);
        let taken = (0..1000).take_while(|value| io.handle().message(*value).is_ok()).count();
        assert_eq!(taken, capacity, "exactly as many as the option says");
    }
    assert_eq!(Options::default().messages, 1024);
    Ok(())
}

fn capacity_out_of_range(cx: &Cx<'_>) -> Result<(), Skip> {
    for capacity in [0, (1 << 20) + 1] {
        let refused = Proactor::with(cx.options.clone().messages(capacity)).map(drop);
        assert_eq!(refused.expect_err("out of range").kind(), ErrorKind::InvalidArgument);
    }
    Ok(())
}

fn target_gone(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 4);
    let handle = io.handle();
    drop(io);
    assert_eq!(handle.message(1), Err(MessageError::ShutDown));
    assert_eq!(handle.message(1).map_err(MessageError::kind), Err(ErrorKind::ShutDown));
    Ok(())
}

fn goes_with_some(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 4);
    let (seen, handle) = (listen(&io), io.handle());
    handle.message(1).expect("room");
    drop(io);
    assert!(seen.borrow().is_empty(), "queued, and gone with its target");
    assert_eq!(Rc::strong_count(&seen), 1, "the handler is gone too");
    Ok(())
}

fn without_a_handler(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    (0..5).for_each(|value| handle.message(value).expect("room"));
    assert_eq!(turn(cx.io), 0, "nobody was told anything");
    assert_eq!((cx.io.stats().messages, cx.io.stats().unhandled_messages), (0, 5));
    let seen = listen(cx.io);
    turn(cx.io);
    assert!(seen.borrow().is_empty(), "what was counted does not come back");
    Ok(())
}

fn no_handler_no_end(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.io.handle().message(1).expect("room");
    let until = Instant::now() + Duration::from_millis(3);
    assert_eq!(cx.io.poll(until).expect("a poll"), 0);
    assert!(Instant::now() >= until, "nothing happened that a caller could see");
    assert_eq!(cx.io.stats().unhandled_messages, 1);
    Ok(())
}

fn handler_replaced(cx: &Cx<'_>) -> Result<(), Skip> {
    let (first, handle) = (listen(cx.io), cx.io.handle());
    handle.message(1).expect("room");
    let second = listen(cx.io);
    assert_eq!(Rc::strong_count(&first), 1, "the first is dropped at once");
    turn(cx.io);
    assert_eq!((first.borrow().len(), second.borrow().len()), (0, 1), "who is there gets it");
    cx.io.remove_message_handler().expect("a live proactor");
    cx.io.remove_message_handler().expect("twice is fine");
    assert_eq!(Rc::strong_count(&second), 1);
    handle.message(2).expect("room");
    turn(cx.io);
    assert_eq!(cx.io.stats().unhandled_messages, 1);
    Ok(())
}

fn replaced_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (first, second) = (Rc::new(()), Seen::default());
    let (held, later, io) = (first.clone(), second.clone(), cx.io.clone());
    let calls = Rc::new(Cell::new(0));
    let counted = calls.clone();
    let handler = move |_| {
        let (_held, later) = (&held, later.clone());
        counted.set(counted.get() + 1);
        io.on_message(move |payload| later.borrow_mut().push(payload)).expect("inside a callback");
    };
    cx.io.on_message(handler).expect("a live proactor");
    (0..3).for_each(|value| cx.io.handle().message(value).expect("room"));
    turn(cx.io);
    assert_eq!((calls.get(), &*second.borrow()), (1, &vec![1, 2]), "the rest goes to the new one");
    assert_eq!(Rc::strong_count(&first), 1, "the old one is gone");
    Ok(())
}

fn removed_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (calls, io) = (Rc::new(Cell::new(0)), cx.io.clone());
    let inside = calls.clone();
    let handler = move |_| {
        inside.set(inside.get() + 1);
        io.remove_message_handler().expect("inside a callback");
    };
    cx.io.on_message(handler).expect("a live proactor");
    (0..3).for_each(|value| cx.io.handle().message(value).expect("room"));
    turn(cx.io);
    assert_eq!((calls.get(), cx.io.stats().unhandled_messages), (1, 2));
    assert_eq!(Rc::strong_count(&calls), 1, "dropped after it has run");
    Ok(())
}

fn removed_and_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = Seen::default();
    let (inside, io) = (seen.clone(), cx.io.clone());
    let handler = move |_| {
        io.remove_message_handler().expect("inside a callback");
        let inside = inside.clone();
        io.on_message(move |payload| inside.borrow_mut().push(payload)).expect("inside");
        io.remove_message_handler().expect("inside a callback");
    };
    cx.io.on_message(handler).expect("a live proactor");
    (0..2).for_each(|value| cx.io.handle().message(value).expect("room"));
    turn(cx.io);
    assert!(seen.borrow().is_empty(), "the last word counts");
    assert_eq!(cx.io.stats().unhandled_messages, 1);
    Ok(())
}

/// A handler's own things call back into the proactor when they are dropped.
fn drops_freely(cx: &Cx<'_>) -> Result<(), Skip> {
    struct Calls(Proactor, Rc<Cell<u32>>);
    impl Drop for Calls {
        fn drop(&mut self) {
            self.0.handle().message(1).expect("room");
            self.0.nop().submit().expect("nothing is borrowed").detach();
            self.1.set(self.1.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    for _ in 0..2 {
        let calls = Calls(cx.io.clone(), dropped.clone());
        cx.io.on_message(move |_| assert!(calls.1.get() < 3)).expect("a live proactor");
    }
    assert_eq!(dropped.get(), 1);
    cx.io.remove_message_handler().expect("a live proactor");
    assert_eq!(dropped.get(), 2);
    cx.poll_until("the no-ops", || cx.io.stats().in_flight == 0);
    Ok(())
}

fn may_do_everything(cx: &Cx<'_>) -> Result<(), Skip> {
    let (io, done) = (cx.io.clone(), Rc::new(Cell::new(0)));
    let inside = done.clone();
    let handler = move |payload| {
        let done = inside.clone();
        let told = io.nop().on_complete(move |ended| {
            ended.expect("a no-op");
            done.set(done.get() + 1);
        });
        told.expect("room");
        if payload > 0 {
            io.handle().message(payload - 1).expect("room");
        }
    };
    cx.io.on_message(handler).expect("a live proactor");
    cx.io.handle().message(9).expect("room");
    cx.poll_until("ten no-ops", || done.get() == 10);
    cx.io.remove_message_handler().expect("it held the proactor");
    Ok(())
}

fn may_not_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let (io, kind) = (cx.io.clone(), Rc::new(Cell::new(None)));
    let inside = kind.clone();
    let handler = move |_| inside.set(io.poll(Wait::Now).err().map(|error| error.kind()));
    cx.io.on_message(handler).expect("a live proactor");
    cx.io.handle().message(1).expect("room");
    turn(cx.io);
    assert_eq!(kind.get(), Some(ErrorKind::Busy));
    cx.io.remove_message_handler().expect("it held the proactor");
    Ok(())
}

fn that_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = Seen::default();
    let inside = seen.clone();
    let handler = move |payload| {
        inside.borrow_mut().push(payload);
        assert!(payload != 1, "a panic of the case's own");
    };
    cx.io.on_message(handler).expect("a live proactor");
    (0..4).for_each(|value| cx.io.handle().message(value).expect("room"));
    let panicked = catch_unwind(AssertUnwindSafe(|| turn(cx.io)));
    assert!(panicked.is_err(), "it leaves poll");
    assert_eq!(*seen.borrow(), [0, 1]);
    turn(cx.io);
    assert_eq!(*seen.borrow(), [0, 1, 2, 3], "the rest is handed over, none twice");
    Ok(())
}

fn bounded_in_one_turn(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 1000);
    let seen = listen(&io);
    (0..1000).for_each(|value| io.handle().message(value).expect("room"));
    let mut turns = 0;
    while seen.borrow().len() < 1000 {
        let before = seen.borrow().len();
        io.poll(Wait::Forever).expect("a turn with something in it");
        assert!((before + 1..=before + 256).contains(&seen.borrow().len()));
        turns += 1;
    }
    assert_eq!(turns, 4);
    assert!(seen.borrow().iter().copied().eq(0..1000));
    Ok(())
}

fn endless_ones(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    let inside = handle.clone();
    cx.io.on_message(move |payload| inside.message(payload).expect("room")).expect("live");
    (0..300).for_each(|value| handle.message(value).expect("room"));
    cx.block_on(cx.io.nop()).expect("a no-op");
    cx.block_on(cx.io.sleep_until(Instant::now() + Duration::from_millis(2))).expect("a timer");
    assert!(cx.io.stats().messages > 300);
    Ok(())
}

fn full_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    let far = Instant::now() + Duration::from_secs(3600);
    let mut timers = Vec::new();
    while let Ok(timer) = cx.io.sleep_until(far).submit() {
        timers.push(timer);
    }
    cx.io.handle().message(3).expect("a queue of its own");
    turn(cx.io);
    assert_eq!(*seen.borrow(), [3]);
    Ok(())
}

/// Payloads that spell the names operations have in the kernel end none of them.
fn no_completion_is_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    let far = Instant::now() + Duration::from_secs(3600);
    let mut timer = cx.io.sleep_until(far).submit().expect("room");
    let (one, _two) = cx.unix_pair();
    let mut receive = one.recv(cx.slab(1, 8).lease().expect("a slot")).submit().expect("room");
    for generation in 0..8 {
        for index in 0..64 {
            cx.io.handle().message(generation << 32 | index).expect("room");
        }
    }
    cx.poll_until("the messages", || seen.borrow().len() == 512);
    assert!((&mut timer).now_or_never().is_none() && (&mut receive).now_or_never().is_none());
    assert_eq!(cx.io.stats().stale_events, 0, "none was even looked at as one");
    Ok(())
}

fn as_an_operation(cx: &Cx<'_>) -> Result<(), Skip> {
    let (io, before) = (another(cx, 4), cx.io.stats().delivered);
    let seen = listen(&io);
    cx.block_on(cx.io.send_message(&io.handle(), 11)).expect("room");
    assert_eq!(cx.io.stats().delivered - before, 1);
    turn(&io);
    assert_eq!(*seen.borrow(), [11]);
    let told = Rc::new(Cell::new(false));
    let inside = told.clone();
    let request = cx.io.send_message(&io.handle(), 12);
    request.on_complete(move |ended| inside.set(ended.is_ok())).expect("room");
    cx.poll_until("the callback", || told.get());
    turn(&io);
    assert_eq!(*seen.borrow(), [11, 12]);
    Ok(())
}

fn operation_exhausted(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 1);
    io.handle().message(1).expect("room");
    let failed = cx.block_on(cx.io.send_message(&io.handle(), 2)).expect_err("full");
    assert_eq!(failed.kind(), ErrorKind::Exhausted);
    assert!(failed.error.message().contains("Options::messages"));
    cx.note(&failed.error);
    let back = failed.into_operation().expect("it comes back");
    assert_eq!(back.payload(), 2);
    turn(&io);
    cx.block_on(cx.io.send_message(&io.handle(), 2)).expect("a later try");
    Ok(())
}

fn operation_to_nobody(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 1);
    let handle = io.handle();
    drop(io);
    let failed = cx.block_on(cx.io.send_message(&handle, 2)).expect_err("gone");
    assert_eq!(failed.kind(), ErrorKind::ShutDown);
    cx.note(failed.error);
    Ok(())
}

fn operation_dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    drop(cx.io.send_message(&cx.io.handle(), 1));
    drop(cx.io.send_message(&cx.io.handle(), 2).submit().expect("room"));
    cx.poll_until("the end", || cx.io.stats().in_flight == 0 && !seen.borrow().is_empty());
    assert_eq!(*seen.borrow(), [2], "a request is not sent, a submission is");
    Ok(())
}

fn operation_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    let sending = cx.io.send_message(&cx.io.handle(), 1).submit().expect("room");
    sending.cancel().expect("it is pending");
    cx.block_on(sending).expect("it was sent before, and says so");
    cx.poll_until("the message", || !seen.borrow().is_empty());
    Ok(())
}

fn operation_timed_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = listen(cx.io);
    let request = cx.io.send_message(&cx.io.handle(), 1).timeout(Duration::ZERO);
    cx.block_on(request).expect("it was sent before, and says so");
    cx.poll_until("the message", || !seen.borrow().is_empty());
    Ok(())
}

fn operations_keep_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (seen, handle) = (listen(cx.io), cx.io.handle());
    for value in (0..40).step_by(2) {
        cx.io.send_message(&handle, value).submit().expect("room").detach();
        handle.message(value + 1).expect("room");
    }
    cx.poll_until("the messages", || seen.borrow().len() == 40);
    assert!(seen.borrow().iter().copied().eq(0..40), "sent when submitted");
    Ok(())
}

fn in_a_batch(cx: &Cx<'_>) -> Result<(), Skip> {
    let (seen, handle) = (listen(cx.io), cx.io.handle());
    let mut batch = cx.io.batch();
    let first = batch.add(cx.io.send_message(&handle, 1).into_operation());
    let nop = batch.add(cx.io.nop().into_operation());
    let second = batch.add(cx.io.send_message(&handle, 2).into_operation());
    let mut submitted = batch.submit().expect("room");
    for ticket in [first, second] {
        cx.block_on(submitted.take(ticket).expect("once")).expect("sent");
    }
    cx.block_on(submitted.take(nop).expect("once")).expect("a no-op");
    cx.poll_until("the messages", || seen.borrow().len() == 2);
    assert_eq!(*seen.borrow(), [1, 2]);
    Ok(())
}

fn a_refused_batch(cx: &Cx<'_>) -> Result<(), Skip> {
    let (seen, handle) = (listen(cx.io), cx.io.handle());
    let mut batch = cx.io.batch();
    for value in 0..1 + u64::from(crate::cx::OPERATIONS) {
        batch.add(cx.io.send_message(&handle, value).into_operation());
    }
    let refused = batch.submit().map(drop).expect_err("more than there is room for");
    assert_eq!(refused.error.kind(), ErrorKind::Exhausted);
    turn(cx.io);
    assert!(seen.borrow().is_empty(), "all or nothing");
    Ok(())
}

fn from_another(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 2);
    let (seen, target) = (listen(&io), io.handle());
    beside(cx, move |handle| {
        for value in 0..2 {
            parked(handle.send_message(&target, value).into_future()).expect("room");
        }
        let failed = parked(handle.send_message(&target, 2).into_future()).expect_err("full");
        assert_eq!(failed.kind(), ErrorKind::Exhausted);
    });
    turn(&io);
    assert_eq!(*seen.borrow(), [0, 1]);
    Ok(())
}

fn ping_pong(cx: &Cx<'_>) -> Result<(), Skip> {
    let (options, near) = (cx.options.clone(), cx.io.handle());
    let last = Rc::new(Cell::new(0));
    let (inside, to) = (last.clone(), Rc::new(RefCell::new(None::<dataplane::Handle>)));
    let far = to.clone();
    let handler = move |payload| {
        inside.set(payload);
        if payload < 100 {
            far.borrow().as_ref().expect("known").message(payload + 1).expect("room");
        }
    };
    cx.io.on_message(handler).expect("a live proactor");
    let (made, ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let io = Proactor::with(options).expect("a second proactor");
        let last = Rc::new(Cell::new(0));
        let inside = last.clone();
        let handler = move |payload| {
            inside.set(payload);
            near.message(payload + 1).expect("room");
        };
        io.on_message(handler).expect("a live proactor");
        made.send(io.handle()).expect("somebody waits");
        while last.get() < 99 {
            io.poll(Duration::from_secs(9)).expect("a poll");
        }
    });
    let handle = ready.recv().expect("it is made");
    *to.borrow_mut() = Some(handle.clone());
    handle.message(1).expect("room");
    cx.poll_until("the hundredth", || last.get() == 100);
    thread.join().expect("no panic");
    Ok(())
}

fn ends_with_it(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx, 4);
    let seen = listen(&io);
    let other = io.clone();
    assert_eq!(io.shutdown(Wait::Now).expect("it ends"), None);
    assert_eq!(Rc::strong_count(&seen), 1, "the handler is dropped at the end");
    let refused = other.on_message(|_| {}).expect_err("over");
    assert_eq!(refused.kind(), ErrorKind::ShutDown);
    Ok(())
}
