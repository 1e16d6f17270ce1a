//! Waits for several semaphores as one future: all of them, or the first of them.
//!
//! The future and its entries in the semaphores share a group: how many are still to come, the
//! outcome once there is one, and the task's waker. A semaphore that releases an entry settles it
//! with the group in O(1), and the task is woken once, by the entry that decides, not by each.
//! The group's lock is taken with no semaphore's lock held, and the waker is woken after it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::WaitManyError;
use crate::semaphore::{Core, Semaphore};
use crate::sync::{Mutex, lock};
use crate::waiters::{Key, Outcome, Waiter};

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

/// What the future shares with its entries in the semaphores.
pub(crate) struct Group {
    state: Mutex<GroupState>,
}

struct GroupState {
    /// Entries still to be reached before the group is.
    missing: usize,
    decision: Option<Decision>,
    waker: Option<Waker>,
}

impl Group {
    /// Takes the outcome of one entry. Wakes the task if that decides, with no lock held.
    pub(crate) fn settle(&self, index: usize, outcome: Outcome) {
        let waker = {
            let mut state = lock(&self.state);
            if state.decision.is_some() {
                return;
            }
            match outcome {
                Err(failure) => {
                    state.decision = Some(Err(WaitManyError::Failed { index, failure }));
                }
                Ok(value) => {
                    state.missing -= 1;
                    if state.missing > 0 {
                        return;
                    }
                    state.decision = Some(Ok(Reached { index, value }));
                }
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn decided(&self) -> bool {
        lock(&self.state).decision.is_some()
    }

    /// The decision, or else `waker` is the one to wake. Every waker that is not kept comes back,
    /// to be dropped without the lock.
    fn decision_or_park(&self, waker: Waker) -> (Option<Decision>, Option<Waker>) {
        let mut state = lock(&self.state);
        match &state.decision {
            Some(decision) => (Some(decision.clone()), Some(waker)),
            None => (None, state.waker.replace(waker)),
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
        let state = GroupState { missing, decision: None, waker: None };
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
        let (decision, _unused) = self.group.decision_or_park(context.waker().clone());
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
