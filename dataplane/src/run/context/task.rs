//! A future spawned on a context.
//!
//! It is queued when it is woken and not queued already; a waking while it runs queues it again
//! when its turn is over. So it stands in the queue at most once and is polled by one runner at a
//! time. The future is taken out of the mutex for its turn: polling and dropping it is user code
//! and runs with no lock held.

use super::core::Core;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

pub(super) type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits to be woken.
    Idle,
    /// Stands in the queue.
    Queued,
    /// A runner polls it.
    Running,
    /// A runner polls it, and it was woken since.
    Woken,
    Over,
}

struct State {
    phase: Phase,
    cancelled: bool,
    /// None while it runs, and when it is over.
    future: Option<TaskFuture>,
}

/// See the head of this file.
pub(super) struct Task {
    id: u64,
    core: Arc<Core>,
    state: Mutex<State>,
}

/// Ends the task when its turn panics.
struct Turn<'a> {
    task: &'a Task,
    over: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.over {
            self.task.lock().phase = Phase::Over;
            self.task.core.ended(self.task.id);
        }
    }
}

impl Task {
    /// Queued from the beginning.
    pub(super) fn new(id: u64, core: Arc<Core>, future: TaskFuture) -> Task {
        let state = State { phase: Phase::Queued, cancelled: false, future: Some(future) };
        Task { id, core, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the future once, or drops it when it was cancelled.
    pub(super) fn turn(self: Arc<Task>) {
        // Dropped after the future: the task is over when nothing of it is left.
        let mut turn = Turn { task: &self, over: true };
        let mut state = self.lock();
        let Some(mut future) = state.future.take() else {
            // The context went meanwhile.
            drop(state);
            turn.over = false;
            return;
        };
        state.phase = Phase::Running;
        let cancelled = state.cancelled;
        drop(state);
        if cancelled {
            return drop(future);
        }
        let waker = Waker::from(self.clone());
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return drop(future);
        }
        turn.over = false;
        let mut state = self.lock();
        state.future = Some(future);
        let again = state.phase == Phase::Woken;
        state.phase = if again { Phase::Queued } else { Phase::Idle };
        drop(state);
        if again {
            self.core.ready(self.clone());
        }
    }

    /// It was woken, or is to end.
    pub(super) fn queue(self: Arc<Task>, cancel: bool) {
        let mut state = self.lock();
        state.cancelled |= cancel;
        match state.phase {
            Phase::Idle => {
                state.phase = Phase::Queued;
                drop(state);
                self.core.clone().ready(self);
            }
            Phase::Running => state.phase = Phase::Woken,
            Phase::Queued | Phase::Woken | Phase::Over => {}
        }
    }

    /// Its context goes.
    pub(super) fn discard(&self) {
        let mut state = self.lock();
        state.phase = Phase::Over;
        let future = state.future.take();
        drop(state);
        drop(future);
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.queue(false);
    }
}
