//! What a proactor tells about itself.

use super::Proactor;
use crate::capability::Capabilities;
use crate::engine::report::{InFlight, Stats};
use crate::options::Backend;

impl Proactor {
    /// Which backend runs.
    pub fn backend(&self) -> Backend {
        let engine = self.inner.engine.borrow();
        engine.backend.as_ref().map_or(Backend::Auto, |backend| backend.choice())
    }

    /// With backend auto: why it is not io_uring.
    pub fn fallback(&self) -> Option<String> {
        self.inner.engine.borrow().fallback.clone()
    }

    /// What may be used: detected and allowed.
    pub fn capabilities(&self) -> Capabilities {
        self.inner.engine.borrow().table.capabilities
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        self.inner.engine.borrow().stats()
    }

    /// What is in flight, oldest first: for finding what is stuck.
    pub fn in_flight(&self) -> Vec<InFlight> {
        self.inner.engine.borrow().in_flight_dump()
    }

    /// A descriptor a host runtime can watch for readability, to poll when it fires; it must
    /// [`flush`](Self::flush) before it sleeps. None on the poll(2) backend.
    pub fn watchable(&self) -> Option<std::os::fd::RawFd> {
        let engine = self.inner.engine.borrow();
        engine.backend.as_ref().and_then(|backend| backend.watchable())
    }
}
