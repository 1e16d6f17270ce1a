//! What is watched rather than moved: descriptors, and what else wakes a loop.

#[expect(clippy::module_inception, reason = "events, among what is watched")]
pub(crate) mod event;
pub(crate) mod io_source;
pub(crate) mod readiness;
mod semaphore;
pub(crate) mod signals;
pub(crate) mod watch;
