//! Watches from other threads: registered, unregistered and dropped through a handle.

use super::net::{idle_turns, settled};
use super::remote::{beside, parked};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Interest, Proactor, RemoteWatch, Wait};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "watch_remote/registers_and_hears", needs: &[], run: registers_and_hears },
    Case { name: "watch_remote/runs_on_the_poll_thread", needs: &[], run: on_the_poll_thread },
    Case { name: "watch_remote/unregistered_is_over", needs: &[], run: unregistered_is_over },
    Case { name: "watch_remote/unregistered_while_running", needs: &[], run: while_running },
    Case { name: "watch_remote/races_with_reports", needs: &[], run: races_with_reports },
    Case { name: "watch_remote/dropped", needs: &[], run: dropped },
    Case { name: "watch_remote/dropped_before_it_is_there", needs: &[], run: dropped_early },
    Case { name: "watch_remote/unregistered_with_a_full_inbox", needs: &[], run: full_inbox },
    Case { name: "watch_remote/registered_with_a_full_inbox", needs: &[], run: inbox_is_full },
    Case { name: "watch_remote/unregistered_from_its_callback", needs: &[], run: from_inside },
    Case { name: "watch_remote/ended_by_its_control", needs: &[], run: ended_by_its_control },
    Case { name: "watch_remote/unregister_on_the_poll_thread", needs: &[], run: same_thread },
    Case { name: "watch_remote/unregister_future_dropped", needs: &[], run: future_dropped },
    Case { name: "watch_remote/callers_descriptor_closed", needs: &[], run: callers_closed },
    Case { name: "watch_remote/refused", needs: &[], run: refused },
    Case { name: "watch_remote/panicked", needs: &[], run: panicked },
    Case { name: "watch_remote/proactor_first", needs: &[], run: proactor_first },
    Case { name: "watch_remote/proactor_goes_while_awaited", needs: &[], run: goes_meanwhile },
];

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("two descriptors")
}

fn counter() -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    (count.clone(), count)
}

fn get(count: &AtomicUsize) -> usize {
    count.load(Ordering::SeqCst)
}

/// A watch that counts its calls.
fn counting(cx: &Cx<'_>, end: &UnixStream, count: &Arc<AtomicUsize>) -> RemoteWatch {
    let inside = count.clone();
    let watch = cx.io.handle().watch(end, Interest::READABLE, move |_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
    });
    cx.block_on(watch).expect("room")
}

fn registers_and_hears(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let (count, inside) = counter();
    let watch = beside(cx, move |handle| {
        let watch = handle.watch(&two, Interest::READABLE, move |seen, _| {
            assert!(seen.expect("no error").contains(Interest::READABLE));
            inside.fetch_add(1, Ordering::SeqCst);
        });
        parked(watch).expect("room")
    });
    assert!(watch.is_active());
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("a call", || get(&count) == 1);
    drop(watch);
    settled(cx, 0);
    assert_eq!(Arc::strong_count(&count), 1, "the callback is gone");
    Ok(())
}

fn on_the_poll_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let here = thread::current().id();
    let (count, inside) = counter();
    let watch = beside(cx, move |handle| {
        let watch = handle.watch(&two, Interest::READABLE, move |_, _| {
            assert_eq!(thread::current().id(), here);
            inside.fetch_add(1, Ordering::SeqCst);
        });
        parked(watch).expect("room")
    });
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("a call", || get(&count) == 1);
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn unregistered_is_over(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let (count, _) = counter();
    let watch = counting(cx, &two, &count);
    beside(cx, move |_| parked(watch.unregister()).expect("its end"));
    assert_eq!(Arc::strong_count(&count), 1, "the callback is gone");
    one.write_all(b"x").expect("room in a socket");
    idle_turns(cx);
    assert_eq!(get(&count), 0);
    settled(cx, 0);
    Ok(())
}

fn while_running(cx: &Cx<'_>) -> Result<(), Skip> {
    // The callback is running when another thread unregisters: that resolves after it returned.
    let (mut one, two) = pair();
    let state = Arc::new((AtomicBool::new(false), AtomicBool::new(false)));
    let inside = state.clone();
    let watch = cx.io.handle().watch(&two, Interest::READABLE, move |_, _| {
        inside.0.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(5));
        inside.1.store(true, Ordering::SeqCst);
    });
    let watch = cx.block_on(watch).expect("room");
    let seen = state.clone();
    one.write_all(b"x").expect("room in a socket");
    beside(cx, move |_| {
        while !seen.0.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        parked(watch.unregister()).expect("its end");
        assert!(seen.1.load(Ordering::SeqCst), "it was still running");
    });
    assert_eq!(Arc::strong_count(&state), 1);
    settled(cx, 0);
    Ok(())
}

fn races_with_reports(cx: &Cx<'_>) -> Result<(), Skip> {
    for round in 0..20 {
        let (mut one, two) = pair();
        let over = Arc::new(AtomicBool::new(false));
        let inside = over.clone();
        let watch = cx.io.handle().watch(&two, Interest::READABLE, move |_, _| {
            assert!(!inside.load(Ordering::SeqCst), "called after its end");
        });
        let watch = cx.block_on(watch).expect("room");
        beside(cx, move |_| {
            one.write_all(b"x").expect("room in a socket");
            if round % 2 == 0 {
                thread::yield_now();
            }
            parked(watch.unregister()).expect("its end");
            over.store(true, Ordering::SeqCst);
            assert_eq!(Arc::strong_count(&over), 1);
        });
    }
    settled(cx, 0);
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let (count, _) = counter();
    let watch = counting(cx, &two, &count);
    thread::spawn(move || drop(watch)).join().expect("dropping");
    one.write_all(b"x").expect("room in a socket");
    settled(cx, 0);
    assert_eq!((get(&count), Arc::strong_count(&count)), (0, 1));
    Ok(())
}

fn dropped_early(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    one.write_all(b"x").expect("room in a socket");
    let (count, inside) = counter();
    drop(cx.io.handle().watch(&two, Interest::READABLE, move |_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
    }));
    settled(cx, 0);
    cx.poll_until("the callback to go", || Arc::strong_count(&count) == 1);
    assert_eq!(get(&count), 0, "nobody could have ended it");
    Ok(())
}

fn full_inbox(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().inbox(1)).expect("a second proactor");
    let (_one, two) = pair();
    let (count, inside) = counter();
    let watch = io.handle().watch(&two, Interest::READABLE, move |_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
    });
    let watch = io.block_on(watch).expect("polling").expect("room");
    let handle = io.handle();
    let filling = handle.call(|_| ());
    let other = handle.call(|_| ());
    let unregistering = watch.unregister();
    io.block_on(unregistering).expect("polling").expect("its end needs no room");
    assert_eq!(Arc::strong_count(&count), 1);
    io.block_on(filling).expect("polling").expect("it ran");
    let full = io.block_on(other).expect("polling").map_err(|error| error.kind());
    assert_eq!(full, Err(ErrorKind::Exhausted));
    Ok(())
}

fn inbox_is_full(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().inbox(1)).expect("a second proactor");
    let (_one, two) = pair();
    let handle = io.handle();
    let filling = handle.call(|_| ());
    let (count, inside) = counter();
    let watch = handle.watch(&two, Interest::READABLE, move |_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
    });
    let refused = io.block_on(watch).expect("polling");
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Exhausted));
    assert_eq!(Arc::strong_count(&count), 1, "the callback was dropped");
    io.block_on(filling).expect("polling").expect("it ran");
    let watch = handle.watch(&two, Interest::READABLE, |_, _| {});
    let watch = io.block_on(watch).expect("polling").expect("a later try is taken");
    assert!(watch.is_active());
    Ok(())
}

fn from_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let place: Arc<std::sync::Mutex<Option<RemoteWatch>>> = Arc::default();
    let (count, inside) = counter();
    let mine = place.clone();
    let watch = cx.io.handle().watch(&two, Interest::READABLE, move |_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
        let own = mine.lock().expect("nobody panicked").take();
        drop(own.map(RemoteWatch::unregister));
    });
    *place.lock().expect("nobody panicked") = Some(cx.block_on(watch).expect("room"));
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("a call", || get(&count) == 1);
    one.write_all(b"x").expect("room in a socket");
    settled(cx, 0);
    assert_eq!((get(&count), Arc::strong_count(&count)), (1, 1));
    Ok(())
}

fn ended_by_its_control(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let watch = cx.io.handle().watch(&two, Interest::READABLE, |_, control| control.end());
    let watch = cx.block_on(watch).expect("room");
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("its end", || !watch.is_active());
    assert!(watch.fault().is_none());
    // What is over already is still awaited in the same way.
    beside(cx, move |_| parked(watch.unregister()).expect("its end"));
    settled(cx, 0);
    Ok(())
}

fn same_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_one, two) = pair();
    let (count, _) = counter();
    let watch = counting(cx, &two, &count);
    cx.block_on(watch.unregister()).expect("its end");
    assert_eq!(Arc::strong_count(&count), 1);
    settled(cx, 0);
    Ok(())
}

fn future_dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let (count, _) = counter();
    drop(counting(cx, &two, &count).unregister());
    one.write_all(b"x").expect("room in a socket");
    settled(cx, 0);
    assert_eq!((get(&count), Arc::strong_count(&count)), (0, 1), "it ends all the same");
    Ok(())
}

fn callers_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    // Closed before the poll thread has heard of it; the number is used again.
    let (mut one, two) = pair();
    let (count, inside) = counter();
    let watching = cx.io.handle().watch(&two, Interest::READABLE, move |_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
    });
    drop(two);
    let (mut stranger, _kept) = pair();
    stranger.write_all(b"x").expect("room in a socket");
    let watch = cx.block_on(watching).expect("room");
    idle_turns(cx);
    assert_eq!(get(&count), 0);
    one.write_all(b"x").expect("the watch keeps the other end open");
    cx.poll_until("a call", || get(&count) == 1);
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let file = std::fs::File::create_new(cx.scratch_dir().join("file")).expect("a file");
    let (count, inside) = counter();
    let refused = beside(cx, move |handle| {
        let watch = handle.watch(&file, Interest::READABLE, move |_, _| {
            inside.fetch_add(1, Ordering::SeqCst);
        });
        parked(watch).err().map(|error| error.kind())
    });
    assert_eq!(refused, Some(ErrorKind::InvalidArgument));
    assert_eq!((get(&count), Arc::strong_count(&count)), (0, 1));
    settled(cx, 0);
    Ok(())
}

fn panicked(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let watch = cx.io.handle().watch(&two, Interest::READABLE, |_, _| panic!("on purpose"));
    let watch = cx.block_on(watch).expect("room");
    one.write_all(b"x").expect("room in a socket");
    let mut panics = 0;
    for _ in 0..1000 {
        let polled = catch_unwind(AssertUnwindSafe(|| cx.io.poll(Duration::from_millis(1))));
        panics += usize::from(polled.is_err());
        if panics > 0 {
            break;
        }
    }
    assert_eq!(panics, 1);
    assert_eq!(watch.fault().map(|fault| fault.kind()), Some(ErrorKind::Interrupted));
    beside(cx, move |_| parked(watch.unregister()).expect("its end"));
    settled(cx, 0);
    Ok(())
}

fn proactor_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let (_one, two) = pair();
    let (count, inside) = counter();
    let watch = io.handle().watch(&two, Interest::READABLE, move |report, _| {
        assert_eq!(report.err().map(|error| error.kind()), Some(ErrorKind::ShutDown));
        inside.fetch_add(1, Ordering::SeqCst);
    });
    let watch = io.block_on(watch).expect("polling").expect("room");
    drop(io);
    assert_eq!(get(&count), 1, "told once");
    assert_eq!(watch.fault().map(|fault| fault.kind()), Some(ErrorKind::ShutDown));
    parked(watch.unregister()).expect("its end");
    Ok(())
}

fn goes_meanwhile(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let (_one, two) = pair();
    let watch = io.handle().watch(&two, Interest::READABLE, |_, _| {});
    let watch = io.block_on(watch).expect("polling").expect("room");
    let thread = thread::spawn(move || parked(watch.unregister()));
    io.poll(Wait::Now).expect("polling");
    drop(io);
    thread.join().expect("no panic").expect("its end");
    Ok(())
}
