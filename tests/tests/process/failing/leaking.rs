//! The last step of the end: what cannot be drained by the deadline is leaked, said, and its
//! waiters are told at once. In a process of its own, because what is leaked stays.
#![allow(clippy::unwrap_used)]

use crate::child;
use dataplane::{Backend, ErrorKind, Failed, OpenOptions, Options, Proactor, Wait};
use futures_util::future::FutureExt;
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

/// Whether its task was woken.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opening a FIFO without a writer blocks in the kernel, and a helper thread cannot be called back
/// from there. io_uring tries without blocking first, which opens it.
fn end_with_a_blocked_open(backend: Backend) {
    let options = Options::default().backend(backend).shutdown(Duration::from_millis(50));
    let io = match Proactor::with(options) {
        Ok(io) => io,
        Err(error) => return child::say(&format!("skipped on {backend}: {error}")),
    };
    let name = format!("dataplane-fifo-{}-{backend}", std::process::id());
    let fifo = std::env::temp_dir().join(name);
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let open = || io.open(&fifo, OpenOptions::read()).unwrap();
    let mut opening = open().submit().unwrap();
    // Those who wait: a task, a callback, a submitter elsewhere.
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let mut waiting = pin!(open().submit().unwrap());
    let waker = Waker::from(flag.clone());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let called = Rc::new(Cell::new(None));
    let heard = called.clone();
    let call = move |ended: Result<_, Failed<_>>| heard.set(ended.map(drop).err());
    open().on_complete(call).map_err(|failed| failed.error).unwrap();
    let elsewhere = io.handle().open(&fifo, OpenOptions::read()).unwrap().submit();
    let elsewhere = elsewhere.map_err(|failed| failed.error).unwrap();
    let later = Instant::now() + Duration::from_secs(3600);
    let mut timer = io.sleep_until(later).submit().unwrap();
    // Long enough for a helper to be inside the call; one that has not begun is called back.
    for _ in 0..20 {
        io.poll(Duration::from_millis(5)).unwrap();
    }
    let begun = Instant::now();
    let leaked = io.shutdown(Wait::Now).unwrap().map_or(0, |leaked| leaked.operations);
    assert!(begun.elapsed() < Duration::from_secs(10), "one deadline bounds the whole end");
    assert_eq!(leaked, if backend == Backend::IoUring { 0 } else { 4 }, "{backend}");
    let told = opening.try_take().expect("its waiter is told at once").map(drop);
    assert_eq!(told.unwrap_err().kind(), ErrorKind::ShutDown, "{backend}");
    assert!(flag.0.load(Ordering::Relaxed), "{backend}");
    let told = waiting.now_or_never().expect("told").map(drop).unwrap_err().kind();
    assert_eq!(told, ErrorKind::ShutDown, "{backend}");
    let called = called.take().map(|failed: Failed<_>| failed.kind());
    let heard = elsewhere.now_or_never().expect("told").err().map(|failed| failed.kind());
    let ended = (backend != Backend::IoUring).then_some(ErrorKind::ShutDown);
    assert_eq!([called, heard], [ended; 2], "{backend}");
    let ended = timer.try_take().expect("told").unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ShutDown, "{backend}");
    // Lets the helper go: it finds nobody to tell.
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap());
    std::fs::remove_file(&fifo).unwrap();
}

#[test]
fn what_cannot_end_is_leaked_and_said() {
    child::alone(module_path!(), "what_cannot_end_is_leaked_and_said", || {
        Backend::ALL.into_iter().for_each(end_with_a_blocked_open);
    });
}
