//! What a loop costs once it runs: one system call a turn, no allocation, and nothing for
//! connections that are idle. Counted, not timed.
#![allow(clippy::unwrap_used)]

use crate::child;

use crate::child::{allocations, io_uring_enter, mark, names, system_calls};
use dataplane::regions::Slab;
use dataplane::{Backend, Options, Proactor, Socket, Wait};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Rounds before counting: tables have grown and pollers are armed by then.
const WARM_UP: usize = 100;
/// Rounds that are counted.
const ROUNDS: usize = 1000;

/// A proactor, or the reason why this machine has none.
fn proactor(backend: Backend, options: Options) -> Option<Proactor> {
    match Proactor::with(options.backend(backend)) {
        Ok(io) => Some(io),
        Err(error) if std::env::var("REQUIRE").is_ok_and(|rows| rows.contains(backend.name())) => {
            panic!("{backend} is required: {error}")
        }
        Err(error) => {
            child::say(&format!("skipped on {backend}: {error}"));
            None
        }
    }
}

fn nop(io: &Proactor) {
    let mut nop = io.nop().submit().unwrap();
    while nop.try_take().map(|ended| ended.unwrap()).is_none() {
        io.poll(Wait::Forever).unwrap();
    }
}

#[test]
fn a_no_op_loop_makes_one_system_call_a_turn() {
    child::alone(module_path!(), "a_no_op_loop_makes_one_system_call_a_turn", || {
        if proactor(Backend::IoUring, Options::default()).is_none() {
            return;
        }
        let counts = system_calls(|| {
            let io = proactor(Backend::IoUring, Options::default()).unwrap();
            (0..WARM_UP).for_each(|_| nop(&io));
            let before = io.stats().turns;
            mark();
            (0..ROUNDS).for_each(|_| nop(&io));
            mark();
            assert_eq!(io.stats().turns - before, ROUNDS as u64);
        });
        assert_eq!(io_uring_enter(&counts), ROUNDS, "{}", names(&counts));
        assert_eq!(counts.len(), 1, "and nothing else: {}", names(&counts));
    });
}

/// Two ends on one proactor, and the slot that goes back and forth between them.
struct Echo {
    io: Proactor,
    near: Socket,
    far: Socket,
    slab: Slab,
}

impl Echo {
    fn new(io: Proactor) -> Echo {
        let (near, far) = UnixStream::pair().unwrap();
        let (near, far) = (io.adopt_socket(near).unwrap(), io.adopt_socket(far).unwrap());
        Echo { io, near, far, slab: Slab::new(2, 64).unwrap() }
    }

    /// One message there and back, by polling for each result.
    fn round(&self) {
        for (from, to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            let mut receive = to.recv(self.slab.lease().unwrap()).submit().unwrap();
            let mut send = from.send_all(self.slab.lease().unwrap().freeze()).submit().unwrap();
            let (mut sent, mut received) = (None, None);
            while sent.is_none() || received.is_none() {
                self.io.poll(Wait::Forever).unwrap();
                sent = sent.or_else(|| send.try_take());
                received = received.or_else(|| receive.try_take());
            }
            assert_eq!(sent.unwrap().unwrap().bytes, received.unwrap().unwrap().len());
        }
    }
}

#[test]
fn an_echo_loop_makes_one_system_call_a_turn() {
    child::alone(module_path!(), "an_echo_loop_makes_one_system_call_a_turn", || {
        if proactor(Backend::IoUring, Options::default()).is_none() {
            return;
        }
        let (send, receive) = (std::env::temp_dir(), std::process::id());
        let told = send.join(format!("dataplane-turns-{receive}"));
        let counts = system_calls(|| {
            let echo = Echo::new(proactor(Backend::IoUring, Options::default()).unwrap());
            (0..WARM_UP).for_each(|_| echo.round());
            let before = echo.io.stats().turns;
            mark();
            (0..ROUNDS).for_each(|_| echo.round());
            mark();
            let turns = echo.io.stats().turns - before;
            std::fs::write(&told, turns.to_string()).unwrap();
        });
        let turns: usize = std::fs::read_to_string(&told).unwrap().parse().unwrap();
        let _ = std::fs::remove_file(&told);
        assert_eq!(io_uring_enter(&counts), turns, "{}", names(&counts));
        assert_eq!(counts.len(), 1, "and nothing else: {}", names(&counts));
        assert!(turns <= 4 * ROUNDS, "{turns} turns for {ROUNDS} rounds");
    });
}

#[test]
fn the_steady_state_allocates_nothing() {
    child::alone(module_path!(), "the_steady_state_allocates_nothing", || {
        for backend in Backend::ALL {
            let Some(io) = proactor(backend, Options::default()) else { continue };
            let first = allocations();
            let echo = Echo::new(io);
            assert!(allocations() > first, "making things allocates, and is counted");
            let far = Instant::now() + Duration::from_secs(3600);
            let round = || {
                nop(&echo.io);
                echo.round();
                // A timer that is dropped, as under every operation with a timeout.
                drop(echo.io.sleep_until(far).submit().unwrap());
                echo.io.poll(Wait::Now).unwrap();
            };
            (0..WARM_UP).for_each(|_| round());
            let before = allocations();
            (0..ROUNDS).for_each(|_| round());
            let made = allocations() - before;
            assert_eq!(made, 0, "{backend}: {made} allocations in {ROUNDS} rounds");
        }
    });
}

#[test]
fn awaiting_allocates_nothing_either() {
    child::alone(module_path!(), "awaiting_allocates_nothing_either", || {
        for backend in Backend::ALL {
            let Some(io) = proactor(backend, Options::default()) else { continue };
            let echo = Echo::new(io);
            let made = echo.io.block_on(async {
                let mut before = 0;
                for round in 0..WARM_UP + ROUNDS {
                    if round == WARM_UP {
                        before = allocations();
                    }
                    echo.io.nop().await.unwrap();
                    let receive = echo.far.recv(echo.slab.lease().unwrap()).submit().unwrap();
                    let lease = echo.slab.lease().unwrap();
                    echo.near
                        .send_all(lease.freeze())
                        .timeout(Duration::from_secs(9))
                        .await
                        .unwrap();
                    let filled = receive.await.unwrap();
                    let span = filled.freeze();
                    drop(span.try_unfreeze().unwrap());
                }
                allocations() - before
            });
            let made = made.unwrap();
            assert_eq!(made, 0, "{backend}: {made} allocations in {ROUNDS} rounds");
        }
    });
}

/// Runs a task that awaits a no-op to its end, without anybody who joins it.
fn task(io: &Proactor, ended: &Rc<Cell<usize>>) {
    let (nop, done, before) = (io.nop(), ended.clone(), ended.get());
    io.spawn(async move {
        nop.await.unwrap();
        done.set(done.get() + 1);
    })
    .detach();
    while ended.get() == before {
        io.poll(Wait::Forever).unwrap();
    }
}

#[test]
fn a_task_is_one_allocation() {
    child::alone(module_path!(), "a_task_is_one_allocation", || {
        for backend in Backend::ALL {
            let Some(io) = proactor(backend, Options::default()) else { continue };
            let ended = Rc::new(Cell::new(0));
            (0..WARM_UP).for_each(|_| task(&io, &ended));
            let before = allocations();
            (0..ROUNDS).for_each(|_| task(&io, &ended));
            let made = allocations() - before;
            assert_eq!(made, ROUNDS as u64, "{backend}: {made} allocations for {ROUNDS} tasks");
        }
    });
}

#[test]
fn a_task_woken_on_its_own_thread_rings_no_bell() {
    child::alone(module_path!(), "a_task_woken_on_its_own_thread_rings_no_bell", || {
        if proactor(Backend::IoUring, Options::default()).is_none() {
            return;
        }
        let counts = system_calls(|| {
            let io = proactor(Backend::IoUring, Options::default()).unwrap();
            let ended = Rc::new(Cell::new(0));
            (0..WARM_UP).for_each(|_| task(&io, &ended));
            mark();
            (0..ROUNDS).for_each(|_| task(&io, &ended));
            mark();
        });
        assert!(io_uring_enter(&counts) >= ROUNDS, "{}", names(&counts));
        assert_eq!(counts.len(), 1, "and nothing else: {}", names(&counts));
    });
}

/// However often it is asked for while nobody sleeps: no call; to a sleeper: one `write(2)`.
#[test]
fn a_wake_is_at_most_one_write() {
    child::alone(module_path!(), "a_wake_is_at_most_one_write", || {
        for backend in Backend::ALL {
            if proactor(backend, Options::default()).is_none() {
                continue;
            }
            let counts = system_calls(|| {
                let io = Proactor::with(Options::default().backend(backend)).unwrap();
                let handle = io.handle();
                nop(&io);
                mark();
                (0..ROUNDS).for_each(|_| handle.wake());
                mark();
                assert_eq!(io.poll(Wait::Forever).unwrap(), 0, "all of them are one");
                drop(io);
                // The end of the section must be seen to have been counted at all.
                mark();
                std::hint::black_box(std::fs::metadata("/")).unwrap();
                mark();
            });
            let writes = counts.get(&libc::SYS_write).copied().unwrap_or(0);
            let rest = counts.values().sum::<usize>() - writes;
            assert!(writes <= 1, "{backend}: {}", names(&counts));
            assert_eq!(rest, 1, "{backend}: only the last look: {}", names(&counts));
        }
    });
}

/// One connection talks while `idle` others only wait; what the loop asks of the kernel.
fn talk_among(backend: Backend, idle: usize) -> child::Counts {
    system_calls(|| {
        // Half of them at a time, so that both ends of all are never open in one process.
        let (mut near_ends, mut keepers) = (Vec::with_capacity(idle), Vec::new());
        for half in [idle / 2, idle - idle / 2] {
            let pairs = (0..half).map(|_| UnixStream::pair().unwrap());
            let (near, far): (Vec<_>, Vec<_>) = pairs.unzip();
            near_ends.extend(near);
            keepers.push(child::Keeper::of(far));
        }
        let options = Options::default().operations(16_384);
        let io = Proactor::with(options.backend(backend)).unwrap();
        let slab = Slab::new(idle + 1, 64).unwrap();
        let mut waiting = Vec::with_capacity(idle);
        for near in near_ends {
            let socket = io.adopt_socket(near).unwrap();
            let receive = socket.recv(slab.lease().unwrap()).submit().unwrap();
            waiting.push((socket, receive));
        }
        let (near, mut far) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(near).unwrap();
        let mut round = |number: u8| {
            let mut receive = socket.recv(slab.lease().unwrap()).submit().unwrap();
            // It is armed before there is something to read.
            io.poll(Wait::Now).unwrap();
            far.write_all(&[number]).unwrap();
            let filled = loop {
                io.poll(Wait::Forever).unwrap();
                if let Some(ended) = receive.try_take() {
                    break ended.unwrap();
                }
            };
            let mut send = socket.send_all(filled.freeze()).submit().unwrap();
            while send.try_take().is_none() {
                io.poll(Wait::Forever).unwrap();
            }
            let mut back = [0];
            far.read_exact(&mut back).unwrap();
            assert_eq!(back, [number]);
        };
        (0..20).for_each(&mut round);
        mark();
        (0..200).for_each(&mut round);
        mark();
        assert_eq!(io.stats().in_flight as usize, idle, "the others still wait");
        drop((waiting, socket, io));
        drop(keepers);
    })
}

#[test]
fn ten_thousand_idle_connections_cost_no_work() {
    child::alone(module_path!(), "ten_thousand_idle_connections_cost_no_work", || {
        const IDLE: usize = 10_000;
        let (needed, limit) = (IDLE as u64 * 3 / 2 + 100, child::descriptor_limit());
        if limit < needed {
            return child::say(&format!("skipped: RLIMIT_NOFILE is {limit}, {needed} are needed"));
        }
        // poll(2) hands the kernel the whole list each time: that is what it is.
        for backend in [Backend::IoUring, Backend::Epoll] {
            if proactor(backend, Options::default()).is_none() {
                continue;
            }
            let (few, many) = (talk_among(backend, 10), talk_among(backend, IDLE));
            assert_eq!(few, many, "{backend}: {} with 10 idle, {}", names(&few), names(&many));
        }
    });
}
