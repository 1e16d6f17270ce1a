//! Operations: small values the caller builds, one closed enum that the proactor stores.
//!
//! Each file of this folder holds one family, and for each operation *both forms side by side*:
//! `entry`, the submission queue entry for io_uring, and `attempt`, the plain system call the
//! readiness backend makes. What happens to the result afterwards is written once, for both.
//!
//! An operation owns everything it was given (lease, span, address, path) until its last
//! completion; the kernel's other needs (message headers, addresses) live in the [`Scratch`] of
//! its slot. Operations are `Send`: a descriptor is named by [`DescId`], never by a number.

mod accept;
mod connect;
mod control;
mod datagram;
mod file;
mod poll;
mod recv;
mod resolve;
mod send;
mod simple;
mod transfer;

pub use accept::{Accept, AcceptMany};
pub use connect::Connect;
pub use control::{Close, Shutdown};
pub use datagram::{RecvFrom, SendTo};
pub(crate) use file::CURRENT;
pub use file::{Open, OpenOptions, Read, Sync, Write};
pub use poll::{Interest, Poll, PollMany};
pub(crate) use recv::PoolArm;
pub use recv::{Filled, Recv, RecvMany, RecvPool, RecvVectored};
pub use resolve::Resolve;
pub use send::{Send, SendVectored, Sent};
pub use simple::{Nop, Timer};
pub(crate) use transfer::PipePair;
pub use transfer::Transfer;

use crate::capability::Capabilities;
use crate::engine::descriptors::{DescId, Descriptor};
use crate::engine::groups::{Groups, PoolId};
use crate::engine::registry::Registry;
use crate::engine::scratch::Scratch;
use crate::engine::{Outcome, Reason};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::Port;
use io_uring::squeue::{self, Entry};
use std::os::fd::RawFd;

/// Every operation there is, stored by value in a slot.
pub enum Op {
    Nop(Nop),
    Timer(Timer),
    Accept(Accept),
    AcceptMany(AcceptMany),
    Connect(Connect),
    Recv(Recv),
    RecvPool(RecvPool),
    RecvMany(RecvMany),
    RecvVectored(RecvVectored),
    RecvFrom(RecvFrom),
    Send(Send),
    SendVectored(SendVectored),
    SendTo(SendTo),
    Shutdown(Shutdown),
    Close(Close),
    Open(Open),
    Read(Read),
    Write(Write),
    Sync(Sync),
    Poll(Poll),
    PollMany(PollMany),
    Transfer(Transfer),
    Resolve(Resolve),
}

const _: () = assert!(size_of::<Op>() <= 144, "operations are stored by value; keep them small");

/// Runs `$body` with `$it` bound to the operation's own struct, whatever it is.
macro_rules! each {
    ($op:expr, $it:ident => $body:expr) => {
        match $op {
            Op::Nop($it) => $body,
            Op::Timer($it) => $body,
            Op::Accept($it) => $body,
            Op::AcceptMany($it) => $body,
            Op::Connect($it) => $body,
            Op::Recv($it) => $body,
            Op::RecvPool($it) => $body,
            Op::RecvMany($it) => $body,
            Op::RecvVectored($it) => $body,
            Op::RecvFrom($it) => $body,
            Op::Send($it) => $body,
            Op::SendVectored($it) => $body,
            Op::SendTo($it) => $body,
            Op::Shutdown($it) => $body,
            Op::Close($it) => $body,
            Op::Open($it) => $body,
            Op::Read($it) => $body,
            Op::Write($it) => $body,
            Op::Sync($it) => $body,
            Op::Poll($it) => $body,
            Op::PollMany($it) => $body,
            Op::Transfer($it) => $body,
            Op::Resolve($it) => $body,
        }
    };
}

/// Ties a struct to its variant of [`Op`].
macro_rules! variant {
    ($name:ident) => {
        impl From<$name> for crate::op::Op {
            fn from(op: $name) -> crate::op::Op {
                crate::op::Op::$name(op)
            }
        }
        impl crate::op::FromOp for $name {
            fn from_op(op: crate::op::Op) -> $name {
                match op {
                    crate::op::Op::$name(op) => op,
                    _ => unreachable!("a slot gave back another kind of operation"),
                }
            }
        }
    };
}
pub(crate) use variant;

/// Which of a stream's two queues an operation belongs to: order of submission is order of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Recv = 0,
    Send = 1,
}

/// What the readiness backend learns from one attempt.
pub(crate) enum Attempt {
    /// The call ended: a result or a negative errno, as in a completion.
    Done(i32),
    /// As `Done`, with completion flags (a selected buffer).
    Flagged(i32, u32),
    /// The call would block; try again when the descriptor is ready.
    Blocked(Interest),
    /// Only a blocking call does this: run it on a helper thread, its value is the result.
    Helper(HelperJob),
}

/// A blocking call for a helper thread.
pub(crate) type HelperJob = Box<dyn FnOnce() -> i32 + std::marker::Send>;

/// What follows from one kernel result of a one-shot operation.
pub(crate) enum Advance {
    /// The operation is over with this result.
    Done(i32),
    /// Not yet: submit the same operation again (it has moved on).
    Again,
}

/// What an operation is resolved against when it is handed to a backend.
pub(crate) struct Context<'a> {
    pub(crate) descriptor: Option<&'a mut Descriptor>,
    /// The second descriptor of a transfer.
    pub(crate) source: Option<RawFd>,
    pub(crate) scratch: *mut Scratch,
    pub(crate) registry: &'a Registry,
    pub(crate) groups: &'a mut Groups,
    pub(crate) capabilities: Capabilities,
}

impl Context<'_> {
    /// The plain descriptor number; -1 where the operation has none.
    pub(crate) fn fd(&self) -> RawFd {
        self.descriptor.as_ref().map_or(-1, |d| d.raw())
    }

    /// Descriptor field and flag of an entry: the registered index when there is one.
    pub(crate) fn target(&self) -> Target {
        match self.descriptor.as_ref().and_then(|d| d.fixed()) {
            Some(index) => Target { number: index as i32, flags: squeue::Flags::FIXED_FILE },
            None => Target { number: self.fd(), flags: squeue::Flags::empty() },
        }
    }
}

/// A descriptor as an entry wants it.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    number: i32,
    flags: squeue::Flags,
}

impl Target {
    pub(crate) fn fd(self) -> io_uring::types::Fd {
        io_uring::types::Fd(self.number)
    }

    pub(crate) fn seal(self, entry: Entry) -> Entry {
        if self.flags.is_empty() { entry } else { entry.flags(self.flags) }
    }
}

/// The life of one operation between submission and result; every operation implements it once.
pub(crate) trait Forms {
    /// Short name, as in errors and dumps.
    const NAME: &'static str;

    /// The descriptor it works on.
    fn desc(&self) -> Option<DescId> {
        None
    }

    /// A second descriptor that must stay open meanwhile.
    fn source(&self) -> Option<DescId> {
        None
    }

    /// The stream queue it stands in.
    fn lane(&self) -> Option<Lane> {
        None
    }

    /// The receive pool it is armed on.
    fn pool(&self) -> Option<PoolId> {
        None
    }

    /// Whether it goes on producing results until it is cancelled or ends.
    fn is_multishot(&self) -> bool {
        false
    }

    /// Rejects a malformed operation before anything is submitted.
    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        let _ = descriptor;
        Ok(())
    }

    /// The submission queue entry. `user_data` is set by the caller.
    fn entry(&mut self, cx: &mut Context<'_>) -> Entry;

    /// The system call.
    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt;

    /// One kernel result. `flags` are completion flags.
    fn advance(&mut self, result: i32, flags: u32) -> Advance {
        let _ = flags;
        Advance::Done(result)
    }

    /// The operation succeeded: take what the kernel wrote beside the buffers.
    fn collect(&mut self, scratch: *mut Scratch) {
        let _ = scratch;
    }

    /// The kernel is done with a zero-copy buffer; `copied` when it copied after all.
    fn notified(&mut self, copied: bool) {
        let _ = copied;
    }

    /// Whether `result` says no more than that there is no zero-copy form for this socket, and a
    /// copy would do.
    fn falls_back(&self, result: i32) -> bool {
        let _ = result;
        false
    }

    /// The instant (CLOCK_MONOTONIC, ns) at which the operation completes by itself.
    fn fires_at(&self) -> Option<u64> {
        None
    }
}

macro_rules! forward {
    ($(fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $out:ty;)*) => {
        $(pub(crate) fn $name(&self $(, $arg: $ty)*) -> $out {
            each!(self, op => op.$name($($arg),*))
        })*
    };
}

impl Op {
    forward! {
        fn desc(&self) -> Option<DescId>;
        fn source(&self) -> Option<DescId>;
        fn lane(&self) -> Option<Lane>;
        fn pool(&self) -> Option<PoolId>;
        fn is_multishot(&self) -> bool;
        fn check(&self, descriptor: Option<&Descriptor>) -> Result<()>;
        fn fires_at(&self) -> Option<u64>;
        fn falls_back(&self, result: i32) -> bool;
    }

    pub(crate) fn name(&self) -> &'static str {
        fn of<F: Forms>(_: &F) -> &'static str {
            F::NAME
        }
        each!(self, op => of(op))
    }

    pub(crate) fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        each!(self, op => op.entry(cx))
    }

    pub(crate) fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        each!(self, op => op.attempt(cx))
    }

    pub(crate) fn advance(&mut self, result: i32, flags: u32) -> Advance {
        each!(self, op => op.advance(result, flags))
    }

    pub(crate) fn collect(&mut self, scratch: *mut Scratch) {
        each!(self, op => op.collect(scratch));
    }

    pub(crate) fn notified(&mut self, copied: bool) {
        each!(self, op => op.notified(copied));
    }

    /// Whether what it brings is a descriptor that must be closed when nobody takes it.
    pub(crate) fn brings_descriptor(&self) -> bool {
        matches!(self, Op::Accept(_) | Op::AcceptMany(_) | Op::Open(_))
    }

    /// The memory pool a selected buffer comes from, when the result selects one.
    pub(crate) fn received_pool(&self) -> Option<PoolId> {
        self.pool()
    }

    /// What a buffer-bound operation moved before it ended with an error, in bytes.
    pub(crate) fn moved(&self) -> u64 {
        match self {
            Op::Send(op) => op.sent_bytes() as u64,
            Op::SendVectored(op) => op.sent_bytes() as u64,
            Op::Transfer(op) => op.moved_bytes(),
            _ => 0,
        }
    }
}

/// Takes an operation's struct back out of the enum.
pub trait FromOp {
    #[doc(hidden)]
    fn from_op(op: Op) -> Self;
}

/// An operation a proactor can run. Sealed: the set of operations is closed.
#[diagnostic::on_unimplemented(message = "`{Self}` is not an operation of the proactor")]
pub trait Operation: Into<Op> + FromOp + std::marker::Send + Sized + 'static {
    /// What a completed operation gives. `P` is where it was submitted: sockets and files that
    /// an operation brings belong to the same place.
    type Output<P: Port>;

    #[doc(hidden)]
    fn finish<P: Port>(
        self,
        outcome: Outcome,
        port: &P,
    ) -> std::result::Result<Self::Output<P>, Failed<Self>>;
}

/// An operation that goes on producing results: [`AcceptMany`], [`RecvMany`], [`PollMany`].
pub trait Multishot: Operation {
    #[doc(hidden)]
    fn item<P: Port>(outcome: Outcome, port: &P) -> Result<Option<Self::Output<P>>>;
}

/// An operation that holds a buffer, which its failure gives back.
pub trait HoldsBuffer {
    /// The lease or span.
    type Buffer;
    /// Takes the buffer out of the operation.
    fn into_buffer(self) -> Self::Buffer;
}

/// The result of an ended operation as a value: the count, or an error with the reason told apart.
pub(crate) fn settle(outcome: &Outcome, name: &'static str) -> Result<u32> {
    if outcome.result >= 0 {
        return Ok(outcome.result as u32);
    }
    if let Some(refusal) = &outcome.refusal {
        return Err(Error::clone(refusal));
    }
    let errno = -outcome.result;
    let error = Error::from_errno(name, errno);
    Err(match outcome.reason {
        _ if errno == libc::EBADR => error
            .with_kind(ErrorKind::DataLoss)
            .with_message("the kernel dropped completions; make a new proactor"),
        Reason::Kernel if errno == libc::ECANCELED => {
            error.with_kind(ErrorKind::Interrupted).with_message("the kernel ended it")
        }
        Reason::Kernel => error,
        Reason::User => error.with_kind(ErrorKind::Cancelled).with_message("cancelled"),
        Reason::Timeout => error.with_kind(ErrorKind::TimedOut).with_message("its deadline passed"),
        Reason::Closed => {
            error.with_kind(ErrorKind::Closed).with_message("the descriptor was closed")
        }
        Reason::Shutdown => {
            error.with_kind(ErrorKind::ShutDown).with_message("the proactor shut down")
        }
    })
}
