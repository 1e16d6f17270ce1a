//! Sequences: operations that start one after the other, submitted as one.
//!
//! A sequence reads like the pipeline it is: each step starts when the one before it succeeded,
//! and the first failure ends it. It is a [`Batch`] in which every operation comes
//! [`after`](Batch::after) the one before. Where the kernel can start the next step by itself it
//! does ([`Finished::started_by_kernel`] says for which); the rest is done by the loop, with the
//! same outcome.
//!
//! What counts as a failure of a step, besides an error: a read or a send that moved less than was
//! asked for. A receive that brought some bytes, or the end of the stream, is a success.
//!
//! A step takes its place in the queue of its stream when its turn comes, linked or not: what is
//! submitted to that stream before is not kept waiting. Where the kernel would keep it waiting,
//! since a chain stands in the queues of all its streams at once, the loop takes the chain back and
//! goes on with it itself.
//!
//! On a proactor with a deferring ring, which is the default, linked steps move while the owner
//! polls, like everything else; with [`Options::sqpoll`](crate::Options::sqpoll) they move while
//! it does something else (`IORING_SETUP_DEFER_TASKRUN`, `io_uring_setup(2)`).

use super::batch::{self, Batch, RefusedBatch, Submitted, Ticket};
use super::request::Request;
use super::{Local, Socket};
use crate::backend::OpId;
use crate::engine::deadlines::{instant_to_ns, now_ns};
use crate::engine::sequence::{Content, Made};
use crate::engine::slots::{Link, State};
use crate::engine::{Engine, Reason};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::op::{Operation, SemaphoreSignal, SemaphoreWait};
use crate::proactor::Proactor;
use fence::Semaphore;
use regions::Span;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const NAME: &str = "sequence";

/// Steps to be submitted as one, made by [`Proactor::sequence`]. `.await` runs it.
///
/// Dropping the future cancels the step that runs and with it the rest; bytes that had moved by
/// then are lost to the caller, as for the step's own operation.
#[must_use = "a sequence does nothing until it is awaited or submitted"]
pub struct Sequence {
    batch: Batch,
    last: Option<usize>,
    misplaced: Option<Error>,
}

/// What a step made from an earlier outcome is to be.
pub enum Flow<O: Operation> {
    /// This operation.
    Run(Request<Local, O>),
    /// None: the sequence ends here, with success.
    Stop,
}

impl<O: Operation> From<Request<Local, O>> for Flow<O> {
    fn from(request: Request<Local, O>) -> Flow<O> {
        Flow::Run(request)
    }
}

impl Proactor {
    /// A sequence without a step.
    pub fn sequence(&self) -> Sequence {
        Sequence { batch: self.batch(), last: None, misplaced: None }
    }
}

impl Sequence {
    /// Adds a step, whose outcome the ticket gives when the sequence is over.
    pub fn add<O: Operation>(&mut self, step: Request<Local, O>) -> Ticket<O> {
        let (_, op, deadline_ns, _) = step.into_parts();
        let ticket = self.batch.plan(Content::Op(op.into()), self.last, deadline_ns);
        self.batch.step(&ticket);
        self.last = Some(ticket.index);
        ticket
    }

    /// Adds a step whose outcome nobody will ask for.
    pub fn then<O: Operation>(mut self, step: Request<Local, O>) -> Sequence {
        self.add(step);
        self
    }

    /// Adds a wait until `semaphore` has reached `value`; a failed one ends the sequence.
    pub fn wait(self, semaphore: &Semaphore, value: u64) -> Sequence {
        let step = Request::over(self.batch.port(), SemaphoreWait::new(semaphore, value));
        self.then(step)
    }

    /// Adds a signal of `value` to `semaphore`.
    pub fn signal(self, semaphore: &Semaphore, value: u64) -> Sequence {
        let step = Request::over(self.batch.port(), SemaphoreSignal::new(semaphore, value));
        self.then(step)
    }

    /// Adds a send of the whole span.
    pub fn send_all(self, socket: &Socket, span: impl Into<Span>) -> Sequence {
        self.then(socket.send_all(span))
    }

    /// Adds a step that is made from the outcome of the one before it: `make` is given what that
    /// brought, buffers and all, and says what comes next. It runs inside `poll`, with nothing
    /// borrowed, when the step before is over with everything (of a zero-copy send: with its
    /// notification). It is called once, and what it owns is dropped when the step has
    /// begun: a socket it uses needs another handle elsewhere, or the drop closes it and ends the
    /// step as Closed. An error it gives, or a panic, is the failure of this step; the
    /// panic then leaves `poll`.
    ///
    /// `before` is the ticket of the last step added; any other makes the sequence malformed.
    pub fn add_with<A: Operation, O: Operation, F>(
        &mut self,
        before: Ticket<A>,
        mut make: impl FnMut(A::Output<Local>) -> Result<F> + 'static,
    ) -> Ticket<O>
    where
        F: Into<Flow<O>>,
    {
        let index = before.index;
        if let Err(foreign) = before.of(self.batch.id()) {
            self.misplaced = Some(foreign);
        } else if Some(index) != self.last {
            let message = "a step is made from the one right before it; give that one's ticket";
            self.misplaced = Some(Error::new(NAME, ErrorKind::InvalidArgument, message));
        }
        let (port, names) = (self.batch.port(), self.batch.names());
        let maker = move || {
            let outcome =
                batch::take::<A>(&names, index, port.clone()).and_then(|mut it| it.try_take());
            let flow = match outcome {
                Some(Ok(output)) => make(output),
                Some(Err(failed)) => Err(failed.into()),
                None => Err(Error::new(NAME, ErrorKind::NotFound, "the outcome was taken")),
            };
            match flow.map(Into::into) {
                Ok(Flow::Run(request)) => {
                    let (_, op, deadline_ns, _) = request.into_parts();
                    Made::Step(op.into(), deadline_ns)
                }
                Ok(Flow::Stop) => Made::Stop,
                Err(error) => Made::Failed(error),
            }
        };
        let ticket = self.batch.plan(Content::Maker(Box::new(maker)), self.last, None);
        self.batch.step(&ticket);
        self.last = Some(ticket.index);
        ticket
    }

    /// Ends it with TimedOut after `timeout`, at whatever step it is.
    pub fn timeout(self, timeout: Duration) -> Sequence {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.end_by(now_ns().saturating_add(nanos))
    }

    /// Ends it with TimedOut at an instant, at whatever step it is.
    pub fn deadline(self, at: Instant) -> Sequence {
        self.end_by(instant_to_ns(at))
    }

    fn end_by(mut self, at_ns: u64) -> Sequence {
        self.batch.end_by(at_ns);
        self
    }

    /// How many steps it has.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Stages it whole; the kernel sees it with the next poll or flush.
    ///
    /// # Errors
    ///
    /// A refused sequence comes back whole, with the reason and the step that is malformed.
    pub fn submit(self) -> Result<RunningSequence, Box<RefusedSequence>> {
        let Sequence { batch, last, misplaced } = self;
        let empty = batch
            .is_empty()
            .then(|| Error::new(NAME, ErrorKind::InvalidArgument, "it has no step; add one"));
        let refusal = misplaced.clone().or(empty);
        let refused = match refusal {
            Some(error) => Box::new(RefusedBatch { error, index: None, batch }),
            None => match batch.submit() {
                Ok(submitted) => return Ok(RunningSequence::new(submitted)),
                Err(refused) => refused,
            },
        };
        let RefusedBatch { error, index, batch } = *refused;
        let sequence = Sequence { batch, last, misplaced };
        Err(Box::new(RefusedSequence { error, step: index, sequence }))
    }
}

/// A sequence that was not submitted, with everything that is in it.
pub struct RefusedSequence {
    /// Why.
    pub error: Error,
    /// The step that is malformed, if one is.
    pub step: Option<usize>,
    /// The sequence, whole.
    pub sequence: Sequence,
}

impl fmt::Debug for RefusedSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefusedSequence({:?}, at {:?})", self.error, self.step)
    }
}

impl fmt::Display for RefusedSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {step} of the sequence: {}", self.error),
            None => write!(f, "the sequence: {}", self.error),
        }
    }
}

impl std::error::Error for RefusedSequence {}

impl From<Box<RefusedSequence>> for Error {
    fn from(refused: Box<RefusedSequence>) -> Error {
        refused.error
    }
}

/// A sequence under way. Dropping it cancels it.
#[must_use = "dropping a running sequence cancels it"]
pub struct RunningSequence {
    submitted: Option<Submitted>,
    ids: Vec<OpId>,
    /// The first step that was not seen to be over.
    at: usize,
}

impl fmt::Debug for RunningSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningSequence").field("steps", &self.ids.len()).finish_non_exhaustive()
    }
}

impl RunningSequence {
    fn new(submitted: Submitted) -> RunningSequence {
        let ids = submitted.names.borrow().iter().flatten().copied().collect();
        RunningSequence { submitted: Some(submitted), ids, at: 0 }
    }

    /// Asks for its end: the step that runs is cancelled unless it wins the race, and the rest
    /// does not run.
    ///
    /// # Errors
    ///
    /// NotFound when it is over already.
    pub fn cancel(&self) -> Result<()> {
        let over = || Error::new("cancel", ErrorKind::NotFound, "the sequence is over");
        let Some(submitted) = &self.submitted else { return Err(over()) };
        let asked = submitted.inner().with("cancel", |engine| {
            let asked = |id: &&OpId| engine.cancel(**id, Reason::User);
            self.ids.iter().rev().filter(asked).count()
        })?;
        if asked > 0 { Ok(()) } else { Err(over()) }
    }

    /// The outcome if it is over, without waiting.
    pub fn try_take(&mut self) -> Option<Result<Finished, Box<SequenceFailed>>> {
        match self.step(None) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn step(&mut self, waker: Option<&Waker>) -> Poll<Result<Finished, Box<SequenceFailed>>> {
        let Some(submitted) = &self.submitted else {
            let error = Error::new(NAME, ErrorKind::NotFound, "its outcome was taken");
            return Poll::Ready(Err(Box::new(SequenceFailed::refused(error, None))));
        };
        while let Some(id) = self.ids.get(self.at) {
            match is_over(submitted, *id, waker) {
                Ok(true) => self.at += 1,
                Ok(false) => return Poll::Pending,
                Err(error) => {
                    let failed = SequenceFailed::refused(error, None);
                    return Poll::Ready(Err(Box::new(failed)));
                }
            }
        }
        let found = submitted.inner().with(NAME, |engine| look(engine, &self.ids));
        let submitted = self.submitted.take();
        Poll::Ready(match found {
            Ok(Verdict { linked, by_kernel, failed: None }) => {
                Ok(Finished { submitted, by_kernel, linked, stopped_at: None })
            }
            Ok(Verdict { linked, by_kernel, failed: Some((step, reason, error)) }) => {
                let stopped_at = (reason == Reason::Stopped).then_some(step);
                let finished = Finished { submitted, by_kernel, linked, stopped_at };
                match stopped_at {
                    Some(_) => Ok(finished),
                    None => Err(Box::new(SequenceFailed {
                        step: Some(step),
                        error,
                        finished: Some(finished),
                        sequence: None,
                    })),
                }
            }
            Err(error) => Err(Box::new(SequenceFailed::refused(error, None))),
        })
    }
}

struct Verdict {
    linked: usize,
    by_kernel: Vec<bool>,
    failed: Option<(usize, Reason, Error)>,
}

/// The first step that failed, and which the kernel ran in chains.
fn look(engine: &mut Engine, ids: &[OpId]) -> Verdict {
    let mut verdict = Verdict { linked: 0, by_kernel: vec![false; ids.len()], failed: None };
    for (step, id) in ids.iter().enumerate() {
        // A step whose outcome went into the making of the next one succeeded.
        let Some(slot) = engine.table.slots.find(*id) else { continue };
        verdict.linked += usize::from(matches!(slot.link, Link::Linked | Link::Unwanted));
        // One that was asked to end while it was part of a chain did not begin there.
        verdict.by_kernel[step] = slot.by_kernel && slot.result != -libc::ECANCELED;
        if verdict.failed.is_none() {
            verdict.failed = engine.step_error(*id).map(|(reason, error)| (step, reason, error));
        }
    }
    verdict
}

/// Whether a step is over; leaves the waker, cloned with nothing borrowed, if it is not.
fn is_over(submitted: &Submitted, id: OpId, waker: Option<&Waker>) -> Result<bool> {
    let pending = |engine: &mut Engine| {
        engine.table.slots.find(id).filter(|slot| slot.state != State::Done).is_some()
    };
    let inner = submitted.inner();
    let Some(waker) = waker else { return Ok(!inner.with(NAME, pending)?) };
    let fresh = waker.clone();
    let left = inner.with(NAME, |engine| match pending(engine) {
        true => Ok(engine.table.slots.at(id.index()).notify.tell(fresh)),
        false => Err(fresh),
    })?;
    // What is not kept is dropped here, with nothing borrowed.
    Ok(left.is_err())
}

impl Future for RunningSequence {
    type Output = Result<Finished, Box<SequenceFailed>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.step(Some(cx.waker()))
    }
}

/// The future of an awaited sequence.
pub enum AwaitingSequence {
    /// It was refused; the refusal is its result.
    Refused(Option<Box<RefusedSequence>>),
    /// It is under way.
    Running(RunningSequence),
}

impl IntoFuture for Sequence {
    type Output = Result<Finished, Box<SequenceFailed>>;
    type IntoFuture = AwaitingSequence;

    fn into_future(self) -> AwaitingSequence {
        match self.submit() {
            Ok(running) => AwaitingSequence::Running(running),
            Err(refused) => AwaitingSequence::Refused(Some(refused)),
        }
    }
}

impl Future for AwaitingSequence {
    type Output = Result<Finished, Box<SequenceFailed>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            AwaitingSequence::Running(running) => Pin::new(running).poll(cx),
            AwaitingSequence::Refused(refused) => {
                let refused = refused.take().expect("polled once after it was ready");
                let RefusedSequence { error, step, sequence } = *refused;
                let failed =
                    SequenceFailed { step, ..SequenceFailed::refused(error, Some(sequence)) };
                Poll::Ready(Err(Box::new(failed)))
            }
        }
    }
}

/// A sequence that is over, with the outcomes of its steps.
pub struct Finished {
    submitted: Option<Submitted>,
    by_kernel: Vec<bool>,
    linked: usize,
    stopped_at: Option<usize>,
}

impl Finished {
    /// The outcome of a step.
    ///
    /// # Errors
    ///
    /// InvalidArgument when the ticket is not of this sequence; NotFound for a step whose outcome
    /// went into the making of the next one, and when there is no outcome any more since the
    /// proactor is gone.
    pub fn take<O: Operation>(
        &mut self,
        ticket: Ticket<O>,
    ) -> Result<Result<O::Output<Local>, Failed<O>>> {
        let gone = || Error::new(NAME, ErrorKind::NotFound, "its outcome is gone");
        self.submitted.as_mut().ok_or_else(gone)?.take(ticket)?.try_take().ok_or_else(gone)
    }

    /// How many of its steps the kernel started by itself, or could have: those that stayed part
    /// of a chain to their end.
    pub fn linked(&self) -> usize {
        self.linked
    }

    /// Whether the kernel went on to this step (counted from zero) by itself when the one before
    /// it was over, with nobody in between who looked how that had ended; the loop started the
    /// others. For a send behind a gate: whether the gate was linked to it, or checked first. Not
    /// known, and false, for a step whose outcome went into the making of the next one.
    pub fn started_by_kernel(&self, step: usize) -> bool {
        self.by_kernel.get(step).is_some_and(|by_kernel| *by_kernel)
    }

    /// How many steps it had.
    pub fn steps(&self) -> usize {
        self.by_kernel.len()
    }

    /// The step that was not to be, if it was [stopped](Flow::Stop).
    pub fn stopped_at(&self) -> Option<usize> {
        self.stopped_at
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished")
            .field("by_kernel", &self.by_kernel)
            .field("linked", &self.linked)
            .field("stopped_at", &self.stopped_at)
            .finish()
    }
}

/// A sequence that did not run to its end.
pub struct SequenceFailed {
    /// The step that failed, from zero. None: it was not submitted, or the proactor is gone.
    pub step: Option<usize>,
    /// Why.
    pub error: Error,
    /// The outcomes of the steps, those that did not run included.
    pub finished: Option<Finished>,
    /// What was not submitted comes back whole.
    pub sequence: Option<Sequence>,
}

impl SequenceFailed {
    fn refused(error: Error, sequence: Option<Sequence>) -> SequenceFailed {
        SequenceFailed { step: None, error, finished: None, sequence }
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }
}

impl fmt::Debug for SequenceFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SequenceFailed")
            .field("step", &self.step)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for SequenceFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {step} of the sequence: {}", self.error),
            None => write!(f, "the sequence: {}", self.error),
        }
    }
}

impl std::error::Error for SequenceFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Box<SequenceFailed>> for Error {
    fn from(failed: Box<SequenceFailed>) -> Error {
        failed.error
    }
}
