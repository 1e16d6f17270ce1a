//! Signals a proactor owns: delivered inside polls, one owner per process, everything given back.
//! Each scenario runs in a forked child with one thread, on every backend.
#![allow(clippy::unwrap_used)]

use crate::child;
use crate::child::{Ended, forked};
use dataplane::{
    Backend, ErrorKind, Options, Proactor, ReceivedSignal, Signal, Signals, Subscription, Wait,
    block_signals_early, ignore_sigpipe,
};
use nix::sys::signal::{SigSet, Signal as Number, kill, raise};
use nix::unistd::Pid;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What the child ends with when everything was as it should be.
const GOOD: i32 = 42;

fn each_backend(name: &str, body: fn(&Proactor)) {
    child::alone(module_path!(), name, || {
        for backend in Backend::ALL {
            let options = Options::default().backend(backend).name("first");
            if let Err(error) = Proactor::with(options.clone()) {
                child::say(&format!("skipped on {backend}: {error}"));
                continue;
            }
            let ended = forked(|| {
                body(&Proactor::with(options).unwrap());
                GOOD
            });
            assert_eq!(ended, Ended::Code(GOOD), "{backend}");
        }
    });
}

fn send(signal: Signal) {
    kill(Pid::this(), Number::try_from(signal.number()).unwrap()).unwrap();
}

/// Polls until `ready`; a second at most.
fn poll_until(io: &Proactor, ready: impl Fn() -> bool) {
    for _ in 0..1000 {
        if ready() {
            return;
        }
        io.poll(Duration::from_millis(1)).unwrap();
    }
    panic!("it never came");
}

fn idle(io: &Proactor) {
    for _ in 0..10 {
        io.poll(Wait::Now).unwrap();
    }
}

type Log = Rc<RefCell<Vec<(u32, Signal)>>>;

/// A subscription that writes down who was called with what.
fn logging(signals: &Signals, log: &Log, who: u32, signal: Signal) -> Subscription {
    let log = log.clone();
    signals.on(signal, move |got| log.borrow_mut().push((who, got.signal))).unwrap()
}

fn blocked(signal: Signal) -> bool {
    SigSet::thread_get_mask().unwrap().contains(Number::try_from(signal.number()).unwrap())
}

#[test]
fn each_signal_is_a_callback() {
    each_backend("each_signal_is_a_callback", |io| {
        let signals = io.signals(Signal::ALL).unwrap();
        let log = Log::default();
        let _all = Signal::ALL.map(|signal| logging(&signals, &log, 0, signal));
        for signal in Signal::ALL {
            send(signal);
            poll_until(io, || log.borrow().contains(&(0, signal)));
        }
        assert_eq!(log.borrow().len(), 6);
        assert_eq!(signals.unclaimed(), 0);
    });
}

#[test]
fn the_sender_is_named() {
    each_backend("the_sender_is_named", |io| {
        let signals = io.signals([Signal::User1]).unwrap();
        let got = Rc::new(Cell::new(None::<ReceivedSignal>));
        let inside = got.clone();
        let _one = signals.on(Signal::User1, move |received| inside.set(Some(*received))).unwrap();
        send(Signal::User1);
        poll_until(io, || got.get().is_some());
        assert_eq!(got.get().unwrap().sender_pid, std::process::id());
    });
}

#[test]
fn subscriptions_are_called_in_order_and_pending_ones_merge() {
    each_backend("subscriptions_are_called_in_order_and_pending_ones_merge", |io| {
        let signals = io.signals([Signal::User1, Signal::HangUp]).unwrap();
        let log = Log::default();
        let _three = [1, 2, 3].map(|who| logging(&signals, &log, who, Signal::User1));
        for _ in 0..50 {
            send(Signal::User1);
        }
        poll_until(io, || log.borrow().len() >= 3);
        idle(io);
        assert_eq!(*log.borrow(), [1, 2, 3].map(|who| (who, Signal::User1)));
    });
}

#[test]
fn what_nobody_subscribed_to_is_counted() {
    each_backend("what_nobody_subscribed_to_is_counted", |io| {
        let signals = io.signals([Signal::Terminate, Signal::User2]).unwrap();
        send(Signal::Terminate);
        poll_until(io, || signals.unclaimed() == 1);
        let refused = signals.on(Signal::Quit, |_| {}).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        assert!(refused.message().contains("SIGUSR2, SIGTERM"), "{refused}");
        let none = io.signals([]).err().map(|error| error.kind());
        assert_eq!(none, Some(ErrorKind::InvalidArgument));
    });
}

#[test]
fn unsubscribing_inside_a_callback() {
    each_backend("unsubscribing_inside_a_callback", |io| {
        let signals = io.signals([Signal::User1]).unwrap();
        let log = Log::default();
        let later: Rc<RefCell<Vec<Subscription>>> = Rc::default();
        let (place, inside) = (later.clone(), log.clone());
        // The first ends itself and the second; the third is called.
        let first = signals.on(Signal::User1, move |got| {
            inside.borrow_mut().push((1, got.signal));
            let gone = place.take();
            drop(gone);
        });
        let second = logging(&signals, &log, 2, Signal::User1);
        let _third = logging(&signals, &log, 3, Signal::User1);
        later.borrow_mut().extend([first.unwrap(), second]);
        send(Signal::User1);
        poll_until(io, || log.borrow().len() == 2);
        send(Signal::User1);
        poll_until(io, || log.borrow().len() == 3);
        idle(io);
        assert_eq!(*log.borrow(), [1, 3, 3].map(|who| (who, Signal::User1)));
        assert_eq!(Rc::strong_count(&later), 1, "the callback is gone");
    });
}

#[test]
fn subscribing_inside_a_callback() {
    each_backend("subscribing_inside_a_callback", |io| {
        let signals = Rc::new(io.signals([Signal::User1]).unwrap());
        let log = Log::default();
        let kept: Rc<RefCell<Vec<Subscription>>> = Rc::default();
        let (more, place, inside) = (Rc::downgrade(&signals), kept.clone(), log.clone());
        let _first = signals.on(Signal::User1, move |_| {
            let new = logging(&more.upgrade().unwrap(), &inside, 2, Signal::User1);
            place.borrow_mut().push(new);
        });
        send(Signal::User1);
        poll_until(io, || kept.borrow().len() == 1);
        assert!(log.borrow().is_empty(), "not for the signal it was made in");
        send(Signal::User1);
        poll_until(io, || log.borrow().len() == 1);
    });
}

#[test]
fn a_callback_that_panics() {
    each_backend("a_callback_that_panics", |io| {
        let signals = io.signals([Signal::User1, Signal::User2]).unwrap();
        let log = Log::default();
        let bad = signals.on(Signal::User1, |_| panic!("on purpose")).unwrap();
        let _good = logging(&signals, &log, 2, Signal::User1);
        let _other = logging(&signals, &log, 3, Signal::User2);
        send(Signal::User1);
        send(Signal::User2);
        let mut panics = 0;
        for _ in 0..100 {
            let polled = catch_unwind(AssertUnwindSafe(|| io.poll(Duration::from_millis(1))));
            panics += usize::from(polled.is_err());
        }
        assert_eq!(panics, 1);
        assert_eq!(*log.borrow(), [(2, Signal::User1), (3, Signal::User2)]);
        assert!(!bad.is_active());
        send(Signal::User1);
        poll_until(io, || log.borrow().len() == 3);
    });
}

#[test]
fn one_owner_and_the_error_says_who() {
    each_backend("one_owner_and_the_error_says_who", |io| {
        let signals = io.signals([Signal::User1]).unwrap();
        let other = Proactor::with(Options::default().name("second")).unwrap();
        for one in [io, &other] {
            let refused = one.signals([Signal::User2]).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Busy);
            assert!(refused.message().contains("`first` owns SIGUSR1"), "{refused}");
        }
        assert!(!blocked(Signal::User2), "a refusal changes nothing");
        drop(signals);
        let signals = other.signals([Signal::User2]).unwrap();
        let refused = io.signals([Signal::User1]).err().unwrap();
        assert!(refused.message().contains("`second` owns SIGUSR2"), "{refused}");
        drop(signals);
    });
}

#[test]
fn dropping_the_owner_gives_everything_back() {
    each_backend("dropping_the_owner_gives_everything_back", |io| {
        block_signals_early([Signal::Quit]).unwrap();
        let before = SigSet::thread_get_mask().unwrap();
        ignored(Number::SIGHUP);
        for _ in 0..3 {
            let signals = io.signals(Signal::ALL).unwrap();
            let _one = signals.on(Signal::HangUp, |_| {}).unwrap();
            assert!(Signal::ALL.into_iter().all(blocked));
            drop(signals);
            assert_eq!(SigSet::thread_get_mask().unwrap(), before);
        }
        // Ignored again: it would end this process.
        raise(Number::SIGHUP).unwrap();
        idle(io);
        assert_eq!(io.stats().in_flight, 0);
    });
}

/// Ignores a signal as a parent may have done (nohup).
fn ignored(signal: Number) {
    child::ignore(signal as i32);
}

#[test]
fn an_ignored_signal_is_delivered_to_its_owner() {
    each_backend("an_ignored_signal_is_delivered_to_its_owner", |io| {
        ignored(Number::SIGHUP);
        let signals = io.signals([Signal::HangUp]).unwrap();
        let log = Log::default();
        let _one = logging(&signals, &log, 1, Signal::HangUp);
        send(Signal::HangUp);
        poll_until(io, || log.borrow().len() == 1);
    });
}

#[test]
fn dropping_the_owner_inside_a_callback() {
    each_backend("dropping_the_owner_inside_a_callback", |io| {
        let place: Rc<RefCell<Option<Signals>>> = Rc::default();
        let log = Log::default();
        let signals = io.signals([Signal::User1]).unwrap();
        let (own, inside) = (place.clone(), log.clone());
        let first = signals.on(Signal::User1, move |got| {
            inside.borrow_mut().push((1, got.signal));
            let owner = own.take();
            drop(owner);
        });
        let second = logging(&signals, &log, 2, Signal::User1);
        *place.borrow_mut() = Some(signals);
        send(Signal::User1);
        poll_until(io, || log.borrow().len() == 1);
        idle(io);
        assert_eq!(log.borrow().len(), 1, "the second belonged to the owner that went");
        assert!(!blocked(Signal::User1));
        assert!(!first.unwrap().is_active() && !second.is_active());
    });
}

#[test]
fn the_proactor_goes_first() {
    each_backend("the_proactor_goes_first", |io| {
        let short = Proactor::with(Options::default().backend(io.backend())).unwrap();
        let signals = short.signals([Signal::User1]).unwrap();
        let log = Log::default();
        let one = logging(&signals, &log, 1, Signal::User1);
        drop(short);
        assert!(!signals.is_active() && !one.is_active());
        assert!(!blocked(Signal::User1), "nobody would read it");
        let refused = signals.on(Signal::User1, |_| {}).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ShutDown);
        drop(io.signals([Signal::User1]).unwrap());
        drop(signals);
    });
}

#[test]
fn a_stream_of_signals() {
    each_backend("a_stream_of_signals", |io| {
        let signals = io.signals(Signal::ALL).unwrap();
        let mut stream = signals.stream([Signal::User1, Signal::Terminate]).unwrap();
        send(Signal::User1);
        let got = io.block_on(stream.next()).unwrap().unwrap();
        assert_eq!(got.signal, Signal::User1);
        // One of each kind waits, in the order in which they came.
        for signal in [Signal::Terminate, Signal::User1, Signal::Terminate] {
            send(signal);
            poll_until(io, || io.poll(Wait::Now).is_ok() && pending(signal).is_none());
        }
        let two = io.block_on(async { [stream.next().await, stream.next().await] }).unwrap();
        let two = two.map(|got| got.unwrap().signal);
        assert_eq!(two, [Signal::Terminate, Signal::User1]);
        let ended = io.block_on(async {
            let both = futures_util::join!(stream.next(), async { drop(signals) });
            both.0
        });
        assert_eq!(ended.unwrap(), None, "it ends with its owner");
    });
}

/// The signal, while it is pending for this process.
fn pending(signal: Signal) -> Option<Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    (mask & 1 << (signal.number() - 1) != 0).then_some(signal)
}

#[test]
fn other_threads_make_it_too_late() {
    each_backend("other_threads_make_it_too_late", |io| {
        let (end, ends) = mpsc::channel::<()>();
        let (start, started) = mpsc::channel();
        let named = thread::Builder::new().name("early-bird".into());
        let thread = named.spawn(move || {
            start.send(()).unwrap();
            let _ = ends.recv();
        });
        started.recv().unwrap();
        for refused in
            [block_signals_early([Signal::User1]).err(), io.signals([Signal::User1]).err()]
        {
            let refused = refused.unwrap();
            assert_eq!(refused.kind(), ErrorKind::Busy);
            assert!(refused.message().contains("early-bird"), "{refused}");
            assert!(refused.message().contains("SIGUSR1"), "{refused}");
            assert!(!blocked(Signal::User1), "nothing was changed");
        }
        drop(end);
        thread.unwrap().join().unwrap();
        // A joined thread may be listed for a moment longer.
        while block_signals_early([Signal::User1]).is_err() {
            thread::yield_now();
        }
        let (stop, stops) = mpsc::channel::<()>();
        let inherits = thread::spawn(move || stops.recv());
        let signals = io.signals([Signal::User1]).unwrap();
        let log = Log::default();
        let _one = logging(&signals, &log, 1, Signal::User1);
        send(Signal::User1);
        poll_until(io, || log.borrow().len() == 1);
        drop(stop);
        let _ = inherits.join().unwrap();
    });
}

#[test]
fn helper_threads_are_never_in_the_way() {
    each_backend("helper_threads_are_never_in_the_way", |io| {
        let made = io.open("/proc/self/status", dataplane::OpenOptions::read()).unwrap();
        let file = io.block_on(std::future::IntoFuture::into_future(made)).unwrap().unwrap();
        let slab = dataplane::regions::Slab::new(1, 4096).unwrap();
        let read = file.read_at(slab.lease().unwrap(), 0);
        io.block_on(std::future::IntoFuture::into_future(read)).unwrap().unwrap();
        drop(io.signals(Signal::ALL).unwrap());
    });
}

#[test]
fn a_forked_child_owns_nothing() {
    each_backend("a_forked_child_owns_nothing", |io| {
        let signals = io.signals([Signal::User1]).unwrap();
        let log = Log::default();
        let _one = logging(&signals, &log, 1, Signal::User1);
        let mut kept = Some(signals);
        let ended = forked(|| {
            drop(kept.take());
            assert!(blocked(Signal::User1), "the child's mask is its own business");
            let own = Proactor::new().unwrap();
            drop(own.signals([Signal::User1]).unwrap());
            GOOD
        });
        assert_eq!(ended, Ended::Code(GOOD));
        send(Signal::User1);
        poll_until(io, || log.borrow().len() == 1);
    });
}

#[test]
fn sigpipe_is_ignored_on_request() {
    each_backend("sigpipe_is_ignored_on_request", |_| {
        child::let_sigpipe_kill();
        ignore_sigpipe().unwrap();
        raise(Number::SIGPIPE).unwrap();
    });
}
