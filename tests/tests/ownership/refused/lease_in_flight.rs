//! A lease that was given to a receive is the receive's until it comes back.
use dataplane::regions::Slab;

fn receive(socket: &dataplane::Socket, slab: &Slab) {
    let mut lease = slab.lease().unwrap();
    let submission = socket.recv(lease).submit().unwrap();
    lease[0] = 1;
    drop(submission);
}

fn main() {}
