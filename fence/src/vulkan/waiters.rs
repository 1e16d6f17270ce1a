//! Threads that wait inside the driver, each for one thing.
//!
//! A thread begins when there is a job and no idle thread, up to the limit; beyond it a job is
//! refused, never queued behind a wait of which nobody knows the end. Idle threads stay for the
//! next job and end with the pool, whose drop waits for all of them (but for the thread it runs
//! on): then nobody is inside the driver any more.
//!
//! A job looks at its [`Wanted`] between short waits, and leaves when that is withdrawn.

use crate::device::{FenceError, FenceErrorKind};
use crate::sync::{Condvar, Mutex, lock};
use crate::{Semaphore, Wait};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Waiters {
    shared: Arc<Shared>,
    limit: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Each has an idle thread that will take it.
    jobs: VecDeque<Job>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    ended: bool,
}

impl Waiters {
    pub(super) fn new(limit: usize) -> Waiters {
        Waiters { shared: Arc::default(), limit }
    }

    pub(super) fn threads(&self) -> usize {
        lock(&self.shared.state).threads.len()
    }

    /// Runs the job on a thread of its own.
    pub(super) fn run(
        &self,
        operation: &'static str,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), FenceError> {
        let mut state = lock(&self.shared.state);
        if state.idle > state.jobs.len() {
            state.jobs.push_back(Box::new(job));
            self.shared.changed.notify_one();
            return Ok(());
        }
        if state.threads.len() >= self.limit {
            return Err(self.refusal(operation));
        }
        let shared = self.shared.clone();
        let first: Job = Box::new(job);
        let thread = thread::Builder::new().name("vulkan-waiter".to_owned());
        let thread = thread.spawn(move || serve(&shared, first)).map_err(|error| {
            let message =
                format!("a waiter thread could not be started: {error}; end some threads");
            FenceError::new(operation, FenceErrorKind::Exhausted, message)
                .with_errno(error.raw_os_error().unwrap_or_default())
        })?;
        state.threads.push(thread);
        Ok(())
    }

    fn refusal(&self, operation: &'static str) -> FenceError {
        let (kind, message) = match self.limit {
            0 => (
                FenceErrorKind::Unsupported,
                "the device was given no waiter threads; allow some with \
                 VulkanDevice::with_waiters"
                    .to_owned(),
            ),
            limit => (
                FenceErrorKind::Exhausted,
                format!(
                    "all {limit} waiter threads wait; drop a bridge or a wait, or allow more with \
                     VulkanDevice::with_waiters"
                ),
            ),
        };
        FenceError::new(operation, kind, message)
    }
}

/// The life of a thread. What a job leaves by a panic of the user's code (a callback of a
/// semaphore's) has been reported by the panic hook; the thread goes on.
fn serve(shared: &Shared, first: Job) {
    let mut job = Some(first);
    loop {
        if let Some(job) = job.take() {
            // A payload may panic when it is dropped; it is leaked then.
            let _ = catch_unwind(AssertUnwindSafe(job)).map_err(std::mem::forget);
        }
        let mut state = lock(&shared.state);
        state.idle += 1;
        while state.jobs.is_empty() && !state.ended {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle -= 1;
        job = state.jobs.pop_front();
        if job.is_none() {
            return;
        }
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        let threads = {
            let mut state = lock(&self.shared.state);
            state.ended = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.changed.notify_all();
        for thread in threads {
            // In a callback, the thread that drops the last handle is one of them.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// How long to wait inside the driver before looking whether the wait is still wanted: short at
/// first, since what is soon over is soon dropped too, and longer each time.
pub(super) struct Look(Duration);

impl Look {
    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(50);

    pub(super) fn new() -> Look {
        Look(Look::SHORTEST)
    }

    /// The time for the next wait.
    pub(super) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(Look::LONGEST);
        now
    }
}

/// Whether a job is still wanted, and whether it has left the driver.
pub(super) struct Wanted {
    withdrawn: AtomicBool,
    thread: OnceLock<ThreadId>,
    /// Reaches 1 when the job has ended.
    left: Semaphore,
}

impl Wanted {
    pub(super) fn new() -> Arc<Wanted> {
        Arc::new(Wanted {
            withdrawn: AtomicBool::new(false),
            thread: OnceLock::new(),
            left: Semaphore::new(0),
        })
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// In the job: it ends when this is dropped.
    pub(super) fn begin(self: &Arc<Wanted>) -> Begun {
        self.thread.get_or_init(|| thread::current().id());
        Begun(self.clone())
    }

    /// Asks the job to leave, and gives the wait for that.
    pub(super) fn withdraw(&self) -> Wait {
        self.withdrawn.store(true, Ordering::Release);
        self.left.wait(1)
    }

    /// Asks the job to leave and waits until it has. From inside the job itself (a callback that
    /// drops what it is told by) it only asks: the job makes no call after that.
    pub(super) fn withdraw_blocking(&self) {
        drop(self.withdraw());
        if self.thread.get() != Some(&thread::current().id()) {
            // It never fails and has no deadline.
            let _ = self.left.wait_blocking(1, None);
        }
    }
}

/// A job under way.
pub(super) struct Begun(Arc<Wanted>);

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = self.0.left.signal(1);
    }
}

/// A value that a job hands over.
pub(super) struct Handed<T>(Mutex<Option<T>>);

impl<T> Handed<T> {
    pub(super) fn new() -> Arc<Handed<T>> {
        Arc::new(Handed(Mutex::new(None)))
    }

    pub(super) fn put(&self, value: T) {
        *lock(&self.0) = Some(value);
    }

    pub(super) fn take(&self) -> Option<T> {
        lock(&self.0).take()
    }
}
