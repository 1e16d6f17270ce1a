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

pub(crate) mod inner;
mod inspect;
pub(crate) mod loop_waker;
pub(crate) mod options;
pub(crate) mod rest;
pub(crate) mod spin;

use crate::backend::{self, Fatal, Until};
use crate::engine::deadlines::{Deadlines, coarse_ns, instant_to_ns, now_ns};
use crate::engine::report::Counters;
use crate::engine::report::trace::Trace;
use crate::engine::shutdown::Leaked;
use crate::engine::slots::most_slots;
use crate::engine::table::Table;
use crate::engine::{Engine, Reason};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Local;
use crate::io::operation_id::OperationId;
use crate::options::{Backend, Options};
use crate::remote::handle::Handle;
use crate::remote::inbox::{self, Shared};
use crate::remote::message::Messages;
use crate::run::executor::Executor;
use crate::run::ready::{Driver, Ready as RunQueue};
use crate::sys::helpers::Helpers;
pub(crate) use inner::Inner;
use loop_waker::LoopWaker;
use spin::Spin;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
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
        let shared = Shared::new(
            &options.name,
            (options.inbox, options.messages),
            slots,
            options.descriptors,
        )
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
        let run_queue = RunQueue::new(shared.clone(), Driver::Poll);
        let self_waker = Waker::from(LoopWaker::new(shared.clone(), false));
        let trace = Trace::new(&options.name, backend.choice(), fallback.as_deref());
        let spin = Spin::new(options.spin);
        let engine = Engine {
            table,
            backend: Some(backend),
            deadlines: Deadlines::with_keys(bound as usize),
            own_events: VecDeque::new(),
            napping: Vec::new(),
            events: Vec::with_capacity(backend::EVENTS_PER_TURN),
            fire: VecDeque::new(),
            makers: HashMap::new(),
            bound,
            options,
            counters: Counters { turn_ns: coarse_ns(), ..Counters::default() },
            trace,
            fallback,
            poisoned: false,
            draining: false,
            swept: u64::MAX,
            commands_left: false,
            messages: Messages::default(),
            inline: 0,
            spin,
            self_waker,
            run_queues: vec![run_queue.clone()],
            resting: false,
        };
        let inner = Rc::new(Inner {
            owner: engine.table.owner,
            engine: RefCell::new(engine),
            origin: shared.origin,
            shared,
            executor: Rc::new(Executor::new(run_queue)),
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
        let span = engine.trace.span();
        let _span = span.enter();
        let before = engine.table.slots.delivered;
        let mut woken = false;
        loop {
            let seen = shared.observe();
            let brought = engine.sweep(seen);
            if inner.has_user_code(&engine) {
                drop(engine);
                woken |= inner.run_user_code();
                engine = inner.engine.borrow_mut();
            }
            woken |= engine.take_wake();
            let tasks = inner.executor.ready.waiting();
            // What other threads brought is handed over first: who brings more meanwhile need not
            // ring, since nobody sleeps.
            let idle = engine.table.slots.delivered == before && !woken && tasks == 0 && !brought;
            let until = engine.until(if idle { wanted } else { Until::Now });
            let waited = engine.look_and_wait(until, seen);
            if inner.has_user_code(&engine) {
                drop(engine);
                woken |= inner.run_user_code();
                engine = inner.engine.borrow_mut();
            }
            woken |= engine.take_wake();
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
