//! A context of one thread: the runner polls the proactor itself, and nothing is locked.
//!
//! [`LocalContext`] has the semantics of [`Context`](super::Context) with one runner, which is the
//! thread that made the proactor. It is not `Send` and neither is what is posted to it, so posting
//! from another thread does not compile; what another thread has to say comes as the completion of
//! an operation, by [`Handle::call`](crate::Handle::call), or by waking a task.
//!
//! What stands in line here are tasks as the proactor's own ([`Task`]), in a table and a run queue
//! of the context's: they are polled by a run and not inside the proactor's poll, so a task may run
//! this context or another, and may poll. A handler is a task of one turn.
//!
//! # Waiting, and staying fair
//!
//! When nothing is ready the runner sleeps in the proactor's poll, until the caller's time is up, a
//! timer or a deadline falls due, an operation completes or somebody wakes it: whichever is first.
//! While handlers keep the runner busy it looks at completions and timers after every
//! [`REAP_EVERY`] of them, without sleeping.
//!
//! # The inline budget
//!
//! While a handler or task runs, an operation that need not wait is finished on the spot: a receive
//! whose bytes are there, a send that fits the socket's buffer. The system call is attempted
//! without blocking at once, the result is there when the future is first polled, and neither the
//! ring nor the queue is gone through. Each attempt that succeeds takes one from the handler's
//! budget; when it is spent operations go to the ring, so a connection that always has data does
//! not keep others waiting. Order is kept: an operation is attempted only when it is at the head of
//! its socket's line. Sends that are to avoid copies are never attempted, since the plain call
//! copies.
//!
//! Callbacks of operations ([`Request::on_complete`](crate::Request::on_complete)) run inside the
//! poll, as on any proactor; they are not handlers of the context and count as no work.

use super::frames::{self, Frame};
use super::{INLINE_BUDGET, gone, is_past};
use crate::engine::Engine;
use crate::error::{Failed, Result};
use crate::io::Local;
use crate::io::request::Request;
use crate::op::Operation;
use crate::proactor::{Proactor, Wait};
use crate::run::executor::Executor;
use crate::run::panics::Panics;
use crate::run::ready::{Driver, Ready};
use crate::run::task::Task;
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;

/// Handlers between two looks at completions and timers.
const REAP_EVERY: u32 = 32;

/// What the handles of a local context share.
struct Core {
    io: Proactor,
    /// Tasks, and handlers, which are tasks of one turn.
    executor: Rc<Executor>,
    work: Cell<usize>,
    stopped: Cell<bool>,
    /// How many stops there were: a run ends at one that came after it began.
    stops: Cell<u64>,
    closed: Cell<bool>,
    /// Turns since the proactor was last looked at.
    busy: Cell<u32>,
    budget: Cell<u32>,
}

struct Owner(Rc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// See the head of this module. `Clone` gives another owner, on the same thread.
#[derive(Clone)]
pub struct LocalContext {
    owner: Rc<Owner>,
}

/// A local context from inside its own tasks and handlers.
#[derive(Clone)]
pub struct LocalContextHandle {
    core: Rc<Core>,
}

/// Counts as work: see [`WorkGuard`](super::WorkGuard).
pub struct LocalWorkGuard {
    core: Rc<Core>,
}

impl fmt::Debug for LocalContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = &self.owner.0;
        f.debug_struct("LocalContext")
            .field("work", &core.work.get())
            .field("stopped", &core.stopped.get())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LocalContextHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalContextHandle")
    }
}

impl fmt::Debug for LocalWorkGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalWorkGuard")
    }
}

impl Clone for LocalWorkGuard {
    fn clone(&self) -> LocalWorkGuard {
        self.core.work()
    }
}

impl Drop for LocalWorkGuard {
    fn drop(&mut self) {
        self.core.work_ends();
    }
}

/// Gives the proactor a handler's inline budget, and takes it back.
struct Inline<'a> {
    io: &'a Proactor,
    before: u32,
}

impl Inline<'_> {
    fn give(io: &Proactor, budget: u32) -> Inline<'_> {
        Inline { io, before: set_inline(io, budget) }
    }
}

impl Drop for Inline<'_> {
    fn drop(&mut self) {
        set_inline(self.io, self.before);
    }
}

/// What it was before; in a forked child nothing is done.
fn set_inline(io: &Proactor, budget: u32) -> u32 {
    let set = |engine: &mut Engine| std::mem::replace(&mut engine.inline, budget);
    io.inner().with("run", set).unwrap_or(0)
}

impl Core {
    fn name(&self) -> frames::Name {
        std::ptr::from_ref(self) as usize
    }

    fn work(self: &Rc<Core>) -> LocalWorkGuard {
        self.work.set(self.work.get() + 1);
        LocalWorkGuard { core: self.clone() }
    }

    fn work_ends(&self) {
        self.work.set(self.work.get() - 1);
        if self.work.get() == 0 {
            self.stop();
        }
    }

    fn stop(&self) {
        self.stopped.set(true);
        self.stops.set(self.stops.get() + 1);
        // From a callback inside the poll: it returns.
        self.io.inner().shared.wake_here();
    }

    /// The future is work as long as anything of it is left.
    fn spawn<F: Future + 'static>(self: &Rc<Core>, future: F) -> Task<F::Output> {
        let work = self.work();
        let future = async move {
            let value = future.await;
            drop(work);
            value
        };
        Task::start(&self.executor, future)
    }

    /// Whether there is something to run; no: stopped, out of work, or the wait is over.
    fn wait(&self, stops: u64, wait: Wait) -> Result<bool> {
        let mut polled = false;
        loop {
            if self.stopped.get() || self.stops.get() != stops {
                return Ok(false);
            }
            if self.work.get() == 0 {
                self.stop();
                return Ok(false);
            }
            if self.busy.get() >= REAP_EVERY {
                self.reap(Wait::Now)?;
                continue;
            }
            if self.executor.ready.waiting() > 0 {
                return Ok(true);
            }
            if polled && (wait == Wait::Now || is_past(wait)) {
                return Ok(false);
            }
            self.reap(wait)?;
            polled = true;
        }
    }

    fn reap(&self, wait: Wait) -> Result<()> {
        self.busy.set(0);
        self.io.poll(wait).map(|_| ())
    }

    /// Runs the first in line; false: it was over already.
    fn turn(&self) -> bool {
        self.busy.set(self.busy.get() + 1);
        let budget = self.budget.get();
        frames::begin_handler(budget);
        let _inline = Inline::give(&self.io, budget);
        self.executor.run_next()
    }

    /// The last owner goes: what stands here is dropped without being run.
    fn close(&self) {
        self.closed.set(true);
        self.stop();
        // What is dropped may post or spawn again, and is refused.
        let mut panics = Panics::default();
        panics.insist(|| self.executor.close());
        let queue = &self.executor.ready;
        // In a forked child there is nothing to leave.
        let _ = self.io.inner().with("end a context", |engine| {
            engine.run_queues.retain(|other| !Rc::ptr_eq(other, queue));
        });
        panics.resume();
    }
}

impl LocalContext {
    /// A context on this thread over a proactor of this thread, which may serve others too.
    pub fn new(io: &Proactor) -> LocalContext {
        let queue = Ready::new(io.inner().shared.clone(), Driver::Context);
        let theirs = queue.clone();
        // In a forked child nobody wakes its tasks, and it takes none.
        let _ = io.inner().with("make a context", |engine| engine.run_queues.push(theirs));
        let core = Core {
            io: io.clone(),
            executor: Rc::new(Executor::new(queue)),
            work: Cell::new(0),
            stopped: Cell::new(false),
            stops: Cell::new(0),
            closed: Cell::new(false),
            busy: Cell::new(0),
            budget: Cell::new(INLINE_BUDGET),
        };
        LocalContext { owner: Rc::new(Owner(Rc::new(core))) }
    }

    /// As [`Context::set_inline_budget`](super::Context::set_inline_budget): calls of `dispatch`,
    /// and as many operations.
    pub fn set_inline_budget(&self, calls: u32) {
        self.owner.0.budget.set(calls);
    }

    /// Its proactor: sockets and files are made with it.
    pub fn proactor(&self) -> &Proactor {
        &self.owner.0.io
    }

    /// A handle for tasks and handlers.
    pub fn handle(&self) -> LocalContextHandle {
        LocalContextHandle { core: self.owner.0.clone() }
    }

    /// Counts as work until it is dropped.
    pub fn work(&self) -> LocalWorkGuard {
        self.owner.0.work()
    }

    /// Runs what is ready, and polls for more, until the context is stopped or out of work. Returns
    /// how many handlers and turns of tasks this call ran.
    ///
    /// # Errors
    ///
    /// As [`Proactor::poll`]: Busy inside a callback of the proactor, Forked in a forked child.
    pub fn run(&self) -> Result<usize> {
        self.run_until(Wait::Forever)
    }

    /// As [`run`](Self::run), at most until `wait` is over: that is looked at between handlers.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_until(&self, wait: impl Into<Wait>) -> Result<usize> {
        self.some(usize::MAX, wait.into())
    }

    /// Runs one handler or one turn of a task, waiting for it if there is none: 1, or 0 when the
    /// context is stopped or out of work.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_one(&self) -> Result<usize> {
        self.some(1, Wait::Forever)
    }

    /// As [`run_one`](Self::run_one), waiting at most so long.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn wait_one(&self, wait: impl Into<Wait>) -> Result<usize> {
        self.some(1, wait.into())
    }

    /// Polls the proactor once and runs what is ready then, without sleeping. What becomes ready
    /// meanwhile is left for the next call.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll(&self) -> Result<usize> {
        let core = &self.owner.0;
        if !core.stopped.get() && core.work.get() > 0 {
            core.reap(Wait::Now)?;
        }
        let ready = core.executor.ready.waiting();
        // The first look is made even when nothing is ready: it is what finds out of work.
        self.some(ready.max(1), Wait::Now)
    }

    /// Runs one handler or one turn of a task if one is ready.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll_one(&self) -> Result<usize> {
        self.some(1, Wait::Now)
    }

    fn some(&self, most: usize, wait: Wait) -> Result<usize> {
        let core = &self.owner.0;
        // Kept whatever the handlers do with their clones.
        let _owner = self.owner.clone();
        // Inside a handler of this context: it must not wait for that.
        let nested = frames::is_inside(core.name());
        let wait = if nested { Wait::Now } else { wait };
        let stops = core.stops.get();
        let _frame = Frame::enter(core.name());
        let mut count = 0;
        while count < most && core.wait(stops, wait)? {
            count += usize::from(core.turn());
            if is_past(wait) {
                break;
            }
        }
        Ok(count)
    }

    /// As [`Context::stop`](super::Context::stop).
    pub fn stop(&self) {
        self.owner.0.stop();
    }

    /// As [`Context::stopped`](super::Context::stopped).
    pub fn stopped(&self) -> bool {
        self.owner.0.stopped.get()
    }

    /// As [`Context::restart`](super::Context::restart).
    pub fn restart(&self) {
        self.owner.0.stopped.set(false);
    }

    /// Whether this thread is inside a run of this context.
    pub fn is_running_here(&self) -> bool {
        frames::is_inside(self.owner.0.name())
    }

    /// Queues a handler for the next run.
    pub fn post(&self, handler: impl FnOnce() + 'static) {
        self.owner.0.spawn(async move { handler() }).detach();
    }

    /// Runs a handler on the spot when called inside a run that has budget left, else queues it.
    pub fn dispatch(&self, handler: impl FnOnce() + 'static) {
        match frames::spend(self.owner.0.name()) {
            true => handler(),
            false => self.post(handler),
        }
    }

    /// Spawns a future, which need not be Send. It is work until it has ended. Dropping the
    /// [`Task`] lets it go on.
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        self.owner.0.spawn(future)
    }

    /// As [`Context::submit`](super::Context::submit); aborting the [`Task`] is what cancels.
    pub fn submit<O, H>(&self, request: Request<Local, O>, handler: H) -> Task<()>
    where
        O: Operation,
        H: FnOnce(Result<O::Output<Local>, Failed<O>>) + 'static,
    {
        let submitted = request.submit();
        self.spawn(async move {
            handler(match submitted {
                Ok(submission) => submission.await,
                Err(refused) => Err(refused),
            });
        })
    }
}

impl LocalContextHandle {
    /// As [`LocalContext::post`].
    ///
    /// # Errors
    ///
    /// ShutDown, with the handler, when the context is gone.
    pub fn post<F: FnOnce() + 'static>(&self, handler: F) -> Result<(), Failed<F>> {
        if self.core.closed.get() {
            return Err(Failed::new(gone("post"), handler));
        }
        self.core.spawn(async move { handler() }).detach();
        Ok(())
    }

    /// As [`LocalContext::spawn`]; when the context is gone the [`Task`] says so.
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        self.core.spawn(future)
    }

    /// As [`LocalContext::stop`].
    pub fn stop(&self) {
        self.core.stop();
    }

    /// As [`LocalContext::is_running_here`].
    pub fn is_running_here(&self) -> bool {
        frames::is_inside(self.core.name())
    }

    /// As [`LocalContext::work`]. It does not keep the context.
    pub fn work(&self) -> LocalWorkGuard {
        self.core.work()
    }
}
