//! One program, two runtimes on one thread: a server on the proactor, its clients on tokio.
//!
//! Tokio drives the proactor as one of its tasks: it watches the proactor's descriptor and takes a
//! turn whenever that is readable. Every other task of the thread may then await operations of
//! either. Run it with `cargo run -p dataplane --example echo_tokio`.

use dataplane::{Hosted, Proactor, ReceivePool, Result, Socket};
use futures_util::StreamExt;
use std::future::pending;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

const CLIENTS: usize = 4;
const MESSAGE: &[u8] = b"from one runtime to the other";

/// On the proactor: sends back what arrives, from the very buffers it arrived in.
async fn serve(connection: Socket, pool: ReceivePool) -> Result<()> {
    let mut input = connection.receive_all(&pool).submit()?;
    while let Some(received) = input.next().await {
        connection.send_all(received?.freeze()).await?;
    }
    connection.finish().await?;
    Ok(())
}

/// On tokio: an ordinary client.
async fn converse(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(MESSAGE).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    assert_eq!(answer, MESSAGE);
    Ok(())
}

async fn work(io: Proactor) -> Result<()> {
    let pool = io.receive_pool(16, 4096)?;
    let listener = io.listen("127.0.0.1:0")?;
    let address = listener.local_addr()?.inet().expect("an address of TCP");
    let clients: Vec<_> = (0..CLIENTS).map(|_| spawn_local(converse(address))).collect();
    for _ in 0..CLIENTS {
        // A task of tokio's that awaits the proactor; it wakes the driver if that sleeps.
        let connection = listener.accept().await?;
        spawn_local(serve(connection, pool.clone()));
    }
    for client in clients {
        client.await.expect("no panic").expect("a good answer");
    }
    println!("{}: {CLIENTS} clients of tokio were answered", io.backend());
    Ok(())
}

/// Runs it.
///
/// # Errors
///
/// What the machine refuses: descriptors, memory, loopback.
pub fn main() -> Result<()> {
    let io = Proactor::new()?;
    // On the poll(2) backend there is nothing to watch, and this says so.
    let hosted = Hosted::new(&io)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        // Drives the proactor for as long as this task lives.
        let driver = spawn_local(hosted.drive_in_tokio(pending::<()>()));
        let worked = work(io).await;
        driver.abort();
        worked
    })
}
