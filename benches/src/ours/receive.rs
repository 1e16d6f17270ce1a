//! Receiving a stream into a pool.

use crate::fixture::ends_are_right;
use crate::{Contender, Result, expect};
use dataplane::operations::RecvMany;
use dataplane::{LocalStream, Proactor, ReceivePool, Socket};
use futures_util::StreamExt;
use std::net::TcpStream;

/// A receive that goes on for ever.
pub struct Receiver {
    io: Proactor,
    stream: LocalStream<RecvMany>,
    position: u64,
    period: u64,
    _pool: ReceivePool,
    _socket: Socket,
}

impl Receiver {
    /// Receives from `socket` into a pool of `count` buffers of `bytes` each.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(socket: TcpStream, count: usize, bytes: usize, period: u64) -> Result<Receiver> {
        let io = super::proactor()?;
        let socket = io.adopt_socket(socket)?;
        socket.register()?;
        let pool = io.receive_pool(count, bytes)?;
        let stream = socket.receive_all(&pool).submit()?;
        Ok(Receiver { io, stream, position: 0, period, _pool: pool, _socket: socket })
    }

    /// Receives until `end` bytes have come in all.
    ///
    /// # Errors
    ///
    /// What the system says, the stream's end, and wrong bytes.
    pub fn receive_until(&mut self, end: u64) -> Result<()> {
        let (io, stream, position) = (&self.io, &mut self.stream, &mut self.position);
        let period = self.period;
        io.block_on(async {
            while *position < end {
                let filled = stream.next().await.ok_or("the stream ended")??;
                let right = ends_are_right(&filled, *position, period);
                expect(right, || format!("wrong bytes at {position}"))?;
                *position += filled.len() as u64;
            }
            Ok(())
        })?
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
