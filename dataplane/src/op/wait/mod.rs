//! Operations that wait for, or change, something that is no descriptor.

mod semaphore;

pub use semaphore::{SemaphoreSignal, SemaphoreWait, SemaphoreWaitAll, SemaphoreWaitAny};
