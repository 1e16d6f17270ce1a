//! Datagrams with an address: send to, receive from.

use crate::engine::Outcome;
use crate::engine::descriptors::{DescId, Descriptor};
use crate::engine::path::{CopyReason, Mechanism};
use crate::engine::scratch;
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::{Address, Port};
use crate::op::{
    Attempt, Context, Filled, Forms, HoldsBuffer, Interest, Moves, Operation, settle, variant,
};
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry};
use regions::{Lease, Span};

/// Sends one datagram to an address (`sendmsg(2)`): all of it or an error.
/// Dropping it sends the datagram or does not; the span lives until the kernel is done with it.
#[derive(Debug)]
pub struct SendTo {
    pub(crate) socket: DescId,
    pub(crate) span: Span,
    pub(crate) to: Address,
}

/// Receives one datagram and its sender's address (`recvmsg(2)`). What does not fit in the lease
/// is cut off by the system; dropping it before it completes may lose one datagram.
#[derive(Debug)]
pub struct RecvFrom {
    pub(crate) socket: DescId,
    pub(crate) lease: Lease,
    from: Option<Address>,
}

variant!(SendTo);
variant!(RecvFrom);

impl Forms for SendTo {
    const NAME: &'static str = "send to";

    fn links(&self) -> bool {
        true
    }

    fn moves(&self) -> Moves {
        Moves::Sent
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let message = scratch::message_to(cx.scratch, &self.to, &self.span);
        let flags = (libc::MSG_NOSIGNAL | cx.no_second_try()) as u32;
        target.seal(opcode::SendMsg::new(target.fd(), message).flags(flags).build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        let message = scratch::message_to(cx.scratch, &self.to, &self.span);
        Attempt::unless_blocked(
            calls::sendmsg(cx.fd(), message, libc::MSG_NOSIGNAL),
            Interest::WRITABLE,
        )
    }
}

impl Operation for SendTo {
    type Output<P: Port> = usize;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<usize, Failed<Self>> {
        settle(&outcome, Self::NAME)
            .map(|bytes| bytes as usize)
            .map_err(|error| Failed::new(error, self))
    }
}

impl HoldsBuffer for SendTo {
    type Buffer = Span;
    fn into_buffer(self) -> Span {
        self.span
    }
}

impl RecvFrom {
    pub(crate) fn new(socket: DescId, lease: Lease) -> RecvFrom {
        RecvFrom { socket, lease, from: None }
    }
}

impl Forms for RecvFrom {
    const NAME: &'static str = "receive from";

    fn moves(&self) -> Moves {
        Moves::Received
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn links(&self) -> bool {
        true
    }

    fn check(&self, _: Option<&Descriptor>) -> Result<()> {
        if self.lease.is_empty() {
            let message = "the lease has no room (length 0); call `reset` on it first";
            return Err(Error::new(Self::NAME, ErrorKind::InvalidArgument, message));
        }
        Ok(())
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let message = scratch::message_from(cx.scratch, &mut self.lease);
        target.seal(opcode::RecvMsg::new(target.fd(), message).build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        let message = scratch::message_from(cx.scratch, &mut self.lease);
        Attempt::unless_blocked(calls::recvmsg(cx.fd(), message), Interest::READABLE)
    }

    fn collect(&mut self, scratch: *mut scratch::Scratch) {
        self.from = Some(scratch::load_address(scratch));
    }
}

impl Operation for RecvFrom {
    /// The datagram and where it came from.
    type Output<P: Port> = (Filled, Address);

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<Self::Output<P>, Failed<Self>> {
        let bytes = match settle(&outcome, Self::NAME) {
            Ok(bytes) => bytes as usize,
            Err(error) => return Err(Failed::new(error, self)),
        };
        self.lease.truncate(bytes);
        let from = self.from.take().unwrap_or(Address::Unnamed);
        Ok((Filled::new(self.lease, Mechanism::Recv, CopyReason::SocketReceive), from))
    }
}

impl HoldsBuffer for RecvFrom {
    type Buffer = Lease;
    fn into_buffer(self) -> Lease {
        self.lease
    }
}
