//! Wakers are user code: they are woken, cloned and dropped with nothing borrowed and no lock held.
//!
//! A waker that does something when it is *cloned* can be made by hand only, which is what `unsafe`
//! is for here.
#![allow(unsafe_code)]

use super::{poll_once, proactor, turns, within};
use dataplane::regions::Slab;
use dataplane::{Backend, Proactor, Wait};
use std::cell::RefCell;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};

thread_local!(static HERE: RefCell<Option<Proactor>> = const { RefCell::new(None) });

/// A waker that submits something.
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

const POLLS: RawWakerVTable = RawWakerVTable::new(clone_and_poll, |_| (), |_| (), |_| ());

fn clone_and_poll(_: *const ()) -> RawWaker {
    HERE.with(|here| here.borrow().as_ref().unwrap().poll(Wait::Now)).unwrap();
    RawWaker::new(std::ptr::null(), &POLLS)
}

/// A waker that polls the proactor when it is cloned.
fn polls_when_cloned() -> Waker {
    // SAFETY: the functions of the table touch no data, and the waker stays on this thread: what
    // it is given to here belongs to a proactor of this thread.
    unsafe { Waker::from_raw(clone_and_poll(std::ptr::null())) }
}

/// Polls a future with a waker that ends what it waits for while it is cloned.
fn ends_while_waiting<F: Future + Unpin>(io: &Proactor, make: impl FnOnce() -> F) -> F::Output {
    HERE.with(|here| *here.borrow_mut() = Some(io.clone()));
    let waker = polls_when_cloned();
    let mut waiting = make();
    let mut polled = Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker));
    for _ in 0..100 {
        if let Poll::Ready(output) = polled {
            HERE.with(|here| drop(here.borrow_mut().take()));
            return output;
        }
        turns(io, 10);
        polled = Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker));
    }
    panic!("it never ended");
}

#[test]
fn a_waker_is_cloned_with_nothing_borrowed() {
    for backend in Backend::ALL {
        within(10, "a waker that polls", move || {
            let io = proactor(backend);
            ends_while_waiting(&io, || io.nop().submit().unwrap()).unwrap();
            let handle = io.handle();
            ends_while_waiting(&io, || handle.nop().submit().unwrap()).unwrap();
            assert_eq!(ends_while_waiting(&io, || handle.call(|_| 5)).unwrap(), 5);
        });
    }
}

#[test]
fn a_waker_of_a_lease_runs_with_nothing_borrowed() {
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

/// A datagram socket whose reading side is shut down is reported readable and has nothing: the
/// receive takes a buffer in vain, and its return wakes who waits for one.
#[test]
fn a_buffer_taken_in_vain_goes_back_with_nothing_borrowed() {
    for backend in [Backend::Epoll, Backend::Poll] {
        let io = proactor(backend);
        HERE.with(|here| *here.borrow_mut() = Some(io.clone()));
        let slab = Slab::new(1, 64).unwrap();
        let pool = io.receive_pool_over(&slab).unwrap();
        let only = slab.lease().unwrap();
        let asks = Arc::new(Asks(AtomicBool::new(false)));
        let waker = Waker::from(asks.clone());
        let (mut first, mut second) = (Box::pin(slab.lease_async()), Box::pin(slab.lease_async()));
        assert!(poll_once(&mut first).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(only);
        assert!(!asks.0.load(Ordering::Relaxed), "the first in line was told, and does not come");
        let (a, _peer) = UnixDatagram::pair().unwrap();
        a.shutdown(std::net::Shutdown::Read).unwrap();
        let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
        let receiving = a.receive_all(&pool).submit().unwrap();
        let polled = catch_unwind(AssertUnwindSafe(|| turns(&io, 20)));
        let woken = asks.0.load(Ordering::Relaxed);
        HERE.with(|here| drop(here.borrow_mut().take()));
        drop(receiving);
        assert!(woken, "{backend}: the buffer came back");
        assert!(polled.is_ok(), "{backend}: user code ran while the engine was borrowed");
    }
}
