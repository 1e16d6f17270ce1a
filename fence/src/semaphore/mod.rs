//! The timeline semaphore: a value that only grows, or fails once and for all.
//!
//! # Who changes what
//!
//! The value and the failed flag are atomics that anybody reads; they are written only under the
//! state's lock, value before flag. A failed semaphore's value is frozen. From this follows how
//! every question is answered without ambiguity:
//!
//! - A reader who loads the value and *then* finds the flag clear has read a value that stood
//!   while the semaphore was sound (the flag never goes back).
//! - A wait registers under the lock, after looking again: either the signal came first and the
//!   wait does not register, or the wait is in the set before the value changes and the signal
//!   finds it. No wake is lost between the two.
//! - A registered waiter whose value is at or below the current one was reached *before* any
//!   failure, so it is told the value; every other one of a failed semaphore is told the failure.
//!   What it is told does not depend on which thread gets to tell it.
//!
//! # Who runs what
//!
//! A change goes through three steps: `apply` writes it under the lock and says whether anybody
//! is due and who is linked; `link::settle` applies it to the linked semaphores, one lock at a
//! time, never two; `release` takes the due waiters out one by one and tells each with no lock
//! held. One by one, and not as a batch, so that a callback that cancels another due one
//! succeeds. Two threads that signal at once may each tell waiters of the other, but none beyond
//! its own value: a signal never stays to serve those that come after it.

pub(crate) mod all_any;
mod callback;
pub(crate) mod link;
#[cfg(all(test, loom))]
mod loom_model;
mod wait;
mod waiters;

pub use all_any::{Reached, WaitAll, WaitAny, wait_all, wait_any};
pub use callback::Callback;
pub use link::Link;
pub use wait::Wait;

use std::fmt;
use std::sync::Arc;

use self::link::{LinkEnd, Links};
use self::waiters::{FirstPanic, Key, Outcome, Waiter, Waiters};
use crate::error::{Failed, Failure, SignalError};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};

/// A timeline semaphore: a `u64` that starts somewhere and only grows, shared by its clones.
///
/// `Send` and `Sync`; a clone is another handle on the same semaphore. There is no limit on
/// waiters but memory. Every method may be called from any thread, and from inside callbacks and
/// wakers of any semaphore, this one included; none may be called from a signal handler.
///
/// **Thread rule.** Callbacks and wakers run on the thread that signals, fails or links, with no
/// lock held. They delay that thread and the waiters behind them, so they should be short. One
/// that signals runs the callbacks this releases before it goes on: the depth of such a chain of
/// callbacks is the depth of the stack (links do not recurse). If one panics, the others are told
/// first, then the panic goes on out of the call that signalled.
///
/// **Lifetime.** Waits, callback handles and links that lead away from a semaphore keep it alive.
/// When the last one that would have signalled it is gone, nothing happens: a wait whose value
/// nobody signals any more never ends by itself. Whoever gives up calls [`fail`](Self::fail).
#[derive(Clone)]
pub struct Semaphore {
    pub(crate) core: Arc<Core>,
}

impl Semaphore {
    /// A semaphore that has reached `initial`.
    pub fn new(initial: u64) -> Semaphore {
        Semaphore {
            core: Arc::new(Core {
                value: AtomicU64::new(initial),
                failed: AtomicBool::new(false),
                state: Mutex::new(State::default()),
            }),
        }
    }

    /// The value reached. Takes no lock while the semaphore is sound.
    ///
    /// # Errors
    /// [`Failed`], with the last value and the cause, once the semaphore has failed.
    pub fn value(&self) -> Result<u64, Failed> {
        self.core.reached(0).ok_or_else(|| self.core.failed_answer())
    }

    /// Advances to `value` and tells everybody who waits for it or less.
    ///
    /// Values may be skipped. When this returns, every waiter due at `value` has been told, except
    /// those that another thread's signal is telling at this moment. The cost does not depend on
    /// how many wait for later values. The memory written before a signal is visible to whoever
    /// sees its value.
    ///
    /// # Errors
    /// [`SignalError::NotAbove`] if the semaphore already has `value` or more,
    /// [`SignalError::Failed`] if it has failed. Nothing changed then.
    ///
    /// # Panics
    /// With the panic of a callback or waker, after everybody else was told.
    pub fn signal(&self, value: u64) -> Result<(), SignalError> {
        let effects = self.core.apply(Change::Advance(value))?;
        link::settle(&self.core, effects, None);
        Ok(())
    }

    /// Fails the semaphore for ever, and tells everybody who waits, now and later.
    ///
    /// The first failure wins: true if this was it. Values reached before stay reached for waits
    /// that had begun; one that begins later gets the failure, whatever its value.
    ///
    /// # Panics
    /// With the panic of a callback or waker, after everybody else was told.
    pub fn fail(&self, failure: Failure) -> bool {
        match self.core.apply(Change::Fail { at_least: 0, failure: &failure }) {
            Ok(effects) => {
                link::settle(&self.core, effects, Some(&failure));
                true
            }
            Err(_) => false,
        }
    }

    /// Calls `callback` once the value is reached (with the value seen) or the semaphore fails.
    ///
    /// If that is so already, it is called here and now, before this returns. It is called at most
    /// once. Dropping the handle detaches it: the callback stays. A callback that owns a clone of
    /// the semaphore it waits for keeps both alive until it is called or cancelled.
    pub fn on_reach<F>(&self, value: u64, callback: F) -> Callback
    where
        F: FnOnce(Result<u64, Failure>) + Send + 'static,
    {
        if let Some(seen) = self.core.reached(value) {
            callback(Ok(seen));
            return Callback::told(&self.core);
        }
        match self.core.register(value, Waiter::Callback(Box::new(callback))) {
            Ok(key) => Callback::pending(&self.core, key),
            Err((outcome, waiter)) => {
                waiter.tell(outcome);
                Callback::told(&self.core)
            }
        }
    }

    /// As [`on_reach`](Self::on_reach), but what the callback would be told here and now is the
    /// answer instead, and the callback is dropped.
    #[cfg(not(loom))]
    pub(crate) fn on_reach_later<F>(&self, value: u64, callback: F) -> Result<Callback, Outcome>
    where
        F: FnOnce(Result<u64, Failure>) + Send + 'static,
    {
        let registered = self.core.register(value, Waiter::Callback(Box::new(callback)));
        registered.map(|key| Callback::pending(&self.core, key)).map_err(|(outcome, _)| outcome)
    }

    /// Relays every advance of this semaphore, and its failure, to `to`.
    ///
    /// What this one has reached is relayed at once, so `to` is never behind it. `to` stays
    /// free to be signalled by others; a relayed value that is not above its own changes nothing,
    /// and its failure does not come back. A signal allocates nothing for its links once its
    /// thread's work list has grown to the number of semaphores reached, and sets all their values
    /// before it tells the first waiter. A link to itself does nothing; cycles are allowed.
    ///
    /// The link keeps `to` alive, and ends by [`Link::unlink`], with this semaphore, or with its
    /// failure; dropping the handle leaves it in place. A cycle therefore keeps its semaphores
    /// alive until one of them fails or a link of it is unlinked.
    ///
    /// # Panics
    /// With the panic of a callback or waker of `to`, after everybody else was told.
    pub fn link(&self, to: &Semaphore) -> Link {
        link::connect(&self.core, &to.core)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failure, waiters, links) = {
            let state = lock(&self.core.state);
            let links = state.links.as_ref().map_or(0, |links| links.len());
            (state.failure.clone(), state.waiters.len(), links)
        };
        f.debug_struct("Semaphore")
            .field("value", &self.core.current())
            .field("failure", &failure)
            .field("waiters", &waiters)
            .field("links", &links)
            .finish()
    }
}

/// What the clones, waits and links of one semaphore share.
pub(crate) struct Core {
    value: AtomicU64,
    failed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiters: Waiters,
    failure: Option<Failure>,
    /// Replaced as a whole when a link comes or goes, so a signal takes it by counting it.
    links: Option<Links>,
    next_link: u64,
}

/// A change to apply.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    Advance(u64),
    /// Fails, after advancing to `at_least` if that is more: what a linked source had reached.
    Fail {
        at_least: u64,
        failure: &'a Failure,
    },
}

/// What an applied change leaves to do, with no lock held.
pub(crate) struct Effects {
    /// The value reached.
    pub(crate) value: u64,
    /// Whether any waiter is to be told.
    pub(crate) due: bool,
    /// Whom to relay to.
    pub(crate) links: Option<Links>,
}

impl Core {
    /// The value, failed or not.
    pub(crate) fn current(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// The value, if it is `wanted` or more and the semaphore is sound. Takes no lock.
    pub(crate) fn reached(&self, wanted: u64) -> Option<u64> {
        let value = self.current();
        (value >= wanted && !self.failed.load(Ordering::Acquire)).then_some(value)
    }

    /// The value, if it is below `wanted` and the semaphore is sound: no outcome yet.
    pub(crate) fn short_of(&self, wanted: u64) -> Option<u64> {
        let value = self.current();
        (value < wanted && !self.failed.load(Ordering::Acquire)).then_some(value)
    }

    fn failed_answer(&self) -> Failed {
        let failure = lock(&self.state).failure.clone();
        let failure = failure.expect("the flag is set under the lock, together with the failure");
        Failed { value: self.current(), failure }
    }

    /// Writes a change, and says what is to follow. Runs no user code.
    pub(crate) fn apply(&self, change: Change<'_>) -> Result<Effects, SignalError> {
        let mut state = lock(&self.state);
        let current = self.value.load(Ordering::Relaxed);
        if let Some(failure) = &state.failure {
            let (Change::Advance(value) | Change::Fail { at_least: value, .. }) = change;
            return Err(SignalError::Failed { value, failure: failure.clone() });
        }
        match change {
            Change::Advance(value) if value <= current => {
                Err(SignalError::NotAbove { value, current })
            }
            Change::Advance(value) => {
                self.value.store(value, Ordering::Release);
                let due = state.waiters.any_due(value);
                Ok(Effects { value, due, links: state.links.clone() })
            }
            Change::Fail { at_least, failure } => {
                let value = current.max(at_least);
                self.value.store(value, Ordering::Release);
                self.failed.store(true, Ordering::Release);
                state.failure = Some(failure.clone());
                let due = state.waiters.len() > 0;
                Ok(Effects { value, due, links: state.links.take() })
            }
        }
    }

    /// Tells everybody who waits for `bound` or less, each with no lock held.
    pub(crate) fn release(&self, bound: u64, panic: &mut FirstPanic) {
        while let Some((outcome, waiter)) = self.pop_due(bound) {
            panic.catch(|| waiter.tell(outcome));
        }
    }

    fn pop_due(&self, bound: u64) -> Option<(Outcome, Waiter)> {
        let mut state = lock(&self.state);
        let (key, waiter) = state.waiters.pop_due(bound)?;
        let value = self.value.load(Ordering::Relaxed);
        let outcome = match &state.failure {
            Some(failure) if key.value() > value => Err(failure.clone()),
            _ => Ok(value),
        };
        Some((outcome, waiter))
    }

    /// Adds a waiter, or hands it back with what it can be told at once.
    pub(crate) fn register(&self, wanted: u64, waiter: Waiter) -> Result<Key, (Outcome, Waiter)> {
        let mut state = lock(&self.state);
        if let Some(failure) = &state.failure {
            return Err((Err(failure.clone()), waiter));
        }
        let value = self.value.load(Ordering::Relaxed);
        if value >= wanted {
            return Err((Ok(value), waiter));
        }
        Ok(state.waiters.insert(wanted, waiter))
    }

    /// For a registered waiter: its outcome if it has one, else `waiter` takes its place. What
    /// was in the set, or was not put there, comes back to be dropped without the lock.
    pub(crate) fn renew(&self, key: Key, waiter: Waiter) -> (Option<Outcome>, [Option<Waiter>; 2]) {
        let mut state = lock(&self.state);
        let value = self.value.load(Ordering::Relaxed);
        let outcome = match &state.failure {
            _ if value >= key.value() => Ok(value),
            Some(failure) => Err(failure.clone()),
            None => return (None, [state.waiters.replace(key, waiter), None]),
        };
        (Some(outcome), [state.waiters.remove(key), Some(waiter)])
    }

    /// Takes a waiter out, unless it was taken to be told. The caller drops it.
    pub(crate) fn deregister(&self, key: Key) -> Option<Waiter> {
        lock(&self.state).waiters.remove(key)
    }

    /// Adds a link and says what `target` has missed; a failed semaphore takes none (no id).
    pub(crate) fn add_link(&self, target: &Arc<Core>) -> (Option<u64>, u64, Option<Failure>) {
        let mut state = lock(&self.state);
        let value = self.value.load(Ordering::Relaxed);
        if let Some(failure) = &state.failure {
            return (None, value, Some(failure.clone()));
        }
        let id = state.next_link;
        state.next_link += 1;
        let mut ends = state.links.as_deref().cloned().unwrap_or_default();
        ends.push(LinkEnd { id, target: Arc::clone(target) });
        // The old list shares every target with the new one: dropping it here frees no semaphore.
        state.links = Some(Arc::new(ends));
        (Some(id), value, None)
    }

    /// Takes a link out. The list it was in comes back, to be dropped without the lock.
    pub(crate) fn remove_link(&self, id: u64) -> Option<Links> {
        let mut state = lock(&self.state);
        let old = state.links.as_ref().filter(|ends| ends.iter().any(|end| end.id == id))?.clone();
        let rest: Vec<LinkEnd> = old.iter().filter(|end| end.id != id).cloned().collect();
        state.links = (!rest.is_empty()).then(|| Arc::new(rest));
        Some(old)
    }
}

impl Drop for Core {
    /// Frees a chain of linked semaphores in a loop: left to itself, each would drop the next one
    /// a stack frame deeper.
    fn drop(&mut self) {
        let mut pending: Vec<Links> = lock(&self.state).links.take().into_iter().collect();
        while let Some(links) = pending.pop() {
            for end in Arc::into_inner(links).into_iter().flatten() {
                if let Some(last) = Arc::into_inner(end.target) {
                    pending.extend(lock(&last.state).links.take());
                }
            }
        }
    }
}
