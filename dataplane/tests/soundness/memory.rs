//! Memory: what the kernel may still use stays where it is, and what it is done with goes back.
//!
//! One test reads memory that a read of the kernel's may be filling at that moment, which no
//! reference may do: that is what `unsafe` is for here.
#![allow(unsafe_code)]

use super::{MS, poll_once, proactor, turns};
use dataplane::regions::Slab;
use dataplane::{Backend, Interest, Wait, Watch};
use std::cell::RefCell;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

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
fn a_receive_begun_in_a_freed_slot_keeps_its_lease_on_io_uring() {
    stale_finish(Backend::IoUring);
}

#[test]
fn a_receive_begun_in_a_freed_slot_keeps_its_lease_on_epoll() {
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
fn a_watch_that_ends_itself_frees_no_slot_twice_on_io_uring() {
    stale_finish_of_a_receive(Backend::IoUring);
}

#[test]
fn a_watch_that_ends_itself_frees_no_slot_twice_on_epoll() {
    stale_finish_of_a_receive(Backend::Epoll);
}

#[test]
fn a_panic_while_shutting_down_frees_no_memory_in_use() {
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

#[test]
fn a_detached_operation_that_was_polled_is_freed_at_its_end() {
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
fn a_receive_that_times_out_keeps_what_arrived_on_io_uring() {
    recv_all_keeps_data(Backend::IoUring);
}

#[test]
fn a_receive_that_times_out_keeps_what_arrived_on_epoll() {
    recv_all_keeps_data(Backend::Epoll);
}
