//! Waits for several semaphores as one future: all of them, or the first of them.
//!
//! The future and its entries in the semaphores share a group: how many are still to come, the
//! outcome once there is one, and who listens: a task's waker, or a callback. A semaphore that
//! releases an entry settles it with the group in O(1), and the listener is told once, by the
//! entry that decides, not by each. The group's lock is taken with no semaphore's lock held, and
//! the listener is told after it.
//!
//! A future owns its entries and takes them back when it ends. A callback has no such owner, so
//! its group lists the entries, weakly, and whoever decides takes the others back before the
//! callback runs. Weakly, because the semaphores own the group through their entries: a callback
//! nobody will ever tell is dropped with the last semaphore it waits for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use crate::error::WaitManyError;
use crate::semaphore::waiters::{FirstPanic, Key, Outcome, Waiter};
use crate::semaphore::{Core, Semaphore};
use crate::sync::{Mutex, lock};

/// Waits until every semaphore has reached its value.
///
/// Ready at once if all have, and for an empty list. The first failure ends the wait, whatever
/// the others do. A semaphore may be named more than once. The wait begins with the first poll;
/// dropping the future cancels it.
pub fn wait_all(list: &[(&Semaphore, u64)]) -> WaitAll {
    WaitAll(Many::new(list, list.len()))
}

/// Waits until one of the semaphores has reached its value, and says which.
///
/// The first poll looks through the list in order and takes the first that has an outcome; later,
/// the first outcome to arrive is taken. An outcome is a reached value or a failure: a semaphore
/// that failed ends the wait with an error that names it. An empty list is
/// [`WaitManyError::Empty`]. The wait begins with the first poll; dropping the future cancels it.
pub fn wait_any(list: &[(&Semaphore, u64)]) -> WaitAny {
    WaitAny(Many::new(list, 1))
}

/// Which semaphore ended a [`wait_any`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its position in the list waited for.
    pub index: usize,
    /// The value seen, at or above the one wanted.
    pub value: u64,
}

/// A wait made by [`wait_all`]. `Send` and `Unpin`.
#[must_use = "a wait does nothing until it is awaited"]
pub struct WaitAll(Many);

impl Future for WaitAll {
    type Output = Result<(), WaitManyError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0.entries.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.0.poll(context).map_ok(|_last| ())
    }
}

impl fmt::Debug for WaitAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe("WaitAll", f)
    }
}

/// A wait made by [`wait_any`]. `Send` and `Unpin`.
#[must_use = "a wait does nothing until it is awaited"]
pub struct WaitAny(Many);

impl Future for WaitAny {
    type Output = Result<Reached, WaitManyError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0.entries.is_empty() {
            return Poll::Ready(Err(WaitManyError::Empty));
        }
        self.0.poll(context)
    }
}

impl fmt::Debug for WaitAny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe("WaitAny", f)
    }
}

/// How the group ended: with the entry that decided, or with a failure.
type Decision = Result<Reached, WaitManyError>;

/// A callback that waits for all of several semaphores.
struct OnDecision {
    callback: Box<dyn FnOnce(Result<(), WaitManyError>) + Send>,
    entries: Vec<(Weak<Core>, Key)>,
}

impl OnDecision {
    /// Takes the entries that are left back, then runs the callback. No lock may be held.
    fn tell(mut self, decision: Decision) {
        let mut panic = FirstPanic::default();
        // What this drops may be the last handle of a semaphore, and with it user code.
        panic.catch(|| self.deregister());
        panic.catch(|| (self.callback)(decision.map(|_last| ())));
        panic.resume();
    }

    fn deregister(&mut self) {
        for (core, key) in self.entries.drain(..) {
            if let Some(core) = core.upgrade() {
                drop(core.deregister(key));
            }
        }
    }
}

/// Who is told the decision.
enum Listener {
    Task(Waker),
    Callback(OnDecision),
}

/// What the future shares with its entries in the semaphores.
pub(crate) struct Group {
    state: Mutex<GroupState>,
}

struct GroupState {
    /// Entries still to be reached before the group is.
    missing: usize,
    decision: Option<Decision>,
    listener: Option<Listener>,
}

impl Group {
    /// Takes the outcome of one entry. Tells the listener if that decides, with no lock held.
    pub(crate) fn settle(&self, index: usize, outcome: Outcome) {
        let (listener, decision) = {
            let mut state = lock(&self.state);
            if state.decision.is_some() {
                return;
            }
            let decision = match outcome {
                Err(failure) => Err(WaitManyError::Failed { index, failure }),
                Ok(value) => {
                    state.missing -= 1;
                    if state.missing > 0 {
                        return;
                    }
                    Ok(Reached { index, value })
                }
            };
            state.decision = Some(decision.clone());
            (state.listener.take(), decision)
        };
        match listener {
            Some(Listener::Task(waker)) => waker.wake(),
            Some(Listener::Callback(callback)) => callback.tell(decision),
            None => {}
        }
    }

    fn decided(&self) -> bool {
        lock(&self.state).decision.is_some()
    }

    /// The decision, or else `listener` is the one to tell. Every listener that is not kept comes
    /// back, to be used or dropped without the lock.
    fn decision_or_park(&self, listener: Listener) -> (Option<Decision>, Option<Listener>) {
        let mut state = lock(&self.state);
        match &state.decision {
            Some(decision) => (Some(decision.clone()), Some(listener)),
            None => (None, state.listener.replace(listener)),
        }
    }

    /// Takes the callback back, and what it left in the semaphores. False if it was taken to be
    /// told. The callback is dropped here, with no lock held.
    pub(crate) fn cancel(&self) -> bool {
        let listener = lock(&self.state).listener.take();
        let Some(Listener::Callback(mut callback)) = listener else { return false };
        callback.deregister();
        true
    }
}

/// Calls `callback` once every semaphore has reached its value, or the first of them fails.
///
/// Here and now if that is so already, and for an empty list. Otherwise gives the group, whose
/// [`cancel`](Group::cancel) takes the callback back.
pub(crate) fn on_all<F>(list: &[(&Semaphore, u64)], callback: F) -> Option<Weak<Group>>
where
    F: FnOnce(Result<(), WaitManyError>) + Send + 'static,
{
    if list.is_empty() {
        callback(Ok(()));
        return None;
    }
    let mut many = Many::new(list, list.len());
    many.register();
    let entry = |entry: &Entry| Some((Arc::downgrade(&entry.core), entry.key?));
    let entries = many.entries.iter().filter_map(entry).collect();
    let listener = Listener::Callback(OnDecision { callback: Box::new(callback), entries });
    match many.group.decision_or_park(listener) {
        (Some(decision), Some(Listener::Callback(callback))) => {
            callback.tell(decision);
            None
        }
        _ => {
            // From here on the entries are the callback's to take back.
            many.entries.clear();
            Some(Arc::downgrade(&many.group))
        }
    }
}

/// One of the semaphores waited for.
struct Entry {
    core: Arc<Core>,
    wanted: u64,
    key: Option<Key>,
}

/// What both futures are.
struct Many {
    group: Arc<Group>,
    entries: Vec<Entry>,
    begun: bool,
}

impl Many {
    fn new(list: &[(&Semaphore, u64)], missing: usize) -> Many {
        let state = GroupState { missing, decision: None, listener: None };
        let entry = |&(semaphore, wanted): &(&Semaphore, u64)| Entry {
            core: Arc::clone(&semaphore.core),
            wanted,
            key: None,
        };
        Many {
            group: Arc::new(Group { state: Mutex::new(state) }),
            entries: list.iter().map(entry).collect(),
            begun: false,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Decision> {
        if !self.begun {
            self.begun = true;
            self.register();
        }
        // An entry settled before the waker is parked is seen here; one after it wakes.
        let listener = Listener::Task(context.waker().clone());
        let (decision, _unused) = self.group.decision_or_park(listener);
        let Some(decision) = decision else { return Poll::Pending };
        self.deregister();
        Poll::Ready(decision)
    }

    fn register(&mut self) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if let Some(seen) = entry.core.reached(entry.wanted) {
                self.group.settle(index, Ok(seen));
            } else {
                let member = Waiter::Member(Arc::clone(&self.group), index);
                match entry.core.register(entry.wanted, member) {
                    Ok(key) => entry.key = Some(key),
                    Err((outcome, _member)) => self.group.settle(index, outcome),
                }
            }
            if self.group.decided() {
                return;
            }
        }
    }

    fn deregister(&mut self) {
        for entry in &mut self.entries {
            if let Some(key) = entry.key.take() {
                drop(entry.core.deregister(key));
            }
        }
    }

    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("semaphores", &self.entries.len())
            .field("begun", &self.begun)
            .field("decided", &self.group.decided())
            .finish()
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        self.deregister();
    }
}
