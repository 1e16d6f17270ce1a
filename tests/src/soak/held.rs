//! What a soak holds a handle of, whatever it is: a submission, a stream, a sequence, a task.
//!
//! It is looked at without waiting, cancelled, or dropped at a moment nobody would choose; the
//! entries in the books that go with it are told of, or dropped, with it.

use super::books::{Books, Entry};
use dataplane::operations::Connect;
use dataplane::{
    Error, ErrorKind, Join, LocalStream, Multishot, Operation, Port, RemoteStream,
    RemoteSubmission, Request, RunningSequence, Socket, Submission, Task,
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

pub(super) fn glance<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
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

impl<T> Handle for Join<T> {
    fn look(&mut self) -> Option<bool> {
        self.try_take().map(|ended| ended.is_ok())
    }

    fn cancel(&self) {
        Join::cancel(self);
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

/// An operation whose end whoever holds this is told of; dropped before that, it is dropped.
pub(super) struct Owed(Option<Entry>);

impl Owed {
    pub(super) fn new(entry: Entry) -> Owed {
        Owed(Some(entry))
    }

    pub(super) fn told(mut self, succeeded: bool) {
        self.0.take().into_iter().for_each(|entry| entry.told(succeeded));
    }

    pub(super) fn refused(mut self) {
        self.0.take().into_iter().for_each(Entry::refused);
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Entry::dropped);
    }
}

/// Awaits a request; what it gives, if it succeeds.
pub(super) async fn awaited<P: Port, O: Operation>(
    books: Books,
    request: Request<P, O>,
) -> Option<O::Output<P>> {
    let owed = Owed::new(books.enter::<O>());
    let submission = match request.submit() {
        Ok(submission) => submission,
        Err(_) => {
            owed.refused();
            return None;
        }
    };
    let ended = submission.await;
    owed.told(ended.is_ok());
    ended.ok()
}

/// As [`awaited`], for a connect, which is submitted inside of the function that awaits it.
pub(super) async fn connected<P: Port>(
    books: Books,
    connecting: impl Future<Output = Result<Socket<P>, Error>>,
) -> Option<Socket<P>> {
    let owed = Owed::new(books.enter::<Connect>());
    let ended = connecting.await;
    match &ended {
        // No room for its descriptor, or for itself.
        Err(error) if error.kind() == ErrorKind::Exhausted => owed.refused(),
        ended => owed.told(ended.is_ok()),
    }
    ended.ok()
}
