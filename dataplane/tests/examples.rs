//! The examples run, and assert what they show.

#[path = "../examples/worker_notification.rs"]
mod worker_notification;

#[test]
fn worker_notification_runs() {
    worker_notification::main().expect("its own assertions hold");
}
