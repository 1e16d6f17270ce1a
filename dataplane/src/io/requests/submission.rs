//! An operation under way: a future, or a value to take.

use super::operation_id::OperationId;
use super::{Local, Typed, conclude};
use crate::backend::OpId;
use crate::engine::slots::State;
use crate::engine::{Outcome, Payload, Reason};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::op::{Operation, Shape};
use crate::remote::cell::{Cell, Taken};
use crate::remote::handle::Handle;
use crate::remote::inbox;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The name of no operation: no slot has this index.
const TAKEN: OpId = OpId(u64::MAX);

/// An operation under way on the owner's thread.
///
/// Dropping it cancels the operation; what the kernel still uses stays until it is done with it.
/// Whether dropping may lose bytes is said at each operation.
#[must_use = "dropping a submission cancels its operation"]
pub struct Submission<O: Operation> {
    port: Local,
    /// `TAKEN` once the result was taken: a word, so that the whole stays two of them.
    id: OpId,
    typed: Typed<O>,
}

impl<O: Operation> Submission<O> {
    #[inline]
    pub(crate) fn new(port: Local, id: OpId) -> Submission<O> {
        Submission { port, id, typed: PhantomData }
    }

    /// The operation's name, for [`Proactor::cancel`](crate::Proactor::cancel) and dumps.
    pub fn id(&self) -> OperationId {
        OperationId::new(self.port.inner.owner, self.id)
    }

    /// The result if there is one, without waiting. None before the end, and after it was taken.
    #[inline(always)]
    pub fn try_take(&mut self) -> Option<Result<O::Output<Local>, Failed<O>>> {
        if self.id == TAKEN {
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
        match self.port.inner.with(NAME, |engine| engine.cancel(self.id, Reason::User))? {
            true => Ok(()),
            false => Err(Error::new(NAME, ErrorKind::NotFound, "the operation is over")),
        }
    }

    /// Lets the operation run on its own; what it brings is dropped when it ends.
    pub fn detach(mut self) {
        let id = std::mem::replace(&mut self.id, TAKEN);
        self.port.inner.detach(id);
    }

    #[inline(always)]
    fn take(&mut self, waker: Option<&Waker>) -> Poll<Result<O::Output<Local>, Failed<O>>> {
        let mut engine = match self.port.inner.enter("await") {
            Ok(engine) => engine,
            Err(error) => {
                self.id = TAKEN;
                return Poll::Ready(Err(Failed::lost(error)));
            }
        };
        let Some(slot) = engine.table.slots.find(self.id) else {
            let error = Error::new("await", ErrorKind::NotFound, "the result was taken");
            return Poll::Ready(Err(Failed::lost(error)));
        };
        if slot.state != State::Done {
            let Some(waker) = waker.filter(|waker| !slot.notify.tells(waker)) else {
                return Poll::Pending;
            };
            drop(engine);
            return self.wait_for(waker);
        }
        let index = self.id.index();
        self.id = TAKEN;
        if matches!(slot.shape, Shape::Plain | Shape::Single) {
            let (op, result, reason) = engine.take_plain::<O>(index);
            drop(engine);
            let outcome = Outcome::new(result, reason, Payload::None);
            return Poll::Ready(conclude(op, outcome, &self.port));
        }
        let (op, outcome) = engine.take_finished::<O>(index);
        drop(engine);
        Poll::Ready(conclude(op, outcome, &self.port))
    }
}

impl<O: Operation> Submission<O> {
    /// Leaves a waker. It is cloned with nothing borrowed, and whatever that does may have ended
    /// the operation, so its end is looked for once more.
    fn wait_for(&mut self, waker: &Waker) -> Poll<Result<O::Output<Local>, Failed<O>>> {
        let fresh = waker.clone();
        let id = self.id;
        let left = self.port.inner.with("await", |engine| match engine.table.slots.find(id) {
            Some(slot) if slot.state != State::Done => Ok(slot.notify.tell(fresh)),
            _ => Err(fresh),
        });
        match left {
            Ok(Ok(_stale)) => Poll::Pending,
            _ => self.take(None),
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
        if self.id != TAKEN {
            self.port.inner.abandon(self.id);
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
            Poll::Ready(Taken::End(mut op, outcome)) => {
                self.taken = true;
                Poll::Ready(conclude(O::take(&mut op), outcome, &self.handle))
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

#[cfg(test)]
mod tests {
    use crate::{Backend, Options, Proactor, Wait};
    use std::time::{Duration, Instant};

    #[test]
    fn a_handle_that_goes_while_the_engine_is_at_work_is_seen_to_by_the_next_poll() {
        let io = Proactor::with(Options::default().backend(Backend::Epoll)).expect("proactor");
        let later = Instant::now() + Duration::from_secs(3600);
        let sleeping = io.sleep_until(later).submit().expect("room");
        let running = io.nop().submit().expect("room");
        let engine = io.inner().enter("test").expect("nothing is borrowed");
        drop(sleeping);
        running.detach();
        drop(engine);
        for _ in 0..4 {
            io.poll(Wait::Now).expect("poll");
        }
        let slots = io.inner().with("test", |engine| engine.table.slots.live().count());
        assert_eq!(slots.expect("nothing is borrowed"), 0, "cancelled, ended, and freed");
    }
}
