//! Queues that are too small for what is asked, and loops under load: nothing is lost, nothing
//! hangs, and the counters say what happened. On readiness backends the same without a queue.

use super::net::{exchange, idle_turns, settled, write};
use super::remote::parked;
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Interest, Nop, Proactor, Wait};
use futures_util::StreamExt;
use futures_util::future::join_all;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "pressure/more_than_the_queue_holds", needs: &[], run: more_than_it_holds },
    Case { name: "pressure/full_while_cancelling_all", needs: &[], run: cancelling_all },
    Case { name: "pressure/cancelled_while_it_stands_in_line", needs: &[], run: cancelled_in_line },
    Case { name: "pressure/dropped_while_it_stands_in_line", needs: &[], run: dropped_in_line },
    Case { name: "pressure/full_while_closing", needs: &[], run: closing },
    Case { name: "pressure/full_while_timing_out", needs: &[], run: timing_out },
    Case { name: "pressure/full_while_rearming_accepts", needs: &[], run: rearming_accepts },
    Case { name: "pressure/full_while_rearming_pools", needs: &[], run: rearming_pools },
    Case { name: "pressure/full_while_resuming", needs: &[], run: resuming },
    Case { name: "pressure/full_when_the_proactor_goes", needs: &[], run: proactor_goes },
    Case { name: "pressure/flushes_empty_the_line", needs: &[], run: flushes },
    Case { name: "pressure/a_batch_longer_than_the_queue", needs: &[], run: batch },
    Case { name: "pressure/wakes_come_through_a_full_queue", needs: &[], run: wakes },
    Case { name: "pressure/wakes_after_an_overflow", needs: &[], run: wakes_after_overflow },
    Case { name: "pressure/timers_come_through_a_busy_loop", needs: &[], run: timers },
    Case { name: "pressure/a_registration_waits_for_the_line", needs: &[], run: registration },
];

/// A proactor like the case's with room for two submissions at a time.
fn narrow(cx: &Cx<'_>) -> Proactor {
    let options = cx.options.clone().submissions(2).undelivered(4);
    Proactor::with(options).expect("a second proactor")
}

/// Whether something stood in line, where there is a queue.
fn stood_in_line(io: &Proactor) {
    let has_queue = io.backend() == dataplane::Backend::IoUring;
    assert_eq!(io.stats().queued > 0, has_queue, "{:?}", io.stats());
}

fn more_than_it_holds(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    for _ in 0..3 {
        let nops: Vec<_> = (0..40).map(|_| io.nop().submit().expect("room")).collect();
        assert!(cx.block_on(join_all(nops)).iter().all(Result::is_ok));
    }
    assert_eq!(io.stats().completed, 120);
    stood_in_line(&io);
    Ok(())
}

fn cancelling_all(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let pairs: Vec<_> = (0..10).map(|_| cx.unix_pair()).collect();
    let slab = cx.slab(10, 8);
    let lease = || slab.lease().expect("free");
    let receives: Vec<_> =
        pairs.iter().map(|(near, _)| near.recv(lease()).submit().expect("room")).collect();
    idle_turns(cx);
    assert_eq!(io.cancel_all().expect("owner"), 10);
    for ended in cx.block_on(join_all(receives)) {
        assert_eq!(ended.err().map(|failed| failed.kind()), Some(ErrorKind::Cancelled));
    }
    assert_eq!(slab.available(), 10);
    stood_in_line(&io);
    exchange(cx, &pairs[0].0, &pairs[0].1, b"the sockets live");
    Ok(())
}

fn cancelled_in_line(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let pairs: Vec<_> = (0..6).map(|_| cx.unix_pair()).collect();
    let slab = cx.slab(6, 8);
    let lease = || slab.lease().expect("free");
    // Nothing was polled: the first ones are staged, the others stand behind them.
    let receives: Vec<_> =
        pairs.iter().map(|(near, _)| near.recv(lease()).submit().expect("room")).collect();
    for receive in receives.iter().rev() {
        receive.cancel().expect("it is pending");
    }
    for ended in cx.block_on(join_all(receives)) {
        assert_eq!(ended.err().map(|failed| failed.kind()), Some(ErrorKind::Cancelled));
    }
    stood_in_line(&io);
    exchange(cx, &pairs[5].0, &pairs[5].1, b"nothing of it was left with the kernel");
    Ok(())
}

fn dropped_in_line(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(6, 8);
    for _ in 0..3 {
        let lease = || slab.lease().expect("free");
        let receives: Vec<_> = (0..6).map(|_| near.recv(lease()).submit().expect("room")).collect();
        drop(receives);
        settled(cx, 2);
        assert_eq!(slab.available(), 6, "every buffer comes back");
    }
    exchange(cx, &far, &near, b"bytes go to whoever asks");
    Ok(())
}

fn closing(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let pairs: Vec<_> = (0..10).map(|_| cx.unix_pair()).collect();
    let slab = cx.slab(10, 8);
    let lease = || slab.lease().expect("free");
    let receives: Vec<_> =
        pairs.iter().map(|(near, _)| near.recv(lease()).submit().expect("room")).collect();
    idle_turns(cx);
    drop(pairs);
    for ended in cx.block_on(join_all(receives)) {
        // The peer's end may be seen first.
        let kind = ended.map(|filled| filled.len()).map_err(|failed| failed.kind());
        assert!(matches!(kind, Ok(0) | Err(ErrorKind::Closed)), "{kind:?}");
    }
    settled(cx, 0);
    Ok(())
}

fn timing_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let pairs: Vec<_> = (0..10).map(|_| cx.unix_pair()).collect();
    let slab = cx.slab(10, 8);
    let receives = pairs.iter().map(|(near, _)| {
        let lease = slab.lease().expect("free");
        near.recv(lease).timeout(Duration::from_millis(3)).submit().expect("room")
    });
    let receives: Vec<_> = receives.collect();
    for ended in cx.block_on(join_all(receives)) {
        assert_eq!(ended.err().map(|failed| failed.kind()), Some(ErrorKind::TimedOut));
    }
    assert_eq!((io.stats().timed_out, slab.available()), (10, 10));
    stood_in_line(&io);
    Ok(())
}

fn rearming_accepts(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let listener = io.listen("127.0.0.1:0").expect("listening");
    let to = listener.local_addr().expect("an address");
    let mut incoming = listener.incoming().submit().expect("room");
    // More than may stand undelivered: it pauses, and goes on behind a full queue.
    let clients = cx.block_on(join_all((0..12).map(|_| io.connect(to.clone()))));
    assert!(clients.iter().all(Result::is_ok));
    let mut nops = Vec::new();
    for _ in 0..12 {
        nops.extend((0..3).map(|_| io.nop().submit().expect("room")));
        let accepted = cx.block_on(incoming.next()).expect("no end");
        drop(accepted.expect("accepting"));
    }
    assert!(cx.block_on(join_all(nops)).iter().all(Result::is_ok));
    drop((incoming, clients));
    settled(cx, 1);
    Ok(())
}

fn rearming_pools(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let (near, far) = cx.unix_pair();
    // Two buffers for a hundred pieces: it ends, is armed again, and ends again.
    let pool = io.receive_pool(2, 16).expect("a pool");
    let mut stream = far.receive_all(&pool).submit().expect("room");
    let bytes = Cx::pattern(1600, 21);
    let mut got = Vec::new();
    let taking = async {
        while got.len() < bytes.len() {
            let nops = (0..3).map(|_| io.nop().submit().expect("room"));
            let nops: Vec<_> = nops.collect();
            let filled = stream.next().await.expect("no end").expect("receiving");
            got.extend_from_slice(&filled);
            join_all(nops).await;
        }
    };
    cx.block_on(async { futures_util::join!(write(&near, &bytes), taking) });
    assert!(got == bytes, "nothing is lost between two arms");
    stood_in_line(&io);
    drop(stream);
    settled(cx, 2);
    Ok(())
}

fn resuming(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let pairs: Vec<_> = (0..4).map(|_| cx.unix_pair()).collect();
    let pool = io.receive_pool(64, 10).expect("a pool");
    let streams = pairs.iter().map(|(_, far)| far.receive_all(&pool).submit().expect("room"));
    let mut streams: Vec<_> = streams.collect();
    let bytes = Cx::pattern(150, 22);
    for (near, _) in &pairs {
        cx.block_on(write(near, &bytes));
    }
    cx.poll_until("the pauses", || io.stats().paused >= 4);
    // All four go on at once.
    let mut got = vec![Vec::new(); 4];
    cx.poll_until("the bytes", || {
        for (stream, got) in streams.iter_mut().zip(&mut got) {
            while let Some(filled) = stream.try_next() {
                got.extend_from_slice(&filled.expect("receiving"));
            }
        }
        got.iter().all(|got| got.len() == bytes.len())
    });
    assert!(got.iter().all(|got| *got == bytes));
    drop(streams);
    settled(cx, 8);
    Ok(())
}

fn proactor_goes(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let inner = Cx::new(&io, cx.options);
    let slab = inner.slab(8, 8);
    let pairs: Vec<_> = (0..8).map(|_| inner.unix_pair()).collect();
    let receives = pairs
        .iter()
        .map(|(near, _)| near.recv(slab.lease().expect("free")).submit().expect("room"));
    let receives: Vec<_> = receives.collect();
    drop(inner);
    let leaked = io.shutdown(Wait::Now).expect("outside a poll");
    assert_eq!(leaked, None, "all of them were called back");
    drop((receives, pairs));
    assert_eq!(slab.available(), 8);
    Ok(())
}

fn flushes(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let nops: Vec<_> = (0..20).map(|_| io.nop().submit().expect("room")).collect();
    for _ in 0..20 {
        io.flush().expect("outside a poll");
    }
    assert_eq!(io.stats().delivered, 0, "a flush delivers nothing");
    cx.block_on(join_all(nops));
    stood_in_line(&io);
    Ok(())
}

fn batch(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let mut batch = io.batch();
    for _ in 0..30 {
        batch.add(Nop);
    }
    let submitted = batch.submit().expect("room for thirty");
    cx.poll_until("the batch", || io.stats().in_flight == 0);
    drop(submitted);
    assert_eq!(io.stats().completed, 30);
    stood_in_line(&io);
    Ok(())
}

fn wakes(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let handle = io.handle();
    for round in 1..=5 {
        let nops: Vec<_> = (0..10).map(|_| io.nop().submit().expect("room")).collect();
        let waker = handle.clone();
        let thread = std::thread::spawn(move || waker.wake());
        while io.stats().wakes < round {
            io.poll(Wait::Forever).expect("polls");
        }
        thread.join().expect("it only wakes");
        Cx::new(&io, cx.options).block_on(join_all(nops));
    }
    Ok(())
}

fn wakes_after_overflow(cx: &Cx<'_>) -> Result<(), Skip> {
    let options = cx.options.clone().submissions(2).completions(2);
    let io = Proactor::with(options).expect("a second proactor");
    let cx = &Cx::new(&io, cx.options);
    let (near, far) = cx.unix_pair();
    let mut readiness = near.readiness(Interest::READABLE).submit().expect("room");
    for round in 1..=4 {
        let nops: Vec<_> = (0..40).map(|_| io.nop().submit().expect("room")).collect();
        cx.block_on(write(&far, b"x"));
        for _ in 0..20 {
            io.flush().expect("outside a poll");
        }
        cx.block_on(join_all(nops));
        cx.block_on(readiness.next()).expect("no end").expect("readable");
        // Whatever the overflow ended, the loop hears other threads.
        let handle = io.handle();
        let thread = std::thread::spawn(move || {
            parked(handle.nop().into_future()).expect("a no-op");
            handle.wake();
        });
        cx.poll_until("the other thread", || thread.is_finished());
        thread.join().expect("it was heard");
        assert_eq!(io.stats().foreign_submissions, round);
        let lease = cx.slab(1, 8).lease().expect("free");
        cx.block_on(near.recv(lease)).expect("the byte");
    }
    drop(readiness);
    settled(cx, 2);
    Ok(())
}

fn timers(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let at = Instant::now() + Duration::from_millis(5);
    let mut timer = io.sleep_until(at).submit().expect("room");
    let limit = Instant::now() + Duration::from_secs(10);
    let mut nops = Vec::new();
    while timer.try_take().is_none() {
        assert!(Instant::now() < limit, "a busy loop still looks at its timers");
        let room = 40u32.saturating_sub(io.stats().in_flight).min(4);
        nops.extend((0..room).map(|_| io.nop().submit().expect("room")));
        io.poll(Wait::Now).expect("polls");
        nops.retain_mut(|nop| nop.try_take().is_none());
    }
    assert!(Instant::now() >= at, "not before its time");
    Cx::new(&io, cx.options).block_on(join_all(nops));
    Ok(())
}

fn registration(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = narrow(cx);
    let cx = &Cx::new(&io, cx.options);
    let slab = cx.slab(8, 64);
    let Ok(registration) = io.register_slab(&slab) else { return Ok(()) };
    let path = cx.scratch_dir().join("file");
    std::fs::write(&path, Cx::pattern(512, 23)).expect("a file");
    let opening = io.open(path, dataplane::OpenOptions::read()).expect("a path");
    let file = cx.block_on(opening).expect("it is there");
    let reads = (0..8u64)
        .map(|at| file.read_at(slab.lease().expect("free"), at * 64).submit().expect("room"));
    let reads: Vec<_> = reads.collect();
    // What stands in line names the entries that go now.
    drop(registration);
    for (at, filled) in cx.block_on(join_all(reads)).into_iter().enumerate() {
        let filled = filled.expect("reading");
        assert!(!filled.is_empty() && Cx::pattern(512, 23)[at * 64..].starts_with(&filled));
    }
    cx.poll_until("the release", || io.stats().releasing == 0);
    Ok(())
}
