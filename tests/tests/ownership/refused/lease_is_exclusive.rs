//! There is no second lease of the same bytes.
use dataplane::regions::Slab;

fn main() {
    let lease = Slab::new(1, 64).unwrap().lease().unwrap();
    let _second = lease.clone();
}
