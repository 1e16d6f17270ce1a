//! Ways to run a proactor: tasks of its own, and inside somebody else's runtime.

pub(crate) mod executor;
pub(crate) mod host;
pub(crate) mod ready;
pub(crate) mod task;
#[cfg(feature = "tokio")]
mod tokio;
