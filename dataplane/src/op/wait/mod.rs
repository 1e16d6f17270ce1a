//! Operations that wait for, or change, something that is no descriptor.

mod event;
mod semaphore;

pub use event::EventWait;
pub use semaphore::{SemaphoreSignal, SemaphoreWait, SemaphoreWaitAll, SemaphoreWaitAny};
