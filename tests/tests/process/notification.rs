//! Notifications and futex words in memory that two processes share.
#![allow(clippy::unwrap_used)]

use crate::child::{self, Ended, forked};
use dataplane::{Backend, FutexWord, Notification, Options, Proactor, Wait};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest that one side waits for the other.
const LIMIT: Duration = Duration::from_secs(20);
/// Times the two answer each other.
const ROUNDS: u32 = 200;

/// A second process that only has the descriptors maps them itself and answers every signal.
#[test]
fn two_processes_answer_each_other() {
    child::alone(module_path!(), "two_processes_answer_each_other", || {
        for backend in Backend::ALL {
            let (ping, pong) = (Notification::shared().unwrap(), Notification::shared().unwrap());
            let passed = [&ping, &pong].map(|one| one.fd().unwrap().try_clone_to_owned().unwrap());
            let near = std::thread::spawn(move || poll_side(backend, &ping, &pong));
            let ended = forked(|| {
                let [ping, pong] = passed.map(|fd| Notification::open(fd).unwrap());
                for round in 0..ROUNDS {
                    assert_eq!(ping.wait(round, Some(LIMIT)).unwrap(), round + 1);
                    pong.signal(1);
                }
                0
            });
            assert_eq!(ended, Ended::Code(0), "{backend}");
            near.join().unwrap();
        }
    });
}

/// The loop's side: it waits by operations.
fn poll_side(backend: Backend, ping: &Notification, pong: &Notification) {
    let io = match Proactor::with(Options::default().backend(backend)) {
        Ok(io) => io,
        Err(error) => {
            child::say(&format!("skipped on {backend}: {error}"));
            (0..ROUNDS).for_each(|round| {
                ping.signal(1);
                pong.wait(round, Some(LIMIT)).unwrap();
            });
            return;
        }
    };
    for round in 0..ROUNDS {
        let mut answer = io.wait_notification(pong, round).submit().unwrap();
        io.poll(Wait::Now).unwrap();
        ping.signal(1);
        let answered = loop {
            match answer.try_take() {
                Some(answered) => break answered.unwrap(),
                None => drop(io.poll(LIMIT).unwrap()),
            }
        };
        assert_eq!(answered, round + 1);
    }
}

/// One that dies asleep costs the others a needless call, nothing else.
#[test]
fn a_process_that_dies_asleep_takes_nobody_along() {
    child::alone(module_path!(), "a_process_that_dies_asleep_takes_nobody_along", || {
        let notification = Notification::shared().unwrap();
        let passed = notification.fd().unwrap().try_clone_to_owned().unwrap();
        let ended = forked(|| {
            let notification = Notification::open(passed).unwrap();
            std::thread::spawn(move || notification.wait(0, None));
            std::thread::sleep(Duration::from_millis(20));
            0
        });
        assert_eq!(ended, Ended::Code(0));
        assert_eq!(notification.waiting(), 1, "nobody counted it out");
        assert_eq!(notification.signal_all(), 0);
        let inside = notification.clone();
        let thread = std::thread::spawn(move || inside.wait(1, Some(LIMIT)));
        while notification.signal_all() == 0 && !thread.is_finished() {
            std::thread::yield_now();
        }
        assert!(thread.join().unwrap().unwrap() > 1);
    });
}

#[test]
fn a_word_is_the_same_in_both_processes() {
    child::alone(module_path!(), "a_word_is_the_same_in_both_processes", || {
        let word = FutexWord::shared(0).unwrap();
        let passed = word.fd().unwrap().try_clone_to_owned().unwrap();
        let inside = word.clone();
        let near = std::thread::spawn(move || {
            while inside.load(Ordering::Acquire) == 0 {
                inside.wait(0, Some(LIMIT)).unwrap();
            }
            inside.load(Ordering::Acquire)
        });
        let ended = forked(|| {
            let word = FutexWord::open(passed).unwrap();
            word.store(42, Ordering::Release);
            word.wake(u32::MAX);
            0
        });
        assert_eq!(ended, Ended::Code(0));
        assert_eq!(near.join().unwrap(), 42);
    });
}

/// With nobody waiting, signals are steps in memory.
/// Beside one wake that is asked for, by which it is seen that calls are counted at all.
#[test]
fn a_signal_for_nobody_is_no_system_call() {
    child::alone(module_path!(), "a_signal_for_nobody_is_no_system_call", || {
        let counts = child::system_calls(|| {
            let own = Notification::new();
            let shared = Notification::shared().unwrap();
            let word = FutexWord::new(0);
            child::mark();
            for _ in 0..1000 {
                own.signal(1);
                shared.signal_all();
            }
            word.wake(1);
            child::mark();
            assert_eq!((own.epoch(), shared.epoch()), (1000, 1000));
        });
        assert_eq!(counts.get(&libc::SYS_futex), Some(&1), "{}", child::names(&counts));
        assert_eq!(counts.len(), 1, "and nothing else: {}", child::names(&counts));
    });
}
