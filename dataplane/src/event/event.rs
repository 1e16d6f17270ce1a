//! Events: an edge-style wake that any thread sets, and a bounded pool of them.
//!
//! An [`Event`] is set or not; a wait takes the set, many sets before one wait count as one. Behind
//! it is a non-blocking `eventfd(2)`, so anything that polls a descriptor can be gated on it. It is
//! tied to no proactor: [`Proactor::event_waiter`] makes the end that is waited on, with a
//! duplicate of the descriptor in the proactor's table.
//!
//! [`Event::set`] is one `write(2)`: it takes no lock and does not allocate, so that a signal
//! handler may call it if it saves `errno` around it.

use crate::engine::descriptors::Class;
use crate::error::{Error, Result};
use crate::io::request::Request;
use crate::io::{Local, LocalDescriptor, Named};
use crate::op::EventWait;
use crate::proactor::Proactor;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the head of this module. `Send + Sync`; a clone is another handle on the same event.
#[derive(Clone)]
pub struct Event {
    fd: Arc<EventFd>,
}

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    ///
    /// Exhausted when descriptors have run out.
    pub fn new() -> Result<Event> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = EventFd::from_value_and_flags(0, flags)
            .map_err(|errno| Error::from_errno("event", errno as i32))?;
        Ok(Event { fd: Arc::new(fd) })
    }

    /// Sets it. One that is set already stays set.
    pub fn set(&self) {
        // EAGAIN is a counter at its end: set as can be.
        let _ = self.fd.write(1);
    }

    /// Takes the set; whether there was one.
    pub fn reset(&self) -> bool {
        self.fd.read().is_ok()
    }

    /// Whether it is set. Takes nothing.
    pub fn is_set(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Event {
    /// Readable while it is set.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish()
    }
}

/// Where a proactor's thread waits for an event.
pub struct EventWaiter {
    local: Local,
    descriptor: Rc<LocalDescriptor>,
    event: Event,
}

impl EventWaiter {
    /// Waits until the event is set, and takes the set. Dropping it loses no set: one taken in the
    /// last moment is put back.
    pub fn wait(&self) -> Request<Local, EventWait> {
        Request::new(&self.local, EventWait::new(Named::desc(&self.descriptor), &self.event))
    }

    /// What is waited for.
    pub fn event(&self) -> &Event {
        &self.event
    }
}

impl Proactor {
    /// The end of an event that this proactor waits on.
    ///
    /// # Errors
    ///
    /// Exhausted when descriptors or places in the table have run out.
    pub fn event_waiter(&self, event: &Event) -> Result<EventWaiter> {
        const NAME: &str = "event waiter";
        let fd = event.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| Error::from_io(NAME, &error))?;
        let local = self.local();
        let descriptor = local.own(NAME, fd, Class::Other)?;
        Ok(EventWaiter { local, descriptor, event: event.clone() })
    }
}

/// Keeps up to a bound of unused events for reuse. `Send + Sync`; a clone is the same pool.
#[derive(Clone)]
pub struct EventPool {
    idle: Arc<Mutex<Vec<Event>>>,
    bound: usize,
}

/// An event of a pool. Dropping it gives it back, unless a clone or a wait of it is still there:
/// then it is closed with the last of them.
pub struct PooledEvent {
    event: Option<Event>,
    pool: EventPool,
}

impl EventPool {
    /// A pool that keeps up to `bound` unused events. It starts empty.
    pub fn new(bound: usize) -> EventPool {
        EventPool { idle: Arc::default(), bound }
    }

    /// An event that is not set: an unused one, or a new one.
    ///
    /// # Errors
    ///
    /// As [`Event::new`].
    pub fn take(&self) -> Result<PooledEvent> {
        let unused = self.lock().pop();
        let event = match unused {
            Some(event) => event,
            None => Event::new()?,
        };
        // Whoever kept a duplicate of the descriptor may have set it meanwhile.
        event.reset();
        Ok(PooledEvent { event: Some(event), pool: self.clone() })
    }

    /// How many unused events it holds.
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for PooledEvent {
    type Target = Event;

    fn deref(&self) -> &Event {
        self.event.as_ref().expect("there until it is dropped")
    }
}

impl Drop for PooledEvent {
    fn drop(&mut self) {
        let Some(mut event) = self.event.take() else { return };
        if Arc::get_mut(&mut event.fd).is_none() {
            return;
        }
        event.reset();
        let mut idle = self.pool.lock();
        if idle.len() < self.pool.bound {
            idle.push(event);
        }
    }
}
