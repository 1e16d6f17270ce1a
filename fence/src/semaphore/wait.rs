//! One wait for one semaphore: as a future, and as a blocked thread.
//!
//! A wait is a key in its semaphore's set of waiters and nothing else: the entry holds the waker,
//! and the outcome is read from the semaphore itself, where it cannot change any more once there
//! is one (the value never shrinks, and a failed semaphore's value never grows). So a wait costs
//! its place in the set and no allocation of its own, and a value that is reached is seen without
//! a lock. The entry may then still be in the set, with its signaller on the way to it; it wakes
//! once more, which the contract of wakers (`std::task::Waker`) allows.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::error::WaitError;
use crate::semaphore::waiters::{Key, Outcome, Waiter};
use crate::semaphore::{Core, Semaphore};
use crate::sync::{Condvar, Mutex, lock};

/// A wait for a value, as a future made by [`Semaphore::wait`].
///
/// `Send` and `Unpin`; any runtime or none may poll it. It gives the value seen, which is at or
/// above the one wanted, or the semaphore's failure. Dropping it cancels the wait and loses
/// nothing: a value that was reached stays reached.
#[must_use = "a wait does nothing until it is awaited"]
pub struct Wait {
    core: Arc<Core>,
    wanted: u64,
    key: Option<Key>,
}

impl Semaphore {
    /// Waits until the semaphore has `value` or more.
    ///
    /// Ready at once if it has. The wait begins with the first poll; one that begins after a
    /// failure gets the failure. If nobody is left to signal, it never ends by itself.
    pub fn wait(&self, value: u64) -> Wait {
        Wait { core: Arc::clone(&self.core), wanted: value, key: None }
    }

    /// Blocks this thread until the semaphore has `value` or more, at most for `timeout`.
    ///
    /// Gives the value seen. `None` waits without limit, and so does a timeout beyond what the
    /// clock can count; a zero timeout only looks. Time is that of [`Instant`]
    /// (`clock_gettime(2)`, `CLOCK_MONOTONIC`). Not for a thread that drives a loop: it
    /// would stop what it waits for.
    ///
    /// # Errors
    /// [`WaitError::Failed`] if the semaphore failed, [`WaitError::TimedOut`] if time was up.
    pub fn wait_blocking(&self, value: u64, timeout: Option<Duration>) -> Result<u64, WaitError> {
        if let Some(seen) = self.core.reached(value) {
            return Ok(seen);
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let parker = Arc::new(Parker::default());
        let waker = Waker::from(Arc::clone(&parker));
        let mut wait = self.wait(value);
        loop {
            if let Poll::Ready(result) = Pin::new(&mut wait).poll(&mut Context::from_waker(&waker))
            {
                return result;
            }
            if parker.park(deadline) {
                continue;
            }
            // What came together with the end of the time is not lost: the next poll takes it.
            if let Some(seen) = wait.core.short_of(value) {
                return Err(WaitError::TimedOut { wanted: value, value: seen });
            }
        }
    }
}

impl Wait {
    fn ready(&mut self, outcome: Outcome) -> Poll<Result<u64, WaitError>> {
        self.key = None;
        Poll::Ready(outcome.map_err(|failure| WaitError::Failed { wanted: self.wanted, failure }))
    }
}

impl Future for Wait {
    type Output = Result<u64, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(seen) = self.core.reached(self.wanted) {
            return self.ready(Ok(seen));
        }
        // Cloning and dropping wakers is user code: before the lock, and after it.
        let waiter = Waiter::Task(context.waker().clone());
        let Some(key) = self.key else {
            return match self.core.register(self.wanted, waiter) {
                Ok(key) => {
                    self.key = Some(key);
                    Poll::Pending
                }
                Err((outcome, _waiter)) => self.ready(outcome),
            };
        };
        let (outcome, _old) = self.core.renew(key, waiter);
        outcome.map_or(Poll::Pending, |outcome| self.ready(outcome))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            drop(self.core.deregister(key));
        }
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("wanted", &self.wanted)
            .field("value", &self.core.current())
            .field("registered", &self.key.is_some())
            .finish()
    }
}

/// A waker that unblocks one thread.
#[derive(Default)]
struct Parker {
    woken: Mutex<bool>,
    condvar: Condvar,
}

impl Parker {
    /// Blocks until woken, and takes the wake; false if the deadline came first.
    fn park(&self, deadline: Option<Instant>) -> bool {
        let mut woken = lock(&self.woken);
        while !*woken {
            let Some(deadline) = deadline else {
                woken = self.condvar.wait(woken).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            woken =
                self.condvar.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *woken = false;
        true
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        *lock(&self.woken) = true;
        self.condvar.notify_one();
    }
}
