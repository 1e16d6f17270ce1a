//! Other threads: the inbox, the waker, handles, and the cells their results arrive in.

#[cfg(not(loom))]
pub(crate) mod cell;
pub(crate) mod epoch;
#[cfg(not(loom))]
pub(crate) mod handle;
#[cfg(not(loom))]
pub(crate) mod inbox;
#[cfg(not(loom))]
pub(crate) mod line;
#[cfg(not(loom))]
pub(crate) mod message;
#[cfg(not(loom))]
pub(crate) mod queue;
pub(crate) mod sync;
pub(crate) mod waker;
