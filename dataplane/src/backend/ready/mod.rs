//! The readiness backend: plain non-blocking system calls, and a poller for what would block.
//!
//! # The life of an operation here
//!
//! `push` stages it. The next `wait` or `flush` attempts what is staged, in order, with the
//! operation's own system call. It ends there and then, or
//!
//! - it *stands* on its descriptor until the poller reports it ready, and is attempted again, in
//!   the order in which operations came to stand there ([`standing`]);
//! - it is attempted again *soon*, [`SOON_NS`] later, where nothing tells when (a full backlog, a
//!   descriptor that is reported ready and blocks all the same);
//! - it goes to a *helper* thread and is forgotten: its event is made by the loop.
//!
//! Its end is an event in `done`, which `wait` hands out, [`EVENTS_PER_TURN`] at a time. Nothing is
//! attempted while a full turn of events is undelivered, and a wait that has anything to deliver
//! does not sleep. Only operations are known here, by id; the operation itself is resolved for each
//! attempt and not touched between calls.
//!
//! A cancel is staged like a push and does what it does in io_uring: operations staged before it
//! were attempted and may have won. What still waits ends with -ECANCELED.
//!
//! # Multishot
//!
//! A success of a multishot accept or receive is an event with MORE. An accept goes on at once, at
//! most [`SHOTS_PER_TURN`] times, then at the next turn without sleeping. A pool receive hands its
//! buffer over inside the operation, so it is not attempted again before the engine took the last
//! one. The end of the stream and errors (ENOBUFS too) come without MORE and end it. With
//! `Capability::Multishot` masked, each success ends it, and the engine pushes it again.
//!
//! A persistent poll is edge-triggered, on both pollers: one report for the state found at the
//! start, then one for each wake-up of the file, wake-ups between two turns merged; see [`poller`].
//! It reports the same bits as io_uring's multishot poll, hang-up and error included, and never
//! ends by itself.
//!
//! # Order and hang-up
//!
//! A report of error or hang-up wakes everything on the descriptor. Since the operation's own
//! call decides, data that can still be read is read before the end is seen.
//!
//! # Registrations and closed numbers
//!
//! With epoll a descriptor stays registered when its last operation leaves with a success, so that
//! a conversation costs no `epoll_ctl`; it is removed when that operation was cancelled, failed or
//! met the end of the stream, which is what comes before a close, and before `Op::Close` itself.
//! A registration that survives nevertheless goes with the last reference to its file; one kept
//! alive by a duplicate reports under an old generation and is ignored. With poll(2) the entry
//! goes with the last operation.
//!
//! Everything belongs to the poll owner's thread.

mod attempt;
mod poller;
mod standing;
mod tables;
mod token;
mod turn;

use self::poller::{Epoll, PollSet, Poller};
use self::standing::Standing;
use self::tables::{FileTable, MemoryTable};
use self::token::Report;
use super::{
    Backend, Counts, EVENTS_PER_TURN, Event, Fatal, Kind, OpId, Provided, RegisterError, Until,
    tagged,
};
use crate::capability::Capabilities;
use crate::engine::descriptors::DescId;
use crate::engine::table::Table;
use crate::options::{Backend as Choice, Options};
use crate::remote::inbox::Shared;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;

/// How long an operation rests that nothing but time can help, in nanoseconds.
const SOON_NS: u64 = 1_000_000;
/// Most results of one multishot operation in one turn.
const SHOTS_PER_TURN: usize = 16;
/// Reports in a row that let an operation make no progress before it rests.
const FALSE_REPORTS: u8 = 2;
/// Turns with work of their own that may pass without a look at the poller.
const BUSY_TURNS: u8 = 4;

/// What is staged, in order.
#[derive(Clone, Copy)]
enum Staged {
    Push(OpId),
    Cancel(OpId),
}

/// Why an operation is attempted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It is new, or its time has come.
    Turn,
    /// The poller reported its descriptor.
    Report,
}

/// See the head of this file.
pub(crate) struct Ready {
    choice: Choice,
    capabilities: Capabilities,
    shared: Arc<Shared>,
    poller: Poller,
    standing: Standing<DescId>,
    staged: VecDeque<Staged>,
    hot: VecDeque<OpId>,
    /// Who rests, with the end of the rest; in order of that, since all rest equally long.
    soon: VecDeque<(u64, OpId)>,
    /// Persistent polls: the duplicate each stands on, and what it wants.
    watches: HashMap<OpId, (OwnedFd, u32)>,
    done: VecDeque<Event>,
    reports: Vec<Report>,
    memory: MemoryTable,
    files: FileTable,
    busy_turns: u8,
    /// Looks at the poller, each one system call or two.
    looks: u64,
    bells: u64,
    /// Somebody watches the descriptor of the set instead of waiting here.
    watched: Cell<bool>,
}

impl Ready {
    /// A backend on the poller that `options.backend` names; epoll unless it says poll.
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE, ENOMEM when the epoll set or its timer cannot be made.
    pub(crate) fn new(options: &Options, shared: &Arc<Shared>) -> io::Result<Ready> {
        let bell = shared.bell.as_fd();
        let (choice, poller) = match options.backend {
            Choice::Poll => (Choice::Poll, Poller::Poll(PollSet::new(bell))),
            _ => (Choice::Epoll, Poller::Epoll(Epoll::new(bell)?)),
        };
        Ok(Ready {
            choice,
            capabilities: super::emulated().intersection(options.allowed),
            shared: shared.clone(),
            poller,
            standing: Standing::new(),
            staged: VecDeque::new(),
            hot: VecDeque::new(),
            soon: VecDeque::new(),
            watches: HashMap::new(),
            done: VecDeque::new(),
            reports: Vec::new(),
            memory: MemoryTable::new(),
            files: FileTable::new(options.descriptors),
            busy_turns: 0,
            looks: 0,
            bells: 0,
            watched: Cell::new(false),
        })
    }
}

impl Backend for Ready {
    fn choice(&self) -> Choice {
        self.choice
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn push(&mut self, id: OpId, _: &mut Table) {
        self.staged.push_back(Staged::Push(id));
    }

    fn cancel(&mut self, id: OpId, _: &mut Table) {
        self.staged.push_back(Staged::Cancel(id));
    }

    fn flush(&mut self, table: &mut Table) -> Result<(), Fatal> {
        self.advance(table);
        self.remind()
    }

    fn wait(&mut self, until: Until, table: &mut Table, out: &mut Vec<Event>) -> Result<(), Fatal> {
        if self.done.len() < EVENTS_PER_TURN {
            self.turn(until, table)?;
        }
        let count = self.done.len().min(EVENTS_PER_TURN);
        out.extend(self.done.drain(..count));
        self.remind()
    }

    fn register_memory(&mut self, pieces: &[(*mut u8, usize)]) -> Result<u32, RegisterError> {
        self.memory.register(pieces)
    }

    fn unregister_memory(&mut self, first: u32, count: u32) {
        let done = &mut self.done;
        self.memory.unregister(first, count, |index| {
            let user_data = tagged(Kind::Released, u64::from(index));
            done.push_back(Event { user_data, result: 0, flags: 0 });
        });
    }

    fn released(&mut self, index: u32) {
        self.memory.released(index);
    }

    fn register_file(&mut self, fd: RawFd) -> Result<u32, RegisterError> {
        self.files.register(fd)
    }

    fn unregister_file(&mut self, index: u32) {
        self.files.unregister(index);
    }

    fn open_pool(&mut self, _: u16, _: u16) -> Result<bool, RegisterError> {
        Ok(false)
    }

    /// No pool is ever open here: pool receives carry their own buffer.
    fn provide(&mut self, _: u16, _: &[Provided]) {}

    /// There is none to stop.
    fn close_pool(&mut self, _: u16) {}

    fn selects_buffers(&self) -> bool {
        false
    }

    fn watchable(&self) -> Option<RawFd> {
        self.watched.set(true);
        self.poller.watchable()
    }

    fn counts(&self) -> Counts {
        Counts { enters: self.looks, bells: self.bells, ..Counts::default() }
    }
}
