//! The limit: for each question one io_uring loop written by hand for that job alone.
//!
//! The loops use the `io-uring` crate directly and whatever makes them fast: a ring of one issuer
//! with deferred task work, its descriptor registered with the thread, registered files, registered
//! buffers where the toolkit uses them, entries staged in batches and handed over with the call
//! that also waits, one reading of the completion queue for many completions. They keep buffers by
//! index, know at every completion what it was for, and check its result: less would not be the
//! same work. They do nothing else: no timeouts, no cancelling, no other threads, no fallback.
//!
//! Of handing work from thread to thread the limit is a pair of channels, with no ring in it.
//!
//! Memory is a slab's in both, so that both lie on pages of the same size.
//!
//! Unsafe code: entries point into memory and rings that these loops keep.

pub mod echo;
pub mod fence;
pub mod handoff;
pub mod memory;
pub mod noop;
pub mod read;
pub mod receive;
pub mod ring;
pub mod send;
pub mod stream;
