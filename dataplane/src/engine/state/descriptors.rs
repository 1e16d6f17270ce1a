//! Descriptors: sockets, files and watched descriptors by index and generation.
//!
//! Operations name a descriptor by [`DescId`], so a number the system has given to somebody else
//! is never used, nor the same place in another proactor's table. An entry lives until its last
//! user handle is gone *and* it is closed; it is closed when nothing is in flight on it. Closing
//! cancels first: whoever closes does not wait.
//!
//! A stream has two lanes, send and receive. At most one operation of a lane is with the kernel;
//! the others stand in line, so order of submission is order of bytes.

use super::path::CopyReason;
use super::slots::NONE;
use crate::error::{Error, ErrorKind, Result};
use crate::op::Forms;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

/// Name of a descriptor: whose it is, index in the table and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DescId {
    pub(crate) owner: u32,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What a descriptor is, as far as the engine cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A connected (or connectable) stream or sequenced-packet socket.
    Stream,
    /// A datagram socket.
    Datagram,
    /// A listening socket.
    Listener,
    /// Something without readiness: regular file, block device, directory, memfd.
    File {
        /// Set when it is open with O_DIRECT.
        direct: Option<Alignment>,
    },
    /// Anything else that can be polled: pipe, terminal, eventfd, foreign descriptor.
    Other,
}

/// What O_DIRECT wants on a file (`statx(2)`, STATX_DIOALIGN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of memory, in bytes.
    pub memory_bytes: u32,
    /// Of offsets and lengths, in bytes.
    pub offset_bytes: u32,
}

/// A socket's zero-copy policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    /// Above a threshold that follows what the kernel reports.
    #[default]
    Auto,
    /// Every send.
    Always,
    /// No send.
    Never,
    /// Every send, and a send that was copied after all is an error.
    Require,
}

/// What a send does, decided when it is handed to the backend.
pub(crate) struct Decision {
    /// Why it is copied; None to try without a copy.
    pub(crate) copied: Option<CopyReason>,
    pub(crate) require: bool,
}

/// Sends below this many bytes are cheaper copied (pinning and the notification cost more).
const FIRST_THRESHOLD_BYTES: usize = 32 << 10;
/// Copies in a row after which a socket stops asking.
const COPIES_BEFORE_STOPPING: u32 = 4;
/// Sends after which a socket that stopped asks again.
const ASK_AGAIN_AFTER: u32 = 1024;

/// A socket's zero-copy policy and what it has learnt.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) wanted: ZeroCopy,
    threshold_bytes: usize,
    copied_in_a_row: u32,
    skipped: u32,
    /// The socket's family has no zero-copy send, whatever the kernel has for others.
    pub(crate) refused: bool,
}

impl Policy {
    fn new() -> Policy {
        Policy {
            wanted: ZeroCopy::Auto,
            threshold_bytes: FIRST_THRESHOLD_BYTES,
            copied_in_a_row: 0,
            skipped: 0,
            refused: false,
        }
    }

    pub(crate) fn decide(&mut self, bytes: usize, supported: bool) -> Decision {
        let require = self.wanted == ZeroCopy::Require;
        let copied = match self.wanted {
            _ if !supported || self.refused => Some(CopyReason::Unsupported),
            ZeroCopy::Never => Some(CopyReason::NotAsked),
            ZeroCopy::Always | ZeroCopy::Require => None,
            ZeroCopy::Auto if bytes < self.threshold_bytes => Some(CopyReason::BelowThreshold),
            ZeroCopy::Auto if self.copied_in_a_row < COPIES_BEFORE_STOPPING => None,
            ZeroCopy::Auto => {
                self.skipped += 1;
                if self.skipped >= ASK_AGAIN_AFTER {
                    self.skipped = 0;
                    self.copied_in_a_row = COPIES_BEFORE_STOPPING - 1;
                }
                Some(CopyReason::KernelCopied)
            }
        };
        Decision { copied, require }
    }

    /// Whether a send of so many bytes is copied whatever the reports have been.
    pub(crate) fn copies(&self, bytes: usize, supported: bool) -> bool {
        !supported
            || self.refused
            || match self.wanted {
                ZeroCopy::Never => true,
                ZeroCopy::Auto => bytes < self.threshold_bytes,
                ZeroCopy::Always | ZeroCopy::Require => false,
            }
    }

    pub(crate) fn reported(&mut self, copied: bool) {
        self.copied_in_a_row = if copied { self.copied_in_a_row.saturating_add(1) } else { 0 };
    }
}

/// One direction of a stream.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    /// The operation it is busy with, or the last step of a chain that stands in it.
    pub(crate) holder: u32,
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl LaneQueue {
    const fn new() -> LaneQueue {
        LaneQueue { holder: NONE, first: NONE, last: NONE }
    }
}

/// One entry of the table.
#[derive(Debug)]
pub struct Descriptor {
    fd: Option<OwnedFd>,
    fixed: Option<u32>,
    generation: u32,
    class: Class,
    pub(crate) accepts: Class,
    pub(crate) policy: Policy,
    pub(crate) lanes: [LaneQueue; 2],
    /// Newest operation that uses the descriptor, and how many do.
    pub(crate) newest: u32,
    pub(crate) users: u32,
    /// Operations that use it as their source.
    pub(crate) pins: u32,
    /// No new operation; close when unused.
    pub(crate) closing: bool,
    /// The close operation that waits for that, if somebody asked for its result.
    pub(crate) closer: u32,
    /// The user's last handle is gone.
    pub(crate) released: bool,
    /// The error that killed the kernel's socket.
    pub(crate) dead: Option<i32>,
    /// A Unix datagram socket, whose sends are tried again later when the peer is full. The kernel
    /// must not do that itself: io_uring's second attempt sends an empty datagram, because the
    /// first had consumed the bytes (seen on Linux 6.18); and no readiness tells of a peer's room.
    pub(crate) naps: bool,
    next_free: u32,
}

impl Descriptor {
    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    pub(crate) fn fixed(&self) -> Option<u32> {
        self.fixed
    }

    pub(crate) fn set_fixed(&mut self, index: u32) {
        self.fixed = Some(index);
    }

    pub(crate) fn take_fixed(&mut self) -> Option<u32> {
        self.fixed.take()
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// Whether what goes in one direction stands in a line: there is an order to keep.
    pub(crate) fn has_lanes(&self) -> bool {
        matches!(self.class, Class::Stream | Class::Other | Class::File { .. })
    }

    /// Gives the number up, to be closed by whoever takes it.
    pub(crate) fn take_fd(&mut self) -> Option<RawFd> {
        self.fd.take().map(IntoRawFd::into_raw_fd)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.fd.is_some()
    }

    /// Gives the descriptor itself up: it is no longer ours.
    pub(crate) fn surrender(&mut self) -> Option<OwnedFd> {
        self.fd.take()
    }
}

/// The descriptors of one proactor.
pub(crate) struct Descriptors {
    /// The proactor's number, part of every name given out here.
    owner: u32,
    entries: Vec<Descriptor>,
    free: u32,
    limit: usize,
    open: usize,
}

impl Descriptors {
    pub(crate) fn new(owner: u32, limit: usize) -> Descriptors {
        Descriptors { owner, entries: Vec::new(), free: NONE, limit, open: 0 }
    }

    /// Takes ownership of a descriptor; on a full table it is handed back.
    pub(crate) fn adopt(
        &mut self,
        operation: &'static str,
        fd: OwnedFd,
        class: Class,
    ) -> Result<DescId, (Error, OwnedFd)> {
        let index = match self.free {
            NONE if self.entries.len() >= self.limit => {
                let message = format!(
                    "all {} descriptors of this proactor are in use; close some, or raise \
                     Options::descriptors",
                    self.limit
                );
                return Err((Error::new(operation, ErrorKind::Exhausted, message), fd));
            }
            NONE => {
                self.entries.push(Self::blank(1));
                (self.entries.len() - 1) as u32
            }
            index => index,
        };
        let entry = &mut self.entries[index as usize];
        self.free = if index == self.free { entry.next_free } else { self.free };
        let generation = entry.generation;
        *entry = Descriptor { fd: Some(fd), class, ..Self::blank(generation) };
        self.open += 1;
        Ok(DescId { owner: self.owner, index, generation })
    }

    fn blank(generation: u32) -> Descriptor {
        Descriptor {
            fd: None,
            fixed: None,
            generation,
            class: Class::Other,
            accepts: Class::Stream,
            policy: Policy::new(),
            lanes: [LaneQueue::new(), LaneQueue::new()],
            newest: NONE,
            users: 0,
            pins: 0,
            closing: false,
            closer: NONE,
            released: false,
            dead: None,
            naps: false,
            next_free: NONE,
        }
    }

    pub(crate) fn find(&mut self, id: DescId) -> Option<&mut Descriptor> {
        if !self.owns(id) {
            return None;
        }
        self.entries.get_mut(id.index as usize).filter(|entry| entry.generation == id.generation)
    }

    pub(crate) fn peek(&self, id: DescId) -> Option<&Descriptor> {
        if !self.owns(id) {
            return None;
        }
        self.entries.get(id.index as usize).filter(|entry| entry.generation == id.generation)
    }

    /// The number of the descriptor that an operation works on.
    pub(crate) fn number(&self, op: &impl Forms) -> Option<RawFd> {
        let named = || op.desc().and_then(|desc| self.peek(desc)).map(Descriptor::raw);
        op.own_fd().or_else(named)
    }

    /// Whether a name was given out by this table, however long ago.
    pub(crate) fn owns(&self, id: DescId) -> bool {
        id.owner == self.owner
    }

    pub(crate) fn at(&mut self, index: u32) -> &mut Descriptor {
        &mut self.entries[index as usize]
    }

    pub(crate) fn id(&self, index: u32) -> DescId {
        let generation = self.entries[index as usize].generation;
        DescId { owner: self.owner, index, generation }
    }

    /// Frees the entry once it is closed and no handle names it.
    pub(crate) fn retire(&mut self, index: u32) {
        let free = self.free;
        let entry = &mut self.entries[index as usize];
        if entry.fd.is_some() || !entry.released || entry.users + entry.pins > 0 {
            return;
        }
        entry.generation = entry.generation.wrapping_add(1);
        entry.released = false;
        entry.next_free = free;
        self.free = index;
        self.open -= 1;
    }

    /// No close waits for a descriptor to become idle any more.
    pub(crate) fn forget_waiting(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.closer = NONE);
    }

    /// How many entries are taken.
    pub(crate) fn used(&self) -> usize {
        self.open
    }

    /// Indexes of entries that hold an open descriptor.
    pub(crate) fn open_indexes(&self) -> Vec<u32> {
        let entries = self.entries.iter().enumerate();
        entries.filter(|(_, e)| e.fd.is_some()).map(|(i, _)| i as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("/dev/null").into()
    }

    #[test]
    fn a_reused_entry_has_another_generation() {
        let mut table = Descriptors::new(1, 2);
        let a = table.adopt("test", null(), Class::Other).expect("room");
        let entry = table.find(a).expect("there");
        drop(entry.surrender());
        entry.released = true;
        table.retire(a.index);
        let b = table.adopt("test", null(), Class::Other).expect("room");
        assert_eq!(a.index, b.index);
        assert!(table.find(a).is_none());
        assert!(table.find(b).is_some());
    }

    #[test]
    fn a_name_of_another_table_is_not_found() {
        let (mut one, mut two) = (Descriptors::new(1, 1), Descriptors::new(2, 1));
        let mine = one.adopt("test", null(), Class::Other).expect("room");
        let theirs = two.adopt("test", null(), Class::Other).expect("room");
        assert_eq!((mine.index, mine.generation), (theirs.index, theirs.generation));
        assert!(one.find(mine).is_some() && one.peek(mine).is_some());
        assert!(one.find(theirs).is_none() && one.peek(theirs).is_none());
    }

    #[test]
    fn a_full_table_hands_the_descriptor_back() {
        let mut table = Descriptors::new(1, 1);
        table.adopt("test", null(), Class::Other).expect("room");
        let (error, fd) = table.adopt("test", null(), Class::Other).expect_err("full");
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(fd.as_raw_fd() >= 0);
        assert_eq!(table.used(), 1);
    }

    #[test]
    fn auto_stops_asking_after_copies_and_asks_again_later() {
        let mut policy = Policy::new();
        for _ in 0..COPIES_BEFORE_STOPPING {
            assert!(policy.decide(1 << 20, true).copied.is_none());
            policy.reported(true);
        }
        let skipped = (0..ASK_AGAIN_AFTER)
            .filter(|_| policy.decide(1 << 20, true).copied == Some(CopyReason::KernelCopied));
        assert_eq!(skipped.count() as u32, ASK_AGAIN_AFTER);
        assert!(policy.decide(1 << 20, true).copied.is_none());
        policy.reported(false);
        assert!(policy.decide(1 << 20, true).copied.is_none());
        assert_eq!(policy.decide(100, true).copied, Some(CopyReason::BelowThreshold));
    }
}
