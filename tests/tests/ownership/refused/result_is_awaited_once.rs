//! A result has one owner, and so has the buffer in it.
use dataplane::regions::Slab;

async fn twice(socket: &dataplane::Socket, slab: &Slab) {
    let receive = socket.recv(slab.lease().unwrap()).submit().unwrap();
    let first = receive.await;
    let second = receive.await;
    drop((first, second));
}

fn main() {}
