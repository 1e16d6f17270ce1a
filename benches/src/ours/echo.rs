//! Echo: a client task and a server task on one proactor.

use crate::{Contender, Result, expect, wire};
use dataplane::{Proactor, Socket};
use futures_util::future;
use regions::Slab;

/// Round trips of one slot of bytes. A step is one.
pub struct Echo {
    io: Proactor,
    slab: Slab,
    client: Socket,
    server: Socket,
    number: u64,
}

impl Echo {
    /// A connection of messages of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(bytes: usize) -> Result<Echo> {
        let io = super::proactor()?;
        let (client, server) = wire::pair()?;
        let (client, server) = (io.adopt_socket(client)?, io.adopt_socket(server)?);
        client.register()?;
        server.register()?;
        Ok(Echo { io, slab: Slab::new(4, bytes)?, client, server, number: 0 })
    }
}

async fn serve(socket: &Socket, slab: &Slab, steps: u64) -> Result<()> {
    for _ in 0..steps {
        let message = socket.recv_all(slab.lease()?).await?;
        expect(message.len() == slab.slot_bytes(), || "half a message".to_owned())?;
        socket.send_all(message.freeze()).await?;
    }
    Ok(())
}

async fn ask(socket: &Socket, slab: &Slab, number: &mut u64, steps: u64) -> Result<()> {
    for _ in 0..steps {
        *number += 1;
        let mut message = slab.lease()?;
        message[..8].copy_from_slice(&number.to_le_bytes());
        socket.send_all(message.freeze()).await?;
        let answer = socket.recv_all(slab.lease()?).await?;
        expect(answer.len() == slab.slot_bytes(), || "half an answer".to_owned())?;
        let right = answer[..8] == number.to_le_bytes();
        expect(right, || format!("message {number} is another"))?;
    }
    Ok(())
}

impl Contender for Echo {
    fn run(&mut self, steps: u64) -> Result<()> {
        let server = serve(&self.server, &self.slab, steps);
        let client = ask(&self.client, &self.slab, &mut self.number, steps);
        self.io.block_on(future::try_join(server, client))??;
        Ok(())
    }
}
