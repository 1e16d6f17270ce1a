//! Waiting for what is no descriptor, and signalling it.

mod futex;
mod notification;

pub use futex::{FutexWait, FutexWake};
pub use notification::{SignalNotification, WaitNotification};
