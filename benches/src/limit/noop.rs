//! No-ops: a batch of them, one system call, every completion looked at.
//!
//! Unsafe code: entries are pushed; a no-op points at nothing.
#![allow(unsafe_code)]

use super::ring::{Ring, count};
use crate::{Contender, Result, expect};
use io_uring::opcode;

/// `depth` no-ops at a time. A step is one no-op.
pub struct Noops {
    ring: Ring,
    depth: u64,
    /// Which of the batch have not come back.
    open: Vec<bool>,
}

impl Noops {
    /// With `depth` in flight.
    ///
    /// # Errors
    ///
    /// When there is no ring.
    pub fn new(depth: u32) -> Result<Noops> {
        let ring = Ring::new(depth.next_power_of_two().max(8))?;
        Ok(Noops { ring, depth: depth.into(), open: vec![false; depth as usize] })
    }

    fn batch(&mut self) -> Result<()> {
        for (index, open) in self.open.iter_mut().enumerate() {
            // SAFETY: a no-op points at nothing.
            unsafe { self.ring.push(&opcode::Nop::new().build().user_data(index as u64)) };
            *open = true;
        }
        let mut left = self.depth;
        while left > 0 {
            self.ring.enter(left as u32)?;
            self.ring.sync_completions();
            while let Some((index, result, _)) = self.ring.next_completion() {
                count(result, "nop")?;
                let open = self.open.get_mut(index as usize).ok_or("a completion of nothing")?;
                expect(std::mem::take(open), || format!("no-op {index} completed twice"))?;
                left -= 1;
            }
            self.ring.sync_completions();
        }
        Ok(())
    }
}

impl Contender for Noops {
    fn run(&mut self, steps: u64) -> Result<()> {
        for _ in 0..steps.div_ceil(self.depth) {
            self.batch()?;
        }
        Ok(())
    }
}
