//! What does an operation cost that does nothing, alone and among many?
//!
//! Beside the loop of [`dataplane_benches::limit::noop`], with the ratio of the two.

mod support;

fn main() {
    support::topic("noop");
}
