//! What is watched rather than moved: descriptors, and what else wakes a loop.

mod semaphore;
pub(crate) mod watch;
