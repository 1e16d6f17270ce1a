//! Memory as the system gives it: mappings, memfds, dma-bufs, pages, limits, memory of Vulkan
//! devices, and copying where others write.

pub(crate) mod copy;
pub(crate) mod dma_buf;
pub(crate) mod limits;
pub(crate) mod mapping;
pub(crate) mod memfd;
pub(crate) mod page;
pub(crate) mod range;
pub(crate) mod source;
#[cfg(not(loom))]
pub(crate) mod vulkan;
