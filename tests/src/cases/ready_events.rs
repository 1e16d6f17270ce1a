//! Registered descriptors: tokens, events of a poll, level and edge, wakes and ends.

use super::net::settled;
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Interest, Proactor, Readiness, ReadyEvent, Token, Trigger, Wait};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "ready_events/tokens_tell_who", needs: &[], run: tokens_tell_who },
    Case { name: "ready_events/level_repeats", needs: &[], run: level_repeats },
    Case { name: "ready_events/level_ends_when_read", needs: &[], run: level_ends_when_read },
    Case { name: "ready_events/edge_does_not_repeat", needs: &[], run: edge_does_not_repeat },
    Case { name: "ready_events/edges_are_merged", needs: &[], run: edges_are_merged },
    Case { name: "ready_events/timeout", needs: &[], run: timeout },
    Case { name: "ready_events/woken_from_another_thread", needs: &[], run: woken },
    Case { name: "ready_events/reregistered", needs: &[], run: reregistered },
    Case { name: "ready_events/reregister_reports_anew", needs: &[], run: reports_anew },
    Case { name: "ready_events/reregister_refused_changes_nothing", needs: &[], run: unchanged },
    Case { name: "ready_events/deregistered", needs: &[], run: deregistered },
    Case { name: "ready_events/deregistered_with_an_event_due", needs: &[], run: event_due },
    Case { name: "ready_events/a_stale_token", needs: &[], run: a_stale_token },
    Case { name: "ready_events/one_descriptor_twice", needs: &[], run: one_descriptor_twice },
    Case { name: "ready_events/callers_descriptor_closed", needs: &[], run: callers_closed },
    Case { name: "ready_events/hang_up_with_bytes_left", needs: &[], run: hang_up },
    Case { name: "ready_events/hang_up_whatever_the_interest", needs: &[], run: any_interest },
    Case { name: "ready_events/files_are_refused", needs: &[], run: files_are_refused },
    Case { name: "ready_events/too_many", needs: &[], run: too_many },
    Case { name: "ready_events/a_fault_is_an_event", needs: &[], run: a_fault },
    Case { name: "ready_events/re_registered_after_a_fault", needs: &[], run: after_a_fault },
    Case { name: "ready_events/many", needs: &[], run: many },
    Case { name: "ready_events/beside_other_operations", needs: &[], run: beside_operations },
    Case { name: "ready_events/dropped", needs: &[], run: dropped },
    Case { name: "ready_events/after_the_proactor", needs: &[], run: after_the_proactor },
];

const READ: Interest = Interest::READABLE;
const WRITE: Interest = Interest::WRITABLE;

fn pair() -> (UnixStream, UnixStream) {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    two.set_nonblocking(true).expect("a socket");
    (one, two)
}

/// Polls until there are events; an empty poll is no end.
fn events(readiness: &Readiness) -> Vec<ReadyEvent> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut events = Vec::new();
    while readiness.poll(&mut events, Wait::Until(deadline)).expect("polling") == 0 {
        assert!(Instant::now() < deadline, "no event in 10 s");
    }
    events
}

/// Polls where nothing may be reported.
fn nothing(readiness: &Readiness) {
    let mut events = Vec::new();
    for _ in 0..10 {
        readiness.poll(&mut events, Wait::Now).expect("polling");
        assert_eq!(events, []);
    }
}

fn tokens_tell_who(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut a, a2) = pair();
    let (mut b, b2) = pair();
    let first = readiness.register(&a2, READ, Trigger::Edge).expect("room");
    let second = readiness.register(&b2, READ, Trigger::Edge).expect("room");
    assert_ne!(first, second);
    nothing(&readiness);
    b.write_all(b"x").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token: second, ready: READ }]);
    a.write_all(b"x").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token: first, ready: READ }]);
    Ok(())
}

fn level_repeats(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    one.write_all(b"x").expect("room in a socket");
    for _ in 0..5 {
        assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
    }
    Ok(())
}

fn level_ends_when_read(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, mut two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    for _ in 0..3 {
        one.write_all(b"xy").expect("room in a socket");
        assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
        assert_eq!(two.read(&mut [0; 1]).expect("the first"), 1);
        assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }], "one is left");
        assert_eq!(two.read(&mut [0; 8]).expect("the second"), 1);
        nothing(&readiness);
    }
    Ok(())
}

fn edge_does_not_repeat(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Edge).expect("room");
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
    nothing(&readiness);
    one.write_all(b"y").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }], "something new");
    Ok(())
}

fn edges_are_merged(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ | WRITE, Trigger::Edge).expect("room");
    // The loop runs without anybody taking events.
    for _ in 0..5 {
        one.write_all(b"x").expect("room in a socket");
        cx.io.poll(Duration::from_millis(1)).expect("polling");
    }
    let found = events(&readiness);
    assert_eq!(found, [ReadyEvent { token, ready: READ | WRITE }]);
    nothing(&readiness);
    Ok(())
}

fn timeout(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    readiness.register(&two, READ, Trigger::Level).expect("room");
    let until = Instant::now() + Duration::from_millis(5);
    let mut events = vec![];
    while Instant::now() < until {
        assert_eq!(readiness.poll(&mut events, Wait::Until(until)).expect("polling"), 0);
    }
    assert_eq!(readiness.poll(&mut events, Duration::ZERO).expect("polling"), 0);
    Ok(())
}

fn woken(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    readiness.register(&two, READ, Trigger::Level).expect("room");
    let handle = readiness.handle();
    let thread = thread::spawn(move || handle.wake());
    // Without the wake this would be for ever.
    readiness.poll(&mut Vec::new(), Wait::Forever).expect("polling");
    thread.join().expect("waking");
    Ok(())
}

fn reregistered(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    nothing(&readiness);
    readiness.reregister(token, WRITE, Trigger::Level).expect("room");
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: WRITE }], "only what is asked");
    readiness.reregister(token, READ, Trigger::Edge).expect("room");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
    nothing(&readiness);
    Ok(())
}

fn reports_anew(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Edge).expect("room");
    one.write_all(b"x").expect("room in a socket");
    for _ in 0..3 {
        assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
        nothing(&readiness);
        readiness.reregister(token, READ, Trigger::Edge).expect("room");
    }
    Ok(())
}

fn unchanged(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Edge).expect("room");
    let refused = readiness.reregister(token, Interest::default(), Trigger::Edge);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::InvalidArgument));
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
    Ok(())
}

fn deregistered(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    nothing(&readiness);
    readiness.deregister(token).expect("it is there");
    one.write_all(b"x").expect("room in a socket");
    nothing(&readiness);
    settled(cx, 0);
    Ok(())
}

fn event_due(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    one.write_all(b"x").expect("room in a socket");
    for _ in 0..5 {
        cx.io.poll(Duration::from_millis(1)).expect("polling");
    }
    readiness.deregister(token).expect("it is there");
    let again = readiness.register(&two, READ, Trigger::Level).expect("room");
    assert_eq!(events(&readiness), [ReadyEvent { token: again, ready: READ }], "not the old one");
    Ok(())
}

fn a_stale_token(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    readiness.deregister(token).expect("it is there");
    let again = readiness.register(&two, READ, Trigger::Level).expect("room");
    assert_ne!(token, again, "a token is given out once");
    let kind = |done: Result<(), dataplane::Error>| done.map_err(|error| error.kind());
    assert_eq!(kind(readiness.deregister(token)), Err(ErrorKind::NotFound));
    assert_eq!(kind(readiness.reregister(token, READ, Trigger::Edge)), Err(ErrorKind::NotFound));
    assert!(readiness.fault(token).is_none());
    Ok(())
}

fn one_descriptor_twice(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let reads = readiness.register(&two, READ, Trigger::Level).expect("room");
    let writes = readiness.register(&two, WRITE, Trigger::Level).expect("room");
    one.write_all(b"x").expect("room in a socket");
    let mut seen: Vec<(Token, Interest)> = Vec::new();
    while seen.len() < 2 {
        for event in events(&readiness) {
            if !seen.contains(&(event.token, event.ready)) {
                seen.push((event.token, event.ready));
            }
        }
    }
    seen.sort_by_key(|(token, _)| *token);
    assert_eq!(seen, [(reads, READ), (writes, WRITE)]);
    Ok(())
}

fn callers_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    drop(two);
    let (mut stranger, _kept) = pair();
    stranger.write_all(b"x").expect("room in a socket");
    nothing(&readiness);
    one.write_all(b"x").expect("the registration keeps the other end open");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
    Ok(())
}

fn hang_up(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, mut two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    one.write_all(b"last words").expect("room in a socket");
    drop(one);
    let found = events(&readiness);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].token, token);
    assert!(found[0].ready.contains(READ), "the bytes with the hang-up");
    let mut bytes = Vec::new();
    two.read_to_end(&mut bytes).expect("what was left, and the end");
    assert_eq!(bytes, b"last words");
    assert!(events(&readiness)[0].ready.contains(Interest::HANG_UP), "a level that stays");
    Ok(())
}

fn any_interest(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (one, two) = pair();
    let token = readiness.register(&two, Interest::PRIORITY, Trigger::Level).expect("room");
    nothing(&readiness);
    drop(one);
    let found = events(&readiness);
    assert_eq!(found[0].token, token);
    assert!(found[0].ready.failed());
    Ok(())
}

fn files_are_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let memfd = memfd_create("case", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let refused = readiness.register(&memfd, READ, Trigger::Level);
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::InvalidArgument));
    nothing(&readiness);
    settled(cx, 0);
    Ok(())
}

fn too_many(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let mut tokens = Vec::new();
    let refused = loop {
        match readiness.register(&two, READ, Trigger::Level) {
            Ok(token) => tokens.push(token),
            Err(error) => break error,
        }
    };
    assert_eq!((refused.kind(), tokens.len()), (ErrorKind::Exhausted, 64));
    for token in tokens {
        readiness.deregister(token).expect("it is there");
    }
    settled(cx, 0);
    Ok(())
}

fn a_fault(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    nothing(&readiness);
    cx.io.cancel_all().expect("the proactor is here");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: Interest::ERROR }]);
    let fault = readiness.fault(token).map(|fault| fault.kind());
    cx.note(format!("{fault:?}"));
    assert_eq!(fault, Some(ErrorKind::Cancelled));
    nothing(&readiness);
    readiness.deregister(token).expect("it is there");
    settled(cx, 0);
    Ok(())
}

fn after_a_fault(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    nothing(&readiness);
    cx.io.cancel_all().expect("the proactor is here");
    assert_eq!(events(&readiness).len(), 1);
    readiness.reregister(token, READ, Trigger::Level).expect("room");
    assert!(readiness.fault(token).is_none());
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
    Ok(())
}

fn many(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let mut ends: Vec<_> = (0..40).map(|_| pair()).collect();
    let tokens: Vec<_> = ends
        .iter()
        .map(|(_, two)| readiness.register(two, READ, Trigger::Level).expect("room"))
        .collect();
    for round in 0..3 {
        let chosen: Vec<usize> = (0..40).filter(|i| i % 3 == round).collect();
        for i in &chosen {
            ends[*i].0.write_all(b"x").expect("room in a socket");
        }
        let mut seen: Vec<Token> = Vec::new();
        while seen.len() < chosen.len() {
            for event in events(&readiness) {
                if !seen.contains(&event.token) {
                    seen.push(event.token);
                }
            }
        }
        seen.sort();
        assert_eq!(seen, chosen.iter().map(|i| tokens[*i]).collect::<Vec<_>>());
        for i in &chosen {
            assert_eq!(ends[*i].1.read(&mut [0; 8]).expect("what was reported"), 1);
        }
        nothing(&readiness);
    }
    Ok(())
}

fn beside_operations(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    let mut nop = cx.io.nop().submit().expect("room");
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(events(&readiness), [ReadyEvent { token, ready: READ }]);
    cx.poll_until("the no-op", || nop.try_take().is_some());
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    for _ in 0..10 {
        readiness.register(&two, READ, Trigger::Level).expect("room");
    }
    drop(readiness);
    settled(cx, 0);
    Ok(())
}

fn after_the_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let readiness = Readiness::new(&io);
    let (_one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Level).expect("room");
    io.shutdown(Wait::Now).expect("only a watch is in flight");
    let polled = readiness.poll(&mut Vec::new(), Wait::Now).map_err(|error| error.kind());
    assert_eq!(polled, Err(ErrorKind::ShutDown));
    assert_eq!(readiness.fault(token).map(|fault| fault.kind()), Some(ErrorKind::ShutDown));
    let refused = readiness.register(&two, READ, Trigger::Level).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ShutDown));
    readiness.deregister(token).expect("it is there");
    Ok(())
}
