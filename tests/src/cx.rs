//! What a case works with: a proactor of its own, and helpers that cannot hang.
//!
//! Everything here belongs to the case's thread. Waiting is bounded by [`LIMIT`]; what is in flight
//! by then is in the panic's message.

use dataplane::{Options, Proactor, Socket, Wait};
use futures_util::future::join;
use regions::Slab;
use std::cell::RefCell;
use std::fmt::Display;
use std::future::{Future as _, IntoFuture};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Most operations in flight on a case's proactor.
pub const OPERATIONS: u32 = 64;

/// Longest that one wait of a case may last: far more than anything takes, far less than a person
/// would wait.
const LIMIT: Duration = Duration::from_secs(10);

/// See the head of this file.
pub struct Cx<'a> {
    /// The proactor of this case; gone after it.
    pub io: &'a Proactor,
    /// Its options, for a second one alike.
    pub options: &'a Options,
    notes: RefCell<Vec<String>>,
    scratch: RefCell<Option<PathBuf>>,
}

/// Wakes a poll from whichever thread.
struct Flag {
    woken: AtomicBool,
    handle: dataplane::Handle,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.handle.wake();
    }
}

impl<'a> Cx<'a> {
    pub(crate) fn new(io: &'a Proactor, options: &'a Options) -> Cx<'a> {
        Cx { io, options, notes: RefCell::default(), scratch: RefCell::default() }
    }

    /// One line of the transcript. It must be the same in every configuration: kinds of errors,
    /// counts of bytes, order; no times, no mechanisms.
    pub fn note(&self, line: impl Display) {
        self.notes.borrow_mut().push(line.to_string());
    }

    pub(crate) fn take_notes(&self) -> Vec<String> {
        self.notes.take()
    }

    /// Polls the proactor until the future (or the request) is ready.
    ///
    /// # Panics
    ///
    /// When that takes too long, with what is in flight; when polling fails.
    pub fn block_on<F: IntoFuture>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future.into_future());
        let flag = Arc::new(Flag { woken: AtomicBool::new(true), handle: self.io.handle() });
        let waker = Waker::from(flag.clone());
        let mut context = Context::from_waker(&waker);
        let deadline = Instant::now() + LIMIT;
        loop {
            if flag.woken.swap(false, Ordering::Acquire)
                && let Poll::Ready(value) = future.as_mut().poll(&mut context)
            {
                return value;
            }
            self.turn("a future", deadline, Wait::Until(deadline));
        }
    }

    /// Polls the proactor until `ready` says so.
    ///
    /// # Panics
    ///
    /// As [`block_on`](Self::block_on).
    pub fn poll_until(&self, what: &str, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !ready() {
            // It may depend on another thread, of which no poll hears.
            let soon = Instant::now() + Duration::from_millis(2);
            self.turn(what, deadline, Wait::Until(soon.min(deadline)));
        }
    }

    fn turn(&self, what: &str, deadline: Instant, wait: Wait) {
        if Instant::now() >= deadline {
            let dump = dump(self.io);
            panic!("waited {} s for {what}; {dump}", LIMIT.as_secs());
        }
        if let Err(error) = self.io.poll(wait) {
            panic!("polling while waiting for {what}: {error:?}");
        }
    }

    /// Two ends of a TCP connection over loopback, both on this proactor: who connected, who
    /// accepted.
    pub fn tcp_pair(&self) -> (Socket, Socket) {
        let listener = self.io.listen("127.0.0.1:0").expect("listening on loopback");
        let to = listener.local_addr().expect("a listener has an address");
        let accepting = listener.accept().submit().expect("room for an accept");
        let (client, server) = self.block_on(join(self.io.connect(to), accepting));
        (client.expect("connecting over loopback"), server.expect("accepting over loopback"))
    }

    /// Two ends of an adopted Unix stream `socketpair(2)`.
    pub fn unix_pair(&self) -> (Socket, Socket) {
        let (one, two) = UnixStream::pair().expect("two descriptors");
        let adopt = |end| self.io.adopt_socket(end).expect("room for a descriptor");
        (adopt(one), adopt(two))
    }

    /// A slab of its own; not registered.
    pub fn slab(&self, slots: usize, slot_bytes: usize) -> Slab {
        Slab::new(slots, slot_bytes).expect("memory for a small slab")
    }

    /// Bytes that tell their place: the same for the same length and seed, unlike for another seed.
    pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// A folder of this case's own, removed with what is in it when the case is over.
    pub fn scratch_dir(&self) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut scratch = self.scratch.borrow_mut();
        let make = || {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("dataplane-conformance-{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir(&folder).expect("a folder in the temporary one");
            folder
        };
        scratch.get_or_insert_with(make).clone()
    }
}

impl Drop for Cx<'_> {
    fn drop(&mut self) {
        if let Some(folder) = self.scratch.take() {
            // The case's outcome is known; what cannot be removed is for the system to clean up.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// What is in flight, for a message.
pub(crate) fn dump(io: &Proactor) -> String {
    let operations: Vec<String> = io.in_flight().iter().map(ToString::to_string).collect();
    match operations.is_empty() {
        true => "nothing is in flight".to_owned(),
        false => format!("in flight: {}", operations.join("; ")),
    }
}
