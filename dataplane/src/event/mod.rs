//! What is watched rather than moved: descriptors, and what else wakes a loop.

pub(crate) mod io_source;
pub(crate) mod readiness;
pub(crate) mod signals;
pub(crate) mod watch;
