//! What does an operation cost that another thread submits and awaits, with 64 outstanding?
//!
//! Beside a pair of channels, [`dataplane_benches::limit::handoff`], with the ratio of the two.

mod support;

fn main() {
    support::topic("handoff");
}
