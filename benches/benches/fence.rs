//! What does it cost to bring a fence into a semaphore, and a semaphore out as a descriptor?
//!
//! Beside polls of a ring, [`dataplane_benches::limit::fence`], with the ratio of the two.

mod support;

fn main() {
    support::topic("fence");
}
