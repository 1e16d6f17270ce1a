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
use crate::engine::{Outcome, Payload, Reason};
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
        impl crate::op::Stored for $name {
            #[inline]
            fn put(self, place: &mut Option<crate::op::Op>) {
                *place = Some(crate::op::Op::$name(self));
            }
            #[inline]
            fn take(place: &mut Option<crate::op::Op>) -> Option<$name> {
                match place.take() {
                    Some(crate::op::Op::$name(op)) => Some(op),
                    None => None,
                    Some(_) => unreachable!("a slot gave back another kind of operation"),
                }
            }
        }
    };
}
pub(crate) use variant;

/// What happens to the results of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One result, which the operation looks at.
    Ordinary,
    /// One result, which the operation looks at; it stands in no line and brings nothing but what
    /// it moved.
    Single,
    /// One result, taken as it is: no descriptor, no buffer, nothing brought.
    Plain,
    /// Results until it is cancelled or ends.
    Multishot,
}

/// Which of a stream's two queues an operation belongs to: order of submission is order of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Recv = 0,
    Send = 1,
}

/// What the readiness backend learns from one attempt.
pub enum Attempt {
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
pub type HelperJob = Box<dyn FnOnce() -> i32 + std::marker::Send>;

/// What follows from one kernel result of a one-shot operation.
pub enum Advance {
    /// The operation is over with this result.
    Done(i32),
    /// Not yet: submit the same operation again (it has moved on).
    Again,
}

/// What an operation is resolved against when it is handed to a backend.
pub struct Context<'a> {
    pub(crate) descriptor: Option<&'a mut Descriptor>,
    /// The second descriptor of a transfer.
    pub(crate) source: Option<RawFd>,
    pub(crate) scratch: *mut Scratch,
    pub(crate) registry: &'a Registry,
    pub(crate) groups: &'a mut Groups,
    pub(crate) capabilities: Capabilities,
    /// The entry may name neither registered memory nor registered descriptors.
    pub(crate) plain: bool,
}

impl Context<'_> {
    /// The plain descriptor number; -1 where the operation has none.
    pub(crate) fn fd(&self) -> RawFd {
        self.descriptor.as_ref().map_or(-1, |d| d.raw())
    }

    /// Descriptor field and flag of an entry: the registered index when there is one.
    pub(crate) fn target(&self) -> Target {
        match self.descriptor.as_ref().filter(|_| !self.plain).and_then(|d| d.fixed()) {
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
pub trait Forms {
    /// Short name, as in errors and dumps.
    const NAME: &'static str;

    /// The name of this one.
    fn name(&self) -> &'static str {
        Self::NAME
    }

    /// What happens to its results.
    fn shape(&self) -> Shape {
        Shape::Ordinary
    }

    /// The descriptor it works on.
    fn desc(&self) -> Option<DescId> {
        None
    }

    /// A second descriptor that must stay open meanwhile.
    fn source(&self) -> Option<DescId> {
        None
    }

    /// The descriptor it closes.
    fn closes(&self) -> Option<DescId> {
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

    /// Rejects a malformed operation before anything is submitted.
    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        let _ = descriptor;
        Ok(())
    }

    /// The submission queue entry. `user_data` is set by the caller.
    fn entry(&mut self, cx: &mut Context<'_>) -> Entry;

    /// The entry of a plain operation, which refers to nothing.
    fn plain_entry(&self) -> Entry {
        unreachable!("only plain operations have one")
    }

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

/// Any operation is one: the engine's code is written once, for the enum and for each struct.
impl Forms for Op {
    const NAME: &'static str = "operation";

    fn name(&self) -> &'static str {
        each!(self, op => op.name())
    }

    fn falls_back(&self, result: i32) -> bool {
        each!(self, op => op.falls_back(result))
    }

    fn shape(&self) -> Shape {
        each!(self, op => op.shape())
    }

    fn desc(&self) -> Option<DescId> {
        each!(self, op => op.desc())
    }

    fn source(&self) -> Option<DescId> {
        each!(self, op => op.source())
    }

    fn closes(&self) -> Option<DescId> {
        each!(self, op => op.closes())
    }

    fn lane(&self) -> Option<Lane> {
        each!(self, op => op.lane())
    }

    fn pool(&self) -> Option<PoolId> {
        each!(self, op => op.pool())
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        each!(self, op => op.check(descriptor))
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        each!(self, op => op.entry(cx))
    }

    fn plain_entry(&self) -> Entry {
        each!(self, op => op.plain_entry())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        each!(self, op => op.attempt(cx))
    }

    fn advance(&mut self, result: i32, flags: u32) -> Advance {
        each!(self, op => op.advance(result, flags))
    }

    fn collect(&mut self, scratch: *mut Scratch) {
        each!(self, op => op.collect(scratch));
    }

    fn notified(&mut self, copied: bool) {
        each!(self, op => op.notified(copied));
    }

    fn fires_at(&self) -> Option<u64> {
        each!(self, op => op.fires_at())
    }
}

impl Op {
    /// Whether it goes on producing results until it is cancelled or ends.
    pub(crate) fn is_multishot(&self) -> bool {
        self.shape() == Shape::Multishot
    }

    /// Whether what it brings is a descriptor that must be closed when nobody takes it.
    pub(crate) fn brings_descriptor(&self) -> bool {
        matches!(self, Op::Accept(_) | Op::AcceptMany(_) | Op::Open(_))
    }
}

/// How an operation's struct gets into a slot and out again.
pub trait Stored: Sized {
    #[doc(hidden)]
    fn put(self, place: &mut Option<Op>);
    #[doc(hidden)]
    fn take(place: &mut Option<Op>) -> Option<Self>;
    /// Out of the enum.
    #[doc(hidden)]
    fn from_op(op: Op) -> Self {
        Self::take(&mut Some(op)).expect("an operation is of its own kind")
    }
}

impl Stored for Op {
    fn put(self, place: &mut Option<Op>) {
        *place = Some(self);
    }
    fn take(place: &mut Option<Op>) -> Option<Op> {
        place.take()
    }
}

/// An operation a proactor can run. Sealed: the set of operations is closed.
#[diagnostic::on_unimplemented(message = "`{Self}` is not an operation of the proactor")]
pub trait Operation: Forms + Into<Op> + Stored + std::marker::Send + Sized + 'static {
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
#[inline]
pub(crate) fn settle(outcome: &Outcome, name: &'static str) -> Result<u32> {
    match outcome.result {
        0.. => Ok(outcome.result as u32),
        _ => Err(failure(outcome, name)),
    }
}

/// The end of an operation that gives nothing but the news of it.
#[inline]
pub(crate) fn unit<F: Forms>(op: F, outcome: &Outcome) -> std::result::Result<(), Failed<F>> {
    match settle(outcome, F::NAME) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failed::new(error, op)),
    }
}

#[cold]
fn failure(outcome: &Outcome, name: &'static str) -> Error {
    if let Payload::Refusal(error) = &outcome.payload {
        return error.clone();
    }
    let errno = -outcome.result;
    let error = Error::from_errno(name, errno);
    match outcome.reason {
        _ if errno == libc::EBADR => error
            .with_kind(ErrorKind::DataLoss)
            .with_message("the kernel dropped completions; make a new proactor"),
        Reason::Kernel if errno == libc::ECANCELED => {
            error.with_kind(ErrorKind::Interrupted).with_message("the kernel ended it")
        }
        Reason::Kernel if errno == libc::EMFILE => error.with_message(
            "this process has no descriptor number left (RLIMIT_NOFILE); close some, or raise it \
             (`ulimit -n`, LimitNOFILE=)",
        ),
        Reason::Kernel if errno == libc::ENFILE => error.with_message(
            "the system has no open file left; close some, or raise fs.file-max (`sysctl`); the \
             process's own limit is RLIMIT_NOFILE",
        ),
        Reason::Kernel => error,
        Reason::User => error.with_kind(ErrorKind::Cancelled).with_message("cancelled"),
        Reason::Timeout => error.with_kind(ErrorKind::TimedOut).with_message("its deadline passed"),
        Reason::Closed => {
            error.with_kind(ErrorKind::Closed).with_message("the descriptor was closed")
        }
        Reason::Shutdown => {
            error.with_kind(ErrorKind::ShutDown).with_message("the proactor shut down")
        }
    }
}
