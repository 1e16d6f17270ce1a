//! Readiness of a descriptor, once or persistently.

use super::{Attempt, Context, Forms, Multishot, Operation, Shape, settle, variant};
use crate::engine::Outcome;
use crate::engine::descriptors::{Class, DescId, Descriptor};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::Port;
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry};
use std::fmt;
use std::ops::BitOr;

/// What is waited for on a descriptor, and what was seen (`poll(2)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest(u32);

impl Interest {
    /// Something can be read, or a connection accepted, or the peer closed its side.
    pub const READABLE: Interest = Interest(libc::POLLIN as u32);
    /// Something can be written.
    pub const WRITABLE: Interest = Interest(libc::POLLOUT as u32);
    /// Urgent data (`POLLPRI`).
    pub const PRIORITY: Interest = Interest(libc::POLLPRI as u32);
    /// An error is pending; always reported.
    pub const ERROR: Interest = Interest(libc::POLLERR as u32);
    /// The peer hung up; always reported.
    pub const HANG_UP: Interest = Interest(libc::POLLHUP as u32);
    /// No readiness tells; look again in a moment.
    pub(crate) const SOON: Interest = Interest(0);

    /// From the bits of `poll(2)`.
    pub(crate) fn from_bits(bits: u32) -> Interest {
        Interest(bits)
    }

    /// The bits of `poll(2)`.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Interest) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether an error or a hang-up was seen.
    pub fn failed(self) -> bool {
        self.0 & (Self::ERROR.0 | Self::HANG_UP.0) != 0
    }
}

impl BitOr for Interest {
    type Output = Interest;
    fn bitor(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::READABLE, "readable"),
            (Self::WRITABLE, "writable"),
            (Self::PRIORITY, "priority"),
            (Self::ERROR, "error"),
            (Self::HANG_UP, "hang-up"),
        ];
        let set: Vec<_> = names.iter().filter(|(bit, _)| self.contains(*bit)).collect();
        f.write_str("Interest(")?;
        for (i, (_, name)) in set.iter().enumerate() {
            write!(f, "{}{name}", if i > 0 { " | " } else { "" })?;
        }
        f.write_str(")")
    }
}

/// Waits until a descriptor is ready, once. Dropping it loses nothing: a descriptor that is ready
/// stays so.
#[derive(Debug)]
pub struct Poll {
    pub(crate) desc: DescId,
    pub(crate) interest: Interest,
}

/// Reports readiness until cancelled. Reports that nobody took yet are merged into one. Dropping
/// the stream loses reports, never data: the next poll looks again.
#[derive(Debug)]
pub struct PollMany {
    pub(crate) desc: DescId,
    pub(crate) interest: Interest,
}

variant!(Poll);
variant!(PollMany);

/// A poll on a descriptor that has none completes at once: a false "ready". Refuse it instead.
fn check_poll(name: &'static str, interest: Interest, found: Option<&Descriptor>) -> Result<()> {
    if interest == Interest::SOON {
        let message = "nothing to wait for; name READABLE, WRITABLE or PRIORITY";
        return Err(Error::new(name, ErrorKind::InvalidArgument, message));
    }
    match found.map(|d| d.class()) {
        Some(Class::File { .. }) => Err(Error::new(
            name,
            ErrorKind::InvalidArgument,
            "regular files, memfds and block devices have no readiness; read or write instead",
        )),
        _ => Ok(()),
    }
}

/// One readiness, as an entry.
pub(super) fn poll_entry(interest: Interest, cx: &mut Context<'_>) -> Entry {
    let target = cx.target();
    target.seal(opcode::PollAdd::new(target.fd(), interest.bits()).build())
}

/// The same as a system call.
pub(super) fn attempt_poll(interest: Interest, cx: &mut Context<'_>) -> Attempt {
    match calls::poll_now(cx.fd(), interest) {
        0 => Attempt::Blocked(interest),
        result => Attempt::Done(result),
    }
}

impl Forms for Poll {
    const NAME: &'static str = "poll";

    fn desc(&self) -> Option<DescId> {
        Some(self.desc)
    }

    fn links(&self) -> bool {
        true
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        check_poll(Self::NAME, self.interest, descriptor)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        poll_entry(self.interest, cx)
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        attempt_poll(self.interest, cx)
    }
}

impl Forms for PollMany {
    const NAME: &'static str = "poll";

    fn desc(&self) -> Option<DescId> {
        Some(self.desc)
    }

    fn shape(&self) -> Shape {
        Shape::Multishot
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        check_poll(Self::NAME, self.interest, descriptor)
    }

    /// Always the kernel's multishot form: level-triggered single polls, armed again after each
    /// report, would report the same readiness for ever.
    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let entry = opcode::PollAdd::new(target.fd(), self.interest.bits()).multi(true);
        target.seal(entry.build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        attempt_poll(self.interest, cx)
    }
}

impl Operation for Poll {
    type Output<P: Port> = Interest;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Interest, Failed<Self>> {
        settle(&outcome, Self::NAME)
            .map(Interest::from_bits)
            .map_err(|error| Failed::new(error, self))
    }
}

impl Operation for PollMany {
    type Output<P: Port> = Interest;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Interest, Failed<Self>> {
        settle(&outcome, Self::NAME)
            .map(Interest::from_bits)
            .map_err(|error| Failed::new(error, self))
    }
}

impl Multishot for PollMany {
    fn item<P: Port>(outcome: Outcome, _: &P) -> Result<Option<Interest>> {
        settle(&outcome, Self::NAME).map(|bits| Some(Interest::from_bits(bits)))
    }
}
