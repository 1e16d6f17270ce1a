//! Connecting a socket.

use crate::engine::Outcome;
use crate::engine::descriptors::DescId;
use crate::engine::scratch;
use crate::error::Failed;
use crate::io::{Address, Port};
use crate::op::{Attempt, Context, Forms, Interest, Operation, unit, variant};
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry};

/// Connects a socket to an address (`connect(2)`).
///
/// A cancelled or dropped connect leaves the socket in whatever state the kernel had reached; close
/// it.
#[derive(Debug)]
pub struct Connect {
    pub(crate) socket: DescId,
    pub(crate) address: Address,
    started: bool,
}

variant!(Connect);

impl Connect {
    pub(crate) fn new(socket: DescId, address: Address) -> Connect {
        Connect { socket, address, started: false }
    }
}

impl Forms for Connect {
    const NAME: &'static str = "connect";

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let (address, bytes) = scratch::store_address(cx.scratch, &self.address);
        target.seal(opcode::Connect::new(target.fd(), address, bytes).build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        if self.started {
            return match calls::poll_now(cx.fd(), Interest::WRITABLE) {
                0 => Attempt::Blocked(Interest::WRITABLE),
                _ => Attempt::Done(-calls::socket_error(cx.fd())),
            };
        }
        self.started = true;
        match calls::connect_nonblocking(cx.fd(), &self.address) {
            result if result == -libc::EINPROGRESS => Attempt::Blocked(Interest::WRITABLE),
            // A Unix listener with a full backlog: no readiness tells of room, so ask again.
            result if result == -libc::EAGAIN => {
                self.started = false;
                Attempt::Blocked(Interest::SOON)
            }
            result => Attempt::Done(result),
        }
    }
}

impl Operation for Connect {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        unit(self, &outcome)
    }
}
