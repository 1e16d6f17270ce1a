//! One call of the kernel fails, and what did not need it goes on.
//!
//! A seccomp filter answers for the kernel: a shortage of memory or of room in its tables cannot be
//! had at will, and never twice alike. Each test says which call is refused by its number and one
//! argument, and looks for three things: the error is told to whoever asked, it names what to do
//! where there is something, and everything else works as before.
#![allow(clippy::unwrap_used)]

mod exhausted;
mod leaking;
mod storage;

use crate::child::{self, If};

use dataplane::regions::Slab;
use dataplane::{Backend, Capability, ErrorKind, Hosted, Interest, Options, Proactor, Wait};
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

/// Operations of `io_uring_register(2)`.
const REGISTER_EVENTFD: u32 = 4;
const REGISTER_FILES_UPDATE: u32 = 6;
const REGISTER_PROBE: u32 = 8;
const REGISTER_FILES: u32 = 13;
const REGISTER_BUFFERS: u32 = 15;
const UPDATE_BUFFERS: u32 = 16;
const REGISTER_RING: u32 = 20;
const REGISTER_BUFFER_RING: u32 = 22;

fn options(backend: Backend) -> Options {
    Options::default().backend(backend)
}

/// The probe's answer is kept for the process, so the filter is met by what comes after it.
fn ring() -> Option<Proactor> {
    match Proactor::with(options(Backend::IoUring)) {
        Ok(io) => Some(io),
        Err(error) if std::env::var("REQUIRE").is_ok_and(|rows| rows.contains("io_uring")) => {
            panic!("io_uring is required: {error}")
        }
        Err(error) => {
            child::say(&format!("skipped: {error}"));
            None
        }
    }
}

fn refuse_register(operation: u32, errno: i32) {
    child::refuse(libc::SYS_io_uring_register, 1, If::Is(operation), errno);
}

/// Bytes through a socket, and many no-ops.
fn works(io: &Proactor) {
    let slab = Slab::new(1, 64).unwrap();
    let (one, mut two) = UnixStream::pair().unwrap();
    let socket = io.adopt_socket(one).unwrap();
    let nops: Vec<_> = (0..200).map(|_| io.nop().submit().unwrap()).collect();
    io.block_on(async {
        two.write_all(b"bytes").unwrap();
        assert_eq!(socket.recv(slab.lease().unwrap()).await.unwrap()[..], *b"bytes");
        for nop in nops {
            nop.await.unwrap();
        }
    })
    .unwrap();
    assert_eq!(slab.available(), 1);
}

#[test]
fn a_ring_that_finds_no_memory_is_made_smaller() {
    child::alone(module_path!(), "a_ring_that_finds_no_memory_is_made_smaller", || {
        if ring().is_none() {
            return;
        }
        child::refuse(libc::SYS_io_uring_setup, 0, If::Above(16), libc::ENOMEM);
        let io = Proactor::with(options(Backend::IoUring)).unwrap();
        works(&io);
        assert!(io.stats().queued > 0, "two hundred do not fit into sixteen: {:?}", io.stats());
    });
}

#[test]
fn a_ring_that_finds_no_memory_at_all_names_the_limit() {
    child::alone(module_path!(), "a_ring_that_finds_no_memory_at_all_names_the_limit", || {
        if ring().is_none() {
            return;
        }
        child::refuse(libc::SYS_io_uring_setup, 0, If::Above(0), libc::ENOMEM);
        let error = Proactor::with(options(Backend::IoUring)).map(drop).unwrap_err();
        assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
        let io = Proactor::new().unwrap();
        assert_eq!(io.backend(), Backend::Epoll);
        assert!(io.fallback().is_some_and(|why| why.contains("RLIMIT_MEMLOCK")));
        works(&io);
    });
}

#[test]
fn a_thread_without_a_table_of_rings_enters_by_descriptor() {
    child::alone(module_path!(), "a_thread_without_a_table_of_rings_enters_by_descriptor", || {
        if ring().is_none() {
            return;
        }
        refuse_register(REGISTER_RING, libc::EINVAL);
        works(&Proactor::with(options(Backend::IoUring)).unwrap());
    });
}

#[test]
fn a_kernel_that_tells_no_operations_has_the_oldest() {
    child::alone(module_path!(), "a_kernel_that_tells_no_operations_has_the_oldest", || {
        refuse_register(REGISTER_PROBE, libc::EINVAL);
        let Some(io) = ring() else { return };
        assert!(!io.capabilities().contains(dataplane::Capability::ZeroCopySend));
        works(&io);
    });
}

fn without_tables(name: &str, errno: i32) {
    child::alone(module_path!(), name, move || {
        for operation in [REGISTER_BUFFERS, REGISTER_FILES, REGISTER_BUFFER_RING] {
            refuse_register(operation, errno);
        }
        let Some(io) = ring() else { return };
        for missing in
            [Capability::RegisteredBuffers, Capability::FixedFiles, Capability::BufferRings]
        {
            assert!(!io.capabilities().contains(missing), "{missing}");
        }
        works(&io);
    });
}

#[test]
fn a_kernel_that_refuses_tables_has_none() {
    without_tables("a_kernel_that_refuses_tables_has_none", libc::EPERM);
}

#[test]
fn a_kernel_without_memory_for_tables_has_none_for_now() {
    without_tables("a_kernel_without_memory_for_tables_has_none_for_now", libc::ENOMEM);
}

/// A shortage says nothing of the kernel: what could not be tried is tried again.
#[test]
fn a_probe_without_descriptors_is_made_again() {
    child::alone(module_path!(), "a_probe_without_descriptors_is_made_again", || {
        let first = std::fs::File::open("/dev/null").unwrap();
        let open = std::os::fd::AsRawFd::as_raw_fd(&first) as u64;
        drop(first);
        for most in open..open + 12 {
            child::descriptors_at_most(most);
            let _ = Proactor::with(options(Backend::IoUring));
            child::descriptors_at_most(1024);
        }
        let Some(io) = ring() else { return };
        assert!(io.capabilities().contains(Capability::Multishot), "{}", io.capabilities());
        works(&io);
    });
}

/// Neither a mapping, nor one that a forked child would get, too.
#[test]
fn a_pool_without_memory_for_its_ring_is_an_error_of_the_pool() {
    const NAME: &str = "a_pool_without_memory_for_its_ring_is_an_error_of_the_pool";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        const SLOTS: usize = 4096;
        let bytes = If::Is(16 * SLOTS as u32);
        for (call, errno) in [(libc::SYS_madvise, libc::EINVAL), (libc::SYS_mmap, libc::ENOMEM)] {
            child::refuse(call, 1, bytes, errno);
            let error = io.receive_pool(SLOTS, 64).map(drop).unwrap_err();
            assert_eq!(error.errno(), Some(errno), "{error}");
        }
        drop(io.receive_pool(SLOTS / 2, 64).expect("a smaller one"));
        works(&io);
    });
}

/// The entries of the ring are mapped once more, to mend a chain that was taken in part.
#[test]
fn a_ring_whose_chains_cannot_be_mended_links_nothing() {
    const NAME: &str = "a_ring_whose_chains_cannot_be_mended_links_nothing";
    child::alone(module_path!(), NAME, || {
        if ring().is_none() {
            return;
        }
        const ENTRIES: u32 = 512;
        let io = Proactor::with(options(Backend::IoUring).submissions(ENTRIES)).unwrap();
        let bytes = If::Is(64 * ENTRIES);
        for (call, errno) in [(libc::SYS_madvise, libc::EINVAL), (libc::SYS_mmap, libc::ENOMEM)] {
            child::refuse(call, 1, bytes, errno);
            let steps = io.sequence().then(io.nop()).then(io.nop()).submit().unwrap();
            let finished = io.block_on(steps).unwrap().unwrap();
            assert_eq!((finished.steps(), finished.linked()), (2, 0));
        }
        works(&io);
    });
}

/// The limit of threads of a user is reached (RLIMIT_NPROC, pthread_create(3)).
#[test]
fn a_helper_that_cannot_start_is_an_error_of_the_operation() {
    const NAME: &str = "a_helper_that_cannot_start_is_an_error_of_the_operation";
    child::alone(module_path!(), NAME, || {
        let io = Proactor::with(options(Backend::Epoll)).unwrap();
        let file = io.adopt_file(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let slab = Slab::new(1, 64).unwrap();
        child::refuse(libc::SYS_clone3, 1, If::Above(0), libc::EAGAIN);
        for _ in 0..2 {
            let read = async { file.read_at(slab.lease().unwrap(), 0).await.map(drop) };
            let failed = io.block_on(read).unwrap().unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Exhausted, "{failed}");
        }
        works(&io);
    });
}

#[test]
fn a_pool_the_kernel_refuses_is_an_error_of_the_pool() {
    child::alone(module_path!(), "a_pool_the_kernel_refuses_is_an_error_of_the_pool", || {
        let Some(io) = ring() else { return };
        refuse_register(REGISTER_BUFFER_RING, libc::ENOMEM);
        for _ in 0..2 {
            let error = io.receive_pool(4, 64).map(drop).unwrap_err();
            assert_eq!((error.kind(), error.errno()), (ErrorKind::Exhausted, Some(libc::ENOMEM)));
        }
        works(&io);
    });
}

#[test]
fn memory_the_kernel_refuses_is_an_error_of_the_registration() {
    const NAME: &str = "memory_the_kernel_refuses_is_an_error_of_the_registration";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        let other = ring().unwrap();
        let slab = Slab::new(2, 4096).unwrap();
        drop(io.register_slab(&slab).unwrap());
        refuse_register(UPDATE_BUFFERS, libc::ENOMEM);
        refuse_register(REGISTER_BUFFERS, libc::EPERM);
        // A table that is there takes nothing more, and one that is not is not made.
        let error = io.register_slab(&slab).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
        let error = other.register_slab(&slab).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        [&io, &other].into_iter().for_each(works);
    });
}

#[test]
fn a_descriptor_the_kernel_does_not_register_is_used_by_number() {
    const NAME: &str = "a_descriptor_the_kernel_does_not_register_is_used_by_number";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        refuse_register(REGISTER_FILES_UPDATE, libc::ENOMEM);
        let (one, mut two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        let registered = socket.register().map_err(|error| error.errno());
        assert!(matches!(registered, Ok(false) | Err(Some(libc::ENOMEM))), "{registered:?}");
        two.write_all(b"!").unwrap();
        let slab = Slab::new(1, 8).unwrap();
        let receive = async { socket.recv(slab.lease().unwrap()).await.unwrap().len() };
        assert_eq!(io.block_on(receive).unwrap(), 1);
        works(&io);
    });
}

#[test]
fn a_ring_that_no_host_can_watch_says_so() {
    child::alone(module_path!(), "a_ring_that_no_host_can_watch_says_so", || {
        let Some(io) = ring() else { return };
        refuse_register(REGISTER_EVENTFD, libc::ENOMEM);
        assert_eq!(io.watchable(), None);
        assert!(Hosted::new(&io).is_err());
        works(&io);
    });
}

/// The limit of watches of a user is reached (`fs.epoll.max_user_watches`, epoll(7)).
#[test]
fn a_full_epoll_set_fails_only_what_would_wait() {
    child::alone(module_path!(), "a_full_epoll_set_fails_only_what_would_wait", || {
        let io = Proactor::with(options(Backend::Epoll)).unwrap();
        let add = If::Is(libc::EPOLL_CTL_ADD as u32);
        child::refuse(libc::SYS_epoll_ctl, 1, add, libc::ENOSPC);
        let slab = Slab::new(1, 64).unwrap();
        let (one, _two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        for _ in 0..2 {
            let receive = async { socket.recv(slab.lease().unwrap()).await.map(drop) };
            let failed = io.block_on(receive).unwrap().unwrap_err();
            assert_eq!((failed.kind(), slab.available()), (ErrorKind::Exhausted, 0));
            drop(failed);
            assert_eq!(slab.available(), 1, "the buffer comes back with the error");
        }
        let (other, _peer) = UnixStream::pair().unwrap();
        let told = Rc::new(Cell::new(None));
        let heard = told.clone();
        let told_of = move |seen: dataplane::Result<Interest>, _: &_| {
            heard.set(seen.err().map(|error| error.kind()));
        };
        let watch = io.watch(&other, Interest::READABLE, told_of).map_err(|error| error.kind());
        io.poll(Duration::from_millis(1)).unwrap();
        let kind = watch.as_ref().err().copied().or(told.get());
        assert_eq!(kind, Some(ErrorKind::Exhausted), "a watch waits, too");
        works(&io);
    });
}

/// A look that does not wait fails; one that does works, and what was asked for meanwhile comes.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_look_of_epoll_that_fails_is_told_and_loses_nothing() {
    const NAME: &str = "a_look_of_epoll_that_fails_is_told_and_loses_nothing";
    child::alone(module_path!(), NAME, || {
        let io = Proactor::with(options(Backend::Epoll)).unwrap();
        child::refuse(libc::SYS_epoll_wait, 3, If::Is(0), libc::ENOMEM);
        let slab = Slab::new(1, 64).unwrap();
        let (one, mut two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        let receiving = socket.recv(slab.lease().unwrap()).submit().unwrap();
        for _ in 0..2 {
            let error = io.poll(Wait::Now).unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENOMEM), "{error}");
        }
        two.write_all(b"bytes").unwrap();
        assert_eq!(io.block_on(receiving).unwrap().unwrap()[..], *b"bytes");
    });
}

/// As above, by how many descriptors are looked at: the bell, and two sockets.
#[test]
fn a_look_of_poll_that_fails_is_told_and_loses_nothing() {
    const NAME: &str = "a_look_of_poll_that_fails_is_told_and_loses_nothing";
    child::alone(module_path!(), NAME, || {
        let io = Proactor::with(options(Backend::Poll)).unwrap();
        child::refuse(libc::SYS_ppoll, 1, If::Is(3), libc::ENOMEM);
        let slab = Slab::new(2, 64).unwrap();
        let pairs = [(); 2].map(|()| UnixStream::pair().unwrap());
        let [(first, mut far), (second, _far)] = pairs;
        let [first, second] = [first, second].map(|end| io.adopt_socket(end).unwrap());
        let receiving = first.recv(slab.lease().unwrap()).submit().unwrap();
        let given_up = second.recv(slab.lease().unwrap()).submit().unwrap();
        for _ in 0..2 {
            let error = io.poll(Wait::Now).unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENOMEM), "{error}");
        }
        given_up.cancel().unwrap();
        far.write_all(b"bytes").unwrap();
        assert_eq!(io.block_on(receiving).unwrap().unwrap()[..], *b"bytes");
        let ended = io.block_on(given_up).unwrap().map(drop).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::Cancelled);
    });
}
