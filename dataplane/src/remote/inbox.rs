//! The inbox: everything other threads bring to the poll owner.
//!
//! A bounded lock-free queue carries submissions and calls; beside it bit maps carry what must
//! never fail, block or allocate: dropped handles, pools, registrations and submissions. Whoever
//! queued something announces it on the [`WakeWord`] and rings the bell only when the owner said
//! that it is going to sleep.
//!
//! The queue closes when the proactor is gone: what is still in it is dropped without being run,
//! its waiters are told. What another thread was about to queue just then comes back to it.

use super::cell::{Adopted, Cell};
use super::line::Line;
use super::message::MessageError;
use super::queue::{Consumer, NotPushed, Queue};
use super::waker::{Bell, WakeWord};
use crate::backend::OpId;
use crate::error::{Error, ErrorKind};
use crate::proactor::Proactor;
use crate::sys::fork::Origin;
use regions::IndexSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

/// Code of a foreign thread's, to be run on the poll thread; without a proactor when that is gone.
pub(crate) type ForeignCall = Box<dyn FnOnce(Option<&Proactor>) + Send>;

/// What a foreign thread asks for.
pub(crate) enum Command {
    /// Run the operation in this cell, and tell it. `last` is the handle a close was made of: the
    /// descriptor must be open until the close has its slot, and the handle's own return may be
    /// swept before that.
    Submit { cell: Arc<Cell>, last: Option<Arc<Adopted>> },
    /// Run this on the poll thread, between two waits, with nothing borrowed.
    Call(ForeignCall),
}

/// Why a command was not taken.
pub(crate) enum Refused {
    Full(Command),
    Closed(Command),
}

impl Refused {
    /// The command back, and the reason as an error of `operation`.
    pub(crate) fn into_parts(self, operation: &'static str, capacity: usize) -> (Command, Error) {
        match self {
            Refused::Full(command) => {
                let message = format!(
                    "the inbox holds {capacity} submissions already; try again after a poll, or \
                     raise Options::inbox"
                );
                (command, Error::new(operation, ErrorKind::Exhausted, message))
            }
            Refused::Closed(command) => (command, gone(operation)),
        }
    }
}

/// The error of everything that outlived its proactor.
pub(crate) fn gone(operation: &'static str) -> Error {
    Error::new(operation, ErrorKind::ShutDown, "the proactor is gone; make another")
}

/// The error of everything called in a forked child.
pub(crate) fn forked(operation: &'static str) -> Error {
    let message = "this process was forked from the one that made the proactor; make another";
    Error::new(operation, ErrorKind::Forked, message)
}

/// Things dropped elsewhere, one bit each.
pub(crate) struct Returns {
    pub(crate) operations: IndexSet,
    pub(crate) resumes: IndexSet,
    pub(crate) descriptors: IndexSet,
    pub(crate) pools: IndexSet,
    pub(crate) registrations: IndexSet,
    /// Tasks woken elsewhere; a bit may stand for several, see `run/ready.rs`.
    pub(crate) tasks: IndexSet,
}

/// An operation whose handle went while the engine was at work.
#[derive(Clone, Copy)]
pub(crate) enum Left {
    /// Dropped: it is cancelled.
    Dropped(OpId),
    /// Detached: it goes on.
    Detached(OpId),
}

/// What the poll owner shares with every other thread.
pub(crate) struct Shared {
    queue: Queue<Command>,
    pub(crate) messages: Queue<u64>,
    /// Who waits for room in the queue of commands.
    pub(crate) line: Line,
    word: WakeWord,
    pub(crate) bell: Bell,
    pub(crate) returns: Returns,
    helped: Mutex<Vec<(OpId, i32)>>,
    has_helped: AtomicBool,
    left: Mutex<Vec<Left>>,
    has_left: AtomicBool,
    closed: AtomicBool,
    /// A task of the owner's was woken on its own thread, by whatever.
    woken_here: AtomicBool,
    /// The loop's thread sleeps in a host runtime until the bell rings or the kernel has something.
    resting: AtomicBool,
    /// The backend works by readiness: sockets are made non-blocking.
    readiness: AtomicBool,
    pub(crate) origin: Origin,
    pub(crate) name: String,
}

impl Shared {
    pub(crate) fn new(
        name: &str,
        (commands, messages): (usize, usize),
        slots: usize,
        descriptors: usize,
    ) -> io::Result<Shared> {
        Ok(Shared {
            queue: Queue::new(commands),
            messages: Queue::new(messages),
            line: Line::default(),
            word: WakeWord::new(),
            bell: Bell::new()?,
            returns: Returns {
                operations: IndexSet::empty(slots),
                resumes: IndexSet::empty(slots),
                descriptors: IndexSet::empty(descriptors),
                pools: IndexSet::empty(1 << 16),
                registrations: IndexSet::empty(crate::engine::registry::MAX_REGISTRATIONS),
                tasks: IndexSet::empty(crate::run::ready::BITS),
            },
            helped: Mutex::new(Vec::new()),
            has_helped: AtomicBool::new(false),
            left: Mutex::new(Vec::new()),
            has_left: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            woken_here: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            readiness: AtomicBool::new(false),
            origin: Origin::here()?,
            name: name.to_owned(),
        })
    }

    pub(crate) fn is_readiness(&self) -> bool {
        self.readiness.load(Ordering::Relaxed)
    }

    pub(crate) fn set_readiness(&self) {
        self.readiness.store(true, Ordering::Relaxed);
    }

    pub(crate) fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Queues a command and wakes the owner if it sleeps.
    pub(crate) fn send(&self, command: Command) -> Result<(), Refused> {
        if !self.origin.is_here() {
            return Err(Refused::Closed(command));
        }
        match self.queue.push(command) {
            Ok(()) => {
                self.announce();
                Ok(())
            }
            Err(NotPushed::Full(command)) => Err(Refused::Full(command)),
            Err(NotPushed::Closed(command)) => Err(Refused::Closed(command)),
        }
    }

    /// Queues a message and wakes the owner if it sleeps. Async-signal-safe.
    pub(crate) fn message(&self, payload: u64) -> Result<(), MessageError> {
        if !self.origin.is_here() {
            return Err(MessageError::Forked);
        }
        match self.messages.push(payload) {
            Ok(()) => {
                self.announce();
                Ok(())
            }
            Err(NotPushed::Full(_)) => Err(MessageError::Exhausted),
            Err(NotPushed::Closed(_)) => Err(MessageError::ShutDown),
        }
    }

    /// Something stands ready for the owner (queue, bit map or helper result).
    pub(crate) fn announce(&self) {
        if self.word.announce() {
            self.ring();
        }
    }

    /// Makes the poll in progress, or the next one, return. Async-signal-safe.
    pub(crate) fn wake(&self) {
        if self.word.request_wake() {
            self.ring();
        }
    }

    fn ring(&self) {
        if self.origin.is_here() {
            // A bell that cannot ring has no descriptor any more: nobody is left to wake.
            let _ = self.bell.ring();
        }
    }

    /// A helper thread finished an operation's call.
    pub(crate) fn helped(&self, id: OpId, result: i32) {
        self.helped.lock().unwrap_or_else(PoisonError::into_inner).push((id, result));
        self.has_helped.store(true, Ordering::Release);
        self.announce();
    }

    /// A handle went on the owner's thread while the engine was at work: the next sweep sees to it.
    pub(crate) fn leave(&self, left: Left) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(left);
        self.has_left.store(true, Ordering::Release);
        self.announce();
    }

    // The owner's side.

    pub(crate) fn take_left(&self) -> Vec<Left> {
        match self.has_left.swap(false, Ordering::Acquire) {
            true => std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner)),
            false => Vec::new(),
        }
    }

    pub(crate) fn observe(&self) -> u64 {
        self.word.observe()
    }

    pub(crate) fn arm(&self, seen: u64) -> bool {
        self.word.arm(seen)
    }

    pub(crate) fn take_wake(&self) -> bool {
        self.word.take_wake()
    }

    /// On the owner's thread: the poll in progress returns after what it is doing.
    pub(crate) fn wake_here(&self) {
        self.woken_here.store(true, Ordering::Relaxed);
        self.rouse();
    }

    /// On the owner's thread: there is something to do. A loop that rests in a host runtime is
    /// woken, once; any other comes by.
    #[inline]
    pub(crate) fn rouse(&self) {
        if self.resting.load(Ordering::Relaxed) {
            self.set_resting(false);
            self.wake();
        }
    }

    /// On the owner's thread: whether its own wakes must ring.
    #[inline]
    pub(crate) fn set_resting(&self, resting: bool) {
        if self.resting.load(Ordering::Relaxed) != resting {
            self.resting.store(resting, Ordering::Relaxed);
        }
    }

    pub(crate) fn take_wake_here(&self) -> bool {
        let woken = self.woken_here.load(Ordering::Relaxed);
        if woken {
            self.woken_here.store(false, Ordering::Relaxed);
        }
        woken
    }

    /// The front of those who wait for room, if there is room.
    pub(crate) fn next_in_line(&self) -> Option<Waker> {
        (self.line.is_occupied() && !self.queue.is_full()).then(|| self.line.front()).flatten()
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What is queued, to be taken in order; None inside of that.
    pub(crate) fn commands(&self) -> Option<Consumer<'_, Command>> {
        self.queue.consumer()
    }

    pub(crate) fn take_helped(&self, into: &mut Vec<(OpId, i32)>) {
        if self.has_helped.load(Ordering::Relaxed) && self.has_helped.swap(false, Ordering::Acquire)
        {
            into.append(&mut self.helped.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// No command is taken any more; what is queued is dropped and its waiters told.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.messages.close();
        self.queue.close();
        while let Some(waker) = self.line.any() {
            waker.wake();
        }
        loop {
            // Taken one by one: what is told and dropped here is the user's.
            let next = self.commands().and_then(|mut commands| commands.pop());
            match next {
                Some(Command::Submit { cell, .. }) => cell.refuse(),
                Some(Command::Call(call)) => call(None),
                None => return,
            }
        }
    }
}
