//! The examples run, and assert what they show. The one about signals has a test of its own.

use std::error::Error;

#[path = "../examples/context_pool.rs"]
mod context_pool;
#[path = "../examples/echo_local.rs"]
mod echo_local;
#[path = "../examples/echo_tokio.rs"]
mod echo_tokio;
#[path = "../examples/gated_send.rs"]
mod gated_send;
#[path = "../examples/multishot_server.rs"]
mod multishot_server;
#[path = "../examples/two_proactors.rs"]
mod two_proactors;
#[path = "../examples/vulkan_send.rs"]
mod vulkan_send;
#[path = "../examples/worker_notification.rs"]
mod worker_notification;

#[test]
fn context_pool_runs() -> dataplane::Result<()> {
    context_pool::main()
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
fn gated_send_runs() -> dataplane::Result<()> {
    gated_send::main()
}

#[test]
fn multishot_server_runs() -> dataplane::Result<()> {
    multishot_server::main()
}

#[test]
fn vulkan_send_runs() -> Result<(), Box<dyn Error>> {
    vulkan_send::main()
}

#[test]
fn worker_notification_runs() -> Result<(), Box<dyn Error>> {
    worker_notification::main()
}

#[test]
fn two_proactors_runs() -> dataplane::Result<()> {
    two_proactors::main()
}
