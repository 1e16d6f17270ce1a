//! A future over a handle's sockets may be given to any runtime: it is Send and owns all it needs.
use dataplane::Handle;
use dataplane::regions::Slab;
use std::future::Future;
use std::pin::Pin;

fn spawn(_: Pin<Box<dyn Future<Output = dataplane::Result<usize>> + Send + 'static>>) {}

fn echo(handle: Handle, slab: Slab) {
    spawn(Box::pin(async move {
        let socket = handle.connect("127.0.0.1:9").await?;
        let filled = socket.recv(slab.lease()?).await?;
        let sent = socket.send_all(filled.freeze()).await?;
        Ok(sent.bytes)
    }));
}

fn main() {
    let _ = echo;
}
