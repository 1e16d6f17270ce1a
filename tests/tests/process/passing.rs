//! Passing things to a real second process, and what a full descriptor table does to it.
//!
//! Unsafe code: passing a slab is a promise about who writes which slot; the two processes take
//! turns.
#![allow(clippy::unwrap_used, unsafe_code)]

use crate::child;
use crate::child::{Ended, forked};
use dataplane::regions::{Region, Slab};
use dataplane::{
    Backend, ErrorKind, Options, Pass, PassedEvent, PassedSlab, Proactor, Socket, Wait,
};
use std::future::IntoFuture;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// What the child ends with when everything was as it should be.
const GOOD: i32 = 42;

fn each_backend(name: &str, body: fn(&Proactor)) {
    child::alone(module_path!(), name, || {
        for backend in Backend::ALL {
            match Proactor::with(Options::default().backend(backend)) {
                Ok(io) => body(&io),
                Err(error) => child::say(&format!("skipped on {backend}: {error}")),
            }
        }
    });
}

/// A socket of the proactor's, and the other end for a child.
fn pair(io: &Proactor) -> (Socket, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (io.adopt_socket(near).unwrap(), far)
}

/// A proactor of the child's own, over its end of the socket.
fn child_end(backend: Backend, far: &UnixStream) -> (Proactor, Socket) {
    let io = Proactor::with(Options::default().backend(backend)).unwrap();
    let socket = io.adopt_socket(far.try_clone().unwrap()).unwrap();
    (io, socket)
}

#[test]
fn memory_is_shared_with_another_process() {
    each_backend("memory_is_shared_with_another_process", |io| {
        let (near, far) = pair(io);
        let region = Region::memfd(8192).unwrap();
        region.copy_in(100, b"from the parent").unwrap();
        let slab = Slab::new(4, 4096).unwrap();
        // SAFETY: no lease of the slab lives while the child runs.
        let slab_passed = unsafe { Pass::slab(&slab) }.unwrap();
        io.block_on(near.pass(&Pass::region(&region).unwrap())).unwrap().unwrap();
        io.block_on(near.pass(&slab_passed)).unwrap().unwrap();
        let backend = io.backend();
        let ended = forked(|| {
            let (io, socket) = child_end(backend, &far);
            let region: Region = io.block_on(socket.receive_passed()).unwrap().unwrap();
            let mut bytes = [0; 15];
            region.copy_out(100, &mut bytes).unwrap();
            assert_eq!(&bytes, b"from the parent");
            region.copy_in(100, b"from the child ").unwrap();
            let slab: PassedSlab = io.block_on(socket.receive_passed()).unwrap().unwrap();
            assert_eq!((slab.slots(), slab.slot_bytes()), (4, 4096));
            // SAFETY: the parent waits for this process to end before it takes a lease.
            let slab = unsafe { slab.into_slab() }.unwrap();
            for n in 0..4 {
                slab.lease().unwrap().fill(n + 10);
            }
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD), "{backend}");
        let mut bytes = [0; 15];
        region.copy_out(100, &mut bytes).unwrap();
        assert_eq!(&bytes, b"from the child ");
        assert!(slab.lease().unwrap().iter().all(|byte| (10..14).contains(byte)));
    });
}

#[test]
fn descriptors_work_in_another_process() {
    each_backend("descriptors_work_in_another_process", |io| {
        let (near, far) = pair(io);
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        let (talks, hears) = UnixStream::pair().unwrap();
        let talks = io.adopt_socket(talks).unwrap();
        let hears = io.adopt_socket(hears).unwrap();
        io.block_on(near.pass(&Pass::event(&event).unwrap())).unwrap().unwrap();
        io.block_on(near.pass(&Pass::socket(&talks).unwrap())).unwrap().unwrap();
        drop(talks);
        let backend = io.backend();
        let ended = forked(|| {
            let (io, socket) = child_end(backend, &far);
            let event: PassedEvent = io.block_on(socket.receive_passed()).unwrap().unwrap();
            nix::unistd::write(&event.0, &7u64.to_ne_bytes()).unwrap();
            let talks: Socket = io.block_on(socket.receive_passed()).unwrap().unwrap();
            let sent = io.block_on(talks.send_all(vec![9; 100]).into_future()).unwrap();
            assert_eq!(sent.unwrap().bytes, 100);
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD), "{backend}");
        assert_eq!(event.read().unwrap(), 7);
        let slab = Slab::new(1, 128).unwrap();
        let got = io.block_on(hears.recv_all(slab.lease().unwrap()).into_future()).unwrap();
        assert_eq!(&got.unwrap()[..], &[9; 100], "all of it, and the end");
    });
}

#[test]
fn a_process_that_dies() {
    each_backend("a_process_that_dies", |io| {
        let (near, far) = pair(io);
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        let passed = Pass::event(&event).unwrap();
        let backend = io.backend();
        let ended = forked(|| {
            let (io, socket) = child_end(backend, &far);
            let event = nix::sys::eventfd::EventFd::new().unwrap();
            io.block_on(socket.pass(&Pass::event(&event).unwrap())).unwrap().unwrap();
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD), "{backend}");
        drop(far);
        io.block_on(near.receive_passed::<PassedEvent>()).unwrap().expect("passed before it died");
        let gone = io.block_on(near.receive_passed::<PassedEvent>()).unwrap().err().unwrap();
        assert_eq!(gone.kind(), ErrorKind::Disconnected);
        let gone = io.block_on(near.pass(&passed)).unwrap().err().unwrap();
        assert_eq!(gone.kind(), ErrorKind::Disconnected);
    });
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_full_descriptor_table_loses_nothing_quietly() {
    each_backend("a_full_descriptor_table_loses_nothing_quietly", |io| {
        let backend = io.backend();
        // The limit is taken away in a child of its own.
        let ended = forked(|| {
            let io = Proactor::with(Options::default().backend(backend)).unwrap();
            let (near, far) = pair(&io);
            let far = io.adopt_socket(far).unwrap();
            let event = nix::sys::eventfd::EventFd::new().unwrap();
            let passed = Pass::event(&event).unwrap();
            io.block_on(near.pass(&passed)).unwrap().unwrap();
            io.poll(Wait::Now).unwrap();
            let mut filling: Vec<OwnedFd> = Vec::new();
            let next = event_number();
            child::limit(libc::RLIMIT_NOFILE, next as u64 + 4).unwrap();
            while let Ok(more) = nix::sys::eventfd::EventFd::new() {
                filling.push(more.into());
            }
            let lost = io.block_on(far.receive_passed::<PassedEvent>()).unwrap().err().unwrap();
            assert_eq!(lost.kind(), ErrorKind::DataLoss, "{lost}");
            assert!(lost.message().contains("RLIMIT_NOFILE"), "{lost}");
            drop(filling);
            let before = open_descriptors();
            for _ in 0..20 {
                io.block_on(near.pass(&passed)).unwrap().unwrap();
                io.block_on(far.receive_passed::<PassedEvent>()).unwrap().unwrap();
            }
            assert_eq!(open_descriptors(), before, "nothing is left open");
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD), "{backend}");
    });
}

/// The number the next descriptor will have.
fn event_number() -> i32 {
    nix::sys::eventfd::EventFd::new().map(|event| OwnedFd::from(event).as_raw_fd()).unwrap()
}
