//! A callback runs in a later poll, when what it borrowed would be gone.
fn submit(io: &dataplane::Proactor) {
    let mut count = 0;
    let _ = io.nop().on_complete(|_| count += 1);
}

fn main() {}
