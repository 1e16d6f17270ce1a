//! Other threads: what a [`Handle`] submits, who is told, and what becomes of it when a thread or
//! the proactor goes away. Results are awaited with an executor that only parks its thread.

use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Handle, OpenOptions, Proactor, SocketKind, SocketOptions, Wait};
use futures_util::future::{FutureExt, join_all};
use futures_util::{Stream, StreamExt};
use regions::Span;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "remote/nop_and_timer", needs: &[], run: nop_and_timer },
    Case { name: "remote/many_threads", needs: &[], run: many_threads },
    Case { name: "remote/sockets_echo", needs: &[], run: sockets_echo },
    Case { name: "remote/sockets_of_every_kind", needs: &[], run: sockets_of_every_kind },
    Case { name: "remote/names_resolve", needs: &[], run: names_resolve },
    Case { name: "remote/files_too", needs: &[], run: files_too },
    Case { name: "remote/refused_at_the_other_end", needs: &[], run: refused_at_the_end },
    Case { name: "remote/a_timeout_gives_the_buffer_back", needs: &[], run: a_timeout },
    Case { name: "remote/cancelled_by_its_submitter", needs: &[], run: cancelled },
    Case { name: "remote/cancelled_before_it_ran", needs: &[], run: cancelled_before_it_ran },
    Case { name: "remote/dropped_submissions_end", needs: &[], run: dropped_submissions },
    Case { name: "remote/its_thread_may_end_first", needs: &[], run: its_thread_may_end },
    Case { name: "remote/a_full_inbox_hands_back", needs: &[], run: a_full_inbox },
    Case { name: "remote/submits_race_the_end", needs: &[], run: submits_race_the_end },
    Case { name: "remote/outlives_the_proactor", needs: &[], run: outlives_the_proactor },
    Case { name: "remote/calls_bring_values", needs: &[], run: calls_bring_values },
    Case { name: "remote/a_call_that_panics", needs: &[], run: a_call_that_panics },
    Case { name: "remote/a_wake_ends_a_poll", needs: &[], run: a_wake_ends_a_poll },
    Case { name: "remote/a_socket_moves_over", needs: &[], run: a_socket_moves_over },
    Case { name: "remote/a_socket_in_use_stays", needs: &[], run: a_socket_in_use_stays },
    Case { name: "remote/a_stream_pauses_and_goes_on", needs: &[], run: a_stream_pauses },
    Case { name: "remote/a_dropped_socket_closes", needs: &[], run: a_dropped_socket_closes },
    Case { name: "remote/accepts_in_another_thread", needs: &[], run: accepts_elsewhere },
];

/// Longest that a thread waits for its operation.
const LIMIT: Duration = Duration::from_secs(10);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Parks this thread until the future is ready: an executor that knows no proactor.
pub(super) fn parked<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nobody woke this thread for {} s", LIMIT.as_secs());
        std::thread::park_timeout(left);
    }
}

/// Runs `f` on a thread of its own while this one polls.
pub(super) fn beside<T: Send + 'static>(
    cx: &Cx<'_>,
    f: impl FnOnce(Handle) -> T + Send + 'static,
) -> T {
    let handle = cx.io.handle();
    let thread = std::thread::spawn(move || f(handle));
    cx.poll_until("another thread", || thread.is_finished());
    thread.join().expect("the other thread's assertions hold")
}

fn nop_and_timer(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.stats().foreign_submissions;
    beside(cx, |handle| {
        parked(handle.nop().into_future()).expect("a no-op");
        let at = Instant::now() + Duration::from_millis(3);
        parked(handle.sleep_until(at).into_future()).expect("a timer");
        assert!(Instant::now() >= at, "not before its time");
    });
    assert_eq!(cx.io.stats().foreign_submissions - before, 2);
    Ok(())
}

fn many_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let pair = [handle.nop(), handle.nop()].map(|nop| nop.submit().expect("room"));
                    for ended in parked(join_all(pair)) {
                        ended.expect("a no-op");
                    }
                }
            })
        })
        .collect();
    cx.poll_until("the threads", || threads.iter().all(|thread| thread.is_finished()));
    threads.into_iter().for_each(|thread| thread.join().expect("each was told"));
    assert_eq!(cx.io.stats().foreign_submissions, 400);
    Ok(())
}

fn sockets_echo(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("loopback");
    let to = listener.local_addr().expect("an address");
    let accepting = listener.accept().submit().expect("room");
    let bytes = Cx::pattern(3000, 1);
    let slab = cx.slab(2, 4096);
    let (sent, theirs) = (bytes.clone(), slab.clone());
    let handle = cx.io.handle();
    let thread = std::thread::spawn(move || {
        parked(async {
            let socket = handle.connect(to.clone()).await.expect("connects");
            assert_eq!(socket.peer_addr().await.expect("a peer"), to);
            socket.send_all(sent).await.expect("sent");
            socket.finish().await.expect("half closed");
            let filled = socket.recv_all(theirs.lease().expect("a slot")).await;
            filled.expect("received").to_vec()
        })
    });
    cx.block_on(async {
        let server = accepting.await.expect("accepts");
        let filled = server.recv_all(slab.lease().expect("a slot")).await.expect("received");
        server.send_all(filled.freeze()).await.expect("sent");
    });
    cx.poll_until("the client", || thread.is_finished());
    assert!(thread.join().expect("the client's assertions hold") == bytes);
    assert_eq!(slab.available(), 2);
    Ok(())
}

/// What a handle makes is what the proactor would: packets with a kind, datagrams, options set.
fn sockets_of_every_kind(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(1, 64);
    let at = super::unix::fresh_name();
    beside(cx, move |handle| {
        parked(async {
            let options = SocketOptions::default();
            let listener = handle.listen_with(&at, SocketKind::SeqPacket, &options).await;
            let listener = listener.expect("listening");
            let connecting = handle.connect_with(&at, SocketKind::SeqPacket, options.clone());
            let (near, far) = futures_util::join!(connecting, listener.accept().into_future());
            let (near, far) = (near.expect("connects"), far.expect("accepts"));
            for packet in [&b"one"[..], b"three"] {
                near.send_all(packet).await.expect("sent");
            }
            for packet in [&b"one"[..], b"three"] {
                let filled = far.recv(slab.lease().expect("a slot")).await.expect("received");
                assert_eq!(&filled[..], packet, "packets keep their boundaries");
            }
            let here = "127.0.0.1:0";
            let bound =
                [handle.bind_datagram(here, &options), handle.bind_datagram(here, &options)];
            let [one, two] = bound.map(|bound| async { bound.await.expect("bound") });
            let (one, two) = futures_util::join!(one, two);
            let (from, to) = (one.local_addr().await, two.local_addr().await);
            one.send_to(&b"hello"[..], to.expect("bound")).await.expect("sent");
            let got = two.recv_from(slab.lease().expect("a slot")).await.expect("received");
            assert_eq!((&got.0[..], got.1), (&b"hello"[..], from.expect("bound")));
            let mine = handle.listen(here).await.expect("listening");
            let mine = mine.local_addr().await.expect("an address");
            let taken = handle.listen_with(mine, SocketKind::Stream, &options).await;
            assert_eq!(taken.expect_err("in use").errno(), Some(libc::EADDRINUSE));
        });
    });
    Ok(())
}

fn names_resolve(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |handle| {
        let found = parked(handle.resolve("localhost:80").into_future()).expect("a known name");
        assert!(found.iter().any(|address| address.ip().is_loopback() && address.port() == 80));
    });
    Ok(())
}

fn files_too(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("remote");
    let slab = cx.slab(1, 64);
    beside(cx, move |handle| {
        parked(async {
            let options = OpenOptions::read_write().create(0o600);
            let file = handle.open(&path, options).expect("a path").await.expect("opens");
            file.write_at(b"from afar".to_vec(), 0).await.expect("written");
            file.sync().await.expect("durable");
            let filled = file.read_at(slab.lease().expect("a slot"), 5).await.expect("read");
            assert_eq!(filled[..], *b"afar");
            file.close().await.expect("closed");
            let missing = handle.open(path.join("x"), options).expect("a path").await;
            assert_eq!(missing.expect_err("below a file").error.errno(), Some(libc::ENOTDIR));
        });
    });
    Ok(())
}

/// What the owner refuses comes back as the result, with its buffer.
fn refused_at_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two) = cx.unix_pair();
    let handle = cx.io.handle();
    let socket = one.into_remote(&handle).map_err(|(error, _)| error).expect("no clones");
    let slab = cx.slab(1, 64);
    let available = slab.clone();
    let kinds = beside(cx, move |_| {
        let mut empty = slab.lease().expect("a slot");
        empty.truncate(0);
        let failed = parked(socket.recv(empty).into_future()).expect_err("no room for a byte");
        let kind = failed.kind();
        let mut lease = failed.into_buffer().expect("it comes back");
        lease.reset();
        let other = socket.clone();
        parked(socket.close().into_future()).expect("closed");
        let failed = parked(other.recv(lease).into_future()).expect_err("closed");
        (kind, failed.kind())
    });
    assert_eq!(kinds, (ErrorKind::InvalidArgument, ErrorKind::Closed));
    assert_eq!(available.available(), 1);
    cx.note(format!("{kinds:?}"));
    Ok(())
}

fn a_timeout(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two) = cx.unix_pair();
    let socket = one.into_remote(&cx.io.handle()).map_err(|(error, _)| error).expect("moves");
    let slab = cx.slab(1, 64);
    beside(cx, move |_| {
        let lease = slab.lease().expect("a slot");
        let request = socket.recv(lease).timeout(Duration::from_millis(3));
        let failed = parked(request.into_future()).expect_err("nothing arrives");
        assert_eq!(failed.kind(), ErrorKind::TimedOut);
        assert_eq!(failed.into_buffer().expect("it comes back").len(), 64);
    });
    assert_eq!(cx.io.stats().timed_out, 1);
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two) = cx.unix_pair();
    let socket = one.into_remote(&cx.io.handle()).map_err(|(error, _)| error).expect("moves");
    let slab = cx.slab(1, 64);
    beside(cx, move |handle| {
        let mut receiving = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
        assert!((&mut receiving).now_or_never().is_none());
        // By then it is in flight.
        parked(handle.nop().into_future()).expect("a no-op");
        receiving.cancel();
        let failed = parked(receiving).expect_err("nothing arrives");
        assert_eq!(failed.kind(), ErrorKind::Cancelled);
        assert_eq!(failed.into_buffer().expect("it comes back").len(), 64);
        assert!(!handle.is_closed());
    });
    Ok(())
}

/// The mark is seen when the operation leaves the inbox.
fn cancelled_before_it_ran(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    let far = Instant::now() + Duration::from_secs(3600);
    let mut timer = handle.sleep_until(far).submit().expect("room");
    timer.cancel();
    assert!((&mut timer).now_or_never().is_none(), "nobody polled yet");
    let failed = cx.block_on(timer).expect_err("cancelled");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    let dropped = handle.sleep_until(far).submit().expect("room");
    drop(dropped);
    cx.poll_until("the inbox", || cx.io.stats().foreign_submissions == 2);
    cx.poll_until("nothing in flight", || cx.io.stats().in_flight == 0);
    Ok(())
}

fn dropped_submissions(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two) = cx.unix_pair();
    let socket = one.into_remote(&cx.io.handle()).map_err(|(error, _)| error).expect("moves");
    let slab = cx.slab(8, 64);
    let theirs = slab.clone();
    beside(cx, move |handle| {
        for round in 0..8 {
            let receiving = socket.recv(theirs.lease().expect("a slot")).submit().expect("room");
            if round % 2 == 0 {
                // By then it is in flight; the others are dropped on their way.
                parked(handle.nop().into_future()).expect("a no-op");
            }
            drop(receiving);
        }
    });
    cx.poll_until("the slots", || slab.available() == 8);
    cx.poll_until("nothing in flight", || cx.io.stats().in_flight == 0);
    Ok(())
}

/// Every entry is made by the owner, so the end of the thread that asked ends nothing.
fn its_thread_may_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let socket = one.into_remote(&cx.io.handle()).map_err(|(error, _)| error).expect("moves");
    let slab = cx.slab(1, 64);
    let receiving = beside(cx, move |handle| {
        let receiving = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
        parked(handle.nop().into_future()).expect("a no-op");
        (receiving, socket)
    });
    for _ in 0..4 {
        cx.io.poll(Wait::Now).expect("a turn");
    }
    assert_eq!(cx.io.stats().in_flight, 1, "still waiting for bytes");
    cx.block_on(two.send_all(b"later".to_vec())).expect("sent");
    assert_eq!(cx.block_on(receiving.0).expect("received")[..], *b"later");
    Ok(())
}

fn a_full_inbox(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().inbox(4)).expect("a second proactor");
    let (one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = io.adopt_socket(one).expect("room").into_remote(&io.handle());
    let socket = socket.map_err(|(error, _)| error).expect("moves");
    let span = Span::from(b"wait".to_vec());
    let mut sending = Vec::new();
    let failed = loop {
        match socket.send_all(span.clone()).submit() {
            Ok(submission) => sending.push(submission),
            Err(failed) => break failed,
        }
        assert!(sending.len() <= 4);
    };
    assert_eq!((sending.len(), failed.kind()), (4, ErrorKind::Exhausted));
    assert!(failed.error.message().contains("Options::inbox"), "{failed}");
    let back = failed.into_operation().map(dataplane::HoldsBuffer::into_buffer);
    assert_eq!(back.expect("the operation comes back").bytes().expect("private"), b"wait");
    let call = io.handle().call(|_| ()).now_or_never().expect("refused at once");
    assert_eq!(call.expect_err("full").kind(), ErrorKind::Exhausted);
    for sent in io.block_on(join_all(sending)).expect("polls") {
        assert_eq!(sent.expect("sent").bytes, 4);
    }
    let again = io.handle().nop().submit().expect("there is room again");
    io.block_on(again).expect("polls").expect("a no-op");
    drop((socket, two));
    Ok(())
}

fn outlives_the_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let handle = io.handle();
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = io.adopt_socket(one).expect("room").into_remote(&handle);
    let socket = socket.map_err(|(error, _)| error).expect("moves");
    let slab = cx.slab(2, 64);
    let running = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    io.poll(Wait::Now).expect("a turn");
    let queued = handle.nop().submit().expect("room");
    let called = handle.call(|_| 1);
    drop(io);
    assert!(handle.is_closed());
    let kind_of = |kind: ErrorKind| assert_eq!(kind, ErrorKind::ShutDown);
    kind_of(parked(running).map(drop).expect_err("it is gone").kind());
    kind_of(parked(queued).expect_err("it is gone").kind());
    kind_of(parked(called).expect_err("it is gone").kind());
    kind_of(handle.nop().submit().map(drop).expect_err("it is gone").kind());
    let refused = socket.recv(slab.lease().expect("a slot")).submit().map(drop);
    let failed = refused.expect_err("it is gone");
    kind_of(failed.kind());
    assert_eq!(failed.into_buffer().expect("it comes back").len(), 64);
    kind_of(parked(handle.connect("127.0.0.1:9")).map(drop).expect_err("gone").kind());
    kind_of(parked(socket.local_addr()).map(drop).expect_err("gone").kind());
    handle.wake();
    drop(socket);
    assert_eq!(slab.available(), 2);
    Ok(())
}

/// Whatever is queued while the proactor goes is run, or refused: nobody waits for ever.
fn submits_race_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    for round in 0..8 {
        let io = Proactor::with(cx.options.clone().inbox(4)).expect("a second proactor");
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let handle = io.handle();
                std::thread::spawn(move || {
                    loop {
                        match handle.nop().submit() {
                            Ok(submission) => match parked(submission) {
                                Ok(()) => continue,
                                Err(failed) => return failed.kind(),
                            },
                            Err(failed) if failed.kind() == ErrorKind::Exhausted => continue,
                            Err(failed) => return failed.kind(),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..round {
            io.poll(Wait::Now).expect("a turn");
        }
        drop(io);
        for thread in threads {
            assert_eq!(thread.join().expect("told"), ErrorKind::ShutDown);
        }
    }
    Ok(())
}

fn calls_bring_values(cx: &Cx<'_>) -> Result<(), Skip> {
    let owner = std::thread::current().id();
    let slab = cx.slab(1, 64);
    beside(cx, move |handle| {
        let (ran_on, in_flight) = parked(handle.call(move |io| {
            let ran_on = std::thread::current().id();
            // Everything but polling is allowed inside.
            assert_eq!(io.poll(Wait::Now).expect_err("inside a poll").kind(), ErrorKind::Busy);
            io.nop().submit().expect("room").detach();
            (ran_on, io.stats().in_flight)
        }))
        .expect("it ran");
        assert_eq!((ran_on, in_flight), (owner, 1));
        let lease = parked(handle.call(move |_| slab.lease().expect("a slot"))).expect("it ran");
        assert_eq!(lease.len(), 64, "values may own memory");
        // Nobody waits for this one; it runs all the same.
        let (sender, receiver) = std::sync::mpsc::channel();
        drop(handle.call(move |_| sender.send(7)));
        assert_eq!(receiver.recv_timeout(LIMIT), Ok(7));
    });
    Ok(())
}

/// The panic leaves poll, the caller is told, and the rest goes on with the next poll.
fn a_call_that_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    let called = handle.call(|_| panic!("on purpose"));
    let after = handle.call(|_| 5);
    let polled = catch_unwind(AssertUnwindSafe(|| cx.io.poll(Wait::Now)));
    assert!(polled.is_err(), "a panic is not swallowed");
    let told: dataplane::Result<()> = cx.block_on(called);
    told.expect_err("there is no value");
    assert_eq!(cx.block_on(after).expect("it ran"), 5);
    cx.block_on(cx.io.nop()).expect("the loop goes on");
    Ok(())
}

fn a_wake_ends_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    for _ in 0..3 {
        handle.wake();
    }
    assert_eq!(cx.io.poll(Wait::Forever).expect("woken"), 0, "three wakes are one");
    let soon = Instant::now() + Duration::from_millis(2);
    assert_eq!(cx.io.poll(Wait::Until(soon)).expect("not woken again"), 0);
    assert!(Instant::now() >= soon, "no wake is left over");
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2));
        handle.wake();
    });
    let far = Instant::now() + LIMIT;
    cx.io.poll(Wait::Until(far)).expect("woken");
    assert!(Instant::now() < far);
    thread.join().expect("it woke");
    Ok(())
}

fn a_socket_moves_over(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let handle = cx.io.handle();
    let one = one.into_remote(&handle).map_err(|(error, _)| error).expect("no clones");
    let two = two.into_remote(&handle).map_err(|(error, _)| error).expect("no clones");
    let slab = cx.slab(1, 64);
    beside(cx, move |_| {
        parked(async {
            one.send_all(b"across".to_vec()).await.expect("sent");
            let filled = two.recv(slab.lease().expect("a slot")).await.expect("received");
            assert_eq!(filled[..], *b"across");
            assert_eq!(one.cancel_all().await.expect("open"), 0);
        });
    });
    cx.poll_until("the sockets to close", || cx.io.stats().descriptors == 0);
    Ok(())
}

fn a_socket_in_use_stays(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let clone = one.clone();
    let refused = one.into_remote(&cx.io.handle()).map(drop);
    let (error, one) = refused.expect_err("a clone is here");
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop(clone);
    let other = Proactor::with(cx.options.clone()).expect("a second proactor");
    let refused = one.into_remote(&other.handle()).map(drop);
    let (error, one) = refused.expect_err("a stranger's handle");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    cx.block_on(one.send_all(b"still here".to_vec())).expect("sent");
    let slab = cx.slab(1, 64);
    let filled = cx.block_on(two.recv(slab.lease().expect("a slot"))).expect("received");
    assert_eq!(filled[..], *b"still here");
    Ok(())
}

/// Takes everything a stream has until `total` bytes came.
async fn bytes_of<S>(stream: &mut S, total: usize) -> Vec<u8>
where
    S: Stream<Item = dataplane::Result<dataplane::Filled>> + Unpin,
{
    let mut found = Vec::new();
    while found.len() < total {
        let filled = stream.next().await.expect("not the end").expect("received");
        found.extend_from_slice(&filled);
    }
    found
}

fn a_stream_pauses(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().undelivered(2)).expect("a second proactor");
    let (one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = io.adopt_socket(one).expect("room").into_remote(&io.handle());
    let socket = socket.map_err(|(error, _)| error).expect("moves");
    let pool = io.receive_pool(16, 64).expect("a pool");
    let bytes = Cx::pattern(64 * 32, 9);
    let mut stream = socket.receive_all(&pool).submit().expect("room");
    std::io::Write::write_all(&mut (&two), &bytes).expect("it fits the socket's buffer");
    let deadline = Instant::now() + LIMIT;
    while io.stats().paused == 0 {
        assert!(Instant::now() < deadline, "32 results for nobody, and no pause");
        io.poll(Instant::now() + Duration::from_millis(1)).expect("a turn");
    }
    let total = bytes.len();
    let thread = std::thread::spawn(move || (parked(bytes_of(&mut stream, total)), stream));
    while !thread.is_finished() {
        assert!(Instant::now() < deadline, "it was not resumed: {:?}", io.stats());
        io.poll(Instant::now() + Duration::from_millis(1)).expect("a turn");
    }
    let (found, stream) = thread.join().expect("it took everything");
    assert!(found == bytes, "in order, nothing lost");
    drop((stream, socket, pool, two));
    Ok(())
}

fn a_dropped_socket_closes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let socket = one.into_remote(&cx.io.handle()).map_err(|(error, _)| error).expect("moves");
    let slab = cx.slab(1, 64);
    let receiving = two.recv(slab.lease().expect("a slot")).submit().expect("room");
    beside(cx, move |_| drop(socket));
    assert_eq!(cx.block_on(receiving).expect("the end").len(), 0);
    assert_eq!(cx.io.stats().descriptors, 1);
    Ok(())
}

fn accepts_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    let served = beside(cx, |handle| {
        parked(async {
            let listener = handle.listen("127.0.0.1:0").await.expect("loopback");
            let to = listener.local_addr().await.expect("an address");
            let mut incoming = listener.incoming().submit().expect("room");
            let mut held = Vec::new();
            for _ in 0..5 {
                held.push(std::net::TcpStream::connect(to.to_string()).expect("connects"));
                let socket = incoming.next().await.expect("goes on").expect("accepted");
                socket.send_all(b"hello".to_vec()).await.expect("sent");
            }
            for client in &mut held {
                let mut found = [0; 5];
                std::io::Read::read_exact(client, &mut found).expect("it was greeted");
                assert_eq!(&found, b"hello");
            }
            incoming.cancel();
            let error = incoming.next().await.expect("one error").expect_err("cancelled");
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            assert!(incoming.next().await.is_none());
            held.len()
        })
    });
    assert_eq!(served, 5);
    Ok(())
}
