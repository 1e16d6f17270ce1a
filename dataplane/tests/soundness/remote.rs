//! Other threads: what a handle submits is answered, whatever the owner is doing.

use super::{MS, poll_once, proactor, within};
use dataplane::regions::Slab;
use dataplane::{Backend, ErrorKind, Options, Proactor, Wait};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

#[test]
fn blocking_on_a_call_of_its_own_handle_ends() {
    within(3, "block_on(handle.call())", || {
        let io = proactor(Backend::IoUring);
        let handle = io.handle();
        assert_eq!(io.block_on(handle.call(|_| 5)).unwrap().unwrap(), 5);
    });
}

#[test]
fn a_remote_cancel_passes_a_full_proactor() {
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

#[test]
fn a_paused_remote_stream_resumes_every_time() {
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

/// The handle of a close goes when it is submitted, and its return must not overtake the close,
/// which waits in the inbox while the proactor is full.
#[test]
fn a_remote_close_of_the_last_handle_is_answered_by_a_full_proactor() {
    within(5, "a remote close at the in-flight bound", || {
        let io = Proactor::with(Options::default().operations(1)).unwrap();
        let handle = io.handle();
        let (a, _peer) = UnixStream::pair().unwrap();
        let socket = io.block_on(handle.adopt_socket(OwnedFd::from(a))).unwrap().unwrap();
        let full = io.sleep_until(Instant::now() + Duration::from_secs(3600)).submit().unwrap();
        let mut closing = socket.close().submit().unwrap();
        for _ in 0..4 {
            io.poll(Wait::Now).unwrap();
        }
        drop(full);
        let closed = loop {
            io.poll(Wait::Until(Instant::now() + 10 * MS)).unwrap();
            if let Poll::Ready(closed) = poll_once(&mut closing) {
                break closed;
            }
        };
        assert_eq!(closed.map_err(|failed| failed.error.to_string()), Ok(()));
    });
}

#[test]
fn a_remote_accept_into_a_full_table_names_the_limit_and_closes() {
    within(5, "a remote accept", || {
        let io = Proactor::with(Options::default().descriptors(1)).unwrap();
        let handle = io.handle();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let listener = io.block_on(handle.adopt_socket(OwnedFd::from(listener))).unwrap().unwrap();
        let mut peer = std::net::TcpStream::connect(to).unwrap();
        let error = io.block_on(async { listener.accept().await }).unwrap().unwrap_err().error;
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.to_string().contains("Options::descriptors"), "{error}");
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "nobody keeps the connection");
    });
}
