//! Multishot operations: they cost nothing in silence, and end only when they have ended.

use super::{MS, proactor, turns};
use dataplane::regions::Span;
use dataplane::{Backend, ErrorKind, Options, Proactor, Wait};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

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
fn a_non_blocking_listener_costs_nothing_in_silence() {
    let rearmed = spins(Backend::IoUring, true);
    assert!(rearmed < 10, "armed {rearmed} times in 200 ms of silence");
}

#[test]
fn a_non_blocking_stream_costs_nothing_in_silence() {
    let rearmed = spins(Backend::IoUring, false);
    assert!(rearmed < 10, "armed {rearmed} times in 200 ms of silence");
}

#[test]
fn a_blocked_zero_copy_send_costs_nothing() {
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

#[test]
fn an_accept_into_a_full_table_names_the_limit_and_closes() {
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

#[test]
fn an_empty_datagram_is_an_item_of_a_pool_stream() {
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

#[test]
fn an_empty_datagram_needs_no_buffer_of_an_exhausted_pool() {
    let io = proactor(Backend::IoUring);
    let (a, peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let pool = io.receive_pool(2, 64).unwrap();
    assert_eq!(pool.slab().available(), 0, "the kernel has them all");
    peer.send(b"").unwrap();
    let got = io.block_on(async { a.recv_pool(&pool).await }).unwrap();
    let got = got.map(|filled| filled.map(|filled| filled.len())).map_err(|f| f.kind());
    assert_eq!(got, Ok(Some(0)));
}
