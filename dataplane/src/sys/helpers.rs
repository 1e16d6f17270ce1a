//! The helper threads: a small pool for calls that block and have no other form, which is file
//! I/O on the readiness backend and name resolution.
//!
//! A proactor owns one pool and hands it jobs from its thread; the threads run the jobs, which
//! report their results through the proactor's inbox. No user code runs here.
//!
//! # Rules
//!
//! * Nothing starts before the first job. A job starts a thread when there are more jobs waiting
//!   than threads idle and the bound is not reached. A thread idle for [`IDLE_AFTER`] ends.
//! * The pool is bounded twice: in threads by whoever makes it (zero: every job is refused as
//!   unavailable), in waiting jobs by [`MAX_QUEUED`]. A refused job is handed back.
//! * Jobs start in the order they were handed in. A waiting job can be cancelled; one that has
//!   started runs to its end.
//! * A job that panics has failed alone: the thread goes on with the next. (The panic hook
//!   prints as ever; and the job's result is never reported, so a job that owes one must owe it
//!   from a drop.)
//! * Dropping the pool drops the waiting jobs without running them, and detaches the threads:
//!   each ends after the job it is running, which therefore must own all it touches.
//! * A job is never dropped under the pool's lock, so its drop may use the pool.
//!
//! # Threads
//!
//! All calls are for any thread, and not for signal handlers: there is a lock. A forked child has
//! no helper threads and may find the lock held for ever: there the pool must be forgotten
//! (`mem::forget`), not dropped.
//!
//! The threads are named `name-0`, `name-1` and so on; the kernel keeps 15 bytes of that. They
//! block every signal that arrives from outside, so that no handler of the program runs on them.
//! Signals that a thread raises itself (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS) stay
//! open: blocked, they would end the process without the handler that reports them
//! (sigprocmask(2)).
//!
//! # Unsafe
//!
//! Setting a thread's signal mask.

#![allow(unsafe_code)]

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::sync::Arc;

/// How many jobs may wait for a thread.
pub(crate) const MAX_QUEUED: usize = 1024;
/// How long a thread waits for a job before it ends.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(5);
/// The stack of a thread: address space, of which only what is touched costs memory. Name
/// resolution runs whatever modules nsswitch.conf(5) names.
const STACK_BYTES: usize = 2 << 20;

/// Something that blocks.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Names a job that was accepted, for [`Helpers::cancel`]. Never reused within a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobId(u64);

/// Why a job was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HelpersError {
    /// The pool may have no threads.
    Unavailable,
    /// As many jobs are waiting as may.
    Exhausted,
    /// There is no thread and none could be started: the errno, EAGAIN for the limits that
    /// pthread_create(3) lists.
    CannotStart(i32),
}

/// A bounded pool of threads for blocking calls.
#[derive(Debug)]
pub(crate) struct Helpers {
    name: String,
    max_threads: usize,
    max_queued: usize,
    stack_bytes: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A job was queued, or the pool closed.
    changed: Condvar,
    idle_after: Duration,
}

#[derive(Default)]
struct State {
    /// Ascending by id.
    queue: VecDeque<(JobId, Job)>,
    next_id: u64,
    /// Which thread numbers are taken; a thread counts from before it starts.
    taken: Vec<bool>,
    /// Threads waiting for a job, also those notified and not yet awake.
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("queued", &self.queue.len())
            .field("threads", &self.threads())
            .field("idle", &self.idle)
            .field("closed", &self.closed)
            .finish()
    }
}

impl State {
    fn threads(&self) -> usize {
        self.taken.iter().filter(|&&taken| taken).count()
    }

    /// Takes the lowest free thread number.
    fn take_number(&mut self) -> usize {
        let number = self.taken.iter().position(|taken| !taken).unwrap_or(self.taken.len());
        if number == self.taken.len() {
            self.taken.push(true);
        } else {
            self.taken[number] = true;
        }
        number
    }
}

impl Shared {
    /// No code of a job runs under the lock, so a poisoned one is in order.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Helpers {
    /// A pool of up to `max_threads` threads; starts none.
    pub(crate) fn new(name: &str, max_threads: usize) -> Self {
        Self::with_bounds(name, max_threads, MAX_QUEUED, IDLE_AFTER)
    }

    fn with_bounds(name: &str, max_threads: usize, max_queued: usize, idle: Duration) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), idle_after: idle };
        let (name, shared) = (name.to_owned(), Arc::new(shared));
        Self { name, max_threads, max_queued, stack_bytes: STACK_BYTES, shared }
    }

    /// Hands a job in. It never waits for a job, but may take the time of starting a thread.
    ///
    /// # Errors
    ///
    /// The job comes back with the reason, see [`HelpersError`].
    pub(crate) fn run(&self, job: Job) -> Result<JobId, (HelpersError, Job)> {
        if self.max_threads == 0 {
            return Err((HelpersError::Unavailable, job));
        }
        let mut state = self.shared.lock();
        if state.queue.len() >= self.max_queued {
            return Err((HelpersError::Exhausted, job));
        }
        if state.queue.len() >= state.idle && state.threads() < self.max_threads {
            // Under the lock, so that no job can be queued in the belief that this thread, which
            // may yet fail to start, will run it. With other threads there, it waits for them.
            let started = self.start_thread(&mut state);
            if let (Err(error), 0) = (started, state.threads()) {
                let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                return Err((HelpersError::CannotStart(errno), job));
            }
        }
        let id = JobId(state.next_id);
        state.next_id += 1;
        state.queue.push_back((id, job));
        drop(state);
        self.shared.changed.notify_one();
        Ok(id)
    }

    /// Takes a job back. True: it had not started and never will, and its box has been dropped.
    /// False: it is running, or over.
    pub(crate) fn cancel(&self, id: JobId) -> bool {
        let job = {
            let mut state = self.shared.lock();
            match state.queue.binary_search_by_key(&id.0, |(queued, _)| queued.0) {
                Ok(index) => state.queue.remove(index),
                Err(_) => None,
            }
        };
        job.is_some()
    }

    /// The most threads there may be.
    pub(crate) fn max_threads(&self) -> usize {
        self.max_threads
    }

    /// Threads there are, busy or idle.
    pub(crate) fn threads(&self) -> usize {
        self.shared.lock().threads()
    }

    /// Jobs waiting for a thread.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.shared.lock().queue.len()
    }

    fn start_thread(&self, state: &mut State) -> io::Result<()> {
        let number = state.take_number();
        let shared = Arc::clone(&self.shared);
        let builder = thread::Builder::new()
            .name(format!("{}-{number}", self.name))
            .stack_size(self.stack_bytes);
        // A thread inherits the mask of the one that starts it, so it never has any other.
        let mask = block_signals();
        let started = builder.spawn(move || serve(&shared, number));
        restore_signals(&mask);
        if started.is_err() {
            state.taken[number] = false;
        }
        started.map(drop)
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        let abandoned = {
            let mut state = self.shared.lock();
            state.closed = true;
            mem::take(&mut state.queue)
        };
        self.shared.changed.notify_all();
        drop(abandoned);
    }
}

/// The life of a thread: jobs until there has been none for a while, or the pool is gone.
fn serve(shared: &Shared, number: usize) {
    while let Some(job) = next_job(shared, number) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
            discard(panic);
        }
    }
}

/// The next job, or none: then this thread is counted out already, and has to end.
fn next_job(shared: &Shared, number: usize) -> Option<Job> {
    let mut state = shared.lock();
    let mut waited = false;
    loop {
        if let Some((_, job)) = state.queue.pop_front() {
            return Some(job);
        }
        if state.closed || waited {
            state.taken[number] = false;
            return None;
        }
        state.idle += 1;
        let woken = shared.changed.wait_timeout(state, shared.idle_after);
        let (guard, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
        state = guard;
        state.idle -= 1;
        waited = timeout.timed_out();
    }
}

/// Drops what a job panicked with, which may panic in turn; what that panics with is leaked.
fn discard(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(again);
    }
}

/// Signals that a thread's own instructions raise.
const FAULTS: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// Blocks all signals but faults for the calling thread, and returns its mask from before.
fn block_signals() -> libc::sigset_t {
    // SAFETY: a signal set is plain bits, for which zero is a value; sigfillset writes it whole.
    let (mut blocked, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { mem::zeroed() };
    // SAFETY: both sets are ours. pthread_sigmask fails only for an unknown first argument.
    unsafe {
        libc::sigfillset(&mut blocked);
        for signal in FAULTS {
            libc::sigdelset(&mut blocked, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &blocked, &mut before);
    }
    before
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: the mask comes from `block_signals`; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::time::Instant;

    /// Far longer than anything here takes; only a hang reaches it.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn accept(helpers: &Helpers, job: impl FnOnce() + Send + 'static) -> JobId {
        helpers.run(Box::new(job)).map_err(|(error, _)| error).unwrap()
    }

    /// Puts a job on a thread and returns once it runs; it ends when the sender is dropped.
    fn occupy(helpers: &Helpers) -> Sender<()> {
        let (hold, held) = mpsc::channel::<()>();
        let (running, started) = mpsc::channel();
        accept(helpers, move || {
            running.send(()).unwrap();
            let _ = held.recv();
        });
        started.recv_timeout(PATIENCE).unwrap();
        hold
    }

    fn result_of<T: Send + 'static>(
        helpers: &Helpers,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (send, receive): (Sender<T>, Receiver<T>) = mpsc::channel();
        accept(helpers, move || send.send(work()).unwrap());
        receive.recv_timeout(PATIENCE).unwrap()
    }

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "still not: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Counts its drops, and uses the pool's lock while it drops.
    struct Counted(Arc<AtomicUsize>, std::sync::Weak<Helpers>);

    impl Drop for Counted {
        fn drop(&mut self) {
            if let Some(helpers) = self.1.upgrade() {
                helpers.queued();
            }
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn without_threads_every_job_comes_back() {
        let helpers = Helpers::new("none", 0);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        let refused = helpers.run(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let (error, job) = refused.unwrap_err();
        assert_eq!(error, HelpersError::Unavailable);
        job();
        assert_eq!(ran.load(Ordering::SeqCst), 1, "the very job that was handed in");
    }

    #[test]
    fn threads_start_on_first_use_and_carry_a_name() {
        let helpers = Helpers::new("files", 2);
        assert_eq!(helpers.threads(), 0);
        let name = result_of(&helpers, || thread::current().name().unwrap().to_owned());
        assert_eq!(name, "files-0");
        assert_eq!(helpers.threads(), 1);
    }

    #[test]
    fn both_bounds_hold() {
        let helpers = Helpers::with_bounds("bounds", 2, 3, IDLE_AFTER);
        let holds = [occupy(&helpers), occupy(&helpers)];
        let (send, receive) = mpsc::channel();
        for index in 0..3 {
            let send = send.clone();
            accept(&helpers, move || send.send(index).unwrap());
        }
        assert_eq!((helpers.threads(), helpers.queued()), (2, 3));
        let (error, _job) = helpers.run(Box::new(|| ())).unwrap_err();
        assert_eq!(error, HelpersError::Exhausted);
        let [first, second] = holds;
        drop(first);
        let order: Vec<i32> = (0..3).map(|_| receive.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!(order, [0, 1, 2], "one thread, so in the order they were handed in");
        accept(&helpers, || ());
        drop(second);
        assert_eq!(helpers.threads(), 2);
    }

    #[test]
    fn a_thread_that_cannot_start_is_reported_unless_others_will_do() {
        let mut helpers = Helpers::new("start", 2);
        helpers.stack_bytes = 1 << 50; // more than any address space has
        let (error, _job) = helpers.run(Box::new(|| ())).unwrap_err();
        assert_eq!(error, HelpersError::CannotStart(libc::EAGAIN));
        assert_eq!((helpers.threads(), helpers.queued()), (0, 0));

        helpers.stack_bytes = STACK_BYTES;
        let hold = occupy(&helpers);
        helpers.stack_bytes = 1 << 50;
        let (send, receive) = mpsc::channel();
        accept(&helpers, move || send.send(()).unwrap());
        assert_eq!((helpers.threads(), helpers.queued()), (1, 1));
        drop(hold);
        receive.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn idle_threads_end_and_come_back() {
        let helpers = Helpers::with_bounds("idle", 3, 8, Duration::from_millis(5));
        let holds = [occupy(&helpers), occupy(&helpers), occupy(&helpers)];
        assert_eq!(helpers.threads(), 3);
        drop(holds);
        wait_until("idle threads end", || helpers.threads() == 0);
        assert_eq!(result_of(&helpers, || 7), 7);
    }

    #[test]
    fn a_waiting_job_can_be_cancelled_and_a_started_one_cannot() {
        let helpers = Arc::new(Helpers::new("cancel", 1));
        let (running, started) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        let first = accept(&helpers, move || {
            running.send(()).unwrap();
            let _ = held.recv();
        });
        started.recv_timeout(PATIENCE).unwrap();
        let drops = Arc::new(AtomicUsize::new(0));
        let counted = Counted(drops.clone(), Arc::downgrade(&helpers));
        let second = accept(&helpers, move || unreachable!("{:p} was cancelled", &counted));
        assert!(!helpers.cancel(first), "it runs");
        assert!(helpers.cancel(second));
        assert_eq!(drops.load(Ordering::SeqCst), 1, "dropped at once");
        assert!(!helpers.cancel(second));
        drop(hold);
        assert_eq!(result_of(&helpers, || 1), 1);
        assert!(!helpers.cancel(first), "it is over");
    }

    #[test]
    fn a_panicking_job_takes_nothing_along() {
        /// A panic payload that panics again when it is dropped.
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new("from the payload"));
            }
        }
        let helpers = Helpers::new("panic", 1);
        let before = result_of(&helpers, || thread::current().id());
        accept(&helpers, || std::panic::resume_unwind(Box::new("from the job")));
        accept(&helpers, || std::panic::resume_unwind(Box::new(Grenade)));
        assert_eq!(result_of(&helpers, || thread::current().id()), before, "the same thread");
        assert_eq!(helpers.threads(), 1);
    }

    #[test]
    fn dropping_the_pool_drops_waiting_jobs_and_leaves_running_ones_alone() {
        let helpers = Helpers::new("drop", 1);
        let (hold, held) = mpsc::channel::<()>();
        let (report, reported) = mpsc::channel();
        accept(&helpers, move || {
            report.send("running").unwrap();
            let _ = held.recv();
            report.send("finished").unwrap();
        });
        assert_eq!(reported.recv_timeout(PATIENCE).unwrap(), "running");
        let drops = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 {
            let counted = Counted(drops.clone(), std::sync::Weak::new());
            accept(&helpers, move || unreachable!("{:p} never starts", &counted));
        }
        let shared = Arc::downgrade(&helpers.shared);
        drop(helpers);
        assert_eq!(drops.load(Ordering::SeqCst), 3);
        assert_eq!(reported.try_recv(), Err(mpsc::TryRecvError::Empty), "still running");
        drop(hold);
        assert_eq!(reported.recv_timeout(PATIENCE).unwrap(), "finished");
        wait_until("the thread ends", || shared.upgrade().is_none());
    }

    #[test]
    fn helpers_block_signals_from_outside_and_their_starter_is_as_before() {
        fn blocked() -> u64 {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap()
        }
        let has = |mask: u64, signal: i32| mask >> (signal - 1) & 1 == 1;
        let before = blocked();
        let mask = result_of(&Helpers::new("mask", 1), blocked);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGCHLD] {
            assert!(has(mask, signal), "signal {signal} is open: {mask:x}");
        }
        for signal in FAULTS {
            assert!(!has(mask, signal), "signal {signal} is blocked: {mask:x}");
        }
        assert_eq!(blocked(), before);
    }
}
