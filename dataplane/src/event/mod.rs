//! What is watched rather than moved: descriptors, and what else wakes a loop.

#[expect(clippy::module_inception, reason = "events, among what is watched")]
pub(crate) mod event;
pub(crate) mod fence;
pub(crate) mod futex;
pub(crate) mod io_source;
pub(crate) mod notification;
pub(crate) mod readiness;
pub(crate) mod relay;
mod semaphore;
pub(crate) mod signals;
pub(crate) mod watch;
