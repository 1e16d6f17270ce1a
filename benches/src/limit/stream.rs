//! A file through a socket: reads into every free buffer, sends in the order of the file.
//!
//! The buffers go round: reads are started in order and may end in any, and the one send in flight
//! is of the oldest buffer. When it ends the buffer reads again and the next one is sent.
//!
//! Unsafe code: entries point into the buffers.
#![allow(unsafe_code)]

use super::memory::Buffers;
use super::ring::{Ring, count};
use crate::fixture::FILE_BYTES;
use crate::{Result, expect};
use io_uring::{opcode, types};
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

const FILE: u32 = 0;
const SOCKET: u32 = 1;
/// Marks the completion of a send; those of reads are the buffer's index.
const SEND: u64 = 1 << 32;

/// The sending end of the pipeline.
pub struct Sender {
    ring: Ring,
    buffers: Buffers,
    /// Which buffers have been read and not sent.
    full: Vec<bool>,
    _file: File,
    _socket: TcpStream,
}

/// How far one pass through the file is, in buffers.
struct Pass {
    chunks: usize,
    read: usize,
    sent: usize,
    sending: bool,
}

impl Sender {
    /// From `file` into `socket`, through `count` registered buffers of `bytes` each.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(file: File, socket: TcpStream, count: usize, bytes: usize) -> Result<Sender> {
        let ring = Ring::new(2 * count.next_power_of_two() as u32)?;
        let buffers = Buffers::new(count, bytes)?;
        buffers.register(&ring)?;
        ring.register().register_files(&[file.as_raw_fd(), socket.as_raw_fd()])?;
        Ok(Sender { ring, buffers, full: vec![false; count], _file: file, _socket: socket })
    }

    fn read(&mut self, pass: &mut Pass) {
        if pass.read == pass.chunks {
            return;
        }
        let (index, bytes) = (pass.read % self.full.len(), self.buffers.bytes());
        let read =
            opcode::ReadFixed::new(types::Fixed(FILE), self.buffers.at(index), bytes as u32, 0)
                .offset((pass.read * bytes) as u64)
                .build();
        // SAFETY: the buffer lives as long as the ring, and its send is over.
        unsafe { self.ring.push(&read.user_data(index as u64)) };
        pass.read += 1;
    }

    fn send(&mut self, pass: &mut Pass) {
        let index = pass.sent % self.full.len();
        if pass.sending || !self.full[index] {
            return;
        }
        pass.sending = true;
        let (at, bytes) = (self.buffers.at(index), self.buffers.bytes() as u32);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let send = opcode::Send::new(types::Fixed(SOCKET), at, bytes).flags(flags).build();
        // SAFETY: the buffer lives as long as the ring, and its read is over.
        unsafe { self.ring.push(&send.user_data(SEND | index as u64)) };
    }

    fn take(&mut self, pass: &mut Pass, name: u64, result: i32) -> Result<()> {
        let (bytes, index) = (count(result, "stream")?, (name & !SEND) as usize);
        expect(bytes == self.buffers.bytes(), || format!("moved {bytes} bytes of a buffer"))?;
        if name & SEND == 0 {
            self.full[index] = true;
        } else {
            self.full[index] = false;
            pass.sending = false;
            pass.sent += 1;
            self.read(pass);
        }
        self.send(pass);
        Ok(())
    }

    /// Sends the whole file once.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn pass(&mut self) -> Result<()> {
        let chunks = FILE_BYTES as usize / self.buffers.bytes();
        let mut pass = Pass { chunks, read: 0, sent: 0, sending: false };
        for _ in 0..self.full.len() {
            self.read(&mut pass);
        }
        while pass.sent < pass.chunks {
            self.ring.enter(1)?;
            self.ring.sync_completions();
            while let Some((name, result, _)) = self.ring.next_completion() {
                self.take(&mut pass, name, result)?;
            }
            self.ring.sync_completions();
        }
        Ok(())
    }
}
