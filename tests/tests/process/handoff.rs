//! What other threads bring, and signal handlers: one `write(2)` to a sleeping loop and none to one
//! that is awake; messages from a handler that interrupts whatever its thread is doing, also a
//! message of its own.
//!
//! Unsafe here: a signal handler is installed, and signals are raised.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)]

use crate::child::{self, mark, names, system_calls};
use dataplane::{Backend, Handle, MessageError, Options, Proactor, Wait};
use std::cell::RefCell;
use std::future::IntoFuture;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The backends there are here.
fn backends() -> impl Iterator<Item = Backend> {
    Backend::ALL.into_iter().filter(|backend| {
        let made = Proactor::with(Options::default().backend(*backend));
        if let Err(error) = &made {
            child::say(&format!("skipped on {backend}: {error}"));
        }
        made.is_ok()
    })
}

/// The parent counts the calls of the submitting thread alone: the loop's is not traced.
fn bring(backend: Backend, count: usize, what: fn(&Handle)) -> child::Counts {
    system_calls(|| {
        let (made, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let io = Proactor::with(Options::default().backend(backend)).unwrap();
            io.on_message(|_| {}).unwrap();
            made.send(io.handle()).unwrap();
            while io.poll(Wait::Forever).is_ok() {
                let stats = io.stats();
                if stats.foreign_submissions + stats.messages > 0 && stats.in_flight == 0 {
                    break;
                }
            }
        });
        let handle = ready.recv().unwrap();
        // Long enough for the loop to be asleep; were it not, fewer calls would be seen.
        std::thread::sleep(Duration::from_millis(300));
        mark();
        (0..count).for_each(|_| what(&handle));
        mark();
        thread.join().unwrap();
        // The counting itself is shown to work.
        mark();
        std::hint::black_box(std::fs::metadata("/")).unwrap();
        mark();
    })
}

fn is_one_write(counts: &child::Counts, what: &str) {
    let writes = counts.get(&libc::SYS_write).copied().unwrap_or(0);
    let rest = counts.values().sum::<usize>() - writes;
    assert_eq!((writes, rest), (1, 1), "{what}: one, and the last look: {}", names(counts));
}

#[test]
fn a_submit_to_a_sleeping_loop_is_one_write() {
    child::alone(module_path!(), "a_submit_to_a_sleeping_loop_is_one_write", || {
        for backend in backends() {
            let submit = |handle: &Handle| {
                // Forgotten: dropping it would cancel, and that is another announcement.
                std::mem::forget(handle.nop().submit().unwrap());
            };
            is_one_write(&bring(backend, 1, submit), "a submit");
        }
    });
}

#[test]
fn a_message_to_a_sleeping_loop_is_one_write() {
    child::alone(module_path!(), "a_message_to_a_sleeping_loop_is_one_write", || {
        for backend in backends() {
            let message = |handle: &Handle| handle.message(1).unwrap();
            is_one_write(&bring(backend, 1, message), "a message");
        }
    });
}

static TARGET: OnceLock<Handle> = OnceLock::new();
static SENT: AtomicU64 = AtomicU64::new(0);
static FULL: AtomicU64 = AtomicU64::new(0);

/// Marks what the handler sends.
const FROM_HANDLER: u64 = 1 << 63;

extern "C" fn on_signal(_: libc::c_int) {
    let Some(target) = TARGET.get() else { return };
    match target.message(FROM_HANDLER | SENT.load(Ordering::Relaxed)) {
        Ok(()) => SENT.fetch_add(1, Ordering::Relaxed),
        Err(MessageError::Exhausted) => FULL.fetch_add(1, Ordering::Relaxed),
        Err(_) => 0,
    };
}

fn install() {
    let handler = on_signal as extern "C" fn(libc::c_int);
    // SAFETY: the handler calls nothing but what is async-signal-safe, which is what is tested.
    let previous = unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    assert_ne!(previous, libc::SIG_ERR);
}

/// Signals rain on a thread that sends messages and allocates: its handler runs in the middle of a
/// push, of an announcement and of malloc(3) alike.
fn rain(backend: Backend) {
    const EACH: u64 = 20_000;
    let io = Proactor::with(Options::default().backend(backend).messages(64)).unwrap();
    let (ordinary, handled) = (Rc::new(RefCell::new(0)), Rc::new(RefCell::new(0)));
    let (one, two) = (ordinary.clone(), handled.clone());
    io.on_message(move |payload| {
        let count = if payload & FROM_HANDLER == 0 { &one } else { &two };
        assert_eq!(payload & !FROM_HANDLER, *count.borrow(), "in order per sender");
        *count.borrow_mut() += 1;
    })
    .unwrap();
    let handle = io.handle();
    assert!(TARGET.set(io.handle()).is_ok());
    install();
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let sender = std::thread::spawn(move || {
        for payload in 0..EACH {
            while handle.message(payload).is_err() {
                std::hint::black_box(vec![payload; 100]);
                std::thread::yield_now();
            }
        }
        // Signals may come until nobody sends any more.
        while !stop.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut signals = 0;
    let sender_thread = std::os::unix::thread::JoinHandleExt::as_pthread_t(&sender);
    while *ordinary.borrow() < EACH {
        assert!(Instant::now() < deadline, "{} messages arrived", ordinary.borrow());
        // SAFETY: the thread runs until it is told to stop.
        signals += u32::from(unsafe { libc::pthread_kill(sender_thread, libc::SIGUSR1) } == 0);
        io.poll(Duration::from_millis(1)).unwrap();
    }
    over.store(true, Ordering::Release);
    sender.join().unwrap();
    while *handled.borrow() < SENT.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "{} of the handler's", handled.borrow());
        io.poll(Duration::from_millis(1)).unwrap();
    }
    let (sent, full) = (SENT.load(Ordering::Relaxed), FULL.load(Ordering::Relaxed));
    assert!(signals > 0 && sent > 0, "{signals} signals, {sent} sent, {full} found no room");
    assert_eq!((*ordinary.borrow(), *handled.borrow()), (EACH, sent));
}

#[test]
fn a_signal_handler_sends_messages() {
    child::alone(module_path!(), "a_signal_handler_sends_messages", || {
        for backend in backends() {
            // A process each: there is one target.
            let ended = child::forked(|| {
                rain(backend);
                0
            });
            assert_eq!(ended, child::Ended::Code(0), "{backend}");
        }
    });
}

extern "C" fn on_wake(_: libc::c_int) {
    if let Some(target) = TARGET.get() {
        target.wake();
        SENT.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handler on the loop's own thread ends the sleep it interrupts, and one on another thread
/// ends the sleep of the loop.
#[test]
fn a_signal_handler_wakes_the_loop() {
    child::alone(module_path!(), "a_signal_handler_wakes_the_loop", || {
        for backend in backends() {
            let ended = child::forked(|| {
                let io = Proactor::with(Options::default().backend(backend)).unwrap();
                assert!(TARGET.set(io.handle()).is_ok());
                let handler = on_wake as extern "C" fn(libc::c_int);
                // SAFETY: the handler calls nothing but what is async-signal-safe.
                let previous =
                    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
                assert_ne!(previous, libc::SIG_ERR);
                // SAFETY: names the calling thread.
                let owner = unsafe { libc::pthread_self() } as u64;
                for on_owner in [true, false] {
                    let waking = std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(20));
                        // SAFETY: both threads run until this one is joined.
                        let here = unsafe { libc::pthread_self() };
                        let target = if on_owner { owner } else { here as u64 };
                        // SAFETY: as above.
                        assert_eq!(unsafe { libc::pthread_kill(target as _, libc::SIGUSR1) }, 0);
                    });
                    let begun = Instant::now();
                    io.poll(Duration::from_secs(30)).unwrap();
                    assert!(begun.elapsed() < Duration::from_secs(20), "the wake was lost");
                    waking.join().unwrap();
                }
                assert_eq!(SENT.load(Ordering::Relaxed), 2);
                0
            });
            assert_eq!(ended, child::Ended::Code(0), "{backend}");
        }
    });
}

/// A signal to the loop's own thread, while it sleeps in the kernel and while it polls.
#[test]
fn a_signal_to_the_loop_itself() {
    child::alone(module_path!(), "a_signal_to_the_loop_itself", || {
        for backend in backends() {
            let ended = child::forked(|| {
                let io = Proactor::with(Options::default().backend(backend)).unwrap();
                assert!(TARGET.set(io.handle()).is_ok());
                let seen = Rc::new(RefCell::new(0));
                let inside = seen.clone();
                io.on_message(move |_| *inside.borrow_mut() += 1).unwrap();
                install();
                // SAFETY: names the calling thread.
                let owner = unsafe { libc::pthread_self() } as u64;
                let thread = std::thread::spawn(move || {
                    for _ in 0..100 {
                        // SAFETY: the loop's thread waits for this one.
                        unsafe { libc::pthread_kill(owner as libc::pthread_t, libc::SIGUSR1) };
                        std::thread::sleep(Duration::from_micros(300));
                    }
                });
                let deadline = Instant::now() + Duration::from_secs(60);
                while !thread.is_finished() || *seen.borrow() < SENT.load(Ordering::Relaxed) {
                    assert!(Instant::now() < deadline);
                    io.poll(Duration::from_millis(5)).unwrap();
                    io.block_on(io.nop().into_future()).unwrap().unwrap();
                }
                thread.join().unwrap();
                assert_eq!(FULL.load(Ordering::Relaxed), 0);
                assert!(*seen.borrow() > 0, "signals may become one, not none");
                0
            });
            assert_eq!(ended, child::Ended::Code(0), "{backend}");
        }
    });
}

/// The call that sleeps is made again for what is left of its time (`poll(2)`).
#[test]
fn an_interrupted_look_of_poll_goes_on() {
    child::alone(module_path!(), "an_interrupted_look_of_poll_goes_on", || {
        let io = Proactor::with(Options::default().backend(Backend::Poll)).unwrap();
        let asleep = io.sleep_until(Instant::now() + Duration::from_millis(60)).submit().unwrap();
        assert!(TARGET.set(io.handle()).is_ok());
        install();
        // SAFETY: names the calling thread.
        let owner = unsafe { libc::pthread_self() } as u64;
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            // SAFETY: the loop's thread waits for this one.
            unsafe { libc::pthread_kill(owner as libc::pthread_t, libc::SIGUSR1) };
        });
        let begun = Instant::now();
        io.block_on(asleep).unwrap().unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(50), "a signal is no end of a timer");
        thread.join().unwrap();
    });
}
