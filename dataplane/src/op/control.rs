//! Shutdown and close.

use super::{Attempt, Context, Forms, Operation, unit, variant};
use crate::engine::Outcome;
use crate::engine::descriptors::DescId;
use crate::error::Failed;
use crate::io::Port;
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry};

/// Ends one or both directions of a connection (`shutdown(2)`), after the sends submitted before
/// it. Dropping it may leave the connection as it was, or ended; no received byte is lost by that.
#[derive(Debug)]
pub struct Shutdown {
    pub(crate) socket: DescId,
    pub(crate) how: i32,
}

variant!(Shutdown);

impl Forms for Shutdown {
    const NAME: &'static str = "shutdown";

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn links(&self) -> bool {
        true
    }

    /// After the sends before it: an end of stream never overtakes bytes.
    fn lane(&self) -> Option<super::Lane> {
        (self.how != libc::SHUT_RD).then_some(super::Lane::Send)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        target.seal(opcode::Shutdown::new(target.fd(), self.how).build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        Attempt::Done(calls::shutdown(cx.fd(), self.how))
    }
}

impl Operation for Shutdown {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        unit(self, &outcome)
    }
}

/// Closes a descriptor once nothing is in flight on it any more (`close(2)`): what is in flight
/// is cancelled first. Completes with the result of the close itself. Dropping it does not call the
/// close back: only its result is lost.
#[derive(Debug)]
pub struct Close {
    pub(crate) desc: DescId,
    /// The number, once the descriptor table has given it up.
    pub(crate) number: i32,
}

variant!(Close);

impl Close {
    pub(crate) fn new(desc: DescId) -> Close {
        Close { desc, number: -1 }
    }
}

impl Forms for Close {
    const NAME: &'static str = "close";

    fn closes(&self) -> Option<DescId> {
        (self.number < 0).then_some(self.desc)
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        opcode::Close::new(io_uring::types::Fd(self.number)).build()
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        Attempt::Done(calls::close(std::mem::replace(&mut self.number, -1)))
    }
}

impl Operation for Close {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        unit(self, &outcome)
    }
}
