//! The example about signals runs, in a process that is its own: a test runner's threads leave the
//! signals unblocked, which the example refuses. So there is no runner here.

#[path = "../examples/graceful_shutdown.rs"]
mod graceful_shutdown;

fn main() -> dataplane::Result<()> {
    graceful_shutdown::main()
}
