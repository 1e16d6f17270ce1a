//! Receiving: into a lease, into several, or into buffers a receive pool provides.

use crate::engine::descriptors::{DescId, Descriptor};
use crate::engine::groups::PoolId;
use crate::engine::path::{CopyReason, Mechanism, Path};
use crate::engine::scratch;
use crate::engine::{Outcome, Payload};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::Port;
use crate::op::{
    Advance, Attempt, Context, Forms, HoldsBuffer, Interest, Lane, Moves, Multishot, Operation,
    Shape, settle, variant,
};
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry};
use regions::Lease;
use std::ops::{Deref, DerefMut};

/// A lease with what arrived in it, and the way it came.
#[derive(Debug)]
pub struct Filled {
    lease: Lease,
    path: Path,
}

impl Filled {
    pub(crate) fn new(lease: Lease, mechanism: Mechanism, copied: CopyReason) -> Filled {
        Filled { lease, path: Path::copied(mechanism, copied) }
    }

    pub(crate) fn with_path(lease: Lease, path: Path) -> Filled {
        Filled { lease, path }
    }

    /// How the bytes came.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The lease; its length is what arrived, `reset` brings the whole capacity back.
    pub fn into_lease(self) -> Lease {
        self.lease
    }

    /// Turns what arrived into a shared span, ready to be sent.
    pub fn freeze(self) -> regions::Span {
        self.lease.freeze()
    }
}

impl Deref for Filled {
    type Target = Lease;
    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl DerefMut for Filled {
    fn deref_mut(&mut self) -> &mut Lease {
        &mut self.lease
    }
}

impl From<Filled> for Lease {
    fn from(filled: Filled) -> Lease {
        filled.lease
    }
}

/// Receives into a lease (`recv(2)`): at least one byte, or none at the end of the stream.
///
/// Dropping it before it completes may lose bytes that had already been moved into the lease;
/// a receive that must not lose any is cancelled and awaited instead.
#[derive(Debug)]
pub struct Recv {
    pub(crate) socket: DescId,
    pub(crate) lease: Lease,
    all: bool,
    received: usize,
}

variant!(Recv);

impl Recv {
    pub(crate) fn new(socket: DescId, lease: Lease) -> Recv {
        Recv { socket, lease, all: false, received: 0 }
    }

    /// Completes only when the lease is full, the stream ends, or an error comes.
    pub(crate) fn all(mut self) -> Recv {
        self.all = true;
        self
    }
}

fn check_lease(name: &'static str, lease: &Lease) -> Result<()> {
    if lease.is_empty() {
        return Err(Error::new(
            name,
            ErrorKind::InvalidArgument,
            "the lease has no room (length 0); call `reset` on it first",
        ));
    }
    Ok(())
}

impl Forms for Recv {
    const NAME: &'static str = "recv";

    fn moves(&self) -> Moves {
        Moves::Received
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn lane(&self) -> Option<Lane> {
        Some(Lane::Recv)
    }

    fn links(&self) -> bool {
        true
    }

    fn falls_short(&self, result: i32) -> bool {
        self.all && result >= 0 && (result as usize) < self.lease.len()
    }

    fn check(&self, _: Option<&Descriptor>) -> Result<()> {
        check_lease(Self::NAME, &self.lease)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let at = self.lease.as_mut_ptr().wrapping_add(self.received);
        let room = (self.lease.len() - self.received) as u32;
        let flags = if self.all { libc::MSG_WAITALL } else { 0 };
        target.seal(opcode::Recv::new(target.fd(), at, room).flags(flags).build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        Attempt::unless_blocked(
            calls::recv(cx.fd(), &mut self.lease, self.received),
            Interest::READABLE,
        )
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        if result > 0 {
            self.received += result as usize;
            if self.all && self.received < self.lease.len() {
                return Advance::Again;
            }
        }
        match result {
            0.. => Advance::Done(self.received as i32),
            // What arrived before the error is not lost: the next receive meets the error again.
            _ if self.received > 0 => Advance::Done(self.received as i32),
            _ => Advance::Done(result),
        }
    }
}

impl Operation for Recv {
    type Output<P: Port> = Filled;

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<Filled, Failed<Self>> {
        match settle(&outcome, Self::NAME) {
            Ok(bytes) => {
                self.lease.truncate(bytes as usize);
                Ok(Filled::new(self.lease, Mechanism::Recv, CopyReason::SocketReceive))
            }
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

impl HoldsBuffer for Recv {
    type Buffer = Lease;
    fn into_buffer(self) -> Lease {
        self.lease
    }
}

/// Receives into several leases in order (`recvmsg(2)`); up to 8 without allocation. Dropping it
/// before it completes may lose bytes, as for [`Recv`].
#[derive(Debug)]
pub struct RecvVectored {
    pub(crate) socket: DescId,
    leases: Vec<Lease>,
    vectors: scratch::Vectors,
}

variant!(RecvVectored);

impl RecvVectored {
    pub(crate) fn new(socket: DescId, leases: Vec<Lease>) -> RecvVectored {
        RecvVectored { socket, leases, vectors: scratch::Vectors::default() }
    }
}

impl Forms for RecvVectored {
    const NAME: &'static str = "recv";

    fn moves(&self) -> Moves {
        Moves::Received
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn lane(&self) -> Option<Lane> {
        Some(Lane::Recv)
    }

    fn links(&self) -> bool {
        true
    }

    fn check(&self, _: Option<&Descriptor>) -> Result<()> {
        scratch::check_vectors(Self::NAME, self.leases.len())?;
        self.leases.iter().try_for_each(|lease| check_lease(Self::NAME, lease))
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let message = self.vectors.gather_mut(cx.scratch, &mut self.leases);
        target.seal(opcode::RecvMsg::new(target.fd(), message).build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        let message = self.vectors.gather_mut(cx.scratch, &mut self.leases);
        Attempt::unless_blocked(calls::recvmsg(cx.fd(), message), Interest::READABLE)
    }
}

impl Operation for RecvVectored {
    /// The leases in order, each with the length that arrived in it; those after the last byte
    /// are empty.
    type Output<P: Port> = Vec<Lease>;

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<Vec<Lease>, Failed<Self>> {
        let mut left = match settle(&outcome, Self::NAME) {
            Ok(bytes) => bytes as usize,
            Err(error) => return Err(Failed::new(error, self)),
        };
        for lease in &mut self.leases {
            let here = left.min(lease.len());
            lease.truncate(here);
            left -= here;
        }
        Ok(self.leases)
    }
}

impl HoldsBuffer for RecvVectored {
    type Buffer = Vec<Lease>;
    fn into_buffer(self) -> Vec<Lease> {
        self.leases
    }
}

/// Receives once into a buffer of a pool: no buffer is held while nothing arrives. Dropping it
/// before it completes may lose bytes that had already been moved into a buffer, which returns to
/// the pool.
#[derive(Debug)]
pub struct RecvPool {
    pub(crate) arm: PoolArm,
}

/// Receives into buffers of a pool until the stream ends or it is cancelled: a stream of leases.
/// Of a datagram socket each lease is one datagram; an empty one is a lease of length 0 and ends
/// nothing.
///
/// When the pool is dry it pauses, and resumes by itself when buffers come back; no data is lost
/// and the socket lives. Dropping the stream returns what was received and not taken to the pool:
/// those bytes are gone.
#[derive(Debug)]
pub struct RecvMany {
    pub(crate) arm: PoolArm,
}

variant!(RecvPool);
variant!(RecvMany);

/// What both pool receives are made of.
#[derive(Debug)]
pub(crate) struct PoolArm {
    pub(crate) socket: DescId,
    pub(crate) pool: PoolId,
    /// The buffer in use where the kernel cannot select one by itself.
    pub(crate) held: Option<Lease>,
}

impl PoolArm {
    pub(crate) fn new(socket: DescId, pool: PoolId) -> PoolArm {
        PoolArm { socket, pool, held: None }
    }

    fn entry(&mut self, cx: &mut Context<'_>, many: bool) -> Entry {
        let target = cx.target();
        if let Some(lease) = &mut self.held {
            let room = lease.len() as u32;
            return target.seal(opcode::Recv::new(target.fd(), lease.as_mut_ptr(), room).build());
        }
        if many && cx.capabilities.contains(crate::Capability::Multishot) {
            return target.seal(opcode::RecvMulti::new(target.fd(), self.pool.group()).build());
        }
        let entry = opcode::Recv::new(target.fd(), std::ptr::null_mut(), 0)
            .buf_group(self.pool.group())
            .build();
        let entry = target.seal(entry);
        entry.flags(target.flags | io_uring::squeue::Flags::BUFFER_SELECT)
    }

    /// The call with a buffer taken only when there is something to put in it.
    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        if calls::poll_now(cx.fd(), Interest::READABLE) == 0 {
            return Attempt::Blocked(Interest::READABLE);
        }
        let Some(mut lease) = cx.groups.lease(self.pool) else {
            return Attempt::Done(-libc::ENOBUFS);
        };
        match calls::recv(cx.fd(), &mut lease, 0) {
            result if result == -libc::EAGAIN => {
                cx.groups.put_aside(lease);
                Attempt::Blocked(Interest::READABLE)
            }
            result @ 1.. => {
                self.held = Some(lease);
                Attempt::Done(result)
            }
            nothing => {
                cx.groups.put_aside(lease);
                Attempt::Done(nothing)
            }
        }
    }
}

fn filled(outcome: Outcome, name: &'static str) -> Result<Option<Filled>> {
    let bytes = settle(&outcome, name)? as usize;
    match outcome.payload {
        Payload::Lease(mut lease) => {
            lease.truncate(bytes);
            Ok(Some(Filled::new(lease, Mechanism::RecvSelected, CopyReason::SocketReceive)))
        }
        _ if bytes == 0 => Ok(None),
        _ => Err(Error::new(name, ErrorKind::DataLoss, "bytes arrived without a buffer")),
    }
}

macro_rules! pool_forms {
    ($name:ident, $many:expr) => {
        impl Forms for $name {
            const NAME: &'static str = "recv";

            fn moves(&self) -> Moves {
                Moves::Received
            }

            fn desc(&self) -> Option<DescId> {
                Some(self.arm.socket)
            }

            fn lane(&self) -> Option<Lane> {
                Some(Lane::Recv)
            }

            fn pool(&self) -> Option<PoolId> {
                Some(self.arm.pool)
            }

            fn shape(&self) -> Shape {
                if $many { Shape::Multishot } else { Shape::Ordinary }
            }

            fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
                self.arm.entry(cx, $many)
            }

            fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
                self.arm.attempt(cx)
            }
        }
    };
}

pool_forms!(RecvPool, false);
pool_forms!(RecvMany, true);

impl Operation for RecvPool {
    /// None at the end of the stream; an empty datagram is a lease of length 0.
    type Output<P: Port> = Option<Filled>;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Option<Filled>, Failed<Self>> {
        filled(outcome, Self::NAME).map_err(|error| Failed::new(error, self))
    }
}

impl Operation for RecvMany {
    type Output<P: Port> = Filled;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Filled, Failed<Self>> {
        match filled(outcome, Self::NAME) {
            Ok(Some(filled)) => Ok(filled),
            Ok(None) => {
                let error = Error::new(Self::NAME, ErrorKind::NotFound, "the stream ended");
                Err(Failed::new(error, self))
            }
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

impl Multishot for RecvMany {
    fn item<P: Port>(outcome: Outcome, _: &P) -> Result<Option<Filled>> {
        filled(outcome, Self::NAME)
    }
}
