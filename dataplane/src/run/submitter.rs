//! A loop on a thread of its own, with submit handles that keep it alive.
//!
//! A [`Submitter`] is `Send + Sync` and cheap to clone. What it submits goes through the inbox of
//! its loop's proactor, which is the bounded queue ([`Options::inbox`]); a full one is met in two
//! ways. [`try_submit`](Submitter::try_submit) hands the operation back.
//! [`submit`](Submitter::submit) waits for room, first come first served; dropping the waiting
//! future submits nothing, and nobody who tries overtakes those who wait. What is submitted by the
//! requests of a plain [`Handle`] does not stand in line.
//!
//! # The end
//!
//! A waiting future counts as a submit handle, a plain [`Handle`] does not. When the last submit
//! handle is dropped the loop *drains*: it runs until the queue is empty and every operation has
//! ended, however long that takes (an operation that would never end is ended by dropping its
//! submission), and then the proactor goes and the thread with it. Dropping does not wait for that.
//! An error of the loop itself ends the thread at once, and everybody gets a ShutDown error.
//!
//! # The thread
//!
//! It is named like the proactor. A panic in what it was asked to run
//! ([`Handle::call`], a callback made there) has left `poll` after the state was put in order;
//! the thread goes on.

use super::thread::{self, Stop};
use crate::engine::shutdown::Leaked;
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::request::Request;
use crate::io::submission::RemoteSubmission;
use crate::op::Operation;
use crate::options::Options;
use crate::proactor::{Proactor, Wait};
use crate::remote::cell::Cell;
use crate::remote::handle::Handle;
use crate::remote::inbox::{Command, Refused};
use crate::remote::line::{Place, Queued};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// See the head of this file.
#[derive(Clone)]
pub struct Submitter {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle,
    stop: Arc<Stop>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.ask(&self.handle);
    }
}

impl fmt::Debug for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Submitter({:?})", self.inner.handle)
    }
}

impl Submitter {
    /// Starts a thread with a proactor of these options.
    ///
    /// # Errors
    ///
    /// As [`Proactor::with`]; what the system says when it has no thread.
    pub fn start(options: Options) -> Result<Submitter> {
        let stop = Arc::new(Stop::default());
        let ending = stop.clone();
        // The thread is not waited for: see the head of this file.
        let (handle, _) = thread::launch(options, Proactor::with, move |io| run(&io, &ending))?;
        Ok(Submitter { inner: Arc::new(Inner { handle, stop }) })
    }

    /// A handle of the loop's proactor: to make sockets, files and requests with. It does not keep
    /// the loop alive.
    pub fn handle(&self) -> Handle {
        self.inner.handle.clone()
    }

    /// Submits a request of this loop's [`handle`](Self::handle), or of a socket or file made with
    /// it, without waiting for room.
    ///
    /// # Errors
    ///
    /// The operation comes back: Exhausted when the queue is full or others wait for room; ShutDown
    /// when the loop is gone; InvalidArgument for a request of another proactor.
    pub fn try_submit<O: Operation>(
        &self,
        request: Request<Handle, O>,
    ) -> Result<RemoteSubmission<O>, Failed<O>> {
        let (command, cell) = self.command(request)?;
        match self.inner.handle.shared().send_behind(command) {
            Ok(()) => Ok(RemoteSubmission::new(self.handle(), cell)),
            Err(refused) => Err(self.inner.handle.refused(refused)),
        }
    }

    /// Submits it when there is room: the future gives what
    /// [`try_submit`](Self::try_submit) would, and is never Exhausted. Dropped before that, nothing
    /// was submitted. A future that was woken and is neither polled nor dropped holds up those who
    /// came after it.
    pub fn submit<O: Operation>(&self, request: Request<Handle, O>) -> Submit<O> {
        let state = match self.command(request) {
            Ok((command, cell)) => State::Waits { command: Box::new(command), cell, place: None },
            Err(failed) => State::Refused(failed),
        };
        Submit { submitter: self.clone(), state: Some(state), operation: PhantomData }
    }

    fn command<O: Operation>(
        &self,
        request: Request<Handle, O>,
    ) -> Result<(Command, Arc<Cell>), Failed<O>> {
        let (port, op, deadline_ns, last) = request.into_parts();
        if !Arc::ptr_eq(port.shared(), self.inner.handle.shared()) {
            let message = "the request is of another proactor; make it with Submitter::handle";
            let error = Error::new(O::NAME, ErrorKind::InvalidArgument, message);
            return Err(Failed::new(error, op));
        }
        let cell = Cell::new(op.into(), deadline_ns);
        Ok((Command::Submit { cell: cell.clone(), last }, cell))
    }
}

/// Polls until no submit handle is left, and then until nothing is left to do.
fn run(io: &Proactor, stop: &Stop) -> Result<Option<Leaked>> {
    let shared = &io.inner().shared;
    loop {
        // What was queued before the last handle went is seen below.
        let ending = stop.is_asked();
        let is_idle = io.stats().in_flight == 0;
        if ending && is_idle && shared.is_empty() {
            return Ok(None);
        }
        // At the end, what is queued may come to nothing that would end a sleep: a call, or an
        // operation whose submission was dropped.
        let wait = if ending && is_idle { Wait::Now } else { Wait::Forever };
        match catch_unwind(AssertUnwindSafe(|| io.poll(wait))) {
            // The panic hook has told about it.
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

enum State<O: Operation> {
    Waits { command: Box<Command>, cell: Arc<Cell>, place: Option<Place> },
    Refused(Failed<O>),
}

/// Waits for room in a loop's queue; see [`Submitter::submit`].
#[must_use = "nothing is submitted before it is awaited"]
pub struct Submit<O: Operation> {
    submitter: Submitter,
    /// None when it is over.
    state: Option<State<O>>,
    operation: PhantomData<fn() -> O>,
}

impl<O: Operation> Unpin for Submit<O> {}

impl<O: Operation> Future for Submit<O> {
    type Output = Result<RemoteSubmission<O>, Failed<O>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = self.submitter.handle();
        let (command, cell, place) = match self.state.take() {
            Some(State::Waits { command, cell, place }) => (command, cell, place),
            Some(State::Refused(failed)) => return Poll::Ready(Err(failed)),
            None => panic!("polled after it was over"),
        };
        match handle.shared().send_in_line(*command, place, cx.waker().clone()) {
            Queued::Sent => Poll::Ready(Ok(RemoteSubmission::new(handle, cell))),
            Queued::Refused(command) => Poll::Ready(Err(handle.refused(Refused::Closed(command)))),
            Queued::Waits(command, place) => {
                let (command, place) = (Box::new(command), Some(place));
                self.state = Some(State::Waits { command, cell, place });
                Poll::Pending
            }
        }
    }
}

impl<O: Operation> Drop for Submit<O> {
    fn drop(&mut self) {
        if let Some(State::Waits { place: Some(place), .. }) = &self.state {
            self.submitter.inner.handle.shared().leave_line(*place);
        }
    }
}
