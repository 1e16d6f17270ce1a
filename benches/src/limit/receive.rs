//! Receiving a stream: one multishot receive over a ring of buffers.
//!
//! Unsafe code: an entry is pushed, and buffers are looked at.
#![allow(unsafe_code)]

use super::memory::{BufferRing, Buffers};
use super::ring::{Ring, count};
use crate::fixture::ends_are_right;
use crate::{Contender, Result, expect};
use io_uring::{cqueue, opcode, types};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

/// A multishot receive and what it needs; it goes on for ever.
pub struct Receiver {
    ring: Ring,
    buffer_ring: BufferRing,
    buffers: Buffers,
    socket: TcpStream,
    /// Position in the stream, and after how many bytes it repeats.
    position: u64,
    period: u64,
    armed: bool,
}

impl Receiver {
    /// Receives from `socket` into `count` buffers of `bytes` each.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(socket: TcpStream, count: usize, bytes: usize, period: u64) -> Result<Receiver> {
        let (ring, buffers) = (Ring::new(8)?, Buffers::new(count, bytes)?);
        ring.register().register_files(&[socket.as_raw_fd()])?;
        let buffer_ring = BufferRing::new(&ring, &buffers)?;
        Ok(Receiver { ring, buffer_ring, buffers, socket, position: 0, period, armed: false })
    }

    fn arm(&mut self) {
        if !std::mem::replace(&mut self.armed, true) {
            let entry = opcode::RecvMulti::new(types::Fixed(0), 0).build();
            // SAFETY: the buffers of group 0 live as long as the ring.
            unsafe { self.ring.push(&entry) };
        }
    }

    /// One completion: looks at the bytes and gives the buffer back.
    fn take(&mut self, result: i32, flags: u32) -> Result<()> {
        self.armed = cqueue::more(flags);
        if result == -libc::ENOBUFS {
            return Ok(());
        }
        let bytes = count(result, "receive")?;
        let index = cqueue::buffer_select(flags).ok_or("the stream ended")?;
        // SAFETY: the kernel has given the buffer back with this many bytes in it.
        let content = unsafe { self.buffers.content(index.into(), bytes) };
        let right = ends_are_right(content, self.position, self.period);
        expect(right, || format!("wrong bytes at {}", self.position))?;
        self.position += bytes as u64;
        self.buffer_ring.give(&self.buffers, index);
        Ok(())
    }

    /// Receives until `end` bytes have come in all.
    ///
    /// # Errors
    ///
    /// What the system says, the stream's end, and wrong bytes.
    pub fn receive_until(&mut self, end: u64) -> Result<()> {
        while self.position < end {
            self.arm();
            self.ring.enter(1)?;
            self.ring.sync_completions();
            while let Some((_, result, flags)) = self.ring.next_completion() {
                self.take(result, flags)?;
            }
            self.ring.sync_completions();
            self.buffer_ring.publish();
        }
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Closing the ring would not stop a receive: the socket's end does.
        let _ = self.socket.shutdown(Shutdown::Both);
        while self.armed && self.ring.enter(1).is_ok() {
            self.ring.sync_completions();
            while let Some((_, _, flags)) = self.ring.next_completion() {
                self.armed = cqueue::more(flags);
                if let Some(index) = cqueue::buffer_select(flags) {
                    self.buffer_ring.give(&self.buffers, index);
                }
            }
            self.ring.sync_completions();
            self.buffer_ring.publish();
        }
    }
}

/// Receiving from a peer. A step is 1 MiB.
pub struct Receive {
    receiver: Receiver,
    end: u64,
}

impl Receive {
    /// Over a receiver that has received nothing yet.
    pub fn new(receiver: Receiver) -> Receive {
        Receive { receiver, end: 0 }
    }
}

impl Contender for Receive {
    fn run(&mut self, steps: u64) -> Result<()> {
        self.end += steps << 20;
        self.receiver.receive_until(self.end)
    }
}
