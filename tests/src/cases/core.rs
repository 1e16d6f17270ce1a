//! The loop itself: completion in its forms, order, the bound, counters, dumps.

use crate::{Case, Cx, OPERATIONS, Skip};
use dataplane::{Capabilities, ErrorKind, Options, Proactor, Submission, Wait, Waiter};
use futures_util::future::join_all;
use regions::Span;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "core/nop_future", needs: &[], run: nop_future },
    Case { name: "core/nop_callback", needs: &[], run: nop_callback },
    Case { name: "core/nop_try_take", needs: &[], run: nop_try_take },
    Case { name: "core/a_result_is_taken_once", needs: &[], run: a_result_is_taken_once },
    Case { name: "core/sends_go_out_in_order", needs: &[], run: sends_go_out_in_order },
    Case { name: "core/receives_fill_in_order", needs: &[], run: receives_fill_in_order },
    Case { name: "core/stats", needs: &[], run: stats },
    Case {
        name: "core/dump_of_those_that_stand_in_line",
        needs: &[],
        run: dump_of_those_that_stand_in_line,
    },
    Case { name: "core/detached_when_it_is_over", needs: &[], run: detached_when_it_is_over },
    Case { name: "core/dump_of_what_is_in_flight", needs: &[], run: dump_of_what_is_in_flight },
    Case { name: "core/drop_before_completion", needs: &[], run: drop_before_completion },
    Case { name: "core/detach_lets_it_run", needs: &[], run: detach_lets_it_run },
    Case { name: "core/the_bound_holds", needs: &[], run: the_bound_holds },
    Case { name: "core/results_do_not_count", needs: &[], run: results_do_not_count },
    Case { name: "core/an_idle_poll", needs: &[], run: an_idle_poll },
    Case { name: "core/flush_delivers_nothing", needs: &[], run: flush_delivers_nothing },
    Case { name: "core/a_second_handle", needs: &[], run: a_second_handle },
    Case { name: "core/names_are_not_reused", needs: &[], run: names_are_not_reused },
    Case { name: "core/hostile_options", needs: &[], run: hostile_options },
    Case { name: "core/what_was_asked_for_runs", needs: &[], run: what_was_asked_for_runs },
    Case { name: "core/two_proactors", needs: &[], run: two_proactors },
    Case { name: "core/block_on_hears_every_wake", needs: &[], run: block_on_hears_every_wake },
    Case { name: "core/after_shutdown", needs: &[], run: after_shutdown },
];

/// Fails on purpose: what does not report it as failed is no runner. Not part of a normal run.
pub const CANARY: Case = Case { name: "core/canary_must_fail", needs: &[], run: canary };

fn canary(cx: &Cx<'_>) -> Result<(), Skip> {
    let ended = cx.block_on(cx.io.nop()).map_err(|failed| failed.kind());
    assert_eq!(ended, Err(ErrorKind::DataLoss), "this case is meant to fail");
    Ok(())
}

fn nop_future(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.block_on(cx.io.nop()).expect("a no-op succeeds");
    let many: Vec<_> = (0..10).map(|_| cx.io.nop().submit().expect("room for a no-op")).collect();
    assert!(cx.block_on(join_all(many)).into_iter().all(|ended| ended.is_ok()));
    Ok(())
}

fn nop_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let ran = Rc::new(Cell::new(0));
    let count = ran.clone();
    let submitted = cx.io.nop().on_complete(move |ended| {
        ended.expect("a no-op succeeds");
        count.set(count.get() + 1);
    });
    submitted.expect("room for a no-op");
    assert_eq!(ran.get(), 0, "not before a poll");
    cx.poll_until("the callback", || ran.get() > 0);
    assert_eq!((ran.get(), Rc::strong_count(&ran)), (1, 1), "run once, and dropped");
    Ok(())
}

fn nop_try_take(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut submission = cx.io.nop().submit().expect("room for a no-op");
    assert!(submission.try_take().is_none(), "not before a poll");
    let mut taken = None;
    cx.poll_until("the result", || {
        taken = submission.try_take();
        taken.is_some()
    });
    assert!(taken.is_some_and(|ended| ended.is_ok()));
    assert!(submission.try_take().is_none(), "a result is taken once");
    Ok(())
}

fn a_result_is_taken_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut submission = cx.io.nop().submit().expect("room for a no-op");
    cx.poll_until("the result", || submission.try_take().is_some());
    let again = cx.block_on(&mut submission).unwrap_err();
    cx.note(format!("the second time: {:?}", again.kind()));
    assert_eq!(again.kind(), ErrorKind::NotFound);
    assert!(again.operation().is_none(), "it went with the first");
    Ok(())
}

fn sends_go_out_in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let bytes = Cx::pattern(8 * 3000, 1);
    let sending: Vec<_> = bytes
        .chunks(3000)
        .map(|part| near.send_all(Span::from(part.to_vec())).submit().expect("room"))
        .collect();
    let slab = cx.slab(1, bytes.len());
    let filled = cx.block_on(far.recv_all(slab.lease().expect("free"))).expect("all of it");
    assert_eq!(filled[..], bytes[..]);
    for sent in cx.block_on(join_all(sending)) {
        assert_eq!(sent.expect("sent").bytes, 3000);
    }
    drop(filled);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn receives_fill_in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(3, 4);
    let lease = || slab.lease().expect("a free slot");
    let receiving: Vec<_> = (0..3).map(|_| far.recv_all(lease()).submit().expect("room")).collect();
    let sent = cx.block_on(near.send_all(Span::from(b"onlytwoandthree!"[..12].to_vec())));
    assert_eq!(sent.expect("sent").bytes, 12);
    for filled in cx.block_on(join_all(receiving)) {
        let filled = filled.expect("received");
        cx.note(String::from_utf8_lossy(&filled));
    }
    assert_eq!(slab.available(), 3);
    Ok(())
}

fn stats(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.stats();
    assert_eq!((before.in_flight, before.descriptors, before.delivered), (0, 0, 0));
    let (near, far) = cx.unix_pair();
    assert_eq!(cx.io.stats().descriptors, 2);
    let slab = cx.slab(1, 8);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    assert_eq!(cx.io.stats().in_flight, 1);
    cx.block_on(far.send_all(Span::from(vec![1u8]))).expect("sent");
    assert_eq!(cx.block_on(receiving).expect("received").len(), 1);
    let after = cx.io.stats();
    assert_eq!((after.in_flight, after.delivered), (0, 2), "{after:?}");
    assert!(after.turns > 0 && after.overflows == 0 && after.timed_out == 0, "{after:?}");
    drop((near, far));
    cx.poll_until("the descriptors' end", || cx.io.stats().descriptors == 0);
    Ok(())
}

fn dump_of_what_is_in_flight(cx: &Cx<'_>) -> Result<(), Skip> {
    assert!(cx.io.in_flight().is_empty());
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    cx.io.poll(Wait::Now).expect("a poll");
    let later = Instant::now() + Duration::from_secs(60);
    let timer = cx.io.sleep_until(later).on_complete(|_| {}).expect("room");
    let mut dump = cx.io.in_flight();
    dump.sort_by_key(|entry| entry.operation);
    let names: Vec<_> = dump.iter().map(|entry| entry.operation).collect();
    assert_eq!(names, ["recv", "timer"]);
    assert_eq!(dump[0].id, receiving.id());
    assert_eq!(dump[1].id, timer);
    assert!(dump[0].descriptor.is_some() && dump[1].descriptor.is_none(), "{dump:?}");
    assert_eq!((dump[0].waiter, dump[1].waiter), (Waiter::Nobody, Waiter::Callback));
    let text = dump[0].to_string();
    assert!(text.contains("recv on descriptor"), "{text}");
    cx.io.cancel(timer).expect("it is pending");
    drop(receiving);
    cx.poll_until("their end", || cx.io.in_flight().is_empty());
    assert_eq!(slab.available(), 1);
    Ok(())
}

/// Where each one stands, and who waits for it.
fn dump_of_those_that_stand_in_line(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(3, 8);
    let lease = || slab.lease().expect("free");
    let receiving = [near.recv(lease()), near.recv(lease())];
    let receiving = receiving.map(|receive| receive.submit().expect("room"));
    // Bytes for a receive from a pool whose only slot is taken.
    cx.block_on(near.send_all(Span::from(vec![1u8]))).expect("sent");
    let last = slab.lease();
    let pool = cx.io.receive_pool_over(&slab).expect("a pool");
    let dry = far.recv_pool(&pool).submit().expect("room");
    let later = Instant::now() + Duration::from_secs(60);
    let steps = cx.io.sequence().then(cx.io.sleep_until(later)).then(cx.io.nop());
    let steps = steps.submit().expect("room");
    let foreign = cx.io.handle().sleep_until(later).submit().map_err(|failed| failed.error);
    for _ in 0..8 {
        cx.io.poll(Wait::Now).expect("a poll");
    }
    let dump = cx.io.in_flight();
    let is_there = |operation, state, waiter| {
        let it = |entry: &dataplane::InFlight| {
            (entry.operation, entry.state, entry.waiter) == (operation, state, waiter)
        };
        assert!(dump.iter().any(it), "{operation} {state}: {dump:?}");
    };
    is_there("recv", "in flight", Waiter::Nobody);
    is_there("recv", "queued", Waiter::Nobody);
    is_there("timer", "waiting", Waiter::Nobody);
    is_there("timer", "waiting", Waiter::Foreign);
    is_there("nop", "waiting for the step before it", Waiter::Nobody);
    assert!(dump.iter().any(|entry| entry.state == "parked"), "{dump:?}");
    drop((receiving, dry, steps, foreign, last));
    cx.poll_until("their end", || cx.io.in_flight().is_empty());
    Ok(())
}

/// Its result is there and nobody wants it: what it holds comes back.
fn detached_when_it_is_over(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    cx.block_on(far.send_all(Span::from(vec![1u8]))).expect("sent");
    cx.poll_until("its end", || cx.io.stats().in_flight == 0);
    assert_eq!(slab.available(), 0);
    receiving.detach();
    cx.poll_until("its buffer", || slab.available() == 1);
    Ok(())
}

fn drop_before_completion(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    for _ in 0..2 {
        drop(near.recv(slab.lease().expect("free")).submit().expect("room"));
    }
    cx.poll_until("the buffers", || slab.available() == 2);
    assert_eq!(cx.io.stats().in_flight, 0);
    // The socket lives: what comes now is for who asks now.
    cx.block_on(far.send_all(Span::from(vec![7u8; 5]))).expect("sent");
    let filled = cx.block_on(near.recv(slab.lease().expect("free"))).expect("received");
    assert_eq!(filled[..], [7; 5]);
    Ok(())
}

fn detach_lets_it_run(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    near.send_all(Span::from(b"alone".to_vec())).submit().expect("room").detach();
    let slab = cx.slab(1, 5);
    let filled = cx.block_on(far.recv_all(slab.lease().expect("free"))).expect("received");
    assert_eq!(&filled[..], b"alone");
    cx.poll_until("its end", || cx.io.stats().in_flight == 0);
    Ok(())
}

fn timers(cx: &Cx<'_>, count: u32) -> Vec<Submission<dataplane::Timer>> {
    let later = Instant::now() + Duration::from_secs(60);
    (0..count).map(|_| cx.io.sleep_until(later).submit().expect("room")).collect()
}

fn the_bound_holds(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let waiting = timers(cx, OPERATIONS);
    let refused = near.recv(slab.lease().expect("free")).submit().err().expect("no room");
    cx.note(format!("one too many: {:?}", refused.kind()));
    assert_eq!(refused.kind(), ErrorKind::Exhausted);
    assert!(refused.error.message().contains("Options::operations"), "{refused}");
    let lease = refused.into_buffer().expect("it comes back");
    assert_eq!(cx.io.stats().in_flight, OPERATIONS);
    assert_eq!(cx.io.cancel_all().expect("cancelled"), OPERATIONS as usize);
    cx.poll_until("room", || cx.io.stats().in_flight == 0);
    cx.block_on(far.send_all(Span::from(vec![1u8]))).expect("sent");
    assert_eq!(cx.block_on(near.recv(lease)).expect("room again").len(), 1);
    for ended in cx.block_on(join_all(waiting)) {
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled);
    }
    Ok(())
}

fn results_do_not_count(cx: &Cx<'_>) -> Result<(), Skip> {
    let nops =
        || -> Vec<_> { (0..OPERATIONS).map(|_| cx.io.nop().submit().expect("room")).collect() };
    let first = nops();
    cx.poll_until("the first", || cx.io.stats().in_flight == 0);
    let second = nops();
    cx.poll_until("the second", || cx.io.stats().in_flight == 0);
    for mut submission in first.into_iter().chain(second) {
        assert!(submission.try_take().is_some_and(|ended| ended.is_ok()));
    }
    Ok(())
}

fn an_idle_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    assert_eq!(cx.io.poll(Wait::Now).expect("a poll"), 0);
    let until = Instant::now() + Duration::from_millis(2);
    assert_eq!(cx.io.poll(until).expect("a poll"), 0);
    assert!(Instant::now() >= until, "it waits as long as it is told to");
    assert_eq!(cx.io.poll(Instant::now() - Duration::from_millis(1)).expect("a poll"), 0);
    Ok(())
}

fn flush_delivers_nothing(cx: &Cx<'_>) -> Result<(), Skip> {
    let ran = Rc::new(Cell::new(false));
    let set = ran.clone();
    cx.io.nop().on_complete(move |_| set.set(true)).expect("room");
    cx.io.flush().expect("a flush");
    assert!(!ran.get(), "callbacks run inside polls only");
    cx.poll_until("the callback", || ran.get());
    cx.io.flush().expect("with nothing staged");
    Ok(())
}

fn a_second_handle(cx: &Cx<'_>) -> Result<(), Skip> {
    let second = cx.io.clone();
    let submission = second.nop().submit().expect("room");
    drop(second);
    assert!(!cx.io.handle().is_closed(), "the first still owns it");
    cx.block_on(submission).expect("polled by the first");
    Ok(())
}

fn names_are_not_reused(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let submission = cx.io.nop().submit().expect("room");
        let id = submission.id();
        assert!(seen.insert(id), "{id:?} again");
        cx.block_on(submission).expect("a no-op succeeds");
        let late = cx.io.cancel(id).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::NotFound);
    }
    Ok(())
}

fn hostile_options(cx: &Cx<'_>) -> Result<(), Skip> {
    type Change = fn(Options) -> Options;
    let hostile: [(&str, Change); 6] = [
        ("no operations", |options| options.operations(0)),
        ("too many operations", |options| options.operations(u32::MAX)),
        ("no inbox", |options| options.inbox(0)),
        ("no descriptors", |options| options.descriptors(0)),
        ("no undelivered results", |options| options.undelivered(0)),
        ("too many helpers", |options| options.helpers(usize::MAX)),
    ];
    for (what, make) in hostile {
        let refused = Proactor::with(make(cx.options.clone())).err().expect(what);
        cx.note(format!("{what}: {:?}", refused.kind()));
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        assert!(!refused.message().is_empty(), "it says what would be right");
    }
    Ok(())
}

fn what_was_asked_for_runs(cx: &Cx<'_>) -> Result<(), Skip> {
    assert_eq!(cx.io.backend(), cx.options.backend);
    assert_eq!(cx.io.fallback(), None, "nothing was chosen for us");
    let have = cx.io.capabilities();
    assert!(cx.options.allowed.contains_all(have), "{have} is more than was allowed");
    let none = cx.options.clone().allowed(Capabilities::none());
    let least = Proactor::with(none).expect("a proactor needs no capability");
    assert!(least.capabilities().is_empty());
    least.block_on(async { least.nop().await }).expect("polling").expect("a no-op");
    Ok(())
}

fn two_proactors(cx: &Cx<'_>) -> Result<(), Skip> {
    let other = Proactor::with(cx.options.clone()).expect("a second one");
    let (one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let (near, far) = (cx.io.adopt_socket(one).expect("room"), other.adopt_socket(two));
    let far = far.expect("room");
    let slab = cx.slab(1, 16);
    let mut receiving = far.recv(slab.lease().expect("free")).submit().expect("room");
    cx.block_on(near.send_all(Span::from(b"across".to_vec()))).expect("sent");
    let mut filled = None;
    cx.poll_until("the other's receive", || {
        other.poll(Wait::Now).expect("a poll of the other");
        filled = receiving.try_take();
        filled.is_some()
    });
    let filled = filled.expect("just taken").expect("received");
    assert_eq!(&filled[..], b"across");
    Ok(())
}

fn block_on_hears_every_wake(cx: &Cx<'_>) -> Result<(), Skip> {
    // None of these wakes comes with a result of the proactor's own.
    let called = cx.io.block_on(cx.io.handle().call(|io| io.stats().in_flight));
    assert_eq!(called.expect("polling").expect("called"), 0);
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    cx.io.poll(Wait::Now).expect("a poll");
    drop(receiving);
    let lease = cx.io.block_on(slab.lease_async()).expect("polling");
    assert_eq!(lease.len(), 8, "the slot of the receive that was dropped");
    Ok(())
}

fn after_shutdown(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second one");
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = io.adopt_socket(one).expect("room");
    let slab = cx.slab(2, 16);
    let mut pending = socket.recv(slab.lease().expect("free")).submit().expect("room");
    let (handle, second) = (io.handle(), io.clone());
    assert!(io.shutdown(Wait::Now).expect("shut down").is_none(), "nothing is leaked");
    assert!(handle.is_closed());
    let ended = pending.try_take().expect("shutting down ended it").unwrap_err();
    cx.note(format!("pending: {:?}", ended.kind()));
    drop(ended);
    let refused = socket.recv(slab.lease().expect("free")).submit().err().expect("refused");
    cx.note(format!("submitting: {:?}", refused.kind()));
    drop(refused);
    assert_eq!(slab.available(), 2, "every buffer came back");
    let poll = second.poll(Wait::Now).unwrap_err();
    cx.note(format!("polling: {:?}", poll.kind()));
    assert_eq!(poll.kind(), ErrorKind::ShutDown);
    assert!(second.in_flight().is_empty());
    Ok(())
}
