//! The kernel reads a send's bytes after the call has returned, so nothing borrowed is taken.
fn send(socket: &dataplane::Socket) {
    let bytes = [1u8, 2, 3];
    let _sending = socket.send_all(&bytes[..]).submit();
}

fn main() {}
