//! Random reads of a file: as many in flight as there are buffers, each buffer with a read of its
//! own, started again when it ends.
//!
//! Unsafe code: entries point into the buffers, which are looked at between two reads.
#![allow(unsafe_code)]

use super::memory::Buffers;
use super::ring::{Ring, count};
use crate::fixture::{FILE_BYTES, Offsets, ends_are_right};
use crate::{Contender, Result, expect};
use io_uring::{opcode, types};
use regions::Slab;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Reads of `bytes` bytes. A step is one.
pub struct Read {
    ring: Ring,
    buffers: Buffers,
    /// Where the read of each buffer is from.
    from: Vec<u64>,
    offsets: Offsets,
    _file: File,
}

impl Read {
    /// As many at a time as the slab has slots; none is leased by others while this runs.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(file: File, slab: Slab) -> Result<Read> {
        let (depth, bytes) = (slab.slots(), slab.slot_bytes());
        let ring = Ring::new(depth.next_power_of_two().max(8) as u32)?;
        let buffers = Buffers::over(slab);
        buffers.register(&ring)?;
        ring.register().register_files(&[file.as_raw_fd()])?;
        let offsets = Offsets::new(bytes);
        Ok(Read { ring, buffers, from: vec![0; depth], offsets, _file: file })
    }

    fn start(&mut self, index: usize) {
        let offset = self.offsets.next_offset();
        self.from[index] = offset;
        let (at, bytes) = (self.buffers.at(index), self.buffers.bytes() as u32);
        let read = opcode::ReadFixed::new(types::Fixed(0), at, bytes, 0).offset(offset).build();
        // SAFETY: the buffer lives as long as the ring, and has one read at a time.
        unsafe { self.ring.push(&read.user_data(index as u64)) };
    }

    fn check(&self, index: usize, result: i32) -> Result<()> {
        let (bytes, from) = (count(result, "read")?, self.from[index]);
        expect(bytes == self.buffers.bytes(), || format!("read {bytes} bytes at {from}"))?;
        // SAFETY: its read is over.
        let content = unsafe { self.buffers.content(index, bytes) };
        expect(ends_are_right(content, from, FILE_BYTES), || format!("wrong bytes at {from}"))
    }
}

impl Contender for Read {
    fn run(&mut self, steps: u64) -> Result<()> {
        let depth = (self.from.len() as u64).min(steps);
        for index in 0..depth as usize {
            self.start(index);
        }
        let (mut started, mut done) = (depth, 0);
        while done < steps {
            self.ring.enter(1)?;
            self.ring.sync_completions();
            while let Some((index, result, _)) = self.ring.next_completion() {
                self.check(index as usize, result)?;
                done += 1;
                if started < steps {
                    started += 1;
                    self.start(index as usize);
                }
            }
            self.ring.sync_completions();
        }
        Ok(())
    }
}
