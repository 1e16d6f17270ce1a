//! Looking before sleeping: a bounded time in which the loop asks for completions instead of
//! letting the kernel put its thread to sleep and wake it again.
//!
//! It pays where the next completion comes within a few microseconds and the core has nothing else
//! to do; it costs a core where it does not, so it is off unless [`Options::spin`] says otherwise.
//! One look is a wait for nothing. On io_uring that reads two words of shared memory: work that the
//! kernel has deferred to the loop shows in the queue's TASKRUN flag (IORING_SETUP_TASKRUN_FLAG,
//! see io_uring_setup(2)), and only then is the ring entered. On the readiness backends a look is a
//! system call. What other threads bring is seen too, before they would have to ring the bell.
//!
//! The time adapts: a spin that found nothing halves the next, one that found something doubles it,
//! between a sixty-fourth of the option's value and the whole of it. It never outlasts the caller's
//! time, a timer or a deadline.
//!
//! [`Options::spin`]: crate::Options::spin

use crate::backend::{Fatal, Until};
use crate::engine::{Engine, deadlines};
use std::time::Duration;

/// The shortest spin, as a part of the longest.
const LEAST: u64 = 64;

/// How long the next spin may last.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// Zero: it is switched off.
    most_ns: u64,
    next_ns: u64,
    /// Spins that found something, and spins that did not.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Spin {
    pub(crate) fn new(most: Option<Duration>) -> Spin {
        let most_ns = most.map_or(0, |most| most.as_nanos() as u64);
        Spin { most_ns, next_ns: most_ns, hits: 0, misses: 0 }
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.most_ns > 0
    }

    fn adapt(&mut self, found: bool) {
        let least_ns = (self.most_ns / LEAST).max(1);
        match found {
            true => self.hits += 1,
            false => self.misses += 1,
        }
        let next_ns = if found { self.next_ns.saturating_mul(2) } else { self.next_ns / 2 };
        self.next_ns = next_ns.clamp(least_ns, self.most_ns);
    }
}

impl Engine {
    /// Looks for something to do until the spin's time is over. True: there is.
    #[cold]
    pub(crate) fn spin(&mut self, until: Until, seen: u64) -> Result<bool, Fatal> {
        let delivered = self.table.slots.delivered;
        let mut end_ns = deadlines::now_ns().saturating_add(self.spin.next_ns);
        if let Until::At(at_ns) = until {
            end_ns = end_ns.min(at_ns);
        }
        let found = loop {
            self.wait(Until::Now)?;
            let found = self.table.slots.delivered != delivered
                || !self.fire.is_empty()
                || !self.own_events.is_empty()
                || self.table.shared.observe() != seen;
            if found || deadlines::now_ns() >= end_ns {
                break found;
            }
            std::hint::spin_loop();
        };
        self.spin.adapt(found);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_in_vain_and_doubles_on_success_within_its_bounds() {
        let mut spin = Spin::new(Some(Duration::from_nanos(640)));
        assert!(spin.is_on() && spin.next_ns == 640);
        let mut seen = Vec::new();
        for found in [true, false, false, false, false, false, false, false, false, true] {
            spin.adapt(found);
            seen.push(spin.next_ns);
        }
        assert_eq!(seen, [640, 320, 160, 80, 40, 20, 10, 10, 10, 20]);
        assert_eq!((spin.hits, spin.misses), (2, 8));
    }

    #[test]
    fn without_the_option_it_is_off_and_the_shortest_still_grows() {
        assert!(!Spin::new(None).is_on());
        let mut spin = Spin::new(Some(Duration::from_nanos(3)));
        (0..5).for_each(|_| spin.adapt(false));
        assert_eq!(spin.next_ns, 1);
        spin.adapt(true);
        assert_eq!(spin.next_ns, 2);
    }
}
