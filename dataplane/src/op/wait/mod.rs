//! Operations that wait for, or change, something that is no descriptor.

mod event;
mod fence;
mod futex;
mod notification;
mod semaphore;

pub use event::EventWait;
pub use fence::FenceWait;
pub use futex::{FutexWait, FutexWake};
pub use notification::{SignalNotification, WaitNotification};
pub use semaphore::{SemaphoreSignal, SemaphoreWait, SemaphoreWaitAll, SemaphoreWaitAny};
