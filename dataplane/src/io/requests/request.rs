//! Requests: operations about to be submitted, with a timeout if one is wanted.

use super::Port;
use crate::engine::deadlines::{instant_to_ns, now_ns};
use crate::error::{Failed, Result};
use crate::op::{Multishot, Operation};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// An operation about to be submitted. `.await` submits it and waits for its end.
#[must_use = "a request does nothing until it is awaited or submitted"]
pub struct Request<P: Port, O: Operation> {
    port: P,
    op: O,
    deadline_ns: Option<u64>,
    /// A handle that lives until the operation is submitted, where the operation ends it.
    last: Option<P::Descriptor>,
}

/// A multishot operation about to be submitted.
#[must_use = "a request does nothing until it is submitted"]
pub struct Multi<P: Port, O: Multishot> {
    port: P,
    op: O,
    deadline_ns: Option<u64>,
}

fn after_ns(timeout: Duration) -> u64 {
    let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    now_ns().saturating_add(nanos)
}

impl<P: Port, O: Operation> Request<P, O> {
    #[inline(always)]
    pub(crate) fn new(port: &P, op: O) -> Request<P, O> {
        Request { port: port.clone(), op, deadline_ns: None, last: None }
    }

    /// Keeps a handle until the operation is submitted: a close must find the descriptor open.
    pub(crate) fn with_last(mut self, descriptor: P::Descriptor) -> Request<P, O> {
        self.last = Some(descriptor);
        self
    }

    #[inline]
    pub(crate) fn over(port: P, op: O) -> Request<P, O> {
        Request { port, op, deadline_ns: None, last: None }
    }

    /// Ends it with TimedOut after `timeout`. Data that had moved by then is not lost: an
    /// operation that moved some completes with it.
    pub fn timeout(mut self, timeout: Duration) -> Request<P, O> {
        self.deadline_ns = Some(after_ns(timeout));
        self
    }

    /// Ends it with TimedOut at an instant.
    pub fn deadline(mut self, at: Instant) -> Request<P, O> {
        self.deadline_ns = Some(instant_to_ns(at));
        self
    }

    /// Stages it; the kernel sees it with the next poll or flush.
    ///
    /// # Errors
    ///
    /// A refused operation comes back whole, with the reason.
    #[inline(always)]
    pub fn submit(self) -> Result<P::Submission<O>, Failed<O>> {
        self.port.submit(self.op, self.deadline_ns, self.last)
    }

    /// The operation alone, for a [`Batch`](crate::Batch). Of a close, it keeps no handle: unless
    /// another clone is kept until the batch is submitted, the descriptor closes by itself.
    pub fn into_operation(self) -> O {
        self.op
    }

    pub(crate) fn into_parts(self) -> (P, O, Option<u64>, Option<P::Descriptor>) {
        (self.port, self.op, self.deadline_ns, self.last)
    }
}

impl<P: Port, O: Multishot> Multi<P, O> {
    pub(crate) fn new(port: &P, op: O) -> Multi<P, O> {
        Multi { port: port.clone(), op, deadline_ns: None }
    }

    /// Ends the whole stream with TimedOut after `timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Multi<P, O> {
        self.deadline_ns = Some(after_ns(timeout));
        self
    }

    /// Submits it: a stream of results.
    ///
    /// # Errors
    ///
    /// A refused operation comes back whole, with the reason.
    pub fn submit(self) -> Result<P::Stream<O>, Failed<O>> {
        self.port.submit_many(self.op, self.deadline_ns)
    }

    pub(crate) fn into_parts(self) -> (P, O, Option<u64>) {
        (self.port, self.op, self.deadline_ns)
    }
}

/// The future of an awaited request.
pub enum Awaiting<P: Port, O: Operation> {
    /// It was refused; the refusal is its result.
    Refused(Option<Failed<O>>),
    /// It is under way.
    Submitted(P::Submission<O>),
}

impl<P: Port, O: Operation> IntoFuture for Request<P, O>
where
    O: Unpin,
{
    type Output = Result<O::Output<P>, Failed<O>>;
    type IntoFuture = Awaiting<P, O>;

    fn into_future(self) -> Awaiting<P, O> {
        match self.submit() {
            Ok(submission) => Awaiting::Submitted(submission),
            Err(failed) => Awaiting::Refused(Some(failed)),
        }
    }
}

impl<P: Port, O: Operation + Unpin> Future for Awaiting<P, O> {
    type Output = Result<O::Output<P>, Failed<O>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Awaiting::Refused(failed) => {
                Poll::Ready(Err(failed.take().expect("polled once after it was ready")))
            }
            Awaiting::Submitted(submission) => Pin::new(submission).poll(cx),
        }
    }
}
