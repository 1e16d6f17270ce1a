//! What an operation is to the engine and to a backend: where it belongs, its two forms, and what
//! follows from a result.

use super::Interest;
use crate::backend::OpId;
use crate::capability::Capabilities;
use crate::engine::descriptors::{DescId, Descriptor};
use crate::engine::groups::{Groups, PoolId};
use crate::engine::registry::Registry;
use crate::engine::scratch::Scratch;
use crate::error::{Error, Result};
use crate::remote::inbox::Shared;
use io_uring::squeue::{self, Entry};
use std::os::fd::RawFd;
use std::sync::Arc;

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
    /// The call would block; try again when the descriptor is ready.
    Blocked(Interest),
    /// Only a blocking call does this: run it on a helper thread, its value is the result.
    Helper(HelperJob),
    /// As `Helper`, for a call that waits for somebody else, perhaps for ever: not all helper
    /// threads are given to those. Withdrawing the operation makes it return.
    Waiting(HelperJob),
    /// Code that may call the user's: run it on the poll thread with nothing borrowed, its value
    /// is the result.
    Here(HelperJob),
    /// Somebody outside the kernel tells the result, once, by the [`Completer`] it was given.
    Outside,
}

impl Attempt {
    /// The call ended, unless it would have blocked: then it is tried again at `interest`.
    pub(crate) fn unless_blocked(result: i32, interest: Interest) -> Attempt {
        match result == -libc::EAGAIN {
            true => Attempt::Blocked(interest),
            false => Attempt::Done(result),
        }
    }
}

/// Which way a positive result counts: the bytes it moved, for the proactor's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// It is no number of bytes.
    Nothing = 0,
    /// From a socket.
    Received,
    /// Into a socket.
    Sent,
    /// From a file, through the page cache.
    Read,
    /// From a file, past the page cache.
    ReadDirect,
    /// Into a file, through the page cache.
    Written,
    /// Into a file, past the page cache.
    WrittenDirect,
    /// From a file into a socket, inside the kernel.
    Transferred,
}

impl Moves {
    /// How many there are.
    pub(crate) const COUNT: usize = Moves::Transferred as usize + 1;
}

/// A blocking call for a helper thread.
pub type HelperJob = Box<dyn FnOnce() -> i32 + std::marker::Send>;

/// Tells the result of an operation that waits for something outside the kernel, from any thread.
#[derive(Clone)]
pub struct Completer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: OpId,
}

impl Completer {
    /// The operation's one result: a count or a negative errno. Takes no lock that user code could
    /// hold, and wakes the loop if it sleeps.
    pub(crate) fn complete(&self, result: i32) {
        self.shared.helped(self.id, result);
    }
}

/// What follows from one kernel result of a one-shot operation.
pub enum Advance {
    /// The operation is over with this result.
    Done(i32),
    /// Not yet: submit the same operation again (it has moved on).
    Again,
}

/// What an operation is resolved against when it is handed to a backend.
pub struct Context<'a> {
    pub(crate) id: OpId,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) descriptor: Option<&'a mut Descriptor>,
    /// The descriptor that the operation itself owns.
    pub(crate) own_fd: Option<RawFd>,
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
    /// Whoever waits on behalf of the operation tells its result by this.
    pub(crate) fn completer(&self) -> Completer {
        Completer { shared: self.shared.clone(), id: self.id }
    }

    /// The plain descriptor number; -1 where the operation has none.
    pub(crate) fn fd(&self) -> RawFd {
        let named = || self.descriptor.as_ref().map_or(-1, |d| d.raw());
        self.own_fd.unwrap_or_else(named)
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
    pub(super) flags: squeue::Flags,
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

    /// The number of a descriptor that the operation owns, in place of one that the table names: it
    /// stays open as long as the operation is in its slot, and nobody closes it before.
    fn own_fd(&self) -> Option<RawFd> {
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

    /// What the bytes of the next result count as; asked before [`advance`](Self::advance).
    fn moves(&self) -> Moves {
        Moves::Nothing
    }

    /// One kernel result. `flags` are completion flags.
    fn advance(&mut self, result: i32, flags: u32) -> Advance {
        let _ = flags;
        Advance::Done(result)
    }

    /// The operation succeeded: take what the kernel wrote beside the buffers.
    fn collect(&mut self, scratch: *mut Scratch) {
        let _ = scratch;
    }

    /// It failed, or the chain it was in ended before it began. True: it is a zero-copy send, whose
    /// notification comes all the same.
    fn cut_off(&mut self) -> bool {
        false
    }

    /// The kernel is done with a zero-copy buffer; `copied` when it copied after all. False: it
    /// says nothing, since the send never began.
    fn notified(&mut self, copied: bool) -> bool {
        let _ = copied;
        true
    }

    /// Whether `result` says no more than that there is no zero-copy form for this socket, and a
    /// copy would do.
    fn falls_back(&self, result: i32) -> bool {
        let _ = result;
        false
    }

    /// Whether EINTR or EAGAIN, which is what `result` is, says that the same call is to be made
    /// again; else it is a result.
    fn means_again(&self, result: i32) -> bool {
        let _ = result;
        true
    }

    /// Whether it never goes to the backend: the engine attempts it itself, and the attempt ends
    /// it or says who will.
    fn is_own(&self, capabilities: Capabilities) -> bool {
        let _ = capabilities;
        false
    }

    /// Whether the kernel may start the step after it by itself: what the kernel takes for a
    /// success or a failure must be one to us.
    fn links(&self) -> bool {
        false
    }

    /// Whether a success of `result` is less than was asked for, which ends a sequence: the step
    /// after it must not work on bytes that never came.
    fn falls_short(&self, result: i32) -> bool {
        let _ = result;
        false
    }

    /// The error of `result` where its errno does not say all: what a sequence that this step ended
    /// fails with. The same that the operation's own future would give.
    fn error(&self, result: i32) -> Option<Error> {
        let _ = result;
        None
    }

    /// Asks for the end of an attempt that was [`Attempt::Outside`] or [`Attempt::Waiting`]. None:
    /// there is nothing more to ask for here, the engine asks whoever has it. True: nobody will
    /// tell its result any more. False: its result comes.
    fn withdraw(&mut self) -> Option<bool> {
        None
    }

    /// The instant (CLOCK_MONOTONIC, ns) at which the operation completes by itself.
    fn fires_at(&self) -> Option<u64> {
        None
    }
}
