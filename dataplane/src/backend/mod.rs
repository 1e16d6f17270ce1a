//! Backends: what carries operations to the kernel and results back.
//!
//! The contract, in full:
//!
//! - A backend belongs to one thread, the poll owner, and is called only from there.
//! - [`push`](Backend::push) *stages* an operation: nothing reaches the kernel before the next
//!   [`wait`](Backend::wait) or [`flush`](Backend::flush). It always takes it; what does not fit
//!   a kernel queue waits in a backlog of the backend's own, in order.
//! - Every pushed operation gives events until one without [`MORE`]: exactly one for a one-shot
//!   operation, except that a zero-copy send gives its result with `MORE` and later one with
//!   [`NOTIFICATION`]. Results are kernel results (a count or a negative errno), flags are
//!   completion flags of io_uring on every backend, so what follows is written once.
//! - The operation, its buffers and its scratch stay where they are until that last event; the
//!   descriptor number stays open. The backend keeps no reference to them between calls.
//! - [`cancel`](Backend::cancel) asks; the operation's own last event answers. It is staged in
//!   order: it never overtakes the push it is about.
//! - `wait` makes at most one system call that can sleep, submits everything staged with it, and
//!   returns a bounded number of events. EINTR, EAGAIN and EBUSY are never results of `wait`.
//! - Memory registration is emulated where the kernel has none: same calls, same limits reported.
//!   After `unregister_memory` the range may be reused only when an event of kind
//!   [`Kind::Released`] names it.
//! - Dropping a backend with operations in flight is not allowed; the engine drains or leaks it.

pub(crate) mod faulty;
pub(crate) mod ready;
pub(crate) mod uring;

use crate::capability::{Capabilities, Capability};
use crate::engine::table::Table;
use crate::options::{Backend as Choice, Options};
use crate::remote::inbox::Shared;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::RawFd;
use std::sync::Arc;

/// More events of the same push will come (IORING_CQE_F_MORE).
pub(crate) const MORE: u32 = 1 << 1;
/// A buffer was selected; its number is in the upper 16 bits (IORING_CQE_F_BUFFER).
pub(crate) const BUFFER: u32 = 1 << 0;
/// The kernel is done with the memory of a zero-copy send (IORING_CQE_F_NOTIF).
pub(crate) const NOTIFICATION: u32 = 1 << 3;
/// In a notification's result: the kernel copied (IORING_NOTIF_USAGE_ZC_COPIED).
pub(crate) const COPIED: i32 = i32::MIN;

/// Most events one `wait` returns.
pub(crate) const EVENTS_PER_TURN: usize = 512;

/// What an event is about: the top eight bits of a 64-bit user_data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// An operation; the rest is its slot and generation.
    Operation = 0,
    /// The backend's own business; never leaves it.
    Internal = 1,
    /// A registered memory entry was released; the rest is its index.
    Released = 2,
}

/// The identity of an operation in flight inside its proactor: generation and slot index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OpId(pub(crate) u64);

impl OpId {
    pub(crate) fn new(index: u32, generation: u32) -> OpId {
        OpId(u64::from(generation & 0x00ff_ffff) << 32 | u64::from(index))
    }

    pub(crate) fn index(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & 0x00ff_ffff
    }
}

/// user_data of something that is not an operation.
pub(crate) fn tagged(kind: Kind, value: u64) -> u64 {
    (kind as u64) << 56 | value & 0x00ff_ffff_ffff_ffff
}

/// One completion, in io_uring's terms on every backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Event {
    pub(crate) fn kind(&self) -> u8 {
        (self.user_data >> 56) as u8
    }

    pub(crate) fn op(&self) -> OpId {
        OpId(self.user_data)
    }

    pub(crate) fn of(id: OpId, result: i32, flags: u32) -> Event {
        Event { user_data: id.0, result, flags }
    }
}

/// How long a wait may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Look, do not sleep.
    Now,
    /// Until something happens.
    Forever,
    /// Until CLOCK_MONOTONIC reaches this many nanoseconds.
    At(u64),
}

/// Why a wait could not be done at all.
#[derive(Debug)]
pub(crate) enum Fatal {
    /// The kernel dropped completions (EBADR).
    Dropped,
    /// The wait itself failed.
    Failed(i32),
}

/// A buffer for a kernel-held pool: address, length, number.
pub(crate) struct Provided {
    pub(crate) at: *mut u8,
    pub(crate) bytes: u32,
    pub(crate) number: u16,
}

/// See the head of this file.
pub(crate) trait Backend {
    /// Which one it is.
    fn choice(&self) -> Choice;

    /// What it can do, after the mask.
    fn capabilities(&self) -> Capabilities;

    /// Stages the operation in slot `id`, resolved through `table`.
    fn push(&mut self, id: OpId, table: &mut Table);

    /// The most operations that one chain of the kernel's may have now; zero where there is none.
    fn longest_chain(&self) -> usize {
        0
    }

    /// Stages operations of which each starts when the one before it succeeded, as one chain of
    /// the kernel's. False: it cannot be done, or there is no room for all, and nothing was staged.
    /// A chain is broken at the first of them that fails or is cancelled: those after it end with
    /// ECANCELED, and may do so before it.
    fn push_chain(&mut self, ids: &[OpId], table: &mut Table) -> bool {
        let _ = (ids, table);
        false
    }

    /// Asks for the end of an operation that was pushed.
    fn cancel(&mut self, id: OpId, table: &mut Table);

    /// Hands everything staged to the kernel without sleeping.
    fn flush(&mut self, table: &mut Table) -> Result<(), Fatal>;

    /// Submits what is staged and waits for events; appends them to `out`.
    fn wait(&mut self, until: Until, table: &mut Table, out: &mut Vec<Event>) -> Result<(), Fatal>;

    /// Registers memory pieces; the index of the first entry.
    fn register_memory(&mut self, pieces: &[(*mut u8, usize)]) -> Result<u32, RegisterError>;

    /// Gives `count` entries back; each is released when its event says so.
    fn unregister_memory(&mut self, first: u32, count: u32);

    /// A registered-memory entry was released: its index may be used again.
    fn released(&mut self, index: u32);

    /// Registers a descriptor; its index.
    fn register_file(&mut self, fd: RawFd) -> Result<u32, RegisterError>;

    /// Gives a registered descriptor back.
    fn unregister_file(&mut self, index: u32);

    /// Opens a kernel-held buffer pool of up to `entries` buffers. False: the backend has none,
    /// and pool receives carry their own buffer.
    fn open_pool(&mut self, group: u16, entries: u16) -> Result<bool, RegisterError>;

    /// Hands buffers to a pool, to be seen by the kernel at once.
    fn provide(&mut self, group: u16, buffers: &[Provided]);

    /// Stops a pool: no operation is armed on it any more, its buffers are no longer the kernel's.
    /// Nothing happens where none was opened.
    fn close_pool(&mut self, group: u16);

    /// Whether a receive from a pool must carry its own buffer.
    fn selects_buffers(&self) -> bool;

    /// Descriptor a host runtime can watch for "poll me", where there is one.
    fn watchable(&self) -> Option<RawFd>;

    /// Whether there is work that the watchable descriptor does not show: nobody may sleep on it.
    fn has_hidden_work(&self) -> bool {
        false
    }

    /// What it counted so far.
    fn counts(&self) -> Counts;
}

/// What a backend counts about itself, since it was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// System calls that submit or wait.
    pub(crate) enters: u64,
    /// Times the kernel took nothing for now (EAGAIN, EBUSY).
    pub(crate) busy: u64,
    /// Entries that found the submission queue full and stood in line.
    pub(crate) queued: u64,
    /// Completion-queue overflows.
    pub(crate) overflows: u64,
    /// Times the bell of the inbox had been rung.
    pub(crate) bells: u64,
    /// Storage operations completed by polling their device.
    pub(crate) polled: u64,
    /// Storage operations whose device could not be polled.
    pub(crate) unpolled: u64,
}

/// Why a registration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterError {
    /// The table is full: entries used and its size.
    Full { used: u32, maximum: u32 },
    /// The kernel refused with this errno.
    Refused(i32),
    /// Not there, or masked.
    Unavailable,
}

/// The backend of one proactor. The one with the shortest path is called without a table in
/// between, so that handing over an operation is inlined.
pub(crate) enum AnyBackend {
    Uring(Box<uring::Uring>),
    Other(Box<dyn Backend>),
}

impl AnyBackend {
    #[inline]
    pub(crate) fn push(&mut self, id: OpId, table: &mut Table) {
        match self {
            AnyBackend::Uring(uring) => uring.push(id, table),
            AnyBackend::Other(other) => other.push(id, table),
        }
    }
}

impl AnyBackend {
    /// Flat on purpose, like everything between `poll` and the system call: processors that
    /// forget their return addresses in the kernel mispredict every return on the way back.
    #[inline(always)]
    pub(crate) fn wait_flat(
        &mut self,
        until: Until,
        table: &mut Table,
        out: &mut Vec<Event>,
    ) -> Result<(), Fatal> {
        match self {
            AnyBackend::Uring(uring) => uring.wait_flat(until, table, out),
            AnyBackend::Other(other) => other.wait(until, table, out),
        }
    }
}

impl Deref for AnyBackend {
    type Target = dyn Backend;
    fn deref(&self) -> &(dyn Backend + 'static) {
        match self {
            AnyBackend::Uring(uring) => &**uring,
            AnyBackend::Other(other) => &**other,
        }
    }
}

impl DerefMut for AnyBackend {
    fn deref_mut(&mut self) -> &mut (dyn Backend + 'static) {
        match self {
            AnyBackend::Uring(uring) => &mut **uring,
            AnyBackend::Other(other) => &mut **other,
        }
    }
}

/// Makes the backend that the options ask for; with `auto`, io_uring where the kernel lets us,
/// else the readiness backend. The second value says why it is not io_uring.
pub(crate) fn open(
    options: &Options,
    shared: &Arc<Shared>,
) -> io::Result<(AnyBackend, Option<String>)> {
    let ready = |choice| -> io::Result<AnyBackend> {
        let options = Options { backend: choice, ..options.clone() };
        Ok(AnyBackend::Other(Box::new(ready::Ready::new(&options, shared)?)))
    };
    let uring = || uring::Uring::new(options, shared).map(|u| AnyBackend::Uring(Box::new(u)));
    let (backend, why) = match options.backend {
        Choice::IoUring => (uring()?, None),
        Choice::Epoll | Choice::Poll => (ready(options.backend)?, None),
        Choice::Auto => match uring() {
            Ok(uring) => (uring, None),
            Err(why) => (ready(Choice::Epoll)?, Some(why.to_string())),
        },
    };
    let Some(seed) = options.faults else { return Ok((backend, why)) };
    let inner: Box<dyn Backend> = match backend {
        AnyBackend::Uring(uring) => uring,
        AnyBackend::Other(other) => other,
    };
    Ok((AnyBackend::Other(Box::new(faulty::Faulty::new(inner, seed))), why))
}

/// The capabilities of the readiness backend: everything it emulates is honest work, nothing the
/// kernel does by itself.
pub(crate) fn emulated() -> Capabilities {
    Capabilities::default().with(Capability::Multishot)
}
