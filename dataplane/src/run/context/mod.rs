//! A context: an executor that any number of threads may run at once.
//!
//! [`Context`] has the semantics of asio's `io_context`: threads call [`run`](Context::run) and
//! execute what is ready, handlers posted to it and futures spawned on it, until there is no more
//! work or somebody stops it. [`LocalContext`](local::LocalContext) is the same for one thread,
//! without a lock.
//!
//! # A context, or one proactor per core?
//!
//! A proactor per core ([`ProactorPool`](super::pool::ProactorPool)) is the faster shape: nothing
//! is shared, no operation crosses threads. It is the right one where work falls apart by
//! connection. A context is for work that does not: handlers that compute for long, so that an idle
//! thread should take the next one whoever it belongs to; a program that already has a set of
//! worker threads; code written for `io_context`. It costs a lock for each handler and two
//! crossings for each operation.
//!
//! # Who does what
//!
//! One *driver* owns the ring: a [`ProactorThread`] that the context starts
//! ([`start`](Context::start)), or any proactor whose [`Handle`] it is given
//! ([`with_driver`](Context::with_driver)). The *runners* execute ready work and never touch the
//! ring: an operation goes to the driver through its inbox, and its completion, which the driver
//! reaps, makes the task or handler that waits for it ready. So a runner may leave, or its thread
//! end, at any moment: no operation belongs to it. Runners that compute without a pause keep nobody
//! from completions and timers, which are the driver's. What is ready stands in one queue, first
//! come first served, behind one mutex with a condition variable: a handler is taken by exactly one
//! runner, and a runner that finds nothing sleeps there.
//!
//! # Work
//!
//! Work is what a runner waits for: a posted handler until it has run, a spawned task until it has
//! ended, an operation started with [`submit`](Context::submit) until its handler has run, and
//! every [`WorkGuard`]. When the last piece goes, whoever held it, the context is *stopped*, as if
//! by [`stop`](Context::stop): every runner returns, and a run returns zero at once until
//! [`restart`](Context::restart). What is posted to a stopped context stands in its queue until
//! then. An operation that is awaited outside of the context, by another executor, is no work of
//! it.
//!
//! # Nesting, and the inline budget
//!
//! A handler may run another context; each keeps its own state on the thread. Running the *same*
//! context from inside one of its handlers executes what is ready and never sleeps, because what it
//! would wait for may be the handler it is called from.
//!
//! [`dispatch`](Context::dispatch) runs a handler on the spot when the caller is inside the
//! context, which saves the queue; the *budget* bounds how often one dispatched handler may do
//! that. Once it is spent the next goes to the back of the queue, so a chain of handlers that call
//! one another does not keep others from running. A [`LocalContext`](local::LocalContext) spends
//! the same budget on operations that need not wait: see there.
//!
//! # Panics, forks, ends
//!
//! A handler or task that panics leaves the `run` of its runner; it counts as having run, the rest
//! is there for the next run, once each. A task's waiter gets an error. Dropping the last `Context`
//! drops what stands in the queue and every task that has not ended, without running them, then
//! stops the driver if it is the context's own. In a forked child, where the lock may be held by a
//! thread that is not there, runs are errors, posts and tasks are dropped, and nothing is touched.

mod core;
mod frames;
mod join;
pub(crate) mod local;
mod task;

use self::core::{Core, Entry, Job};
use super::thread::ProactorThread;
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::request::Request;
use crate::op::Operation;
use crate::options::Options;
use crate::proactor::Wait;
use crate::remote::handle::Handle;
use crate::remote::inbox;
use frames::Frame;
pub use join::Join;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

/// Calls of one dispatched handler that may be finished on the spot, unless it is set otherwise.
pub(crate) const INLINE_BUDGET: u32 = 16;

/// Closes the core when the last clone of a `Context` goes.
struct Owner {
    core: Arc<Core>,
    /// Joined after the core was closed.
    _driver: Option<ProactorThread>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.core.close();
    }
}

/// See the head of this module. `Send` and `Sync`; `Clone` gives another owner of the same context.
///
/// A handler or task that should reach its context takes a [`ContextHandle`]: one that held a
/// `Context` would keep its own queue alive.
#[derive(Clone)]
pub struct Context {
    owner: Arc<Owner>,
}

/// A context from inside its own tasks and handlers, or from wherever it should not be kept alive.
#[derive(Clone)]
pub struct ContextHandle {
    core: Arc<Core>,
}

/// Counts as work: the context does not run out of it while one is there.
///
/// Dropping the last piece of work stops the context.
pub struct WorkGuard {
    core: Arc<Core>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ready, work, stopped) = self.owner.core.counts();
        f.debug_struct("Context")
            .field("ready", &ready)
            .field("work", &work)
            .field("stopped", &stopped)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ContextHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContextHandle")
    }
}

impl fmt::Debug for WorkGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkGuard")
    }
}

impl Clone for WorkGuard {
    fn clone(&self) -> WorkGuard {
        self.core.work_begins();
        WorkGuard { core: self.core.clone() }
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.core.work_ends();
    }
}

impl Context {
    /// A context with a driver of its own: a thread that polls a proactor made with `options`.
    ///
    /// # Errors
    ///
    /// As [`ProactorThread::start`].
    pub fn start(options: Options) -> Result<Context> {
        let driver = ProactorThread::start(options)?;
        Ok(Context::new(driver.handle(), Some(driver)))
    }

    /// A context over somebody else's proactor, which may serve other contexts too. When that ends,
    /// operations give ShutDown; posted handlers run on.
    pub fn with_driver(handle: Handle) -> Context {
        Context::new(handle, None)
    }

    fn new(handle: Handle, driver: Option<ProactorThread>) -> Context {
        let core = Arc::new(Core::new(handle, INLINE_BUDGET));
        Context { owner: Arc::new(Owner { core, _driver: driver }) }
    }

    /// How many calls one dispatched handler may have finished on the spot; zero: none. Default 16.
    /// Counts from the next handler.
    pub fn set_inline_budget(&self, calls: u32) {
        self.owner.core.set_budget(calls);
    }

    /// What submits operations for this context: its sockets and files are made with it.
    pub fn driver(&self) -> Handle {
        self.owner.core.handle.clone()
    }

    /// A handle for tasks and handlers.
    pub fn handle(&self) -> ContextHandle {
        ContextHandle { core: self.owner.core.clone() }
    }

    /// Counts as work until it is dropped.
    pub fn work(&self) -> WorkGuard {
        self.handle().work()
    }

    /// Runs what is ready, and sleeps for more, until the context is stopped or out of work.
    /// Returns how many handlers and turns of tasks this call ran.
    ///
    /// # Errors
    ///
    /// Forked in a forked child.
    pub fn run(&self) -> Result<usize> {
        self.run_until(Wait::Forever)
    }

    /// As [`run`](Self::run), at most until `wait` is over: that is looked at between handlers.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_until(&self, wait: impl Into<Wait>) -> Result<usize> {
        let wait = wait.into();
        let runner = self.enter("run")?;
        let mut count = 0;
        while runner.one(wait) {
            count += 1;
            if is_past(wait) {
                break;
            }
        }
        Ok(count)
    }

    /// Runs one handler or one turn of a task, waiting for it if there is none: 1, or 0 when the
    /// context is stopped or out of work.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_one(&self) -> Result<usize> {
        self.wait_one(Wait::Forever)
    }

    /// As [`run_one`](Self::run_one), waiting at most so long.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn wait_one(&self, wait: impl Into<Wait>) -> Result<usize> {
        let runner = self.enter("run one")?;
        Ok(usize::from(runner.one(wait.into())))
    }

    /// Runs what is ready now and does not sleep. What becomes ready meanwhile is left for the next
    /// call, so that it ends whatever the handlers post.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll(&self) -> Result<usize> {
        let runner = self.enter("poll")?;
        let (ready, ..) = self.owner.core.counts();
        // The first look is made even when nothing is ready: it is what finds out of work.
        let most = ready.max(1);
        Ok((0..most).take_while(|_| runner.one(Wait::Now)).count())
    }

    /// Runs one handler or one turn of a task if one is ready.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll_one(&self) -> Result<usize> {
        self.wait_one(Wait::Now)
    }

    /// Makes every run return as soon as the handler it is in has; later ones return zero until
    /// [`restart`](Self::restart). Any thread, also from a handler.
    pub fn stop(&self) {
        self.owner.core.stop();
    }

    /// Whether it was stopped, or ran out of work.
    pub fn stopped(&self) -> bool {
        self.owner.core.counts().2
    }

    /// Lets it run again, after a stop or when it ran out of work. A run that a stop ended still
    /// returns.
    pub fn restart(&self) {
        self.owner.core.restart();
    }

    /// Whether the calling thread is inside a run of this context.
    pub fn is_running_here(&self) -> bool {
        frames::is_inside(self.owner.core.name())
    }

    /// Queues a handler; some runner executes it.
    pub fn post(&self, handler: impl FnOnce() + Send + 'static) {
        // It is refused only after the last owner has gone.
        let _ = self.owner.core.post(Box::new(handler));
    }

    /// Runs a handler on the spot when the caller is inside this context and has budget left, else
    /// queues it.
    pub fn dispatch(&self, handler: impl FnOnce() + Send + 'static) {
        match frames::spend(self.owner.core.name()) {
            true => handler(),
            false => self.post(handler),
        }
    }

    /// Spawns a future: runners poll it, one at a time, whenever it was woken. It is work until it
    /// has ended. Dropping the [`Join`] lets it go on.
    pub fn spawn<F>(&self, future: F) -> Join<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.owner.core.spawn(future)
    }

    /// Submits an operation now; a runner calls `handler` with its result, or with the reason for
    /// which it was refused. It is work until the handler has run. Cancelling the [`Join`] cancels
    /// the operation and drops the handler without running it.
    pub fn submit<O, H>(&self, request: Request<Handle, O>, handler: H) -> Join<()>
    where
        O: Operation,
        H: FnOnce(Result<O::Output<Handle>, Failed<O>>) + Send + 'static,
    {
        let submitted = request.submit();
        self.spawn(async move {
            handler(match submitted {
                Ok(submission) => submission.await,
                Err(refused) => Err(refused),
            });
        })
    }

    fn enter(&self, name: &'static str) -> Result<Runner<'_>> {
        let core = &self.owner.core;
        if !core.handle.shared().origin.is_here() {
            return Err(inbox::forked(name));
        }
        let nested = frames::is_inside(core.name());
        Ok(Runner { core, entry: core.enter(), nested, _frame: Frame::enter(core.name()) })
    }
}

/// One thread inside a run.
struct Runner<'a> {
    core: &'a Arc<Core>,
    entry: Entry,
    /// Inside a handler of the same context: it must not wait for that.
    nested: bool,
    _frame: Frame,
}

impl Runner<'_> {
    /// Runs the next ready thing; false: nothing came, or it is over.
    fn one(&self, wait: Wait) -> bool {
        let wait = if self.nested { Wait::Now } else { wait };
        let Some(job) = self.core.next(self.entry, wait) else { return false };
        frames::begin_handler(self.core.budget());
        match job {
            Job::Call(handler) => {
                let _counted = Counted(self.core);
                handler();
            }
            Job::Task(task) => task.turn(),
        }
        true
    }
}

/// The handler counts as run, also when it panics.
struct Counted<'a>(&'a Core);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.work_ends();
    }
}

impl ContextHandle {
    /// As [`Context::post`].
    ///
    /// # Errors
    ///
    /// ShutDown, with the handler, when the context is gone.
    pub fn post<F: FnOnce() + Send + 'static>(&self, handler: F) -> Result<(), Failed<F>> {
        if self.core.is_closed() {
            return Err(Failed::new(gone("post"), handler));
        }
        // It may go between the look and the queue: then the handler is dropped, as those that
        // stood in the queue are.
        let _ = self.core.post(Box::new(handler));
        Ok(())
    }

    /// As [`Context::spawn`]; when the context is gone the [`Join`] says so.
    pub fn spawn<F>(&self, future: F) -> Join<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.core.spawn(future)
    }

    /// As [`Context::stop`].
    pub fn stop(&self) {
        self.core.stop();
    }

    /// As [`Context::is_running_here`].
    pub fn is_running_here(&self) -> bool {
        frames::is_inside(self.core.name())
    }

    /// As [`Context::driver`].
    pub fn driver(&self) -> Handle {
        self.core.handle.clone()
    }

    /// As [`Context::work`]. It does not keep the context: see [`Context`].
    pub fn work(&self) -> WorkGuard {
        self.core.work_begins();
        WorkGuard { core: self.core.clone() }
    }
}

/// Whether the caller's time is up, which handlers without end must not hide.
fn is_past(wait: Wait) -> bool {
    matches!(wait, Wait::Until(at) if Instant::now() >= at)
}

/// The error of what outlived its context.
fn gone(operation: &'static str) -> Error {
    Error::new(operation, ErrorKind::ShutDown, "the context is gone; make another")
}
