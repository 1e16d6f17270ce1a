//! Waiting for a notification and signalling it: see the head of `event/notification.rs`.
//!
//! The wait is that of a futex word, the epoch, again and again until it has moved. The operation
//! is counted among those who wait from before it first sleeps until it has its result. It owns the
//! notification's words until its last completion.

use super::super::{Advance, Attempt, Context, Forms, Operation, settle, variant};
use super::futex::{Sleep, explained};
use crate::capability::{Capabilities, Capability};
use crate::engine::Outcome;
use crate::error::Failed;
use crate::event::notification::{Counted, Notification};
use crate::io::Port;
use io_uring::squeue::Entry;
use std::sync::atomic::Ordering;

/// Waits until the epoch of a notification is another one.
#[derive(Debug)]
pub struct WaitNotification {
    notification: Notification,
    seen: u32,
    sleep: Sleep,
    counted: Option<Counted>,
    /// It took a wake that its owner has not been told of.
    owes_wake: bool,
}

/// Signals a notification.
#[derive(Debug)]
pub struct SignalNotification {
    notification: Notification,
    count: u32,
}

variant!(WaitNotification);
variant!(SignalNotification);

impl WaitNotification {
    /// Until the epoch is another than `seen`.
    pub fn new(notification: &Notification, seen: u32) -> WaitNotification {
        let sleep = Sleep::new(notification.word(), seen);
        let notification = notification.clone();
        WaitNotification { notification, seen, sleep, counted: None, owes_wake: false }
    }

    fn count_in(&mut self) {
        if self.counted.is_none() {
            self.counted = Some(Counted::enter(&self.notification));
        }
    }

    fn has_moved(&self) -> bool {
        self.sleep.word().load(Ordering::Acquire) != self.seen
    }
}

impl SignalNotification {
    /// Wakes at most `count`.
    pub fn new(notification: &Notification, count: u32) -> SignalNotification {
        SignalNotification { notification: notification.clone(), count }
    }
}

impl Forms for WaitNotification {
    const NAME: &'static str = "wait for a notification";

    fn is_own(&self, capabilities: Capabilities) -> bool {
        !capabilities.contains(Capability::Futex)
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        self.count_in();
        self.sleep.entry()
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        self.count_in();
        self.sleep.attempt()
    }

    fn means_again(&self, result: i32) -> bool {
        result == -libc::EINTR
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        self.owes_wake |= result == 0;
        let told = result >= 0 || result == -libc::EAGAIN;
        if told && !self.has_moved() {
            return Advance::Again;
        }
        self.counted = None;
        Advance::Done(if told { 0 } else { result })
    }

    fn withdraw(&mut self) -> Option<bool> {
        self.sleep.withdraw();
        None
    }
}

impl Drop for WaitNotification {
    fn drop(&mut self) {
        if self.owes_wake && self.notification.waiting() > 0 {
            self.notification.wake(1);
        }
    }
}

impl Operation for WaitNotification {
    type Output<P: Port> = u32;

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<u32, Failed<Self>> {
        match settle(&outcome, Self::NAME) {
            Ok(_) => {
                self.owes_wake = false;
                Ok(self.notification.epoch())
            }
            Err(error) => Err(Failed::new(explained(error), self)),
        }
    }
}

impl Forms for SignalNotification {
    const NAME: &'static str = "signal a notification";

    fn is_own(&self, _: Capabilities) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("a signal is a step in memory and a wake")
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        let woken = self.notification.signal(self.count);
        Attempt::Done(i32::try_from(woken).unwrap_or(i32::MAX))
    }

    /// It has been sent.
    fn withdraw(&mut self) -> Option<bool> {
        Some(false)
    }
}

impl Operation for SignalNotification {
    type Output<P: Port> = u32;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<u32, Failed<Self>> {
        settle(&outcome, Self::NAME).map_err(|error| Failed::new(error, self))
    }
}
