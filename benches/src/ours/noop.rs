//! No-ops, in the three ways of being told.

use crate::{Contender, Result, expect};
use dataplane::{Nop, Proactor, Submission, Wait};
use std::cell::Cell;
use std::rc::Rc;

/// How one learns that an operation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Submissions awaited in a task.
    Futures,
    /// The loop is polled until all are delivered, then each result is taken.
    TryTake,
    /// Each has a callback.
    Callbacks,
}

impl Told {
    /// All of them.
    pub const ALL: [Told; 3] = [Told::Futures, Told::TryTake, Told::Callbacks];

    /// Its name in questions.
    pub fn name(self) -> &'static str {
        match self {
            Told::Futures => "futures",
            Told::TryTake => "try_take",
            Told::Callbacks => "callbacks",
        }
    }
}

/// `depth` no-ops at a time. A step is one no-op.
pub struct Noops {
    io: Proactor,
    depth: usize,
    told: Told,
    /// Used again for every batch.
    submissions: Vec<Submission<Nop>>,
}

impl Noops {
    /// With `depth` in flight.
    ///
    /// # Errors
    ///
    /// When there is no io_uring.
    pub fn new(depth: usize, told: Told) -> Result<Noops> {
        let io = super::proactor()?;
        Ok(Noops { io, depth, told, submissions: Vec::with_capacity(depth) })
    }

    fn poll(&self, mut left: usize) -> Result<()> {
        while left > 0 {
            left -= self.io.poll(Wait::Forever)?;
        }
        Ok(())
    }

    fn take(&mut self, batches: u64) -> Result<()> {
        for _ in 0..batches {
            for _ in 0..self.depth {
                self.submissions.push(self.io.nop().submit()?);
            }
            self.poll(self.depth)?;
            for mut submission in self.submissions.drain(..) {
                submission.try_take().ok_or("delivered, and not there")??;
            }
        }
        Ok(())
    }

    fn await_all(&mut self, batches: u64) -> Result<()> {
        let (io, submissions, depth) = (&self.io, &mut self.submissions, self.depth);
        io.block_on(async {
            for _ in 0..batches {
                for _ in 0..depth {
                    submissions.push(io.nop().submit()?);
                }
                for submission in submissions.drain(..) {
                    submission.await?;
                }
            }
            Ok(())
        })?
    }

    fn call_back(&mut self, batches: u64) -> Result<()> {
        let seen = Rc::new(Cell::new(0));
        for batch in 1..=batches {
            for _ in 0..self.depth {
                let seen = seen.clone();
                self.io.nop().on_complete(move |result| {
                    seen.set(seen.get() + u64::from(result.is_ok()));
                })?;
            }
            self.poll(self.depth)?;
            let all = batch * self.depth as u64;
            expect(seen.get() == all, || format!("{} of {all} no-ops succeeded", seen.get()))?;
        }
        Ok(())
    }
}

impl Contender for Noops {
    fn run(&mut self, steps: u64) -> Result<()> {
        let batches = steps.div_ceil(self.depth as u64);
        match self.told {
            Told::Futures => self.await_all(batches),
            Told::TryTake => self.take(batches),
            Told::Callbacks => self.call_back(batches),
        }
    }
}
