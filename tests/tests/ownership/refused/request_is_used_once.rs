//! A request holds its buffer; it is submitted once.
use dataplane::regions::Slab;

fn twice(socket: &dataplane::Socket, slab: &Slab) {
    let request = socket.recv(slab.lease().unwrap());
    let first = request.submit();
    let second = request.submit();
    drop((first, second));
}

fn main() {}
