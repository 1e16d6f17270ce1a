//! Who freezes a lease gives up writing it.
use dataplane::regions::Slab;

fn main() {
    let mut lease = Slab::new(1, 64).unwrap().lease().unwrap();
    let span = lease.freeze();
    lease[0] = 1;
    drop(span);
}
