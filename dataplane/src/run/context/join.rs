//! Where the value of a spawned task is waited for.
//!
//! The task's side tells exactly once: its value, or, when it is dropped without one, that it
//! panicked or was given up. Wakers are user code and are cloned, woken and dropped outside the
//! lock.

use crate::error::{Error, ErrorKind, Result};
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

const NAME: &str = "join a task";

#[doc(hidden)]
pub struct State<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
    taken: bool,
}

impl<T> Default for State<T> {
    fn default() -> State<T> {
        State { result: None, waker: None, taken: false }
    }
}

/// What the two ends share, between threads or within one.
#[doc(hidden)]
pub trait Shared<T>: Clone + Default {
    fn with<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R;
}

/// Between threads.
#[doc(hidden)]
pub struct Sent<T>(Arc<Mutex<State<T>>>);

/// On one thread, without a lock.
#[doc(hidden)]
pub struct Kept<T>(Rc<RefCell<State<T>>>);

impl<T> Clone for Sent<T> {
    fn clone(&self) -> Sent<T> {
        Sent(self.0.clone())
    }
}

impl<T> Default for Sent<T> {
    fn default() -> Sent<T> {
        Sent(Arc::new(Mutex::new(State::default())))
    }
}

impl<T> Shared<T> for Sent<T> {
    fn with<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Kept<T> {
        Kept(self.0.clone())
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept(Rc::new(RefCell::new(State::default())))
    }
}

impl<T> Shared<T> for Kept<T> {
    fn with<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

fn tell<T>(shared: &impl Shared<T>, result: Result<T>) {
    let waker = shared.with(|state| {
        state.result = Some(result);
        state.waker.take()
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The task's side.
pub(super) struct Teller<T, S: Shared<T>> {
    shared: S,
    told: bool,
    value: PhantomData<fn(T)>,
}

impl<T, S: Shared<T>> Teller<T, S> {
    pub(super) fn tell(mut self, value: T) {
        self.told = true;
        tell(&self.shared, Ok(value));
    }
}

impl<T, S: Shared<T>> Drop for Teller<T, S> {
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
        tell(&self.shared, Err(error));
    }
}

/// Asks a task to end.
pub(super) trait Cancel: Send + Sync {
    fn cancel(self: Arc<Self>);
}

/// The value of a spawned task, awaited on any executor. Dropping it lets the task go on.
///
/// # Errors
///
/// Panicked when the task panicked; Cancelled when it was cancelled, or dropped with its context.
pub struct Join<T, S: Shared<T> = Sent<T>> {
    shared: S,
    task: Option<Arc<dyn Cancel>>,
    value: PhantomData<fn() -> T>,
}

/// The value of a task spawned on a [`LocalContext`](super::local::LocalContext): see [`Join`].
pub type LocalJoin<T> = Join<T, Kept<T>>;

impl<T, S: Shared<T>> fmt::Debug for Join<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Join(finished: {})", self.is_finished())
    }
}

/// The two ends of one task's value.
pub(super) fn pair<T, S: Shared<T>>() -> (Teller<T, S>, Join<T, S>) {
    let shared = S::default();
    let teller = Teller { shared: shared.clone(), told: false, value: PhantomData };
    (teller, Join { shared, task: None, value: PhantomData })
}

impl<T, S: Shared<T>> Join<T, S> {
    pub(super) fn of(mut self, task: Arc<dyn Cancel>) -> Join<T, S> {
        self.task = Some(task);
        self
    }

    /// Whether its value, or the reason why there is none, is there or was taken.
    pub fn is_finished(&self) -> bool {
        self.shared.with(|state| state.taken || state.result.is_some())
    }

    /// Takes the value if it is there, without waiting; None before, and after it was taken.
    pub fn try_take(&mut self) -> Option<Result<T>> {
        self.shared.with(|state| {
            let result = state.result.take();
            state.taken |= result.is_some();
            result
        })
    }

    /// Asks for the end of the task: its next turn drops the future instead of polling it. A task
    /// that has ended, or ends first, is as it was.
    pub fn cancel(&self) {
        if let Some(task) = &self.task {
            task.clone().cancel();
        }
    }

    /// None: pending, and this waker is not known yet.
    fn step(&self, waker: Result<Waker, &Waker>) -> Option<Poll<Result<T>>> {
        let step = self.shared.with(|state| {
            if let Some(result) = state.result.take() {
                state.taken = true;
                return Step::Told(result);
            }
            if state.taken {
                let message = "its value was taken already";
                return Step::Told(Err(Error::new(NAME, ErrorKind::NotFound, message)));
            }
            match waker {
                Ok(fresh) => Step::Pending(state.waker.replace(fresh)),
                Err(waker) if state.waker.as_ref().is_some_and(|own| own.will_wake(waker)) => {
                    Step::Pending(None)
                }
                Err(_) => Step::Unknown,
            }
        });
        match step {
            Step::Told(result) => Some(Poll::Ready(result)),
            Step::Pending(_stale) => Some(Poll::Pending),
            Step::Unknown => None,
        }
    }
}

enum Step<T> {
    Told(Result<T>),
    /// With the waker it had before.
    Pending(Option<Waker>),
    Unknown,
}

impl<T, S: Shared<T> + Unpin> Future for Join<T, S> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        match self.step(Err(cx.waker())) {
            // Cloned outside the lock: a waker is user code.
            None => self.step(Ok(cx.waker().clone())).unwrap_or(Poll::Pending),
            Some(step) => step,
        }
    }
}
