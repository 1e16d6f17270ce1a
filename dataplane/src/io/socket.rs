//! Sockets: stream, datagram, listening; TCP, UDP and Unix.
//!
//! A socket is a shared handle (`Clone`) of a descriptor in the proactor's table. Dropping the last
//! clone, or [`close`](Socket::close), cancels what is in flight on it and closes it after the
//! last completion; the peer sees the end without anybody waiting here.
//!
//! A stream has one send queue and one receive queue: bytes go out in the order the sends were
//! submitted, whatever is in flight.

use super::receive_pool::ReceivePool;
use super::request::{Multi, Request};
use super::{Local, Named, Port};
use crate::engine::descriptors::{DescId, Descriptor, ZeroCopy};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Address, File};
use crate::op::{
    Accept, AcceptMany, Close, Interest, Poll, PollMany, Recv, RecvFrom, RecvMany, RecvPool,
    RecvVectored, Send, SendTo, SendVectored, Shutdown, Transfer,
};
use crate::remote::cell::Adopted;
use crate::remote::handle::{Call, Handle};
use crate::sys::{calls, sockets};
use regions::{Lease, Span, SpanList};
use std::net::Shutdown as Direction;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

/// See the head of this module.
pub struct Socket<P: Port = Local> {
    port: P,
    descriptor: P::Descriptor,
}

impl<P: Port> Clone for Socket<P> {
    fn clone(&self) -> Socket<P> {
        Socket { port: self.port.clone(), descriptor: self.descriptor.clone() }
    }
}

impl<P: Port> std::fmt::Debug for Socket<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({:?})", self.desc())
    }
}

impl<P: Port> Socket<P> {
    pub(crate) fn new(port: P, descriptor: P::Descriptor) -> Socket<P> {
        Socket { port, descriptor }
    }

    pub(crate) fn desc(&self) -> DescId {
        self.descriptor.desc()
    }

    /// Accepts one connection.
    pub fn accept(&self) -> Request<P, Accept> {
        Request::new(&self.port, Accept { listener: self.desc() })
    }

    /// Accepts connections until it is cancelled or dropped. Pauses when nobody takes them.
    pub fn incoming(&self) -> Multi<P, AcceptMany> {
        Multi::new(&self.port, AcceptMany { listener: self.desc() })
    }

    /// Receives into a lease: at least one byte, or none at the end of the stream.
    pub fn recv(&self, lease: Lease) -> Request<P, Recv> {
        Request::new(&self.port, Recv::new(self.desc(), lease))
    }

    /// Receives until the lease is full or the stream ends.
    pub fn recv_all(&self, lease: Lease) -> Request<P, Recv> {
        Request::new(&self.port, Recv::new(self.desc(), lease).all())
    }

    /// Receives into several leases in order.
    pub fn recv_vectored(&self, leases: Vec<Lease>) -> Request<P, RecvVectored> {
        Request::new(&self.port, RecvVectored::new(self.desc(), leases))
    }

    /// Receives once into a buffer of a pool; None at the end of the stream.
    pub fn recv_pool(&self, pool: &ReceivePool) -> Request<P, RecvPool> {
        let arm = crate::op::PoolArm::new(self.desc(), pool.id());
        Request::new(&self.port, RecvPool { arm })
    }

    /// Receives into buffers of a pool until the stream ends. Pauses when the pool is dry or
    /// nobody takes the results, and resumes by itself.
    pub fn receive_all(&self, pool: &ReceivePool) -> Multi<P, RecvMany> {
        let arm = crate::op::PoolArm::new(self.desc(), pool.id());
        Multi::new(&self.port, RecvMany { arm })
    }

    /// Sends some of a span; the result says how much.
    pub fn send(&self, span: impl Into<Span>) -> Request<P, Send> {
        Request::new(&self.port, Send::new(self.desc(), span.into()))
    }

    /// Sends the whole span.
    pub fn send_all(&self, span: impl Into<Span>) -> Request<P, Send> {
        Request::new(&self.port, Send::new(self.desc(), span.into()).all())
    }

    /// Sends the whole span and says that more follows at once (MSG_MORE).
    pub fn send_more(&self, span: impl Into<Span>) -> Request<P, Send> {
        Request::new(&self.port, Send::new(self.desc(), span.into()).all().more())
    }

    /// Sends several spans in order, all of them.
    pub fn send_vectored(&self, spans: SpanList) -> Request<P, SendVectored> {
        Request::new(&self.port, SendVectored::new(self.desc(), spans).all())
    }

    /// Sends one datagram to an address.
    pub fn send_to(&self, span: impl Into<Span>, to: impl Into<Address>) -> Request<P, SendTo> {
        let op = SendTo { socket: self.desc(), span: span.into(), to: to.into() };
        Request::new(&self.port, op)
    }

    /// Receives one datagram and its sender.
    pub fn recv_from(&self, lease: Lease) -> Request<P, RecvFrom> {
        Request::new(&self.port, RecvFrom::new(self.desc(), lease))
    }

    /// Moves `length` bytes of a file to the socket without passing through user memory.
    ///
    /// # Errors
    ///
    /// When the pipe between the two cannot be made.
    pub fn transfer(
        &self,
        file: &File<P>,
        offset: u64,
        length: u64,
    ) -> Result<Request<P, Transfer>> {
        let pipe = calls::pipe().map_err(|error| Error::from_io("transfer", &error))?;
        let op = Transfer::new(self.desc(), file.desc(), offset, length, pipe);
        Ok(Request::new(&self.port, op))
    }

    /// Waits once until the descriptor is ready.
    pub fn ready(&self, interest: Interest) -> Request<P, Poll> {
        Request::new(&self.port, Poll { desc: self.desc(), interest })
    }

    /// Reports readiness until cancelled; reports nobody took yet are merged.
    pub fn readiness(&self, interest: Interest) -> Multi<P, PollMany> {
        Multi::new(&self.port, PollMany { desc: self.desc(), interest })
    }

    /// Ends one or both directions, after the sends submitted before it.
    pub fn shutdown(&self, direction: Direction) -> Request<P, Shutdown> {
        let how = match direction {
            Direction::Read => libc::SHUT_RD,
            Direction::Write => libc::SHUT_WR,
            Direction::Both => libc::SHUT_RDWR,
        };
        Request::new(&self.port, Shutdown { socket: self.desc(), how })
    }

    /// Says that nothing more will be sent: the peer sees the end of the stream.
    pub fn finish(&self) -> Request<P, Shutdown> {
        self.shutdown(Direction::Write)
    }

    /// Closes it for every clone: what is in flight ends with Closed, then the descriptor closes.
    pub fn close(self) -> Request<P, Close> {
        Request::new(&self.port, Close::new(self.desc())).with_last(self.descriptor)
    }
}

impl Socket<Local> {
    fn inspect<R>(
        &self,
        name: &'static str,
        f: impl FnOnce(&mut Descriptor) -> Result<R>,
    ) -> Result<R> {
        let desc = self.desc();
        self.port.inner.with(name, |engine| inspect(engine, name, desc, f))?
    }

    pub(crate) fn local(&self) -> Local {
        self.port.clone()
    }

    /// Its number, for a call that is made at once.
    pub(crate) fn number(&self, name: &'static str) -> Result<RawFd> {
        self.inspect(name, |descriptor| Ok(descriptor.raw()))
    }

    /// Another descriptor of the same open file.
    pub(crate) fn duplicate(&self, name: &'static str) -> Result<OwnedFd> {
        calls::dup(self.number(name)?).map_err(|error| Error::from_io(name, &error))
    }

    /// The local address.
    ///
    /// # Errors
    ///
    /// Closed, or what `getsockname(2)` says.
    pub fn local_addr(&self) -> Result<Address> {
        self.inspect("local address", |descriptor| local_address(descriptor.raw()))
    }

    /// The peer's address.
    ///
    /// # Errors
    ///
    /// Closed, or what `getpeername(2)` says.
    pub fn peer_addr(&self) -> Result<Address> {
        self.inspect("peer address", |descriptor| peer_address(descriptor.raw()))
    }

    /// Sets socket options on it.
    ///
    /// # Errors
    ///
    /// Closed, or what `setsockopt(2)` says.
    pub fn set_options(&self, options: &sockets::SocketOptions) -> Result<()> {
        self.inspect("socket options", |descriptor| {
            let family = local_address(descriptor.raw())?.family();
            options
                .apply(descriptor.raw(), family)
                .map_err(|error| Error::from_io("socket options", &error))
        })
    }

    /// When its sends go out without a copy. Default: [`ZeroCopy::Auto`].
    ///
    /// # Errors
    ///
    /// Closed; Unavailable for [`ZeroCopy::Require`] where there is no zero-copy send.
    pub fn zero_copy(&self, wanted: ZeroCopy) -> Result<()> {
        const NAME: &str = "zero-copy";
        let desc = self.desc();
        self.port.inner.with(NAME, |engine| set_zero_copy(engine, desc, wanted))?
    }

    /// Registers the descriptor with the backend: operations name it by index, which spares the
    /// kernel a look-up. False where the backend has no such table.
    ///
    /// # Errors
    ///
    /// Exhausted when the table is full.
    pub fn register(&self) -> Result<bool> {
        let desc = self.desc();
        self.port.inner.with("register descriptor", |engine| engine.register_descriptor(desc))?
    }

    /// Cancels everything in flight on it; how many operations were asked to end.
    ///
    /// # Errors
    ///
    /// Closed.
    pub fn cancel_all(&self) -> Result<usize> {
        const NAME: &str = "cancel all";
        let desc = self.desc();
        self.port.inner.with(NAME, |engine| {
            if !engine.table.descriptors.peek(desc).is_some_and(|found| found.is_open()) {
                return Err(closed(NAME));
            }
            Ok(engine.cancel_descriptor(desc.index, crate::engine::Reason::User))
        })?
    }

    /// Makes it a socket any thread may use, submitting through `handle`'s inbox.
    ///
    /// # Errors
    ///
    /// It comes back when `handle` is of another proactor, or while clones of it are in use.
    pub fn into_remote(self, handle: &Handle) -> Result<Socket<Handle>, (Error, Socket<Local>)> {
        const NAME: &str = "into remote";
        if !Arc::ptr_eq(handle.shared(), &self.port.inner.shared) {
            let message = "the handle belongs to another proactor";
            return Err((Error::new(NAME, ErrorKind::InvalidArgument, message), self));
        }
        if Rc::strong_count(&self.descriptor) > 1 {
            let message = "clones of the socket are in use on this thread; drop them first";
            return Err((Error::new(NAME, ErrorKind::Busy, message), self));
        }
        let id = self.descriptor.surrender();
        let adopted = Arc::new(Adopted { shared: handle.shared().clone(), id });
        Ok(Socket { port: handle.clone(), descriptor: adopted })
    }
}

impl Socket<Handle> {
    fn inspect<R: std::marker::Send + 'static>(
        &self,
        name: &'static str,
        f: impl FnOnce(&mut Descriptor) -> Result<R> + std::marker::Send + 'static,
    ) -> Call<Result<R>> {
        let desc = self.desc();
        self.port.call(move |io| {
            io.inner().with(name, |engine| inspect(engine, name, desc, f)).and_then(|r| r)
        })
    }

    /// The local address.
    ///
    /// # Errors
    ///
    /// Closed, ShutDown, or what `getsockname(2)` says.
    pub async fn local_addr(&self) -> Result<Address> {
        self.inspect("local address", |descriptor| local_address(descriptor.raw())).await?
    }

    /// The peer's address.
    ///
    /// # Errors
    ///
    /// Closed, ShutDown, or what `getpeername(2)` says.
    pub async fn peer_addr(&self) -> Result<Address> {
        self.inspect("peer address", |descriptor| peer_address(descriptor.raw())).await?
    }

    /// Cancels everything in flight on it.
    ///
    /// # Errors
    ///
    /// Closed, ShutDown.
    pub async fn cancel_all(&self) -> Result<usize> {
        let desc = self.desc();
        self.port
            .call(move |io| {
                io.inner().with("cancel all", |engine| {
                    if !engine.table.descriptors.peek(desc).is_some_and(|found| found.is_open()) {
                        return Err(closed("cancel all"));
                    }
                    Ok(engine.cancel_descriptor(desc.index, crate::engine::Reason::User))
                })
            })
            .await??
    }
}

fn closed(name: &'static str) -> Error {
    Error::new(name, ErrorKind::Closed, "the descriptor is closed")
}

pub(crate) fn inspect<R>(
    engine: &mut crate::engine::Engine,
    name: &'static str,
    desc: DescId,
    f: impl FnOnce(&mut Descriptor) -> Result<R>,
) -> Result<R> {
    match engine.table.descriptors.find(desc) {
        Some(descriptor) if descriptor.is_open() => f(descriptor),
        _ => Err(closed(name)),
    }
}

fn local_address(number: RawFd) -> Result<Address> {
    sockets::local_address(number).map_err(|error| Error::from_io("local address", &error))
}

fn peer_address(number: RawFd) -> Result<Address> {
    sockets::peer_address(number).map_err(|error| Error::from_io("peer address", &error))
}

fn set_zero_copy(engine: &mut crate::engine::Engine, desc: DescId, wanted: ZeroCopy) -> Result<()> {
    const NAME: &str = "zero-copy";
    let supported = engine.table.capabilities.contains(crate::Capability::ZeroCopySend);
    if wanted == ZeroCopy::Require && !supported {
        let message = "this backend has no zero-copy send; `dataplane doctor` says why";
        return Err(Error::new(NAME, ErrorKind::Unavailable, message));
    }
    inspect(engine, NAME, desc, |descriptor| {
        descriptor.policy.wanted = wanted;
        Ok(())
    })
}
