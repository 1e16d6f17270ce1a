//! Every way of being told says of a no-op that it succeeded, on every backend.

use dataplane::{Backend, Options, Proactor, Wait};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Longer than any no-op takes, short enough to fail by.
const PATIENCE: Duration = Duration::from_secs(10);

fn each_backend(check: impl Fn(Proactor)) {
    for backend in Backend::ALL {
        match Proactor::with(Options::default().backend(backend)) {
            Ok(io) => check(io),
            Err(error) => println!("{backend} skipped: {error}"),
        }
    }
}

#[test]
fn a_callback() {
    each_backend(|io| {
        let told = Rc::new(Cell::new(None));
        let tell = told.clone();
        let done = move |result: Result<(), dataplane::Failed<_>>| {
            tell.set(Some(result.map_err(|failed| failed.error)));
        };
        io.nop().on_complete(done).map_err(|failed| failed.error).unwrap();
        assert_eq!(io.poll(PATIENCE).unwrap(), 1);
        told.take().expect("it was told").unwrap();
    });
}

#[test]
fn a_future_of_another_thread() {
    each_backend(|io| {
        let handle = io.handle();
        let thread = std::thread::spawn(move || {
            let nop = std::pin::pin!(handle.nop().submit().map_err(|failed| failed.error).unwrap());
            wait_for(nop)
        });
        let end = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            assert!(Instant::now() < end, "{}: never told", io.backend());
            io.poll(Duration::from_millis(10)).unwrap();
        }
        thread.join().unwrap().map_err(|failed| failed.error).unwrap();
        assert_eq!(io.poll(Wait::Now).unwrap(), 0);
    });
}

/// Runs a future on this thread, asking again every millisecond.
fn wait_for<F: Future>(mut future: std::pin::Pin<&mut F>) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
