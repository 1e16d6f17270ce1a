//! What a proactor tells about itself.

use super::Proactor;
use crate::capability::Capabilities;
use crate::engine::report::Stats;
use crate::engine::report::dump::InFlight;
use crate::options::Backend;

impl Proactor {
    /// Its name, as [`Options::name`](crate::Options::name) gave it.
    pub fn name(&self) -> String {
        self.inner.shared.name.clone()
    }

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
        let stats = self.inner.engine.borrow().stats();
        Stats { tasks: self.inner.executor.live(), ..stats }
    }

    /// What is in flight, oldest first: for finding what is stuck.
    pub fn in_flight(&self) -> Vec<InFlight> {
        self.inner.engine.borrow().in_flight_dump()
    }

    /// The backend's own descriptor: readable when there is something to poll for. None on the
    /// poll(2) backend. Before a host sleeps on it there is an order to keep, which
    /// [`Hosted`](crate::Hosted) does: what is staged, deadlines and wakes of this thread do not
    /// show on it by themselves.
    pub fn watchable(&self) -> Option<std::os::fd::RawFd> {
        let engine = self.inner.engine.borrow();
        engine.backend.as_ref().and_then(|backend| backend.watchable())
    }
}
