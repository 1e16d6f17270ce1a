//! How fast does a file go through registered memory and a socket to its receiver?
//!
//! Beside the loop of [`dataplane_benches::limit::stream`], with the ratio of the two.

mod support;

fn main() {
    support::topic("stream");
}
