//! How fast does a stream arrive?
//!
//! Beside the loop of [`dataplane_benches::limit::receive`], with the ratio of the two.

mod support;

fn main() {
    support::topic("receive");
}
