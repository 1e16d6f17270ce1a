//! What drives a context: a proactor thread, a proactor that somebody polls, one that goes first.

use super::context::{counter, hour};
use super::remote::parked;
use crate::{Case, Cx, Skip};
use dataplane::{Context, ErrorKind, ProactorThread};
use std::future::IntoFuture;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "driver/a_refused_operation_is_told", needs: &[], run: a_refused_operation },
    Case { name: "driver/a_proactor_that_somebody_polls", needs: &[], run: over_a_driver },
    Case { name: "driver/one_for_two_contexts", needs: &[], run: two_contexts },
    Case { name: "driver/it_may_end_first", needs: &[], run: its_driver_ends },
    Case { name: "driver/a_context_stops_its_own", needs: &[], run: stops_its_own },
];

fn a_refused_operation(cx: &Cx<'_>) -> Result<(), Skip> {
    let driver = ProactorThread::start(cx.options.clone()).expect("a driver");
    let context = Context::with_driver(driver.handle());
    driver.join().expect("a quiet end");
    let kind = Arc::new(Mutex::new(None));
    let told = kind.clone();
    drop(context.submit(context.driver().nop(), move |ended| {
        let failed = ended.expect_err("nobody polls");
        let has_it = failed.operation().is_some();
        *told.lock().expect("nobody panicked") = Some((failed.kind(), has_it));
    }));
    assert_eq!(context.run(), Ok(1));
    let told = kind.lock().expect("nobody panicked");
    assert_eq!(*told, Some((ErrorKind::ShutDown, true)), "it came back");
    Ok(())
}

/// The case's own proactor drives it, on the thread that polls; the runner is another.
fn over_a_driver(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = Context::with_driver(cx.io.handle());
    let slab = cx.slab(1, 64);
    let (one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let driver = context.driver();
    let task = context.spawn(async move {
        let one = driver.adopt_socket(one).await.expect("adopted");
        let two = driver.adopt_socket(two).await.expect("adopted");
        one.send_all(b"driven".to_vec()).await.expect("sent");
        two.recv(slab.lease().expect("a slot")).await.expect("received").to_vec()
    });
    let theirs = context.clone();
    let runner = std::thread::spawn(move || theirs.run().expect("no fork here"));
    cx.poll_until("the runner", || runner.is_finished());
    runner.join().expect("no panic here");
    assert_eq!(parked(task).expect("it ends"), *b"driven");
    Ok(())
}

fn its_driver_ends(cx: &Cx<'_>) -> Result<(), Skip> {
    let driver = ProactorThread::start(cx.options.clone()).expect("a driver");
    let context = Context::with_driver(driver.handle());
    let submit = context.driver();
    let task = context.spawn(async move {
        submit.sleep_until(hour()).into_future().await.expect_err("it does not last").kind()
    });
    assert_eq!(context.run_one(), Ok(1));
    driver.join().expect("a quiet end");
    context.run().expect("no fork here");
    cx.note(format!("{:?}", parked(task).expect("it ends")));
    let (count, add) = counter();
    context.restart();
    context.post(add);
    assert_eq!((context.run(), count.load(Ordering::Relaxed)), (Ok(1), 1), "posts need none");
    Ok(())
}

/// Each context waits for its own work only.
fn two_contexts(cx: &Cx<'_>) -> Result<(), Skip> {
    let driver = ProactorThread::start(cx.options.clone()).expect("a driver");
    let one = Context::with_driver(driver.handle());
    let two = Context::with_driver(driver.handle());
    let submit = two.driver();
    let waiting = two.spawn(async move {
        submit.sleep_until(hour()).await.expect("an hour");
    });
    assert_eq!(two.run_one(), Ok(1));
    let (count, add) = counter();
    drop(one.submit(one.driver().nop(), move |ended| {
        ended.expect("a no-op");
        add();
    }));
    one.run().expect("no fork here");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert!(one.stopped() && !two.stopped());
    drop((one, two));
    assert_eq!(parked(waiting).expect_err("its context went").kind(), ErrorKind::Cancelled);
    parked(driver.handle().nop().into_future()).expect("the driver is somebody else's");
    assert_eq!(driver.join().expect("a quiet end"), None);
    Ok(())
}

fn stops_its_own(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = Context::start(cx.options.clone()).expect("a driver");
    let (driver, second) = (context.driver(), context.clone());
    drop(context);
    parked(driver.nop().into_future()).expect("there is another owner");
    drop(second);
    assert!(driver.is_closed());
    Ok(())
}
