//! The task table: local futures that the proactor drives inside `poll`, or a local context between
//! polls ([`Driver`]).
//!
//! # The life of a task
//!
//! ```text
//! spawn -> Idle -> Running -> Idle -> ... -> Running -> Done (its value waits) -> free
//!           |         |                         |
//!           |         +- aborted from inside ---+-> Ended (cancelled, panicked) -> free
//!           +- aborted, or the proactor ends ------> Ended -> free
//! ```
//!
//! `Done` and `Ended` are passed through only while a [`Task`](super::task::Task) handle exists
//! that may want to know; a slot without one is free at once. A future is taken out of its slot
//! while it is polled, and whatever is dropped is dropped with the table not borrowed, so a task
//! may spawn, abort and join others, and end itself.
//!
//! # Fairness
//!
//! A turn polls at most [`POLLS`] tasks before the wait and as many after it, and of those only the
//! ones that stood in line when it began: a task that wakes itself for ever shares the turn with
//! completions, timers and the caller. While tasks stand in line the wait does not sleep.
//!
//! # Panics
//!
//! A task's panic goes to whoever joins it. If nobody can, since its handle was dropped before or
//! is dropped without being awaited, it leaves `poll`, as a callback's does. Everything else that
//! stood in line is polled by the next turn. In a context it leaves the run at once, as a handler's
//! does, and whoever joins it gets an error.
//!
//! # Runs within runs
//!
//! A poll inside a poll is refused, so the proactor never comes upon a task that is being polled. A
//! context may be run inside one of its tasks: that task's next turn, if it comes up there, waits
//! until the one it is in is over.
//!
//! # The end
//!
//! When the proactor or the context ends, futures that are not over are dropped without being
//! polled again, a proactor's before the operations they wait for are cancelled; their joiners get
//! an error.
//!
//! One allocation is made for each task: its future, which its value replaces in place. Slots and
//! their wakers are used again.

use super::ready::{Driver, LOST_PANIC, Ready};
use super::task::Run;
use crate::error::{Error, ErrorKind};
use crate::remote::cell::keep_waker;
use crate::remote::inbox;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Tasks polled at most before a wait, and after it.
pub(crate) const POLLS: usize = 128;

pub(crate) type Boxed = Pin<Box<dyn Run>>;
type Panic = Box<dyn Any + Send>;

/// The name of a task: a slot and which of its tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskId {
    index: u32,
    generation: u32,
}

/// Why a task has no value.
pub(crate) enum End {
    Failed(Error),
    Panicked(Panic),
}

impl End {
    fn aborted() -> End {
        End::Failed(Error::new("join", ErrorKind::Cancelled, "the task was aborted"))
    }

    /// The error of a joiner; a panic goes on.
    pub(crate) fn raise(self) -> Error {
        match self {
            End::Failed(error) => error,
            End::Panicked(panic) => resume_unwind(panic),
        }
    }
}

enum Stage {
    Free,
    Idle(Boxed),
    Running,
    /// Running, and to be dropped instead of going on.
    Aborted,
    Done(Boxed),
    Ended(End),
}

struct Slot {
    generation: u32,
    stage: Stage,
    /// Taken out while its task is polled.
    waker: Option<Waker>,
    joiner: Option<Waker>,
    has_handle: bool,
    /// A turn fell due while it was being polled.
    missed: bool,
}

/// What a joiner finds.
pub(crate) enum Joined {
    Pending,
    /// Pending, and this waker is not known yet.
    Unknown,
    Done(Boxed),
    Ended(End),
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    /// Panics nobody was told of.
    lost: VecDeque<Panic>,
}

/// See the head of this file. Used from the loop's thread only.
pub(crate) struct Executor {
    pub(crate) ready: Rc<Ready>,
    table: RefCell<Table>,
    enrolled: Cell<bool>,
    closed: Cell<bool>,
}

/// What comes out of the table to be dropped or woken with nothing borrowed; in this order.
#[derive(Default)]
struct Parts {
    task: Option<Boxed>,
    joiner: Option<Waker>,
}

impl Parts {
    fn release(self) {
        // Whoever joins is told even when the drop panics.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(self.task)));
        if let Some(joiner) = self.joiner {
            joiner.wake();
        }
        if let Err(panic) = dropped {
            resume_unwind(panic);
        }
    }
}

impl Table {
    fn find(&mut self, id: TaskId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.stage = Stage::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
    }

    /// The task is over: its slot waits for the joiner, or is free.
    fn finish(&mut self, index: u32, stage: Stage) -> Option<Waker> {
        self.live -= 1;
        let slot = &mut self.slots[index as usize];
        if slot.has_handle {
            slot.stage = stage;
            return slot.joiner.take();
        }
        self.release(index);
        None
    }
}

impl Executor {
    pub(crate) fn new(ready: Rc<Ready>) -> Executor {
        Executor {
            ready,
            table: RefCell::default(),
            enrolled: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    /// The error of whoever joins a task that the end came before.
    pub(crate) fn gone(&self) -> Error {
        match self.ready.driver {
            _ if !self.is_here() => inbox::forked("join"),
            Driver::Poll => inbox::gone("join"),
            Driver::Context => {
                let message = "its context went before the task ended";
                Error::new("join", ErrorKind::Cancelled, message)
            }
        }
    }

    /// Whether this is the process that made it.
    pub(crate) fn is_here(&self) -> bool {
        self.ready.shared.origin.is_here()
    }

    /// Tasks that are not over.
    pub(crate) fn live(&self) -> usize {
        self.table.borrow().live
    }

    /// Takes a task in; None after the end, and the task comes back.
    pub(crate) fn spawn(&self, task: Boxed) -> Result<TaskId, Boxed> {
        if self.closed.get() {
            return Err(task);
        }
        if !self.enrolled.replace(true) {
            self.ready.enrol();
        }
        let mut table = self.table.borrow_mut();
        let index = table.free.pop().unwrap_or(table.slots.len() as u32);
        if index as usize == table.slots.len() {
            let waker = Some(self.ready.waker(index));
            table.slots.push(Slot {
                generation: 0,
                stage: Stage::Free,
                waker,
                joiner: None,
                has_handle: false,
                missed: false,
            });
        }
        table.live += 1;
        let slot = &mut table.slots[index as usize];
        slot.stage = Stage::Idle(task);
        slot.has_handle = true;
        slot.missed = false;
        let generation = slot.generation;
        drop(table);
        self.ready.push(index);
        Ok(TaskId { index, generation })
    }

    /// Polls what stands in line, a bounded number; whether anything ran.
    pub(crate) fn run(&self) -> bool {
        let mut ran = false;
        for _ in 0..self.ready.waiting().min(POLLS) {
            ran |= self.run_next();
        }
        ran
    }

    /// Polls the first in line; whether it was there and not over.
    pub(crate) fn run_next(&self) -> bool {
        match self.ready.pop() {
            None => false,
            Some(LOST_PANIC) => {
                let lost = self.table.borrow_mut().lost.pop_front();
                lost.is_some_and(|panic| resume_unwind(panic))
            }
            Some(index) => self.run_one(index),
        }
    }

    fn run_one(&self, index: u32) -> bool {
        let Some((mut task, waker)) = self.begin(index) else { return false };
        let mut cx = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().run(&mut cx)));
        let mut table = self.table.borrow_mut();
        let slot = &mut table.slots[index as usize];
        slot.waker = Some(waker);
        let has_handle = slot.has_handle;
        let parts = match polled {
            Ok(Poll::Pending) if matches!(slot.stage, Stage::Running) => {
                slot.stage = Stage::Idle(task);
                let missed = std::mem::take(&mut slot.missed);
                drop(table);
                if missed {
                    self.ready.push(index);
                }
                return true;
            }
            Ok(Poll::Pending) => {
                let joiner = table.finish(index, Stage::Ended(End::aborted()));
                Parts { task: Some(task), joiner }
            }
            Ok(Poll::Ready(())) if has_handle => {
                let joiner = table.finish(index, Stage::Done(task));
                Parts { task: None, joiner }
            }
            Ok(Poll::Ready(())) => {
                Parts { joiner: table.finish(index, Stage::Free), task: Some(task) }
            }
            Err(panic) => {
                drop(table);
                return self.panicked(index, task, panic);
            }
        };
        drop(table);
        parts.release();
        true
    }

    /// What is left of it is dropped, and its panic is told.
    #[cold]
    fn panicked(&self, index: u32, task: Boxed, panic: Panic) -> bool {
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(task))) {
            // The first is the one to tell; the drop of a payload may panic again.
            std::mem::forget(second);
        }
        let mut table = self.table.borrow_mut();
        let (end, leaves) = match self.ready.driver {
            _ if !table.slots[index as usize].has_handle => (Stage::Free, Some(panic)),
            Driver::Poll => (Stage::Ended(End::Panicked(panic)), None),
            Driver::Context => {
                let error = Error::new("join", ErrorKind::Panicked, "the task panicked");
                (Stage::Ended(End::Failed(error)), Some(panic))
            }
        };
        let joiner = table.finish(index, end);
        drop(table);
        Parts { task: None, joiner }.release();
        leaves.is_none_or(|panic| resume_unwind(panic))
    }

    /// None: the slot has no task that could be polled now.
    fn begin(&self, index: u32) -> Option<(Boxed, Waker)> {
        let mut table = self.table.borrow_mut();
        let slot = table.slots.get_mut(index as usize)?;
        slot.missed |= matches!(slot.stage, Stage::Running);
        let Stage::Idle(_) = slot.stage else { return None };
        let waker = slot.waker.take()?;
        match std::mem::replace(&mut slot.stage, Stage::Running) {
            Stage::Idle(task) => Some((task, waker)),
            _ => None,
        }
    }

    /// The end of a task, if it has come; else `waker` is left there when it is the joiner's own.
    pub(crate) fn join(&self, id: TaskId, waker: Result<Waker, &Waker>) -> Joined {
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.find(id) else { return Joined::Ended(End::aborted()) };
        if !matches!(slot.stage, Stage::Done(_) | Stage::Ended(_)) {
            let Some(stale) = keep_waker(&mut slot.joiner, waker) else { return Joined::Unknown };
            drop(table);
            drop(stale);
            return Joined::Pending;
        }
        slot.has_handle = false;
        let stage = std::mem::replace(&mut slot.stage, Stage::Free);
        table.release(id.index);
        drop(table);
        match stage {
            Stage::Done(task) => Joined::Done(task),
            Stage::Ended(end) => Joined::Ended(end),
            _ => Joined::Pending,
        }
    }

    /// Whether a task is over.
    pub(crate) fn is_finished(&self, id: TaskId) -> bool {
        match self.table.borrow_mut().find(id) {
            Some(slot) => matches!(slot.stage, Stage::Done(_) | Stage::Ended(_)),
            None => true,
        }
    }

    /// Drops a task that is not over, at once; the one being polled when it returns.
    pub(crate) fn abort(&self, id: TaskId) {
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.find(id) else { return };
        let parts = match std::mem::replace(&mut slot.stage, Stage::Aborted) {
            Stage::Idle(task) => {
                let joiner = table.finish(id.index, Stage::Ended(End::aborted()));
                Parts { task: Some(task), joiner }
            }
            Stage::Running => return,
            over => {
                slot.stage = over;
                return;
            }
        };
        drop(table);
        parts.release();
    }

    /// The handle is gone: the task goes on by itself.
    pub(crate) fn detach(&self, id: TaskId) {
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.find(id) else { return };
        slot.has_handle = false;
        let joiner = slot.joiner.take();
        let mut left = None;
        if matches!(slot.stage, Stage::Done(_) | Stage::Ended(_)) {
            left = Some(std::mem::replace(&mut slot.stage, Stage::Free));
            table.release(id.index);
        }
        if let Some(Stage::Ended(End::Panicked(panic))) = left {
            left = None;
            table.lost.push_back(panic);
            self.ready.push(LOST_PANIC);
        }
        drop(table);
        drop((joiner, left));
    }

    /// Drops every task that is not over. Called again after a panic it goes on where it was.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.ready.leave();
        for index in 0.. {
            let mut table = self.table.borrow_mut();
            let Some(slot) = table.slots.get_mut(index as usize) else { break };
            if !matches!(slot.stage, Stage::Idle(_)) {
                continue;
            }
            let stage = std::mem::replace(&mut slot.stage, Stage::Free);
            let joiner = table.finish(index, Stage::Ended(End::Failed(self.gone())));
            drop(table);
            if let Stage::Idle(task) = stage {
                Parts { task: Some(task), joiner }.release();
            }
        }
        let lost = self.table.borrow_mut().lost.pop_front();
        if let Some(panic) = lost {
            resume_unwind(panic);
        }
    }

    /// In a forked child: nothing is dropped.
    pub(crate) fn forget(&self) {
        std::mem::forget(self.table.take());
    }
}
