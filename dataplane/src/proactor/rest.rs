//! Sleeping somewhere else: what a host runtime needs to know before it waits in the loop's place.
//!
//! `poll` sleeps by the rule of the wake word: drain, arm, sleep only if nothing came in between.
//! A host sleeps on the [watchable](Proactor::watchable) descriptor instead, so everything that
//! ends a sleep must show on it. The kernel's completions do, and so does the bell that other
//! threads ring. What this thread does outside a poll (a submission, a cancel, a spawned or woken
//! task) does not: while the loop *rests* it rings the bell too, once, and costs a flag otherwise.
//!
//! On a ring with DEFER_TASKRUN the completion queue is still empty when the descriptor becomes
//! readable: completions appear when the owner enters the kernel, which `poll` does. A host that
//! only looked at the queue would wait for ever. The descriptor is an eventfd registered with the
//! ring, because the ring's own wakes no sleeper for work that is merely pending.

use super::Proactor;
use crate::backend::Fatal;
use crate::engine::deadlines::now_ns;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::inbox;
use std::time::{Duration, Instant};

/// Whether a host may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// There is something to do: poll again.
    Busy,
    /// Until the descriptor is readable, or CLOCK_MONOTONIC reaches this many nanoseconds.
    Until(Option<u64>),
}

impl Proactor {
    /// When the loop must be polled although nothing happens: the next timer, timeout or retry.
    /// None: only when something happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let at_ns = self.inner.engine.borrow().next_deadline_ns()?;
        let left = Duration::from_nanos(at_ns.saturating_sub(now_ns()));
        Instant::now().checked_add(left)
    }

    /// Hands over what is staged and says that the caller is going to sleep: arm and recheck.
    pub(crate) fn rest(&self) -> Result<Rest> {
        const NAME: &str = "rest";
        let (inner, shared) = (&self.inner, &self.inner.shared);
        if inner.ended.get() {
            return Err(inbox::gone(NAME));
        }
        let mut engine = inner.enter(NAME)?;
        let seen = shared.observe();
        let rested = engine.rest(seen).map_err(|fatal| match fatal {
            Fatal::Failed(errno) => Error::from_errno(NAME, errno),
            Fatal::Dropped => {
                let message = "the kernel dropped completions; make a new proactor";
                Error::new(NAME, ErrorKind::DataLoss, message)
            }
        })?;
        if rested == Rest::Busy || inner.executor.ready.waiting() > 0 || !shared.arm(seen) {
            return Ok(Rest::Busy);
        }
        engine.resting = true;
        shared.set_resting(true);
        inner.host_sleeps.set(true);
        Ok(rested)
    }

    /// The host (not merely somebody who polls while it sleeps) is back and will
    /// [`rest`](Self::rest) before it sleeps again: no need to ring.
    pub(crate) fn stir(&self) -> Result<()> {
        self.inner.enter("drive")?.resting = false;
        self.inner.shared.set_resting(false);
        self.inner.host_sleeps.set(false);
        Ok(())
    }
}
