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
//! [`Options::spin`] says for how long at most before *every* sleep; zero says never. When it says
//! nothing the loop looks only where that delays nobody: right after it took something from other
//! threads, which often bring more at once, while nothing is in flight, so that nothing but other
//! threads can bring anything, and where there is another processor to run them; [`DEFAULT_NS`] at
//! most. Without that short look every operation handed over singly pays for a sleep and a ring.
//! The benchmark `handoff` measures it.
//!
//! # How it looks
//!
//! One look is a wait for nothing. On io_uring that reads two words of shared memory: work that the
//! kernel has deferred to the loop shows in the queue's TASKRUN flag (IORING_SETUP_TASKRUN_FLAG,
//! see io_uring_setup(2)), and only then is the ring entered. On the readiness backends it is a
//! system call. What looks for other threads only looks at the wake word alone, and after
//! [`PAUSES`] times it yields between two (sched_yield(2)): where the other thread waits for this
//! very processor, that is what lets it bring its next. The word is not armed meanwhile, so who
//! brings something does not ring.
//!
//! # How long
//!
//! The time adapts: looking in vain halves the next, down to a sixteenth of the most; finding
//! something restores the whole, and so does what other threads bring soon after the loop gave up:
//! they may only have been held up by ringing. It never outlasts the caller's time, a timer or a
//! deadline.
//!
//! [`Options::spin`]: crate::Options::spin

use crate::backend::{Fatal, Until};
use crate::engine::{Engine, deadlines};
use std::time::Duration;

/// The longest look at other threads when the options say nothing, in ns.
const DEFAULT_NS: u64 = 20_000;
/// The shortest, as a part of the longest.
const LEAST: u64 = 16;
/// Looks at the word before it yields, with a pause after each.
const PAUSES: u32 = 32;

/// Whether the loop looks, and how long the next time.
#[derive(Debug)]
pub(crate) struct Spin {
    /// Zero: it is switched off.
    most_ns: u64,
    next_ns: u64,
    /// Only for what other threads may bring.
    foreign_only: bool,
    /// Other threads brought something since the last look.
    brought: bool,
    /// When the last look in vain ended.
    gave_up_ns: u64,
    /// Looks that found something, and looks that did not.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Spin {
    pub(crate) fn new(most: Option<Duration>) -> Spin {
        let parallel = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        let most_ns = match most {
            Some(most) => most.as_nanos() as u64,
            None if parallel => DEFAULT_NS,
            None => 0,
        };
        Spin {
            most_ns,
            next_ns: most_ns,
            foreign_only: most.is_none(),
            brought: false,
            gave_up_ns: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// Other threads have brought something.
    #[inline]
    pub(crate) fn brought(&mut self) {
        self.brought = true;
    }

    /// Whether to look before this sleep; `alone`: nothing is in flight.
    #[inline]
    fn begins(&self, alone: bool) -> bool {
        self.most_ns > 0 && (!self.foreign_only || (alone && self.brought))
    }

    /// When a look that begins now is to end.
    fn end_ns(&mut self, now_ns: u64) -> u64 {
        let soon = now_ns < self.gave_up_ns.saturating_add(self.most_ns);
        if std::mem::take(&mut self.brought) && soon {
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
            _ if self.looks(until, seen)? => return Ok(()),
            _ if !self.table.shared.arm(seen) => Until::Now,
            until => until,
        };
        self.wait(until)
    }

    /// True: there is something to do.
    #[inline]
    fn looks(&mut self, until: Until, seen: u64) -> Result<bool, Fatal> {
        let alone = self.table.slots.in_flight == 0;
        match self.spin.begins(alone) {
            true => self.look(until, seen),
            false => Ok(false),
        }
    }

    #[cold]
    fn look(&mut self, until: Until, seen: u64) -> Result<bool, Fatal> {
        let word_only = self.spin.foreign_only;
        let delivered = self.table.slots.delivered;
        let mut end_ns = self.spin.end_ns(deadlines::now_ns());
        if let Until::At(at_ns) = until {
            end_ns = end_ns.min(at_ns);
        }
        let mut pauses = 0;
        let (found, now_ns) = loop {
            if !word_only {
                self.wait(Until::Now)?;
            }
            let found = self.table.slots.delivered != delivered
                || !self.fire.is_empty()
                || !self.own_events.is_empty()
                || self.table.shared.observe() != seen;
            pauses += 1;
            if word_only && !found && pauses <= PAUSES {
                std::hint::spin_loop();
                continue;
            }
            let now_ns = deadlines::now_ns();
            if found || now_ns >= end_ns {
                break (found, now_ns);
            }
            match word_only {
                true => std::thread::yield_now(),
                false => std::hint::spin_loop(),
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
        let mut spin = Spin::new(Some(Duration::from_nanos(640)));
        assert!(spin.begins(false) && spin.next_ns == 640);
        let mut seen = Vec::new();
        for found in [true, false, false, false, false, false, true] {
            spin.adapt(found, 0);
            seen.push(spin.next_ns);
        }
        assert_eq!(seen, [640, 320, 160, 80, 40, 40, 640]);
        assert_eq!((spin.hits, spin.misses), (2, 5));
    }

    #[test]
    fn zero_is_off_and_the_shortest_is_none_of_it() {
        let mut off = Spin::new(Some(Duration::ZERO));
        off.brought();
        assert!(!off.begins(true));
        let mut spin = Spin::new(Some(Duration::from_nanos(3)));
        (0..5).for_each(|_| spin.adapt(false, 0));
        assert_eq!(spin.next_ns, 1);
        spin.adapt(true, 0);
        assert_eq!(spin.next_ns, 3);
    }

    #[test]
    fn without_the_option_it_looks_once_after_other_threads_and_with_nothing_in_flight() {
        let mut spin = Spin::new(None);
        assert!(!spin.begins(true));
        spin.brought();
        assert!(!spin.begins(false), "not yet");
        assert_eq!(spin.begins(true), spin.most_ns > 0, "where another processor runs them");
        spin.end_ns(1);
        assert!(!spin.begins(true));
    }

    #[test]
    fn what_is_brought_soon_after_it_gave_up_restores_the_whole() {
        let mut spin = Spin::new(Some(Duration::from_nanos(640)));
        spin.adapt(false, 1000);
        assert_eq!(spin.end_ns(1100), 1420, "nothing was brought");
        spin.brought();
        assert_eq!(spin.end_ns(1700), 2020, "too late");
        spin.brought();
        assert_eq!(spin.end_ns(1639), 1639 + 640);
    }
}
