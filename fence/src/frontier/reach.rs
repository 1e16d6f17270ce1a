//! One wait for a frontier: the future, and the callback.
//!
//! Both are a wait for all of the frontier's semaphores, whose positions are the frontier's order,
//! which is how a failure finds its axis. The future keeps the tracker alive; the callback does
//! not: the semaphores own the callback, so if it owned the tracker, which owns them, a callback
//! that is never called would never be freed. With the tracker gone there are no histories any
//! more, and the target is all that is known.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use super::{Frontier, FrontierError, Tracker};
use crate::error::WaitManyError;
use crate::semaphore::Semaphore;
use crate::semaphore::all_any::{Group, WaitAll, on_all, wait_all};

/// A wait made by [`Tracker::reach`]. `Send` and `Unpin`; any runtime or none may poll it.
#[must_use = "a wait does nothing until it is awaited"]
pub struct Reach {
    tracker: Tracker,
    target: Frontier,
    wait: Result<WaitAll, FrontierError>,
}

impl Reach {
    pub(super) fn new(tracker: Tracker, target: Frontier) -> Reach {
        let semaphores = tracker.lookup(&target);
        let wait = semaphores.map(|semaphores| wait_all(&pairs(&semaphores, &target)));
        Reach { tracker, target, wait }
    }
}

impl Future for Reach {
    type Output = Result<Frontier, FrontierError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.wait {
            Err(unknown) => return Poll::Ready(Err(unknown.clone())),
            Ok(wait) => std::task::ready!(Pin::new(wait).poll(context)),
        };
        let reached = named(outcome, &self.target);
        Poll::Ready(reached.map(|()| self.tracker.knowledge(self.target.clone())))
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("target", &self.target).field("wait", &self.wait).finish()
    }
}

/// A callback made by [`Tracker::on_reach`].
///
/// Dropping this detaches the callback, which stays registered; only
/// [`cancel`](ReachCallback::cancel) takes it back. The handle keeps the semaphores alive.
pub struct ReachCallback {
    /// So that the group lives until it is decided, and `cancel` can be certain.
    _semaphores: Vec<Semaphore>,
    /// Owned by its entries in the semaphores. `None` if the callback was called at once.
    group: Option<Weak<Group>>,
}

impl ReachCallback {
    pub(super) fn new<F>(tracker: &Tracker, target: Frontier, callback: F) -> ReachCallback
    where
        F: FnOnce(Result<Frontier, FrontierError>) + Send + 'static,
    {
        let semaphores = match tracker.lookup(&target) {
            Ok(semaphores) => semaphores,
            Err(unknown) => {
                callback(Err(unknown));
                return ReachCallback { _semaphores: Vec::new(), group: None };
            }
        };
        let table = tracker.downgrade();
        let wanted = target.clone();
        let told = move |outcome| {
            callback(named(outcome, &wanted).map(|()| match table.upgrade() {
                Some(table) => table.knowledge(wanted),
                None => wanted,
            }));
        };
        let group = on_all(&pairs(&semaphores, &target), told);
        ReachCallback { _semaphores: semaphores, group }
    }

    /// Takes the callback back. True: it will never run, and what it owned has been dropped here.
    /// False: it ran, or a signalling thread has taken it and runs it without fail. There is no
    /// third case, in any race.
    ///
    /// May be called from inside any callback, itself included (false).
    pub fn cancel(self) -> bool {
        self.group.and_then(|group| group.upgrade()).is_some_and(|group| group.cancel())
    }
}

impl fmt::Debug for ReachCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReachCallback").field("told_at_once", &self.group.is_none()).finish()
    }
}

fn pairs<'a>(semaphores: &'a [Semaphore], target: &Frontier) -> Vec<(&'a Semaphore, u64)> {
    semaphores.iter().zip(target.iter()).map(|(semaphore, (_, epoch))| (semaphore, epoch)).collect()
}

/// The outcome of a wait for all, with the axis in the place of the position.
fn named(outcome: Result<(), WaitManyError>, target: &Frontier) -> Result<(), FrontierError> {
    match outcome {
        Err(WaitManyError::Failed { index, failure }) => {
            let (axis, _) = target.iter().nth(index).expect("one position for each axis");
            Err(FrontierError::Failed { axis, failure })
        }
        // An empty list is an error for any, and reached for all.
        Ok(()) | Err(WaitManyError::Empty) => Ok(()),
    }
}
