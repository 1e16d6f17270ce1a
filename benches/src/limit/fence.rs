//! Fences: a poll of the ring on a descriptor, and an atomic in the semaphore's place.
//!
//! The loops know that what they are given is an eventfd, so they neither ask what it is nor how it
//! stands, but for the one that does not know: it asks whether it is a sync_file, whose status must
//! be asked for when it is readable. They own the descriptor, as the toolkit does, and close it
//! when its poll is over.
//!
//! Unsafe code: entries are pushed, and a poll points at nothing; a descriptor is asked what it is.
#![allow(unsafe_code)]

use super::ring::{Ring, count};
use crate::{Contender, Result, expect};
use io_uring::{opcode, types};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is known of a descriptor that is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That it is an eventfd.
    Known,
    /// Nothing.
    Sorted,
}

/// SYNC_IOC_FILE_INFO (`include/uapi/linux/sync_file.h`), whose structure is of 56 bytes.
fn is_sync_file(fd: &OwnedFd) -> bool {
    type Info = [u64; 7];
    let mut info: Info = [0; 7];
    let request = libc::_IOWR::<Info>(u32::from(b'>'), 4);
    // SAFETY: the structure is as long as the request says, and asks for no fences.
    unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut info) == 0 }
}

/// An event that one end signals; whoever waits is given a duplicate of its own.
///
/// # Errors
///
/// When descriptors have run out.
pub fn event() -> Result<EventFd> {
    Ok(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

/// A ring that polls descriptors until they are readable.
pub struct Polls {
    ring: Ring,
}

impl Polls {
    /// For `depth` at once.
    ///
    /// # Errors
    ///
    /// When there is no ring.
    pub fn new(depth: u32) -> Result<Polls> {
        Ok(Polls { ring: Ring::new(depth.next_power_of_two().max(8))? })
    }

    /// Stages a poll.
    pub fn push(&mut self, fd: &impl AsFd, name: u64) {
        let entry = opcode::PollAdd::new(types::Fd(fd.as_fd().as_raw_fd()), libc::POLLIN as u32);
        // SAFETY: a poll points at nothing.
        unsafe { self.ring.push(&entry.build().user_data(name)) };
    }

    /// Has the kernel arm what is staged.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn arm(&mut self) -> Result<()> {
        Ok(self.ring.enter(0)?)
    }

    /// Waits for some of those that are out and gives their names; how many there were.
    ///
    /// # Errors
    ///
    /// What the kernel says, and a descriptor that is ready and not readable.
    pub fn wait(&mut self, want: u32, mut each: impl FnMut(u64) -> Result<()>) -> Result<u32> {
        self.ring.enter(want)?;
        self.ring.sync_completions();
        let mut seen = 0;
        while let Some((name, result, _)) = self.ring.next_completion() {
            let bits = count(result, "poll")?;
            expect(bits & libc::POLLIN as usize != 0, || format!("ready for {bits:#x}"))?;
            each(name)?;
            seen += 1;
        }
        self.ring.sync_completions();
        Ok(seen)
    }
}

/// A fence at a time: taken over, armed, signalled, waited for. A step is one.
pub struct Import {
    polls: Polls,
    event: EventFd,
    kind: Kind,
    reached: AtomicU64,
}

impl Import {
    /// With an event of its own.
    ///
    /// # Errors
    ///
    /// When there is no ring or no descriptor.
    pub fn new(kind: Kind) -> Result<Import> {
        Ok(Import { polls: Polls::new(1)?, event: event()?, kind, reached: AtomicU64::new(0) })
    }

    fn step(&mut self) -> Result<()> {
        let fd = self.event.as_fd().try_clone_to_owned()?;
        let asks = self.kind == Kind::Sorted && is_sync_file(&fd);
        expect(!asks, || "an eventfd is no sync_file".to_owned())?;
        let value = self.reached.load(Ordering::Relaxed) + 1;
        self.polls.push(&fd, value);
        self.polls.arm()?;
        self.event.write(1)?;
        let mut fd = Some(fd);
        while self.reached.load(Ordering::Acquire) < value {
            self.polls.wait(1, |value| {
                self.reached.store(value, Ordering::Release);
                drop(fd.take());
                Ok(())
            })?;
        }
        self.event.read()?;
        Ok(())
    }
}

impl Contender for Import {
    fn run(&mut self, steps: u64) -> Result<()> {
        (0..steps).try_for_each(|_| self.step())
    }
}

/// Fences that are armed already: signalled, and waited for. A step is one.
pub struct Armed {
    polls: Polls,
    events: Vec<EventFd>,
    fds: Vec<Option<OwnedFd>>,
    reached: Vec<AtomicU64>,
    round: u64,
}

impl Armed {
    /// With `depth` of them armed at most.
    ///
    /// # Errors
    ///
    /// When there is no ring or no descriptor.
    pub fn new(depth: usize) -> Result<Armed> {
        Ok(Armed {
            polls: Polls::new(depth as u32)?,
            events: (0..depth).map(|_| event()).collect::<Result<_>>()?,
            fds: (0..depth).map(|_| None).collect(),
            reached: (0..depth).map(|_| AtomicU64::new(0)).collect(),
            round: 0,
        })
    }
}

impl Contender for Armed {
    fn prepare(&mut self, steps: u64) -> Result<u64> {
        let count = self.events.len().min(steps as usize);
        for (at, event) in self.events.iter().enumerate().take(count) {
            // What the last round left; nothing, before the first.
            let _ = event.read();
            let fd = event.as_fd().try_clone_to_owned()?;
            self.polls.push(&fd, at as u64);
            self.fds[at] = Some(fd);
        }
        self.polls.arm()?;
        self.round += 1;
        Ok(count as u64)
    }

    fn run(&mut self, steps: u64) -> Result<()> {
        let (fds, reached, round) = (&mut self.fds, &self.reached, self.round);
        for event in &self.events[..steps as usize] {
            event.write(1)?;
        }
        let mut left = steps as u32;
        while left > 0 {
            left -= self.polls.wait(left, |name| {
                reached[name as usize].store(round, Ordering::Release);
                expect(fds[name as usize].take().is_some(), || format!("{name} came twice"))
            })?;
        }
        let all = reached[..steps as usize].iter();
        let come = all.filter(|reached| reached.load(Ordering::Acquire) == round).count();
        expect(come as u64 == steps, || format!("{come} of {steps} came"))
    }
}

/// An event that is made, handed out, waited for by another ring, and written when a value is
/// reached. A step is one.
pub struct Export {
    polls: Polls,
    reached: AtomicU64,
}

impl Export {
    /// With a ring that waits.
    ///
    /// # Errors
    ///
    /// When there is no ring.
    pub fn new() -> Result<Export> {
        Ok(Export { polls: Polls::new(1)?, reached: AtomicU64::new(0) })
    }

    fn step(&mut self) -> Result<()> {
        let value = self.reached.load(Ordering::Relaxed) + 1;
        let event = event()?;
        self.polls.push(&event, value);
        self.polls.arm()?;
        self.reached.store(value, Ordering::Release);
        event.write(1)?;
        let mut seen = 0;
        while seen == 0 {
            seen = self
                .polls
                .wait(1, |name| expect(name == value, || format!("{name} in place of {value}")))?;
        }
        Ok(())
    }
}

impl Contender for Export {
    fn run(&mut self, steps: u64) -> Result<()> {
        (0..steps).try_for_each(|_| self.step())
    }
}
