//! User code inside a poll: it may do everything but poll, with nothing borrowed, and a panic in it
//! loses nothing else.

use super::{MS, proactor, turns};
use dataplane::regions::Slab;
use dataplane::{Backend, Next, Wait};
use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

#[test]
fn a_shutdown_asked_for_inside_a_poll_is_refused_without_spinning() {
    let io = proactor(Backend::IoUring);
    let handle = io.handle();
    let call = handle.call(|io| io.clone().shutdown(Wait::Now).map(drop));
    let _ = io.poll(Wait::Until(Instant::now() + 200 * MS));
    drop(call);
    assert!(io.stats().turns < 50, "the poll went round {} times", io.stats().turns);
}

#[test]
fn a_panic_in_a_multishot_callback_ends_its_operation() {
    for backend in Backend::ALL {
        let io = proactor(backend);
        let (a, mut peer) = UnixStream::pair().unwrap();
        let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
        let slab = Slab::new(2, 64).unwrap();
        let pool = io.receive_pool_over(&slab).unwrap();
        let calls = Rc::new(Cell::new(0));
        let count = calls.clone();
        a.receive_all(&pool)
            .on_each(move |next| {
                count.set(count.get() + 1);
                if matches!(next, Next::Item(_)) {
                    std::panic::resume_unwind(Box::new("from a callback"));
                }
            })
            .unwrap();
        peer.write_all(b"one").unwrap();
        let polled = catch_unwind(AssertUnwindSafe(|| io.poll(Wait::Forever)));
        assert!(polled.is_err());
        peer.write_all(b"two").unwrap();
        turns(&io, 50);
        drop(pool);
        turns(&io, 50);
        assert_eq!(calls.get(), 1, "{backend}: it is not called again");
        assert_eq!(Rc::strong_count(&calls), 1, "{backend}: what it held is dropped");
        assert_eq!(io.stats().in_flight, 0, "{backend}: its operation is over");
        assert_eq!(slab.available(), 2, "{backend}: no buffer is stranded");
    }
}

/// The end of a proactor runs callbacks too; here it runs while a panic is under way.
#[test]
fn a_second_panic_in_the_end_of_a_panicking_poll_does_not_abort() {
    let io = proactor(Backend::IoUring);
    let mine = Rc::new(RefCell::new(None));
    let inside = mine.clone();
    let second = Rc::new(Cell::new(false));
    let ran = second.clone();
    let later = Instant::now() + Duration::from_secs(3600);
    io.sleep_until(later)
        .on_complete(move |_| {
            ran.set(true);
            std::panic::resume_unwind(Box::new("from the end"));
        })
        .unwrap();
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
    assert_eq!(polled.unwrap_err().downcast_ref(), Some(&"from a callback"));
    assert!(second.get(), "the end told the other callback");
    assert!(handle.is_closed());
}

#[test]
fn an_owner_dropped_in_a_panicking_poll_shuts_down() {
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
