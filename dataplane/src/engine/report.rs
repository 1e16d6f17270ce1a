//! What the engine can tell about itself: counters, and a dump of what is in flight.

use super::slots::{NONE, Notify, State};
use super::{Engine, deadlines};
use crate::backend::{OpId, Provided};
use crate::io::operation_id::OperationId;
use crate::op::Forms;
use std::fmt;
use std::os::fd::RawFd;
use std::time::Duration;

/// The engine's own counters, and buffers it keeps for their memory.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) turns: u64,
    /// Coarse clock of the current turn, in ns.
    pub(crate) turn_ns: u64,
    pub(crate) stale_events: u64,
    pub(crate) rearmed: u64,
    pub(crate) paused: u64,
    pub(crate) pool_dry: u64,
    pub(crate) timed_out: u64,
    pub(crate) foreign_submissions: u64,
    pub(crate) zero_copy_sent: u64,
    pub(crate) zero_copy_copied: u64,
    pub(crate) leaked: u64,
    pub(crate) inline: u64,
    pub(crate) helped: Vec<(OpId, i32)>,
    pub(crate) provided: Vec<Provided>,
}

/// Counters of one proactor since it was made, and gauges of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Operations in flight.
    pub in_flight: u32,
    /// Turns of the loop.
    pub turns: u64,
    /// Results delivered: ends of operations and items of multishot ones.
    pub delivered: u64,
    /// Kernel events of operations that were already over; each was ignored.
    pub stale_events: u64,
    /// Multishot operations armed again after the kernel had ended them.
    pub rearmed: u64,
    /// Multishot operations paused because nobody took their results.
    pub paused: u64,
    /// Receives that had to wait for their pool.
    pub pool_dry: u64,
    /// Operations whose deadline passed.
    pub timed_out: u64,
    /// Submissions from other threads.
    pub foreign_submissions: u64,
    /// Operations finished at their submission, by a call that did not block: only inside the
    /// handlers of a [`LocalContext`](crate::LocalContext).
    pub inline: u64,
    /// Times that looking before sleeping ([`Options::spin`]) found something.
    ///
    /// [`Options::spin`]: crate::Options::spin
    pub spin_hits: u64,
    /// Times that it found nothing, so that the loop slept after all.
    pub spin_misses: u64,
    /// Zero-copy sends the kernel really did not copy.
    pub zero_copy_sent: u64,
    /// Zero-copy sends the kernel copied after all.
    pub zero_copy_copied: u64,
    /// Completion-queue overflows.
    pub overflows: u64,
    /// Direct reads and writes completed by polling the device ([`Options::iopoll`]).
    ///
    /// [`Options::iopoll`]: crate::Options::iopoll
    pub polled: u64,
    /// Direct reads and writes whose device could not be polled: the ordinary ring took them.
    pub unpolled: u64,
    /// Descriptors open.
    pub descriptors: usize,
    /// Regions registered.
    pub registered: usize,
    /// Regions unregistered whose release the kernel has not reported yet.
    pub releasing: usize,
    /// Helper threads running.
    pub helper_threads: usize,
}

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
    pub(crate) fn stats(&self) -> Stats {
        let (registered, releasing) = self.table.registry.counts();
        let counters = &self.counters;
        let (polled, unpolled) = self.backend.as_ref().map_or((0, 0), |backend| backend.polled());
        Stats {
            in_flight: self.table.slots.in_flight,
            turns: counters.turns,
            delivered: self.table.slots.delivered,
            stale_events: counters.stale_events,
            rearmed: counters.rearmed,
            paused: counters.paused,
            pool_dry: counters.pool_dry,
            timed_out: counters.timed_out,
            foreign_submissions: counters.foreign_submissions,
            inline: counters.inline,
            spin_hits: self.spin.hits,
            spin_misses: self.spin.misses,
            zero_copy_sent: counters.zero_copy_sent,
            zero_copy_copied: counters.zero_copy_copied,
            overflows: self.backend.as_ref().map_or(0, |backend| backend.overflows()),
            polled,
            unpolled,
            descriptors: self.table.descriptors.used(),
            registered,
            releasing,
            helper_threads: self.table.helpers.threads(),
        }
    }

    /// Everything that is not over, oldest first.
    pub(crate) fn in_flight_dump(&self) -> Vec<InFlight> {
        let now_ns = deadlines::coarse_ns();
        let live = self.table.slots.live().filter(|(_, slot, _)| slot.state != State::Done);
        let mut dump: Vec<InFlight> = live
            .map(|(index, slot, op)| {
                let desc = op.and_then(|op| op.desc());
                let found = desc.and_then(|desc| self.table.descriptors.peek(desc));
                InFlight {
                    id: OperationId::new(self.table.owner, OpId::new(index, slot.generation)),
                    operation: op.map_or("nop", |op| op.name()),
                    descriptor: found.map(|descriptor| descriptor.raw()),
                    age: Duration::from_nanos(now_ns.saturating_sub(slot.started_ns)),
                    state: match slot.state {
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
                }
            })
            .collect();
        dump.sort_by_key(|entry| std::cmp::Reverse(entry.age));
        dump
    }
}
