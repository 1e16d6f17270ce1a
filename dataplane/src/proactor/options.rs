//! How a proactor is set up.

use crate::capability::Capabilities;
use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Which backend carries the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Backend {
    /// io_uring where the kernel allows it, else epoll; [`crate::Proactor::fallback`] says why.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// Readiness by `epoll(7)`.
    Epoll,
    /// Readiness by `poll(2)`.
    Poll,
}

impl Backend {
    /// The backends there are, without `Auto`: what tools, tests and benches iterate.
    pub const ALL: [Backend; 3] = [Backend::IoUring, Backend::Epoll, Backend::Poll];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::IoUring => "io_uring",
            Backend::Epoll => "epoll",
            Backend::Poll => "poll",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = String;
    fn from_str(name: &str) -> Result<Backend, String> {
        match name {
            "auto" => Ok(Backend::Auto),
            "io_uring" | "uring" => Ok(Backend::IoUring),
            "epoll" => Ok(Backend::Epoll),
            "poll" => Ok(Backend::Poll),
            other => Err(format!("no backend `{other}`: use auto, io_uring, epoll or poll")),
        }
    }
}

/// A kernel thread that submits for us (IORING_SETUP_SQPOLL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqPoll {
    /// How long it spins before it sleeps; at least a millisecond (zero would mean one second).
    pub idle: Duration,
    /// The CPU it runs on.
    pub cpu: Option<u32>,
}

/// Options of a proactor. Plain data; `Default` is what most programs want.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which backend. Default: auto.
    pub backend: Backend,
    /// Shown in dumps and thread names. Default: "proactor".
    pub name: String,
    /// Most operations in flight at once, rounded up to a power of two; the bound counts what the
    /// kernel has, not results waiting for their future. Default 1024, at most 32768.
    ///
    /// At the bound a submit on the loop's thread is refused (Exhausted, everything handed back),
    /// and submissions from other threads stand in the inbox until something ends. So operations
    /// that can only end by others behind them (every receive in flight waits for a send that has
    /// no room) stand still for ever, unless one of them has a deadline
    /// ([`Request::timeout`](crate::Request::timeout), [`Options::timeout`]): its end makes room.
    /// Keep the bound above what may wait for one another.
    pub operations: u32,
    /// Completion-queue entries. Default: four times `operations`, at least 4096.
    pub completions: Option<u32>,
    /// Submission-queue entries; what does not fit waits in order. Default: `operations`.
    pub submissions: Option<u32>,
    /// What may be used of what was detected: effective = detected & allowed. Default: all.
    pub allowed: Capabilities,
    /// SQPOLL instead of a deferring ring. Default: none.
    pub sqpoll: Option<SqPoll>,
    /// A second ring for direct reads and writes, polled for completions (IORING_SETUP_IOPOLL):
    /// lower latency for a core that does not sleep while one is in flight. Where a device cannot
    /// be polled the ordinary ring takes over, which [`crate::Stats::unpolled`] counts. Only on
    /// io_uring. Default: off.
    pub iopoll: bool,
    /// A deadline for every operation that names none. Default: none.
    pub timeout: Option<Duration>,
    /// How long shutting down may take. Default: one second.
    pub shutdown: Duration,
    /// Foreign submissions that may stand in the inbox. Default 4096.
    pub inbox: usize,
    /// Messages that may wait for the handler (16 bytes each). Default 1024.
    pub messages: usize,
    /// Most descriptors (sockets, files) at once. Default 65536.
    pub descriptors: usize,
    /// Helper threads at most; zero makes what needs them Unavailable. Default 4.
    pub helpers: usize,
    /// Undelivered results of one multishot operation before it is paused. Default 64.
    pub undelivered: usize,
    /// Longest that a poll looks for something to do before it lets its thread sleep; adapts
    /// downwards while that finds nothing. For a core that has nothing else to do, and answers, or
    /// work from other threads, that come within microseconds; the benchmark `handoff` looks for
    /// 20 µs. At most a second. Default: zero, it never looks.
    pub spin: Duration,
    /// CPU to pin the polling thread to when the proactor is made. Default: none.
    pub cpu: Option<u32>,
    /// Seed of the fault injector, for tests. Default: none.
    #[doc(hidden)]
    pub faults: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            backend: Backend::Auto,
            name: "proactor".into(),
            operations: 1024,
            completions: None,
            submissions: None,
            allowed: Capabilities::all(),
            sqpoll: None,
            iopoll: false,
            timeout: None,
            shutdown: Duration::from_secs(1),
            inbox: 4096,
            messages: 1024,
            descriptors: 65536,
            helpers: 4,
            undelivered: 64,
            spin: Duration::ZERO,
            cpu: None,
            faults: None,
        }
    }
}

/// Largest value of [`Options::operations`]: the ring size the kernel allows.
pub(crate) const MAX_OPERATIONS: u32 = 32768;

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $ty:ty => $value:expr;)*) => {
        impl Options {
            $($(#[$doc])* pub fn $name(mut self, $name: $ty) -> Options {
                self.$name = $value;
                self
            })*
        }
    };
}

impl Options {
    /// Refuses what no proactor can be made with.
    pub(crate) fn check(&self, name: &'static str) -> Result<()> {
        let invalid = |message: String| Err(Error::new(name, ErrorKind::InvalidArgument, message));
        if self.operations == 0 || self.operations > MAX_OPERATIONS {
            return invalid(format!("operations must be 1 to {MAX_OPERATIONS}"));
        }
        if self.inbox == 0 || self.inbox > 1 << 20 {
            return invalid("inbox must be 1 to 1048576".into());
        }
        if self.messages == 0 || self.messages > 1 << 20 {
            return invalid("messages must be 1 to 1048576".into());
        }
        if self.descriptors == 0 || self.descriptors > 1 << 20 {
            return invalid("descriptors must be 1 to 1048576".into());
        }
        if self.undelivered == 0 {
            return invalid("undelivered must be at least 1".into());
        }
        if self.helpers > 1024 {
            return invalid("helpers must be 0 to 1024".into());
        }
        if self.sqpoll.is_some_and(|sqpoll| sqpoll.idle < Duration::from_millis(1)) {
            return invalid("the SQPOLL idle time must be at least 1 ms (0 would mean 1 s)".into());
        }
        if self.spin > Duration::from_secs(1) {
            return invalid("spin must be at most a second; the loop sleeps after it".into());
        }
        Ok(())
    }
}

setters! {
    /// Sets [`Options::backend`].
    backend: Backend => backend;
    /// Sets [`Options::name`].
    name: &str => name.to_owned();
    /// Sets [`Options::operations`].
    operations: u32 => operations;
    /// Sets [`Options::completions`].
    completions: u32 => Some(completions);
    /// Sets [`Options::submissions`].
    submissions: u32 => Some(submissions);
    /// Sets [`Options::allowed`].
    allowed: Capabilities => allowed;
    /// Sets [`Options::sqpoll`].
    sqpoll: SqPoll => Some(sqpoll);
    /// Sets [`Options::iopoll`].
    iopoll: bool => iopoll;
    /// Sets [`Options::timeout`].
    timeout: Duration => Some(timeout);
    /// Sets [`Options::shutdown`].
    shutdown: Duration => shutdown;
    /// Sets [`Options::inbox`].
    inbox: usize => inbox;
    /// Sets [`Options::messages`].
    messages: usize => messages;
    /// Sets [`Options::descriptors`].
    descriptors: usize => descriptors;
    /// Sets [`Options::helpers`].
    helpers: usize => helpers;
    /// Sets [`Options::undelivered`].
    undelivered: usize => undelivered;
    /// Sets [`Options::spin`].
    spin: Duration => spin;
    /// Sets [`Options::cpu`].
    cpu: u32 => Some(cpu);
    /// Sets the fault injector's seed.
    #[doc(hidden)]
    faults: u64 => Some(faults);
}
