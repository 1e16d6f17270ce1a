//! The end of a proactor: every waiter is told, every buffer comes back, every descriptor is
//! closed, and what outlives it gives errors instead of hanging.

use super::remote::parked;
use crate::{Case, Cx, Skip};
use dataplane::{Error, ErrorKind, Next, OpenOptions, Proactor, Socket, Wait};
use futures_util::StreamExt;
use futures_util::future::FutureExt;
use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "shutdown/every_waiter_is_told", needs: &[], run: every_waiter_is_told },
    Case { name: "shutdown/callbacks_are_told_once", needs: &[], run: callbacks_are_told },
    Case { name: "shutdown/streams_end", needs: &[], run: streams_end },
    Case { name: "shutdown/results_not_taken_survive", needs: &[], run: results_survive },
    Case { name: "shutdown/sockets_that_outlive_it", needs: &[], run: sockets_outlive },
    Case { name: "shutdown/peers_see_the_end", needs: &[], run: peers_see_the_end },
    Case { name: "shutdown/a_deadline_lets_things_finish", needs: &[], run: a_deadline },
    Case { name: "shutdown/a_deadline_that_passes_cancels", needs: &[], run: a_short_deadline },
    Case { name: "shutdown/one_of_two_leaves_the_other", needs: &[], run: one_of_two },
    Case { name: "shutdown/dropped_inside_a_callback", needs: &[], run: inside_a_callback },
    Case { name: "shutdown/clones_are_one_owner", needs: &[], run: clones_are_one_owner },
    Case { name: "shutdown/work_on_helpers_is_waited_for", needs: &[], run: helper_work },
    Case { name: "shutdown/again_and_again", needs: &[], run: again_and_again },
];

/// A proactor like the case's, to be ended by the case.
fn another(cx: &Cx<'_>) -> Proactor {
    Proactor::with(cx.options.clone()).expect("a second proactor")
}

/// A socket of `io` and the other end as a plain one.
fn ends(io: &Proactor) -> (Socket, UnixStream) {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    (io.adopt_socket(one).expect("room"), two)
}

fn every_waiter_is_told(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let slab = cx.slab(3, 64);
    let (socket, _peer) = ends(&io);
    let listener = io.listen("127.0.0.1:0").expect("loopback");
    let far = Instant::now() + Duration::from_secs(3600);
    let mut first = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    // In line behind the first one.
    let mut second = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    let mut timed = socket
        .recv(slab.lease().expect("a slot"))
        .timeout(Duration::from_secs(3600))
        .submit()
        .expect("room");
    let mut accept = listener.accept().submit().expect("room");
    let mut timer = io.sleep_until(far).submit().expect("room");
    let ready = io.handle().call(|_| ());
    io.poll(Wait::Now).expect("a turn");
    let mut unseen = socket.ready(dataplane::Interest::READABLE).submit().expect("room");
    drop(io);
    let mut kinds = Vec::new();
    for receive in [&mut first, &mut second, &mut timed] {
        let failed = receive.try_take().expect("told").expect_err("the end came first");
        kinds.push(failed.kind());
        assert_eq!(failed.into_buffer().expect("it comes back").len(), 64);
    }
    kinds.push(accept.try_take().expect("told").map(drop).expect_err("the end").kind());
    kinds.push(timer.try_take().expect("told").expect_err("the end").kind());
    kinds.push(unseen.try_take().expect("told").map(drop).expect_err("the end").kind());
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::ShutDown), "{kinds:?}");
    parked(ready).expect("this one had run");
    assert_eq!(slab.available(), 3);
    Ok(())
}

fn callbacks_are_told(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let slab = cx.slab(1, 64);
    let (socket, _peer) = ends(&io);
    let told = Rc::new(RefCell::new(Vec::new()));
    let seen = told.clone();
    let submitted = socket.recv(slab.lease().expect("a slot")).on_complete(move |ended| {
        seen.borrow_mut().push(ended.map(drop).expect_err("the end").kind());
    });
    submitted.expect("room");
    let (seen, ends) = (told.clone(), Rc::new(Cell::new(0)));
    let ended = ends.clone();
    let listener = io.listen("127.0.0.1:0").expect("loopback");
    let submitted = listener.incoming().on_each(move |next| {
        let Next::End(Err(error)) = next else { panic!("nobody connected") };
        seen.borrow_mut().push(error.kind());
        ended.set(ended.get() + 1);
    });
    submitted.map(drop).map_err(|failed| failed.into_error()).expect("room");
    io.poll(Wait::Now).expect("a turn");
    drop(io);
    assert_eq!(*told.borrow(), [ErrorKind::ShutDown; 2], "each once");
    assert_eq!((ends.get(), slab.available()), (1, 1));
    drop((socket, listener));
    assert_eq!(told.borrow().len(), 2);
    Ok(())
}

fn streams_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let (socket, peer) = ends(&io);
    let pool = io.receive_pool(4, 64).expect("a pool");
    let slab = pool.slab().clone();
    let mut stream = socket.receive_all(&pool).submit().expect("room");
    std::io::Write::write_all(&mut (&peer), b"before").expect("sent");
    let first = io.block_on(stream.next()).expect("polls").expect("an item").expect("received");
    assert_eq!(first[..], *b"before");
    drop(io);
    let error = stream.next().now_or_never().expect("told").expect("one error");
    assert_eq!(error.map(drop).expect_err("the end").kind(), ErrorKind::ShutDown);
    assert!(stream.next().now_or_never().expect("told").is_none(), "and then nothing");
    assert_eq!(first[..], *b"before", "its bytes outlive the pool");
    drop((first, pool, stream));
    assert_eq!(slab.available(), 4);
    Ok(())
}

fn results_survive(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let slab = cx.slab(1, 64);
    let (socket, peer) = ends(&io);
    std::io::Write::write_all(&mut (&peer), b"kept").expect("sent");
    let mut receive = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    let mut nop = io.nop().submit().expect("room");
    let deadline = Instant::now() + Duration::from_secs(10);
    while io.stats().in_flight > 0 {
        assert!(Instant::now() < deadline);
        io.poll(deadline).expect("a turn");
    }
    drop(io);
    nop.try_take().expect("it was over before").expect("and went well");
    let filled = receive.try_take().expect("it was over before").expect("and went well");
    assert_eq!(filled[..], *b"kept");
    drop(filled);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn sockets_outlive(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let slab = cx.slab(1, 64);
    let (socket, _peer) = ends(&io);
    let file = io.adopt_file(std::fs::File::open("/dev/null").expect("opens")).expect("room");
    let handle = io.handle();
    drop(io);
    let lease = slab.lease().expect("a slot");
    let failed = socket.recv(lease).into_future().now_or_never().expect("told at once");
    let failed = failed.expect_err("its proactor is gone");
    let mut kinds = vec![failed.kind()];
    let lease = failed.into_buffer().expect("it comes back");
    kinds.push(file.read(lease).submit().map(drop).expect_err("gone").kind());
    kinds.push(socket.send_all(vec![1]).submit().map(drop).expect_err("gone").kind());
    kinds.push(socket.incoming().submit().map(drop).expect_err("gone").kind());
    kinds.push(socket.clone().close().submit().map(drop).expect_err("gone").kind());
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::ShutDown), "{kinds:?}");
    // Its number is closed: whatever has it now is not asked.
    assert!(socket.local_addr().is_err());
    assert!(handle.is_closed());
    assert_eq!(slab.available(), 1);
    drop((socket, file));
    Ok(())
}

fn peers_see_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let slab = cx.slab(1, 64);
    let (busy, mut one) = ends(&io);
    let (idle, mut two) = ends(&io);
    let remote = idle.into_remote(&io.handle()).map_err(|(error, _)| error).expect("moves");
    let receive = busy.recv(slab.lease().expect("a slot")).submit().expect("room");
    io.poll(Wait::Now).expect("a turn");
    drop(io);
    for peer in [&mut one, &mut two] {
        let mut end = [0];
        assert_eq!(std::io::Read::read(peer, &mut end).expect("no error"), 0);
    }
    drop((receive, busy, remote));
    Ok(())
}

fn a_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let mut timer =
        io.sleep_until(Instant::now() + Duration::from_millis(4)).submit().expect("room");
    let mut nop = io.nop().submit().expect("room");
    let leaked = io.shutdown(Duration::from_secs(10)).expect("polls");
    assert_eq!(leaked, None);
    nop.try_take().expect("told").expect("it had time");
    timer.try_take().expect("told").expect("it had time");
    Ok(())
}

fn a_short_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let slab = cx.slab(1, 64);
    let (socket, _peer) = ends(&io);
    let clone = io.clone();
    let mut receive = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    let leaked = io.shutdown(Duration::from_millis(2)).expect("polls");
    assert_eq!(leaked, None, "it was called back in time");
    let failed = receive.try_take().expect("told").expect_err("nothing arrived");
    assert_eq!(failed.kind(), ErrorKind::ShutDown);
    assert_eq!(clone.poll(Wait::Now).expect_err("it is over").kind(), ErrorKind::ShutDown);
    assert_eq!(clone.nop().submit().map(drop).expect_err("it is over").kind(), ErrorKind::ShutDown);
    Ok(())
}

fn one_of_two(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    let receive = one.recv(slab.lease().expect("a slot")).submit().expect("room");
    cx.io.poll(Wait::Now).expect("a turn");
    let io = another(cx);
    let (socket, _peer) = ends(&io);
    let theirs = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    io.poll(Wait::Now).expect("a turn");
    drop((io, socket));
    drop(theirs);
    assert_eq!(cx.io.stats().in_flight, 1, "ours is still there");
    cx.block_on(two.send_all(b"ours".to_vec())).expect("sent");
    assert_eq!(cx.block_on(receive).expect("received")[..], *b"ours");
    Ok(())
}

/// Whoever polls is an owner, so the loop outlives every callback.
fn inside_a_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let (socket, _peer) = ends(&io);
    let slab = cx.slab(1, 64);
    let mut receive = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    let handle = io.handle();
    let owners = Rc::new(RefCell::new(Vec::new()));
    let (inside, seen) = (owners.clone(), handle.clone());
    let was_open = Rc::new(Cell::new(false));
    let open = was_open.clone();
    let submitted = io.nop().on_complete(move |ended| {
        ended.expect("a no-op");
        // All owners but the one that polls.
        inside.borrow_mut().clear();
        open.set(!seen.is_closed());
    });
    submitted.expect("room");
    owners.borrow_mut().extend([io.clone(), io.clone()]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !owners.borrow().is_empty() {
        io.poll(deadline).expect("a turn");
    }
    assert!(was_open.get() && !handle.is_closed(), "one owner is left");
    drop(io);
    assert!(handle.is_closed());
    let failed = receive.try_take().expect("told").expect_err("the end");
    assert_eq!(failed.kind(), ErrorKind::ShutDown);
    Ok(())
}

fn clones_are_one_owner(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let clone = io.clone();
    let mut nop = io.nop().submit().expect("room");
    drop(io);
    assert!(!clone.handle().is_closed());
    clone.block_on(&mut nop).expect("polls").expect("it goes on");
    let handle = clone.handle();
    drop(clone);
    assert!(handle.is_closed());
    Ok(())
}

/// A read of a file may be with a helper thread or a kernel worker: it is waited for, not freed.
fn helper_work(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(65_536, 1);
    let path = super::file::made(cx, &bytes);
    let io = another(cx);
    let slab = cx.slab(8, 8192);
    let open = io.open(&path, OpenOptions::read()).expect("a path");
    let file = io.block_on(open.into_future()).expect("polls").expect("opens");
    let mut reads: Vec<_> = (0..8)
        .map(|at| file.read_at(slab.lease().expect("a slot"), at * 8192).submit().expect("room"))
        .collect();
    io.poll(Wait::Now).expect("a turn");
    drop(io);
    for (at, read) in reads.iter_mut().enumerate() {
        match read.try_take().expect("told") {
            Ok(filled) => assert!(filled[..] == bytes[at * 8192..(at + 1) * 8192]),
            Err(failed) => {
                assert_eq!(failed.kind(), ErrorKind::ShutDown);
                assert!(failed.into_buffer().is_some(), "nothing had to be leaked");
            }
        }
    }
    assert_eq!(slab.available(), 8);
    Ok(())
}

fn again_and_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(2, 64);
    for _ in 0..10 {
        let io = another(cx);
        let (socket, peer) = ends(&io);
        let registration = io.register_slab(&slab).map_err(|error: Error| error.kind());
        let pool = io.receive_pool(2, 64).expect("a pool");
        let receive = socket.recv_pool(&pool).submit().expect("room");
        let nop = io.nop().submit().expect("room");
        io.poll(Wait::Now).expect("a turn");
        drop((io, registration));
        drop((receive, nop, pool, socket, peer));
    }
    assert_eq!(slab.available(), 2);
    Ok(())
}
