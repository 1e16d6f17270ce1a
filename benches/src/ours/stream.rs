//! A file through a socket: the file as a stream of slots, each sent in turn.

use crate::fixture::FILE_BYTES;
use crate::{Result, expect};
use dataplane::{Proactor, Registration, Socket};
use futures_util::StreamExt;
use regions::Slab;
use std::net::TcpStream;

/// The sending end of the pipeline.
pub struct Sender {
    io: Proactor,
    file: dataplane::File,
    socket: Socket,
    slab: Slab,
    _registration: Registration,
}

impl Sender {
    /// From `file` into `socket`, through a registered slab of `count` slots of `bytes` each.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(
        file: std::fs::File,
        socket: TcpStream,
        count: usize,
        bytes: usize,
    ) -> Result<Sender> {
        let io = super::proactor()?;
        let (file, socket) = (io.adopt_file(file)?, io.adopt_socket(socket)?);
        file.register()?;
        socket.register()?;
        let slab = Slab::new(count, bytes)?;
        let registration = io.register_slab(&slab)?;
        Ok(Sender { io, file, socket, slab, _registration: registration })
    }

    /// Sends the whole file once.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn pass(&mut self) -> Result<()> {
        let mut chunks = self.file.stream(&self.slab, 0)?.depth(self.slab.slots());
        let socket = &self.socket;
        self.io.block_on(async {
            let mut sent = 0;
            while let Some(chunk) = chunks.next().await {
                sent += socket.send_all(chunk?.freeze()).await?.bytes as u64;
            }
            expect(sent == FILE_BYTES, || format!("sent {sent} of {FILE_BYTES} bytes"))
        })?
    }
}
