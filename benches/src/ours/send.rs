//! Sending one span again and again.

use crate::{Contender, Result, expect};
use dataplane::{Proactor, Socket};
use regions::{Slab, Span};
use std::net::TcpStream;

/// Sends of one slot. A step is one.
pub struct Send {
    io: Proactor,
    socket: Socket,
    span: Span,
}

impl Send {
    /// Into `socket`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(socket: TcpStream, bytes: usize) -> Result<Send> {
        let io = super::proactor()?;
        let socket = io.adopt_socket(socket)?;
        socket.register()?;
        let span = Slab::new(1, bytes)?.lease()?.freeze();
        Ok(Send { io, socket, span })
    }
}

impl Contender for Send {
    fn run(&mut self, steps: u64) -> Result<()> {
        let (socket, span) = (&self.socket, &self.span);
        self.io.block_on(async {
            for _ in 0..steps {
                let sent = socket.send_all(span.clone()).await?.bytes;
                expect(sent == span.len(), || format!("sent {sent} of {} bytes", span.len()))?;
            }
            Ok(())
        })?
    }
}
