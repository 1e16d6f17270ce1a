//! Closing descriptors: cancel what is in flight, then close, never the other way round.
//!
//! The number is given to the close operation itself (an entry of the ring, or `close(2)`), so it
//! stays taken until nothing can use it any more; the table forgets it at the same moment.

use super::Engine;
use super::Reason;
use super::descriptors::{Class, DescId};
use super::slots::{NONE, Notify};
use crate::backend::RegisterError;
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Close, Forms as _, Op};
use crate::sys::{calls, sockets};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

impl Engine {
    /// Takes a descriptor into the table. Nothing is changed on it.
    pub(crate) fn adopt(
        &mut self,
        operation: &'static str,
        fd: OwnedFd,
        class: Class,
    ) -> Result<DescId, (Error, OwnedFd)> {
        if self.draining {
            return Err((crate::remote::inbox::gone(operation), fd));
        }
        let naps = class == Class::Datagram
            && sockets::local_address(fd.as_raw_fd()).is_ok_and(|at| at.inet().is_none());
        let id = self.table.descriptors.adopt(operation, fd, class)?;
        self.table.descriptors.at(id.index).naps = naps;
        Ok(id)
    }

    /// The user's last handle is gone: end what is in flight and close.
    pub(crate) fn release_descriptor(&mut self, index: u32) {
        let descriptor = self.table.descriptors.at(index);
        descriptor.released = true;
        self.begin_close(index);
        self.table.descriptors.retire(index);
    }

    /// The close operation in slot `closer` waits for the descriptor to become idle.
    pub(crate) fn close_when_idle(&mut self, desc: DescId, closer: u32) {
        let open = self.table.descriptors.find(desc);
        let Some(descriptor) = open.filter(|found| found.is_open() && found.closer == NONE) else {
            // Another close came first: of the same batch, or before the turn of this step came,
            // when the place in the table may be another's by now.
            let slot = self.table.slots.at(closer);
            slot.owed = 1;
            let id = crate::backend::OpId::new(closer, slot.generation);
            let event = crate::backend::Event::of(id, -libc::EBADF, 0);
            return self.own_events.push_back(event);
        };
        descriptor.closer = closer;
        self.begin_close(desc.index);
    }

    fn begin_close(&mut self, index: u32) {
        let descriptor = self.table.descriptors.at(index);
        if descriptor.is_open() && !descriptor.closing {
            descriptor.closing = true;
            self.cancel_descriptor(index, Reason::Closed);
            self.cancel_readers(index);
        }
        self.close_if_idle(index);
    }

    /// Transfers that read from it are not in its list; there are few.
    fn cancel_readers(&mut self, index: u32) {
        if self.table.descriptors.at(index).pins == 0 {
            return;
        }
        let source = Some(self.table.descriptors.id(index));
        let reads = |op: &Op| op.source() == source;
        let live = self.table.slots.live();
        let found: Vec<u32> =
            live.filter(|(_, _, op)| op.is_some_and(reads)).map(|(i, ..)| i).collect();
        for slot in found {
            let id = self.table.slots.id(slot);
            self.cancel(id, Reason::Closed);
        }
    }

    pub(crate) fn close_if_idle(&mut self, index: u32) {
        let descriptor = self.table.descriptors.at(index);
        if !descriptor.closing || descriptor.users + descriptor.pins > 0 {
            return;
        }
        let fixed = descriptor.take_fixed();
        if let (Some(fixed), Some(backend)) = (fixed, &mut self.backend) {
            backend.unregister_file(fixed);
        }
        let descriptor = self.table.descriptors.at(index);
        let closer = std::mem::replace(&mut descriptor.closer, NONE);
        if let Some(number) = descriptor.take_fd() {
            self.close_number(number, closer, index);
        }
        self.table.descriptors.retire(index);
    }

    fn close_number(&mut self, number: RawFd, closer: u32, index: u32) {
        if closer != NONE {
            if let Some(Op::Close(close)) = self.table.slots.op(closer) {
                close.number = number;
            }
            return self.launch(closer);
        }
        let room = !self.draining && self.table.slots.in_flight < self.bound;
        let mut close = Close::new(self.table.descriptors.id(index));
        close.number = number;
        if !room {
            calls::close(number);
            return;
        }
        match self.place(Op::Close(close), &mut Notify::Nobody, None) {
            Ok(id) => self.table.slots.at(id.index()).abandoned = true,
            Err(_) => {
                calls::close(number);
            }
        }
    }

    /// One operation less that uses the descriptor as its source.
    pub(crate) fn unpin(&mut self, desc: DescId) {
        if let Some(descriptor) = self.table.descriptors.find(desc) {
            descriptor.pins -= 1;
            if descriptor.closing {
                self.close_if_idle(desc.index);
            }
        }
    }

    /// Registers the descriptor with the backend, so that operations name it by index.
    pub(crate) fn register_descriptor(&mut self, desc: DescId) -> Result<bool> {
        const NAME: &str = "register descriptor";
        let closed = || Error::new(NAME, ErrorKind::Closed, "the descriptor is closed");
        let descriptor = self.table.descriptors.find(desc).ok_or_else(closed)?;
        if descriptor.closing || !descriptor.is_open() {
            return Err(closed());
        }
        if descriptor.fixed().is_some() {
            return Ok(true);
        }
        let number = descriptor.raw();
        let Some(backend) = &mut self.backend else { return Err(closed()) };
        match backend.register_file(number) {
            Ok(index) => {
                self.table.descriptors.at(desc.index).set_fixed(index);
                Ok(true)
            }
            Err(RegisterError::Unavailable) => Ok(false),
            Err(RegisterError::Full { used, maximum }) => Err(Error::new(
                NAME,
                ErrorKind::Exhausted,
                format!("{used} of {maximum} registered descriptors are in use; close some"),
            )),
            Err(RegisterError::Refused(errno)) => Err(Error::from_errno(NAME, errno)),
        }
    }
}
