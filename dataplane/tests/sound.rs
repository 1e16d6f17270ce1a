//! Attacks on soundness and life cycles: each test is one suspicion.
#![allow(missing_docs, clippy::unwrap_used, unsafe_code)]

use dataplane::regions::{Slab, Span};
use dataplane::{Backend, ErrorKind, Interest, Next, OpenOptions, Options, Proactor, Wait, Watch};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

fn proactor(backend: Backend) -> Proactor {
    Proactor::with(Options::default().backend(backend)).unwrap()
}

/// Runs `f` on a thread of its own; a hang is a failure.
fn within(seconds: u64, what: &str, f: impl FnOnce() + Send + 'static) {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        f();
        let _ = send.send(());
    });
    match receive.recv_timeout(Duration::from_secs(seconds)) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("HANG: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}

fn turns(io: &Proactor, for_ms: u64) {
    let end = Instant::now() + Duration::from_millis(for_ms);
    while Instant::now() < end {
        io.poll(Wait::Until(end)).unwrap();
    }
}

fn poll_once<F: Future + Unpin>(f: &mut F) -> Poll<F::Output> {
    Pin::new(f).poll(&mut Context::from_waker(Waker::noop()))
}

// 1
fn stale_finish(backend: Backend) {
    let io = proactor(backend);
    let slab = Slab::new(1, 64).unwrap();
    let (c, _c_peer) = UnixStream::pair().unwrap();
    let (b, mut b_peer) = UnixStream::pair().unwrap();
    let (w, _w_peer) = UnixStream::pair().unwrap();
    let c = io.adopt_socket(OwnedFd::from(c)).unwrap();
    let b = io.adopt_socket(OwnedFd::from(b)).unwrap();
    let small = Slab::new(1, 64).unwrap();
    let watch: Rc<RefCell<Option<Watch>>> = Rc::default();
    let (inside, slab2) = (watch.clone(), slab.clone());
    c.recv(small.lease().unwrap())
        .on_complete(move |_| {
            drop(inside.borrow_mut().take());
            let submission = b.recv(slab2.lease().unwrap()).submit().unwrap();
            std::mem::forget((submission, b));
        })
        .unwrap();
    *watch.borrow_mut() = Some(io.watch(&w, Interest::READABLE, |_, _| {}).unwrap());
    io.poll(Wait::Now).unwrap();
    io.cancel_all().unwrap();
    for _ in 0..5 {
        io.poll(Wait::Until(Instant::now() + 10 * MS)).unwrap();
    }
    assert_eq!(slab.available(), 0, "the lease of a receive in flight went back to its slab");
    b_peer.write_all(b"overwritten").unwrap();
}

#[test]
fn t01_stale_finish_uring() {
    stale_finish(Backend::IoUring);
}

#[test]
fn t01_stale_finish_epoll() {
    stale_finish(Backend::Epoll);
}

/// The same by a watch that ended itself: the slot that is freed twice is a receive's.
fn stale_finish_of_a_receive(backend: Backend) {
    let io = proactor(backend);
    let slab = Slab::new(1, 64).unwrap();
    let small = Slab::new(1, 64).unwrap();
    let (c, _c_peer) = UnixStream::pair().unwrap();
    let (b, mut b_peer) = UnixStream::pair().unwrap();
    let (w, mut w_peer) = UnixStream::pair().unwrap();
    let c = io.adopt_socket(OwnedFd::from(c)).unwrap();
    let b = io.adopt_socket(OwnedFd::from(b)).unwrap();
    let watch: Rc<RefCell<Option<Watch>>> = Rc::default();
    let (inside, slab2) = (watch.clone(), slab.clone());
    let waiting = c
        .recv(small.lease().unwrap())
        .on_complete(move |_| {
            drop(inside.borrow_mut().take());
            let submission = b.recv(slab2.lease().unwrap()).submit().unwrap();
            std::mem::forget((submission, b));
        })
        .unwrap();
    let io2 = io.clone();
    let watched = io.watch(&w, Interest::READABLE, move |_, control| {
        io2.cancel(waiting).unwrap();
        control.end();
    });
    *watch.borrow_mut() = Some(watched.unwrap());
    w_peer.write_all(b"x").unwrap();
    for _ in 0..8 {
        io.poll(Wait::Until(Instant::now() + 10 * MS)).unwrap();
    }
    assert!(watch.borrow().is_none());
    let Some(mut mine) = slab.try_lease() else { return };
    mine.fill(0xaa);
    b_peer.write_all(b"overwritten").unwrap();
    for _ in 0..8 {
        io.poll(Wait::Until(Instant::now() + 10 * MS)).unwrap();
    }
    assert_eq!(&mine[..11], [0xaa; 11], "the kernel wrote into a lease of somebody else");
    panic!("the lease of a receive in flight went back to its slab");
}

#[test]
fn t01_stale_finish_of_a_receive_uring() {
    stale_finish_of_a_receive(Backend::IoUring);
}

#[test]
fn t01_stale_finish_of_a_receive_epoll() {
    stale_finish_of_a_receive(Backend::Epoll);
}

// 2
#[test]
fn t02_panic_while_shutting_down_frees_memory_in_use() {
    const BYTES: usize = 256 << 20;
    let path = std::env::temp_dir().join("sound-big");
    let file = std::fs::File::create(&path).unwrap();
    {
        let mut file = &file;
        let chunk = vec![0x55u8; 1 << 20];
        for _ in 0..BYTES >> 20 {
            file.write_all(&chunk).unwrap();
        }
    }
    let slab = Slab::new(1, BYTES).unwrap();
    let io = proactor(Backend::Epoll);
    let big = io.adopt_file(std::fs::File::open(&path).unwrap()).unwrap();
    let reading = big.read_at(slab.lease().unwrap(), 0).submit().unwrap();
    io.sleep_until(Instant::now() + Duration::from_secs(60))
        .on_complete(|_| std::panic::resume_unwind(Box::new("from a callback")))
        .unwrap();
    io.poll(Wait::Now).unwrap();
    let first = slab.slot_ptr(0).as_ptr();
    // SAFETY: mapped; a racing read of one byte, to see that the helper is at work.
    while unsafe { first.read_volatile() } != 0x55 {
        std::thread::yield_now();
    }
    drop(reading);
    drop(big);
    let gone = catch_unwind(AssertUnwindSafe(|| drop(io)));
    assert!(gone.is_err(), "the callback's panic comes out");
    let Some(mut lease) = slab.try_lease() else {
        std::fs::remove_file(&path).unwrap();
        return; // leaked or still held: sound
    };
    if lease[BYTES - 1] == 0x55 {
        std::fs::remove_file(&path).unwrap();
        return; // the shutdown waited for the read
    }
    lease[BYTES - 4096..].fill(0xaa);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        // SAFETY: inside the lease.
        let byte = unsafe { lease.as_ptr().add(BYTES - 1).read_volatile() };
        if byte != 0xaa {
            std::fs::remove_file(&path).unwrap();
            panic!("an exclusive lease was overwritten ({byte:#x}) by a read of a dead proactor");
        }
    }
    std::fs::remove_file(&path).unwrap();
    panic!("the lease was free while a read was running into it");
}

// 3
#[test]
fn t03_refused_watch_leaks_its_descriptor() {
    let io = proactor(Backend::IoUring);
    let file = std::fs::File::open("/etc/passwd").unwrap();
    let before = io.stats().descriptors;
    for _ in 0..3 {
        io.watch(&file, Interest::READABLE, |_, _| {}).map(drop).unwrap_err();
    }
    turns(&io, 20);
    assert_eq!(io.stats().descriptors, before);
}

#[test]
fn t03_refused_callback_leaks_the_socket_in_it() {
    let io = Proactor::with(Options::default().operations(1)).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let _full = io.sleep_until(Instant::now() + 1000 * MS).submit().unwrap();
    io.nop().on_complete(move |_| drop(a)).unwrap_err();
    drop(_full);
    turns(&io, 50);
    peer.set_read_timeout(Some(300 * MS)).unwrap();
    let mut byte = [0];
    assert_eq!(peer.read(&mut byte).expect("end of stream, not a timeout"), 0);
}

// 4
#[test]
fn t04_detach_after_a_poll_frees_the_operation() {
    let io = proactor(Backend::IoUring);
    let slab = Slab::new(1, 64).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let mut receiving = a.recv(slab.lease().unwrap()).submit().unwrap();
    assert!(poll_once(&mut receiving).is_pending());
    receiving.detach();
    peer.write_all(b"x").unwrap();
    turns(&io, 50);
    assert_eq!(slab.available(), 1, "the buffer of a finished, detached receive");
}

// 5
fn recv_all_keeps_data(backend: Backend) {
    let io = proactor(backend);
    let slab = Slab::new(1, 64).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    peer.write_all(b"0123456789").unwrap();
    let got = io.block_on(async { a.recv_all(slab.lease().unwrap()).timeout(50 * MS).await });
    let got = got.unwrap().map(|filled| filled.len()).map_err(|failed| failed.kind());
    assert_eq!(got, Ok(10), "data that moved is never lost");
}

#[test]
fn t05_recv_all_timeout_uring() {
    recv_all_keeps_data(Backend::IoUring);
}

#[test]
fn t05_recv_all_timeout_epoll() {
    recv_all_keeps_data(Backend::Epoll);
}

// 6
#[test]
fn t06_block_on_a_call_of_its_own_handle() {
    within(3, "block_on(handle.call())", || {
        let io = proactor(Backend::IoUring);
        let handle = io.handle();
        assert_eq!(io.block_on(handle.call(|_| 5)).unwrap().unwrap(), 5);
    });
}

// 7
#[test]
fn t07_two_registrations_dropped_in_one_turn() {
    let io = proactor(Backend::IoUring);
    let slab = Slab::new(1, 4096).unwrap();
    let (a, b) = (io.register_slab(&slab).unwrap(), io.register_slab(&slab).unwrap());
    drop((a, b));
    turns(&io, 50);
    assert_eq!((io.stats().registered, io.stats().releasing), (0, 0));
}

// 8
fn pool_handle_dropped(backend: Backend) {
    let io = proactor(backend);
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let pool = io.receive_pool(2, 64).unwrap();
    let mut stream = a.receive_all(&pool).submit().unwrap();
    drop(pool);
    for round in 0..8 {
        peer.write_all(b"hello").unwrap();
        let mut got = None;
        let end = Instant::now() + 500 * MS;
        while got.is_none() && Instant::now() < end {
            io.poll(Wait::Until(Instant::now() + 20 * MS)).unwrap();
            got = stream.try_next();
        }
        assert!(got.is_some(), "round {round}: the stream stalls for ever");
    }
}

#[test]
fn t08_pool_handle_dropped_uring() {
    pool_handle_dropped(Backend::IoUring);
}

#[test]
fn t08_pool_handle_dropped_epoll() {
    pool_handle_dropped(Backend::Epoll);
}

// 9
#[test]
fn t09_close_of_the_last_handle() {
    let io = proactor(Backend::IoUring);
    let (a, _peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let closed = io.block_on(async { a.close().await }).unwrap();
    assert_eq!(closed.map_err(|failed| failed.error.to_string()), Ok(()));
}

#[test]
fn t09_two_closes_in_one_batch() {
    let io = Proactor::with(Options::default().shutdown(200 * MS)).unwrap();
    let (a, _peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let mut batch = io.batch();
    let first = batch.add(a.clone().close().into_operation());
    let second = batch.add(a.clone().close().into_operation());
    let Ok(mut submitted) = batch.submit() else { return };
    let mut first = submitted.take(first).unwrap();
    let mut second = submitted.take(second).unwrap();
    turns(&io, 100);
    assert!(first.try_take().is_some(), "the first close hangs");
    assert!(second.try_take().is_some(), "the second close hangs");
}

// 10
#[test]
fn t10_remote_cancel_when_full() {
    within(5, "a remote cancel at the in-flight bound", || {
        let io = Proactor::with(Options::default().operations(1)).unwrap();
        let handle = io.handle();
        let mut waiting =
            handle.sleep_until(Instant::now() + Duration::from_secs(3600)).submit().unwrap();
        io.poll(Wait::Now).unwrap();
        waiting.cancel();
        while poll_once(&mut waiting).is_pending() {
            io.poll(Wait::Until(Instant::now() + 50 * MS)).unwrap();
        }
    });
}

// 11
#[test]
fn t11_shutdown_from_inside_a_poll() {
    let io = proactor(Backend::IoUring);
    let handle = io.handle();
    let call = handle.call(|io| io.clone().shutdown(Wait::Now).map(drop));
    let _ = io.poll(Wait::Until(Instant::now() + 200 * MS));
    drop(call);
    assert!(io.stats().turns < 50, "the poll went round {} times", io.stats().turns);
}

// 12
fn spins(backend: Backend, listener: bool) -> u64 {
    let io = proactor(backend);
    let path = std::env::temp_dir().join(format!("sound-{}-{listener}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let (a, _peer) = UnixStream::pair().unwrap();
    let own: OwnedFd = match listener {
        true => {
            let listener = UnixListener::bind(&path).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener.into()
        }
        false => {
            a.set_nonblocking(true).unwrap();
            a.into()
        }
    };
    let socket = io.adopt_socket(own).unwrap();
    let pool = io.receive_pool(2, 64).unwrap();
    let incoming = listener.then(|| socket.incoming().submit().unwrap());
    let receiving = (!listener).then(|| socket.receive_all(&pool).submit().unwrap());
    io.poll(Wait::Now).unwrap();
    let before = io.stats().rearmed;
    turns(&io, 200);
    drop((incoming, receiving));
    io.stats().rearmed - before
}

#[test]
fn t12_nonblocking_listener_spins_uring() {
    let rearmed = spins(Backend::IoUring, true);
    assert!(rearmed < 10, "armed {rearmed} times in 200 ms of silence");
}

#[test]
fn t12_nonblocking_stream_spins_uring() {
    let rearmed = spins(Backend::IoUring, false);
    assert!(rearmed < 10, "armed {rearmed} times in 200 ms of silence");
}

#[test]
fn t12_nonblocking_zero_copy_send_spins() {
    let io = proactor(Backend::IoUring);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let a = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_peer, _) = listener.accept().unwrap();
    a.set_nonblocking(true).unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    a.zero_copy(dataplane::ZeroCopy::Always).unwrap();
    let sending = a.send_all(Span::from(vec![1u8; 64 << 20])).submit().unwrap();
    turns(&io, 200);
    let (before, start) = (io.stats(), io.stats().turns);
    turns(&io, 200);
    let after = io.stats();
    eprintln!("{before:?}\n{after:?}");
    assert!(after.turns - start < 50, "{} turns in 200 ms", after.turns - start);
    drop(sending);
}

// 13
#[test]
fn t13_a_close_is_not_called_back() {
    let options = Options::default().backend(Backend::IoUring).operations(16).submissions(1);
    let io = Proactor::with(options).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let nops: Vec<_> = (0..4).map(|_| io.nop().submit().unwrap()).collect();
    let keep = a.clone();
    let closing = a.close().submit().unwrap();
    drop(closing);
    turns(&io, 50);
    drop(nops);
    drop(keep);
    turns(&io, 50);
    peer.set_read_timeout(Some(300 * MS)).unwrap();
    let mut byte = [0];
    assert_eq!(peer.read(&mut byte).expect("end of stream, not a timeout"), 0);
}

#[test]
fn t13_cancel_all_leaves_closes_alone() {
    let options = Options::default().backend(Backend::IoUring).operations(16).submissions(1);
    let io = Proactor::with(options).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let nops: Vec<_> = (0..4).map(|_| io.nop().submit().unwrap()).collect();
    drop(a);
    io.cancel_all().unwrap();
    turns(&io, 50);
    drop(nops);
    peer.set_read_timeout(Some(300 * MS)).unwrap();
    let mut byte = [0];
    assert_eq!(peer.read(&mut byte).expect("end of stream, not a timeout"), 0);
}

// 14
#[test]
fn t14_unregistering_with_a_backlog() {
    let options = Options::default().backend(Backend::IoUring).operations(16).submissions(1);
    let io = Proactor::with(options).unwrap();
    let slab = Slab::new(8, 4096).unwrap();
    let registration = io.register_slab(&slab).unwrap();
    let file = io.adopt_file(std::fs::File::open("/etc/passwd").unwrap()).unwrap();
    let mut reads: Vec<_> =
        (0..8).map(|_| file.read_at(slab.lease().unwrap(), 0).submit().unwrap()).collect();
    drop(registration);
    turns(&io, 100);
    let errors: Vec<String> = reads
        .iter_mut()
        .filter_map(|read| read.try_take().unwrap().err())
        .map(|failed| failed.error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

// 15
#[test]
fn t15_remote_stream_resumes() {
    within(60, "a remote stream that was paused", || {
        let options = Options::default().undelivered(1);
        let (send, receive) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let owner = std::thread::spawn(move || {
            let io = Proactor::with(options).unwrap();
            send.send(io.handle()).unwrap();
            while !stopping.load(Ordering::Relaxed) {
                io.poll(Wait::Until(Instant::now() + 100 * MS)).unwrap();
            }
        });
        let handle = receive.recv().unwrap();
        let (a, mut peer) = UnixStream::pair().unwrap();
        let slab = Slab::new(64, 64).unwrap();
        let mut calls = Box::pin(async {
            let socket = handle.adopt_socket(OwnedFd::from(a)).await.unwrap();
            let pool = handle.receive_pool_over(&slab).await.unwrap();
            (socket.receive_all(&pool).submit().unwrap(), socket, pool)
        });
        let (mut stream, _socket, _pool) = loop {
            if let Poll::Ready(made) = poll_once(&mut calls) {
                break made;
            }
        };
        let mut cx = Context::from_waker(Waker::noop());
        for round in 0..20_000 {
            peer.write_all(b"x").unwrap();
            let start = Instant::now();
            loop {
                use futures_core::Stream as _;
                match Pin::new(&mut stream).poll_next(&mut cx) {
                    Poll::Ready(Some(Ok(_))) => break,
                    Poll::Ready(other) => panic!("{other:?}"),
                    Poll::Pending => {}
                }
                assert!(start.elapsed() < Duration::from_secs(3), "round {round}: it stalled");
            }
        }
        stop.store(true, Ordering::Relaxed);
        owner.join().unwrap();
    });
}

// 16
#[test]
fn t16_a_panic_in_an_each_callback_does_not_strand_the_operation() {
    let io = proactor(Backend::IoUring);
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let pool = io.receive_pool(2, 64).unwrap();
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    a.receive_all(&pool)
        .on_each(move |next| {
            count.set(count.get() + 1);
            if matches!(next, Next::Item(_)) && count.get() == 1 {
                std::panic::resume_unwind(Box::new("from a callback"));
            }
        })
        .unwrap();
    peer.write_all(b"one").unwrap();
    let polled = catch_unwind(AssertUnwindSafe(|| io.poll(Wait::Forever)));
    assert!(polled.is_err());
    peer.write_all(b"two").unwrap();
    turns(&io, 50);
    drop(peer);
    turns(&io, 50);
    let left = io.stats().in_flight;
    let free = pool.slab().available();
    assert!(calls.get() > 1 || left == 0, "neither told ({calls:?}) nor ended ({left}, {free})");
}

// 17
#[test]
fn t17_a_file_of_another_proactor() {
    let one = proactor(Backend::IoUring);
    let two = proactor(Backend::IoUring);
    let secret = std::env::temp_dir().join(format!("sound-secret-{}", std::process::id()));
    std::fs::write(&secret, b"secret").unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    // The same place in both tables, another file.
    let _secret = one.adopt_file(std::fs::File::open(&secret).unwrap()).unwrap();
    let public = two.adopt_file(std::fs::File::open("/etc/passwd").unwrap()).unwrap();
    let socket = one.adopt_socket(OwnedFd::from(a)).unwrap();
    let sent = one.block_on(async { socket.transfer(&public, 0, 6)?.await.map_err(|f| f.error) });
    if sent.unwrap().is_ok() {
        let mut got = [0; 6];
        peer.read_exact(&mut got).unwrap();
        assert_ne!(&got, b"secret", "a file that was never named went out");
    }
    std::fs::remove_file(&secret).unwrap();
}

#[test]
fn t17_a_pool_of_another_proactor() {
    let one = proactor(Backend::IoUring);
    let two = proactor(Backend::IoUring);
    let mine = one.receive_pool(2, 64).unwrap();
    let theirs = two.receive_pool(2, 64).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let socket = one.adopt_socket(OwnedFd::from(a)).unwrap();
    peer.write_all(b"x").unwrap();
    let got = one.block_on(async { socket.recv_pool(&theirs).await });
    if let Ok(Some(filled)) = got.unwrap() {
        assert!(filled.slab() != *mine.slab(), "the bytes went into a pool nobody named");
    }
}

// 18
thread_local!(static HERE: RefCell<Option<Proactor>> = const { RefCell::new(None) });

struct Asks(AtomicBool);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
        HERE.with(|here| {
            let here = here.borrow();
            let io = here.as_ref().unwrap();
            drop(io.nop().submit().map_err(|failed| failed.error).unwrap());
        });
    }
}

#[test]
fn t18_a_lease_waker_runs_with_nothing_borrowed() {
    let io = proactor(Backend::IoUring);
    HERE.with(|here| *here.borrow_mut() = Some(io.clone()));
    let slab = Slab::new(2, 64).unwrap();
    let pool = io.receive_pool_over(&slab).unwrap();
    let asks = Arc::new(Asks(AtomicBool::new(false)));
    let waker = Waker::from(asks.clone());
    let mut waiting = Box::pin(slab.lease_async());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(pool);
    let polled = catch_unwind(AssertUnwindSafe(|| turns(&io, 20)));
    let woken = asks.0.load(Ordering::Relaxed);
    HERE.with(|here| drop(here.borrow_mut().take()));
    assert!(woken);
    assert!(polled.is_ok(), "user code ran while the engine was borrowed");
}

// 19
#[test]
fn t19_a_dropped_pool_lets_its_slab_go() {
    let io = proactor(Backend::IoUring);
    let slab = Slab::new(2, 4096).unwrap();
    let fd = slab.region().fd().unwrap().try_clone_to_owned().unwrap();
    let name = std::fs::read_link(format!("/proc/self/fd/{}", {
        use std::os::fd::AsRawFd;
        fd.as_raw_fd()
    }))
    .unwrap();
    let inode = rustix_inode(fd.as_fd());
    drop(fd);
    let pool = io.receive_pool_over(&slab).unwrap();
    drop((pool, slab));
    turns(&io, 50);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let still = maps.lines().any(|line| {
        line.split_whitespace().nth(4) == Some(inode.as_str())
            && line.contains(name.to_str().unwrap().split(' ').next().unwrap())
    });
    assert!(!still, "the slab of a dropped pool is still mapped");
}

fn rustix_inode(fd: std::os::fd::BorrowedFd<'_>) -> String {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::File::from(fd.try_clone_to_owned().unwrap());
    file.metadata().unwrap().ino().to_string()
}

// 20
#[test]
fn t20_an_owner_dropped_in_a_panicking_poll() {
    let io = proactor(Backend::IoUring);
    let slab = Slab::new(1, 64).unwrap();
    let (a, _peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let receiving = a.recv(slab.lease().unwrap()).submit().unwrap();
    std::mem::forget(receiving);
    let mine = Rc::new(RefCell::new(None));
    let inside = mine.clone();
    io.nop()
        .on_complete(move |_| {
            drop(inside.borrow_mut().take());
            std::panic::resume_unwind(Box::new("from a callback"));
        })
        .unwrap();
    let handle = io.handle();
    let borrowed = io.clone();
    *mine.borrow_mut() = Some(io);
    let polled = catch_unwind(AssertUnwindSafe(move || borrowed.poll(Wait::Forever)));
    assert!(polled.is_err());
    assert!(handle.is_closed());
    drop(a);
}

// 21
#[test]
fn t21_accept_when_the_descriptor_table_is_full() {
    let io = Proactor::with(Options::default().descriptors(1)).unwrap();
    let path = std::env::temp_dir().join(format!("sound-full-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let listener = io.adopt_socket(OwnedFd::from(listener)).unwrap();
    let mut incoming = listener.incoming().submit().unwrap();
    let mut peer = UnixStream::connect(&path).unwrap();
    turns(&io, 50);
    let got = incoming.try_next().unwrap();
    assert_eq!(got.map(drop).map_err(|e| e.kind()), Err(ErrorKind::Exhausted));
    peer.set_read_timeout(Some(300 * MS)).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    std::fs::remove_file(&path).unwrap();
}

// 22
#[test]
fn t22_closing_a_file_ends_the_transfer_from_it() {
    let io = Proactor::with(Options::default().shutdown(200 * MS)).unwrap();
    let path = std::env::temp_dir().join(format!("sound-transfer-{}", std::process::id()));
    std::fs::write(&path, vec![1u8; 8 << 20]).unwrap();
    let (a, _peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let file = io.adopt_file(std::fs::File::open(&path).unwrap()).unwrap();
    let mut moving = a.transfer(&file, 0, 8 << 20).unwrap().submit().unwrap();
    turns(&io, 50);
    let mut closing = file.clone().close().submit().unwrap();
    turns(&io, 100);
    std::fs::remove_file(&path).unwrap();
    assert!(closing.try_take().is_some(), "the close waits for a peer that never reads");
    assert!(moving.try_take().is_some());
    let _ = OpenOptions::read();
}

// 23
#[test]
fn t23_empty_datagram_on_a_pool_stream() {
    for backend in Backend::ALL {
        let io = proactor(backend);
        let (a, peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
        let pool = io.receive_pool(4, 64).unwrap();
        let mut stream = a.receive_all(&pool).submit().unwrap();
        peer.send(b"one").unwrap();
        peer.send(b"").unwrap();
        peer.send(b"two").unwrap();
        let mut seen = Vec::new();
        for _ in 0..10 {
            io.poll(Wait::Until(Instant::now() + 10 * MS)).unwrap();
            while let Poll::Ready(item) = {
                use futures_core::Stream as _;
                Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()))
            } {
                seen.push(item.map(|item| item.unwrap().len()));
                if seen.len() > 8 {
                    break;
                }
            }
        }
        assert_eq!(seen, [Some(3), Some(0), Some(3)], "{backend}");
    }
}
