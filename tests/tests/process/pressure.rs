//! Entering the kernel fails, and start-up fails half way.
//!
//! A seccomp filter answers for the kernel: it refuses an `io_uring_enter(2)` that hands over
//! exactly so many entries, and lets every other through. So a test decides when it is refused, and
//! when the refusal ends: by how much it has staged.
#![allow(clippy::unwrap_used)]

use crate::child;

use dataplane::{Backend, ErrorKind, Options, Proactor, Wait};
use std::time::{Duration, Instant};

/// An enter with this many entries is refused.
const REFUSED: u32 = 7;

/// A ring whose bell is armed already: what is staged from now on is the caller's.
fn ring() -> Option<Proactor> {
    match Proactor::with(Options::default().backend(Backend::IoUring)) {
        Ok(io) => {
            io.poll(Wait::Now).unwrap();
            Some(io)
        }
        Err(error) if std::env::var("REQUIRE").is_ok_and(|rows| rows.contains("io_uring")) => {
            panic!("io_uring is required: {error}")
        }
        Err(error) => {
            child::say(&format!("skipped: {error}"));
            None
        }
    }
}

/// The kernel takes nothing for now: polls go on, nothing is lost, and what is staged goes with
/// the next enter that is taken.
fn busy(name: &str, errno: i32) {
    child::alone(module_path!(), name, move || {
        let Some(io) = ring() else { return };
        child::refuse_enter(REFUSED, errno);
        let mut nops: Vec<_> = (0..REFUSED).map(|_| io.nop().submit().unwrap()).collect();
        for count in 1..=3 {
            assert_eq!(io.poll(Wait::Now).unwrap(), 0);
            assert_eq!((io.stats().busy, io.stats().in_flight), (count, REFUSED));
        }
        io.flush().unwrap();
        let deadline = Instant::now() + Duration::from_millis(5);
        assert_eq!(io.poll(deadline).unwrap(), 0, "the caller's deadline holds");
        assert!(Instant::now() >= deadline);
        nops.push(io.nop().submit().unwrap());
        for nop in nops {
            io.block_on(nop).unwrap().unwrap();
        }
        assert_eq!(io.stats().in_flight, 0);
    });
}

#[test]
fn an_enter_that_is_busy_keeps_what_is_staged() {
    busy("an_enter_that_is_busy_keeps_what_is_staged", libc::EBUSY);
}

#[test]
fn an_enter_without_memory_for_requests_keeps_what_is_staged() {
    busy("an_enter_without_memory_for_requests_keeps_what_is_staged", libc::EAGAIN);
}

#[test]
fn an_interrupted_enter_is_no_result() {
    const NAME: &str = "an_interrupted_enter_is_no_result";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        child::refuse_enter(REFUSED, libc::EINTR);
        let nops: Vec<_> = (0..REFUSED).map(|_| io.nop().submit().unwrap()).collect();
        assert_eq!(io.poll(Wait::Now).unwrap(), 0);
        assert_eq!((io.stats().busy, io.stats().in_flight), (0, REFUSED));
        let one_more = io.nop().submit().unwrap();
        io.block_on(one_more).unwrap().unwrap();
        nops.into_iter().for_each(|nop| io.block_on(nop).unwrap().unwrap());
    });
}

/// An error that a retry does not mend leaves the poll; the loop is as it was.
#[test]
fn an_enter_that_fails_is_told_and_loses_nothing() {
    const NAME: &str = "an_enter_that_fails_is_told_and_loses_nothing";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        child::refuse_enter(REFUSED, libc::ENOMEM);
        let mut nops: Vec<_> = (0..REFUSED).map(|_| io.nop().submit().unwrap()).collect();
        for _ in 0..2 {
            let error = io.poll(Wait::Now).unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENOMEM), "{error}");
            let error = io.flush().unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENOMEM), "{error}");
        }
        assert_eq!(io.stats().in_flight, REFUSED);
        nops.push(io.nop().submit().unwrap());
        for nop in nops {
            io.block_on(nop).unwrap().unwrap();
        }
    });
}

/// A chain for which there is no room, and no enter that would make some: step by step.
#[test]
fn a_chain_behind_an_enter_that_fails_is_emulated() {
    const NAME: &str = "a_chain_behind_an_enter_that_fails_is_emulated";
    child::alone(module_path!(), NAME, || {
        if ring().is_none() {
            return;
        }
        let options = Options::default().backend(Backend::IoUring).submissions(REFUSED + 1);
        let io = Proactor::with(options).unwrap();
        io.poll(Wait::Now).unwrap();
        child::refuse_enter(REFUSED, libc::ENOMEM);
        let nops: Vec<_> = (0..REFUSED).map(|_| io.nop().submit().unwrap()).collect();
        let steps = io.sequence().then(io.nop()).then(io.nop()).submit().unwrap();
        let finished = io.block_on(steps).unwrap().unwrap();
        assert_eq!((finished.steps(), finished.linked()), (2, 0));
        nops.into_iter().for_each(|nop| io.block_on(nop).unwrap().unwrap());
    });
}

/// What is staged may name memory that is given back, and the kernel takes nothing for now.
#[test]
fn memory_is_given_back_while_enters_are_busy() {
    const NAME: &str = "memory_is_given_back_while_enters_are_busy";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        let slab = dataplane::regions::Slab::new(2, 4096).unwrap();
        let registration = io.register_slab(&slab).unwrap();
        io.poll(Wait::Now).unwrap();
        child::refuse_enter(REFUSED, libc::EBUSY);
        let mut nops: Vec<_> = (0..REFUSED).map(|_| io.nop().submit().unwrap()).collect();
        drop(registration);
        io.poll(Wait::Now).unwrap();
        assert!(io.stats().busy > 0, "{:?}", io.stats());
        nops.push(io.nop().submit().unwrap());
        nops.into_iter().for_each(|nop| io.block_on(nop).unwrap().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while io.stats().releasing > 0 {
            assert!(Instant::now() < deadline);
            io.poll(Duration::from_millis(5)).unwrap();
        }
    });
}

/// The kernel lost completions: every waiter is told, and the next proactor works.
#[test]
fn an_enter_that_lost_completions_tells_every_waiter() {
    const NAME: &str = "an_enter_that_lost_completions_tells_every_waiter";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        let mut waiting =
            io.sleep_until(Instant::now() + Duration::from_secs(60)).submit().unwrap();
        child::refuse_enter(REFUSED, libc::EBADR);
        let nops: Vec<_> = (0..REFUSED).map(|_| io.nop().submit().unwrap()).collect();
        let error = io.poll(Wait::Now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
        for mut nop in nops {
            let ended = nop.try_take().expect("it is over").map_err(|failed| failed.kind());
            assert_eq!(ended.map(drop), Err(ErrorKind::DataLoss));
        }
        let ended = waiting.try_take().expect("it is over").map_err(|failed| failed.kind());
        assert_eq!(ended.map(drop), Err(ErrorKind::DataLoss));
        let stats = io.stats();
        assert_eq!((stats.in_flight, stats.leaked), (0, u64::from(REFUSED) + 1));
        assert!(stats.enters > 0, "counts outlive the backend");
        drop(io);
        let next = Proactor::with(Options::default().backend(Backend::IoUring)).unwrap();
        next.block_on(async { next.nop().await.unwrap() }).unwrap();
    });
}

/// A ring that refuses while it goes does not keep its owner longer than the deadline.
#[test]
fn a_shutdown_whose_enters_are_busy_ends() {
    const NAME: &str = "a_shutdown_whose_enters_are_busy_ends";
    child::alone(module_path!(), NAME, || {
        let Some(io) = ring() else { return };
        child::refuse_enter(REFUSED, libc::EBUSY);
        // Plain operations cannot be called back before they were handed over: each of them adds
        // its cancel, and then it is another number.
        drop((0..REFUSED).map(|_| io.nop().submit().unwrap()).collect::<Vec<_>>());
        let begun = Instant::now();
        assert_eq!(io.shutdown(Wait::Now).unwrap(), None);
        assert!(begun.elapsed() < Duration::from_secs(20));
    });
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Start-up under a limit of 0, 1, 2 … descriptors: refused without a leak until it works.
fn start_up(name: &str, backend: Backend) {
    child::alone(module_path!(), name, move || {
        let options = || Options::default().backend(backend);
        // Finding out what the kernel can do is done once, and not under this limit.
        if let Err(error) = Proactor::with(options()) {
            return child::say(&format!("skipped: {error}"));
        }
        let before = open_descriptors();
        let mut refusals = 0;
        for most in 0..128 {
            // A limit on numbers: what is open already may lie above it, and leave holes below.
            child::descriptors_at_most(most);
            let made = Proactor::with(options());
            let outcome = made.map(drop).map_err(|error| error.to_string());
            child::descriptors_at_most(1024);
            assert_eq!(open_descriptors(), before, "at most {most}: {outcome:?}");
            match outcome {
                Ok(()) => {
                    assert!(refusals > 0, "it needs descriptors");
                    return;
                }
                Err(message) => {
                    refusals += 1;
                    let said = message.contains("RLIMIT_NOFILE") || message.contains("os error 24");
                    assert!(said || message.contains("descriptor"), "{message}");
                }
            }
        }
        panic!("128 descriptors are not enough");
    });
}

#[test]
fn io_uring_start_up_leaks_nothing_at_any_step() {
    start_up("io_uring_start_up_leaks_nothing_at_any_step", Backend::IoUring);
}

#[test]
fn epoll_start_up_leaks_nothing_at_any_step() {
    start_up("epoll_start_up_leaks_nothing_at_any_step", Backend::Epoll);
}

#[test]
fn poll_start_up_leaks_nothing_at_any_step() {
    start_up("poll_start_up_leaks_nothing_at_any_step", Backend::Poll);
}

#[test]
fn auto_start_up_leaks_nothing_at_any_step() {
    start_up("auto_start_up_leaks_nothing_at_any_step", Backend::Auto);
}
