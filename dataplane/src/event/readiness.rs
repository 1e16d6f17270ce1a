//! Readiness: descriptors registered for tokens, reported by a poll or awaited by tasks.
//!
//! # What it is
//!
//! The interface of a reactor over the loop that is there: each registration is a watch
//! ([`super::watch`]) of the proactor's own, so it works on every backend and beside every other
//! operation, and no second `epoll(7)` set exists. Linux only, like the proactor.
//!
//! [`Readiness::register`] hands out a [`Token`]; it is never given out twice, so one that is kept
//! after [`deregister`](Readiness::deregister) is an error and never somebody else's descriptor.
//! [`Readiness::poll`] runs the loop and gives the events; [`Readiness::ready`] is the same for
//! tasks, any number of them for each direction, and [`super::io_source`] puts a type around it.
//! Both may be used on one registration: neither takes anything from the other.
//!
//! # Level and edge
//!
//! A watch reports edges. With [`Trigger::Edge`] a poll gives an event for each of them, merged
//! while nobody polls. With [`Trigger::Level`] a poll gives an event as long as the descriptor is
//! ready: what was reported is looked at again (`poll(2)` without waiting, once per poll and ready
//! descriptor) until it is not. Tasks always wait for a state, whatever the trigger: they look
//! first, and sleep only when the answer is no.
//!
//! # Ends
//!
//! An error or a hang-up is reported whatever the interest, and wakes both directions.
//! Deregistering wakes the waiting tasks, who get a Closed error; a registration whose watch ended
//! (cancelled, shut down) gives one last event with [`Interest::ERROR`] and is faulted: tasks get
//! the reason, and it can be re-registered or deregistered. Wakers run with nothing borrowed, so a
//! woken task may register, re-register and deregister at once.
//!
//! # Threads
//!
//! Everything here belongs to the poll owner's thread; [`Readiness::handle`] wakes a poll from
//! another one.

use super::watch::{self, Watch};
use crate::engine::{Engine, Fire};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Local, LocalDescriptor};
use crate::op::Interest;
use crate::proactor::{Proactor, Wait};
use crate::remote::handle::Handle;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

const NAME: &str = "readiness";

/// Names one registration of one [`Readiness`]; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

/// When a poll reports a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Trigger {
    /// As long as it is ready.
    #[default]
    Level,
    /// Once for each time that something new happens: take all there is.
    Edge,
}

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyEvent {
    /// Which registration.
    pub token: Token,
    /// What was seen: part of what it was registered for, and errors and hang-ups.
    pub ready: Interest,
}

/// One registration.
struct Source {
    descriptor: Rc<LocalDescriptor>,
    interest: Interest,
    trigger: Trigger,
    watch: Option<Watch>,
    /// Tells reports of the present watch from those of one that was replaced.
    round: u64,
    /// Seen and not yet given to a poll.
    pending: Interest,
    /// Stands in the queue of events.
    queued: bool,
    fault: Option<Error>,
    /// Tasks, by the number of their wait, and what each waits for.
    waiting: Vec<(u64, Interest, Waker)>,
}

#[derive(Default)]
struct Table {
    sources: HashMap<Token, Source>,
    events: VecDeque<Token>,
    /// Counts tokens, rounds and waits.
    count: u64,
}

/// What registrations, tasks and callbacks share.
pub(crate) struct Core {
    local: Local,
    table: RefCell<Table>,
}

/// Whether what was seen is of use to somebody who waits for `interest`.
fn concerns(seen: Interest, interest: Interest) -> bool {
    seen.failed() || seen.bits() & interest.bits() != 0
}

fn unknown() -> Error {
    Error::new(NAME, ErrorKind::NotFound, "no such registration; it was deregistered")
}

impl Table {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn queue(&mut self, token: Token) {
        if let Some(source) = self.sources.get_mut(&token)
            && !std::mem::replace(&mut source.queued, true)
        {
            self.events.push_back(token);
        }
    }

    /// Takes the wakers of those whom `seen` concerns.
    fn take_wakers(&mut self, token: Token, seen: Interest) -> Vec<Waker> {
        let Some(source) = self.sources.get_mut(&token) else { return Vec::new() };
        let waiting = std::mem::take(&mut source.waiting);
        let (woken, kept) =
            waiting.into_iter().partition(|(_, interest, _)| concerns(seen, *interest));
        source.waiting = kept;
        let woken: Vec<_> = woken;
        woken.into_iter().map(|(_, _, waker)| waker).collect()
    }
}

impl Core {
    pub(crate) fn register(
        self: &Rc<Self>,
        fd: impl AsFd,
        interest: Interest,
        trigger: Trigger,
    ) -> Result<Token> {
        let descriptor = watch::hold(&self.local, fd)?;
        let token = Token(self.table.borrow_mut().next());
        let source = Source {
            descriptor,
            interest,
            trigger,
            watch: None,
            round: 0,
            pending: Interest::default(),
            queued: false,
            fault: None,
            waiting: Vec::new(),
        };
        self.table.borrow_mut().sources.insert(token, source);
        let armed = self.arm(token, interest, trigger);
        if armed.is_err() {
            drop(self.remove(token));
        }
        armed.map(|()| token)
    }

    /// Watches for something else from now on; what there was stays when that is refused.
    fn arm(self: &Rc<Self>, token: Token, interest: Interest, trigger: Trigger) -> Result<()> {
        let (descriptor, round) = {
            let mut table = self.table.borrow_mut();
            let round = table.next();
            let source = table.sources.get(&token).ok_or_else(unknown)?;
            (source.descriptor.clone(), round)
        };
        let core = Rc::downgrade(self);
        let watch = watch::arm(&self.local, descriptor, interest, move |seen, _| {
            if let Some(core) = core.upgrade() {
                core.seen(token, round, seen);
            }
        })?;
        let mut table = self.table.borrow_mut();
        let Some(source) = table.sources.get_mut(&token) else {
            drop(table);
            return Err(unknown());
        };
        (source.interest, source.trigger, source.round) = (interest, trigger, round);
        (source.pending, source.fault) = (Interest::default(), None);
        let old = source.watch.replace(watch);
        let everybody = table.take_wakers(token, Interest::ERROR);
        drop(table);
        drop(old);
        wake(everybody);
        Ok(())
    }

    /// A report of a watch, or its end.
    fn seen(&self, token: Token, round: u64, seen: Result<Interest>) {
        let mut table = self.table.borrow_mut();
        let Some(source) = table.sources.get_mut(&token).filter(|found| found.round == round)
        else {
            return;
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                source.fault = Some(error);
                Interest::ERROR
            }
        };
        source.pending = source.pending | seen;
        table.queue(token);
        let wakers = table.take_wakers(token, seen);
        drop(table);
        // By the turn's own list: one that panics must not end the watch.
        let fire = |engine: &mut Engine| engine.fire.extend(wakers.into_iter().map(Fire::Wake));
        // Inside a poll nothing else is borrowed, and this is no forked child.
        let _ = self.local.inner.with(NAME, fire);
    }

    fn remove(&self, token: Token) -> Option<Source> {
        self.table.borrow_mut().sources.remove(&token)
    }

    pub(crate) fn deregister(&self, token: Token) -> Result<()> {
        let source = self.remove(token).ok_or_else(unknown)?;
        let wakers = source.waiting.into_iter().map(|(_, _, waker)| waker).collect();
        drop((source.watch, source.descriptor));
        wake(wakers);
        Ok(())
    }

    /// What is so now, of `interest`, errors and hang-ups.
    fn now(&self, token: Token, interest: Interest) -> Result<Interest> {
        let found = {
            let table = self.table.borrow();
            let source = table.sources.get(&token).ok_or_else(unknown)?;
            match &source.fault {
                Some(fault) => Err(fault.clone()),
                None => Ok(source.descriptor.clone()),
            }
        };
        watch::now(&self.local.inner, &found?, interest)
    }

    /// One wait of a task: ready, or its waker is left under `wait`.
    fn look(&self, wait: &Waiting, waker: &Waker) -> Poll<Result<Interest>> {
        let now = match self.now(wait.token, wait.interest) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Poll::Ready(Err(deregistered()));
            }
            now => now?,
        };
        if now != Interest::default() {
            return Poll::Ready(Ok(now));
        }
        // Cloned and dropped with nothing borrowed: wakers are user code.
        let fresh = waker.clone();
        let mut table = self.table.borrow_mut();
        let Some(source) = table.sources.get_mut(&wait.token) else {
            drop(table);
            return Poll::Ready(Err(deregistered()));
        };
        let known = source.waiting.iter_mut().find(|(number, ..)| *number == wait.number);
        let stale = match known {
            Some((.., waker)) => Some(std::mem::replace(waker, fresh)),
            None => {
                source.waiting.push((wait.number, wait.interest, fresh));
                None
            }
        };
        drop(table);
        drop(stale);
        Poll::Pending
    }

    /// Fills `events` with what is ready; level-triggered ones stay for the next time.
    fn take_events(&self, events: &mut Vec<ReadyEvent>) {
        let queued = self.table.borrow().events.len();
        for _ in 0..queued {
            let Some(token) = self.table.borrow_mut().events.pop_front() else { return };
            if let Some(ready) = self.take_event(token) {
                events.push(ReadyEvent { token, ready });
            }
        }
    }

    fn take_event(&self, token: Token) -> Option<Interest> {
        let (pending, interest, trigger, faulted) = {
            let mut table = self.table.borrow_mut();
            let source = table.sources.get_mut(&token)?;
            source.queued = false;
            let pending = std::mem::take(&mut source.pending);
            (pending, source.interest, source.trigger, source.fault.is_some())
        };
        if faulted || trigger == Trigger::Edge {
            return Some(pending).filter(|pending| *pending != Interest::default());
        }
        let now = self.now(token, interest).ok().filter(|now| *now != Interest::default())?;
        self.table.borrow_mut().queue(token);
        Some(now)
    }

    fn has_events(&self) -> bool {
        !self.table.borrow().events.is_empty()
    }
}

/// Wakes them all. The first panic goes on at the end; what others throw is forgotten.
fn wake(wakers: Vec<Waker>) {
    let mut panic = None;
    for waker in wakers {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            match &panic {
                None => panic = Some(payload),
                Some(_) => std::mem::forget(payload),
            }
        }
    }
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

fn deregistered() -> Error {
    Error::new(NAME, ErrorKind::Closed, "the descriptor was deregistered while a task waited")
}

/// See the head of this module. Dropping it deregisters everything.
pub struct Readiness {
    io: Proactor,
    core: Rc<Core>,
}

impl Readiness {
    /// Of this proactor, whose loop it runs and which it keeps from ending.
    pub fn new(io: &Proactor) -> Readiness {
        let core = Core { local: io.local(), table: RefCell::default() };
        Readiness { io: io.clone(), core: Rc::new(core) }
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Registers a descriptor, which is duplicated: the caller may close his. One descriptor may
    /// be registered several times.
    ///
    /// # Errors
    ///
    /// InvalidArgument for descriptors without readiness (regular files, memfds) and for no
    /// interest; Exhausted.
    pub fn register(&self, fd: impl AsFd, interest: Interest, trigger: Trigger) -> Result<Token> {
        self.core.register(fd, interest, trigger)
    }

    /// Changes what a registration is reported for, and arms it again: what is ready now is
    /// reported anew. When it is refused the old registration stays.
    ///
    /// # Errors
    ///
    /// NotFound for a token that was deregistered; as [`register`](Self::register).
    pub fn reregister(&self, token: Token, interest: Interest, trigger: Trigger) -> Result<()> {
        self.core.arm(token, interest, trigger)
    }

    /// Ends a registration. Tasks that wait on it get a Closed error; no event of it is given any
    /// more.
    ///
    /// # Errors
    ///
    /// NotFound for a token that was deregistered.
    pub fn deregister(&self, token: Token) -> Result<()> {
        self.core.deregister(token)
    }

    /// Why a registration is no longer watched.
    pub fn fault(&self, token: Token) -> Option<Error> {
        let table = self.core.table.borrow();
        table.sources.get(&token).and_then(|source| source.fault.clone())
    }

    /// Runs the loop until a registered descriptor is ready, something else completed, a wake was
    /// asked for, or `wait` is over. `events` is emptied first; how many there are now.
    ///
    /// # Errors
    ///
    /// As [`Proactor::poll`].
    pub fn poll(&self, events: &mut Vec<ReadyEvent>, wait: impl Into<Wait>) -> Result<usize> {
        events.clear();
        if self.core.has_events() {
            // What is known already is not waited for, and others have their turn all the same.
            self.io.poll(Wait::Now)?;
            self.core.take_events(events);
            if !events.is_empty() {
                return Ok(events.len());
            }
        }
        self.io.poll(wait)?;
        self.core.take_events(events);
        Ok(events.len())
    }

    /// Makes a [`poll`](Self::poll) return, from whichever thread: [`Handle::wake`].
    pub fn handle(&self) -> Handle {
        self.io.handle()
    }

    /// Waits until a registered descriptor is ready for `interest`, which the registration must
    /// include; what is so, with errors and hang-ups. Dropping it loses nothing.
    pub fn ready(&self, token: Token, interest: Interest) -> Waiting {
        Waiting::new(&self.core, token, interest)
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        let tokens: Vec<_> = self.core.table.borrow().sources.keys().copied().collect();
        for token in tokens {
            // One of the wakers may have deregistered it by now.
            let _ = self.core.deregister(token);
        }
    }
}

/// A task's wait for readiness. The error is Closed when the descriptor is deregistered, and what
/// ended the watch when that failed.
#[must_use = "a wait does nothing until it is awaited"]
pub struct Waiting {
    core: Weak<Core>,
    token: Token,
    interest: Interest,
    number: u64,
}

impl Waiting {
    pub(crate) fn new(core: &Rc<Core>, token: Token, interest: Interest) -> Waiting {
        let number = core.table.borrow_mut().next();
        Waiting { core: Rc::downgrade(core), token, interest, number }
    }

    /// None: it may wait for this.
    fn refusal(&self, core: &Core) -> Option<Error> {
        let table = core.table.borrow();
        let source = table.sources.get(&self.token)?;
        let asked = self.interest != Interest::default();
        if asked && source.interest.contains(self.interest) {
            return None;
        }
        let message = format!(
            "waits for {:?} on what is registered for {:?}; re-register it",
            self.interest, source.interest
        );
        Some(Error::new(NAME, ErrorKind::InvalidArgument, message))
    }
}

impl Future for Waiting {
    type Output = Result<Interest>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Interest>> {
        let Some(core) = self.core.upgrade() else { return Poll::Ready(Err(deregistered())) };
        match self.refusal(&core) {
            Some(error) => Poll::Ready(Err(error)),
            None => core.look(&self, cx.waker()),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(core) = self.core.upgrade() else { return };
        let mut table = core.table.borrow_mut();
        let Some(source) = table.sources.get_mut(&self.token) else { return };
        let at = source.waiting.iter().position(|(number, ..)| *number == self.number);
        let waker = at.map(|at| source.waiting.swap_remove(at));
        drop(table);
        drop(waker);
    }
}
