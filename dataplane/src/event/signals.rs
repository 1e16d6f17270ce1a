//! Signals as callbacks and streams of the loop (`signalfd(2)`), never as handlers.
//!
//! # What is owned
//!
//! A signal is the process's, not a thread's, so one proactor per process owns signals at a time:
//! [`Proactor::signals`] blocks those it is given on the calling thread, puts their default action
//! in force (an inherited "ignore" would lose them), and watches a signalfd. A second owner is
//! refused and told who the first is. Dropping [`Signals`], or the proactor's end, puts mask and
//! dispositions back and makes room for another owner; a signal that is pending at that moment
//! takes its old action.
//!
//! The kernel delivers a signal of the process to any thread that does not block it, past every
//! signalfd. So a proactor is refused signals that another thread leaves unblocked:
//! [`block_signals_early`], called first in `main`, makes all later threads inherit the mask, and
//! says so where it came too late. Threads of the toolkit block everything. A program that is
//! started inherits the mask as well (`std::process::Command` clears it).
//!
//! # What arrives
//!
//! Standard signals are not queued: one that arrives while the same one is pending is merged with
//! it by the kernel ([`signal(7)`]), and a [`SignalStream`] keeps one of each kind in the same way.
//! A count of signals means nothing; that one came does. Signals are delivered in the order in
//! which signalfd gives them, lowest number first, each to its subscriptions in the order in which
//! those were made. Those that have none are read and counted.
//!
//! # Callbacks
//!
//! They run inside `poll`, with nothing borrowed: subscribing, unsubscribing (oneself or another,
//! who is not called any more) and dropping the owner are allowed. One that panics is not called
//! again; the panic leaves `poll`, and the other subscriptions and signals are delivered.
//!
//! Everything here belongs to the poll owner's thread. A forked child owns nothing: the mask it
//! inherited is its own business.
//!
//! [`signal(7)`]: https://man7.org/linux/man-pages/man7/signal.7.html

use super::watch::Watch;
use crate::engine::{Engine, Fire};
use crate::error::{Error, ErrorKind, Result};
use crate::op::Interest;
use crate::proactor::{Inner, Proactor};
use crate::sys::fork::Origin;
use crate::sys::signals as calls;
use futures_core::Stream;
use nix::sys::signal::{SigAction, SigSet, SigmaskHow, Signal as Number};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Mutex, TryLockError};
use std::task::{Context, Poll, Waker};

const NAME: &str = "signals";

/// A signal that a proactor can own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// SIGHUP: the terminal is gone; by custom, read the configuration again.
    HangUp,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGQUIT: Ctrl-\.
    Quit,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
    /// SIGTERM: end in order.
    Terminate,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 6] = [
        Signal::HangUp,
        Signal::Interrupt,
        Signal::Quit,
        Signal::User1,
        Signal::User2,
        Signal::Terminate,
    ];

    /// Its number on this system.
    pub fn number(self) -> i32 {
        self.raw() as i32
    }

    fn raw(self) -> Number {
        match self {
            Signal::HangUp => Number::SIGHUP,
            Signal::Interrupt => Number::SIGINT,
            Signal::Quit => Number::SIGQUIT,
            Signal::User1 => Number::SIGUSR1,
            Signal::User2 => Number::SIGUSR2,
            Signal::Terminate => Number::SIGTERM,
        }
    }

    fn from_number(number: u32) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.number() as u32 == number)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.raw().as_str())
    }
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedSignal {
    /// Which.
    pub signal: Signal,
    /// The process that sent it; zero when the kernel did.
    pub sender_pid: u32,
    /// That process's real user.
    pub sender_uid: u32,
}

/// Who owns signals in this process.
struct Owned {
    origin: Origin,
    name: String,
    signals: String,
}

static OWNER: Mutex<Option<Owned>> = Mutex::new(None);

/// What is to be undone. Only one exists in a process.
struct Taken {
    origin: Origin,
    /// Blocked by us on this thread.
    blocked: SigSet,
    actions: Vec<(Number, SigAction)>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            return;
        }
        for (signal, action) in &self.actions {
            calls::restore(*signal, action);
        }
        // Fails for an unknown way to change a mask only.
        let _ = self.blocked.thread_unblock();
        let mut owner = OWNER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *owner = None;
    }
}

fn names(signals: &[Signal]) -> String {
    let names: Vec<_> = signals.iter().map(Signal::to_string).collect();
    names.join(", ")
}

fn set_of(signals: &[Signal]) -> SigSet {
    signals.iter().map(|signal| signal.raw()).collect()
}

fn system(errno: nix::errno::Errno) -> Error {
    Error::from_errno(NAME, errno as i32)
}

/// Makes this proactor the owner, or says who is.
fn claim(origin: Origin, name: &str, signals: &[Signal]) -> Result<Taken> {
    let mut owner = match OWNER.try_lock() {
        Ok(owner) => owner,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // Never waited for: a child forked at that moment would wait for ever.
        Err(TryLockError::WouldBlock) => {
            let message = "another thread is taking signals at this moment; try again";
            return Err(Error::new(NAME, ErrorKind::Busy, message));
        }
    };
    if let Some(found) = owner.as_ref().filter(|found| found.origin.is_here()) {
        let message = format!(
            "the proactor `{}` owns {} in this process; subscribe there, or drop its Signals",
            found.name, found.signals
        );
        return Err(Error::new(NAME, ErrorKind::Busy, message));
    }
    *owner = Some(Owned { origin, name: name.to_owned(), signals: names(signals) });
    Ok(Taken { origin, blocked: SigSet::empty(), actions: Vec::new() })
}

impl Taken {
    /// Blocks the signals and puts their default action in force. What was done is undone on drop.
    fn take(&mut self, signals: &[Signal]) -> Result<()> {
        let set = set_of(signals);
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(system)?;
        self.blocked = set.iter().filter(|signal| !before.contains(*signal)).collect();
        for signal in set.iter() {
            self.actions.push((signal, calls::reset(signal).map_err(system)?));
        }
        Ok(())
    }
}

/// An error naming the threads that would be hit instead of the signalfd.
fn check_threads(signals: &[Signal]) -> Result<()> {
    let numbers: Vec<_> = signals.iter().map(|signal| signal.raw()).collect();
    match calls::exposed_threads(&numbers) {
        Ok(None) => Ok(()),
        Ok(Some(threads)) => {
            let message = format!(
                "too late: {threads} runs with {} unblocked and would be hit; call \
                 block_signals_early first in main, before threads start",
                names(signals)
            );
            Err(Error::new(NAME, ErrorKind::Busy, message))
        }
        Err(error) => Err(Error::from_io(NAME, &error)
            .with_kind(ErrorKind::Unavailable)
            .with_message("whether other threads block them is not known without /proc")),
    }
}

fn distinct(signals: impl IntoIterator<Item = Signal>) -> Result<Vec<Signal>> {
    let mut all: Vec<_> = signals.into_iter().collect();
    all.sort();
    all.dedup();
    match all.is_empty() {
        true => Err(Error::new(NAME, ErrorKind::InvalidArgument, "no signal is named")),
        false => Ok(all),
    }
}

/// Blocks signals on this thread, for it and the threads that it starts from now on: call it first
/// in `main`. They stay blocked; nothing reads them until a proactor [owns](Proactor::signals)
/// them.
///
/// # Errors
///
/// Busy, with nothing changed, when it is too late: another thread runs with one of them unblocked
/// (it is named). Unavailable without `/proc`. InvalidArgument for none.
pub fn block_signals_early(signals: impl IntoIterator<Item = Signal>) -> Result<()> {
    let signals = distinct(signals)?;
    check_threads(&signals)?;
    set_of(&signals).thread_block().map_err(system)
}

/// Ignores SIGPIPE in the whole process: a write to nobody is an error and no end. Rust programs
/// start so; a host program in another language may not. Sends of a proactor never raise it;
/// writes and splices to pipes do.
///
/// # Errors
///
/// What `sigaction(2)` says.
pub fn ignore_sigpipe() -> Result<()> {
    calls::ignore(Number::SIGPIPE).map(drop).map_err(system)
}

type Callback = Box<dyn FnMut(&ReceivedSignal)>;

struct Entry {
    id: u64,
    signal: Signal,
    /// None while it runs.
    callback: Option<Callback>,
}

struct Core {
    inner: Rc<Inner>,
    descriptor: SignalFd,
    signals: Vec<Signal>,
    taken: RefCell<Option<Taken>>,
    watch: RefCell<Option<Watch>>,
    entries: RefCell<Vec<Entry>>,
    count: Cell<u64>,
    unclaimed: Cell<u64>,
}

impl Core {
    fn report(&self, seen: Result<Interest>) {
        if seen.is_err() {
            return self.end();
        }
        while self.taken.borrow().is_some() {
            let Ok(Some(info)) = self.descriptor.read_signal() else { return };
            let Some(signal) = Signal::from_number(info.ssi_signo) else { continue };
            let (sender_pid, sender_uid) = (info.ssi_pid, info.ssi_uid);
            self.deliver(ReceivedSignal { signal, sender_pid, sender_uid });
        }
    }

    fn deliver(&self, received: ReceivedSignal) {
        let entries = self.entries.borrow();
        let of_it = entries.iter().filter(|entry| entry.signal == received.signal);
        let ids: Vec<_> = of_it.map(|entry| entry.id).collect();
        drop(entries);
        if ids.is_empty() {
            self.unclaimed.set(self.unclaimed.get() + 1);
        }
        for id in ids {
            let Some(mut callback) = self.with(id, |entry| entry.callback.take()) else { continue };
            let told = catch_unwind(AssertUnwindSafe(|| callback(&received)));
            match told {
                Ok(()) => {
                    let mut callback = Some(callback);
                    self.with(id, |entry| {
                        entry.callback = callback.take();
                        Some(())
                    });
                }
                Err(panic) => {
                    drop(self.remove(id));
                    // It leaves the poll after this turn's watch, which must go on.
                    let call = Fire::Call(Box::new(move |_| resume_unwind(panic)));
                    let fire = |engine: &mut Engine| engine.fire.push_back(call);
                    // Inside a poll nothing else is borrowed.
                    let _ = self.inner.with(NAME, fire);
                }
            }
        }
    }

    fn with<R>(&self, id: u64, f: impl FnOnce(&mut Entry) -> Option<R>) -> Option<R> {
        let mut entries = self.entries.borrow_mut();
        entries.iter_mut().find(|entry| entry.id == id).and_then(f)
    }

    fn remove(&self, id: u64) -> Option<Entry> {
        let mut entries = self.entries.borrow_mut();
        let at = entries.iter().position(|entry| entry.id == id)?;
        Some(entries.remove(at))
    }

    /// Gives everything back; callbacks are dropped with nothing borrowed.
    fn end(&self) {
        drop(self.taken.take());
        drop(self.watch.take());
        drop(self.entries.take());
    }
}

impl Proactor {
    /// Makes this proactor the owner of these signals; see the head of `signals.rs` for what that
    /// means for the process. Its callbacks run inside [`poll`](Proactor::poll).
    ///
    /// # Errors
    ///
    /// Busy when another proactor of this process owns signals, which is named, or when another
    /// thread runs with one of these unblocked; InvalidArgument for none; Unavailable without
    /// `/proc`; Exhausted.
    pub fn signals(&self, signals: impl IntoIterator<Item = Signal>) -> Result<Signals> {
        let signals = distinct(signals)?;
        let inner = self.inner();
        // In a forked child, and after the end, nothing is taken.
        inner.with(NAME, |engine| match engine.draining {
            true => Err(crate::remote::inbox::gone(NAME)),
            false => Ok(()),
        })??;
        let shared = &inner.shared;
        let mut taken = claim(shared.origin, &shared.name, &signals)?;
        check_threads(&signals)?;
        taken.take(&signals)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&set_of(&signals), flags).map_err(system)?;
        let core = Rc::new(Core {
            inner: inner.clone(),
            descriptor,
            signals,
            taken: RefCell::new(Some(taken)),
            watch: RefCell::default(),
            entries: RefCell::default(),
            count: Cell::default(),
            unclaimed: Cell::default(),
        });
        let inside = Rc::downgrade(&core);
        let watch = self.watch(&core.descriptor, Interest::READABLE, move |seen, _| {
            if let Some(core) = inside.upgrade() {
                core.report(seen);
            }
        })?;
        *core.watch.borrow_mut() = Some(watch);
        Ok(Signals { core })
    }
}

/// The signals a proactor owns. Dropping it gives them back; see the head of this module.
#[must_use = "dropping it gives the signals back"]
pub struct Signals {
    core: Rc<Core>,
}

impl Signals {
    /// Calls `callback` inside `poll` each time the signal arrives, until the subscription is
    /// dropped.
    ///
    /// # Errors
    ///
    /// InvalidArgument for a signal that is not owned; ShutDown after the proactor's end.
    pub fn on(
        &self,
        signal: Signal,
        callback: impl FnMut(&ReceivedSignal) + 'static,
    ) -> Result<Subscription> {
        if !self.core.signals.contains(&signal) {
            let owned = names(&self.core.signals);
            let message =
                format!("{signal} is not owned, {owned} are; name it at Proactor::signals");
            return Err(Error::new(NAME, ErrorKind::InvalidArgument, message));
        }
        if !self.is_active() {
            return Err(crate::remote::inbox::gone(NAME));
        }
        let id = self.core.count.get() + 1;
        self.core.count.set(id);
        let entry = Entry { id, signal, callback: Some(Box::new(callback)) };
        self.core.entries.borrow_mut().push(entry);
        Ok(Subscription { core: Rc::downgrade(&self.core), id })
    }

    /// The signals as a stream, which ends when the owner goes. One of each kind waits at most.
    ///
    /// # Errors
    ///
    /// As [`on`](Self::on).
    pub fn stream(&self, signals: impl IntoIterator<Item = Signal>) -> Result<SignalStream> {
        let queue: Rc<Queue> = Rc::default();
        let feed = Rc::new(Feed(queue.clone()));
        let subscriptions = distinct(signals)?
            .into_iter()
            .map(|signal| {
                let feed = feed.clone();
                self.on(signal, move |received| feed.0.push(*received))
            })
            .collect::<Result<_>>()?;
        Ok(SignalStream { queue, _subscriptions: subscriptions })
    }

    /// Signals that arrived without a subscription.
    pub fn unclaimed(&self) -> u64 {
        self.core.unclaimed.get()
    }

    /// Whether they still are owned: not after the proactor's end, nor after a
    /// [`cancel_all`](Proactor::cancel_all), which ends the watch on them like everything else.
    pub fn is_active(&self) -> bool {
        self.core.taken.borrow().is_some()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.core.end();
    }
}

/// A callback for a signal. Dropping it unsubscribes: it is not called again.
#[must_use = "dropping a subscription unsubscribes"]
pub struct Subscription {
    core: Weak<Core>,
    id: u64,
}

impl Subscription {
    /// Whether it still is called: not after its callback panicked, nor after the owner's end.
    pub fn is_active(&self) -> bool {
        let core = self.core.upgrade();
        core.is_some_and(|core| core.with(self.id, |_| Some(())).is_some())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            drop(core.remove(self.id));
        }
    }
}

/// What arrived and nobody took yet.
#[derive(Default)]
struct Queue {
    received: RefCell<VecDeque<ReceivedSignal>>,
    waker: RefCell<Option<Waker>>,
    over: Cell<bool>,
}

impl Queue {
    fn push(&self, received: ReceivedSignal) {
        let mut queue = self.received.borrow_mut();
        if queue.iter().all(|waiting| waiting.signal != received.signal) {
            queue.push_back(received);
        }
        drop(queue);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Held by the callbacks that fill a queue: gone, it stays as it is.
struct Feed(Rc<Queue>);

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.over.set(true);
        self.0.wake();
    }
}

/// Signals as they arrive; see [`Signals::stream`]. Dropping it loses those that wait in it.
#[must_use = "dropping a stream unsubscribes"]
pub struct SignalStream {
    queue: Rc<Queue>,
    _subscriptions: Vec<Subscription>,
}

impl SignalStream {
    /// The next one; None after the owner's end. Dropping the future loses nothing.
    #[expect(clippy::should_implement_trait, reason = "the name streams give it")]
    pub fn next(&mut self) -> impl Future<Output = Option<ReceivedSignal>> + Unpin {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx))
    }
}

impl Stream for SignalStream {
    type Item = ReceivedSignal;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ReceivedSignal>> {
        let next = self.queue.received.borrow_mut().pop_front();
        if next.is_some() {
            return Poll::Ready(next);
        }
        if self.queue.over.get() {
            return Poll::Ready(None);
        }
        // Cloned and dropped with nothing borrowed: wakers are user code.
        let fresh = cx.waker().clone();
        let stale = self.queue.waker.replace(Some(fresh));
        drop(stale);
        Poll::Pending
    }
}
