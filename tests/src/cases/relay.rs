//! Relays: source to sink inside the loop, once or each time, with an end that is told.

use super::futex::asleep;
use super::net::{idle_turns, settled};
use crate::{Case, Cx, Skip};
use dataplane::{
    Error, ErrorKind, NewRelay, Notification, Proactor, Relay, RelaySink, RelaySource, Wait,
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "relay/one_shot", needs: &[], run: one_shot },
    Case { name: "relay/persistent", needs: &[], run: persistent },
    Case { name: "relay/readable_before", needs: &[], run: readable_before },
    Case { name: "relay/value", needs: &[], run: value },
    Case { name: "relay/nothing_before_it_is_registered", needs: &[], run: not_registered },
    Case { name: "relay/to_a_notification", needs: &[], run: to_a_notification },
    Case { name: "relay/from_a_notification", needs: &[], run: from_a_notification },
    Case { name: "relay/from_a_notification_once", needs: &[], run: notification_once },
    Case { name: "relay/active_when_register_returns", needs: &[], run: active_at_once },
    Case { name: "relay/from_a_past_epoch", needs: &[], run: past_epoch },
    Case { name: "relay/chain", needs: &[], run: chain },
    Case { name: "relay/silent_after_unregister", needs: &[], run: silent },
    Case { name: "relay/silent_with_a_signal_due", needs: &[], run: silent_when_due },
    Case { name: "relay/sensitive_to_a_hang_up", needs: &[], run: sensitive },
    Case { name: "relay/insensitive_to_a_hang_up", needs: &[], run: insensitive },
    Case { name: "relay/full_sink_is_a_fault", needs: &[], run: full_sink },
    Case { name: "relay/full_sink_of_a_notification", needs: &[], run: full_sink_notified },
    Case { name: "relay/cancel_all_is_a_fault", needs: &[], run: cancel_all },
    Case { name: "relay/proactor_first", needs: &[], run: proactor_first },
    Case { name: "relay/cannot_arm_again", needs: &[], run: cannot_arm_again },
    Case { name: "relay/owned_source", needs: &[], run: owned_source },
    Case { name: "relay/callers_descriptors_closed", needs: &[], run: callers_closed },
    Case { name: "relay/source_without_readiness", needs: &[], run: no_readiness },
    Case { name: "relay/sink_that_is_no_eventfd", needs: &[], run: no_eventfd },
    Case { name: "relay/too_many", needs: &[], run: too_many },
    Case { name: "relay/unregistered_by_its_fault", needs: &[], run: unregistered_inside },
    Case { name: "relay/fault_callback_that_panics", needs: &[], run: panics },
    Case { name: "relay/no_default_timeout", needs: &[], run: no_default_timeout },
];

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("two descriptors")
}

fn eventfd() -> EventFd {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).expect("a descriptor")
}

/// One that is blocking and has no room.
fn full_eventfd() -> EventFd {
    let sink = EventFd::from_value_and_flags(0, EfdFlags::empty()).expect("a descriptor");
    sink.write(u64::MAX - 1).expect("room for that");
    sink
}

/// What the sink's counter holds; it is zero afterwards.
fn count(sink: &EventFd) -> u64 {
    sink.read().unwrap_or(0)
}

fn to(sink: &EventFd) -> RelaySink {
    RelaySink::eventfd(sink, 1).expect("an eventfd")
}

fn from(source: &UnixStream) -> RelaySource {
    RelaySource::readable(source).expect("room for a descriptor")
}

/// Faults in the order they are told.
type Told = Rc<RefCell<Vec<ErrorKind>>>;

fn told(relay: NewRelay) -> (NewRelay, Told) {
    let told = Told::default();
    let inside = told.clone();
    (relay.on_fault(move |fault: Error| inside.borrow_mut().push(fault.kind())), told)
}

fn one_shot(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), sink) = (pair(), eventfd());
    let relay = cx.io.relay(from(&two), to(&sink)).register().expect("room");
    idle_turns(cx);
    assert_eq!((count(&sink), relay.fired()), (0, 0));
    assert!(relay.is_active());
    for _ in 0..3 {
        one.write_all(b"x").expect("room in a socket");
        idle_turns(cx);
    }
    cx.poll_until("it to fire", || relay.fired() == 1);
    assert_eq!(count(&sink), 1);
    assert!(!relay.is_active() && relay.fault().is_none());
    settled(cx, 0);
    Ok(())
}

fn persistent(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, mut two), sink) = (pair(), eventfd());
    let relay = cx.io.relay(from(&two), to(&sink)).persistent().register().expect("room");
    for round in 1..=5 {
        one.write_all(b"x").expect("room in a socket");
        cx.poll_until("it to fire", || relay.fired() == round);
        assert_eq!(count(&sink), 1);
        two.read_exact(&mut [0]).expect("the relay does not read");
        idle_turns(cx);
        assert_eq!(count(&sink), 0);
    }
    relay.unregister();
    settled(cx, 0);
    Ok(())
}

fn readable_before(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), sink) = (pair(), eventfd());
    one.write_all(b"x").expect("room in a socket");
    let relay = cx.io.relay(from(&two), to(&sink)).register().expect("room");
    cx.poll_until("it to fire", || relay.fired() == 1);
    assert_eq!(count(&sink), 1);
    Ok(())
}

fn value(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), sink) = (pair(), eventfd());
    let to = RelaySink::eventfd(&sink, 1 << 40).expect("an eventfd");
    let relay = cx.io.relay(from(&two), to).register().expect("room");
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("it to fire", || relay.fired() == 1);
    assert_eq!(count(&sink), 1 << 40);
    Ok(())
}

fn not_registered(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), sink) = (pair(), eventfd());
    let new = cx.io.relay(from(&two), to(&sink)).persistent();
    one.write_all(b"x").expect("room in a socket");
    idle_turns(cx);
    assert_eq!(count(&sink), 0);
    drop(new);
    settled(cx, 0);
    Ok(())
}

fn to_a_notification(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), sink) = (pair(), Notification::new());
    let inside = sink.clone();
    let thread = asleep(cx, move || inside.wait(0, Some(Duration::from_secs(10))));
    let to = RelaySink::notification(&sink, 1);
    let relay = cx.io.relay(from(&two), to).register().expect("room");
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("a thread", || thread.is_finished());
    assert_eq!(thread.join().expect("no panic").expect("signalled"), 1);
    assert_eq!(relay.fired(), 1);
    Ok(())
}

fn from_a_notification(cx: &Cx<'_>) -> Result<(), Skip> {
    let (source, sink) = (Notification::new(), eventfd());
    let relay = cx.io.relay(RelaySource::notification(&source), to(&sink));
    let relay = relay.persistent().register().expect("room");
    for round in 1..=5 {
        idle_turns(cx);
        assert_eq!(count(&sink), 0);
        source.signal(1);
        cx.poll_until("it to fire", || relay.fired() == round);
        assert_eq!(count(&sink), 1);
    }
    relay.unregister();
    settled(cx, 0);
    assert_eq!(source.waiting(), 0);
    Ok(())
}

fn notification_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let (source, sink) = (Notification::new(), eventfd());
    let relay = cx.io.relay(RelaySource::notification(&source), to(&sink));
    let relay = relay.register().expect("room");
    source.signal_all();
    cx.poll_until("it to fire", || relay.fired() == 1);
    source.signal_all();
    idle_turns(cx);
    assert_eq!((count(&sink), relay.is_active(), source.waiting()), (1, false, 0));
    settled(cx, 0);
    Ok(())
}

fn active_at_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let (source, sink) = (Notification::new(), eventfd());
    let ((mut one, two), other) = (pair(), eventfd());
    let first = cx.io.relay(RelaySource::notification(&source), to(&sink)).register();
    let second = cx.io.relay(from(&two), to(&other)).register();
    let (first, second) = (first.expect("room"), second.expect("room"));
    // Before any poll.
    source.signal(1);
    one.write_all(b"x").expect("room in a socket");
    two.set_nonblocking(true).expect("a socket");
    cx.poll_until("both", || first.fired() == 1 && second.fired() == 1);
    assert_eq!((count(&sink), count(&other)), (1, 1));
    Ok(())
}

fn past_epoch(cx: &Cx<'_>) -> Result<(), Skip> {
    let (source, sink) = (Notification::new(), eventfd());
    let seen = source.epoch();
    source.signal(1);
    let late = cx.io.relay(RelaySource::notification(&source), to(&sink)).register();
    let early = RelaySource::notification_after(&source, seen);
    let early = cx.io.relay(early, to(&sink)).register().expect("room");
    cx.poll_until("it to fire", || early.fired() == 1);
    idle_turns(cx);
    assert_eq!((count(&sink), late.expect("room").fired()), (1, 0));
    Ok(())
}

fn chain(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), middle, last) = (pair(), eventfd(), Notification::new());
    let sink = eventfd();
    let relay = |source, to| cx.io.relay(source, to).register().expect("room");
    let relays: [Relay; 3] = [
        relay(from(&two), to(&middle)),
        relay(
            RelaySource::readable(&middle).expect("room"),
            RelaySink::notification(&last, u32::MAX),
        ),
        relay(RelaySource::notification(&last), to(&sink)),
    ];
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("the last", || relays.iter().all(|relay| relay.fired() == 1));
    assert_eq!((count(&middle), last.epoch(), count(&sink)), (1, 1, 1));
    settled(cx, 0);
    Ok(())
}

fn silent(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), source, sink) = (pair(), Notification::new(), eventfd());
    for turns in [0, 20] {
        let first = cx.io.relay(from(&two), to(&sink)).persistent().register().expect("room");
        let second = cx.io.relay(RelaySource::notification(&source), to(&sink));
        let second = second.persistent().register().expect("room");
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        count(&sink);
        first.unregister();
        second.unregister();
        one.write_all(b"x").expect("room in a socket");
        source.signal_all();
        idle_turns(cx);
        settled(cx, 0);
        assert_eq!((count(&sink), source.waiting()), (0, 0));
    }
    Ok(())
}

fn silent_when_due(cx: &Cx<'_>) -> Result<(), Skip> {
    for _ in 0..10 {
        let ((mut one, two), source, sink) = (pair(), Notification::new(), eventfd());
        let first = cx.io.relay(from(&two), to(&sink)).register().expect("room");
        let second = cx.io.relay(RelaySource::notification(&source), to(&sink));
        let second = second.register().expect("room");
        cx.io.flush().expect("flushing");
        one.write_all(b"x").expect("room in a socket");
        source.signal_all();
        // What is on its way must not arrive any more.
        drop((first, second));
        settled(cx, 0);
        assert_eq!(count(&sink), 0);
    }
    Ok(())
}

fn sensitive(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, two), sink) = (pair(), eventfd());
    let relay = cx.io.relay(from(&two), to(&sink)).persistent().error_sensitive();
    let (relay, told) = told(relay);
    let relay = relay.register().expect("room");
    idle_turns(cx);
    drop(one);
    cx.poll_until("the fault", || !relay.is_active());
    idle_turns(cx);
    assert_eq!(*told.borrow(), [ErrorKind::Disconnected], "told once");
    assert_eq!(relay.fault().map(|fault| fault.kind()), Some(ErrorKind::Disconnected));
    assert_eq!((count(&sink), relay.fired()), (0, 0), "instead of firing");
    settled(cx, 0);
    relay.unregister();
    Ok(())
}

fn insensitive(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, two), sink) = (pair(), eventfd());
    let (relay, told) = told(cx.io.relay(from(&two), to(&sink)));
    let relay = relay.register().expect("room");
    drop(one);
    cx.poll_until("it to fire", || relay.fired() == 1);
    assert_eq!(count(&sink), 1);
    assert!(told.borrow().is_empty() && relay.fault().is_none());
    Ok(())
}

/// The sink refuses: a fault, told once, then silence.
fn refused_by_its_sink(cx: &Cx<'_>, source: RelaySource, fire: impl Fn()) {
    let sink = full_eventfd();
    let (relay, told) = told(cx.io.relay(source, to(&sink)).persistent());
    let relay = relay.register().expect("room");
    idle_turns(cx);
    fire();
    cx.poll_until("the fault", || !relay.is_active());
    assert_eq!(sink.read().expect("it is full"), u64::MAX - 1);
    // There is room now, but it is over.
    fire();
    idle_turns(cx);
    assert_eq!(relay.fault().and_then(|fault| fault.errno()), Some(libc::EAGAIN));
    assert_eq!((told.borrow().len(), relay.fired()), (1, 0));
    settled(cx, 0);
    relay.unregister();
    settled(cx, 0);
}

fn full_sink(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = pair();
    refused_by_its_sink(cx, from(&two), || (&one).write_all(b"x").expect("room in a socket"));
    Ok(())
}

fn full_sink_notified(cx: &Cx<'_>) -> Result<(), Skip> {
    let source = Notification::new();
    refused_by_its_sink(cx, RelaySource::notification(&source), || {
        source.signal_all();
    });
    assert_eq!(source.waiting(), 0);
    Ok(())
}

/// A relay of each kind of source, with their faults.
fn both(io: &Proactor, two: &UnixStream, source: &Notification) -> [(Relay, Told); 2] {
    let sink = eventfd();
    [from(two), RelaySource::notification(source)].map(|source| {
        let (relay, told) = told(io.relay(source, to(&sink)).persistent());
        (relay.register().expect("room"), told)
    })
}

fn cancel_all(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((_one, two), source) = (pair(), Notification::new());
    let relays = both(cx.io, &two, &source);
    idle_turns(cx);
    assert_eq!(cx.io.cancel_all().expect("a live proactor"), 2);
    cx.poll_until("their faults", || relays.iter().all(|(relay, _)| !relay.is_active()));
    for (relay, told) in relays {
        assert_eq!(*told.borrow(), [ErrorKind::Cancelled]);
        relay.unregister();
    }
    settled(cx, 0);
    Ok(())
}

fn proactor_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((_one, two), source) = (pair(), Notification::new());
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let relays = both(&io, &two, &source);
    io.poll(Wait::Now).expect("a poll");
    drop(io);
    for (relay, told) in relays {
        assert_eq!(*told.borrow(), [ErrorKind::ShutDown], "told once");
        assert_eq!(Rc::strong_count(&told), 1, "the callback is gone");
        relay.unregister();
    }
    assert_eq!(source.waiting(), 0);
    Ok(())
}

fn cannot_arm_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let (source, sink) = (Notification::new(), eventfd());
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let (relay, told) = told(io.relay(RelaySource::notification(&source), to(&sink)).persistent());
    let relay = relay.register().expect("room");
    io.poll(Wait::Now).expect("a poll");
    // Its signal is on its way when nothing new is taken any more.
    source.signal_all();
    drop(io);
    assert_eq!(*told.borrow(), [ErrorKind::ShutDown], "told once");
    assert!(!relay.is_active() && relay.fired() <= 1);
    relay.unregister();
    Ok(())
}

fn owned_source(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), sink) = (pair(), eventfd());
    let relay = cx.io.relay(RelaySource::owned(two), to(&sink)).register().expect("room");
    one.write_all(b"x").expect("the relay keeps the other end open");
    cx.poll_until("it to fire", || relay.fired() == 1);
    relay.unregister();
    settled(cx, 0);
    let broken = one.write_all(b"x").expect_err("the other end is closed");
    assert_eq!(broken.kind(), std::io::ErrorKind::BrokenPipe);
    Ok(())
}

fn callers_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), sink) = (pair(), eventfd());
    let relay = cx.io.relay(from(&two), to(&sink)).register().expect("room");
    let kept = sink.as_fd().try_clone_to_owned().expect("room");
    drop((two, sink));
    one.write_all(b"x").expect("the relay keeps the other end open");
    cx.poll_until("it to fire", || relay.fired() == 1);
    let mut bytes = [0; 8];
    std::fs::File::from(kept).read_exact(&mut bytes).expect("it was written to");
    assert_eq!(u64::from_ne_bytes(bytes), 1);
    Ok(())
}

fn no_readiness(cx: &Cx<'_>) -> Result<(), Skip> {
    let file = std::fs::File::open("/proc/self/exe").expect("this program");
    let source = RelaySource::readable(file).expect("room");
    let refused = cx.io.relay(source, to(&eventfd())).register().expect_err("a file");
    assert_eq!((refused.kind(), refused.operation()), (ErrorKind::InvalidArgument, "relay"));
    settled(cx, 0);
    Ok(())
}

fn no_eventfd(_: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two) = pair();
    let refused = RelaySink::eventfd(&one, 1).expect_err("a socket");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    for value in [0, u64::MAX] {
        let refused = RelaySink::eventfd(eventfd(), value).expect_err("no eventfd takes it");
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    }
    Ok(())
}

fn too_many(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = std::time::Instant::now() + Duration::from_secs(60);
    let timers = (0..crate::cx::OPERATIONS).map(|_| cx.io.sleep_until(at).submit().expect("room"));
    let timers: Vec<_> = timers.collect();
    let ((_one, two), source, sink) = (pair(), Notification::new(), eventfd());
    for source in [from(&two), RelaySource::notification(&source)] {
        let refused = cx.io.relay(source, to(&sink)).register().expect_err("full");
        assert_eq!((refused.kind(), refused.operation()), (ErrorKind::Exhausted, "relay"));
    }
    assert_eq!(source.waiting(), 0);
    drop(timers);
    settled(cx, 0);
    Ok(())
}

fn unregistered_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), source, sink) = (pair(), Notification::new(), full_eventfd());
    for from in [from(&two), RelaySource::notification(&source)] {
        let place = Rc::new(RefCell::new(None::<Relay>));
        let inside = place.clone();
        let relay = cx.io.relay(from, to(&sink)).persistent();
        let relay = relay.on_fault(move |_| drop(inside.borrow_mut().take()));
        *place.borrow_mut() = Some(relay.register().expect("room"));
        one.write_all(b"x").expect("room in a socket");
        source.signal_all();
        cx.poll_until("its end", || place.borrow().is_none());
        settled(cx, 0);
    }
    Ok(())
}

fn panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), source, sink) = (pair(), Notification::new(), full_eventfd());
    for from in [from(&two), RelaySource::notification(&source)] {
        let relay = cx.io.relay(from, to(&sink)).persistent();
        let relay = relay.on_fault(|_| panic!("on purpose")).register().expect("room");
        one.write_all(b"x").expect("room in a socket");
        source.signal_all();
        let (mut panics, mut turns) = (0, 0);
        while panics == 0 {
            let wait = Duration::from_millis(1);
            panics += usize::from(catch_unwind(AssertUnwindSafe(|| cx.io.poll(wait))).is_err());
            turns += 1;
            assert!(turns < 10_000, "it never panics");
        }
        assert!(!relay.is_active() && relay.fault().is_some());
        idle_turns(cx);
        settled(cx, 0);
    }
    Ok(())
}

fn no_default_timeout(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((mut one, two), source) = (pair(), Notification::new());
    let options = cx.options.clone().timeout(Duration::from_millis(1));
    let io = Proactor::with(options).expect("a second proactor");
    let relays = both(&io, &two, &source);
    let soon = std::time::Instant::now() + Duration::from_millis(5);
    while std::time::Instant::now() < soon {
        io.poll(Duration::from_millis(1)).expect("a poll");
    }
    assert!(relays.iter().all(|(relay, _)| relay.is_active()));
    one.write_all(b"x").expect("room in a socket");
    source.signal_all();
    let fired = |relays: &[(Relay, Told); 2]| relays.iter().all(|(relay, _)| relay.fired() == 1);
    let limit = soon + Duration::from_secs(10);
    while !fired(&relays) && std::time::Instant::now() < limit {
        io.poll(Duration::from_millis(1)).expect("a poll");
    }
    assert!(fired(&relays));
    Ok(())
}
