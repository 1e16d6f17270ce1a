//! Ways to run a proactor: tasks of its own, on a thread of its own, in a context that several
//! threads run, and inside somebody else's runtime.

pub(crate) mod context;
pub(crate) mod executor;
pub(crate) mod host;
pub(crate) mod panics;
pub(crate) mod pool;
pub(crate) mod ready;
pub(crate) mod submitter;
pub(crate) mod task;
pub(crate) mod thread;
#[cfg(feature = "tokio")]
mod tokio;
mod topology;
