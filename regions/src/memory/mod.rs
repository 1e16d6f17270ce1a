//! Memory as the system gives it: mappings, memfds, pages, limits, and copying where others write.

pub(crate) mod copy;
pub(crate) mod limits;
pub(crate) mod mapping;
pub(crate) mod memfd;
pub(crate) mod page;
pub(crate) mod range;
pub(crate) mod source;
