//! A timeline semaphore of Vulkan's, and a semaphore that is at the same value.
//!
//! One waiter thread waits in the driver for the value after the last one seen, and signals ours.
//! The other way, a callback of ours for the value after the last one seen signals the device's on
//! whatever thread signalled ours: a short call that waits for nothing. What came from one side is
//! not passed back to it: under one lock, `reached` is the greatest value that the device is known
//! to have, and only what is beyond it is passed on.
//!
//! # Failure
//!
//! Vulkan's timelines cannot fail. Where ours fails, the device's stays where it is, and work that
//! waits for it waits on: whoever fails ours sees to that. Where the device is lost, ours fails.
//!
//! # Unsafe
//!
//! A timeline that the caller vouches for.

#![allow(unsafe_code)]

use super::calls::Calls;
use super::waiters::{Look, Wanted, quietly};
use super::{VulkanDevice, error, given_up, mirror};
use crate::device::FenceError;
use crate::sync::{Mutex, lock};
use crate::{Callback, Link, Semaphore, Wait};
use ash::vk;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "vulkan timeline";

/// A bridge between a timeline of Vulkan's and a [`Semaphore`], both ways.
///
/// `Send` and `Sync`. Dropping it ends the bridge: it waits until nobody is inside the driver with
/// the timeline (50 ms at most; see [`stop`](Self::stop)), and fails the semaphore with ECANCELED,
/// since nobody would signal it any more. It waits for no callback, and may be dropped in one.
pub struct VulkanTimeline {
    bridge: Arc<Bridge>,
    wanted: Arc<Wanted>,
    /// Until the end of this.
    link: Option<Link>,
    _device: VulkanDevice,
}

impl VulkanDevice {
    /// Bridges a timeline; see [`VulkanTimeline::semaphore`]. Takes a waiter thread until it is
    /// dropped.
    ///
    /// # Errors
    ///
    /// Unsupported where the device has no timelines or no waiter threads, Exhausted where all are
    /// taken, Failed where the device is lost.
    ///
    /// # Safety
    ///
    /// `semaphore` is a timeline of this device's. It is destroyed after the bridge is dropped. Its
    /// values stay apart as Vulkan demands: a value signalled on the bridge is above the timeline's
    /// and below those of signals that are pending, at most maxTimelineSemaphoreValueDifference
    /// away (valid usage of VkSemaphoreSignalInfo).
    pub unsafe fn timeline(&self, semaphore: vk::Semaphore) -> Result<VulkanTimeline, FenceError> {
        self.check(NAME)?;
        let calls = self.held.calls.clone();
        // SAFETY: as promised.
        let value = unsafe { calls.timelines(NAME)?.value(semaphore) };
        let value = calls.heed(value)?;
        let (mirror, link) = mirror(&calls, value);
        let state = Mutex::new(State { reached: value, callback: None, awaited: 0, ended: false });
        let bridge = Arc::new(Bridge { calls, raw: semaphore, mirror, state });
        let followed = bridge.clone();
        let begun = self.held.waiters.run(NAME, move |wanted| {
            let problem = followed.follow(value, wanted);
            move || followed.fail(problem)
        });
        let wanted = match begun {
            Ok(wanted) => wanted,
            Err(error) => {
                link.unlink();
                return Err(error);
            }
        };
        bridge.pass(value);
        Ok(VulkanTimeline { bridge, wanted, link: Some(link), _device: self.clone() })
    }
}

impl VulkanTimeline {
    /// The semaphore at the timeline's value. Signalling it signals the timeline, and whatever
    /// advances the timeline advances it: wait for it as for any other, by a future, a callback or
    /// an operation of a proactor.
    pub fn semaphore(&self) -> &Semaphore {
        &self.bridge.mirror
    }

    /// The timeline.
    pub fn raw(&self) -> vk::Semaphore {
        self.bridge.raw
    }

    /// Ends the bridge without blocking; when the wait is over, dropping this does not block.
    pub fn stop(&self) -> Wait {
        if self.bridge.calls.is_forked() {
            return Semaphore::new(1).wait(1);
        }
        self.bridge.end();
        self.wanted.withdraw()
    }
}

impl Drop for VulkanTimeline {
    fn drop(&mut self) {
        if self.bridge.calls.is_forked() {
            return;
        }
        self.bridge.end();
        self.wanted.withdraw_blocking();
        if let Some(link) = self.link.take() {
            link.unlink();
        }
        self.bridge.mirror.fail(given_up("the timeline"));
    }
}

impl fmt::Debug for VulkanTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanTimeline")
            .field("raw", &self.bridge.raw)
            .field("semaphore", &self.bridge.mirror)
            .finish()
    }
}

struct Bridge {
    calls: Arc<Calls>,
    raw: vk::Semaphore,
    mirror: Semaphore,
    state: Mutex<State>,
}

struct State {
    /// The greatest value that the device is known to have.
    reached: u64,
    /// The one that passes on the next value of ours, and that value.
    callback: Option<Callback>,
    awaited: u64,
    ended: bool,
}

impl Bridge {
    /// From the device to us, on a waiter thread; gives what went wrong.
    fn follow(&self, mut seen: u64, wanted: &Wanted) -> Option<FenceError> {
        let mut look = Look::new();
        while self.mirror.value().is_ok() {
            match wanted.inside(|| self.next(seen, look.next()))? {
                Ok(value) if value > seen => {
                    seen = value;
                    look = Look::new();
                    // Ours is there already when we signalled the device ourselves.
                    quietly(|| self.mirror.signal(value));
                }
                Ok(_) => {}
                Err(problem) => return Some(problem),
            }
        }
        None
    }

    /// Waits so long for a value beyond the one seen; gives the one there is.
    fn next(&self, seen: u64, timeout: Duration) -> Result<u64, FenceError> {
        let timelines = self.calls.timelines(NAME)?;
        let Some(next) = seen.checked_add(1) else {
            let message = "the timeline has reached the greatest value; use a new one";
            return Err(FenceError::new(NAME, crate::FenceErrorKind::Exhausted, message));
        };
        // SAFETY: `timeline`'s caller keeps it until the bridge, which waits for this, is dropped.
        let value = unsafe {
            if !timelines.wait(self.raw, next, timeout)? {
                return Ok(seen);
            }
            timelines.value(self.raw)?
        };
        let mut state = lock(&self.state);
        state.reached = state.reached.max(value);
        Ok(value)
    }

    /// From us to the device: passes on what ours has reached, and will reach.
    ///
    /// The next value is waited for before this one is passed on: whoever signals that meanwhile
    /// passes it on himself, so nobody stays to do it for others.
    fn pass(self: &Arc<Bridge>, value: u64) {
        let value = self.lead(value);
        if let Err(problem) = self.signal(value) {
            self.fail(Some(problem));
        }
    }

    /// Waits for the first value that ours has not, beyond `value`; gives what it has.
    fn lead(self: &Arc<Bridge>, mut value: u64) -> u64 {
        while let Some(next) = value.checked_add(1) {
            let bridge = self.clone();
            let registered = self.mirror.on_reach_later(next, move |outcome| {
                // A failure stays here: Vulkan's cannot fail.
                if let Ok(value) = outcome {
                    bridge.pass(value);
                }
            });
            match registered {
                Ok(callback) => {
                    self.keep(next, callback);
                    break;
                }
                Err(Ok(more)) => value = more,
                Err(Err(_)) => break,
            }
        }
        value
    }

    fn keep(&self, awaited: u64, callback: Callback) {
        let mut state = lock(&self.state);
        if state.ended {
            drop(state);
            callback.cancel();
        } else if awaited > state.awaited {
            state.awaited = awaited;
            state.callback = Some(callback);
        }
        // Otherwise it was called already and the one after it is there.
    }

    /// Ours fails, and with a lost device everything else.
    fn fail(&self, problem: Option<FenceError>) {
        if let Some(problem) = problem {
            let _ = self.calls.heed::<()>(Err(problem.clone()));
            self.mirror.fail(error::failure(&problem));
        }
    }

    /// Signals the device, if it is not there yet.
    fn signal(&self, value: u64) -> Result<(), FenceError> {
        if self.calls.is_forked() {
            return Err(error::forked(NAME));
        }
        // Held over the call: when `end` has had it, nobody is inside the driver.
        let mut state = lock(&self.state);
        if state.ended || value <= state.reached {
            return Ok(());
        }
        let timelines = self.calls.timelines(NAME)?;
        // SAFETY: not ended, so the timeline is there; the value is above the one it has, and
        // `timeline`'s caller keeps it below pending ones.
        unsafe {
            let there = timelines.value(self.raw)?;
            if value > there {
                timelines.signal(self.raw, value)?;
            }
            state.reached = there.max(value);
        }
        Ok(())
    }

    /// No more calls from our side.
    fn end(&self) {
        let callback = {
            let mut state = lock(&self.state);
            state.ended = true;
            state.callback.take()
        };
        if let Some(callback) = callback {
            callback.cancel();
        }
    }
}
