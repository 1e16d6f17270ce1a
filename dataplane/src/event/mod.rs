//! What is watched rather than moved: descriptors, and what else wakes a loop.

pub(crate) mod futex;
pub(crate) mod io_source;
pub(crate) mod notification;
pub(crate) mod readiness;
pub(crate) mod relay;
pub(crate) mod watch;
