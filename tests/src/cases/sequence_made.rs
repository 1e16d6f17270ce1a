//! Sequences whose steps are made from what came before, and sequences inside batches.

use super::net::{read, settled, span, write};
use super::sequence::{failed, files, nothing_arrives, receive};
use crate::{Case, Cx, Skip};
use dataplane::fence::{Failure, Semaphore};
use dataplane::operations::Nop;
use dataplane::{ErrorKind, Event, Flow, Proactor, Wait, ZeroCopy};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "sequence_made/made_from_the_step_before", needs: &[], run: made },
    Case { name: "sequence_made/made_many_times", needs: &[], run: made_often },
    Case {
        name: "sequence_made/made_after_a_zero_copy_send",
        needs: &[],
        run: made_after_zero_copy,
    },
    Case { name: "sequence_made/stopped", needs: &[], run: stopped },
    Case { name: "sequence_made/making_fails", needs: &[], run: making_fails },
    Case { name: "sequence_made/making_panics", needs: &[], run: making_panics },
    Case { name: "sequence_made/made_malformed", needs: &[], run: made_malformed },
    Case { name: "sequence_made/ended_by_its_maker", needs: &[], run: ended_by_its_maker },
    Case {
        name: "sequence_made/ended_before_it_is_made",
        needs: &[],
        run: ended_before_it_is_made,
    },
    Case {
        name: "sequence_made/made_with_the_proactor_at_hand",
        needs: &[],
        run: made_with_proactor,
    },
    Case {
        name: "sequence_made/maker_of_a_failed_sequence_is_dropped",
        needs: &[],
        run: maker_dropped,
    },
    Case { name: "sequence_made/made_from_another_step", needs: &[], run: made_misplaced },
    Case { name: "sequence_made/proactor_goes_first", needs: &[], run: proactor_first },
    Case { name: "sequence_made/gated_by_a_semaphore", needs: &[], run: gated },
    Case { name: "sequence_made/a_failed_gate_sends_nothing", needs: &[], run: failed_gate },
    Case { name: "sequence_made/a_message_is_a_step", needs: &[], run: message_step },
    Case { name: "sequence_made/an_event_is_a_step", needs: &[], run: event_step },
    Case { name: "sequence_made/says_why_a_step_failed", needs: &[], run: says_why },
    Case { name: "sequence_made/in_a_batch", needs: &[], run: in_a_batch },
    Case { name: "sequence_made/one_step_after_a_ticket", needs: &[], run: one_after },
    Case { name: "sequence_made/a_stream_is_no_step", needs: &[], run: no_stream },
    Case { name: "sequence_made/taken_out_of_a_batch", needs: &[], run: taken_out },
    Case { name: "sequence_made/tickets_of_another", needs: &[], run: tickets_of_another },
    Case { name: "sequence_made/longer_than_the_queue", needs: &[], run: longer_than_the_queue },
];

fn made(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let mut steps = cx.io.sequence();
    let got = steps.add(near.recv(slab.lease().expect("free")));
    let back = near.clone();
    let echoed = steps.add_with(got, move |filled| Ok(back.send_all(filled.freeze())));
    let running = steps.submit().expect("room");
    let reading = cx.slab(1, 64);
    let all = async { futures_util::join!(running, write(&far, b"echo"), read(&far, &reading, 4)) };
    let (finished, (), got) = cx.block_on(all);
    let sent = finished.expect("echoed").take(echoed).expect("there").expect("sent");
    assert_eq!((sent.bytes, got.as_slice()), (4, &b"echo"[..]));
    settled(cx, 2);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn made_often(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    cx.block_on(write(&far, b"seed"));
    let mut steps = cx.io.sequence();
    let mut got = steps.add(near.recv(slab.lease().expect("free")));
    for _ in 0..10 {
        let (near, slab) = (near.clone(), slab.clone());
        let far = far.clone();
        let sent = steps.add_with(got, move |filled| Ok(far.send_all(filled.freeze())));
        got = steps.add_with(sent, move |_| Ok(near.recv(slab.lease()?)));
    }
    let mut finished = cx.block_on(steps).expect("ten times round");
    let last = finished.take(got).expect("there").expect("received");
    assert_eq!((&last[..], finished.steps()), (&b"seed"[..], 21));
    Ok(())
}

fn made_after_zero_copy(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    near.zero_copy(ZeroCopy::Always).expect("a policy");
    let slab = cx.slab(1, 1 << 14);
    let mut steps = cx.io.sequence();
    let sent = steps.add(near.send_all(slab.lease().expect("free").freeze()));
    // The socket outlives its maker: a receive that has to be tried again is not called back.
    let (pool, end) = (slab.clone(), far.clone());
    let again = steps.add_with(sent, move |sent| {
        assert_eq!(sent.bytes, 1 << 14);
        Ok(end.recv_all(pool.lease()?))
    });
    let mut finished = cx.block_on(steps).expect("the only slot came back in time");
    finished.take(again).expect("there").expect("received");
    drop(far);
    Ok(())
}

fn stopped(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let mut steps = cx.io.sequence();
    let first = steps.add(near.send_all(span(b"some")));
    let stop = steps.add_with(first, |_| Ok(Flow::<Nop>::Stop));
    let never = steps.add(near.send_all(span(b"never")));
    let mut finished = cx.block_on(steps).expect("to stop is to succeed");
    assert_eq!(finished.stopped_at(), Some(1));
    let kind = |failed: Option<ErrorKind>| assert_eq!(failed, Some(ErrorKind::Cancelled));
    kind(finished.take(stop).expect("there").err().map(|failed| failed.kind()));
    kind(finished.take(never).expect("there").err().map(|failed| failed.kind()));
    assert_eq!(cx.block_on(read(&far, &cx.slab(1, 64), 4)), b"some");
    nothing_arrives(cx, &far);
    Ok(())
}

fn making_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let empty = cx.slab(1, 64);
    let held = empty.lease().expect("free");
    let (near, _far) = cx.unix_pair();
    let mut steps = cx.io.sequence();
    let first = steps.add(cx.io.nop());
    let pool = empty.clone();
    steps.add_with(first, move |()| Ok(near.recv(pool.lease()?)));
    let steps = steps.then(cx.io.nop());
    let failed = failed(cx.block_on(steps));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!((failed.step, failed.kind()), (Some(1), ErrorKind::Exhausted));
    drop(held);
    Ok(())
}

fn making_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut steps = cx.io.sequence();
    let first = steps.add(cx.io.nop());
    steps.add_with(first, |()| -> dataplane::Result<Flow<Nop>> { panic!("as asked") });
    let mut running = steps.then(cx.io.nop()).submit().expect("room");
    let beside = cx.io.nop().submit().expect("room");
    let mut panics = 0;
    let mut over = None;
    let deadline = Instant::now() + Duration::from_secs(10);
    while over.is_none() && Instant::now() < deadline {
        let soon = Duration::from_millis(2);
        let polled = catch_unwind(AssertUnwindSafe(|| cx.io.poll(soon)));
        panics += usize::from(polled.is_err());
        over = running.try_take();
    }
    assert_eq!(panics, 1, "the panic leaves one poll");
    cx.block_on(beside).expect("a no-op");
    let failed = failed(over.expect("it is over"));
    assert_eq!((failed.step, failed.kind()), (Some(1), ErrorKind::Interrupted));
    Ok(())
}

fn made_malformed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let mut steps = cx.io.sequence();
    let first = steps.add(cx.io.nop());
    let made = steps.add_with(first, move |()| Ok(near.send_all(span(b""))));
    let mut failed = failed(cx.block_on(steps));
    assert_eq!((failed.step, failed.kind()), (Some(1), ErrorKind::InvalidArgument));
    let finished = failed.finished.as_mut().expect("it ran");
    let refused = finished.take(made).expect("there").expect_err("refused");
    assert!(refused.into_buffer().is_some(), "the operation comes back");
    Ok(())
}

/// Whoever makes a step may end its sequence: what was made is dropped.
fn ended_by_its_maker(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let (io, slab) = (cx.io.clone(), cx.slab(1, 8));
    let pool = slab.clone();
    let mut steps = cx.io.sequence();
    let first = steps.add(cx.io.nop());
    steps.add_with(first, move |()| {
        assert_eq!(io.cancel_all().expect("owner"), 1, "the step itself");
        Ok(near.recv(pool.lease()?))
    });
    let failed = failed(cx.block_on(steps));
    assert_eq!((failed.step, failed.kind()), (Some(1), ErrorKind::Cancelled));
    drop(failed);
    settled(cx, 1);
    assert_eq!(slab.available(), 1);
    Ok(())
}

/// Ended when the step before it is over and nobody has made it yet.
fn ended_before_it_is_made(cx: &Cx<'_>) -> Result<(), Skip> {
    let (io, made) = (cx.io.clone(), Rc::new(Cell::new(false)));
    let told = cx.io.nop().on_complete(move |_| {
        io.cancel_all().expect("owner");
    });
    told.expect("room");
    let (mut steps, seen) = (cx.io.sequence(), made.clone());
    let first = steps.add(cx.io.nop());
    let io = cx.io.clone();
    steps.add_with(first, move |()| {
        seen.set(true);
        Ok(io.nop())
    });
    // Where faults change the order it may be over before it is ended.
    match cx.block_on(steps) {
        Ok(_) => assert!(made.get()),
        Err(failed) => {
            assert_eq!(failed.kind(), ErrorKind::Cancelled);
            assert!(!made.get(), "nobody makes what has ended");
        }
    }
    Ok(())
}

fn made_with_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let beside = Rc::new(RefCell::new(None));
    let (inside, io) = (beside.clone(), cx.io.clone());
    let mut steps = cx.io.sequence();
    let first = steps.add(cx.io.nop());
    let busy = Rc::new(Cell::new(None));
    let seen = busy.clone();
    steps.add_with(first, move |()| {
        *inside.borrow_mut() = Some(io.nop().submit().expect("room"));
        seen.set(io.poll(Wait::Now).err().map(|error| error.kind()));
        Ok(io.nop())
    });
    cx.block_on(steps).expect("two no-ops");
    assert_eq!(busy.get(), Some(ErrorKind::Busy), "everything is allowed but polling");
    let beside = beside.borrow_mut().take().expect("submitted inside");
    cx.block_on(beside).expect("a no-op");
    Ok(())
}

fn maker_dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    struct Tells(Rc<Cell<u32>>, dataplane::Handle);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            self.1.wake();
        }
    }
    let (near, _far) = cx.unix_pair();
    let dropped = Rc::new(Cell::new(0));
    for how in 0..2 {
        let tells = Tells(dropped.clone(), cx.io.handle());
        let mut steps = cx.io.sequence();
        let first = steps.add(receive(cx, &near, 64));
        steps.add_with(first, move |_| {
            let _kept = &tells;
            Ok(Flow::<Nop>::Stop)
        });
        let running = steps.submit().expect("room");
        match how {
            0 => drop(running),
            _ => {
                running.cancel().expect("it runs");
                drop(cx.block_on(running));
            }
        }
        settled(cx, 2);
        assert_eq!(dropped.get(), how + 1);
    }
    Ok(())
}

fn made_misplaced(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut steps = cx.io.sequence();
    let first = steps.add(cx.io.nop());
    steps.add(cx.io.nop());
    steps.add_with(first, |()| Ok(Flow::<Nop>::Stop));
    let refused = steps.submit().expect_err("not the step before");
    assert_eq!(refused.error.kind(), ErrorKind::InvalidArgument);
    let mut other = cx.io.sequence();
    let elsewhere = other.add(cx.io.nop());
    let mut none = cx.io.sequence();
    none.add_with(elsewhere, |()| Ok(Flow::<Nop>::Stop));
    assert!(none.submit().is_err(), "a ticket of another sequence");
    Ok(())
}

fn proactor_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let (near, _far) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let near = io.adopt_socket(near).expect("room");
    let lease = cx.slab(1, 64).lease().expect("free");
    let mut steps = io.sequence();
    let got = steps.add(near.recv(lease));
    steps.add_with(got, |_| Ok(Flow::<Nop>::Stop));
    let mut running = steps.submit().expect("room");
    io.poll(Wait::Now).expect("polling");
    drop(io);
    let failed = failed(running.try_take().expect("it is over"));
    assert_eq!(failed.kind(), ErrorKind::ShutDown);
    Ok(())
}

fn gated(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let (drawn, sent) = (Semaphore::new(0), Semaphore::new(0));
    let steps = cx.io.sequence().wait(&drawn, 2).send_all(&near, span(b"frame")).signal(&sent, 1);
    let running = steps.submit().expect("room");
    drawn.signal(1).expect("above");
    nothing_arrives(cx, &far);
    let thread = std::thread::spawn(move || drawn.signal(2));
    cx.block_on(running).expect("the gate opened");
    thread.join().expect("it only signals").expect("above");
    assert_eq!(sent.value().expect("sound"), 1);
    assert_eq!(cx.block_on(read(&far, &cx.slab(1, 64), 5)), b"frame");
    Ok(())
}

fn failed_gate(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let (drawn, sent) = (Semaphore::new(0), Semaphore::new(0));
    let steps = cx.io.sequence().wait(&drawn, 1).send_all(&near, span(b"never")).signal(&sent, 1);
    let running = steps.submit().expect("room");
    cx.io.poll(Wait::Now).expect("polling");
    drawn.fail(Failure::with_errno(5, "the device is lost"));
    let failed = failed(cx.block_on(running));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!((failed.step, failed.error.errno()), (Some(0), Some(5)));
    nothing_arrives(cx, &far);
    assert_eq!(sent.value().expect("sound"), 0);
    Ok(())
}

fn message_step(cx: &Cx<'_>) -> Result<(), Skip> {
    let other = Proactor::with(cx.options.clone()).expect("a second proactor");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let inside = seen.clone();
    other.on_message(move |payload| inside.borrow_mut().push(payload)).expect("a handler");
    let (near, far) = cx.unix_pair();
    cx.block_on(write(&far, b"go"));
    let steps = cx
        .io
        .sequence()
        .then(receive(cx, &near, 64))
        .then(cx.io.send_message(&other.handle(), 42))
        .send_all(&near, span(b"told"));
    cx.block_on(steps).expect("three steps");
    other.poll(Wait::Now).expect("polling");
    assert_eq!(*seen.borrow(), [42]);
    // Of a sequence that fails before it, no message is sent.
    let (_, writable) = files(cx, 10);
    let lease = cx.slab(1, 64).lease().expect("free");
    let steps = cx.io.sequence().then(writable.read_at(lease, 0));
    failed(cx.block_on(steps.then(cx.io.send_message(&other.handle(), 43))));
    other.poll(Wait::Now).expect("polling");
    assert_eq!(*seen.borrow(), [42]);
    Ok(())
}

fn event_step(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    let steps = cx.io.sequence().then(waiter.wait()).send_all(&near, span(b"set"));
    let running = steps.submit().expect("room");
    nothing_arrives(cx, &far);
    let thread = std::thread::spawn(move || event.set());
    cx.block_on(running).expect("the event was set");
    thread.join().expect("it only sets");
    assert_eq!(cx.block_on(read(&far, &cx.slab(1, 64), 3)), b"set");
    Ok(())
}

/// What a failed sequence says of its step is what the step's own future would have said.
fn says_why(cx: &Cx<'_>) -> Result<(), Skip> {
    let lost = Semaphore::new(7);
    let steps = cx.io.sequence().then(cx.io.nop()).signal(&lost, 7);
    let back = failed(cx.block_on(steps));
    assert_eq!((back.step, back.kind()), (Some(1), ErrorKind::InvalidArgument));
    lost.fail(Failure::with_errno(libc::ENODEV, "the device is lost"));
    for steps in [
        cx.io.sequence().wait(&lost, 8),
        cx.io.sequence().then(cx.io.wait_all_semaphores(&[(&lost, 8)])),
        cx.io.sequence().then(cx.io.wait_any_semaphore(&[(&lost, 8)])),
        cx.io.sequence().signal(&lost, 8),
    ] {
        let failed = failed(cx.block_on(steps.then(cx.io.nop())));
        assert_eq!((failed.step, failed.kind()), (Some(0), ErrorKind::Io));
        assert_eq!(failed.error.errno(), Some(libc::ENODEV));
        assert!(failed.error.message().contains("the device is lost"), "{failed}");
    }
    let gone = Proactor::new().expect("another").handle();
    let steps = cx.io.sequence().then(cx.io.send_message(&gone, 1)).then(cx.io.nop());
    assert_eq!(failed(cx.block_on(steps)).kind(), ErrorKind::ShutDown);
    Ok(())
}

fn in_a_batch(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_, writable) = files(cx, 10);
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    let mut batch = cx.io.batch();
    let alone = batch.add(Nop);
    let lease = slab.lease().expect("free");
    let first = batch.add(writable.read_at(lease, 0).into_operation());
    let second = batch.after(&first, Nop).expect("none comes after it yet");
    let other = batch.add(near.send_all(span(b"chain ")).into_operation());
    let tail = batch.after(&other, near.send_all(span(b"of two")).into_operation());
    let tail = tail.expect("none comes after it yet");
    assert_eq!(batch.len(), 5);
    let mut submitted = batch.submit().expect("room");
    let alone = submitted.take(alone).expect("there");
    let first = submitted.take(first).expect("there");
    let second = submitted.take(second).expect("there");
    let tail = submitted.take(tail).expect("there");
    cx.block_on(async {
        alone.await.expect("it depends on nobody");
        first.await.map(drop).expect_err("not open for reading");
        let ended = second.await.expect_err("the one before failed");
        assert_eq!(ended.kind(), ErrorKind::Cancelled);
        tail.await.expect("the other chain goes on");
    });
    assert_eq!(cx.block_on(read(&far, &slab, 12)), b"chain of two");
    Ok(())
}

fn one_after(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut batch = cx.io.batch();
    let first = batch.add(Nop);
    batch.after(&first, Nop).expect("the first");
    let refused = batch.after(&first, Nop).err().expect("the second");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.into_operation().is_some());
    assert_eq!(batch.len(), 2);
    Ok(())
}

fn no_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let clone = listener.clone();
    cx.block_on(listener.close()).expect("closed");
    let refused = clone.incoming().submit().err().expect("it is closed");
    let mut batch = cx.io.batch();
    let first = batch.add(Nop);
    batch.after(&first, refused.into_operation().expect("it comes back")).expect("the first");
    let refused = batch.submit().err().expect("it would have no end");
    assert_eq!((refused.index, refused.error.kind()), (Some(1), ErrorKind::InvalidArgument));
    assert_eq!(refused.batch.len(), 2);
    Ok(())
}

fn taken_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut batch = cx.io.batch();
    let first = batch.add(Nop);
    let second = batch.after(&first, Nop).expect("none yet");
    batch.take(second).expect("it is there");
    let third = batch.after(&first, Nop).expect("its place is free again");
    let mut submitted = batch.submit().expect("room for two");
    let third = submitted.take(third).expect("there");
    cx.block_on(third).expect("a no-op");
    Ok(())
}

/// A ticket names something in the batch or sequence that gave it; elsewhere it is refused.
fn tickets_of_another(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    cx.block_on(write(&far, b"bytes"));
    let (mut one, mut other) = (cx.io.batch(), cx.io.batch());
    let nop = one.add(Nop);
    let receiving = other.add(receive(cx, &near, 64).into_operation());
    let refused = one.after(&receiving, Nop).err().expect("of the other batch");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    let stray = other.add(Nop);
    assert_eq!(one.take(stray).expect_err("not of this").kind(), ErrorKind::InvalidArgument);
    let (mut one, mut other) = (one.submit().expect("room"), other.submit().expect("room"));
    let error = other.take(nop).map(drop).expect_err("of the first batch");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.message().contains("another batch"), "{error}");
    let error = one.take(receiving).map(drop).expect_err("of the second batch");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");

    let (mut steps, mut others) = (cx.io.sequence(), cx.io.sequence());
    let nop = steps.add(cx.io.nop());
    let sent = others.add(far.send_all(span(b"bytes")));
    let again = cx.io.clone();
    steps.add_with(sent, move |_| Ok(again.nop()));
    let refused = steps.submit().expect_err("made from a step of the other");
    assert_eq!(refused.error.kind(), ErrorKind::InvalidArgument);
    let mut finished = cx.block_on(others).expect("sent");
    assert_eq!(finished.take(nop).expect_err("not its own").kind(), ErrorKind::InvalidArgument);
    drop((one, other));
    settled(cx, 2);
    Ok(())
}

fn longer_than_the_queue(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut options = cx.options.clone().operations(64);
    options.submissions = Some(8);
    let io = Proactor::with(options).expect("a proactor with a short queue");
    let mut steps = io.sequence();
    for _ in 0..50 {
        steps.add(io.nop());
    }
    let finished = io.block_on(async { steps.await }).expect("polled").expect("fifty no-ops");
    assert_eq!(finished.steps(), 50);
    Ok(())
}
