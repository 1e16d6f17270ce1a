//! The proactor: the loop the caller drives.
//!
//! # Ownership
//!
//! A [`Proactor`] is a handle to an inner state that sockets, files and submissions share. When the
//! last `Proactor` is dropped the loop shuts down (cancel, wait for the kernel, at most the
//! shutdown deadline); what outlives it gives errors. Dropping it inside a callback takes effect
//! when `poll` returns.
//!
//! # Callbacks and borrows
//!
//! The engine is behind a `RefCell` that is never borrowed while user code runs. A panic in a
//! callback leaves `poll`; what was to be told after it is told by the next poll. A multishot
//! operation whose callback panicked is cancelled.

mod inspect;
mod loop_waker;
pub(crate) mod options;
pub(crate) mod rest;

use crate::backend::{self, Fatal, OpId, Until};
use crate::engine::deadlines::{Deadlines, coarse_ns, instant_to_ns, now_ns};
use crate::engine::report::Counters;
use crate::engine::shutdown::Leaked;
use crate::engine::slots::most_slots;
use crate::engine::table::Table;
use crate::engine::turn::{Next, Ready};
use crate::engine::{Engine, Fire, Reason};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Local;
use crate::io::operation_id::OperationId;
use crate::options::{Backend, Options};
use crate::remote::handle::Handle;
use crate::remote::inbox::{self, Left, Shared};
use crate::run::executor::Executor;
use crate::run::ready::Ready as RunQueue;
use crate::sys::fork::Origin;
use crate::sys::helpers::Helpers;
use loop_waker::LoopWaker;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How long a [`Proactor::poll`] may last. An instant, so that retries do not drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Deliver what is there, do not sleep.
    Now,
    /// Sleep until something happens.
    Forever,
    /// Sleep until this instant at the latest.
    Until(Instant),
}

impl From<Instant> for Wait {
    fn from(at: Instant) -> Wait {
        Wait::Until(at)
    }
}

impl From<Duration> for Wait {
    /// From now on. Durations too long to add mean for ever.
    fn from(timeout: Duration) -> Wait {
        Instant::now().checked_add(timeout).map_or(Wait::Forever, Wait::Until)
    }
}

/// What sockets, files, submissions and the proactor share on the owning thread.
pub(crate) struct Inner {
    engine: RefCell<Engine>,
    /// A copy of the shared one, a step nearer.
    origin: Origin,
    /// The proactor's number, part of the names it gives out.
    pub(crate) owner: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) executor: Executor,
    polling: Cell<bool>,
    /// A host runtime sleeps in the loop's place; see `rest.rs`.
    host_sleeps: Cell<bool>,
    /// Set when the last `Proactor` went while a poll was running.
    end_after_poll: Cell<bool>,
    ended: Cell<bool>,
}

/// Shuts down when the last clone of a `Proactor` goes.
struct Owner(Rc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        match self.0.polling.get() {
            true => self.0.end_after_poll.set(true),
            false => self.0.end(),
        }
    }
}

/// See the [crate] and the head of this module. `Clone` gives another handle to the same loop,
/// on the same thread.
#[derive(Clone)]
pub struct Proactor {
    inner: Rc<Inner>,
    /// None in a handle lent to code that runs inside a poll.
    _owner: Option<Rc<Owner>>,
}

/// Marks the inside of a poll, also when a callback panics.
struct Polling<'a>(&'a Rc<Inner>);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.polling.set(false);
        if self.0.host_sleeps.get() {
            // This poll took the rings that were the host's.
            let _ = self.0.shared.bell.ring();
        }
        if self.0.end_after_poll.take() {
            self.0.end();
        }
    }
}

impl Inner {
    /// Runs `f` with the engine, unless this is a forked child.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        name: &'static str,
        f: impl FnOnce(&mut Engine) -> R,
    ) -> Result<R> {
        self.enter(name).map(|mut engine| f(&mut engine))
    }

    /// The engine, unless this is a forked child.
    #[inline]
    pub(crate) fn enter(&self, name: &'static str) -> Result<RefMut<'_, Engine>> {
        if !self.origin.is_here() {
            return Err(inbox::forked(name));
        }
        self.engine
            .try_borrow_mut()
            .map_err(|_| Error::new(name, ErrorKind::Busy, "the engine is busy"))
    }

    /// Whether this is the process that made it.
    pub(crate) fn is_here(&self) -> bool {
        self.origin.is_here()
    }

    /// The handle of an operation is gone.
    pub(crate) fn abandon(&self, id: OpId) {
        // What comes out is the user's to drop, with nothing borrowed.
        match self.with("drop a submission", |engine| engine.abandon(id)) {
            Ok(parts) => drop(parts),
            Err(error) => self.leave(&error, Left::Dropped(id)),
        }
    }

    /// The handle of an operation is gone, and the operation goes on.
    pub(crate) fn detach(&self, id: OpId) {
        match self.with("detach", |engine| engine.detach(id)) {
            Ok(waker) => drop(waker),
            Err(error) => self.leave(&error, Left::Detached(id)),
        }
    }

    fn leave(&self, error: &Error, left: Left) {
        // In a forked child there is nothing to leave.
        if error.kind() == ErrorKind::Busy {
            self.shared.leave(left);
        }
    }

    /// Runs user code for everything on the fire list.
    #[inline]
    fn fire_all(self: &Rc<Self>) {
        if self.engine.borrow().fire.is_empty() {
            return;
        }
        self.fire_each();
    }

    /// Whether user code is to be run: fires, or tasks in line.
    #[inline(always)]
    fn has_user_code(&self, engine: &Engine) -> bool {
        !engine.fire.is_empty() || self.executor.ready.waiting() > 0
    }

    /// Runs it, a bounded number of tasks; whether a task ran.
    fn run_user_code(self: &Rc<Self>) -> bool {
        self.fire_each();
        self.executor.run()
    }

    fn fire_each(self: &Rc<Self>) {
        loop {
            let next = self.engine.borrow_mut().next();
            match next {
                Next::Idle => return,
                Next::Fire(ready) => self.fire(ready),
            }
        }
    }

    fn fire(self: &Rc<Self>, ready: Ready) {
        match ready {
            Ready::Wake(waker) => waker.wake(),
            Ready::Once(callback, op, outcome) => callback(op, outcome),
            Ready::End(mut callback, op, outcome) => callback(true, op, outcome),
            Ready::Each(id, mut callback, outcome) => {
                let told = catch_unwind(AssertUnwindSafe(|| callback(false, None, outcome)));
                let mut engine = self.engine.borrow_mut();
                match told {
                    Ok(()) => engine.put_back(id, callback),
                    // It is not called again; what it holds is dropped by a later poll.
                    Err(panic) => {
                        let parts = engine.abandon(id);
                        engine.fire.push_back(Fire::Drop(Box::new((callback, parts))));
                        drop(engine);
                        resume_unwind(panic);
                    }
                }
            }
            Ready::Call(call) => {
                let lent = Proactor::lend(self);
                call(lent.as_ref());
            }
            Ready::Drop(parts) => drop(parts),
            Ready::Parts(op, outcome, notify) => {
                drop(notify);
                drop((op, outcome));
            }
        }
    }

    /// Cancel, wait, leak: see `engine/shutdown.rs`.
    fn end(self: &Rc<Self>) {
        if self.ended.replace(true) || !self.shared.origin.is_here() {
            return;
        }
        // Nothing of the user's may stop this half way: the kernel would be left with memory that
        // goes with the engine. The first panic goes on at the end.
        let mut panic = None;
        let mut guarded = |code: &dyn Fn()| {
            while let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
                match &panic {
                    None => panic = Some(payload),
                    // Its drop may panic again.
                    Some(_) => std::mem::forget(payload),
                }
            }
        };
        guarded(&|| self.shared.close());
        // A host that sleeps in the loop's place must see the end.
        self.shared.rouse();
        guarded(&|| self.executor.close());
        let timeout = self.engine.borrow().options.shutdown;
        let deadline_ns = now_ns().saturating_add(timeout.as_nanos() as u64);
        self.engine.borrow_mut().begin_drain();
        loop {
            let over = self.engine.borrow_mut().drain_turn(deadline_ns);
            guarded(&|| self.fire_all());
            if over {
                break;
            }
        }
        let leaked = self.engine.borrow_mut().end();
        guarded(&|| self.fire_all());
        if let Some(leaked) = leaked {
            eprintln!(
                "{}: shut down with {} operations still in the kernel; their memory is leaked",
                self.shared.name, leaked.operations
            );
        }
        match panic {
            Some(payload) if !std::thread::panicking() => resume_unwind(payload),
            payload => std::mem::forget(payload),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let unfinished = self.engine.get_mut().table.slots.in_flight > 0 && !self.ended.get();
        debug_assert!(!unfinished, "a proactor ends before it goes");
        if unfinished || !self.shared.origin.is_here() {
            // A forked child: nothing here is ours to undo. The engine is forgotten whole.
            self.executor.forget();
            let engine = self.engine.get_mut();
            std::mem::forget(engine.backend.take());
            std::mem::forget(std::mem::replace(&mut engine.table.helpers, Helpers::new("", 0)));
            std::mem::forget(std::mem::take(&mut engine.table.groups));
            std::mem::forget(std::mem::take(&mut engine.table.registry));
            engine.table.slots.leak();
        }
    }
}

impl Proactor {
    /// A proactor with default options.
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with).
    pub fn new() -> Result<Proactor> {
        Proactor::with(Options::default())
    }

    /// A proactor of this thread.
    ///
    /// # Errors
    ///
    /// InvalidArgument for hostile options; what the system answers when descriptors or memory
    /// run out; with an explicit backend, Unavailable with the reason.
    pub fn with(options: Options) -> Result<Proactor> {
        const NAME: &str = "make a proactor";
        options.check(NAME)?;
        let bound = options.operations.next_power_of_two();
        let slots = most_slots(bound);
        let shared = Shared::new(&options.name, options.inbox, slots, options.descriptors)
            .map_err(|error| Error::from_io(NAME, &error))?;
        let shared = Arc::new(shared);
        if let Some(cpu) = options.cpu {
            crate::sys::limits::pin_to_cpu(cpu).map_err(|error| Error::from_io(NAME, &error))?;
        }
        let (backend, fallback) = backend::open(&options, &shared).map_err(|error| {
            Error::new(NAME, ErrorKind::Unavailable, format!("{}: {error}", options.backend))
        })?;
        if backend.choice() != Backend::IoUring {
            shared.set_readiness();
        }
        let helpers = Helpers::new(&options.name, options.helpers);
        let mut table = Table::new(bound, options.descriptors, helpers, shared.clone());
        table.capabilities = backend.capabilities();
        let run_queue = RunQueue::new(shared.clone());
        let self_waker = Waker::from(LoopWaker::new(shared.clone(), false));
        let engine = Engine {
            table,
            backend: Some(backend),
            deadlines: Deadlines::with_keys(bound as usize),
            own_events: VecDeque::new(),
            napping: Vec::new(),
            events: Vec::with_capacity(backend::EVENTS_PER_TURN),
            fire: VecDeque::new(),
            bound,
            options,
            counters: Counters { turn_ns: coarse_ns(), ..Counters::default() },
            fallback,
            poisoned: false,
            draining: false,
            swept: u64::MAX,
            commands_left: false,
            self_waker,
            run_queue: run_queue.clone(),
            resting: false,
        };
        let inner = Rc::new(Inner {
            owner: engine.table.owner,
            engine: RefCell::new(engine),
            origin: shared.origin,
            shared,
            executor: Executor::new(run_queue),
            polling: Cell::new(false),
            host_sleeps: Cell::new(false),
            end_after_poll: Cell::new(false),
            ended: Cell::new(false),
        });
        Ok(Proactor { _owner: Some(Rc::new(Owner(inner.clone()))), inner })
    }

    /// Another handle for code that runs inside a poll; None when the last owner is gone.
    fn lend(inner: &Rc<Inner>) -> Option<Proactor> {
        if inner.ended.get() {
            return None;
        }
        Some(Proactor { inner: inner.clone(), _owner: None })
    }

    /// As [`lend`](Self::lend), for whoever has a proactor at hand.
    pub(crate) fn lent(&self) -> Proactor {
        Proactor { inner: self.inner.clone(), _owner: None }
    }

    pub(crate) fn local(&self) -> Local {
        Local { inner: self.inner.clone() }
    }

    pub(crate) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }

    /// One turn or more, until something was delivered, a [task](crate::Task) ran, a wake was asked
    /// for, or `wait` is over. Returns how many results were delivered; none is a normal answer.
    ///
    /// At most a bounded number of completions is delivered, and of tasks polled, before timers,
    /// wakes and the deadline are looked at again.
    ///
    /// # Errors
    ///
    /// Busy inside a callback; Forked in a forked child; DataLoss when the kernel dropped
    /// completions (every waiter got an error, make a new proactor); Io when the wait itself fails.
    pub fn poll(&self, wait: impl Into<Wait>) -> Result<usize> {
        const NAME: &str = "poll";
        let inner = &self.inner;
        if !inner.origin.is_here() {
            return Err(inbox::forked(NAME));
        }
        if inner.ended.get() {
            return Err(inbox::gone(NAME));
        }
        if inner.polling.replace(true) {
            let message = "called from inside a callback; return to the loop instead";
            return Err(Error::new(NAME, ErrorKind::Busy, message));
        }
        let _polling = Polling(inner);
        let wanted = match wait.into() {
            Wait::Now => Until::Now,
            Wait::Forever => Until::Forever,
            Wait::Until(at) => Until::At(instant_to_ns(at)),
        };
        self.turns(wanted)
    }

    #[inline(always)]
    fn turns(&self, wanted: Until) -> Result<usize> {
        let inner = &self.inner;
        let shared = &*inner.shared;
        // Borrowed over the whole turn, and released for every piece of user code.
        let mut engine = inner.engine.borrow_mut();
        let before = engine.table.slots.delivered;
        let mut woken = false;
        loop {
            let seen = shared.observe();
            engine.sweep(seen);
            if inner.has_user_code(&engine) {
                drop(engine);
                woken |= inner.run_user_code();
                engine = inner.engine.borrow_mut();
            }
            woken |= shared.take_wake() | shared.take_wake_here();
            let tasks = inner.executor.ready.waiting();
            let idle = engine.table.slots.delivered == before && !woken && tasks == 0;
            let mut until = engine.until(if idle { wanted } else { Until::Now });
            if until != Until::Now && !shared.arm(seen) {
                until = Until::Now;
            }
            let waited = engine.wait(until);
            if inner.has_user_code(&engine) {
                drop(engine);
                woken |= inner.run_user_code();
                engine = inner.engine.borrow_mut();
            }
            woken |= shared.take_wake() | shared.take_wake_here();
            match waited {
                Ok(()) => {}
                Err(Fatal::Dropped) => {
                    let message = "the kernel dropped completions; make a new proactor";
                    return Err(Error::new("poll", ErrorKind::DataLoss, message));
                }
                Err(Fatal::Failed(errno)) => return Err(Error::from_errno("poll", errno)),
            }
            let delivered = engine.table.slots.delivered - before;
            let over = match wanted {
                Until::Now => true,
                Until::Forever => false,
                Until::At(at_ns) => delivered == 0 && !woken && now_ns() >= at_ns,
            };
            if delivered > 0 || woken || over {
                return Ok(delivered as usize);
            }
        }
    }

    /// Hands everything staged to the kernel now, without delivering anything.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn flush(&self) -> Result<()> {
        const NAME: &str = "flush";
        self.inner.with(NAME, |engine| {
            let Engine { backend, table, poisoned, .. } = engine;
            match backend.as_mut().map(|backend| backend.flush(table)) {
                Some(Ok(())) => Ok(()),
                Some(Err(Fatal::Failed(errno))) => Err(Error::from_errno(NAME, errno)),
                None if !*poisoned => Err(inbox::gone(NAME)),
                Some(Err(Fatal::Dropped)) | None => {
                    let message = "the kernel dropped completions; make a new proactor";
                    Err(Error::new(NAME, ErrorKind::DataLoss, message))
                }
            }
        })?
    }

    /// Polls until the future is ready, and returns its value. Tasks are driven meanwhile; those
    /// that are not over then wait for the next poll.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output> {
        let mut future = std::pin::pin!(future);
        let state = LoopWaker::new(self.inner.shared.clone(), true);
        let waker = Waker::from(state.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            if state.take_woken()
                && let Poll::Ready(value) = future.as_mut().poll(&mut cx)
            {
                return Ok(value);
            }
            let wait = match state.is_woken() {
                true => Wait::Now,
                false => Wait::Forever,
            };
            self.poll(wait)?;
        }
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(self.inner.shared.clone())
    }

    /// Cancels one operation. It completes with Cancelled unless it wins the race.
    ///
    /// # Errors
    ///
    /// NotFound when nothing by that name is pending.
    pub fn cancel(&self, id: OperationId) -> Result<()> {
        const NAME: &str = "cancel";
        let id = id.within(self.inner.owner);
        let cancel = |engine: &mut Engine| id.is_some_and(|id| engine.cancel(id, Reason::User));
        match self.inner.with(NAME, cancel)? {
            true => Ok(()),
            false => Err(Error::new(NAME, ErrorKind::NotFound, "no such operation is pending")),
        }
    }

    /// Cancels everything in flight; how many operations were asked to end.
    ///
    /// # Errors
    ///
    /// Forked in a forked child.
    pub fn cancel_all(&self) -> Result<usize> {
        self.inner.with("cancel all", |engine| engine.cancel_all(Reason::User))
    }

    /// Shuts down politely: until `deadline` what completes by itself is delivered, then the rest
    /// is cancelled (see [`Options::shutdown`]). Other handles to this proactor give errors
    /// afterwards. What had to be leaked is reported.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn shutdown(self, deadline: impl Into<Wait>) -> Result<Option<Leaked>> {
        if self.inner.polling.get() {
            let message = "called from inside a callback; drop the proactor, or return to the loop";
            return Err(Error::new("shutdown", ErrorKind::Busy, message));
        }
        let deadline = deadline.into();
        while self.in_flight_count()? > 0 || self.inner.executor.ready.waiting() > 0 {
            match deadline {
                Wait::Now => break,
                Wait::Until(at) if Instant::now() >= at => break,
                _ => {
                    self.poll(deadline)?;
                }
            }
        }
        let inner = self.inner.clone();
        inner.end();
        drop(self);
        let leaked = inner.engine.borrow().counters.leaked as u32;
        Ok((leaked > 0).then_some(Leaked { operations: leaked }))
    }

    fn in_flight_count(&self) -> Result<u32> {
        self.inner.with("shutdown", |engine| engine.table.slots.in_flight)
    }
}

impl fmt::Debug for Proactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proactor")
            .field("name", &self.inner.shared.name)
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}
