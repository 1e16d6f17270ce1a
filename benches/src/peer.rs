//! The other end of a connection, where only one end is measured: a plain blocking thread.
//!
//! Peers know when to stop by the connection's end, and wait in the kernel while the measured side
//! is idle: a sender when the socket is full, a receiver when it is empty.

use crate::fixture::{self, WIRE_PERIOD_BYTES};
use crate::{Error, Result};
use nix::sys::socket::{MsgFlags, recv};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;

/// Bytes of one write of the sender.
const WRITE_BYTES: usize = 256 << 10;
/// Bytes one call of the receiver may discard.
const DISCARD_BYTES: usize = 1 << 20;

/// A peer thread; it ends, and is joined, when this goes.
#[derive(Debug)]
pub struct Peer {
    socket: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Sends the pattern of [`fixture`] for ever, with a period of [`WIRE_PERIOD_BYTES`].
    ///
    /// # Errors
    ///
    /// When no thread or descriptor can be had.
    pub fn sender(socket: TcpStream) -> Result<Peer> {
        let mut writer = socket.try_clone()?;
        let mut pattern = vec![0; WIRE_PERIOD_BYTES as usize];
        fixture::fill(&mut pattern, 0);
        Peer::start("sender", socket, move || {
            // Writing ends with an error when the socket is shut down.
            while pattern.chunks(WRITE_BYTES).all(|part| writer.write_all(part).is_ok()) {}
        })
    }

    /// Throws away what arrives without copying it out of the kernel (MSG_TRUNC, `tcp(7)`), so
    /// that the sender is what is measured.
    ///
    /// # Errors
    ///
    /// When no thread or descriptor can be had.
    pub fn discarder(socket: TcpStream) -> Result<Peer> {
        let reader = socket.try_clone()?;
        Peer::start("discarder", socket, move || {
            let mut unused = vec![0; DISCARD_BYTES];
            while matches!(recv(reader.as_raw_fd(), &mut unused, MsgFlags::MSG_TRUNC), Ok(1..)) {}
        })
    }

    fn start(name: &str, socket: TcpStream, work: impl FnOnce() + Send + 'static) -> Result<Peer> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|error| Error::from(format!("peer thread: {error}")))?;
        Ok(Peer { socket, thread: Some(thread) })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails when the other end has reset the connection: then the thread is ending anyway.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
