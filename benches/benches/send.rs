//! How fast does a stream leave?
//!
//! Beside the loop of [`dataplane_benches::limit::send`], with the ratio of the two.

mod support;

fn main() {
    support::topic("send");
}
