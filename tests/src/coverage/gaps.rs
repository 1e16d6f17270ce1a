//! The lines nothing reaches, and why.
//!
//! A gap is named by file and function, because lines move, and says how many lines of that
//! function it is for: one line more needs a test, or a reason of its own. Keep functions short and
//! reasons true. Where there is no reason but that nobody wrote a test, write the test; where none
//! can be written because nothing leads there, remove the lines.
//!
//! # When a reason is out of date
//!
//! - [`never`]: on a kernel that has every capability an operation uses, no run reaches these
//!   lines. Each run judges it: as soon as one of them is reached the command fails, until the
//!   reason is corrected or dropped.
//! - [`chance`]: a run reaches them or not, by what threads and the kernel do at that moment, or by
//!   what devices there are. One run that reaches them proves nothing, so that is printed and is no
//!   failure. Still no more lines than it says may be missed.
//!
//! Either is out of date when its function is gone.

/// How far one run can judge a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not reached in any run.
    Never,
    /// Reached or not.
    Chance,
}

/// Lines of one function that are not reached.
pub struct Gap {
    /// The end of its path.
    pub file: &'static str,
    pub function: &'static str,
    /// How many, at most if by chance.
    pub lines: usize,
    pub kind: Kind,
    pub reason: &'static str,
}

const fn never(
    file: &'static str,
    function: &'static str,
    lines: usize,
    reason: &'static str,
) -> Gap {
    Gap { file, function, lines, kind: Kind::Never, reason }
}

const fn chance(
    file: &'static str,
    function: &'static str,
    lines: usize,
    reason: &'static str,
) -> Gap {
    Gap { file, function, lines, kind: Kind::Chance, reason }
}

/// Every gap, by file.
pub const GAPS: &[Gap] = &[
    never(
        "backend/mod.rs",
        "longest_chain",
        2,
        "a backend that says it links operations, and has no chains: there is none",
    ),
    never(
        "backend/mod.rs",
        "push_chain",
        3,
        "a backend that has no chains is asked for none; io_uring has its own",
    ),
    never(
        "backend/ready/attempt.rs",
        "run",
        1,
        "an assertion: the engine attempts such an operation itself",
    ),
    never(
        "backend/ready/mod.rs",
        "provide",
        1,
        "no pool is ever open on this backend: receives carry their buffer",
    ),
    never(
        "backend/uring/buf_ring.rs",
        "release",
        1,
        "munmap(2) of a mapping of our own that is known to be there",
    ),
    never(
        "backend/uring/mod.rs",
        "poll_instead",
        1,
        "an answer under the name of no operation, which only a ring that forges names sends",
    ),
    chance(
        "backend/uring/mod.rs",
        "rearmed",
        1,
        "a poll in the place of a connect that is called back: it is ready almost at once",
    ),
    never(
        "backend/uring/probe.rs",
        "absolute_timeout",
        3,
        "a kernel that waits otherwise than it says",
    ),
    never(
        "backend/uring/probe.rs",
        "buffer_rings",
        1,
        "a kernel that selects another buffer than there was",
    ),
    never("backend/uring/probe.rs", "bytes_are", 1, "a kernel that says it read and did not"),
    never(
        "backend/uring/probe.rs",
        "incremental_buffers",
        1,
        "a kernel that announces incremental buffers and consumes whole ones",
    ),
    never(
        "backend/uring/probe.rs",
        "listener",
        1,
        "a kernel that gives a socket and no name for it",
    ),
    never(
        "backend/uring/probe.rs",
        "messaging",
        1,
        "a kernel that delivers another message than was sent",
    ),
    never(
        "backend/uring/probe.rs",
        "receive_bundles",
        2,
        "a kernel without bundles (before 6.10), or that mixes their bytes up",
    ),
    never(
        "backend/uring/probe.rs",
        "run",
        3,
        "a trial that the kernel never ends, and then no second ring",
    ),
    never(
        "backend/uring/probe.rs",
        "with_fixed_page",
        1,
        "a kernel that tells of a released page otherwise",
    ),
    never(
        "backend/uring/setup.rs",
        "build",
        2,
        "a kernel without NO_SQARRAY (before 6.6), or without NODROP",
    ),
    never(
        "backend/uring/tables.rs",
        "update_buffers",
        1,
        "a kernel that did nothing and does not say why",
    ),
    never("backend/uring/tables.rs", "write", 1, "a kernel that did nothing and does not say why"),
    never(
        "backend/uring/trial.rs",
        "collect",
        1,
        "a trial that the kernel does not end within a second",
    ),
    never("backend/uring/trial.rs", "expect", 2, "a kernel that answers a trial otherwise"),
    never("backend/uring/trial.rs", "fmt", 2, "a kernel that answers a trial otherwise, in words"),
    never(
        "backend/uring/trial.rs",
        "from_ring",
        1,
        "a refusal without a code, of which the kernel has none",
    ),
    never(
        "backend/uring/trial.rs",
        "stays_armed",
        1,
        "a kernel whose multishot ends after one completion",
    ),
    never(
        "backend/uring/trial.rs",
        "submit",
        1,
        "a trial longer than its ring, of which there is none",
    ),
    never(
        "backend/uring/trial_send.rs",
        "notified",
        1,
        "a kernel that owes a notification and sends none",
    ),
    never(
        "backend/uring/trial_send.rs",
        "received",
        1,
        "a kernel that sends other bytes than it was given",
    ),
    chance(
        "engine/complete.rs",
        "deliver_to_cell",
        1,
        "a submitter elsewhere that lets go while its result is on the way",
    ),
    chance(
        "engine/complete.rs",
        "on_notification",
        1,
        "a send that nothing copied: needs a network card, for loopback always copies",
    ),
    chance(
        "engine/report/dump.rs",
        "in_flight_dump",
        1,
        "a notification that is owed when somebody looks: loopback copies and pays at once",
    ),
    chance(
        "engine/sequence.rs",
        "call_back",
        1,
        "a step whose chain has broken, of which the loop has not heard yet",
    ),
    chance(
        "engine/state/groups.rs",
        "watch",
        1,
        "a lease that comes back from another thread between two looks at its slab",
    ),
    never(
        "engine/state/slots.rs",
        "leak",
        4,
        "runs in forked children, which end without leaving counters (process/fork.rs)",
    ),
    never(
        "engine/submit.rs",
        "attempt_own",
        1,
        "an operation of the engine's own does not block; the match is whole",
    ),
    chance(
        "engine/turn.rs",
        "submit_foreign",
        1,
        "a submitter elsewhere that lets go of what is being refused",
    ),
    chance(
        "engine/turn.rs",
        "unpark_pool",
        5,
        "a lease that comes back from another thread between two looks at its slab",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reasons_name_a_function_once_and_say_something() {
        let mut seen = BTreeSet::new();
        for gap in GAPS {
            assert!(seen.insert((gap.file, gap.function)), "{} {}", gap.file, gap.function);
            assert!(gap.lines > 0, "{}: a reason is for lines", gap.function);
            assert!(gap.reason.len() > 20, "{} says little: {}", gap.function, gap.reason);
        }
        assert!(GAPS.is_sorted_by_key(|gap| gap.file), "by file");
    }
}
