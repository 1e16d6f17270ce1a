//! Waiting for an event, which takes its set: readiness, then one read that does not block.
//!
//! Several may wait for one event, and a set ends one wait: who reads nothing (EAGAIN) was beaten
//! to it and waits on. A set that was taken for a wait nobody takes the result of (dropped in the
//! last moment) is put back, so that no drop loses one.

use crate::engine::Outcome;
use crate::engine::descriptors::DescId;
use crate::error::Failed;
use crate::event::event::Event;
use crate::io::Port;
use crate::op::poll::{attempt_poll, poll_entry};
use crate::op::{Advance, Attempt, Context, Forms, Interest, Operation, unit, variant};
use io_uring::squeue::Entry;

/// Waits until an event is set, and takes the set.
pub struct EventWait {
    desc: DescId,
    event: Event,
    /// A set was taken and not delivered yet.
    taken: bool,
}

variant!(EventWait);

impl EventWait {
    pub(crate) fn new(desc: DescId, event: &Event) -> EventWait {
        EventWait { desc, event: event.clone(), taken: false }
    }
}

impl Drop for EventWait {
    fn drop(&mut self) {
        if self.taken {
            self.event.set();
        }
    }
}

impl Forms for EventWait {
    const NAME: &'static str = "event wait";

    fn desc(&self) -> Option<DescId> {
        Some(self.desc)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        poll_entry(Interest::READABLE, cx)
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        attempt_poll(Interest::READABLE, cx)
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        if result < 0 {
            return Advance::Done(result);
        }
        self.taken = self.event.reset();
        if self.taken { Advance::Done(0) } else { Advance::Again }
    }
}

impl Operation for EventWait {
    type Output<P: Port> = ();

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        if outcome.result >= 0 {
            self.taken = false;
        }
        unit(self, &outcome)
    }
}
