//! How long the owner looks at the wake word before it goes to sleep.
//!
//! Waking a sleeper costs whoever brings something a `write(2)`, and the owner a trip through the
//! scheduler: several microseconds, many times what handing over one operation costs. A producer
//! that has just brought something often brings more at once, so the owner spends about what a
//! sleep and a wake cost on looking whether it does: then it pays at most twice what knowing the
//! future would have cost (the ski-rental argument: Karlin et al., "Competitive randomized
//! algorithms for non-uniform problems", 1990).
//!
//! It looks only right after a turn that took something from other threads, only while nothing is
//! in flight, so that nothing but other threads can bring anything and looking delays nothing, and
//! where there is another processor to run them. Each time in vain halves the time, down to
//! [`LEAST_NS`]. Success restores it, and so does something that comes soon after the owner gave
//! up: its producer may only have been held up by ringing. A producer with a millisecond between
//! two operations therefore costs the owner about a microsecond each.
//!
//! The word is not armed meanwhile, so who brings something does not ring. Looking begins with the
//! processor's pause and goes on with sched_yield(2): where the producer waits for this very
//! processor, that is what lets it bring its next.

use super::inbox::Shared;
use crate::engine::deadlines::now_ns;

/// Longest look, in ns.
const MOST_NS: u64 = 20_000;
/// Shortest look, in ns.
const LEAST_NS: u64 = 1_000;
/// Looks before it yields, with a pause after each.
const LOOKS: u32 = 32;

/// See the head of this file.
pub(crate) struct Patience {
    span_ns: u64,
    /// Other threads brought something since the last look.
    asked: bool,
    /// When the last look in vain ended.
    gave_up_ns: u64,
    /// Somebody can run meanwhile.
    parallel: bool,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        let parallel = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        Patience { span_ns: MOST_NS, asked: false, gave_up_ns: 0, parallel }
    }

    /// Other threads have brought something.
    #[inline]
    pub(crate) fn brought(&mut self) {
        self.asked = true;
    }

    /// Looks whether the word moves on from `seen`, until `end_ns` at the latest.
    #[inline]
    pub(crate) fn look(&mut self, shared: &Shared, seen: u64, end_ns: Option<u64>) -> bool {
        std::mem::take(&mut self.asked) && self.parallel && self.watch(shared, seen, end_ns)
    }

    #[cold]
    fn watch(&mut self, shared: &Shared, seen: u64, end_ns: Option<u64>) -> bool {
        let begin_ns = now_ns();
        if begin_ns < self.gave_up_ns + MOST_NS {
            self.span_ns = MOST_NS;
        }
        let end_ns = end_ns.unwrap_or(u64::MAX).min(begin_ns + self.span_ns);
        let mut looks = 0;
        loop {
            if shared.observe() != seen {
                self.span_ns = MOST_NS;
                return true;
            }
            if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
                continue;
            }
            let now_ns = now_ns();
            if now_ns >= end_ns {
                self.span_ns = (self.span_ns / 2).max(LEAST_NS);
                self.gave_up_ns = now_ns;
                return false;
            }
            std::thread::yield_now();
        }
    }
}
