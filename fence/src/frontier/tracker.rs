//! The tracker: which semaphore stands behind each axis, and what is known of its history.
//!
//! # Locks
//!
//! One lock guards the table. A signal writes the semaphore's value and the axis's history under
//! it, in one step: whoever sees the value and then asks for the history finds what the signal
//! carried. The semaphore's own lock is taken inside the table's, never the other way about, and
//! no user code runs under either: waiters are told, and what was taken out is dropped, after it.
//!
//! There is no second way to wait: a wait for a frontier is a wait for all of its semaphores.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use super::{Axis, Frontier, FrontierError, Reach, ReachCallback, Tainted};
use crate::error::Failure;
use crate::semaphore::link;
use crate::semaphore::{Change, Semaphore};
use crate::sync::{Mutex, lock};

/// Maps axes to semaphores, and releases waiters when a frontier is reached.
///
/// `Send` and `Sync`; a clone is another handle on the same tracker. Every method may be called
/// from any thread, and from inside callbacks and wakers. The thread rule is that of
/// [`Semaphore`]: callbacks and wakers run on the thread that signals, with no lock held.
///
/// ```
/// use fence::{Axis, Frontier, Semaphore, Tracker};
///
/// let (copy, send) = (Axis::new(1), Axis::new(2));
/// let tracker = Tracker::new();
/// tracker.add(copy, &Semaphore::new(0))?;
/// tracker.add(send, &Semaphore::new(0))?;
///
/// tracker.signal(copy, 3, &Frontier::new())?;
/// // The send waited for the copy, and says so with its own signal.
/// tracker.signal(send, 1, &Frontier::from_iter([(copy, 3)]))?;
///
/// // A peer asks for what comes after the send: its claim is waited for, not believed.
/// let mut message = Vec::new();
/// Frontier::from_iter([(send, 1)]).encode(&mut message);
/// let claim = Frontier::decode(&message)?;
/// tracker.on_reach(claim, move |known| {
///     assert_eq!(known, Ok(Frontier::from_iter([(copy, 3), (send, 1)])));
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Tracker {
    table: Arc<Table>,
}

#[derive(Default)]
pub(super) struct Table {
    rows: Mutex<Rows>,
}

type Rows = BTreeMap<Axis, Row>;

struct Row {
    semaphore: Semaphore,
    /// What was carried by its signals, merged. Names only axes of this table, and of each no more
    /// than its semaphore has reached.
    history: Frontier,
}

impl Tracker {
    /// A tracker that knows no axis.
    pub fn new() -> Tracker {
        Tracker::default()
    }

    /// Puts `semaphore` behind `axis`: its values are the axis's epochs.
    ///
    /// # Errors
    /// [`FrontierError::Taken`] if the axis has one.
    pub fn add(&self, axis: Axis, semaphore: &Semaphore) -> Result<(), FrontierError> {
        let mut rows = lock(&self.table.rows);
        if rows.contains_key(&axis) {
            return Err(FrontierError::Taken { axis });
        }
        rows.insert(axis, Row { semaphore: semaphore.clone(), history: Frontier::new() });
        Ok(())
    }

    /// Takes an axis out, and out of every history, so that its name can be given again. Waits
    /// that have begun keep its semaphore and go on. Frontiers that name it and were given out
    /// before are about the old timeline; whoever gives a name again sees that none is left.
    ///
    /// # Errors
    /// [`FrontierError::Unknown`]
    pub fn remove(&self, axis: Axis) -> Result<Semaphore, FrontierError> {
        let mut rows = lock(&self.table.rows);
        let removed = rows.remove(&axis).ok_or(FrontierError::Unknown { axis })?;
        for row in rows.values_mut() {
            row.history.set(axis, 0);
        }
        Ok(removed.semaphore)
    }

    /// The semaphore behind an axis.
    ///
    /// # Errors
    /// [`FrontierError::Unknown`]
    pub fn semaphore(&self, axis: Axis) -> Result<Semaphore, FrontierError> {
        row(&lock(&self.table.rows), axis).map(|row| row.semaphore.clone())
    }

    /// Advances `axis` to `epoch`, carrying what the signaller knew, and releases the waiters.
    ///
    /// `carried` is merged into the axis's history in the same step. It may name any axes of this
    /// tracker at epochs they have reached (a failure afterwards does not matter), `axis` itself
    /// up to `epoch`. Its cost is that of [`Semaphore::signal`], and for each pair carried a lookup
    /// of its axis. It allocates nothing if it carries no axis that is new to the history.
    ///
    /// # Errors
    /// [`FrontierError::Unknown`] and [`FrontierError::NotReached`] for an axis or for a pair
    /// carried, [`FrontierError::Signal`] if the semaphore refused. Nothing changed then.
    ///
    /// # Panics
    /// With the panic of a callback or waker, after everybody else was told.
    pub fn signal(&self, axis: Axis, epoch: u64, carried: &Frontier) -> Result<(), FrontierError> {
        let (core, effects) = {
            let mut rows = lock(&self.table.rows);
            row(&rows, axis)?;
            for pair in carried.iter().filter(|&pair| pair.0 != axis || pair.1 > epoch) {
                check(&rows, pair)?;
            }
            let row = rows.get_mut(&axis).ok_or(FrontierError::Unknown { axis })?;
            let applied = row.semaphore.core.apply(Change::Advance(epoch));
            let effects = applied.map_err(|error| FrontierError::Signal { axis, error })?;
            row.history.merge(carried);
            (Arc::clone(&row.semaphore.core), effects)
        };
        link::settle(&core, effects, None);
        Ok(())
    }

    /// Fails the semaphore of `axis`: everybody who waits for a frontier that names it, now or
    /// later, is told this failure and the axis. True if it was the first failure.
    ///
    /// # Errors
    /// [`FrontierError::Unknown`]
    ///
    /// # Panics
    /// With the panic of a callback or waker, after everybody else was told.
    pub fn fail(&self, axis: Axis, failure: Failure) -> Result<bool, FrontierError> {
        Ok(self.semaphore(axis)?.fail(failure))
    }

    /// What is known once `axis` has the epoch it has: the axis itself, and all that its signals
    /// carried. Everything in it has been reached.
    ///
    /// # Errors
    /// [`FrontierError::Unknown`]
    pub fn history(&self, axis: Axis) -> Result<Frontier, FrontierError> {
        let rows = lock(&self.table.rows);
        let row = row(&rows, axis)?;
        let mut known = row.history.clone();
        known.raise(axis, row.semaphore.core.current());
        Ok(known)
    }

    /// How far every axis has got, failed ones included. The axes are looked at one after the
    /// other: each epoch has been reached, and some may have gone on meanwhile.
    pub fn current(&self) -> Frontier {
        let rows = lock(&self.table.rows);
        rows.iter().map(|(&axis, row)| (axis, row.semaphore.core.current())).collect()
    }

    /// Lets a claim through if every epoch in it has been reached here: then it is true, whoever
    /// said it. A failure after that does not make it untrue. Does not wait.
    ///
    /// # Errors
    /// [`FrontierError::Unknown`] or [`FrontierError::NotReached`], for the first axis that does
    /// not hold; the claim comes back.
    pub fn confirm(
        &self,
        claim: Tainted<Frontier>,
    ) -> Result<Frontier, (Tainted<Frontier>, FrontierError)> {
        claim.check(|frontier| {
            let rows = lock(&self.table.rows);
            frontier.iter().try_for_each(|pair| check(&rows, pair))
        })
    }

    /// Waits until every axis of `target` has reached its epoch, as a future.
    ///
    /// The target may be a claim: nothing in it is believed, only waited for. The future gives
    /// what is known then: the target, merged with the histories of its axes. The axes are looked
    /// up when this is called. An empty target is ready at once.
    ///
    /// The future ends with [`FrontierError::Unknown`] for an axis without a semaphore, at its
    /// first poll, and with [`FrontierError::Failed`] for the first that fails; an axis that had
    /// failed before the first poll fails it whatever its epoch (see [`Semaphore::fail`]).
    /// Dropping the future cancels the wait and loses nothing. A claim of an epoch that is never
    /// reached waits for ever: whoever waits for a peer's claims limits the time.
    pub fn reach(&self, target: impl Into<Tainted<Frontier>>) -> Reach {
        Reach::new(self.clone(), target.into().into_claim())
    }

    /// Calls `callback` with what [`reach`](Tracker::reach) would give, once it would be ready:
    /// here and now if it is. It is called at most once. Dropping the handle detaches it.
    ///
    /// # Panics
    /// With the panic of the callback, if it is called at once.
    pub fn on_reach<F>(&self, target: impl Into<Tainted<Frontier>>, callback: F) -> ReachCallback
    where
        F: FnOnce(Result<Frontier, FrontierError>) + Send + 'static,
    {
        ReachCallback::new(self, target.into().into_claim(), callback)
    }

    /// The semaphores behind a frontier, in its order.
    pub(super) fn lookup(&self, target: &Frontier) -> Result<Vec<Semaphore>, FrontierError> {
        let rows = lock(&self.table.rows);
        target.iter().map(|(axis, _)| Ok(row(&rows, axis)?.semaphore.clone())).collect()
    }

    pub(super) fn knowledge(&self, reached: Frontier) -> Frontier {
        self.table.knowledge(reached)
    }

    pub(super) fn downgrade(&self) -> Weak<Table> {
        Arc::downgrade(&self.table)
    }
}

impl Table {
    /// A frontier that has been reached, with the histories of its axes.
    pub(super) fn knowledge(&self, mut reached: Frontier) -> Frontier {
        let rows = lock(&self.rows);
        let mut histories = Frontier::new();
        for row in reached.iter().filter_map(|(axis, _)| rows.get(&axis)) {
            histories.merge(&row.history);
        }
        reached.merge(&histories);
        reached
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("current", &self.current()).finish()
    }
}

fn row(rows: &Rows, axis: Axis) -> Result<&Row, FrontierError> {
    rows.get(&axis).ok_or(FrontierError::Unknown { axis })
}

/// Whether a pair has been reached. A failed semaphore keeps its value, and with it what is true.
fn check(rows: &Rows, (axis, epoch): (Axis, u64)) -> Result<(), FrontierError> {
    let value = row(rows, axis)?.semaphore.core.current();
    if value >= epoch { Ok(()) } else { Err(FrontierError::NotReached { axis, epoch, value }) }
}
