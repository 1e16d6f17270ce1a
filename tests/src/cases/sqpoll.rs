//! A kernel thread that submits (SQPOLL): what is handed over moves while its owner does something
//! else, and whatever is asked while that thread sleeps, lags or has a full queue comes to its end.
//!
//! The configuration `sqpoll` of the matrix runs every case this way; here is what that alone does
//! not show. Each case makes a second proactor like its own, with the option set. Where there is no
//! ring the option changes nothing, and the same holds.

use super::net::{exchange, settled, span, write};
use super::remote::parked;
use super::sequence::links;
use crate::{Case, Cx, Skip};
use dataplane::fence::Fence;
use dataplane::{
    Context, ErrorKind, Event, Hosted, Interest, LocalContext, OpenOptions, Options, Proactor,
    ProactorThread, SqPoll, Submitter, Wait,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "sqpoll/polls_wake_a_sleeping_thread", needs: &[], run: a_sleeping_thread },
    Case { name: "sqpoll/polls_end_in_time", needs: &[], run: in_time },
    Case { name: "sqpoll/more_than_the_queue_holds", needs: &[], run: a_full_queue },
    Case { name: "sqpoll/flushed_work_needs_no_poll", needs: &[], run: flushed },
    Case { name: "sqpoll/flushes_of_nothing", needs: &[], run: empty_flushes },
    Case { name: "sqpoll/multishot_results_need_no_enter", needs: &[], run: multishot },
    Case { name: "sqpoll/a_sequence_goes_on_without_its_owner", needs: &[], run: a_sequence },
    Case { name: "sqpoll/a_gate_opens_without_its_owner", needs: &[], run: a_gate },
    Case { name: "sqpoll/a_sequence_behind_a_full_queue", needs: &[], run: a_sequence_in_line },
    Case { name: "sqpoll/a_sequence_that_fails_half_way", needs: &[], run: a_failing_sequence },
    Case { name: "sqpoll/cancels_what_it_has_not_taken", needs: &[], run: cancels },
    Case { name: "sqpoll/a_registration_outlives_what_names_it", needs: &[], run: registration },
    Case { name: "sqpoll/shutdown_delivers_what_completes", needs: &[], run: shutdown_delivers },
    Case { name: "sqpoll/shutdown_calls_back_the_rest", needs: &[], run: shutdown_cancels },
    Case { name: "sqpoll/dropped_before_it_was_polled", needs: &[], run: dropped },
    Case { name: "sqpoll/run_by_a_context", needs: &[], run: by_a_context },
    Case { name: "sqpoll/run_by_a_local_context", needs: &[], run: by_a_local_context },
    Case { name: "sqpoll/run_by_threads_of_their_own", needs: &[], run: by_threads },
    Case { name: "sqpoll/run_by_a_host", needs: &[], run: by_a_host },
    Case { name: "sqpoll/woken_from_other_threads", needs: &[], run: woken },
];

/// How long the thread spins before it sleeps.
const IDLE: Duration = Duration::from_millis(1);
/// Long enough that what should not happen would have happened.
const MOMENT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

fn options(cx: &Cx<'_>) -> Options {
    cx.options.clone().sqpoll(SqPoll { idle: IDLE, cpu: None })
}

fn polled(options: Options) -> Result<Proactor, Skip> {
    let made = Proactor::with(options);
    made.map_err(|error| Skip(format!("no thread that submits: {error}")))
}

/// Longer than it spins.
fn let_it_sleep() {
    std::thread::sleep(3 * IDLE);
}

fn ends(io: &Proactor) -> (dataplane::Socket, UnixStream) {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    two.set_read_timeout(Some(PATIENCE)).expect("an option");
    (io.adopt_socket(one).expect("room"), two)
}

fn a_sleeping_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    let (near, far) = cx.unix_pair();
    for round in 0..4u8 {
        let_it_sleep();
        exchange(cx, &near, &far, &[round; 100]);
        let_it_sleep();
        cx.block_on(io.nop()).expect("a no-op");
    }
    Ok(())
}

fn in_time(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    for timeout in [Duration::from_millis(1), 3 * IDLE] {
        let at = std::time::Instant::now() + timeout;
        io.poll(at).expect("nothing happens");
        let lease = slab.lease().expect("free");
        let late = cx.block_on(near.recv(lease).timeout(timeout)).expect_err("nothing comes");
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        drop(late);
        cx.block_on(io.sleep_until(at + timeout)).expect("a timer");
    }
    Ok(())
}

fn a_full_queue(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx).submissions(2))?;
    let cx = &Cx::new(&io, cx.options);
    for round in 1..=3 {
        let nops: Vec<_> = (0..40).map(|_| io.nop().submit().expect("room")).collect();
        let_it_sleep();
        assert!(cx.block_on(join_all(nops)).iter().all(Result::is_ok));
        assert_eq!(io.stats().completed, 40 * round);
    }
    Ok(())
}

fn flushed(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    let (near, mut far) = ends(&io);
    for is_asleep in [false, true] {
        if is_asleep {
            let_it_sleep();
        }
        let sending = near.send_all(span(b"by itself")).submit().expect("room");
        io.flush().expect("outside a poll");
        if cx.options.faults.is_none() {
            let mut got = [0; 9];
            far.read_exact(&mut got).expect("nobody polls, and it comes");
            assert_eq!(got, *b"by itself");
        }
        assert_eq!(cx.block_on(sending).expect("sent").bytes, 9);
    }
    Ok(())
}

fn empty_flushes(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    cx.block_on(io.nop()).expect("a no-op");
    let_it_sleep();
    let before = io.stats().enters;
    for _ in 0..20 {
        io.flush().expect("outside a poll");
    }
    // One may be the last thing that was staged before.
    let has_ring = io.backend() == dataplane::Backend::IoUring;
    assert!(!has_ring || io.stats().enters - before <= 1, "a sleeping thread is left asleep");
    Ok(())
}

fn multishot(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    let (near, far) = cx.unix_pair();
    let pool = io.receive_pool(4, 16).expect("a pool");
    let mut stream = far.receive_all(&pool).submit().expect("room");
    let bytes = Cx::pattern(400, 31);
    let mut got = Vec::new();
    let taking = async {
        while got.len() < bytes.len() {
            got.extend_from_slice(&stream.next().await.expect("no end").expect("receiving"));
        }
    };
    cx.block_on(async { futures_util::join!(write(&near, &bytes), taking) });
    assert!(got == bytes);
    drop(stream);
    settled(cx, 2);
    Ok(())
}

fn a_sequence(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    let (near, mut far) = ends(&io);
    let (gate, mut opener) = ends(&io);
    let before = io.stats().linked_steps;
    let steps =
        io.sequence().then(gate.ready(Interest::READABLE)).then(near.send_all(span(b"opened")));
    let running = steps.submit().expect("room");
    io.flush().expect("outside a poll");
    let is_linked = io.stats().linked_steps > before;
    opener.write_all(b"!").expect("room in the socket");
    let mut got = [0; 6];
    if is_linked {
        // Its owner is here, and does nothing for it.
        far.read_exact(&mut got).expect("the kernel goes from one step to the next");
    }
    assert_eq!(cx.block_on(running).expect("both steps").steps(), 2);
    if !is_linked {
        far.read_exact(&mut got).expect("it was sent");
    }
    assert_eq!(got, *b"opened");
    Ok(())
}

/// A send behind an unchecked gate, which another thread opens while the owner is not in the
/// kernel: with the thread that submits it leaves, on the default ring it waits for its owner.
fn a_gate(cx: &Cx<'_>) -> Result<(), Skip> {
    let default = Options { sqpoll: None, ..cx.options.clone() };
    for options in [options(cx), default] {
        let is_polled = options.sqpoll.is_some();
        let io = polled(options)?;
        let cx = &Cx::new(&io, cx.options);
        let (near, mut far) = ends(&io);
        let event = Event::new().expect("a descriptor");
        let fd = event.as_fd().try_clone_to_owned().expect("a descriptor");
        let gate = io.fence_waiter(Fence::from_fd(fd).expect("an eventfd"));
        let before = io.stats().linked_steps;
        let steps = io.sequence().then(gate.wait_unchecked()).send_all(&near, span(b"opened"));
        let running = steps.submit().expect("room");
        io.flush().expect("outside a poll");
        let is_linked = io.stats().linked_steps > before;
        assert!(is_linked == links(cx) || cx.options.faults.is_some());
        let leaves = is_linked && is_polled;
        let other = std::thread::spawn(move || {
            let timeout = if leaves { PATIENCE } else { MOMENT };
            far.set_read_timeout(Some(timeout)).expect("an option");
            event.set();
            let mut got = [0; 6];
            (far.read_exact(&mut got).map(|()| got), far)
        });
        let (early, mut far) = other.join().expect("no panic");
        assert_eq!(early.ok(), leaves.then_some(*b"opened"), "sqpoll: {is_polled}");
        let finished = cx.block_on(running).expect("both steps");
        if cx.options.faults.is_none() {
            assert_eq!(finished.started_by_kernel(1), is_linked);
        }
        if !leaves {
            far.set_read_timeout(Some(PATIENCE)).expect("an option");
            let mut got = [0; 6];
            far.read_exact(&mut got).expect("its owner polled");
            assert_eq!(got, *b"opened");
        }
    }
    Ok(())
}

fn a_sequence_in_line(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx).submissions(4))?;
    let cx = &Cx::new(&io, cx.options);
    let (near, mut far) = ends(&io);
    for round in 0..3 {
        if round == 1 {
            let_it_sleep();
        }
        let nops: Vec<_> = (0..6).map(|_| io.nop().submit().expect("room")).collect();
        let mut steps = io.sequence();
        for byte in 0..6u8 {
            steps.add(near.send_all(span(&[byte])));
        }
        let running = steps.submit().expect("room");
        assert_eq!(cx.block_on(running).expect("every step").steps(), 6);
        assert!(cx.block_on(join_all(nops)).iter().all(Result::is_ok));
        let mut got = [0; 6];
        far.read_exact(&mut got).expect("it was sent");
        assert_eq!(got, [0, 1, 2, 3, 4, 5], "whole or emulated, never cut in two");
    }
    Ok(())
}

fn a_failing_sequence(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    let (near, mut far) = ends(&io);
    let (broken, gone) = ends(&io);
    drop(gone);
    let slab = cx.slab(1, 8);
    let steps = io
        .sequence()
        .then(near.send_all(span(b"1")))
        .then(broken.send_all(span(b"2")))
        .then(near.send_all(span(b"3")))
        .then(near.recv(slab.lease().expect("free")));
    let failed = cx.block_on(steps).expect_err("its second step");
    assert_eq!(failed.step, Some(1));
    drop(failed);
    far.set_nonblocking(true).expect("an option");
    let mut got = [0; 8];
    assert_eq!(far.read(&mut got).expect("the first step"), 1, "nothing after the failed step");
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn cancels(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx).submissions(2))?;
    let cx = &Cx::new(&io, cx.options);
    let pairs: Vec<_> = (0..6).map(|_| cx.unix_pair()).collect();
    let slab = cx.slab(6, 8);
    for is_flushed in [false, true] {
        let lease = || slab.lease().expect("free");
        let receives: Vec<_> =
            pairs.iter().map(|(near, _)| near.recv(lease()).submit().expect("room")).collect();
        if is_flushed {
            io.flush().expect("outside a poll");
        }
        for receive in &receives {
            receive.cancel().expect("it is pending");
        }
        for ended in cx.block_on(join_all(receives)) {
            assert_eq!(ended.err().map(|failed| failed.kind()), Some(ErrorKind::Cancelled));
        }
        assert_eq!(slab.available(), 6);
    }
    exchange(cx, &pairs[5].0, &pairs[5].1, b"nothing of it was left with the kernel");
    Ok(())
}

/// Entries that were published name registered memory; the thread may not have looked at them.
fn registration(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    let path = cx.scratch_dir().join("file");
    let bytes = Cx::pattern(64 * 32, 32);
    std::fs::write(&path, &bytes).expect("a file");
    let opening = io.open(path, OpenOptions::read()).expect("a path");
    let file = cx.block_on(opening).expect("it is there");
    for round in 0..10 {
        let slab = cx.slab(32, 64);
        let Ok(registration) = io.register_slab(&slab) else { return Ok(()) };
        if round % 2 == 0 {
            let_it_sleep();
        }
        let reads = (0..32u64)
            .map(|at| file.read_at(slab.lease().expect("free"), at * 64).submit().expect("room"));
        let reads: Vec<_> = reads.collect();
        drop(registration);
        for (at, filled) in cx.block_on(join_all(reads)).into_iter().enumerate() {
            let filled = filled.expect("reading");
            assert!(!filled.is_empty() && bytes[at * 64..].starts_with(&filled));
        }
        cx.poll_until("the release", || io.stats().releasing == 0);
    }
    Ok(())
}

fn shutdown_delivers(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let (near, mut far) = ends(&io);
    let mut sending = near.send_all(span(b"last words")).submit().expect("room");
    let_it_sleep();
    assert_eq!(io.shutdown(Duration::from_secs(5)).expect("outside a poll"), None);
    let sent = sending.try_take().expect("it is over").expect("it completed by itself");
    assert_eq!(sent.bytes, 10);
    drop(near);
    let mut got = Vec::new();
    far.read_to_end(&mut got).expect("and then the end");
    assert_eq!(got, b"last words");
    Ok(())
}

fn shutdown_cancels(cx: &Cx<'_>) -> Result<(), Skip> {
    for submissions in [2, 16] {
        let io = polled(options(cx).submissions(submissions))?;
        let inner = Cx::new(&io, cx.options);
        let slab = inner.slab(8, 8);
        let pairs: Vec<_> = (0..8).map(|_| inner.unix_pair()).collect();
        let receives = pairs
            .iter()
            .map(|(near, _)| near.recv(slab.lease().expect("free")).submit().expect("room"));
        let receives: Vec<_> = receives.collect();
        io.poll(Wait::Now).expect("polls");
        let_it_sleep();
        drop(inner);
        assert_eq!(io.shutdown(Wait::Now).expect("outside a poll"), None, "all were called back");
        drop((receives, pairs));
        assert_eq!(slab.available(), 8);
    }
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(4, 8);
    for is_flushed in [false, true] {
        let io = polled(options(cx))?;
        let (near, mut far) = ends(&io);
        let lease = || slab.lease().expect("free");
        let receives: Vec<_> = (0..4).map(|_| near.recv(lease()).submit().expect("room")).collect();
        if is_flushed {
            io.flush().expect("outside a poll");
        }
        drop(io);
        drop((receives, near));
        assert_eq!(slab.available(), 4, "every buffer came back");
        assert_eq!(far.read(&mut [0; 1]).expect("the end of the stream"), 0);
    }
    Ok(())
}

fn by_a_context(cx: &Cx<'_>) -> Result<(), Skip> {
    drop(polled(options(cx))?);
    let context = Context::start(options(cx)).expect("a driver");
    for _ in 0..3 {
        let driver = context.driver();
        let task = context.spawn(async move {
            let at = std::time::Instant::now() + 2 * IDLE;
            driver.sleep_until(at).await.expect("a timer");
            driver.nop().await.is_ok()
        });
        context.run().expect("it runs");
        assert_eq!(parked(task).ok(), Some(true));
        context.restart();
    }
    Ok(())
}

fn by_a_local_context(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let context = LocalContext::new(&io);
    let (near, mut far) = ends(&io);
    for round in 0..3u8 {
        let sending = near.send_all(span(&[round])).submit().expect("room");
        let mut task = context.spawn(async move { sending.await.expect("sent").bytes });
        let_it_sleep();
        context.run_until(Duration::from_secs(10)).expect("it polls");
        assert_eq!(task.try_take().and_then(Result::ok), Some(1));
        let mut got = [9];
        far.read_exact(&mut got).expect("it was sent");
        assert_eq!(got, [round]);
        context.restart();
    }
    Ok(())
}

fn by_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    drop(polled(options(cx))?);
    let thread = ProactorThread::start(options(cx)).expect("a thread with a proactor");
    let submitter = Submitter::start(options(cx)).expect("a thread");
    for _ in 0..3 {
        let_it_sleep();
        parked(thread.handle().nop().into_future()).expect("a no-op");
        let handle = submitter.handle();
        let submitted = parked(submitter.submit(handle.nop())).expect("room");
        parked(submitted).expect("a no-op");
    }
    assert_eq!(thread.join().expect("it did not panic"), None);
    let handle = submitter.handle();
    drop(submitter);
    cx.poll_until("the loop's end", || handle.is_closed());
    Ok(())
}

fn by_a_host(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let Ok(hosted) = Hosted::new(&io) else { return Ok(()) };
    let (near, mut far) = ends(&io);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let work = async {
        let slab = dataplane::regions::Slab::new(1, 8).expect("memory");
        for round in 0..3u8 {
            let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
            tokio::task::yield_now().await;
            let_it_sleep();
            far.write_all(&[round]).expect("room in the socket");
            assert_eq!(receiving.await.expect("it came")[..], [round]);
        }
    };
    runtime.expect("a runtime").block_on(hosted.drive_in_tokio(work)).expect("driven");
    Ok(())
}

fn woken(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = polled(options(cx))?;
    let cx = &Cx::new(&io, cx.options);
    for round in 1..=3 {
        super::remote::beside(cx, |handle| {
            let_it_sleep();
            parked(handle.nop().into_future()).expect("a no-op");
        });
        assert_eq!(io.stats().foreign_submissions, round);
    }
    Ok(())
}
