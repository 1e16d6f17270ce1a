//! The pipeline: source -> slab slots -> socket -> slab slots -> sink, with a hash on each end.
//!
//! Each end is one proactor on one thread with one slab. A slot holds a piece of the file from its
//! read until both its send and its hash are over (on the other end: from its receive until its
//! write and its hash are over), and nothing copies it in between in this process. Slots are the
//! only bound: whoever is slow holds slots, and the stage before it waits for one.
//!
//! - [`outgoing`]: reads in flight, hashes and sends overlap; one loop, no task per stage.
//! - [`incoming`]: receives, hashes and writes overlap in the same way.
//! - [`source`], [`sink`]: where bytes come from and go to.
//! - [`wire`]: records of the protocol and the handshake over a socket.

pub mod hash;
pub mod incoming;
pub mod outgoing;
pub mod protocol;
pub mod sink;
pub mod source;
pub mod token;
pub mod wire;

use crate::failure::{Doing, Exit, Failure, Result};
use dataplane::{Backend, ErrorKind, Options, Proactor, Registration, ZeroCopy};
use hash::Placement;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use regions::{Lease, LeaseFuture, Slab};
use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How a pipeline is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which backend.
    pub backend: Backend,
    /// Bytes of a slot.
    pub buffer_bytes: usize,
    /// Slots.
    pub buffers: usize,
    /// When sends go without a copy.
    pub zero_copy: ZeroCopy,
    /// Where hashes are computed.
    pub hash_on: Placement,
    /// How long a peer may do nothing.
    pub stall: Duration,
    /// Whether this end shows the progress bar; of two ends in one process one does.
    pub shows_progress: bool,
}

/// One end of a pipeline: a proactor and its slab.
pub struct End {
    /// The loop.
    pub io: Proactor,
    /// The slots.
    pub slab: Slab,
    /// The settings it was made with.
    pub settings: Settings,
    /// What is not as wanted, each with the reason.
    pub fallbacks: Vec<String>,
    _registration: Option<Registration>,
}

impl End {
    /// Makes proactor and slab, and registers the slab. What is refused is a fallback, said in
    /// the report, unless an explicit backend is what was refused.
    pub fn new(name: &str, settings: &Settings) -> Result<End> {
        // A slot is read, sent, received or written by one operation at a time; the rest is for
        // records and timers. Small rings fit in small RLIMIT_MEMLOCKs.
        let operations = (settings.buffers as u32 * 2 + 32).next_power_of_two();
        let options = Options::default()
            .backend(settings.backend)
            .name(name)
            .operations(operations)
            .completions(operations * 4);
        let io = Proactor::with(options).doing(format_args!("{name}: start the loop"))?;
        let builder = Slab::builder(settings.buffers, settings.buffer_bytes).name(name);
        let slab =
            builder.build().map_err(|error| Failure::new(Exit::System, error.to_string()))?;
        let mut fallbacks = Vec::new();
        if let Some(reason) = io.fallback() {
            fallbacks.push(format!("backend {} instead of io_uring: {reason}", io.backend()));
        }
        let registration = match io.register_slab(&slab) {
            Ok(registration) => Some(registration),
            Err(error) => {
                fallbacks.push(format!("{name}: unregistered buffers: {}", one_line(&error)));
                None
            }
        };
        let settings = settings.clone();
        Ok(End { io, slab, settings, fallbacks, _registration: registration })
    }
}

fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

/// A failure of an operation on a connection or file, with the right exit code.
pub fn failed(doing: impl std::fmt::Display, error: &dataplane::Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::Disconnected => Exit::Peer,
        ErrorKind::Unavailable if error.message().starts_with("zero-copy was required") => {
            Exit::Requirement
        }
        _ => Exit::System,
    };
    Failure::new(exit, format!("{doing}: {error}"))
}

/// Leases of a slab for a loop that polls: at once when one is free, else when one comes back.
pub struct Leases {
    slab: Slab,
    waiting: Option<Pin<Box<LeaseFuture>>>,
}

impl Leases {
    /// Leases of `slab`.
    pub fn new(slab: &Slab) -> Leases {
        Leases { slab: slab.clone(), waiting: None }
    }

    /// A lease, or a wake-up when there is one.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Lease> {
        if self.waiting.is_none()
            && let Some(lease) = self.slab.try_lease()
        {
            return Poll::Ready(lease);
        }
        let slab = &self.slab;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(slab.lease_async()));
        let lease = std::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(lease)
    }
}

/// A progress bar on a terminal; nothing elsewhere.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar of `total` bytes, or a spinner when that is unknown; on standard error, and only
    /// when that is a terminal and the end shows one.
    pub fn new(end: &End, total: Option<u64>) -> Bar {
        if !end.settings.shows_progress || !std::io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let bar = ProgressBar::with_draw_target(total, target);
        let template = match total {
            Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{spinner} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar(bar)
    }

    /// More bytes are done.
    pub fn add(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
