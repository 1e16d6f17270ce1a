//! Random reads of a file into a registered slab: as many in flight as it has slots, each started
//! again when it was taken.

use crate::fixture::{FILE_BYTES, Offsets, ends_are_right};
use crate::{Contender, Result, expect};
use dataplane::operations;
use dataplane::{Filled, Proactor, Registration, Submission, Wait};
use regions::{Lease, Slab};

/// Reads of one slot. A step is one.
pub struct Read {
    io: Proactor,
    file: dataplane::File,
    slab: Slab,
    /// What is under way, and from where.
    reading: Vec<(Submission<operations::Read>, u64)>,
    offsets: Offsets,
    _registration: Registration,
}

impl Read {
    /// As many at a time as the slab has slots.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(file: std::fs::File, slab: Slab) -> Result<Read> {
        let io = super::proactor()?;
        let file = io.adopt_file(file)?;
        file.register()?;
        let registration = io.register_slab(&slab)?;
        let reading = Vec::with_capacity(slab.slots());
        let offsets = Offsets::new(slab.slot_bytes());
        Ok(Read { io, file, slab, reading, offsets, _registration: registration })
    }

    fn start(&mut self, lease: Lease) -> Result<(Submission<operations::Read>, u64)> {
        let offset = self.offsets.next_offset();
        Ok((self.file.read_at(lease, offset).submit()?, offset))
    }

    fn check(&self, filled: Filled, from: u64) -> Result<Lease> {
        let bytes = filled.len();
        expect(bytes == self.slab.slot_bytes(), || format!("read {bytes} bytes at {from}"))?;
        let right = ends_are_right(&filled, from, FILE_BYTES);
        expect(right, || format!("wrong bytes at {from}"))?;
        Ok(filled.into_lease())
    }
}

impl Contender for Read {
    fn run(&mut self, steps: u64) -> Result<()> {
        let depth = (self.slab.slots() as u64).min(steps);
        for _ in 0..depth {
            let lease = self.slab.lease()?;
            let started = self.start(lease)?;
            self.reading.push(started);
        }
        let (mut started, mut done) = (depth, 0);
        while done < steps {
            let mut delivered = self.io.poll(Wait::Forever)?;
            let mut index = 0;
            while delivered > 0 && index < self.reading.len() {
                let (submission, from) = &mut self.reading[index];
                let from = *from;
                let Some(result) = submission.try_take() else {
                    index += 1;
                    continue;
                };
                let lease = self.check(result?, from)?;
                delivered -= 1;
                done += 1;
                if started < steps {
                    started += 1;
                    self.reading[index] = self.start(lease)?;
                    index += 1;
                } else {
                    drop(self.reading.swap_remove(index));
                }
            }
        }
        Ok(())
    }
}
