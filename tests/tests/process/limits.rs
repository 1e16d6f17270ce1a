//! Queues and tables at their limits: small submission and completion queues, a full table of
//! registered memory, no descriptor left for an accept. Nothing is lost, and errors name the limit.
#![allow(clippy::unwrap_used)]

use crate::child;

use dataplane::operations::{AcceptMany, PollMany, RecvMany};
use dataplane::regions::{Region, Slab};
use dataplane::{
    Backend, Error, ErrorKind, Interest, LocalStream, Options, Proactor, SqPoll, Submission, Wait,
};
use futures_util::StreamExt;
use std::future::IntoFuture;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A ring with these options, or none with the reason.
fn ring(options: Options) -> Option<Proactor> {
    match Proactor::with(options.backend(Backend::IoUring)) {
        Ok(io) => Some(io),
        Err(error) if std::env::var("REQUIRE").is_ok_and(|rows| rows.contains("io_uring")) => {
            panic!("io_uring is required: {error}")
        }
        Err(error) => {
            child::say(&format!("skipped: {error}"));
            None
        }
    }
}

/// Polls until `ready`.
fn until(io: &Proactor, what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !ready() {
        assert!(Instant::now() < deadline, "waited for {what}; in flight: {:?}", io.in_flight());
        io.poll(Instant::now() + Duration::from_millis(5)).unwrap();
    }
}

/// What has come of an accept, a receive and many polls.
struct Seen {
    accepted: usize,
    found: Vec<u8>,
    ready: Vec<bool>,
}

impl Seen {
    /// Takes everything that is there.
    fn take(
        &mut self,
        incoming: &mut LocalStream<AcceptMany>,
        flowing: &mut LocalStream<RecvMany>,
        readiness: &mut [LocalStream<PollMany>],
    ) {
        while let Some(item) = incoming.try_next() {
            drop(item.unwrap());
            self.accepted += 1;
        }
        while let Some(item) = flowing.try_next() {
            self.found.extend_from_slice(&item.unwrap());
        }
        for (stream, ready) in readiness.iter_mut().zip(&mut self.ready) {
            while let Some(item) = stream.try_next() {
                item.unwrap();
                *ready = true;
            }
        }
    }

    /// Whether it is all, the bytes in order.
    fn is(&self, accepted: usize, bytes: &[u8]) -> bool {
        assert!(bytes.starts_with(&self.found), "out of order");
        let is_ready = self.ready.iter().all(|&ready| ready);
        self.accepted == accepted && self.found.len() == bytes.len() && is_ready
    }
}

/// More completions at once than the queue holds: readiness, accepts and data all arrive.
#[test]
fn a_completion_queue_that_overflows_loses_nothing() {
    child::alone(module_path!(), "a_completion_queue_that_overflows_loses_nothing", || {
        let options = Options::default().operations(256).submissions(8).completions(8);
        let Some(io) = ring(options) else { return };
        const COUNT: usize = 100;
        let listener = io.listen("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let mut incoming = listener.incoming().submit().unwrap();
        let pool = io.receive_pool(16, 64).unwrap();
        let (flow, mut source) = UnixStream::pair().unwrap();
        let flow = io.adopt_socket(flow).unwrap();
        let mut flowing = flow.receive_all(&pool).submit().unwrap();
        let ends: Vec<_> = (0..COUNT).map(|_| UnixStream::pair().unwrap()).collect();
        let watched: Vec<_> = ends
            .iter()
            .map(|(near, _)| io.adopt_socket(near.try_clone().unwrap()).unwrap())
            .collect();
        let mut readiness: Vec<_> = watched
            .iter()
            .map(|socket| socket.readiness(Interest::READABLE).submit().unwrap())
            .collect();
        // All are armed; then everything happens while nobody looks.
        for _ in 0..4 {
            io.poll(Wait::Now).unwrap();
        }
        let bytes: Vec<u8> = (0..4000).map(|at| (at * 7 % 251) as u8).collect();
        source.write_all(&bytes).unwrap();
        let clients: Vec<_> = (0..COUNT).map(|_| TcpStream::connect(&to).unwrap()).collect();
        ends.iter().for_each(|(_, far)| (&*far).write_all(&[1]).unwrap());
        io.flush().unwrap();
        let mut seen = Seen { accepted: 0, found: Vec::new(), ready: vec![false; COUNT] };
        until(&io, "everything", || {
            seen.take(&mut incoming, &mut flowing, &mut readiness);
            seen.is(COUNT, &bytes)
        });
        assert!(io.stats().overflows > 0, "8 entries were enough? {:?}", io.stats());
        // What the overflow ended is armed again: it all works once more.
        seen.ready.fill(false);
        for (near, far) in &ends {
            (&*near).read_exact(&mut [0]).unwrap();
            (&*far).write_all(&[2]).unwrap();
        }
        let late = TcpStream::connect(&to).unwrap();
        source.write_all(b"again").unwrap();
        let bytes = [&bytes[..], b"again"].concat();
        until(&io, "everything again", || {
            seen.take(&mut incoming, &mut flowing, &mut readiness);
            seen.is(COUNT + 1, &bytes)
        });
        drop((clients, late));
    });
}

/// Two entries for everything: operations, cancels and re-arms stand in line and arrive in order.
#[test]
fn a_submission_queue_of_two_is_enough() {
    child::alone(module_path!(), "a_submission_queue_of_two_is_enough", || {
        let options = Options::default().operations(64).submissions(2);
        let Some(io) = ring(options) else { return };
        let slab = Slab::new(64, 64).unwrap();
        let (one, mut two) = UnixStream::pair().unwrap();
        let socket = io.adopt_socket(one).unwrap();
        let others: Vec<_> = (0..40)
            .map(|_| {
                let (near, far) = UnixStream::pair().unwrap();
                (io.adopt_socket(near).unwrap(), far)
            })
            .collect();
        for round in 0..20u8 {
            let receives: Vec<Submission<_>> = others
                .iter()
                .map(|(other, _)| other.recv(slab.lease().unwrap()).submit().unwrap())
                .collect();
            let nops: Vec<_> = (0..10).map(|_| io.nop().submit().unwrap()).collect();
            // Every second one is cancelled while it may still stand in line, the rest dropped.
            for receive in receives.iter().step_by(2) {
                receive.cancel().unwrap();
            }
            if round % 2 == 0 {
                io.poll(Wait::Now).unwrap();
            }
            for (at, receive) in receives.into_iter().enumerate() {
                if at % 2 == 0 {
                    let failed = io.block_on(receive).unwrap().unwrap_err();
                    assert_eq!(failed.kind(), ErrorKind::Cancelled);
                }
            }
            nops.into_iter().for_each(|nop| io.block_on(nop).unwrap().unwrap());
            until(&io, "the slots", || slab.available() == 64);
            two.write_all(&[round]).unwrap();
            let receive = socket.recv(slab.lease().unwrap()).into_future();
            assert_eq!(io.block_on(receive).unwrap().unwrap()[..], [round]);
        }
        assert_eq!(io.stats().in_flight, 0);
    });
}

/// The kernel's own thread submits.
#[test]
fn a_polled_submission_queue_works() {
    child::alone(module_path!(), "a_polled_submission_queue_works", || {
        // Wherever the scheduler puts it, and bound to a CPU.
        for cpu in [None, Some(a_cpu())] {
            let sqpoll = SqPoll { idle: Duration::from_millis(2), cpu };
            let Some(io) = ring(Options::default().sqpoll(sqpoll)) else { return };
            polled_submissions(&io);
            assert_eq!(io.shutdown(Duration::from_secs(5)).unwrap(), None);
        }
    });
}

/// The first CPU this process may use.
fn a_cpu() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let first: String = list.trim().chars().take_while(char::is_ascii_digit).collect();
    first.parse().unwrap()
}

fn polled_submissions(io: &Proactor) {
    let slab = Slab::new(2, 4096).unwrap();
    let _registration = io.register_slab(&slab).unwrap();
    let (one, two) = UnixStream::pair().unwrap();
    let (one, two) = (io.adopt_socket(one).unwrap(), io.adopt_socket(two).unwrap());
    for round in 0..50u8 {
        if round % 10 == 9 {
            // Longer than its idle time: it sleeps and must be woken.
            std::thread::sleep(Duration::from_millis(8));
        }
        let filled = io
            .block_on(async {
                let receive = two.recv(slab.lease().unwrap()).submit().unwrap();
                one.send_all(vec![round; 100]).await.unwrap();
                receive.await.unwrap()
            })
            .unwrap();
        assert_eq!(filled[..], [round; 100]);
    }
    let far = Instant::now() + Duration::from_secs(3600);
    let waiting = two.recv(slab.lease().unwrap()).deadline(far).submit().unwrap();
    let handle = io.handle();
    let thread = std::thread::spawn(move || handle.call(|io| io.cancel_all().unwrap()));
    let failed = io.block_on(waiting).unwrap().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    drop(thread.join().unwrap());
}

/// 16,384 entries is what the kernel gives; the error says how many are used, and of how many.
#[test]
fn a_full_table_of_registered_memory_names_its_size() {
    child::alone(module_path!(), "a_full_table_of_registered_memory_names_its_size", || {
        let Some(io) = ring(Options::default()) else { return };
        let mut held = Vec::new();
        let error: Error = loop {
            let region = Region::anonymous(4096).unwrap();
            match io.register(&region) {
                Ok(registration) => held.push(registration),
                Err(error) => break error,
            }
            assert!(held.len() <= 65_536, "no table is that large");
        };
        if error.errno() == Some(libc::ENOMEM) {
            assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
            return child::say(&format!("skipped: {} pages fit, and then {error}", held.len()));
        }
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        let figures = format!("{0} of {0}", held.len());
        assert!(error.message().contains(&figures), "used and maximum: {error}");
        held.pop();
        until(&io, "an entry", || {
            let stats = io.stats();
            (stats.registered, stats.releasing) == (held.len(), 0)
        });
        let region = Region::anonymous(4096).unwrap();
        held.push(io.register(&region).expect("there is room again"));
        drop(held);
        until(&io, "the release", || io.stats().registered + io.stats().releasing == 0);
    });
}

/// The accept fails with the limit's errno, the listener lives, and the connection is accepted
/// once a descriptor is free.
#[test]
fn an_accept_without_descriptors_says_so() {
    child::alone(module_path!(), "an_accept_without_descriptors_says_so", || {
        for backend in Backend::ALL {
            let Ok(io) = Proactor::with(Options::default().backend(backend)) else { continue };
            let listener = io.listen("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap().to_string();
            let mut client = TcpStream::connect(&to).unwrap();
            // The rest of the table is full.
            let mut fillers = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                fillers.push(file);
                assert!(fillers.len() < 100_000);
            }
            let accept = listener.accept().into_future();
            let failed = io.block_on(accept).unwrap().map(drop).unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Exhausted, "{backend}: {failed}");
            assert_eq!(failed.error.errno(), Some(libc::EMFILE));
            drop(fillers);
            let socket = io.block_on(listener.accept().into_future()).unwrap().unwrap();
            client.write_all(b"patient").unwrap();
            let slab = Slab::new(1, 64).unwrap();
            let receive = socket.recv(slab.lease().unwrap()).into_future();
            assert_eq!(io.block_on(receive).unwrap().unwrap()[..], *b"patient", "{backend}");
            drop((socket, listener));
        }
    });
}

#[test]
fn a_stream_of_accepts_survives_a_full_table() {
    child::alone(module_path!(), "a_stream_of_accepts_survives_a_full_table", || {
        child::limit(libc::RLIMIT_NOFILE, 256).unwrap();
        for backend in Backend::ALL {
            let Ok(io) = Proactor::with(Options::default().backend(backend)) else { continue };
            let listener = io.listen("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap().to_string();
            let mut incoming = listener.incoming().submit().unwrap();
            io.poll(Wait::Now).unwrap();
            let _client = TcpStream::connect(&to).unwrap();
            let mut fillers = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                fillers.push(file);
            }
            let first = io.block_on(incoming.next()).unwrap().expect("told");
            let error = first.map(drop).expect_err("no descriptor is left");
            assert_eq!((error.kind(), error.errno()), (ErrorKind::Exhausted, Some(libc::EMFILE)));
            drop(fillers);
            // Whether the stream goes on or is asked for again, the connection is not lost.
            let socket = io
                .block_on(async {
                    match incoming.next().await {
                        Some(item) => item.unwrap(),
                        None => listener.accept().await.unwrap(),
                    }
                })
                .unwrap();
            assert!(socket.peer_addr().is_ok(), "{backend}");
        }
    });
}
