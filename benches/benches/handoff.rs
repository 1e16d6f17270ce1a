//! What does an operation cost that another thread submits and awaits, with 64 outstanding?
//!
//! By a loop that looks for more before it sleeps and by one that does not; beside a pair of
//! channels, [`dataplane_benches::limit::handoff`], that carries one request at a time to and fro,
//! and one that carries as many at once.

mod support;

fn main() {
    support::topic("handoff");
}
