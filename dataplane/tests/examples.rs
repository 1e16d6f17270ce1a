//! The examples run, and assert what they show.

#[path = "../examples/echo_local.rs"]
mod echo_local;
#[path = "../examples/echo_tokio.rs"]
mod echo_tokio;
#[path = "../examples/multishot_server.rs"]
mod multishot_server;

#[test]
fn echo_local_runs() -> dataplane::Result<()> {
    echo_local::main()
}

#[test]
fn echo_tokio_runs() -> dataplane::Result<()> {
    echo_tokio::main()
}

#[test]
fn multishot_server_runs() -> dataplane::Result<()> {
    multishot_server::main()
}
