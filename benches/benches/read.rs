//! How fast are random reads of a file, from the page cache and past it?
//!
//! Beside the loop of [`dataplane_benches::limit::read`], with the ratio of the two.

mod support;

fn main() {
    support::topic("read");
}
