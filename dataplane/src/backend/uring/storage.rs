//! The second ring: storage whose device is polled for completions instead of interrupting
//! (IORING_SETUP_IOPOLL, io_uring_setup(2)).
//!
//! Direct reads and writes go there, everything else stays on the first ring. While one is in
//! flight the loop does not sleep: each turn looks at both rings, which is what polling means. A
//! device that cannot be polled (EOPNOTSUPP) sends the operation, and all later ones, to the first
//! ring; how many went each way is counted. The rings do not share registered buffers and files,
//! so entries here name plain memory and plain descriptors. A polled operation cannot be called
//! back; it ends by itself, as disks do.
//!
//! Unsafe code: entries whose pointers the slots keep alive, as in the ring beside it.

#![allow(unsafe_code)]

use super::ring::{End, Ring};
use super::setup::{self, Setup};
use crate::backend::{EVENTS_PER_TURN, Event, Fatal, OpId};
use crate::op::{Context, Forms, Op};
use io_uring::squeue::Entry;
use std::io;

/// Most polled operations in flight.
const ENTRIES: u32 = 128;

/// The polled ring of one backend.
pub(crate) struct Storage {
    ring: Ring,
    flying: Vec<OpId>,
    refused: bool,
    polled: u64,
    sent_back: u64,
}

impl Storage {
    pub(crate) fn new() -> io::Result<Storage> {
        let setup =
            Setup { sq_entries: ENTRIES, cq_entries: 2 * ENTRIES, sqpoll: None, iopoll: true };
        let ring = Ring::new(&setup)?;
        Ok(Storage { ring, flying: Vec::new(), refused: false, polled: 0, sent_back: 0 })
    }

    /// Operations that completed here, and those that had to go to the first ring.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.polled, self.sent_back)
    }

    /// The entry of an operation that belongs here; None: the first ring takes it.
    pub(crate) fn entry(&self, id: OpId, op: &mut Op, cx: &mut Context<'_>) -> Option<Entry> {
        let fits = !self.refused && self.flying.len() < ENTRIES as usize;
        if !fits || !matches!(op, Op::Read(_) | Op::Write(_)) || !cx.is_direct() {
            return None;
        }
        cx.plain = true;
        Some(op.entry(cx).user_data(id.0))
    }

    pub(crate) fn push(&mut self, id: OpId, entry: &Entry) {
        // SAFETY: what the entry points to is kept by its slot until its event. There is room:
        // no more are in flight than the queue has places.
        let pushed = unsafe { self.ring.push(entry) };
        debug_assert!(pushed);
        self.flying.push(id);
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.flying.is_empty()
    }

    pub(crate) fn holds(&self, id: OpId) -> bool {
        self.flying.contains(&id)
    }

    /// Hands over what is staged and looks once for completions. What the device refuses to have
    /// polled comes back in `refused`.
    pub(crate) fn turn(
        &mut self,
        out: &mut Vec<Event>,
        refused: &mut Vec<OpId>,
    ) -> Result<(), Fatal> {
        let entered = self.ring.enter(0, None);
        let flying = &mut self.flying;
        let (mut polled, mut back) = (0, 0);
        self.ring.reap(EVENTS_PER_TURN, |user_data, result, flags| {
            let event = Event { user_data, result, flags };
            flying.retain(|id| *id != event.op());
            if result == -libc::EOPNOTSUPP {
                back += 1;
                refused.push(event.op());
            } else {
                polled += 1;
                out.push(event);
            }
        });
        self.refused |= back > 0;
        self.sent_back += back;
        self.polled += polled;
        match entered {
            Ok(entered) if entered.end == End::CompletionsLost => Err(Fatal::Dropped),
            Ok(_) => Ok(()),
            Err(error) => Err(Fatal::Failed(setup::errno_of(&error).unwrap_or(libc::EIO))),
        }
    }
}
