//! Something with a descriptor whose readiness tasks await: sockets, pipes, terminals of any crate.
//!
//! An [`IoSource`] owns the value and its registration with a [`Readiness`]; both end together. It
//! moves no bytes itself: the value is read and written by its own methods, in non-blocking mode,
//! which the caller sets. Dropping a wait loses nothing, since a wait takes nothing.
//!
//! It belongs to the poll owner's thread, and may outlive the [`Readiness`]: its waits are errors
//! then.

use super::readiness::{Core, Readiness, Token, Trigger, Waiting};
use crate::error::Result;
use crate::op::Interest;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

/// See the head of this module.
pub struct IoSource<T: AsFd> {
    /// Dropped before the value: the registration has a duplicate of its descriptor.
    registered: Registered,
    io: T,
}

/// Deregisters when it goes.
struct Registered {
    core: Rc<Core>,
    token: Token,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // The other end of the registration may have gone first.
        let _ = self.core.deregister(self.token);
    }
}

impl<T: AsFd> IoSource<T> {
    /// Registers `io` for both directions.
    ///
    /// # Errors
    ///
    /// As [`Readiness::register`]; `io` is dropped, so lend it (`&io`) where it matters.
    pub fn new(readiness: &Readiness, io: T) -> Result<IoSource<T>> {
        IoSource::with_interest(readiness, io, Interest::READABLE | Interest::WRITABLE)
    }

    /// Registers `io` for what is named: a pipe has one direction only.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_interest(readiness: &Readiness, io: T, interest: Interest) -> Result<IoSource<T>> {
        let core = readiness.core().clone();
        let token = core.register(&io, interest, Trigger::Edge)?;
        Ok(IoSource { registered: Registered { core, token }, io })
    }

    /// Its token, for events of [`Readiness::poll`].
    pub fn token(&self) -> Token {
        self.registered.token
    }

    /// The value.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// The value, mutably. Its descriptor should stay the same: the registered one does.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// The value, without its registration; waiting tasks get a Closed error.
    pub fn into_inner(self) -> T {
        self.io
    }

    /// Waits until a read would not block: data, the end, an error or a hang-up.
    pub fn readable(&self) -> Waiting {
        self.ready(Interest::READABLE)
    }

    /// Waits until a write would not block: room, an error or a hang-up.
    pub fn writable(&self) -> Waiting {
        self.ready(Interest::WRITABLE)
    }

    /// Waits for one of several things.
    pub fn ready(&self, interest: Interest) -> Waiting {
        Waiting::new(&self.registered.core, self.registered.token, interest)
    }

    /// Tries `attempt` until it does something else than block, waiting for `interest` between.
    /// Dropping it between two attempts loses nothing that `attempt` does not.
    ///
    /// # Errors
    ///
    /// What `attempt` gives; what a wait gives, as an [`io::Error`].
    pub async fn io<R>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match attempt(&self.io) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => return done,
            }
            self.ready(interest).await?;
        }
    }
}
