//! What a soak holds a handle of, whatever it is: a submission, a stream, a sequence, a task.
//!
//! It is looked at without waiting, cancelled, or dropped at a moment nobody would choose; the
//! entries in the books that go with it are told of, or dropped, with it.

use super::books::{Books, Entry};
use dataplane::{
    LocalStream, Multishot, Operation, Port, RemoteStream, RemoteSubmission, Request,
    RunningSequence, Submission, Task,
};
use futures_util::Stream;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A handle on something under way.
pub(super) trait Handle {
    /// Whether it succeeded, if it is over.
    fn look(&mut self) -> Option<bool>;
    /// Asks for its end.
    fn cancel(&self);
}

fn glance<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Takes what there is, and drops it; whether the stream ended well, if it ended.
fn drain<T, E>(stream: &mut (impl Stream<Item = Result<T, E>> + Unpin)) -> Option<bool> {
    loop {
        let next = Pin::new(&mut *stream).poll_next(&mut Context::from_waker(Waker::noop()));
        match next {
            Poll::Ready(Some(Ok(item))) => drop(item),
            Poll::Ready(Some(Err(_))) => return Some(false),
            Poll::Ready(None) => return Some(true),
            Poll::Pending => return None,
        }
    }
}

impl<O: Operation> Handle for Submission<O> {
    fn look(&mut self) -> Option<bool> {
        self.try_take().map(|ended| ended.is_ok())
    }

    fn cancel(&self) {
        // It may be over.
        let _ = Submission::cancel(self);
    }
}

impl<O: Operation> Handle for RemoteSubmission<O> {
    fn look(&mut self) -> Option<bool> {
        glance(self).map(|ended| ended.is_ok())
    }

    fn cancel(&self) {
        RemoteSubmission::cancel(self);
    }
}

impl<O: Multishot> Handle for LocalStream<O> {
    fn look(&mut self) -> Option<bool> {
        drain(self)
    }

    fn cancel(&self) {
        let _ = LocalStream::cancel(self);
    }
}

impl<O: Multishot> Handle for RemoteStream<O> {
    fn look(&mut self) -> Option<bool> {
        drain(self)
    }

    fn cancel(&self) {
        RemoteStream::cancel(self);
    }
}

impl Handle for RunningSequence {
    fn look(&mut self) -> Option<bool> {
        self.try_take().map(|ended| ended.is_ok())
    }

    fn cancel(&self) {
        let _ = RunningSequence::cancel(self);
    }
}

impl<T: 'static> Handle for Task<T> {
    fn look(&mut self) -> Option<bool> {
        glance(self).map(|ended| ended.is_ok())
    }

    fn cancel(&self) {
        self.abort();
    }
}

/// A handle, and the operations it stands for.
pub(super) struct Held {
    handle: Box<dyn Handle>,
    entries: Vec<Entry>,
}

impl Held {
    pub(super) fn new(handle: impl Handle + 'static, entries: Vec<Entry>) -> Held {
        Held { handle: Box::new(handle), entries }
    }

    /// Whether it is over; then it is told of.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(succeeded) = self.handle.look() else { return false };
        self.entries.drain(..).for_each(|entry| entry.told(succeeded));
        true
    }

    pub(super) fn cancel(&self) {
        self.handle.cancel();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.entries.drain(..).for_each(Entry::dropped);
    }
}

/// An operation that a task awaits: dropped with the task, if that does not come to the end.
struct Awaited(Option<Entry>);

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(entry) = self.0.take() {
            entry.dropped();
        }
    }
}

/// Awaits a request; what it gives, if it succeeds.
pub(super) async fn awaited<P: Port, O: Operation>(
    books: Books,
    request: Request<P, O>,
) -> Option<O::Output<P>> {
    let entry = books.enter::<O>();
    let submission = match request.submit() {
        Ok(submission) => submission,
        Err(_) => {
            entry.refused();
            return None;
        }
    };
    let mut awaited = Awaited(Some(entry));
    let ended = submission.await;
    if let Some(entry) = awaited.0.take() {
        entry.told(ended.is_ok());
    }
    ended.ok()
}
