//! Fences: eventfds imported into semaphores, and semaphores exported as descriptors.
//!
//! A descriptor whose kind is known is taken for what it is; any other is sorted out first, as a
//! user does who was given one by somebody else. What waits for an exported one is the limit's
//! ring, the same on both sides.

use crate::limit::fence::{Kind, Polls, event};
use crate::{Contender, Result, expect};
use dataplane::fence::{Failed, Fence, Semaphore};
use dataplane::{Proactor, Wait};
use nix::sys::eventfd::EventFd;
use std::os::fd::AsFd;

/// A fence at a time: taken over, armed, signalled, waited for. A step is one.
pub struct Import {
    io: Proactor,
    event: EventFd,
    kind: Kind,
    semaphore: Semaphore,
}

impl Import {
    /// With an event of its own.
    ///
    /// # Errors
    ///
    /// When there is no io_uring or no descriptor.
    pub fn new(kind: Kind) -> Result<Import> {
        let (io, event) = (super::proactor()?, event()?);
        Ok(Import { io, event, kind, semaphore: Semaphore::new(0) })
    }

    fn step(&mut self) -> Result<()> {
        let value = self.semaphore.value()? + 1;
        let fd = self.event.as_fd().try_clone_to_owned()?;
        let fence = match self.kind {
            Kind::Known => Fence::Event(fd),
            Kind::Sorted => Fence::from_fd(fd)?,
        };
        self.io.import_fence(fence, &self.semaphore, value)?;
        self.io.flush()?;
        self.event.write(1)?;
        while self.semaphore.value()? < value {
            self.io.poll(Wait::Forever)?;
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
    io: Proactor,
    events: Vec<EventFd>,
    semaphores: Vec<Semaphore>,
    round: u64,
}

impl Armed {
    /// With `depth` of them armed at most.
    ///
    /// # Errors
    ///
    /// When there is no io_uring or no descriptor.
    pub fn new(depth: usize) -> Result<Armed> {
        Ok(Armed {
            io: super::proactor()?,
            events: (0..depth).map(|_| event()).collect::<Result<_>>()?,
            semaphores: (0..depth).map(|_| Semaphore::new(0)).collect(),
            round: 0,
        })
    }
}

impl Contender for Armed {
    fn prepare(&mut self, steps: u64) -> Result<u64> {
        let count = self.events.len().min(steps as usize);
        self.round += 1;
        for (event, semaphore) in self.events.iter().zip(&self.semaphores).take(count) {
            // What the last round left; nothing, before the first.
            let _ = event.read();
            let fence = Fence::from_fd(event.as_fd().try_clone_to_owned()?)?;
            self.io.import_fence(fence, semaphore, self.round)?;
        }
        self.io.flush()?;
        Ok(count as u64)
    }

    fn run(&mut self, steps: u64) -> Result<()> {
        for event in &self.events[..steps as usize] {
            event.write(1)?;
        }
        let (semaphores, round) = (&self.semaphores[..steps as usize], self.round);
        let come = || {
            semaphores.iter().try_fold(0, |come, semaphore| {
                Ok::<_, Failed>(come + u64::from(semaphore.value()? == round))
            })
        };
        while come()? < steps {
            self.io.poll(Wait::Forever)?;
        }
        Ok(())
    }
}

/// A semaphore exported as a descriptor, which a ring waits for, and signalled. A step is one.
pub struct Export {
    polls: Polls,
    semaphore: Semaphore,
}

impl Export {
    /// With a ring that waits.
    ///
    /// # Errors
    ///
    /// When there is no ring.
    pub fn new() -> Result<Export> {
        Ok(Export { polls: Polls::new(1)?, semaphore: Semaphore::new(0) })
    }

    fn step(&mut self) -> Result<()> {
        let value = self.semaphore.value()? + 1;
        let exported = self.semaphore.export(value, None)?;
        self.polls.push(&exported, value);
        self.polls.arm()?;
        self.semaphore.signal(value)?;
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
