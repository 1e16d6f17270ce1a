//! What is watched rather than moved: descriptors, and what else wakes a loop.

#[expect(clippy::module_inception, reason = "events, among what is watched")]
pub(crate) mod event;
mod semaphore;
pub(crate) mod watch;
