//! Watching a foreign descriptor: whenever it is ready, a callback, until the watch ends.
//!
//! # What it is
//!
//! One multishot poll (`poll(2)`, `io_uring_prep_poll_multishot(3)`, an edge-triggered set of
//! `epoll(7)`) and a callback. It reports *edges*: what is ready when the watch is armed, and from
//! then on each time that something new happens; a callback takes all there is. It stays armed
//! until it is unregistered: a completion-queue overflow or an early end by the kernel arms it
//! again, and the proactor's default timeout does not apply.
//!
//! The watch keeps a duplicate of the descriptor, so the caller may close his at once and a reused
//! number is never watched. Data that can still be read is reported with, never after, a hang-up:
//! where the kernel names the hang-up alone, the watch looks once more.
//!
//! # Who owns what
//!
//! The operation's slot owns the callback, and the callback's box owns the duplicate; both go when
//! the operation is abandoned, or a moment later if the callback is running. [`Watch`] and
//! [`RemoteWatch`] are names: dropping one abandons the operation. The [`Status`] they share with
//! the callback says whether a call may still be made and why none will be.
//!
//! # The end
//!
//! After a [`Watch`] is dropped, which only the owning thread can do, no call is made, not even for
//! reports of the same turn. From another thread the callback may be running at that moment:
//! [`RemoteWatch::unregister`] resolves when the callback has been dropped, so that it neither runs
//! nor ever will. An end that nobody asked for (cancelled, shut down, lost completions) is told to
//! the callback once, as an error, and stays readable as the watch's fault; so does a panic of the
//! callback, which leaves `poll` and is the callback's last call. A proactor that goes first ends
//! its watches in the same way.

use crate::backend::OpId;
use crate::engine::Outcome;
use crate::engine::deadlines::NEVER_NS;
use crate::engine::slots::Notify;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Local, LocalDescriptor, Named};
use crate::op::{Interest, PollMany, settle};
use crate::proactor::{Inner, Proactor};
use crate::remote::cell::keep_waker;
use crate::remote::handle::{Call, Handle};
use crate::remote::inbox::{self, Left};
use crate::sys::calls;
use std::cell::Cell;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

const NAME: &str = "watch";

/// What a watch's names and its callback share.
#[derive(Default)]
struct Status {
    /// No further call is made.
    over: AtomicBool,
    rest: Mutex<Rest>,
}

#[derive(Default)]
struct Rest {
    fault: Option<Error>,
    /// The callback has been dropped.
    gone: bool,
    /// Who waits for that.
    waker: Option<Waker>,
}

impl Status {
    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    fn fail(&self, error: Error) {
        self.rest().fault = Some(error);
        self.end();
    }

    fn fault(&self) -> Option<Error> {
        self.rest().fault.clone()
    }
}

/// Says that the callback is gone; dropped after it.
struct Gone(Arc<Status>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.end();
        let mut rest = self.0.rest();
        rest.gone = true;
        let waker = rest.waker.take();
        drop(rest);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Lets a callback end its own watch.
pub struct WatchControl {
    status: Arc<Status>,
}

impl WatchControl {
    /// No further call after this one.
    pub fn end(&self) {
        self.status.end();
    }
}

/// What the operation owns. The fields are dropped in this order.
struct Armed<F> {
    callback: F,
    descriptor: Rc<LocalDescriptor>,
    interest: Interest,
    inner: Rc<Inner>,
    id: Rc<Cell<Option<OpId>>>,
    control: WatchControl,
    _gone: Gone,
}

/// Dropped by nothing but a panic of the callback, which it notes.
struct Running<'a>(&'a Status);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let message = "its callback panicked and is not called again; watch once more";
        self.0.fail(Error::new(NAME, ErrorKind::Interrupted, message));
    }
}

impl<F: FnMut(Result<Interest>, &WatchControl)> Armed<F> {
    fn tell(&mut self, end: bool, outcome: &Outcome) {
        if self.control.status.is_over() {
            return;
        }
        let seen = settle(outcome, NAME).map(|bits| self.with_data(Interest::from_bits(bits)));
        match &seen {
            Err(error) => self.control.status.fail(error.clone()),
            Ok(_) if end => return self.control.status.end(),
            Ok(_) => {}
        }
        let running = Running(&self.control.status);
        (self.callback)(seen, &self.control);
        std::mem::forget(running);
        if self.control.status.is_over()
            && let Some(id) = self.id.get()
        {
            self.inner.abandon(id);
        }
    }

    /// Beside an error or a hang-up alone: whether something can still be read.
    fn with_data(&self, seen: Interest) -> Interest {
        let asks = seen.failed()
            && self.interest.contains(Interest::READABLE)
            && !seen.contains(Interest::READABLE);
        if !asks {
            return seen;
        }
        match now(&self.inner, &self.descriptor, Interest::READABLE) {
            Ok(now) if now.contains(Interest::READABLE) => seen | Interest::READABLE,
            _ => seen,
        }
    }
}

/// What is so right now (`poll(2)`, without waiting).
pub(crate) fn now(
    inner: &Inner,
    descriptor: &Rc<LocalDescriptor>,
    interest: Interest,
) -> Result<Interest> {
    let desc = descriptor.desc();
    let number = inner.with(NAME, |engine| {
        let found = engine.table.descriptors.peek(desc).filter(|found| found.is_open());
        found.map(|found| found.raw())
    })?;
    let Some(number) = number else { return Err(inbox::gone(NAME)) };
    match calls::poll_now(number, interest) {
        seen @ 0.. => Ok(Interest::from_bits(seen as u32)),
        errno => Err(Error::from_errno(NAME, -errno)),
    }
}

/// A duplicate of the caller's descriptor, in the table.
pub(crate) fn hold(local: &Local, fd: impl AsFd) -> Result<Rc<LocalDescriptor>> {
    take(local, duplicate(fd)?)
}

fn duplicate(fd: impl AsFd) -> Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned().map_err(|error| Error::from_io(NAME, &error))
}

/// A descriptor, in the table.
pub(crate) fn take(local: &Local, own: OwnedFd) -> Result<Rc<LocalDescriptor>> {
    let class = calls::classify(own.as_raw_fd()).map_err(|error| Error::from_io(NAME, &error))?;
    local.own(NAME, own, class)
}

/// Watches a descriptor that is in the table.
pub(crate) fn arm(
    local: &Local,
    descriptor: Rc<LocalDescriptor>,
    interest: Interest,
    callback: impl FnMut(Result<Interest>, &WatchControl) + 'static,
) -> Result<Watch> {
    let (id, status) = start(local, descriptor, interest, callback)?;
    Ok(Watch { inner: local.inner.clone(), id, status })
}

fn start(
    local: &Local,
    descriptor: Rc<LocalDescriptor>,
    interest: Interest,
    callback: impl FnMut(Result<Interest>, &WatchControl) + 'static,
) -> Result<(OpId, Arc<Status>)> {
    let op = PollMany { desc: descriptor.desc(), interest };
    let status: Arc<Status> = Arc::default();
    let id = Rc::new(Cell::new(None));
    let mut armed = Armed {
        callback,
        descriptor,
        interest,
        inner: local.inner.clone(),
        id: id.clone(),
        control: WatchControl { status: status.clone() },
        _gone: Gone(status.clone()),
    };
    let notify = Notify::Each(Box::new(move |end, op, outcome| {
        drop(op);
        armed.tell(end, &outcome);
    }));
    // The default timeout is for operations that are expected to end.
    let named = local.place_op(op, notify, Some(NEVER_NS)).map_err(|failed| failed.into_error())?;
    id.set(Some(named));
    Ok((named, status))
}

/// A descriptor being watched. Dropping it ends the watch: the callback is not called again.
#[must_use = "dropping a watch ends it"]
pub struct Watch {
    inner: Rc<Inner>,
    id: OpId,
    status: Arc<Status>,
}

impl Watch {
    /// Whether it still is armed.
    pub fn is_active(&self) -> bool {
        !self.status.is_over()
    }

    /// Why it ended although nobody unregistered it.
    pub fn fault(&self) -> Option<Error> {
        self.status.fault()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.status.end();
        self.inner.abandon(self.id);
    }
}

impl Proactor {
    /// Calls `callback` inside `poll` whenever something new happens on the descriptor, with what
    /// was seen; data that can still be read is reported with, not after, a hang-up. `Err` is the
    /// end of the watch. Everything but polling is allowed inside, ending this watch too.
    ///
    /// The descriptor is duplicated: the caller may close his.
    ///
    /// # Errors
    ///
    /// InvalidArgument for descriptors without readiness (regular files, memfds, directories) and
    /// for no interest; Exhausted.
    pub fn watch(
        &self,
        fd: impl AsFd,
        interest: Interest,
        callback: impl FnMut(Result<Interest>, &WatchControl) + 'static,
    ) -> Result<Watch> {
        let local = self.local();
        let descriptor = hold(&local, fd)?;
        arm(&local, descriptor, interest, callback)
    }
}

/// A watch registered through a [`Handle`]: `Send`, unregistered from whichever thread.
///
/// Dropping it unregisters: no call begins after that, but one may be running on the poll thread.
/// [`unregister`](Self::unregister) tells when it is over.
#[must_use = "dropping a watch ends it"]
pub struct RemoteWatch {
    handle: Handle,
    id: OpId,
    status: Arc<Status>,
}

impl RemoteWatch {
    /// Whether it still is armed.
    pub fn is_active(&self) -> bool {
        !self.status.is_over()
    }

    /// Why it ended although nobody unregistered it.
    pub fn fault(&self) -> Option<Error> {
        self.status.fault()
    }

    /// Ends the watch. What is returned resolves when the callback does not run, and has been
    /// dropped; the poll thread sees to that in its next turn, so awaiting it from inside the
    /// callback would wait for ever. Dropping it takes nothing back.
    ///
    /// It never needs room in the inbox, and a proactor that is gone is no error.
    pub fn unregister(self) -> UnregisterWatch {
        UnregisterWatch { handle: self.handle.clone(), status: self.status.clone() }
    }
}

impl Drop for RemoteWatch {
    fn drop(&mut self) {
        self.status.end();
        let shared = self.handle.shared();
        if shared.origin.is_here() && !shared.is_closed() {
            shared.leave(Left::Dropped(self.id));
        }
    }
}

/// The end of a [`RemoteWatch`]; see [`RemoteWatch::unregister`].
#[must_use = "only its result says that the callback is gone"]
pub struct UnregisterWatch {
    handle: Handle,
    status: Arc<Status>,
}

impl UnregisterWatch {
    /// None: not yet, and this waker is not known.
    fn step(&self, waker: Result<Waker, &Waker>) -> Option<Poll<Result<()>>> {
        let mut rest = self.status.rest();
        if rest.gone {
            return Some(Poll::Ready(Ok(())));
        }
        let stale = keep_waker(&mut rest.waker, waker)?;
        drop(rest);
        drop(stale);
        Some(Poll::Pending)
    }
}

impl Future for UnregisterWatch {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.handle.shared().origin.is_here() {
            return Poll::Ready(Err(inbox::forked("unregister")));
        }
        match self.step(Err(cx.waker())) {
            // Cloned outside the lock: a waker is user code.
            None => self.step(Ok(cx.waker().clone())).unwrap_or(Poll::Pending),
            Some(step) => step,
        }
    }
}

/// A [`RemoteWatch`] on its way: the poll thread registers it. Dropping it unregisters.
#[must_use = "dropping it ends the watch"]
pub struct RegisterWatch(Result<Call<Result<RemoteWatch>>, Option<Error>>);

impl Future for RegisterWatch {
    type Output = Result<RemoteWatch>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(call) => Pin::new(call).poll(cx).map(|told| told.and_then(|watch| watch)),
            Err(refused) => {
                Poll::Ready(Err(refused.take().expect("polled once after it was ready")))
            }
        }
    }
}

impl Handle {
    /// As [`Proactor::watch`], from whichever thread: `callback` runs on the poll thread, inside
    /// `poll`. The descriptor is duplicated before this returns.
    ///
    /// # Errors
    ///
    /// As [`Proactor::watch`]; Exhausted when the inbox is full; ShutDown. All of them come with
    /// the future.
    pub fn watch(
        &self,
        fd: impl AsFd,
        interest: Interest,
        callback: impl FnMut(Result<Interest>, &WatchControl) + Send + 'static,
    ) -> RegisterWatch {
        let own = match duplicate(fd) {
            Ok(own) => own,
            Err(error) => return RegisterWatch(Err(Some(error))),
        };
        let handle = self.clone();
        RegisterWatch(Ok(self.call(move |io| {
            let local = io.local();
            let descriptor = take(&local, own)?;
            let (id, status) = start(&local, descriptor, interest, callback)?;
            Ok(RemoteWatch { handle, id, status })
        })))
    }
}
