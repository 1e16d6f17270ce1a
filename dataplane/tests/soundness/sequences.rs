//! Sequences: what a step refers to while it waits, and what is asked of one that is ending.

use super::{MS, proactor, turns, within};
use bytes::Bytes;
use dataplane::regions::{Slab, Span};
use dataplane::{
    Backend, ErrorKind, Flow, Hosted, Options, Proactor, RunningSequence, Socket, Turn, Wait,
};
use nix::poll::{PollFd, PollFlags, poll};
use std::cell::RefCell;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);
const BACKENDS: [Backend; 3] = [Backend::IoUring, Backend::Epoll, Backend::Poll];

fn pair(io: &Proactor) -> (Socket, UnixStream) {
    let (here, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    (io.adopt_socket(OwnedFd::from(here)).unwrap(), peer)
}

fn is_open(mut peer: &UnixStream) -> bool {
    matches!(peer.read(&mut [0]), Err(error) if error.kind() == IoErrorKind::WouldBlock)
}

/// Nothing is in flight within two seconds.
fn quiet(io: &Proactor) {
    let end = Instant::now() + Duration::from_secs(2);
    while io.stats().in_flight > 0 {
        assert!(Instant::now() < end, "HANG: it does not end\n{:?}", io.in_flight());
        io.poll(Wait::Until(Instant::now() + 10 * MS)).unwrap();
    }
}

/// The sequence ends within two seconds.
fn ended(io: &Proactor, running: &mut RunningSequence) -> Result<(), ErrorKind> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        if let Some(outcome) = running.try_take() {
            return outcome.map(drop).map_err(|failed| failed.kind());
        }
        assert!(Instant::now() < end, "HANG: the sequence does not end\n{:?}", io.in_flight());
        io.poll(Wait::Until(Instant::now() + 10 * MS)).unwrap();
    }
}

#[test]
fn a_step_that_ends_because_of_the_one_before_may_be_cancelled() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let (a, peer) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let receive = a.recv_all(slab.lease().unwrap());
        let running = io.sequence().then(receive).then(io.nop()).submit().unwrap();
        let running = Rc::new(RefCell::new(Some(running)));
        let (own, other) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let dropped = running.clone();
        // Its end comes in the same turn: the second step is over in all but name.
        own.recv(slab.lease().unwrap())
            .on_complete(move |_| drop(dropped.borrow_mut().take()))
            .unwrap();
        io.poll(Wait::Now).unwrap();
        drop(peer);
        drop(other);
        quiet(&io);
        assert!(running.borrow().is_none(), "{backend}");
    }
}

#[test]
fn a_deadline_that_passes_while_a_sequence_ends_is_nothing_special() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let (a, peer) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let receive = a.recv_all(slab.lease().unwrap());
        let sequence = io.sequence().then(receive).then(io.nop()).timeout(5 * MS);
        let mut running = sequence.submit().unwrap();
        let (own, other) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let sleeps = move |_| std::thread::sleep(10 * MS);
        own.recv(slab.lease().unwrap()).on_complete(sleeps).unwrap();
        io.poll(Wait::Now).unwrap();
        drop(peer);
        drop(other);
        assert!(ended(&io, &mut running).is_err(), "{backend}");
        assert_eq!(io.stats().in_flight, 0);
    }
}

#[test]
fn a_long_sequence_is_cancelled_without_a_deep_stack() {
    within(20, "each step of a long sequence asks all those before it", || {
        let options = Options::default().operations(1 << 15).backend(Backend::Epoll);
        let io = Proactor::with(options).unwrap();
        let (a, _peer) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let mut sequence = io.sequence().then(a.recv(slab.lease().unwrap()));
        for _ in 0..(1 << 15) - 1 {
            sequence = sequence.then(io.nop());
        }
        let running = sequence.submit().unwrap();
        io.poll(Wait::Now).unwrap();
        running.cancel().unwrap();
        drop(running);
        quiet(&io);
    });
}

#[test]
fn a_close_whose_turn_never_comes_ends_with_its_sequence() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let (a, _peer) = pair(&io);
        let (b, other) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let steps = io.sequence().then(a.recv(slab.lease().unwrap())).then(b.clone().close());
        let mut running = steps.submit().unwrap();
        io.poll(Wait::Now).unwrap();
        running.cancel().unwrap();
        assert_eq!(ended(&io, &mut running), Err(ErrorKind::Cancelled), "{backend}");
        assert!(is_open(&other), "the close did not run");
        assert_eq!(io.stats().in_flight, 0);
    }
}

#[test]
fn a_close_closes_its_own_descriptor_and_none_that_took_its_place() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let (a, mut peer) = pair(&io);
        let (b, _gone) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let steps = io.sequence().then(a.recv(slab.lease().unwrap())).then(b.clone().close());
        let mut running = steps.submit().unwrap();
        drop(b);
        turns(&io, 5);
        let others: Vec<_> = (0..8).map(|_| pair(&io)).collect();
        peer.write_all(b"go").unwrap();
        assert!(ended(&io, &mut running).is_err(), "{backend}: it was closed before");
        assert!(others.iter().all(|(_, peer)| is_open(peer)), "{backend}: a stranger was closed");
    }
}

#[test]
fn a_chain_submitted_while_the_host_sleeps_wakes_it() {
    for backend in [Backend::IoUring, Backend::Epoll] {
        let io = proactor(backend);
        let hosted = Hosted::new(&io).unwrap();
        while hosted.turn().unwrap() == Turn::Again {}
        let mut running = io.sequence().then(io.nop()).then(io.nop()).submit().unwrap();
        let mut watched = [PollFd::new(hosted.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut watched, 1000u16).unwrap(), 1, "HANG: {backend}");
        assert_eq!(ended(&io, &mut running), Ok(()));
    }
}

#[test]
fn what_a_step_was_made_with_counts_its_timeout_too() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let (a, _peer) = pair(&io);
        let slab = Slab::new(1, 64).unwrap();
        let mut sequence = io.sequence();
        let first = sequence.add(io.nop());
        let socket = a.clone();
        sequence.add_with(first, move |()| {
            Ok(Flow::Run(socket.recv(slab.lease().unwrap()).timeout(5 * MS)))
        });
        let mut running = sequence.submit().unwrap();
        assert_eq!(ended(&io, &mut running), Err(ErrorKind::TimedOut), "{backend}");
    }
}

#[test]
fn a_timer_made_in_a_sequence_ends_with_its_deadline() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let mut sequence = io.sequence();
        let first = sequence.add(io.nop());
        let clone = io.clone();
        sequence.add_with(first, move |()| Ok(Flow::Run(clone.sleep_until(Instant::now() + HOUR))));
        let mut running = sequence.timeout(10 * MS).submit().unwrap();
        assert_eq!(ended(&io, &mut running), Err(ErrorKind::TimedOut), "{backend}");
        assert_eq!(io.stats().in_flight, 0);
    }
}

#[test]
fn a_timer_has_a_timeout_like_any_operation() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let mut sleeping = io.sleep_until(Instant::now() + HOUR).timeout(5 * MS).submit().unwrap();
        let mut short = io.sleep_until(Instant::now() + 5 * MS).timeout(HOUR).submit().unwrap();
        quiet(&io);
        let ended = sleeping.try_take().expect("its timeout passed");
        assert_eq!(ended.map_err(|failed| failed.kind()), Err(ErrorKind::TimedOut), "{backend}");
        short.try_take().expect("it fired").map_err(|failed| failed.error).unwrap();
    }
}

/// Memory whose owner panics when it goes.
struct Bomb(Vec<u8>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the owner of a buffer panics");
    }
}

#[test]
fn a_panic_while_outcomes_are_dropped_leaves_no_step_behind() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let (a, mut peer) = pair(&io);
        peer.write_all(b"something").unwrap();
        let slab = Slab::new(1, 64).unwrap();
        let mut running = io
            .sequence()
            .then(a.recv(slab.lease().unwrap()))
            .then(a.send_all(Span::from(Bytes::from_owner(Bomb(vec![1; 8])))))
            .submit()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(2);
        let outcome = loop {
            if let Some(outcome) = running.try_take() {
                break outcome;
            }
            assert!(Instant::now() < end);
            io.poll(Wait::Now).unwrap();
        };
        let finished = outcome.unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| drop(finished))).is_err());
        assert_eq!(slab.available(), 1, "{backend}: the outcome of the receive is left");
    }
}

#[test]
fn a_proactor_goes_with_chains_makers_and_timers_under_way() {
    for backend in BACKENDS {
        let io = proactor(backend);
        let (a, _peer) = pair(&io);
        let slab = Slab::new(4, 64).unwrap();
        let dropped = Rc::new(());
        let mut sequence = io.sequence();
        sequence.add(a.recv(slab.lease().unwrap()));
        let last = sequence.add(a.send_all(b"x".to_vec()));
        let (held, socket) = (dropped.clone(), a.clone());
        sequence.add_with(last, move |_| {
            let _ = &held;
            Ok(Flow::Run(socket.send_all(b"y".to_vec())))
        });
        let timed = sequence.timeout(HOUR).submit().unwrap();
        let chained = io.sequence().then(io.nop()).then(a.recv(slab.lease().unwrap()));
        let chained = chained.then(io.nop()).submit().unwrap();
        io.poll(Wait::Now).unwrap();
        drop(io);
        drop((timed, chained, a));
        assert_eq!(Rc::strong_count(&dropped), 1, "{backend}: the maker is gone");
        assert_eq!(slab.available(), 4, "{backend}");
    }
}
