//! A notification: an epoch that signals move on, and that threads, operations and other processes
//! wait for.
//!
//! It is for threads outside the loop, which sleep until the loop has something for them, and the
//! other way round. Whoever waits has seen an [epoch](Notification::epoch) and waits until it is
//! another one; so it is *level-triggered*: a signal between the look and the wait ends the wait at
//! once. Signals add up in nothing but the epoch: several may be seen as one.
//!
//! ```text
//! let seen = notification.epoch();      work.push(item);
//! if work.is_empty() {                  notification.signal(1);
//!     notification.wait(seen, None)?;
//! }
//! ```
//!
//! The epoch has 32 bits and wraps: a waiter that looks at it, is held up for exactly a multiple of
//! 2³² signals and then waits would sleep. With nobody waiting a signal is two memory operations
//! and no system call. Why none is lost is at the head of `remote/epoch.rs`.
//!
//! A [shared](Notification::shared) one lives in a memfd that another process
//! [opens](Notification::open). The processes trust each other to keep to the rule; one that does
//! not can keep others asleep, and nothing worse.

use crate::error::{Error, ErrorKind, Result};
use crate::event::futex::FutexWord;
use crate::io::Local;
use crate::io::request::Request;
use crate::op::{SignalNotification, WaitNotification};
use crate::proactor::Proactor;
use crate::remote::epoch;
use crate::remote::handle::Handle;
use crate::sys::futex;
use crate::sys::words::Words;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const NAME: &str = "wait for a notification";
/// Which word of the set is which.
const EPOCH: u8 = 0;
const WAITERS: u8 = 1;

/// See the module. `Send` and `Sync`; clones are the same notification.
#[derive(Clone)]
pub struct Notification {
    words: Arc<Words>,
}

impl Default for Notification {
    fn default() -> Notification {
        Notification::new()
    }
}

impl Notification {
    /// One of this process.
    pub fn new() -> Notification {
        Notification { words: Arc::new(Words::own()) }
    }

    /// One in a new memfd, to be passed to another process: see [`fd`](Self::fd).
    ///
    /// # Errors
    ///
    /// Exhausted when there is no descriptor or memory left.
    pub fn shared() -> Result<Notification> {
        Ok(Notification { words: Arc::new(Words::shared("notification")?) })
    }

    /// That of a memfd which [`shared`](Self::shared) made, here or elsewhere.
    ///
    /// # Errors
    ///
    /// InvalidArgument for anything but such a memfd.
    pub fn open(fd: impl Into<OwnedFd>) -> Result<Notification> {
        Ok(Notification { words: Arc::new(Words::open("notification", fd.into())?) })
    }

    /// The memfd of a shared one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.words.fd()
    }

    /// The epoch now. What was written before the signals that led to it is seen after this.
    pub fn epoch(&self) -> u32 {
        self.words.at(EPOCH.into()).load(Ordering::Acquire)
    }

    /// Sleeps until the epoch is another than `seen`, and gives it; at once if it is. Blocks the
    /// thread: the one that polls uses [`Proactor::wait_notification`].
    ///
    /// # Errors
    ///
    /// TimedOut after `timeout`.
    pub fn wait(&self, seen: u32, timeout: Option<Duration>) -> Result<u32> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let (word, mut slept) = (self.word(), Ok(()));
        loop {
            let now = self.epoch();
            if now != seen {
                return Ok(now);
            }
            slept.map_err(|error: Error| match error.kind() {
                ErrorKind::TimedOut => Error::new(NAME, ErrorKind::TimedOut, "no signal in time"),
                _ => error,
            })?;
            let counted = Counted::enter(self);
            slept = word.wait_until(seen, until).map(drop);
            drop(counted);
        }
    }

    /// Moves the epoch on and wakes at most `count` of those who sleep; how many that were. Who is
    /// awake sees the epoch. No system call when nobody sleeps; never blocks.
    ///
    /// Zero moves the epoch on and wakes nobody.
    pub fn signal(&self, count: u32) -> u32 {
        match epoch::advance(self.words.at(EPOCH.into()), self.waiters()) {
            true => self.wake(count),
            false => 0,
        }
    }

    /// As [`signal`](Self::signal), for all of them.
    pub fn signal_all(&self) -> u32 {
        self.signal(u32::MAX)
    }

    /// How many wait now, threads and operations of every process; one that just ends its wait may
    /// be counted.
    pub fn waiting(&self) -> u32 {
        self.waiters().load(Ordering::Relaxed)
    }

    /// Wakes without a signal.
    pub(crate) fn wake(&self, count: u32) -> u32 {
        let word = self.words.at(EPOCH.into());
        futex::wake(word, count, self.words.is_shared()).max(0).unsigned_abs()
    }

    pub(crate) fn word(&self) -> FutexWord {
        FutexWord::of(self.words.clone(), EPOCH)
    }

    fn waiters(&self) -> &AtomicU32 {
        self.words.at(WAITERS.into())
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notification(epoch {}, {} waiting)", self.epoch(), self.waiting())
    }
}

/// A waiter that is counted.
#[derive(Debug)]
pub(crate) struct Counted(Notification);

impl Counted {
    /// The next step is to sleep while the epoch is the one that was seen.
    pub(crate) fn enter(notification: &Notification) -> Counted {
        epoch::enter(notification.waiters());
        Counted(notification.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        epoch::leave(self.0.waiters());
    }
}

impl Proactor {
    /// Waits until the epoch of a notification is another than `seen`, and gives it.
    ///
    /// Dropping the future loses nothing: the epoch stays, and a wake that it took and nobody saw
    /// is passed on to another who sleeps. Where it waits on a helper thread, and what then limits
    /// it, is as for [`futex_wait`](Self::futex_wait).
    ///
    /// # Errors
    ///
    /// As [`futex_wait`](Self::futex_wait).
    pub fn wait_notification(
        &self,
        notification: &Notification,
        seen: u32,
    ) -> Request<Local, WaitNotification> {
        Request::over(self.local(), WaitNotification::new(notification, seen))
    }

    /// [`Notification::signal`] as an operation, for batches and sequences; gives how many were
    /// woken.
    pub fn signal_notification(
        &self,
        notification: &Notification,
        count: u32,
    ) -> Request<Local, SignalNotification> {
        Request::over(self.local(), SignalNotification::new(notification, count))
    }
}

impl Handle {
    /// As [`Proactor::wait_notification`].
    pub fn wait_notification(
        &self,
        notification: &Notification,
        seen: u32,
    ) -> Request<Handle, WaitNotification> {
        Request::new(self, WaitNotification::new(notification, seen))
    }

    /// As [`Proactor::signal_notification`], on the poll thread.
    pub fn signal_notification(
        &self,
        notification: &Notification,
        count: u32,
    ) -> Request<Handle, SignalNotification> {
        Request::new(self, SignalNotification::new(notification, count))
    }
}
