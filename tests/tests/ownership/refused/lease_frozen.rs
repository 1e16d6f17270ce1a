//! Who freezes a lease gives up writing it.
use dataplane::regions::{Lease, Slab, Span};

fn freeze(lease: Lease) -> Span {
    lease.freeze()
}

fn main() {
    let mut lease = Slab::new(1, 64).unwrap().lease().unwrap();
    let span = freeze(lease);
    lease[0] = 1;
    drop(span);
}
