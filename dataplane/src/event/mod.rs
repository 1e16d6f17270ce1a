//! What is watched rather than moved: descriptors, and what else wakes a loop.

pub(crate) mod watch;
