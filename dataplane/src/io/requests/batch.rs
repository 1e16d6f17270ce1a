//! Batches: several operations submitted together, or none.

use super::submission::Submission;
use crate::backend::OpId;
use crate::engine::slots::Notify;
use crate::error::{Error, Result};
use crate::op::{Op, Operation};
use crate::proactor::{Inner, Proactor};
use std::marker::PhantomData;
use std::rc::Rc;

/// Names an operation inside a [`Batch`].
pub struct Ticket<O> {
    index: usize,
    typed: super::Typed<O>,
}

/// Operations to be submitted as one: the whole batch is checked before anything is submitted, a
/// malformed operation or a full proactor submits nothing, and everything goes to the kernel with
/// one enter.
pub struct Batch {
    inner: Rc<Inner>,
    ops: Vec<Option<Op>>,
}

/// A batch that was not submitted, with everything that is in it.
pub struct RefusedBatch {
    /// Why.
    pub error: Error,
    /// The place of the operation that is malformed, if one is.
    pub index: Option<usize>,
    /// The batch, whole.
    pub batch: Batch,
}

impl std::fmt::Debug for RefusedBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RefusedBatch({:?}, at {:?})", self.error, self.index)
    }
}

impl From<RefusedBatch> for Error {
    fn from(refused: RefusedBatch) -> Error {
        refused.error
    }
}

/// A submitted batch: its submissions, to be taken by ticket. What is not taken is cancelled when
/// this is dropped.
pub struct Submitted {
    inner: Rc<Inner>,
    ids: Vec<Option<OpId>>,
}

impl Proactor {
    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch { inner: self.inner().clone(), ops: Vec::new() }
    }
}

impl Batch {
    /// Adds an operation; [`Request::into_operation`](crate::Request::into_operation) gives one.
    pub fn add<O: Operation>(&mut self, op: O) -> Ticket<O> {
        self.ops.push(Some(op.into()));
        Ticket { index: self.ops.len() - 1, typed: PhantomData }
    }

    /// Takes an operation out again.
    pub fn take<O: Operation>(&mut self, ticket: Ticket<O>) -> Option<O> {
        self.ops.get_mut(ticket.index)?.take().map(O::from_op)
    }

    /// How many operations are in it.
    pub fn len(&self) -> usize {
        self.ops.iter().flatten().count()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Submits all of it, or nothing.
    ///
    /// # Errors
    ///
    /// The batch comes back with the reason: a malformed operation (and which), or no room.
    pub fn submit(mut self) -> Result<Submitted, Box<RefusedBatch>> {
        let inner = self.inner.clone();
        let ops = &mut self.ops;
        let placed = inner.with("submit a batch", |engine| {
            for (index, op) in ops.iter().enumerate() {
                if let Some(op) = op {
                    engine.check(op).map_err(|error| (error, Some(index)))?;
                }
            }
            let count = ops.iter().flatten().count();
            engine.check_room("submit a batch", count).map_err(|error| (error, None))?;
            engine.check_slots(count).map_err(|error| (error, None))?;
            let mut ids = Vec::with_capacity(ops.len());
            for place in ops.iter_mut() {
                let Some(op) = place.take() else {
                    ids.push(None);
                    continue;
                };
                // Room for all was checked: none is refused any more.
                ids.push(engine.place(op, &mut Notify::Nobody, None).ok());
            }
            Ok(ids)
        });
        match placed {
            Ok(Ok(ids)) => Ok(Submitted { inner, ids }),
            Ok(Err((error, index))) => Err(Box::new(RefusedBatch { error, index, batch: self })),
            Err(error) => Err(Box::new(RefusedBatch { error, index: None, batch: self })),
        }
    }
}

impl Submitted {
    /// The submission a ticket stands for; None the second time.
    pub fn take<O: Operation>(&mut self, ticket: Ticket<O>) -> Option<Submission<O>> {
        let id = self.ids.get_mut(ticket.index)?.take()?;
        Some(Submission::new(super::Local { inner: self.inner.clone() }, id))
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        for id in self.ids.iter_mut().filter_map(Option::take) {
            self.inner.abandon(id);
        }
    }
}
