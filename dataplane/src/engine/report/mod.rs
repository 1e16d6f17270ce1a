//! What the engine can tell about itself: counters, gauges, and a dump of what is in flight.
//!
//! Counting is a plain addition on the poll thread, beside work that costs a hundred times as much;
//! the busiest path (operations that need an entry and nothing else) adds nothing at all, since
//! submissions are what ended plus what is in flight. Reading them is a copy: [`Stats`], from the
//! owner at once, from other threads by [`Handle::stats`](crate::Handle::stats). Counters never go
//! down and start at zero with the proactor.
//!
//! - `dump`: everything in flight, one line each.
//! - `metric`: the table that gives each number a name, a unit and a description.
//! - `export`: publishes them through the `metrics` facade (feature `metrics`).
//! - `trace`: rare events and spans through `tracing` (feature `tracing`).

pub(crate) mod dump;
#[cfg(feature = "metrics")]
pub(crate) mod export;
pub(crate) mod metric;
pub(crate) mod trace;

use super::Engine;
use crate::backend::{Counts, OpId, Provided};
use crate::op::Moves;

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
    /// Operations finished at their submission.
    pub(crate) inline: u64,
    /// Steps of sequences that went to the kernel as parts of a chain.
    pub(crate) linked_steps: u64,
    /// Chains taken back from the kernel.
    pub(crate) called_back: u64,
    pub(crate) wakes: u64,
    pub(crate) helped_operations: u64,
    /// Operations that went on in another way after the kernel had refused the first.
    pub(crate) fell_back: u64,
    /// Results of multishot operations before their end.
    pub(crate) items: u64,
    /// By what they count as; the first is a bin.
    pub(crate) bytes: [u64; Moves::COUNT],
    /// What the backend had counted when it went.
    pub(crate) last: Counts,
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
    /// Operations that ended, whichever way.
    pub completed: u64,
    /// Kernel events of operations that were already over; each was ignored.
    pub stale_events: u64,
    /// Multishot operations armed again after the kernel had ended them.
    pub rearmed: u64,
    /// Multishot operations paused because nobody took their results.
    pub paused: u64,
    /// Receives that had to wait for their pool (an empty buffer ring).
    pub pool_dry: u64,
    /// Operations whose deadline passed.
    pub timed_out: u64,
    /// Submissions from other threads.
    pub foreign_submissions: u64,
    /// Messages handed to the handler.
    pub messages: u64,
    /// Messages that arrived while there was no handler.
    pub unhandled_messages: u64,
    /// Operations finished at their submission, by a call that did not block: only inside the
    /// handlers of a [`LocalContext`](crate::LocalContext).
    pub inline: u64,
    /// Steps of sequences that went to the kernel as parts of a chain.
    pub linked_steps: u64,
    /// Chains that were taken back from the kernel, since others waited behind steps of theirs that
    /// had not begun.
    pub called_back: u64,
    /// Tasks that are not over.
    pub tasks: usize,
    /// Times that looking before sleeping ([`Options::spin`]) found something.
    ///
    /// [`Options::spin`]: crate::Options::spin
    pub spin_hits: u64,
    /// Times that it found nothing, so that the loop slept after all.
    pub spin_misses: u64,
    /// Polls that another thread's [`wake`](crate::Handle::wake) made return; many wakes before
    /// one poll count as one.
    pub wakes: u64,
    /// Times the sleeping loop was rung by another thread, one `write(2)` each.
    pub bells: u64,
    /// Bytes received from sockets.
    pub bytes_received: u64,
    /// Bytes sent into sockets.
    pub bytes_sent: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
    /// Bytes moved from files into sockets inside the kernel.
    pub bytes_transferred: u64,
    /// Of the bytes read and written, those that went past the page cache: no copy was made.
    pub bytes_direct: u64,
    /// Zero-copy sends the kernel really did not copy.
    pub zero_copy_sent: u64,
    /// Zero-copy sends the kernel copied after all.
    pub zero_copy_copied: u64,
    /// Operations that went on another way after the kernel had refused the first one: zero-copy
    /// sends that were copied because the socket has none, or no memory could be pinned.
    pub fell_back: u64,
    /// The whole proactor runs on readiness because io_uring was not to be had.
    pub is_fallback: bool,
    /// System calls that submit or wait (`io_uring_enter(2)`, `epoll_wait(2)`, `poll(2)`).
    pub enters: u64,
    /// Times the kernel took nothing for now (EAGAIN, EBUSY).
    pub busy: u64,
    /// Entries that found the submission queue full and stood in line.
    pub queued: u64,
    /// Completion-queue overflows.
    pub overflows: u64,
    /// Direct reads and writes completed by polling the device ([`Options::iopoll`]).
    ///
    /// [`Options::iopoll`]: crate::Options::iopoll
    pub polled: u64,
    /// Direct reads and writes whose device could not be polled: the ordinary ring took them.
    pub unpolled: u64,
    /// Operations leaked because they did not end by the shutdown deadline, or because the kernel
    /// lost their completions.
    pub leaked: u64,
    /// Descriptors open.
    pub descriptors: usize,
    /// Regions registered.
    pub registered: usize,
    /// Regions unregistered whose release the kernel has not reported yet.
    pub releasing: usize,
    /// Helper threads running.
    pub helper_threads: usize,
    /// Operations whose result a helper thread (or another source outside the kernel) brought.
    pub helped: u64,
}

impl Stats {
    /// Copies that were avoided: zero-copy sends the kernel did not copy.
    pub fn copies_avoided(&self) -> u64 {
        self.zero_copy_sent
    }
}

impl Engine {
    /// Whether another thread asked for the poll to return, or a task here was woken.
    #[inline(always)]
    pub(crate) fn take_wake(&mut self) -> bool {
        let asked = self.table.shared.take_wake();
        self.counters.wakes += u64::from(asked);
        asked | self.table.shared.take_wake_here()
    }

    /// The backend goes: its counts stay.
    pub(crate) fn keep_counts(&mut self) {
        if let Some(backend) = &self.backend {
            self.counters.last = backend.counts();
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (registered, releasing) = self.table.registry.counts();
        let counters = &self.counters;
        let counts = self.backend.as_ref().map_or(counters.last, |backend| backend.counts());
        let bytes = |what: Moves| counters.bytes[what as usize];
        let direct = bytes(Moves::ReadDirect) + bytes(Moves::WrittenDirect);
        Stats {
            in_flight: self.table.slots.in_flight,
            turns: counters.turns,
            delivered: self.table.slots.delivered,
            completed: self.table.slots.delivered - counters.items,
            stale_events: counters.stale_events,
            rearmed: counters.rearmed,
            paused: counters.paused,
            pool_dry: counters.pool_dry,
            timed_out: counters.timed_out,
            foreign_submissions: counters.foreign_submissions,
            messages: self.messages.handled,
            unhandled_messages: self.messages.unhandled,
            inline: counters.inline,
            linked_steps: counters.linked_steps,
            called_back: counters.called_back,
            tasks: 0,
            spin_hits: self.spin.hits,
            spin_misses: self.spin.misses,
            wakes: counters.wakes,
            bells: counts.bells,
            bytes_received: bytes(Moves::Received),
            bytes_sent: bytes(Moves::Sent),
            bytes_read: bytes(Moves::Read) + bytes(Moves::ReadDirect),
            bytes_written: bytes(Moves::Written) + bytes(Moves::WrittenDirect),
            bytes_transferred: bytes(Moves::Transferred),
            bytes_direct: direct,
            zero_copy_sent: counters.zero_copy_sent,
            zero_copy_copied: counters.zero_copy_copied,
            fell_back: counters.fell_back,
            is_fallback: self.fallback.is_some(),
            enters: counts.enters,
            busy: counts.busy,
            queued: counts.queued,
            overflows: counts.overflows,
            polled: counts.polled,
            unpolled: counts.unpolled,
            leaked: counters.leaked,
            descriptors: self.table.descriptors.used(),
            registered,
            releasing,
            helper_threads: self.table.helpers.threads(),
            helped: counters.helped_operations,
        }
    }
}
