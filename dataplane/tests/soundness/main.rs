//! Soundness and life cycles, seen from outside: every test here once was a suspicion.
//!
//! Each file is named for what it shows; here is only what they share. A hang is a failure too:
//! loops have an end, and what may block runs on a thread of its own, [`within`] some seconds.
#![allow(missing_docs, clippy::unwrap_used)]

mod callbacks;
mod closing;
mod memory;
mod names;
mod registrations;
mod remote;
mod sequences;
mod streams;
mod wakers;

use dataplane::{Backend, Options, Proactor, Wait};
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

pub(crate) fn proactor(backend: Backend) -> Proactor {
    Proactor::with(Options::default().backend(backend)).unwrap()
}

/// Runs `f` on a thread of its own; a hang is a failure.
pub(crate) fn within(seconds: u64, what: &str, f: impl FnOnce() + Send + 'static) {
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

pub(crate) fn turns(io: &Proactor, for_ms: u64) {
    let end = Instant::now() + Duration::from_millis(for_ms);
    while Instant::now() < end {
        io.poll(Wait::Until(end)).unwrap();
    }
}

pub(crate) fn poll_once<F: Future + Unpin>(f: &mut F) -> Poll<F::Output> {
    Pin::new(f).poll(&mut Context::from_waker(Waker::noop()))
}
