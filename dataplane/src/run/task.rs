//! A task's handle, and the future it stands for.
//!
//! [`Proactor::spawn`] takes a future of this thread, which need not be `Send`. It is polled inside
//! [`Proactor::poll`] (and so by `block_on`), on the loop's thread, first by the next turn and then
//! when it was woken; see the head of `run/executor.rs` for fairness and panics.
//! [`LocalContext::spawn`](crate::LocalContext::spawn) gives the same handle to a task that its run
//! polls.
//!
//! The handle is a future of the task's value. Dropping it *detaches* the task, which goes on by
//! itself; [`abort`](Task::abort) ends it.

use super::executor::{Boxed, Executor, Joined, TaskId};
use crate::error::Result;
use crate::proactor::Proactor;
use pin_project_lite::pin_project;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pin_project! {
    /// A future, and then its value in the same place.
    #[project = Stage]
    enum Staged<F: Future> {
        Running { #[pin] future: F },
        Done { value: Option<F::Output> },
    }
}

/// A task of whatever type.
pub(crate) trait Run {
    /// Polls it; ready once it has a value.
    fn run(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;

    /// Moves its value into an `Option` of the value's type.
    fn hand_over(self: Pin<&mut Self>, to: &mut dyn Any);
}

impl<F: Future + 'static> Run for Staged<F> {
    fn run(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Stage::Running { future } = self.as_mut().project() else { return Poll::Ready(()) };
        let Poll::Ready(value) = future.poll(cx) else { return Poll::Pending };
        self.set(Staged::Done { value: Some(value) });
        Poll::Ready(())
    }

    fn hand_over(self: Pin<&mut Self>, to: &mut dyn Any) {
        if let (Stage::Done { value }, Some(to)) = (self.project(), to.downcast_mut()) {
            *to = value.take();
        }
    }
}

/// A future the proactor drives; awaiting it gives the future's value.
///
/// Dropping it detaches the task: it goes on, and its value is dropped. It is not `Send`: it
/// belongs to the loop's thread, like the task.
///
/// # Errors
///
/// Awaiting it gives Cancelled when the task was [aborted](Self::abort), ShutDown when the
/// proactor ended first, Forked in a forked child. A task of a [`LocalContext`] gives Cancelled
/// when that went first, and Panicked when it panicked: its panic has left the run.
///
/// # Panics
///
/// Awaiting a task of the proactor panics with the task's own panic.
///
/// [`LocalContext`]: crate::LocalContext
pub struct Task<T> {
    executor: Rc<Executor>,
    id: Option<TaskId>,
    typed: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task(finished: {})", self.is_finished())
    }
}

impl<T> Task<T> {
    /// Ends it: its future is dropped before this returns, unless it is the task that is calling,
    /// whose future is dropped when its poll returns. Joining it gives Cancelled. A task that is
    /// over keeps its value.
    pub fn abort(&self) {
        if let Some(id) = self.here() {
            self.executor.abort(id);
        }
    }

    /// Whether it has a value, panicked, or was ended.
    pub fn is_finished(&self) -> bool {
        self.id.is_none_or(|id| self.executor.is_finished(id))
    }

    /// Lets it go on by itself; the same as dropping the handle, said aloud.
    pub fn detach(self) {}

    fn here(&self) -> Option<TaskId> {
        self.id.filter(|_| self.executor.is_here())
    }
}

impl<T: 'static> Task<T> {
    pub(super) fn start<F>(executor: &Rc<Executor>, future: F) -> Task<T>
    where
        F: Future<Output = T> + 'static,
    {
        let task: Boxed = Box::pin(Staged::Running { future });
        let placed = match executor.is_here() {
            true => executor.spawn(task),
            false => Err(task),
        };
        // A refused one is dropped with nothing borrowed.
        let id = placed.ok();
        if id.is_some() {
            executor.ready.shared.rouse();
        }
        Task { executor: executor.clone(), id, typed: PhantomData }
    }

    /// Its value, or why there is none, without waiting. None before, and after it was taken.
    ///
    /// # Panics
    ///
    /// As awaiting it.
    pub fn try_take(&mut self) -> Option<Result<T>> {
        // The waker of whoever awaits it stays where it is.
        match self.step(self.here()?, Err(Waker::noop()))? {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => None,
        }
    }

    fn step(&mut self, id: TaskId, waker: Result<Waker, &Waker>) -> Option<Poll<Result<T>>> {
        let ended = match self.executor.join(id, waker) {
            Joined::Unknown => return None,
            Joined::Pending => return Some(Poll::Pending),
            Joined::Ended(end) => {
                self.id = None;
                Err(end.raise())
            }
            Joined::Done(mut task) => {
                self.id = None;
                let mut value = None::<T>;
                task.as_mut().hand_over(&mut value);
                value.ok_or_else(|| self.executor.gone())
            }
        };
        Some(Poll::Ready(ended))
    }
}

impl<T: 'static> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let Some(id) = self.here() else { return Poll::Ready(Err(self.executor.gone())) };
        match self.step(id, Err(cx.waker())) {
            // Cloned with nothing borrowed: a waker is user code.
            None => self.step(id, Ok(cx.waker().clone())).unwrap_or(Poll::Pending),
            Some(step) => step,
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(id) = self.here() {
            self.executor.detach(id);
        }
    }
}

impl Proactor {
    /// Runs a future as a task of this proactor: it is polled inside [`poll`](Self::poll), on this
    /// thread, and need not be `Send`. See [`Task`] for what its handle does.
    ///
    /// A turn polls a bounded number of tasks and then looks at completions and timers again. A
    /// task that panics does not stop the others: whoever joins it gets the panic, and if nobody
    /// can it leaves `poll`.
    ///
    /// Tasks that are not over when the proactor ends are dropped without being polled again, with
    /// nothing borrowed. A task that owns a clone of its proactor would keep it from ending: let
    /// it have a lent one, by [`spawn_with`](Self::spawn_with).
    ///
    /// ```
    /// let io = dataplane::Proactor::new()?;
    /// let greeting = std::rc::Rc::new(String::from("hello"));     // nothing here is Send
    /// let (nop, shared) = (io.nop(), greeting.clone());
    /// let task = io.spawn(async move {
    ///     nop.await?;
    ///     Ok::<usize, dataplane::Error>(shared.len())
    /// });
    /// assert_eq!(io.block_on(task)???, 5);
    /// # Ok::<(), dataplane::Error>(())
    /// ```
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        Task::start(&self.inner().executor, future)
    }

    /// As [`spawn`](Self::spawn), with a proactor to work with: a lent handle that does not keep
    /// the loop alive. Once that has ended it gives errors.
    pub fn spawn_with<F: Future + 'static>(
        &self,
        start: impl FnOnce(Proactor) -> F,
    ) -> Task<F::Output> {
        self.spawn(start(self.lent()))
    }
}
