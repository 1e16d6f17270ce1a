//! The cell a foreign submitter's operation travels in, there and back.
//!
//! The submitter and the poll owner share one `Arc<Cell>`: the submitter puts the operation in, the
//! owner takes it out to run it, puts it back with its outcome and wakes, and the submitter takes
//! both. Only the pointer goes through the inbox, whose slots stay small. One uncontended lock each
//! way; user code (wakers, drops of outcomes) runs outside it. A submitter that goes away marks the
//! cell and sets its slot's bit in the return map, so dropping never blocks on the owner.

use super::inbox::Shared;
use crate::backend::OpId;
use crate::engine::descriptors::DescId;
use crate::engine::{Outcome, Reason};
use crate::op::Op;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Leaves the waker of whoever waits in `place`, where nothing of the user's may run: it is handed
/// in as `Err` first, and None asks for a clone of it. The one that stood there comes back, to be
/// dropped outside.
pub(crate) fn keep_waker(
    place: &mut Option<Waker>,
    waker: Result<Waker, &Waker>,
) -> Option<Option<Waker>> {
    match waker {
        Ok(fresh) => Some(place.replace(fresh)),
        Err(waker) => place.as_ref().is_some_and(|own| own.will_wake(waker)).then_some(None),
    }
}

/// What the owner does with a cell it has written to.
pub(crate) struct Told {
    pub(crate) waker: Option<Waker>,
    /// Results that stand in the cell.
    pub(crate) waiting: usize,
}

#[derive(Default)]
struct State {
    /// Set while the operation is in a slot of the owner's.
    id: Option<OpId>,
    /// Before its start, and after its end where the owner kept it.
    op: Option<Op>,
    end: Option<Outcome>,
    results: VecDeque<Outcome>,
    waker: Option<Waker>,
    abandoned: bool,
    cancelled: bool,
    /// The owner paused the operation until results are taken.
    paused: bool,
}

/// See the head of this file.
pub(crate) struct Cell {
    state: Mutex<State>,
    deadline_ns: Option<u64>,
}

impl Cell {
    /// Of an operation that is to end by `deadline_ns`.
    pub(crate) fn new(op: Op, deadline_ns: Option<u64>) -> Arc<Cell> {
        let state = State { op: Some(op), ..State::default() };
        Arc::new(Cell { state: Mutex::new(state), deadline_ns })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The operation, which was not run. None: its submitter is gone, and dropped it.
    pub(crate) fn take_op(&self) -> Option<Op> {
        self.lock().op.take()
    }

    // The owner's side.

    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.deadline_ns
    }

    /// The operation has a slot now. False: its submitter is gone, or cancelled it already.
    pub(crate) fn started(&self, id: OpId) -> bool {
        let mut state = self.lock();
        state.id = Some(id);
        !state.abandoned && !state.cancelled
    }

    /// Its submitter is gone, or asked for its end.
    pub(crate) fn wants_end(&self) -> bool {
        let state = self.lock();
        state.abandoned || state.cancelled
    }

    /// Adds a result; an abandoned cell hands it back, to be dropped outside every lock.
    /// At `limit` results it is marked as paused in the same step: the submitter that takes them
    /// finds the mark, whenever it comes.
    pub(crate) fn give(&self, outcome: Outcome, limit: usize) -> Result<Told, Outcome> {
        let mut state = self.lock();
        if state.abandoned {
            return Err(outcome);
        }
        state.results.push_back(outcome);
        state.paused |= state.results.len() >= limit;
        Ok(Told { waiting: state.results.len(), waker: state.waker.take() })
    }

    /// Merges readiness nobody took yet into the last result.
    pub(crate) fn merge(&self, bits: i32) -> bool {
        let mut state = self.lock();
        match state.results.back_mut() {
            Some(last) if last.result > 0 => {
                last.result |= bits;
                true
            }
            _ => false,
        }
    }

    /// The end of the operation (a plain one has no parts). An abandoned cell hands it back.
    pub(crate) fn finish(
        &self,
        op: Option<Op>,
        outcome: Outcome,
    ) -> Result<Option<Waker>, Box<(Option<Op>, Outcome)>> {
        let mut state = self.lock();
        state.id = None;
        if state.abandoned {
            return Err(Box::new((op, outcome)));
        }
        (state.op, state.end) = (op, Some(outcome));
        Ok(state.waker.take())
    }

    /// The end of an operation whose parts had to be leaked.
    pub(crate) fn lose(&self, outcome: Outcome) -> Option<Waker> {
        let mut state = self.lock();
        state.id = None;
        state.end = Some(outcome);
        state.waker.take()
    }

    /// The operation was never run: the proactor is gone.
    pub(crate) fn refuse(&self) {
        let outcome = Outcome::failed(libc::ECANCELED, Reason::Shutdown);
        if let Ok(Some(waker)) = self.finish(self.take_op(), outcome) {
            waker.wake();
        }
    }

    // The submitter's side.

    /// The next result, or the end.
    pub(crate) fn poll(&self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Taken> {
        match self.step(shared, Err(cx.waker())) {
            // Cloned outside the lock: a waker is user code.
            None => self.step(shared, Ok(cx.waker().clone())).unwrap_or(Poll::Pending),
            Some(step) => step,
        }
    }

    /// None: pending, and this waker is not known yet.
    fn step(&self, shared: &Shared, waker: Result<Waker, &Waker>) -> Option<Poll<Taken>> {
        let mut state = self.lock();
        if let Some(outcome) = state.results.pop_front() {
            let resume = state.paused && state.results.is_empty();
            let id = state.id;
            if resume {
                state.paused = false;
            }
            drop(state);
            if let (true, Some(id)) = (resume, id) {
                shared.returns.resumes.insert(id.index() as usize);
                shared.announce();
            }
            return Some(Poll::Ready(Taken::Result(outcome)));
        }
        if let Some(outcome) = state.end.take() {
            let op = state.op.take();
            drop(state);
            return Some(Poll::Ready(Taken::End(op, outcome)));
        }
        let stale = keep_waker(&mut state.waker, waker)?;
        drop(state);
        drop(stale);
        Some(Poll::Pending)
    }

    /// Asks for the end: by name when it runs, by a mark when it still stands in the inbox.
    pub(crate) fn cancel(&self) -> Option<OpId> {
        let mut state = self.lock();
        state.cancelled = true;
        state.id
    }

    /// The submitter goes away.
    pub(crate) fn abandon(&self, shared: &Shared) {
        let mut state = self.lock();
        state.abandoned = true;
        let id = state.id;
        let parts = (state.op.take(), state.end.take(), state.waker.take());
        let results = std::mem::take(&mut state.results);
        drop(state);
        drop((parts, results));
        if let Some(id) = id {
            shared.returns.operations.insert(id.index() as usize);
            shared.announce();
        }
    }
}

/// What a submitter took out.
pub(crate) enum Taken {
    Result(Outcome),
    End(Option<Op>, Outcome),
}

/// A descriptor in the owner's table that belongs to a foreign thread; dropped unclaimed, its
/// bit in the return map releases it.
pub struct Adopted {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: DescId,
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adopted({:?})", self.id)
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        if !self.shared.is_closed() && self.shared.origin.is_here() {
            self.shared.returns.descriptors.insert(self.id.index as usize);
            self.shared.announce();
        }
    }
}
