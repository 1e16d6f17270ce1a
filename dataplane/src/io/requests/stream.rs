//! Multishot operations as streams of results.

use super::operation_id::OperationId;
use super::{Local, Typed};
use crate::backend::OpId;
use crate::engine::slots::State;
use crate::engine::{Outcome, Reason};
use crate::error::{Error, Result};
use crate::op::{Multishot, Op, settle};
use crate::proactor::Inner;
use crate::remote::cell::{Cell, Taken};
use crate::remote::handle::Handle;
use futures_core::Stream;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What a multishot operation's callback is given.
pub enum Next<T> {
    /// One more result.
    Item(T),
    /// It is over: Ok at the end of a stream, else the reason. Nothing comes after it.
    End(Result<()>),
}

/// A multishot operation of the owner's thread.
///
/// Results nobody takes are bounded ([`Options::undelivered`](crate::Options::undelivered)): the
/// kernel's part pauses and goes on when they are taken. Dropping the stream cancels it.
#[must_use = "dropping a stream cancels its operation"]
pub struct LocalStream<O: Multishot> {
    inner: Rc<Inner>,
    id: OpId,
    over: bool,
    typed: Typed<O>,
}

enum Step {
    Pending,
    /// Pending, and the waker is not known yet.
    Unknown,
    Item(Outcome),
    End(Option<Outcome>, Option<Op>),
}

impl<O: Multishot> LocalStream<O> {
    pub(crate) fn new(inner: Rc<Inner>, id: OpId) -> LocalStream<O> {
        LocalStream { inner, id, over: false, typed: PhantomData }
    }

    /// The operation's name, for [`Proactor::cancel`](crate::Proactor::cancel) and dumps.
    pub fn id(&self) -> OperationId {
        OperationId::new(self.inner.owner, self.id)
    }

    /// Asks for its end: what had arrived is still delivered, then the Cancelled error, then none.
    ///
    /// # Errors
    ///
    /// Forked in a forked child.
    pub fn cancel(&self) -> Result<()> {
        self.inner.with("cancel", |engine| engine.cancel(self.id, Reason::User)).map(|_| ())
    }

    /// The next result if there is one, without waiting.
    pub fn try_next(&mut self) -> Option<Result<O::Output<Local>>> {
        match self.step(None) {
            Poll::Ready(item) => item,
            Poll::Pending => None,
        }
    }

    fn step(&mut self, waker: Option<&Waker>) -> Poll<Option<Result<O::Output<Local>>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let step = self.inner.with("await", |engine| {
            let index = self.id.index();
            if engine.table.slots.find(self.id).is_none() {
                return Step::End(None, None);
            }
            if let Some(backlog) = &mut engine.table.slots.body(index).backlog
                && let Some(outcome) = backlog.results.pop_front()
            {
                if backlog.paused && backlog.results.is_empty() {
                    engine.resume(index);
                }
                return Step::Item(outcome);
            }
            let slot = engine.table.slots.at(index);
            if slot.state == State::Done {
                let (op, outcome) = engine.take_finished(index);
                return Step::End(Some(outcome), op);
            }
            match waker {
                Some(waker) if !slot.notify.tells(waker) => Step::Unknown,
                _ => Step::Pending,
            }
        });
        match step {
            Ok(Step::Pending) => Poll::Pending,
            Ok(Step::Unknown) => waker.map_or(Poll::Pending, |waker| self.wait_for(waker)),
            Ok(Step::Item(outcome)) => {
                let port = Local { inner: self.inner.clone() };
                Poll::Ready(O::item(outcome, &port).transpose())
            }
            Ok(Step::End(outcome, op)) => {
                self.over = true;
                drop(op);
                Poll::Ready(outcome.and_then(ending).map(Err))
            }
            Err(error) => {
                self.over = true;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl<O: Multishot> LocalStream<O> {
    /// Leaves a waker, cloned with nothing borrowed, unless there is something by now.
    fn wait_for(&mut self, waker: &Waker) -> Poll<Option<Result<O::Output<Local>>>> {
        let fresh = waker.clone();
        let id = self.id;
        let left = self.inner.with("await", |engine| {
            let pending = |body: &crate::engine::slots::Body| {
                body.backlog.as_ref().is_none_or(|backlog| backlog.results.is_empty())
            };
            match engine.table.slots.find(id).is_some_and(|slot| slot.state != State::Done)
                && pending(engine.table.slots.body(id.index()))
            {
                true => Ok(engine.table.slots.at(id.index()).notify.tell(fresh)),
                false => Err(fresh),
            }
        });
        match left {
            Ok(Ok(_stale)) => Poll::Pending,
            _ => self.step(None),
        }
    }
}

/// The error a stream ends with; None at its natural end.
fn ending(outcome: Outcome) -> Option<Error> {
    settle(&outcome, "stream").err()
}

impl<O: Multishot> Stream for LocalStream<O> {
    type Item = Result<O::Output<Local>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.step(Some(cx.waker()))
    }
}

impl<O: Multishot> Drop for LocalStream<O> {
    fn drop(&mut self) {
        if !self.over {
            self.inner.abandon(self.id);
        }
    }
}

/// A multishot operation submitted through a [`Handle`]. See [`LocalStream`].
#[must_use = "dropping a stream cancels its operation"]
pub struct RemoteStream<O: Multishot> {
    handle: Handle,
    cell: Arc<Cell>,
    over: bool,
    typed: Typed<O>,
}

impl<O: Multishot> RemoteStream<O> {
    pub(crate) fn new(handle: Handle, cell: Arc<Cell>) -> RemoteStream<O> {
        RemoteStream { handle, cell, over: false, typed: PhantomData }
    }

    /// Asks for its end; see [`LocalStream::cancel`].
    pub fn cancel(&self) {
        self.handle.cancel_cell(&self.cell);
    }
}

impl<O: Multishot> Stream for RemoteStream<O> {
    type Item = Result<O::Output<Handle>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        match self.cell.poll(self.handle.shared(), cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Taken::Result(outcome)) => {
                Poll::Ready(O::item(outcome, &self.handle).transpose())
            }
            Poll::Ready(Taken::End(op, outcome)) => {
                self.over = true;
                drop(op);
                Poll::Ready(ending(outcome).map(Err))
            }
        }
    }
}

impl<O: Multishot> Drop for RemoteStream<O> {
    fn drop(&mut self) {
        if !self.over && self.handle.shared().origin.is_here() {
            self.cell.abandon(self.handle.shared());
        }
    }
}
