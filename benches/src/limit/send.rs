//! Sending: one send at a time, since two on one stream could change places.
//!
//! Unsafe code: an entry is pushed.
#![allow(unsafe_code)]

use super::memory::Buffers;
use super::ring::{Ring, count};
use crate::{Contender, Result, expect};
use io_uring::{opcode, types};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Sends of `bytes` bytes. A step is one.
pub struct Send {
    ring: Ring,
    buffers: Buffers,
    bytes: usize,
    _socket: TcpStream,
}

impl Send {
    /// Into `socket`, from one buffer.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(socket: TcpStream, bytes: usize) -> Result<Send> {
        let (ring, buffers) = (Ring::new(8)?, Buffers::new(1, bytes)?);
        ring.register().register_files(&[socket.as_raw_fd()])?;
        Ok(Send { ring, buffers, bytes, _socket: socket })
    }
}

impl Contender for Send {
    fn run(&mut self, steps: u64) -> Result<()> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(types::Fixed(0), self.buffers.at(0), self.bytes as u32)
            .flags(flags)
            .build();
        for _ in 0..steps {
            // SAFETY: the buffer lives as long as the ring.
            unsafe { self.ring.push(&entry) };
            let result = loop {
                self.ring.enter(1)?;
                self.ring.sync_completions();
                if let Some((_, result, _)) = self.ring.next_completion() {
                    break result;
                }
            };
            let sent = count(result, "send")?;
            expect(sent == self.bytes, || format!("sent {sent} of {} bytes", self.bytes))?;
        }
        Ok(())
    }
}
