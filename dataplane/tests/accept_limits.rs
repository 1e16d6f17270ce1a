//! Accepting at the limits of the system: connections that were reset while they waited, and a
//! process without a free descriptor number.
//!
//! One test lowers RLIMIT_NOFILE, which is the whole process's, so the two run one after the other.
#![allow(missing_docs, clippy::unwrap_used)]

use dataplane::{Backend, ErrorKind, LocalStream, Options, Proactor, Socket, Wait};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

type Incoming = LocalStream<dataplane::operations::AcceptMany>;

/// What the stream brings next, within some turns.
fn next(io: &Proactor, incoming: &mut Incoming) -> Option<Result<(), dataplane::Error>> {
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        if let Some(item) = incoming.try_next() {
            return Some(item.map(drop));
        }
        io.poll(Wait::Until(Instant::now() + Duration::from_millis(10))).unwrap();
    }
    None
}

fn listening(io: &Proactor) -> (Socket, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    (io.adopt_socket(OwnedFd::from(listener)).unwrap(), to)
}

/// The fault injector gives -ECONNABORTED to one accept in sixteen, so some of these meet it.
fn accepts_go_on_after_connections_that_were_reset(backend: Backend) {
    let io = Proactor::with(Options::default().backend(backend).faults(1)).unwrap();
    for round in 0..200 {
        let (listener, to) = listening(&io);
        let mut incoming = listener.incoming().submit().unwrap();
        let _peer = TcpStream::connect(to).unwrap();
        let got = next(&io, &mut incoming).map(|got| got.map_err(|error| error.to_string()));
        assert_eq!(got, Some(Ok(())), "{backend}, round {round}: one of many");
        let (listener, to) = listening(&io);
        let _peer = TcpStream::connect(to).unwrap();
        let got = io.block_on(async { listener.accept().await }).unwrap();
        let got = got.map(drop).map_err(|failed| failed.error.to_string());
        assert_eq!(got, Ok(()), "{backend}, round {round}: one");
    }
}

/// Runs `f` while the process can open nothing more.
fn without_a_free_number<R>(f: impl FnOnce() -> R) -> R {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let lowest = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, lowest as u64, hard).unwrap();
    let result = f();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}

fn a_stream_of_connections_ends_without_a_free_number(backend: Backend) {
    let io = Proactor::with(Options::default().backend(backend)).unwrap();
    let (listener, to) = listening(&io);
    let _waiting = TcpStream::connect(to).unwrap();
    io.poll(Wait::Now).unwrap();
    let (ended, after, one) = without_a_free_number(|| {
        let mut incoming = listener.incoming().submit().unwrap();
        let ended = next(&io, &mut incoming);
        (ended, incoming.try_next().is_none(), io.block_on(async { listener.accept().await }))
    });
    let error = ended.expect("it ended").unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Exhausted, Some(nix::libc::EMFILE)));
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{backend}: {error}");
    assert!(after, "{backend}: nothing comes after the end");
    let error = one.unwrap().map(drop).unwrap_err().error;
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{backend}: {error}");
    let mut again = listener.incoming().submit().unwrap();
    let got = next(&io, &mut again).map(|got| got.map_err(|error| error.to_string()));
    assert_eq!(got, Some(Ok(())), "{backend}: the connection waited on");
}

#[test]
fn an_accept_survives_reset_connections_and_says_when_numbers_run_out() {
    for backend in Backend::ALL {
        accepts_go_on_after_connections_that_were_reset(backend);
        a_stream_of_connections_ends_without_a_free_number(backend);
    }
}
