//! Where io_uring is forbidden, as in many containers, or where an ordinary user may pin only a
//! little memory: the program works, says what it got instead, and why.
#![allow(clippy::unwrap_used)]

use crate::child;

use dataplane::regions::{Region, Slab};
use dataplane::{Backend, ErrorKind, OpenOptions, Options, Proactor};
use std::future::IntoFuture;
use std::io::Write;
use std::os::unix::net::UnixStream;

/// A socket, a pool, a file and a timer, by way of `io`.
fn works(io: &Proactor) {
    let slab = Slab::new(2, 4096).unwrap();
    let (one, mut two) = UnixStream::pair().unwrap();
    let socket = io.adopt_socket(one).unwrap();
    io.block_on(async {
        two.write_all(b"bytes").unwrap();
        let filled = socket.recv(slab.lease().unwrap()).await.unwrap();
        assert_eq!(filled[..], *b"bytes");
        let pool = io.receive_pool(2, 64).unwrap();
        two.write_all(b"pool").unwrap();
        let filled = socket.recv_pool(&pool).await.unwrap().unwrap();
        assert_eq!(filled[..], *b"pool");
        let file = io.open("/proc/self/stat", OpenOptions::read()).unwrap().await.unwrap();
        assert!(!file.read_at(slab.lease().unwrap(), 0).await.unwrap().is_empty());
        io.sleep_until(std::time::Instant::now()).await.unwrap();
    })
    .unwrap();
}

/// On `auto` the loop works and says why it is not io_uring; on io_uring the error says so.
fn forbidden(name: &str, errno: i32, words: &'static str) {
    child::alone(module_path!(), name, move || {
        child::forbid_io_uring(errno);
        let io = Proactor::new().unwrap();
        assert_eq!(io.backend(), Backend::Epoll);
        let why = io.fallback().expect("it is not what was asked for first");
        assert!(why.contains(words), "{why}");
        works(&io);
        let refused = Proactor::with(Options::default().backend(Backend::IoUring));
        let error = refused.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains(words), "{error}");
        for backend in [Backend::Epoll, Backend::Poll] {
            let io = Proactor::with(Options::default().backend(backend)).unwrap();
            assert_eq!((io.backend(), io.fallback()), (backend, None), "it was asked for");
            works(&io);
        }
    });
}

/// As kernel.io_uring_disabled and most seccomp profiles answer. The sysctl itself is of the whole
/// machine, so it is not touched.
#[test]
fn eperm_leaves_a_working_loop() {
    forbidden("eperm_leaves_a_working_loop", libc::EPERM, "kernel.io_uring_disabled");
}

/// As a kernel without io_uring answers, and some seccomp profiles.
#[test]
fn enosys_leaves_a_working_loop() {
    forbidden("enosys_leaves_a_working_loop", libc::ENOSYS, "seccomp");
}

#[test]
fn a_handle_works_where_io_uring_is_forbidden() {
    child::alone(module_path!(), "a_handle_works_where_io_uring_is_forbidden", || {
        child::forbid_io_uring(libc::EPERM);
        let io = Proactor::new().unwrap();
        let handle = io.handle();
        let thread = std::thread::spawn(move || {
            let called = handle.call(|io| io.backend());
            let nop = handle.nop().submit().unwrap();
            handle.wake();
            (called, nop)
        });
        let (called, nop) = thread.join().unwrap();
        assert_eq!(io.block_on(called).unwrap().unwrap(), Backend::Epoll);
        io.block_on(nop).unwrap().unwrap();
    });
}

/// A region larger than the limit is refused with the limit's name and the remedy, and the same
/// memory goes on without being registered.
#[test]
fn an_ordinary_user_with_little_locked_memory() {
    child::alone(module_path!(), "an_ordinary_user_with_little_locked_memory", || {
        const LIMIT_BYTES: u64 = 1 << 20;
        let is_set = child::limit(libc::RLIMIT_MEMLOCK, LIMIT_BYTES);
        if let Err(error) = is_set.and_then(|()| child::become_nobody()) {
            return child::say(&format!("skipped: becoming an ordinary user: {error}"));
        }
        let small = Options::default().operations(16).completions(64);
        let io = Proactor::with(small).unwrap();
        works(&io);
        if io.backend() != Backend::IoUring {
            let why = io.fallback().unwrap();
            return child::say(&format!("skipped: no io_uring here: {why}"));
        }
        let region = Region::anonymous(4 * LIMIT_BYTES as usize).unwrap();
        let error = io.register(&region).map(drop).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Exhausted, Some(libc::ENOMEM)));
        let words = error.message();
        assert!(words.contains("RLIMIT_MEMLOCK") && words.contains("ulimit -l"), "{words}");
        assert_eq!(io.stats().registered, 0);
        let slab = Slab::new(4, LIMIT_BYTES as usize).unwrap();
        assert!(io.register_slab(&slab).is_err());
        let (one, mut two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        two.write_all(b"unregistered").unwrap();
        let receive = socket.recv(slab.lease().unwrap()).into_future();
        assert_eq!(io.block_on(receive).unwrap().unwrap()[..], *b"unregistered");
        // What fits is registered, and again after it was given back.
        for _ in 0..20 {
            let fits = Slab::new(1, 65_536).unwrap();
            drop(io.register_slab(&fits).unwrap());
            while io.stats().registered + io.stats().releasing > 0 {
                io.poll(std::time::Duration::from_millis(1)).unwrap();
            }
        }
    });
}

/// With no room to lock at all, `auto` says which limit it met.
#[test]
fn an_ordinary_user_with_no_locked_memory() {
    child::alone(module_path!(), "an_ordinary_user_with_no_locked_memory", || {
        let is_set = child::limit(libc::RLIMIT_MEMLOCK, 0);
        if let Err(error) = is_set.and_then(|()| child::become_nobody()) {
            return child::say(&format!("skipped: becoming an ordinary user: {error}"));
        }
        let io = Proactor::new().unwrap();
        works(&io);
        match io.backend() {
            // A ring of Linux 6.12 needs none of it, one of 6.18 does.
            Backend::IoUring => {
                let slab = Slab::new(1, 65_536).unwrap();
                let error = io.register_slab(&slab).map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Exhausted);
                assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
            }
            _ => {
                let why = io.fallback().unwrap();
                assert!(why.contains("RLIMIT_MEMLOCK"), "{why}");
            }
        }
    });
}
