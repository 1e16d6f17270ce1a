//! What users hold: sockets, files, pools, and the requests made with them.
//!
//! Where an operation is submitted is a type, the [`Port`]: [`Local`] is the owner's thread, with
//! no lock and no queue in the way; [`Handle`](crate::Handle) is any other thread, through the
//! inbox. `Socket<Local>` and `Socket<Handle>` are the same code over the two.

pub(crate) mod adapters;
pub(crate) mod address;
pub(crate) mod connect;
pub(crate) mod file;
pub(crate) mod pass;
pub(crate) mod receive_pool;
pub(crate) mod registration;
pub(crate) mod requests;
pub(crate) mod socket;

pub(crate) use requests::{batch, operation_id, request, sequence, stream, submission};

pub use address::Address;
pub use file::File;
pub use socket::Socket;

use crate::engine::descriptors::{Class, DescId};
use crate::engine::slots::Notify;
use crate::engine::{Outcome, Payload};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::op::{Multishot, Operation};
use crate::proactor::Inner;
use crate::sys::calls;
use std::future::Future;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// Where operations are submitted. Sealed: [`Local`] and [`Handle`](crate::Handle).
pub trait Port: Clone + Sized + Unpin + sealed::Sealed + 'static {
    /// A shared handle of a descriptor; the last one to go closes it.
    type Descriptor: Clone + Unpin + Named;
    /// An operation under way.
    type Submission<O: Operation>: Future<Output = Result<O::Output<Self>, Failed<O>>> + Unpin;
    /// A multishot operation under way.
    type Stream<O: Multishot>: futures_core::Stream<Item = Result<O::Output<Self>>> + Unpin;

    /// `last`: a handle that must live until the operation has its slot.
    #[doc(hidden)]
    fn submit<O: Operation>(
        self,
        op: O,
        deadline_ns: Option<u64>,
        last: Option<Self::Descriptor>,
    ) -> Result<Self::Submission<O>, Failed<O>>;

    #[doc(hidden)]
    fn submit_many<O: Multishot>(
        &self,
        op: O,
        deadline_ns: Option<u64>,
    ) -> Result<Self::Stream<O>, Failed<O>>;

    /// Takes over the descriptor a completion brought.
    #[doc(hidden)]
    fn adopt(&self, name: &'static str, payload: Payload) -> Result<Self::Descriptor>;

    /// Takes over a descriptor the caller made.
    #[doc(hidden)]
    fn place(
        &self,
        name: &'static str,
        fd: OwnedFd,
        class: Class,
    ) -> impl Future<Output = Result<Self::Descriptor>>;

    /// Whether sockets made here should be non-blocking.
    #[doc(hidden)]
    fn wants_nonblocking(&self) -> bool;
}

/// A descriptor handle names its place in the table.
#[doc(hidden)]
pub trait Named {
    fn desc(&self) -> DescId;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Local {}
    impl Sealed for crate::remote::handle::Handle {}
}

/// The owner's thread.
#[derive(Clone)]
pub struct Local {
    pub(crate) inner: Rc<Inner>,
}

/// A descriptor of the owner's thread; dropping the last handle closes it.
pub struct LocalDescriptor {
    inner: Rc<Inner>,
    id: DescId,
    /// Given to another port: no longer ours to close.
    surrendered: std::cell::Cell<bool>,
}

impl Drop for LocalDescriptor {
    fn drop(&mut self) {
        if !self.surrendered.get() {
            // In a forked child, or after the end, there is nothing to release.
            let name = "close";
            let done = self.inner.with(name, |engine| engine.release_descriptor(self.id.index));
            if done.is_err_and(|error| error.kind() == ErrorKind::Busy) {
                // Dropped while the engine was at work: the next sweep releases it.
                self.inner.shared.returns.descriptors.insert(self.id.index as usize);
                self.inner.shared.announce();
            }
        }
    }
}

impl LocalDescriptor {
    /// Makes the descriptor somebody else's.
    pub(crate) fn surrender(&self) -> DescId {
        self.surrendered.set(true);
        self.id
    }
}

impl Named for Rc<LocalDescriptor> {
    fn desc(&self) -> DescId {
        self.id
    }
}

impl Local {
    /// Takes a descriptor into the table, as this thread's.
    pub(crate) fn own(
        &self,
        name: &'static str,
        fd: OwnedFd,
        class: Class,
    ) -> Result<Rc<LocalDescriptor>> {
        let adopted = self.inner.with(name, |engine| engine.adopt(name, fd, class))?;
        let id = adopted.map_err(|(error, _closed)| error)?;
        Ok(self.named(id))
    }

    /// Takes over a descriptor somebody else made, as what it is found to be.
    pub(crate) fn take_over(&self, fd: OwnedFd) -> Result<Rc<LocalDescriptor>> {
        const NAME: &str = "adopt";
        let class =
            calls::classify(fd.as_raw_fd()).map_err(|error| Error::from_io(NAME, &error))?;
        self.own(NAME, fd, class)
    }

    pub(crate) fn named(&self, id: DescId) -> Rc<LocalDescriptor> {
        let surrendered = std::cell::Cell::new(false);
        Rc::new(LocalDescriptor { inner: self.inner.clone(), id, surrendered })
    }

    #[inline(always)]
    pub(crate) fn place_op<O: Operation>(
        &self,
        op: O,
        mut notify: Notify,
        deadline_ns: Option<u64>,
    ) -> Result<crate::backend::OpId, Failed<O>> {
        let mut engine = match self.inner.enter(O::NAME) {
            Ok(engine) => engine,
            Err(error) => return Err(Failed::new(error, op)),
        };
        let budget = engine.inline;
        let placed = engine.submit(op, &mut notify, deadline_ns);
        if engine.inline != budget {
            engine.deliver_inline(budget);
        }
        drop(engine);
        placed.map_err(|(error, op)| Failed::new(error, op))
    }
}

impl Port for Local {
    type Descriptor = Rc<LocalDescriptor>;
    type Submission<O: Operation> = submission::Submission<O>;
    type Stream<O: Multishot> = stream::LocalStream<O>;

    #[inline(always)]
    fn submit<O: Operation>(
        self,
        op: O,
        deadline_ns: Option<u64>,
        _last: Option<Self::Descriptor>,
    ) -> Result<Self::Submission<O>, Failed<O>> {
        let id = self.place_op(op, Notify::Nobody, deadline_ns)?;
        Ok(submission::Submission::new(self, id))
    }

    fn submit_many<O: Multishot>(
        &self,
        op: O,
        deadline_ns: Option<u64>,
    ) -> Result<Self::Stream<O>, Failed<O>> {
        let id = self.place_op(op, Notify::Nobody, deadline_ns)?;
        Ok(stream::LocalStream::new(self.inner.clone(), id))
    }

    fn adopt(&self, name: &'static str, payload: Payload) -> Result<Self::Descriptor> {
        match payload {
            Payload::Fd(fd, class) => self.own(name, fd, class),
            _ => Err(no_descriptor(name)),
        }
    }

    async fn place(
        &self,
        name: &'static str,
        fd: OwnedFd,
        class: Class,
    ) -> Result<Self::Descriptor> {
        self.own(name, fd, class)
    }

    fn wants_nonblocking(&self) -> bool {
        self.inner.shared.is_readiness()
    }
}

pub(crate) fn no_descriptor(name: &'static str) -> Error {
    Error::new(name, ErrorKind::DataLoss, "the result carried no descriptor")
}

/// The typed end of an operation.
#[inline]
pub(crate) fn conclude<O: Operation, P: Port>(
    op: Option<O>,
    outcome: Outcome,
    port: &P,
) -> Result<O::Output<P>, Failed<O>> {
    match op {
        Some(op) => op.finish(outcome, port),
        None => Err(Failed::lost(
            crate::op::settle(&outcome, "operation").err().unwrap_or_else(|| lost("operation")),
        )),
    }
}

fn lost(name: &'static str) -> Error {
    Error::new(name, ErrorKind::DataLoss, "the operation's parts were lost")
}

/// An operation's type without a value of it.
pub(crate) type Typed<O> = PhantomData<fn() -> O>;
