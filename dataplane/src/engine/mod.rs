//! The engine under the proactor: slots, descriptors, pools, deadlines, and the turn of the loop.
//! Everything here belongs to the poll owner's thread.

pub(crate) mod closing;
pub(crate) mod complete;
pub(crate) mod inline;
pub(crate) mod path;
pub(crate) mod poison;
pub(crate) mod report;
pub(crate) mod sequence;
pub(crate) mod shutdown;
pub(crate) mod state;
pub(crate) mod submit;
pub(crate) mod turn;

pub(crate) use state::{deadlines, descriptors, groups, registry, scratch, slots, table};

use crate::backend::{AnyBackend, Event, OpId};
use crate::error::Error;
use crate::options::Options;
use crate::proactor::spin::Spin;
use crate::remote::cell::Adopted;
use crate::remote::inbox::ForeignCall;
use crate::remote::message::Messages;
use crate::run::ready::Ready as RunQueue;
use deadlines::Deadlines;
use descriptors::Class;
use regions::Lease;
use report::Counters;
use report::trace::Trace;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;
use table::Table;

/// Who ended an operation that the kernel says was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody here: the result is the kernel's own.
    Kernel,
    /// The user cancelled.
    User,
    /// Its deadline passed.
    Timeout,
    /// Its descriptor was closed.
    Closed,
    /// A step before it in its sequence failed.
    Sequence,
    /// Its sequence was told to stop.
    Stopped,
    /// The proactor shut down.
    Shutdown,
}

/// What a completion brought and still owns until somebody takes it.
#[derive(Debug, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    None,
    /// A new descriptor.
    Fd(OwnedFd, Class),
    /// A descriptor that already stands in the table, for a foreign submitter.
    Adopted(Adopted),
    /// A buffer selected from a pool.
    Lease(Lease),
    /// It was refused before it reached a backend, or what it brought found no place.
    Refusal(Error),
}

/// The end of an operation, or one result of a multishot one.
#[derive(Debug)]
pub struct Outcome {
    /// A count or a negative errno.
    pub result: i32,
    /// Who ended it.
    pub reason: Reason,
    /// What it brought.
    pub payload: Payload,
}

impl Outcome {
    pub(crate) fn new(result: i32, reason: Reason, payload: Payload) -> Outcome {
        Outcome { result, reason, payload }
    }

    pub(crate) fn failed(errno: i32, reason: Reason) -> Outcome {
        Outcome::new(-errno, reason, Payload::None)
    }

    pub(crate) fn refused(error: Error) -> Outcome {
        Outcome::new(-libc::EINVAL, Reason::Kernel, Payload::Refusal(error))
    }
}

/// Something to do with nothing borrowed: user code runs only here.
pub(crate) enum Fire {
    /// Wake a task.
    Wake(Waker),
    /// A finished slot: run its callback with the outcome, or drop both.
    Finish(OpId),
    /// A result of a multishot operation with a callback.
    Result(OpId, Outcome),
    /// A step of a sequence that is made from the steps before it.
    Make(OpId),
    /// Run what a foreign thread asked for.
    Call(ForeignCall),
    /// Hand a message to the handler.
    Message(u64),
    /// Drop what nobody wants: its owner's code may run.
    Drop(Box<dyn std::any::Any>),
}

/// Everything the poll owner has. One per proactor, used from one thread.
pub(crate) struct Engine {
    pub(crate) table: Table,
    /// None once it has shut down.
    pub(crate) backend: Option<AnyBackend>,
    pub(crate) deadlines: Deadlines,
    /// Completions that need no kernel: timers, refusals, cancels of what was never handed over.
    pub(crate) own_events: VecDeque<Event>,
    /// Operations to be handed over again at the next turn: no readiness tells when they may go on.
    pub(crate) napping: Vec<OpId>,
    /// The batch the backend filled, kept for its memory.
    pub(crate) events: Vec<Event>,
    pub(crate) fire: VecDeque<Fire>,
    /// What makes the steps that are not there yet, by slot.
    pub(crate) makers: HashMap<u32, sequence::Maker>,
    pub(crate) bound: u32,
    pub(crate) options: Options,
    pub(crate) counters: Counters,
    pub(crate) trace: Trace,
    /// Why the backend is not io_uring although nobody asked for another.
    pub(crate) fallback: Option<String>,
    /// Completions were lost: nothing more can be trusted.
    pub(crate) poisoned: bool,
    /// Shutting down: no new operation.
    pub(crate) draining: bool,
    /// The wake word when the inbox was last looked into, and whether something was left there.
    pub(crate) swept: u64,
    pub(crate) commands_left: bool,
    pub(crate) messages: Messages,
    /// Operations that may still be attempted at once instead of going to the backend; more than
    /// none only while a context runs a handler.
    pub(crate) inline: u32,
    /// How long the loop looks before it sleeps.
    pub(crate) spin: Spin,
    /// Wakes this proactor's loop; given to whatever the engine itself waits for.
    pub(crate) self_waker: Waker,
    /// The tasks in line, the proactor's and each local context's; those woken on other threads are
    /// put there by the sweep.
    pub(crate) run_queues: Vec<Rc<RunQueue>>,
    /// A host runtime sleeps in the loop's place: what is staged from here on must wake it.
    pub(crate) resting: bool,
}
