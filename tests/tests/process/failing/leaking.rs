//! The last step of the end: what cannot be drained by the deadline is leaked, said, and its
//! waiters are told at once. In a process of its own, because what is leaked stays.
#![allow(clippy::unwrap_used)]

use crate::child;
use dataplane::{Backend, ErrorKind, OpenOptions, Options, Proactor, Wait};
use std::time::{Duration, Instant};

/// Opening a FIFO without a writer blocks in the kernel. A helper thread cannot be called back
/// from there; io_uring calls its own back.
fn end_with_a_blocked_open(backend: Backend) {
    let options = Options::default().backend(backend).shutdown(Duration::from_millis(50));
    let io = match Proactor::with(options) {
        Ok(io) => io,
        Err(error) => return child::say(&format!("skipped on {backend}: {error}")),
    };
    let name = format!("dataplane-fifo-{}-{backend}", std::process::id());
    let fifo = std::env::temp_dir().join(name);
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut opening = io.open(&fifo, OpenOptions::read()).unwrap().submit().unwrap();
    let later = Instant::now() + Duration::from_secs(3600);
    let mut timer = io.sleep_until(later).submit().unwrap();
    // Long enough for a helper to be inside the call; one that has not begun is called back.
    for _ in 0..20 {
        io.poll(Duration::from_millis(5)).unwrap();
    }
    let begun = Instant::now();
    let leaked = io.shutdown(Wait::Now).unwrap().map_or(0, |leaked| leaked.operations);
    assert!(begun.elapsed() < Duration::from_secs(10), "one deadline bounds the whole end");
    assert_eq!(leaked, u32::from(backend != Backend::IoUring), "{backend}");
    let told = opening.try_take().expect("its waiter is told at once").map(drop);
    assert_eq!(told.unwrap_err().kind(), ErrorKind::ShutDown, "{backend}");
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
