//! Accepting connections, one or many.
//!
//! A connection that was reset while it waited (ECONNABORTED) is nobody's result: the accept goes
//! on. Out of descriptor numbers (EMFILE, ENFILE) an accept ends with Exhausted, also one of many:
//! the connection waits on, and whoever frees numbers accepts again.

use crate::engine::Outcome;
use crate::engine::descriptors::{Class, DescId, Descriptor};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::{Port, Socket};
use crate::op::{
    Advance, Attempt, Context, Forms, Interest, Multishot, Operation, Shape, settle, variant,
};
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry};

/// Accepts one connection (`accept4(2)`).
///
/// Dropping it before it completes may lose one connection: one that was accepted meanwhile is
/// closed, and its peer sees the end. Those still in the listener's queue stay there.
#[derive(Debug)]
pub struct Accept {
    pub(crate) listener: DescId,
}

/// Accepts connections until it is cancelled: a stream of sockets. Dropping the stream closes those
/// that were accepted and not taken; their peers see the end.
#[derive(Debug)]
pub struct AcceptMany {
    pub(crate) listener: DescId,
}

variant!(Accept);
variant!(AcceptMany);

fn check_listener(name: &'static str, descriptor: Option<&Descriptor>) -> Result<()> {
    match descriptor.map(|d| d.class()) {
        Some(Class::Listener) => Ok(()),
        _ => Err(Error::new(
            name,
            ErrorKind::InvalidArgument,
            "the socket is not listening; make it with `listen`",
        )),
    }
}

fn attempt_accept(cx: &mut Context<'_>) -> Attempt {
    Attempt::unless_blocked(calls::accept(cx.fd()), Interest::READABLE)
}

impl Forms for Accept {
    const NAME: &'static str = "accept";

    fn desc(&self) -> Option<DescId> {
        Some(self.listener)
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        check_listener(Self::NAME, descriptor)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let entry = opcode::Accept::new(target.fd(), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC);
        target.seal(entry.build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        attempt_accept(cx)
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        match result == -libc::ECONNABORTED {
            true => Advance::Again,
            false => Advance::Done(result),
        }
    }
}

impl Forms for AcceptMany {
    const NAME: &'static str = "accept";

    fn desc(&self) -> Option<DescId> {
        Some(self.listener)
    }

    fn shape(&self) -> Shape {
        Shape::Multishot
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        check_listener(Self::NAME, descriptor)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        if cx.capabilities.contains(crate::Capability::Multishot) {
            let entry = opcode::AcceptMulti::new(target.fd()).flags(libc::SOCK_CLOEXEC);
            return target.seal(entry.build());
        }
        let entry = opcode::Accept::new(target.fd(), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC);
        target.seal(entry.build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        attempt_accept(cx)
    }
}

fn socket_from<P: Port>(outcome: Outcome, port: &P, name: &'static str) -> Result<Socket<P>> {
    settle(&outcome, name)?;
    port.adopt(name, outcome.payload).map(|found| Socket::new(port.clone(), found))
}

impl Operation for Accept {
    type Output<P: Port> = Socket<P>;

    fn finish<P: Port>(self, outcome: Outcome, port: &P) -> Result<Socket<P>, Failed<Self>> {
        socket_from(outcome, port, Self::NAME).map_err(|error| Failed::new(error, self))
    }
}

impl Operation for AcceptMany {
    type Output<P: Port> = Socket<P>;

    fn finish<P: Port>(self, outcome: Outcome, port: &P) -> Result<Socket<P>, Failed<Self>> {
        socket_from(outcome, port, Self::NAME).map_err(|error| Failed::new(error, self))
    }
}

impl Multishot for AcceptMany {
    fn item<P: Port>(outcome: Outcome, port: &P) -> Result<Option<Socket<P>>> {
        socket_from(outcome, port, Self::NAME).map(Some)
    }
}
