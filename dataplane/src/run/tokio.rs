//! Waiting in tokio for a [`Hosted`] (feature `tokio`).
//!
//! Unsafe is here because tokio wants a promise of whoever registers a descriptor with its reactor.
#![allow(unsafe_code)]

use super::host::{Hosted, NAME};
use crate::error::{Error, Result};
use std::future::Future;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

impl Hosted {
    /// Drives the proactor inside tokio until `future` is ready, and returns its value: as
    /// [`drive`](Self::drive), with tokio's way to wait. The runtime must have its I/O driver
    /// enabled, and this future stays on the proactor's thread: a current-thread runtime, or a
    /// `LocalSet`.
    ///
    /// # Errors
    ///
    /// As [`drive`](Self::drive); what tokio says when it cannot watch the descriptor.
    ///
    /// # Panics
    ///
    /// Outside a runtime, or in one without its I/O driver, as tokio does.
    pub async fn drive_in_tokio<F: Future>(self, future: F) -> Result<F::Output> {
        // SAFETY: the descriptor is that of the set which this value owns, and `as_raw_fd` gives
        // no other: it is open and the same until tokio has let the value go.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        let watched = registered.map_err(|error| Error::from_io(NAME, &io::Error::from(error)))?;
        let readable = || watched.async_io(Interest::READABLE, |hosted| hosted.check());
        watched.get_ref().drive(readable, future).await
    }
}
