//! Ways to run a proactor.

pub(crate) mod context;
pub(crate) mod pool;
pub(crate) mod thread;
mod topology;
