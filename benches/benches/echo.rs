//! How long does a message take to a server and back, over TCP?
//!
//! Beside the loop of [`dataplane_benches::limit::echo`], with the ratio of the two.

mod support;

fn main() {
    support::topic("echo");
}
