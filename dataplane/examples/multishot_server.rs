//! A server that asks the kernel once: one accept for all connections, one receive for each.
//!
//! A multishot operation is a stream. It is submitted once and brings results until it ends, which
//! saves the submission of every further accept and receive; no buffer is handed out before there
//! is something to put in it. Where the kernel cannot do it the same streams come from an
//! emulation.
//! This program counts what arrived and how often a stream had to be armed again. Run it with
//! `cargo run -p dataplane --example multishot_server`.

use dataplane::{Address, Capability, Proactor, ReceivePool, Result, Socket};
use futures_util::StreamExt;
use futures_util::future::join_all;

const CLIENTS: usize = 16;
const MESSAGES: usize = 50;
const MESSAGE_BYTES: usize = 300;

/// Adds up what arrives on a connection until its peer has finished.
async fn count(connection: Socket, pool: ReceivePool) -> Result<usize> {
    let mut bytes = 0;
    let mut input = connection.receive_all(&pool).submit()?;
    while let Some(received) = input.next().await {
        // The lease is dropped here: its buffer goes back to the kernel for the next message. Were
        // it kept, the pool would run dry, the stream pause, and go on by itself later.
        bytes += received?.len();
    }
    Ok(bytes)
}

async fn send(io: Proactor, server: Address) -> Result<()> {
    let connection = io.connect(server).await?;
    let message = dataplane::regions::Span::from(vec![7; MESSAGE_BYTES]);
    for _ in 0..MESSAGES {
        connection.send_all(message.clone()).await?;
    }
    connection.finish().await?;
    Ok(())
}

/// Runs it.
///
/// # Errors
///
/// What the machine refuses: descriptors, memory, loopback.
pub fn main() -> Result<()> {
    let io = Proactor::new()?;
    let pool = io.receive_pool(32, 1024)?;
    let listener = io.listen("127.0.0.1:0")?;
    let address = listener.local_addr()?;

    let server = io.spawn_with(|io| async move {
        let mut counting = Vec::new();
        let incoming = listener.incoming().submit()?;
        // Dropping the stream at the end cancels the accept.
        let mut incoming = incoming.take(CLIENTS);
        while let Some(connection) = incoming.next().await {
            counting.push(io.spawn(count(connection?, pool.clone())));
        }
        let counted: Result<Vec<Result<usize>>> = join_all(counting).await.into_iter().collect();
        counted?.into_iter().sum::<Result<usize>>()
    });
    for _ in 0..CLIENTS {
        io.spawn_with(|io| send(io, address.clone())).detach();
    }
    let bytes = io.block_on(server)???;

    assert_eq!(bytes, CLIENTS * MESSAGES * MESSAGE_BYTES);
    let multishot = io.capabilities().contains(Capability::Multishot);
    let rearmed = io.stats().rearmed;
    println!(
        "{}, multishot: {multishot}: {bytes} bytes in {} messages of {CLIENTS} clients; streams \
         armed again: {rearmed}",
        io.backend(),
        CLIENTS * MESSAGES
    );
    Ok(())
}
