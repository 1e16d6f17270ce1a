//! What the threads of a context share: the queue of ready work, the count of work, the stop.
//!
//! All of it is behind one mutex, so that "out of work", "stopped" and "a handler is there" are
//! never seen apart: the last piece of work and the stop it causes are one step. A runner that
//! finds nothing sleeps on the condition variable. Whoever queues wakes one sleeper; whoever stops
//! wakes all. A sleeper that is woken looks at the queue before its own time-out, and one that
//! leaves because of a stop passes the waking on, so no handler is left behind while somebody
//! sleeps.
//!
//! User code (handlers, futures, what is dropped) never runs with the lock held.

use super::join::{self, Join};
use super::task::Task;
use crate::proactor::Wait;
use crate::remote::handle::Handle;
use crate::run::panics::Panics;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A posted handler.
pub(super) type Handler = Box<dyn FnOnce() + Send>;

/// Something ready to run.
pub(super) enum Job {
    Call(Handler),
    Task(Arc<Task>),
}

/// How many stops there had been when a run began: one more ends it, whatever was restarted since.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

struct State {
    ready: VecDeque<Job>,
    /// Handlers that have not run, tasks that have not ended, guards.
    work: usize,
    sleeping: usize,
    stopped: bool,
    stops: u64,
    /// The last owner is gone.
    closed: bool,
    /// Tasks that have not ended, so that they can be dropped with the context.
    tasks: HashMap<u64, Arc<Task>>,
    next_task: u64,
}

/// See the head of this file.
pub(super) struct Core {
    state: Mutex<State>,
    changed: Condvar,
    budget: AtomicU32,
    pub(super) handle: Handle,
}

impl Core {
    pub(super) fn new(handle: Handle, budget: u32) -> Core {
        let state = State {
            ready: VecDeque::new(),
            work: 0,
            sleeping: 0,
            stopped: false,
            stops: 0,
            closed: false,
            tasks: HashMap::new(),
            next_task: 0,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Core { state, changed, budget: AtomicU32::new(budget), handle }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, unless this is a forked child: the thread that holds it there may not exist.
    fn here(&self) -> Option<MutexGuard<'_, State>> {
        self.handle.shared().origin.is_here().then(|| self.lock())
    }

    pub(super) fn name(self: &Arc<Core>) -> super::frames::Name {
        Arc::as_ptr(self) as usize
    }

    pub(super) fn budget(&self) -> u32 {
        self.budget.load(Ordering::Relaxed)
    }

    pub(super) fn set_budget(&self, calls: u32) {
        self.budget.store(calls, Ordering::Relaxed);
    }

    /// Ready, work, and whether it is stopped.
    pub(super) fn counts(&self) -> (usize, usize, bool) {
        self.here().map_or((0, 0, true), |state| (state.ready.len(), state.work, state.stopped))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.here().is_none_or(|state| state.closed)
    }

    pub(super) fn enter(&self) -> Entry {
        Entry(self.lock().stops)
    }

    /// The next thing to run, waiting for it if asked to. None: stopped, out of work, or the wait
    /// is over.
    pub(super) fn next(&self, entry: Entry, wait: Wait) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stopped || Entry(state.stops) != entry {
                self.pass_on(&state);
                return None;
            }
            if state.work == 0 {
                self.stop_with(&mut state);
                return None;
            }
            if let Some(job) = state.ready.pop_front() {
                return Some(job);
            }
            let left = match wait {
                Wait::Now => return None,
                Wait::Forever => None,
                Wait::Until(at) => Some(at.saturating_duration_since(Instant::now())),
            };
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            state.sleeping += 1;
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.sleeping -= 1;
        }
    }

    /// A runner leaves that may have been woken for what is ready.
    fn pass_on(&self, state: &State) {
        if !state.stopped && !state.ready.is_empty() && state.sleeping > 0 {
            self.changed.notify_one();
        }
    }

    fn push(&self, mut state: MutexGuard<'_, State>, job: Job) {
        state.ready.push_back(job);
        let wake = state.sleeping > 0;
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Queues a handler; it comes back when the context is gone.
    pub(super) fn post(&self, handler: Handler) -> Result<(), Handler> {
        let Some(mut state) = self.here().filter(|state| !state.closed) else {
            return Err(handler);
        };
        state.work += 1;
        self.push(state, Job::Call(handler));
        Ok(())
    }

    /// Queues a turn of a task, which is work already.
    pub(super) fn ready(&self, task: Arc<Task>) {
        if let Some(state) = self.here().filter(|state| !state.closed) {
            self.push(state, Job::Task(task));
        }
    }

    pub(super) fn spawn<F>(self: &Arc<Core>, future: F) -> Join<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (teller, join) = join::pair();
        let future = async move { teller.tell(future.await) };
        let Some(mut state) = self.here().filter(|state| !state.closed) else {
            // The teller in it says that the task was given up.
            drop(future);
            return join;
        };
        let id = state.next_task;
        state.next_task += 1;
        state.work += 1;
        let task = Arc::new(Task::new(id, self.clone(), Box::pin(future)));
        state.tasks.insert(id, task.clone());
        self.push(state, Job::Task(task.clone()));
        join.of(task)
    }

    /// A task has ended.
    pub(super) fn ended(&self, id: u64) {
        let task = self.here().and_then(|mut state| state.tasks.remove(&id));
        if task.is_some() {
            self.work_ends();
        }
    }

    pub(super) fn work_begins(&self) {
        if let Some(mut state) = self.here() {
            state.work += 1;
        }
    }

    /// One piece of work less; the last one stops the context.
    pub(super) fn work_ends(&self) {
        let Some(mut state) = self.here() else { return };
        state.work -= 1;
        if state.work == 0 {
            self.stop_with(&mut state);
        }
    }

    pub(super) fn stop(&self) {
        if let Some(mut state) = self.here() {
            self.stop_with(&mut state);
        }
    }

    fn stop_with(&self, state: &mut State) {
        state.stopped = true;
        state.stops += 1;
        self.changed.notify_all();
    }

    pub(super) fn restart(&self) {
        if let Some(mut state) = self.here() {
            state.stopped = false;
        }
    }

    /// The last owner goes: what stands here is dropped without being run.
    pub(super) fn close(&self) {
        let Some(mut state) = self.here() else { return };
        state.closed = true;
        self.stop_with(&mut state);
        let ready = std::mem::take(&mut state.ready);
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        // A handler that was never run ends its work here; tasks were counted once each.
        let calls = ready.iter().filter(|job| matches!(job, Job::Call(_))).count();
        self.lock().work -= calls + tasks.len();
        let mut panics = Panics::default();
        for job in ready {
            panics.guard(|| drop(job));
        }
        for task in tasks.into_values() {
            panics.guard(|| task.discard());
        }
        panics.resume();
    }
}
