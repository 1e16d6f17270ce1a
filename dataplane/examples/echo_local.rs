//! An echo server and its clients on one thread: a proactor, its own tasks, and nothing `Send`.
//!
//! The server accepts, and gives each connection a task. A task receives into buffers of a pool
//! and sends the same buffers back: the bytes are never copied in this process. Run it with
//! `cargo run -p dataplane --example echo_local`.

use dataplane::{Address, Proactor, ReceivePool, Result, Socket};
use futures_util::StreamExt;
use std::cell::Cell;
use std::rc::Rc;

/// Connections that are made, one after another in time, all served at once.
const CLIENTS: usize = 8;
/// Round trips of each.
const ROUNDS: usize = 100;
const MESSAGE: &[u8] = b"there and back again";

/// Sends back whatever arrives, until the peer has finished. A lease that was received is frozen
/// into a span, which the send shares; when the kernel is done with it the buffer returns to the
/// pool by itself.
async fn serve(connection: Socket, pool: ReceivePool) -> Result<u64> {
    let mut bytes = 0;
    let mut input = connection.receive_all(&pool).submit()?;
    while let Some(received) = input.next().await {
        let received = received?;
        bytes += received.len() as u64;
        connection.send_all(received.freeze()).await?;
    }
    connection.finish().await?;
    Ok(bytes)
}

/// Gives each connection a task. `io` is a lent proactor: a task that owned one would keep the loop
/// it runs on from ever ending.
async fn accept(
    io: Proactor,
    listener: Socket,
    pool: ReceivePool,
    echoed: Rc<Cell<u64>>,
) -> Result<()> {
    let mut incoming = listener.incoming().submit()?;
    for _ in 0..CLIENTS {
        let connection = incoming.next().await.expect("listening until dropped")?;
        let (pool, echoed) = (pool.clone(), echoed.clone());
        // Nobody joins it: a dropped handle lets its task go on. If it panics, poll does.
        io.spawn(async move {
            let bytes = serve(connection, pool).await.expect("a client that behaves");
            echoed.set(echoed.get() + bytes);
        });
    }
    Ok(())
}

/// One connection, a hundred round trips. Received bytes come in pieces of any size, as TCP likes.
async fn converse(io: Proactor, server: Address, pool: ReceivePool) -> Result<()> {
    let connection = io.connect(server).await?;
    let mut answers = connection.receive_all(&pool).submit()?;
    for _ in 0..ROUNDS {
        connection.send_all(MESSAGE).await?;
        let mut answer = Vec::new();
        while answer.len() < MESSAGE.len() {
            let piece = answers.next().await.expect("the server answers before it finishes");
            answer.extend_from_slice(&piece?);
        }
        assert_eq!(answer, MESSAGE);
    }
    connection.finish().await?;
    assert!(answers.next().await.is_none(), "the server finishes when the client did");
    Ok(())
}

/// Runs it.
///
/// # Errors
///
/// What the machine refuses: descriptors, memory, loopback.
pub fn main() -> Result<()> {
    let io = Proactor::new()?;
    let pool = io.receive_pool(64, 4096)?;
    let listener = io.listen("127.0.0.1:0")?;
    let address = listener.local_addr()?;

    // What the tasks count is shared by `Rc`: they all run on this thread, inside `poll`.
    let echoed = Rc::new(Cell::new(0));
    let server = io.spawn_with(|io| accept(io, listener, pool.clone(), echoed.clone()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| io.spawn_with(|io| converse(io, address.clone(), pool.clone())))
        .collect();
    io.block_on(async {
        for client in clients {
            client.await??;
        }
        server.await?
    })??;

    let expected = (CLIENTS * ROUNDS * MESSAGE.len()) as u64;
    while io.stats().tasks > 0 {
        io.poll(dataplane::Wait::Forever)?;
    }
    assert_eq!(echoed.get(), expected);
    println!("{}: {CLIENTS} clients, {expected} bytes there and back", io.backend());
    Ok(())
}
