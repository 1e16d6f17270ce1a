//! An operation under way: a future, or a value to take.

use super::{Local, Typed, conclude};
use crate::backend::OpId;
use crate::engine::Reason;
use crate::engine::slots::{Notify, State};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::op::Operation;
use crate::proactor::Inner;
use crate::remote::cell::{Cell, Taken};
use crate::remote::handle::Handle;
use crate::remote::inbox;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// An operation under way on the owner's thread.
///
/// Dropping it cancels the operation; what the kernel still uses stays until it is done with it.
/// Whether dropping may lose bytes is said at each operation.
#[must_use = "dropping a submission cancels its operation"]
pub struct Submission<O: Operation> {
    inner: Rc<Inner>,
    id: OpId,
    taken: bool,
    typed: Typed<O>,
}

impl<O: Operation> Submission<O> {
    #[inline]
    pub(crate) fn new(inner: Rc<Inner>, id: OpId) -> Submission<O> {
        Submission { inner, id, taken: false, typed: PhantomData }
    }

    /// The operation's name, for [`Proactor::cancel`](crate::Proactor::cancel) and dumps.
    pub fn id(&self) -> OpId {
        self.id
    }

    /// The result if there is one, without waiting. None before the end, and after it was taken.
    pub fn try_take(&mut self) -> Option<Result<O::Output<Local>, Failed<O>>> {
        if self.taken {
            return None;
        }
        match self.take(None) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Asks for the end of the operation; its result says how it ended.
    ///
    /// # Errors
    ///
    /// NotFound when it is over already.
    pub fn cancel(&self) -> Result<()> {
        const NAME: &str = "cancel";
        match self.inner.with(NAME, |engine| engine.cancel(self.id, Reason::User))? {
            true => Ok(()),
            false => Err(Error::new(NAME, ErrorKind::NotFound, "the operation is over")),
        }
    }

    /// Lets the operation run on its own; what it brings is dropped when it ends.
    pub fn detach(mut self) {
        self.taken = true;
        let _ = self.inner.with("detach", |engine| engine.detach(self.id));
    }

    #[inline]
    fn take(&mut self, waker: Option<&Waker>) -> Poll<Result<O::Output<Local>, Failed<O>>> {
        let mut stale = Notify::Nobody;
        let taken = self.inner.with("await", |engine| {
            let Some(slot) = engine.table.slots.find(self.id) else { return None };
            if slot.state != State::Done {
                if let Some(waker) = waker
                    && !matches!(&slot.notify, Notify::Waker(old) if old.will_wake(waker))
                {
                    stale = std::mem::replace(&mut slot.notify, Notify::Waker(waker.clone()));
                }
                return Some(None);
            }
            Some(Some(engine.take_finished(self.id.index())))
        });
        drop(stale);
        match taken {
            Ok(Some(None)) => Poll::Pending,
            Ok(Some(Some((op, Some(outcome))))) => {
                self.taken = true;
                let port = Local { inner: self.inner.clone() };
                Poll::Ready(conclude(op, outcome, &port))
            }
            Ok(_) => {
                self.taken = true;
                let error = Error::new("await", ErrorKind::NotFound, "the result was taken");
                Poll::Ready(Err(Failed::lost(error)))
            }
            Err(error) => {
                self.taken = true;
                Poll::Ready(Err(Failed::lost(error)))
            }
        }
    }
}

impl<O: Operation> Future for Submission<O> {
    type Output = Result<O::Output<Local>, Failed<O>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.take(Some(cx.waker()))
    }
}

impl<O: Operation> Drop for Submission<O> {
    fn drop(&mut self) {
        if !self.taken {
            self.inner.abandon(self.id);
        }
    }
}

/// An operation under way that was submitted through a [`Handle`]: `Send`, awaited on any runtime.
///
/// Dropping it cancels the operation; see [`Submission`].
#[must_use = "dropping a submission cancels its operation"]
pub struct RemoteSubmission<O: Operation> {
    handle: Handle,
    cell: Arc<Cell>,
    taken: bool,
    typed: Typed<O>,
}

impl<O: Operation> RemoteSubmission<O> {
    pub(crate) fn new(handle: Handle, cell: Arc<Cell>) -> RemoteSubmission<O> {
        RemoteSubmission { handle, cell, taken: false, typed: PhantomData }
    }

    /// Asks for the end of the operation; its result says how it ended.
    pub fn cancel(&self) {
        self.handle.cancel_cell(&self.cell);
    }
}

impl<O: Operation> Future for RemoteSubmission<O> {
    type Output = Result<O::Output<Handle>, Failed<O>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.handle.shared().origin.is_here() {
            self.taken = true;
            return Poll::Ready(Err(Failed::lost(inbox::forked("await"))));
        }
        match self.cell.poll(self.handle.shared(), cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Taken::End(op, outcome)) => {
                self.taken = true;
                Poll::Ready(conclude(op, outcome, &self.handle))
            }
            // A one-shot operation has no intermediate results.
            Poll::Ready(Taken::Result(_)) => Poll::Pending,
        }
    }
}

impl<O: Operation> Drop for RemoteSubmission<O> {
    fn drop(&mut self) {
        if !self.taken && self.handle.shared().origin.is_here() {
            self.cell.abandon(self.handle.shared());
        }
    }
}
