//! Where the value of a spawned task is waited for.
//!
//! The task's side tells exactly once: its value, or, when it is dropped without one, that it
//! panicked or was given up. Wakers are user code and are cloned, woken and dropped outside the
//! lock.

use super::task::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::cell::keep_waker;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

const NAME: &str = "join a task";

struct State<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
    taken: bool,
}

/// What the two ends share.
struct Shared<T>(Mutex<State<T>>);

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, result: Result<T>) {
        let mut state = self.lock();
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The task's side.
pub(super) struct Teller<T> {
    shared: Arc<Shared<T>>,
    told: bool,
}

impl<T> Teller<T> {
    pub(super) fn tell(mut self, value: T) {
        self.told = true;
        self.shared.tell(Ok(value));
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let error = match std::thread::panicking() {
            true => Error::new(NAME, ErrorKind::Panicked, "the task panicked"),
            false => {
                let message = "the task was cancelled, or its context went before it ended";
                Error::new(NAME, ErrorKind::Cancelled, message)
            }
        };
        self.shared.tell(Err(error));
    }
}

/// The value of a spawned task, awaited on any executor. Dropping it lets the task go on.
///
/// # Errors
///
/// Panicked when the task panicked; Cancelled when it was cancelled, or dropped with its context.
pub struct Join<T> {
    shared: Arc<Shared<T>>,
    task: Option<Arc<Task>>,
}

impl<T> fmt::Debug for Join<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Join(finished: {})", self.is_finished())
    }
}

/// The two ends of one task's value.
pub(super) fn pair<T>() -> (Teller<T>, Join<T>) {
    let state = State { result: None, waker: None, taken: false };
    let shared = Arc::new(Shared(Mutex::new(state)));
    let teller = Teller { shared: shared.clone(), told: false };
    (teller, Join { shared, task: None })
}

impl<T> Join<T> {
    pub(super) fn of(mut self, task: Arc<Task>) -> Join<T> {
        self.task = Some(task);
        self
    }

    /// Whether its value, or the reason why there is none, is there or was taken.
    pub fn is_finished(&self) -> bool {
        let state = self.shared.lock();
        state.taken || state.result.is_some()
    }

    /// Takes the value if it is there, without waiting; None before, and after it was taken.
    pub fn try_take(&mut self) -> Option<Result<T>> {
        let mut state = self.shared.lock();
        let result = state.result.take();
        state.taken |= result.is_some();
        result
    }

    /// Asks for the end of the task: its next turn drops the future instead of polling it. A task
    /// that has ended, or ends first, is as it was.
    pub fn cancel(&self) {
        if let Some(task) = &self.task {
            task.clone().queue(true);
        }
    }

    /// None: pending, and this waker is not known yet.
    fn step(&self, waker: Result<Waker, &Waker>) -> Option<Poll<Result<T>>> {
        let mut state = self.shared.lock();
        if let Some(result) = state.result.take() {
            state.taken = true;
            return Some(Poll::Ready(result));
        }
        if state.taken {
            let message = "its value was taken already";
            return Some(Poll::Ready(Err(Error::new(NAME, ErrorKind::NotFound, message))));
        }
        let stale = keep_waker(&mut state.waker, waker)?;
        drop(state);
        drop(stale);
        Some(Poll::Pending)
    }
}

impl<T> Future for Join<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        match self.step(Err(cx.waker())) {
            // Cloned outside the lock: a waker is user code.
            None => self.step(Ok(cx.waker().clone())).unwrap_or(Poll::Pending),
            Some(step) => step,
        }
    }
}
