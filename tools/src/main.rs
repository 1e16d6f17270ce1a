//! The `dataplane` tool.
fn main() {}
