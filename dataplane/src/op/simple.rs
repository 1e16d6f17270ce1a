//! The no-op and the timer.

use super::{Advance, Attempt, Context, Forms, Op, Operation, Shape, Stored, unit, variant};
use crate::engine::Outcome;
use crate::error::Failed;
use crate::io::Port;
use io_uring::{opcode, squeue::Entry};
use std::time::Instant;

/// Does nothing, by way of the kernel: one trip through the ring. Dropping it loses nothing.
#[derive(Debug, Default)]
pub struct Nop;

impl From<Nop> for Op {
    fn from(op: Nop) -> Op {
        Op::Nop(op)
    }
}

/// There is nothing in it: where the backend needs no operation to look at, none is stored.
impl Stored for Nop {
    #[inline]
    fn put(self, place: &mut Option<Op>) {
        *place = Some(Op::Nop(self));
    }

    #[inline]
    fn take(place: &mut Option<Op>) -> Option<Nop> {
        if place.is_some() {
            *place = None;
        }
        Some(Nop)
    }
}

impl Forms for Nop {
    const NAME: &'static str = "nop";

    fn links(&self) -> bool {
        true
    }

    fn shape(&self) -> Shape {
        Shape::Plain
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        self.plain_entry()
    }

    #[inline]
    fn plain_entry(&self) -> Entry {
        opcode::Nop::new().build()
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        Attempt::Done(0)
    }
}

impl Operation for Nop {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        unit(self, &outcome)
    }
}

/// Completes at an instant. Kept in the proactor's own deadline queue on every backend, so a
/// timer costs no submission; resolution is that of the wait itself (nanoseconds asked for,
/// see the timer slack in `prctl(2)`). Dropping it loses nothing.
#[derive(Debug)]
pub struct Timer {
    at_ns: u64,
}

variant!(Timer);

impl Timer {
    /// A timer for `at`; one in the past completes at the next poll.
    pub fn at(at: Instant) -> Timer {
        Timer { at_ns: crate::engine::deadlines::instant_to_ns(at) }
    }
}

impl Forms for Timer {
    const NAME: &'static str = "timer";

    fn fires_at(&self) -> Option<u64> {
        Some(self.at_ns)
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("timers live in the deadline queue")
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        unreachable!("timers live in the deadline queue")
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        Advance::Done(result)
    }
}

impl Operation for Timer {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        unit(self, &outcome)
    }
}
