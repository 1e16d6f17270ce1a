//! Moving bytes from one socket to another on one proactor, and looking at what arrived.
//!
//! Every operation has a deadline, so that a system that loses something is told of, not waited
//! for.

use super::remedies;
use dataplane::diagnose::UringReport;
use dataplane::{Error, Failed, Filled, Options, Proactor, Sent, Socket};
use nix::errno::Errno;
use regions::{Lease, RegionError, Slab};
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What any single operation of a check may take: far more than a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why a check proves nothing.
#[derive(Debug)]
pub struct Trouble {
    pub message: String,
    pub errno: Option<i32>,
}

impl Trouble {
    /// A system call of a check's own failed.
    pub fn system(what: &'static str) -> impl Fn(io::Error) -> Trouble {
        move |error| Trouble { message: format!("{what}: {error}"), errno: error.raw_os_error() }
    }

    /// The wrong thing happened, without an error.
    pub fn wrong(message: impl Into<String>) -> Trouble {
        Trouble { message: message.into(), errno: None }
    }

    /// Whether memory that may be pinned, or memory as such, ran out: ENOMEM and ENOBUFS are what
    /// pinning past RLIMIT_MEMLOCK gives.
    pub fn is_memory(&self) -> bool {
        matches!(self.errno.map(Errno::from_raw), Some(Errno::ENOMEM | Errno::ENOBUFS))
    }

    /// What would help: more of what ran out, or what the check knows.
    pub fn remedy<'a>(&self, otherwise: &'a str) -> &'a str {
        match self.errno.map(Errno::from_raw) {
            _ if self.is_memory() => remedies::MEMLOCK,
            Some(Errno::EMFILE | Errno::ENFILE) => remedies::NOFILE,
            _ => otherwise,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble { message: error.to_string(), errno: error.errno() }
    }
}

impl<O> From<Failed<O>> for Trouble {
    fn from(failed: Failed<O>) -> Trouble {
        failed.into_error().into()
    }
}

impl From<RegionError> for Trouble {
    fn from(error: RegionError) -> Trouble {
        Error::from(error).into()
    }
}

/// What an exchange showed.
pub struct Exchanged {
    pub sent: Sent,
    pub received: Filled,
}

/// A proactor for checks, so small that its queues take next to nothing of RLIMIT_MEMLOCK, which
/// newer kernels charge for them.
pub fn options() -> Options {
    Options::default().name("doctor").operations(8).completions(16).descriptors(64)
}

/// A proactor; where io_uring works and this one got none, tried again for a moment: the share that
/// an earlier ring had of RLIMIT_MEMLOCK comes back some time after its end.
pub fn proactor(options: Options, uring: &UringReport) -> dataplane::Result<Proactor> {
    const TRIES: u32 = 10;
    for _ in 1..TRIES {
        let made = Proactor::with(options.clone());
        let is_short = made.as_ref().map_or(true, |io| io.fallback().is_some());
        if !is_short || uring.unavailable.is_some() {
            return made;
        }
        drop(made);
        std::thread::sleep(Duration::from_millis(20));
    }
    Proactor::with(options)
}

/// Runs a check's future on its proactor.
pub fn run<T>(
    io: &Proactor,
    check: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    io.block_on(check)?
}

/// The byte at `at` of what checks move: never zero, never its neighbour's.
pub fn pattern(at: usize) -> u8 {
    (at % 251) as u8 + 1
}

/// Whether bytes are those of the pattern.
pub fn is_intact(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, &byte)| byte == pattern(at))
}

/// A slot full of the pattern.
pub fn filled_slot(slab: &Slab) -> Result<Lease, Trouble> {
    let mut lease = slab.lease()?;
    for (at, byte) in lease.iter_mut().enumerate() {
        *byte = pattern(at);
    }
    Ok(lease)
}

/// Sends one slot of the slab from `near` to `far` and compares what arrives. Takes two slots.
pub async fn exchange(near: &Socket, far: &Socket, slab: &Slab) -> Result<Exchanged, Trouble> {
    let span = filled_slot(slab)?.freeze();
    let mut room = slab.lease()?;
    room.fill(0);
    let sending = near.send_all(span).timeout(PATIENCE).submit()?;
    let received = far.recv_all(room).timeout(PATIENCE).await?;
    let sent = sending.await?;
    if received.len() != slab.slot_bytes() || !is_intact(&received) {
        return Err(Trouble::wrong("other bytes arrived than were sent"));
    }
    Ok(Exchanged { sent, received })
}

/// A connected pair of Unix sockets: there even where no network is.
pub fn unix_pair(io: &Proactor) -> Result<(Socket, Socket), Trouble> {
    let (near, far) = UnixStream::pair().map_err(Trouble::system("socketpair"))?;
    Ok((io.adopt_socket(near)?, io.adopt_socket(far)?))
}

/// A connected pair of TCP sockets over loopback.
pub async fn tcp_pair(io: &Proactor) -> Result<(Socket, Socket), Trouble> {
    let listener = io.listen("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let accepting = listener.accept().timeout(PATIENCE).submit()?;
    let near = io.connect(address).await?;
    let far = accepting.await?;
    Ok((near, far))
}
