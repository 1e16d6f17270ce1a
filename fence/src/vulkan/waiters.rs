//! Threads that wait inside the driver, each for one thing.
//!
//! A thread begins when there is a job and no idle thread, up to the limit; beyond it a job is
//! refused, never queued behind a wait of which nobody knows the end. Idle threads stay for the
//! next job and end with the pool, whose end waits for all of them (but for the thread it runs
//! on): then nobody is inside the driver any more.
//!
//! # The end of a job
//!
//! A job goes into the driver by [`Wanted::inside`], for short waits, and leaves when it is
//! withdrawn. Whoever withdraws it waits until it is outside, and never for code of the user's that
//! the job runs there: that may want what the one who waits holds. What a job has to tell, it tells
//! when it is over; its thread counts as free before that, since whoever is told may want it. So a
//! job may be queued behind a callback, at the limit only, and never behind a wait.

use crate::device::{FenceError, FenceErrorKind};
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, lock};
use crate::{Semaphore, Wait};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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
    /// Each has a thread that will take it, idle or leaving.
    jobs: VecDeque<Job>,
    idle: usize,
    /// Threads whose job is over, but for what it tells.
    leaving: usize,
    threads: Vec<JoinHandle<()>>,
    ended: bool,
}

struct Job {
    wanted: Arc<Wanted>,
    work: Box<dyn FnOnce(&Wanted) -> Tell + Send>,
}

/// What is told when a job is over.
type Tell = Box<dyn FnOnce()>;

impl Waiters {
    pub(super) fn new(limit: usize) -> Waiters {
        Waiters { shared: Arc::default(), limit }
    }

    pub(super) fn threads(&self) -> usize {
        lock(&self.shared.state).threads.len()
    }

    /// Runs the job on a thread of its own, and then what the job gives, which tells of it.
    pub(super) fn run<T: FnOnce() + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Wanted) -> T + Send + 'static,
    ) -> Result<Arc<Wanted>, FenceError> {
        let wanted = Wanted::new(&self.shared);
        let work = Box::new(|wanted: &Wanted| -> Tell { Box::new(work(wanted)) });
        let job = Job { wanted: wanted.clone(), work };
        let mut state = lock(&self.shared.state);
        let (is_full, jobs) = (state.threads.len() >= self.limit, state.jobs.len());
        if state.idle > jobs || (is_full && state.idle + state.leaving > jobs) {
            state.jobs.push_back(job);
            self.shared.changed.notify_one();
            return Ok(wanted);
        }
        if is_full {
            return Err(self.refusal(operation));
        }
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("vulkan-waiter".to_owned());
        let thread = thread.spawn(move || serve(&shared, job)).map_err(|error| {
            let message =
                format!("a waiter thread could not be started: {error}; end some threads");
            FenceError::new(operation, FenceErrorKind::Exhausted, message)
                .with_errno(error.raw_os_error().unwrap_or_default())
        })?;
        state.threads.push(thread);
        Ok(wanted)
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

/// The life of a thread.
fn serve(shared: &Shared, first: Job) {
    let mut next = Some(first);
    while let Some(Job { wanted, work }) = next.take() {
        let tell = quietly(|| work(&wanted));
        wanted.free();
        quietly(|| wanted.left.signal(1));
        drop(wanted);
        tell.map(quietly);
        let mut state = lock(&shared.state);
        state.leaving -= 1;
        state.idle += 1;
        while state.jobs.is_empty() && !state.ended {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle -= 1;
        next = state.jobs.pop_front();
    }
}

/// Runs code of the user's. Of its panic the panic hook has told; the thread goes on.
pub(super) fn quietly<R>(user_code: impl FnOnce() -> R) -> Option<R> {
    // A payload may panic when it is dropped; it is leaked then.
    catch_unwind(AssertUnwindSafe(user_code)).map_err(std::mem::forget).ok()
}

impl Waiters {
    /// Ends the threads, and waits for them.
    pub(super) fn end(&self) {
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
    pool: Arc<Shared>,
    withdrawn: AtomicBool,
    /// Held inside the driver.
    inside: Mutex<()>,
    /// Whether its thread is counted as leaving.
    freed: AtomicBool,
    /// Reaches 1 when the job is over.
    left: Semaphore,
}

impl Wanted {
    fn new(pool: &Arc<Shared>) -> Arc<Wanted> {
        Arc::new(Wanted {
            pool: pool.clone(),
            withdrawn: AtomicBool::new(false),
            inside: Mutex::new(()),
            freed: AtomicBool::new(false),
            left: Semaphore::new(0),
        })
    }

    /// In the job: calls the driver, and no code of the user's. None: the job is withdrawn.
    pub(super) fn inside<R>(&self, call: impl FnOnce() -> R) -> Option<R> {
        let _inside = lock(&self.inside);
        (!self.withdrawn.load(Ordering::Acquire)).then(call)
    }

    /// Asks the job to leave, and gives the wait for that.
    pub(super) fn withdraw(&self) -> Wait {
        self.withdrawn.store(true, Ordering::Release);
        self.left.wait(1)
    }

    /// Asks the job to leave and waits until it is outside the driver, for good.
    pub(super) fn withdraw_blocking(&self) {
        drop(self.withdraw());
        drop(lock(&self.inside));
        self.free();
    }

    /// The thread has nothing to do for this any more.
    fn free(&self) {
        if !self.freed.swap(true, Ordering::AcqRel) {
            lock(&self.pool.state).leaving += 1;
        }
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
