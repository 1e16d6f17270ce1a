//! Echo: a client and a server on one ring, one message between them.
//!
//! Unsafe code: entries point into the buffers.
#![allow(unsafe_code)]

use super::memory::Buffers;
use super::ring::{Ring, count};
use crate::{Contender, Result, expect, wire};
use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Registered files, and buffers: who receives into which.
const CLIENT: u32 = 0;
const SERVER: u32 = 1;
/// The buffer the client sends from.
const MESSAGE: usize = 2;

/// What a completion is of.
const SERVER_RECV: u64 = 0;
const SERVER_SEND: u64 = 1;
const CLIENT_SEND: u64 = 2;
const CLIENT_RECV: u64 = 3;

/// Round trips of `bytes` bytes. A step is one.
pub struct Echo {
    ring: Ring,
    buffers: Buffers,
    bytes: usize,
    number: u64,
    _sockets: (TcpStream, TcpStream),
}

impl Echo {
    /// A connection and a ring.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(bytes: usize) -> Result<Echo> {
        let (ring, buffers, sockets) = (Ring::new(8)?, Buffers::new(3, bytes)?, wire::pair()?);
        ring.register().register_files(&[sockets.0.as_raw_fd(), sockets.1.as_raw_fd()])?;
        Ok(Echo { ring, buffers, bytes, number: 0, _sockets: sockets })
    }

    fn push(&mut self, entry: Entry, name: u64) {
        // SAFETY: the buffers live as long as the ring, and the steps below use each for one
        // operation at a time.
        unsafe { self.ring.push(&entry.user_data(name)) }
    }

    fn recv(&mut self, file: u32, name: u64) {
        let at = self.buffers.at(file as usize);
        let recv = opcode::Recv::new(types::Fixed(file), at, self.bytes as u32);
        self.push(recv.flags(libc::MSG_WAITALL).build(), name);
    }

    fn send(&mut self, file: u32, buffer: usize, name: u64) {
        let at = self.buffers.at(buffer);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let send = opcode::Send::new(types::Fixed(file), at, self.bytes as u32).flags(flags);
        self.push(send.build(), name);
    }

    /// The client's next message.
    fn start(&mut self) {
        self.number += 1;
        // SAFETY: the message before has gone round, and is at least 8 bytes.
        let message = unsafe { self.buffers.content_mut(MESSAGE, 8) };
        message.copy_from_slice(&self.number.to_le_bytes());
        self.send(CLIENT, MESSAGE, CLIENT_SEND);
    }

    fn check(&self) -> Result<()> {
        // SAFETY: the receive into it is over, and it is at least 8 bytes.
        let came = unsafe { self.buffers.content(CLIENT as usize, 8) };
        expect(came == self.number.to_le_bytes(), || format!("message {} is another", self.number))
    }
}

impl Contender for Echo {
    fn run(&mut self, steps: u64) -> Result<()> {
        let mut left = steps;
        self.recv(SERVER, SERVER_RECV);
        self.start();
        // The server receives once more than there are messages, unless it is told to stop.
        let mut receives = steps;
        while left > 0 {
            self.ring.enter(1)?;
            self.ring.sync_completions();
            while let Some((name, result, _)) = self.ring.next_completion() {
                let moved = count(result, "echo")?;
                expect(moved == self.bytes, || format!("echo moved {moved} bytes"))?;
                match name {
                    SERVER_RECV => self.send(SERVER, SERVER as usize, SERVER_SEND),
                    SERVER_SEND => {
                        receives -= 1;
                        if receives > 0 {
                            self.recv(SERVER, SERVER_RECV);
                        }
                    }
                    CLIENT_SEND => self.recv(CLIENT, CLIENT_RECV),
                    CLIENT_RECV => {
                        self.check()?;
                        left -= 1;
                        if left > 0 {
                            self.start();
                        }
                    }
                    other => return Err(format!("a completion of nothing: {other}").into()),
                }
            }
            self.ring.sync_completions();
        }
        while receives > 0 {
            self.ring.enter(1)?;
            self.ring.sync_completions();
            while let Some((_, result, _)) = self.ring.next_completion() {
                count(result, "echo")?;
                receives -= 1;
            }
            self.ring.sync_completions();
        }
        Ok(())
    }
}
