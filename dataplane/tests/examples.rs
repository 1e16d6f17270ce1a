//! The examples run, and assert what they show.

use std::error::Error;

#[path = "../examples/context_pool.rs"]
mod context_pool;
#[path = "../examples/echo_local.rs"]
mod echo_local;
#[path = "../examples/echo_tokio.rs"]
mod echo_tokio;
#[path = "../examples/multishot_server.rs"]
mod multishot_server;
#[path = "../examples/worker_notification.rs"]
mod worker_notification;

#[test]
fn context_pool_runs() -> Result<(), Box<dyn Error>> {
    context_pool::main().map_err(Into::into)
}

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

#[test]
fn worker_notification_runs() -> Result<(), Box<dyn Error>> {
    worker_notification::main()
}
