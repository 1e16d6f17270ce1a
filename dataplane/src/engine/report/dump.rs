//! A dump of what is in flight: for finding what is stuck, and who waits for it.

use crate::backend::OpId;
use crate::engine::slots::{NONE, Notify, State};
use crate::engine::{Engine, deadlines};
use crate::io::operation_id::OperationId;
use crate::op::Forms;
use std::fmt;
use std::os::fd::RawFd;
use std::time::Duration;

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiter {
    /// Nobody has asked yet.
    Nobody,
    /// A task.
    Task,
    /// A callback.
    Callback,
    /// A submitter on another thread.
    Foreign,
    /// Its handle was dropped.
    Abandoned,
}

/// One operation in flight, for a dump of what is stuck.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InFlight {
    /// Its name.
    pub id: OperationId,
    /// The operation.
    pub operation: &'static str,
    /// The descriptor's number, if it works on one.
    pub descriptor: Option<RawFd>,
    /// Since its submission, to the resolution of a turn of the loop.
    pub age: Duration,
    /// Where it stands: queued, in flight, parked, notification owed, done.
    pub state: &'static str,
    /// Who waits for it.
    pub waiter: Waiter,
}

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.id, self.operation)?;
        if let Some(number) = self.descriptor {
            write!(f, " on descriptor {number}")?;
        }
        write!(
            f,
            ", {}, {:.3} s, waited for by {:?}",
            self.state,
            self.age.as_secs_f64(),
            self.waiter
        )
    }
}

impl Engine {
    /// Everything that is not over, oldest first.
    pub(crate) fn in_flight_dump(&self) -> Vec<InFlight> {
        let now_ns = deadlines::coarse_ns();
        let live = self.table.slots.live().filter(|(_, slot, _)| slot.state != State::Done);
        let mut dump: Vec<InFlight> = live
            .map(|(index, slot, op)| InFlight {
                id: OperationId::new(self.table.owner, OpId::new(index, slot.generation)),
                operation: op.map_or("nop", |op| op.name()),
                descriptor: op.and_then(|op| self.table.descriptors.number(op)),
                age: Duration::from_nanos(now_ns.saturating_sub(slot.started_ns)),
                state: match slot.state {
                    State::Waiting => "waiting for the step before it",
                    State::Queued => "queued",
                    State::Parked => "parked",
                    _ if slot.settled => "notification owed",
                    _ if slot.desc == NONE && slot.owed == 0 => "waiting",
                    _ => "in flight",
                },
                waiter: match slot.notify {
                    _ if slot.abandoned => Waiter::Abandoned,
                    Notify::Nobody => Waiter::Nobody,
                    Notify::Waker(_) => Waiter::Task,
                    Notify::Once(_) | Notify::Each(_) => Waiter::Callback,
                    Notify::Cell(_) => Waiter::Foreign,
                },
            })
            .collect();
        dump.sort_by_key(|entry| std::cmp::Reverse(entry.age));
        dump
    }
}
