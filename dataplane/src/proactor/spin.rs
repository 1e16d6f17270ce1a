//! Looking before sleeping: a bounded time in which the loop looks for something to do instead of
//! letting the kernel put its thread to sleep and wake it again.
//!
//! A sleep costs a trip through the scheduler, and whoever on another thread brings something must
//! ring for the sleeper, a `write(2)`: several microseconds, many times what handing over one
//! operation costs. Looking for about as long as that takes costs at most twice what knowing the
//! future would have (the ski-rental argument: Karlin et al., "Competitive randomized algorithms
//! for non-uniform problems", 1990).
//!
//! # When it looks
//!
//! Before every sleep, for as long as [`Options::spin`] says at most. It is off by default: a look
//! takes the processor from whatever else could run on it, and only the program knows whether
//! there is anything. It pays on a processor of the loop's own, where answers come within
//! microseconds, and where other threads hand over one operation after another. The benchmark
//! `handoff` measures the latter both ways.
//!
//! # How it looks
//!
//! One look is a wait for nothing. On io_uring that reads two words of shared memory: work that the
//! kernel has deferred to the loop shows in the queue's TASKRUN flag (IORING_SETUP_TASKRUN_FLAG,
//! see io_uring_setup(2)), and only then is the ring entered. On the readiness backends it is a
//! system call. What other threads bring shows in the wake word, which is not armed meanwhile, so
//! they do not ring. After [`PAUSES`] looks it yields between two (sched_yield(2)): where another
//! thread waits for this very processor, that is what lets it go on.
//!
//! # How long
//!
//! The time adapts: looking in vain halves the next, down to a sixteenth of the most; finding
//! something restores the whole, and so does whatever ends the sleep soon after: looking on would
//! have found it. Soon is longer than a look, for a sleep may take longer than that to end; where
//! it was not, a loop that had once given up went on sleeping through a busy producer's every
//! burst. It never outlasts the caller's time, a timer or a deadline.
//!
//! [`Options::spin`]: crate::Options::spin

use crate::backend::{Fatal, Until};
use crate::engine::{Engine, deadlines};
use std::time::Duration;

/// The shortest, as a part of the longest.
const LEAST: u64 = 16;
/// What comes soon after it gave up, as a multiple of the longest: a sleep takes its time too, in a
/// virtual machine as long as the longest look and more.
const SOON: u64 = 4;
/// Looks before it yields between two.
const PAUSES: u32 = 32;

/// Whether the loop looks, and how long the next time.
#[derive(Debug)]
pub(crate) struct Spin {
    /// Zero: it is off.
    most_ns: u64,
    next_ns: u64,
    /// When the last look in vain ended.
    gave_up_ns: u64,
    /// Looks that found something, and looks that did not.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Spin {
    pub(crate) fn new(most: Duration) -> Spin {
        let most_ns = most.as_nanos() as u64;
        Spin { most_ns, next_ns: most_ns, gave_up_ns: 0, hits: 0, misses: 0 }
    }

    /// When a look that begins now is to end.
    fn end_ns(&mut self, now_ns: u64) -> u64 {
        let soon_ns = self.most_ns.saturating_mul(SOON);
        if self.gave_up_ns > 0 && now_ns < self.gave_up_ns.saturating_add(soon_ns) {
            self.next_ns = self.most_ns;
        }
        now_ns.saturating_add(self.next_ns)
    }

    fn adapt(&mut self, found: bool, now_ns: u64) {
        if found {
            self.hits += 1;
            self.next_ns = self.most_ns;
            return;
        }
        self.misses += 1;
        self.gave_up_ns = now_ns;
        self.next_ns = (self.next_ns / 2).max(self.most_ns / LEAST).max(1);
    }
}

impl Engine {
    /// One wait: a look first, if it is worth one, and no sleep past the wake word `seen`.
    #[inline(always)]
    pub(crate) fn look_and_wait(&mut self, until: Until, seen: u64) -> Result<(), Fatal> {
        let until = match until {
            Until::Now => Until::Now,
            _ if self.spin.most_ns > 0 && self.look(until, seen)? => return Ok(()),
            _ if !self.table.shared.arm(seen) => Until::Now,
            until => until,
        };
        self.wait(until)
    }

    /// True: there is something to do.
    #[cold]
    fn look(&mut self, until: Until, seen: u64) -> Result<bool, Fatal> {
        let delivered = self.table.slots.delivered;
        let mut end_ns = self.spin.end_ns(deadlines::now_ns());
        if let Until::At(at_ns) = until {
            end_ns = end_ns.min(at_ns);
        }
        let mut pauses = 0;
        let (found, now_ns) = loop {
            self.wait(Until::Now)?;
            let found = self.table.slots.delivered != delivered
                || !self.fire.is_empty()
                || !self.own_events.is_empty()
                || self.table.shared.observe() != seen;
            let now_ns = deadlines::now_ns();
            if found || now_ns >= end_ns {
                break (found, now_ns);
            }
            pauses += 1;
            match pauses <= PAUSES {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        };
        self.spin.adapt(found, now_ns);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_in_vain_down_to_its_bound_and_success_restores_it() {
        let mut spin = Spin::new(Duration::from_nanos(640));
        assert_eq!(spin.next_ns, 640);
        let mut seen = Vec::new();
        for found in [true, false, false, false, false, false, true] {
            spin.adapt(found, 0);
            seen.push(spin.next_ns);
        }
        assert_eq!(seen, [640, 320, 160, 80, 40, 40, 640]);
        assert_eq!((spin.hits, spin.misses), (2, 5));
    }

    #[test]
    fn the_shortest_is_none_of_nothing() {
        let mut spin = Spin::new(Duration::from_nanos(3));
        (0..5).for_each(|_| spin.adapt(false, 0));
        assert_eq!(spin.next_ns, 1);
        spin.adapt(true, 0);
        assert_eq!(spin.next_ns, 3);
    }

    #[test]
    fn what_comes_soon_after_it_gave_up_restores_the_whole() {
        let mut spin = Spin::new(Duration::from_nanos(640));
        assert_eq!(spin.end_ns(10), 650);
        spin.adapt(false, 1000);
        assert_eq!(spin.end_ns(3560), 3560 + 320, "too late");
        assert_eq!(spin.end_ns(3559), 3559 + 640);
    }
}
