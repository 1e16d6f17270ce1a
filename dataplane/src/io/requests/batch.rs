//! Batches: several operations submitted together, or none; each starts at once, or after another.

use super::Local;
use super::submission::Submission;
use crate::backend::OpId;
use crate::engine::Engine;
use crate::engine::sequence::Content;
use crate::engine::slots::Notify;
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Op, Operation};
use crate::proactor::{Inner, Proactor};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

const NAME: &str = "submit a batch";

/// Names an operation inside a [`Batch`] or a [`Sequence`](crate::Sequence), and inside none but
/// that.
pub struct Ticket<O> {
    batch: BatchId,
    pub(super) index: usize,
    typed: super::Typed<O>,
}

impl<O> Ticket<O> {
    /// Its place in `batch`.
    pub(super) fn of(&self, batch: BatchId) -> Result<usize> {
        if self.batch == batch {
            return Ok(self.index);
        }
        let message = "the ticket belongs to another batch or sequence; use it with what was \
                       submitted from the one that gave it";
        Err(Error::new("take by ticket", ErrorKind::InvalidArgument, message))
    }
}

/// Tells batches apart: no two of a process have the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchId(u64);

impl BatchId {
    /// Threads share nothing but the counter that numbers them.
    fn new() -> BatchId {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        thread_local! {
            static NEXT: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) << 40);
        }
        BatchId(NEXT.with(|next| next.replace(next.get() + 1)))
    }
}

#[cold]
fn gone(what: &str) -> Error {
    Error::new("take by ticket", ErrorKind::NotFound, what.to_owned())
}

/// The names operations got when they were submitted, by ticket.
pub(super) type Names = Rc<RefCell<Vec<Option<OpId>>>>;

/// One operation of a batch.
struct Planned {
    /// None once it was taken out or submitted.
    content: Option<Content>,
    deadline_ns: Option<u64>,
    after: Option<usize>,
    leads: bool,
    is_step: bool,
}

/// Operations to be submitted as one: the whole batch is checked before anything is submitted, a
/// malformed operation or a full proactor submits nothing, and everything goes to the kernel with
/// one enter.
///
/// Operations are independent of one another, except those added with [`after`](Batch::after).
pub struct Batch {
    inner: Rc<Inner>,
    id: BatchId,
    planned: Vec<Planned>,
    names: Names,
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

impl std::fmt::Display for RefusedBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(index) => write!(f, "operation {index} of the batch: {}", self.error),
            None => write!(f, "the batch: {}", self.error),
        }
    }
}

impl std::error::Error for RefusedBatch {}

impl From<RefusedBatch> for Error {
    fn from(refused: RefusedBatch) -> Error {
        refused.error
    }
}

impl From<Box<RefusedBatch>> for Error {
    fn from(refused: Box<RefusedBatch>) -> Error {
        refused.error
    }
}

/// A submitted batch: its submissions, to be taken by ticket. What is not taken is cancelled when
/// this is dropped.
pub struct Submitted {
    inner: Rc<Inner>,
    id: BatchId,
    pub(super) names: Names,
}

impl Proactor {
    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch::new(self.inner().clone())
    }
}

impl Batch {
    pub(super) fn new(inner: Rc<Inner>) -> Batch {
        Batch { inner, id: BatchId::new(), planned: Vec::new(), names: Names::default() }
    }

    pub(super) fn port(&self) -> Local {
        Local { inner: self.inner.clone() }
    }

    pub(super) fn names(&self) -> Names {
        self.names.clone()
    }

    pub(super) fn id(&self) -> BatchId {
        self.id
    }

    /// Adds an operation; [`Request::into_operation`](crate::Request::into_operation) gives one.
    pub fn add<O: Operation>(&mut self, op: O) -> Ticket<O> {
        self.plan(Content::Op(op.into()), None, None)
    }

    /// Adds an operation that starts when that of `ticket` has succeeded. If it fails, this one
    /// ends as Cancelled; see [`Sequence`](crate::Sequence) for what counts as a failure and how
    /// the kernel helps.
    ///
    /// # Errors
    ///
    /// InvalidArgument, with the operation, when another comes after the same ticket already, or
    /// the ticket is not of this batch.
    pub fn after<A, O: Operation>(
        &mut self,
        ticket: &Ticket<A>,
        op: O,
    ) -> Result<Ticket<O>, crate::Failed<O>> {
        let index = match ticket.of(self.id) {
            Ok(index) => index,
            Err(error) => return Err(crate::Failed::new(error, op)),
        };
        match self.planned.get(index).is_some_and(|planned| !planned.leads) {
            true => Ok(self.plan(Content::Op(op.into()), Some(index), None)),
            false => {
                let message = "one operation may come after a ticket, and there is one already";
                let error = Error::new(NAME, ErrorKind::InvalidArgument, message);
                Err(crate::Failed::new(error, op))
            }
        }
    }

    pub(super) fn plan<O>(
        &mut self,
        content: Content,
        after: Option<usize>,
        deadline_ns: Option<u64>,
    ) -> Ticket<O> {
        if let Some(before) = after {
            self.planned[before].leads = true;
            self.planned[before].is_step = true;
        }
        let is_step = after.is_some();
        let content = Some(content);
        self.planned.push(Planned { content, deadline_ns, after, leads: false, is_step });
        Ticket { batch: self.id, index: self.planned.len() - 1, typed: PhantomData }
    }

    /// The operation of a ticket belongs to a sequence, be it alone in it.
    pub(super) fn step<O>(&mut self, ticket: &Ticket<O>) {
        self.planned[ticket.index].is_step = true;
    }

    /// An earlier end for every operation in it.
    pub(super) fn end_by(&mut self, at_ns: u64) {
        for planned in &mut self.planned {
            planned.deadline_ns = Some(planned.deadline_ns.map_or(at_ns, |own| own.min(at_ns)));
        }
    }

    /// Takes an operation out again.
    ///
    /// # Errors
    ///
    /// InvalidArgument when another comes after it, or the ticket is not of this batch.
    pub fn take<O: Operation>(&mut self, ticket: Ticket<O>) -> Result<O> {
        let planned = &mut self.planned[ticket.of(self.id)?];
        if planned.leads {
            let message = "another operation comes after it; take that one out first";
            return Err(Error::new("take by ticket", ErrorKind::InvalidArgument, message));
        }
        let content = planned.content.take();
        if let Some(before) = planned.after.take() {
            self.planned[before].leads = false;
        }
        match content {
            Some(Content::Op(op)) => Ok(O::from_op(op)),
            Some(Content::Maker(_)) | None => Err(gone("there is no operation any more")),
        }
    }

    /// How many operations are in it.
    pub fn len(&self) -> usize {
        self.planned.iter().filter(|planned| planned.content.is_some()).count()
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
        let (planned, names) = (&mut self.planned, &self.names);
        let placed = inner.with(NAME, |engine| {
            check(engine, planned)?;
            place(engine, planned, &mut names.borrow_mut());
            Ok(())
        });
        match placed {
            Ok(Ok(())) => Ok(Submitted { inner, id: self.id, names: self.names.clone() }),
            Ok(Err((error, index))) => Err(Box::new(RefusedBatch { error, index, batch: self })),
            Err(error) => Err(Box::new(RefusedBatch { error, index: None, batch: self })),
        }
    }
}

/// The whole batch before anything of it is submitted.
fn check(
    engine: &mut Engine,
    planned: &[Planned],
) -> std::result::Result<(), (Error, Option<usize>)> {
    for (index, planned) in planned.iter().enumerate() {
        let Some(Content::Op(op)) = &planned.content else { continue };
        let checked = match planned.is_step {
            true => engine.check_step(op, planned.deadline_ns),
            false => engine.check(op),
        };
        checked.map_err(|error| (error, Some(index)))?;
    }
    let count = planned.iter().filter(|planned| planned.content.is_some()).count();
    engine.check_room(NAME, count).map_err(|error| (error, None))?;
    engine.check_slots(count).map_err(|error| (error, None))
}

/// Room for all was checked: none is refused any more.
fn place(engine: &mut Engine, planned: &mut [Planned], names: &mut Vec<Option<OpId>>) {
    let mut firsts = Vec::new();
    for planned in planned {
        let Some(content) = planned.content.take() else {
            names.push(None);
            continue;
        };
        let deadline_ns = planned.deadline_ns;
        let before = planned.after.and_then(|before| names[before]);
        let id = match content {
            Content::Op(op) if !planned.is_step => place_alone(engine, op, deadline_ns),
            content => engine.place_step(content, before, deadline_ns),
        };
        names.push(id);
        if planned.is_step && before.is_none() {
            firsts.extend(id);
        }
    }
    for first in firsts {
        engine.start_step(first.index());
    }
}

fn place_alone(engine: &mut Engine, op: Op, deadline_ns: Option<u64>) -> Option<OpId> {
    engine.place(op, &mut Notify::Nobody, deadline_ns).ok()
}

impl Submitted {
    /// The submission a ticket stands for.
    ///
    /// # Errors
    ///
    /// InvalidArgument when the ticket is not of this batch; NotFound for a step whose outcome went
    /// into the making of the next one.
    pub fn take<O: Operation>(&mut self, ticket: Ticket<O>) -> Result<Submission<O>> {
        let index = ticket.of(self.id)?;
        take(&self.names, index, Local { inner: self.inner.clone() })
            .ok_or_else(|| gone("its outcome went into the making of the next step"))
    }

    pub(super) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }
}

/// The submission of a ticket, once.
pub(super) fn take<O: Operation>(
    names: &Names,
    index: usize,
    port: Local,
) -> Option<Submission<O>> {
    let id = names.borrow_mut().get_mut(index)?.take()?;
    Some(Submission::new(port, id))
}

impl Drop for Submitted {
    fn drop(&mut self) {
        // From the last to the first: a step that goes asks the running one to end, once.
        let names = std::mem::take(&mut *self.names.borrow_mut());
        // What an outcome holds is the user's: a panic in its drop leaves none of the others.
        let mut panic = None;
        for id in names.into_iter().rev().flatten() {
            match catch_unwind(AssertUnwindSafe(|| self.inner.abandon(id))) {
                Err(payload) if panic.is_none() => panic = Some(payload),
                // Its drop may panic again.
                Err(payload) => std::mem::forget(payload),
                Ok(()) => {}
            }
        }
        match panic {
            Some(payload) if !std::thread::panicking() => resume_unwind(payload),
            payload => std::mem::forget(payload),
        }
    }
}
