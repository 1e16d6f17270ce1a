//! Operations: small values the caller builds, one closed enum that the proactor stores.
//!
//! Each file of this folder holds one family, and for each operation *both forms side by side*:
//! `entry`, the submission queue entry for io_uring, and `attempt`, the plain system call the
//! readiness backend makes. What happens to the result afterwards is written once, for both.
//!
//! An operation owns everything it was given (lease, span, address, path) until its last
//! completion; the kernel's other needs (message headers, addresses) live in the [`Scratch`] of
//! its slot. Operations are `Send`: a descriptor is named by [`DescId`], never by a number.

mod control;
mod file;
mod forms;
mod message;
mod net;
mod poll;
mod resolve;
mod simple;
mod transfer;
mod wait;

pub use control::{Close, Shutdown};
pub(crate) use file::CURRENT;
pub use file::{Open, OpenOptions, Read, Sync, Write};
pub use forms::{Advance, Attempt, Completer, Context, Forms, HelperJob, Lane, Moves, Shape};
pub use message::Message;
pub(crate) use net::PoolArm;
pub use net::{
    Accept, AcceptMany, Connect, Filled, Recv, RecvFrom, RecvMany, RecvPool, RecvVectored, Send,
    SendTo, SendVectored, Sent,
};
pub use poll::{Interest, Poll, PollMany};
pub use resolve::Resolve;
pub use simple::{Nop, Timer};
pub(crate) use transfer::PipePair;
pub use transfer::Transfer;
pub use wait::{
    EventWait, FenceWait, SemaphoreSignal, SemaphoreWait, SemaphoreWaitAll, SemaphoreWaitAny,
};
pub use wait::{FutexWait, FutexWake, SignalNotification, WaitNotification};

use crate::capability::Capabilities;
use crate::engine::descriptors::{DescId, Descriptor};
use crate::engine::groups::PoolId;
use crate::engine::scratch::Scratch;
use crate::engine::{Outcome, Payload, Reason};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::Port;
use io_uring::squeue::Entry;
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
    Message(Message),
    EventWait(EventWait),
    FenceWait(FenceWait),
    SemaphoreWait(SemaphoreWait),
    SemaphoreWaitAll(SemaphoreWaitAll),
    SemaphoreWaitAny(SemaphoreWaitAny),
    SemaphoreSignal(SemaphoreSignal),
    FutexWait(FutexWait),
    FutexWake(FutexWake),
    WaitNotification(WaitNotification),
    SignalNotification(SignalNotification),
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
            Op::Message($it) => $body,
            Op::EventWait($it) => $body,
            Op::FenceWait($it) => $body,
            Op::SemaphoreWait($it) => $body,
            Op::SemaphoreWaitAll($it) => $body,
            Op::SemaphoreWaitAny($it) => $body,
            Op::SemaphoreSignal($it) => $body,
            Op::FutexWait($it) => $body,
            Op::FutexWake($it) => $body,
            Op::WaitNotification($it) => $body,
            Op::SignalNotification($it) => $body,
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

/// Any operation is one: the engine's code is written once, for the enum and for each struct.
impl Forms for Op {
    const NAME: &'static str = "operation";

    fn name(&self) -> &'static str {
        each!(self, op => op.name())
    }

    fn moves(&self) -> Moves {
        each!(self, op => op.moves())
    }

    fn falls_back(&self, result: i32) -> bool {
        each!(self, op => op.falls_back(result))
    }

    fn means_again(&self, result: i32) -> bool {
        each!(self, op => op.means_again(result))
    }

    fn shape(&self) -> Shape {
        each!(self, op => op.shape())
    }

    fn desc(&self) -> Option<DescId> {
        each!(self, op => op.desc())
    }

    fn own_fd(&self) -> Option<RawFd> {
        each!(self, op => op.own_fd())
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

    fn is_own(&self, capabilities: Capabilities) -> bool {
        each!(self, op => op.is_own(capabilities))
    }

    fn links(&self) -> bool {
        each!(self, op => op.links())
    }

    fn falls_short(&self, result: i32) -> bool {
        each!(self, op => op.falls_short(result))
    }

    fn error(&self, result: i32) -> Option<Error> {
        each!(self, op => op.error(result))
    }

    fn withdraw(&mut self) -> Option<bool> {
        each!(self, op => op.withdraw())
    }

    fn advance(&mut self, result: i32, flags: u32) -> Advance {
        each!(self, op => op.advance(result, flags))
    }

    fn collect(&mut self, scratch: *mut Scratch) {
        each!(self, op => op.collect(scratch));
    }

    fn cut_off(&mut self) -> bool {
        each!(self, op => op.cut_off())
    }

    fn notified(&mut self, copied: bool) -> bool {
        each!(self, op => op.notified(copied))
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

    /// What a receive from a pool works with.
    pub(crate) fn pool_arm(&mut self) -> Option<&mut net::PoolArm> {
        match self {
            Op::RecvPool(op) => Some(&mut op.arm),
            Op::RecvMany(op) => Some(&mut op.arm),
            _ => None,
        }
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
        Reason::Sequence => {
            error.with_kind(ErrorKind::Cancelled).with_message("a step before it failed")
        }
        Reason::Stopped => {
            error.with_kind(ErrorKind::Cancelled).with_message("the sequence stopped before it")
        }
        Reason::Shutdown => {
            error.with_kind(ErrorKind::ShutDown).with_message("the proactor shut down")
        }
    }
}
