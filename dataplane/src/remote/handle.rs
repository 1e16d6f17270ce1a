//! Handles: the proactor from other threads.
//!
//! A [`Handle`] is `Send + Sync` and cheap to clone. What it submits goes through the inbox; the
//! results come back as `Send` futures that any runtime may await. It does not keep the proactor
//! alive: once that is gone, everything gives a ShutDown error.

use super::cell::{Adopted, Cell, keep_waker};
use super::inbox::{self, Command, Refused, Shared};
use crate::engine::Payload;
use crate::engine::descriptors::{Class, DescId};
use crate::engine::report::Stats;
use crate::error::{Error, Failed, Result};
use crate::io::request::Request;
use crate::io::stream::RemoteStream;
use crate::io::submission::RemoteSubmission;
use crate::io::{Named, Port, no_descriptor};
use crate::op::{Multishot, Nop, Operation, Timer};
use crate::proactor::Proactor;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// See the head of this module.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.shared.name)
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Handle {
        Handle { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes the poll in progress return, or else the next one, with whatever is there. Many wakes
    /// before one poll count as one. Async-signal-safe: one atomic word and at most one `write(2)`.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Whether the proactor has shut down.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Runs `f` on the poll thread, inside a poll, with nothing borrowed; its value comes back.
    pub fn call<T, F>(&self, f: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Proactor) -> T + Send + 'static,
    {
        let state = Arc::new(Mutex::new(CallState { value: None, waker: None, over: false }));
        let answer = Answer(state.clone());
        let sent = self.post("call", move |proactor| {
            let answer = answer;
            if let Some(proactor) = proactor {
                let value = f(proactor);
                answer.lock().value = Some(value);
            }
        });
        Call { state, refused: sent.err() }
    }

    /// Runs `f` on the poll thread as [`call`](Self::call) does, or without a proactor when that
    /// goes first. Refused, `f` is dropped here.
    pub(crate) fn post(
        &self,
        operation: &'static str,
        f: impl FnOnce(Option<&Proactor>) + Send + 'static,
    ) -> Result<()> {
        self.shared.send(Command::Call(Box::new(f))).map_err(|refused| {
            let (command, error) = refused.into_parts(operation, self.shared.capacity());
            drop(command);
            error
        })
    }

    /// Counters and gauges, read on the poll thread by its next poll.
    ///
    /// Dropping the future loses nothing. It gives a ShutDown error when the proactor is gone.
    pub fn stats(&self) -> Call<Stats> {
        self.call(Proactor::stats)
    }

    /// A no-op through the ring.
    pub fn nop(&self) -> Request<Handle, Nop> {
        Request::new(self, Nop)
    }

    /// Completes at an instant.
    pub fn sleep_until(&self, at: Instant) -> Request<Handle, Timer> {
        Request::new(self, Timer::at(at))
    }

    fn send<O: Operation>(
        &self,
        op: O,
        deadline_ns: Option<u64>,
        last: Option<Arc<Adopted>>,
    ) -> Result<Arc<Cell>, Failed<O>> {
        let cell = Cell::new(op.into(), deadline_ns);
        match self.shared.send(Command::Submit { cell: cell.clone(), last }) {
            Ok(()) => Ok(cell),
            Err(refused) => Err(self.refused(refused)),
        }
    }

    /// The operation of a command that was not taken, and why.
    pub(crate) fn refused<O: Operation>(&self, refused: Refused) -> Failed<O> {
        let (command, error) = refused.into_parts("submit", self.shared.capacity());
        let error = if self.shared.origin.is_here() { error } else { inbox::forked("submit") };
        let op = match command {
            Command::Submit { cell, .. } => cell.take_op(),
            Command::Call(_) => None,
        };
        match op {
            Some(op) => Failed::new(error, O::from_op(op)),
            None => Failed::lost(error),
        }
    }

    pub(crate) fn cancel_cell(&self, cell: &Cell) {
        if let Some(id) = cell.cancel() {
            // By bit map: neither a full inbox nor a full proactor keeps it from the owner.
            self.shared.returns.operations.insert(id.index() as usize);
            self.shared.announce();
        }
    }
}

impl Named for Arc<Adopted> {
    fn desc(&self) -> DescId {
        self.id
    }
}

impl Port for Handle {
    type Descriptor = Arc<Adopted>;
    type Submission<O: Operation> = RemoteSubmission<O>;
    type Stream<O: Multishot> = RemoteStream<O>;

    fn submit<O: Operation>(
        self,
        op: O,
        deadline_ns: Option<u64>,
        last: Option<Arc<Adopted>>,
    ) -> Result<RemoteSubmission<O>, Failed<O>> {
        let cell = self.send(op, deadline_ns, last)?;
        Ok(RemoteSubmission::new(self, cell))
    }

    fn submit_many<O: Multishot>(
        &self,
        op: O,
        deadline_ns: Option<u64>,
    ) -> Result<RemoteStream<O>, Failed<O>> {
        let cell = self.send(op, deadline_ns, None)?;
        Ok(RemoteStream::new(self.clone(), cell))
    }

    fn adopt(&self, name: &'static str, payload: Payload) -> Result<Arc<Adopted>> {
        match payload {
            Payload::Adopted(adopted) => Ok(Arc::new(adopted)),
            Payload::Refusal(error) => Err(error),
            _ => Err(no_descriptor(name)),
        }
    }

    async fn place(&self, name: &'static str, fd: OwnedFd, class: Class) -> Result<Arc<Adopted>> {
        let shared = self.shared.clone();
        self.call(move |io| {
            let adopted = io.inner().with(name, |engine| engine.adopt(name, fd, class))?;
            let id = adopted.map_err(|(error, _closed)| error)?;
            Ok(Arc::new(Adopted { shared, id }))
        })
        .await?
    }

    fn wants_nonblocking(&self) -> bool {
        self.shared.is_readiness()
    }
}

struct CallState<T> {
    value: Option<T>,
    waker: Option<Waker>,
    over: bool,
}

/// Tells the caller when it is dropped: after the call ran, panicked, or never will.
struct Answer<T>(Arc<Mutex<CallState<T>>>);

impl<T> Answer<T> {
    fn lock(&self) -> MutexGuard<'_, CallState<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut state = self.lock();
        state.over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The value of something that runs on the poll thread. Dropping it does not call it back.
pub struct Call<T> {
    state: Arc<Mutex<CallState<T>>>,
    refused: Option<Error>,
}

impl<T> Call<T> {
    /// None: pending, and this waker is not known yet.
    fn step(&self, waker: Result<Waker, &Waker>) -> Option<Poll<Result<T>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = state.value.take() {
            return Some(Poll::Ready(Ok(value)));
        }
        if state.over {
            return Some(Poll::Ready(Err(inbox::gone("call"))));
        }
        let stale = keep_waker(&mut state.waker, waker)?;
        drop(state);
        drop(stale);
        Some(Poll::Pending)
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        match self.step(Err(cx.waker())) {
            // Cloned outside the lock: a waker is user code.
            None => self.step(Ok(cx.waker().clone())).unwrap_or(Poll::Pending),
            Some(step) => step,
        }
    }
}
