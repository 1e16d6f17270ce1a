//! Watching foreign descriptors by callback: until dropped, ended from inside, or failed.

use super::net::{idle_turns, settled};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Interest};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "watch/each_time", needs: &[], run: each_time },
    Case { name: "watch/ended_from_inside", needs: &[], run: ended_from_inside },
    Case { name: "watch/dropped", needs: &[], run: dropped },
    Case { name: "watch/dropped_from_inside", needs: &[], run: dropped_from_inside },
    Case { name: "watch/dropped_with_a_report_due", needs: &[], run: dropped_with_a_report_due },
    Case { name: "watch/callers_descriptor_closed", needs: &[], run: callers_descriptor_closed },
    Case { name: "watch/hang_up_with_bytes_left", needs: &[], run: hang_up_with_bytes_left },
    Case { name: "watch/broken_pipe", needs: &[], run: broken_pipe },
    Case { name: "watch/file_is_refused", needs: &[], run: file_is_refused },
    Case { name: "watch/nothing_is_refused", needs: &[], run: nothing_is_refused },
    Case { name: "watch/many", needs: &[], run: many },
    Case { name: "watch/submits_from_inside", needs: &[], run: submits_from_inside },
    Case { name: "watch/cancel_all_ends_it", needs: &[], run: cancel_all_ends_it },
];

fn pair() -> (UnixStream, UnixStream) {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    two.set_nonblocking(true).expect("a socket");
    (one, two)
}

fn counter() -> (Rc<Cell<usize>>, Rc<Cell<usize>>) {
    let count = Rc::new(Cell::new(0));
    (count.clone(), count)
}

fn each_time(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, mut two) = pair();
    let (count, inside) = counter();
    let watch = cx.io.watch(&two, Interest::READABLE, move |seen, _| {
        assert!(seen.expect("no error").contains(Interest::READABLE));
        inside.set(inside.get() + 1);
    });
    let watch = watch.expect("room");
    idle_turns(cx);
    assert_eq!(count.get(), 0);
    for round in 1..=5 {
        one.write_all(b"x").expect("room in a socket");
        cx.poll_until("a call", || count.get() == round);
        assert_eq!(two.read(&mut [0; 8]).expect("what was reported"), 1);
        idle_turns(cx);
        assert_eq!(count.get(), round);
    }
    assert!(watch.is_active());
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn ended_from_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, mut two) = pair();
    let (count, inside) = counter();
    let watch = cx.io.watch(&two, Interest::READABLE, move |_, control| {
        inside.set(inside.get() + 1);
        if inside.get() == 2 {
            control.end();
        }
    });
    let watch = watch.expect("room");
    for round in 1..=4 {
        one.write_all(b"x").expect("room in a socket");
        idle_turns(cx);
        cx.poll_until("a call", || count.get() == round.min(2));
        let _ = two.read(&mut [0; 8]);
        assert_eq!(watch.is_active(), round < 2);
    }
    // It let go of everything by itself.
    settled(cx, 0);
    assert_eq!(count.get(), 2, "no call after the end");
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let (count, inside) = counter();
    let watch = cx.io.watch(&two, Interest::READABLE, move |_, _| inside.set(inside.get() + 1));
    let watch = watch.expect("room");
    idle_turns(cx);
    drop(watch);
    one.write_all(b"x").expect("room in a socket");
    idle_turns(cx);
    settled(cx, 0);
    assert_eq!(count.get(), 0);
    assert_eq!(Rc::strong_count(&count), 1, "the callback is gone");
    Ok(())
}

fn dropped_from_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let (count, inside) = counter();
    let place = Rc::new(RefCell::new(None));
    let itself = place.clone();
    let watch = cx.io.watch(&two, Interest::READABLE, move |_, _| {
        inside.set(inside.get() + 1);
        drop(itself.borrow_mut().take());
    });
    *place.borrow_mut() = Some(watch.expect("room"));
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("a call", || count.get() == 1);
    one.write_all(b"x").expect("room in a socket");
    idle_turns(cx);
    settled(cx, 0);
    assert_eq!(count.get(), 1);
    Ok(())
}

fn dropped_with_a_report_due(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    for _ in 0..10 {
        let (count, inside) = counter();
        let watch = cx.io.watch(&two, Interest::READABLE, move |_, _| inside.set(inside.get() + 1));
        let watch = watch.expect("room");
        cx.io.flush().expect("flushing");
        one.write_all(b"x").expect("room in a socket");
        // The report may be on its way: it must not be delivered any more.
        drop(watch);
        settled(cx, 0);
        assert_eq!(count.get(), 0);
    }
    Ok(())
}

fn callers_descriptor_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let (count, inside) = counter();
    let watch = cx.io.watch(&two, Interest::READABLE, move |_, _| inside.set(inside.get() + 1));
    let watch = watch.expect("room");
    drop(two);
    // The number is used again, by somebody whose readiness is nobody's business.
    let (mut stranger, _kept) = pair();
    stranger.write_all(b"x").expect("room in a socket");
    idle_turns(cx);
    assert_eq!(count.get(), 0);
    one.write_all(b"x").expect("the watch keeps the other end open");
    cx.poll_until("a call", || count.get() == 1);
    drop(watch);
    settled(cx, 0);
    assert!(one.write_all(b"x").is_err(), "now it is closed");
    Ok(())
}

fn hang_up_with_bytes_left(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, mut two) = pair();
    let seen = Rc::new(Cell::new(Interest::default()));
    let inside = seen.clone();
    let watch = cx.io.watch(&two, Interest::READABLE, move |report, _| {
        let report = report.expect("a hang-up is no error of the watch");
        if inside.get() == Interest::default() {
            assert!(report.contains(Interest::READABLE), "bytes first, or with it");
        }
        inside.set(inside.get() | report);
    });
    let watch = watch.expect("room");
    one.write_all(b"last words").expect("room in a socket");
    drop(one);
    cx.poll_until("the hang-up", || seen.get().contains(Interest::HANG_UP));
    let mut bytes = Vec::new();
    two.read_to_end(&mut bytes).expect("what was left, and the end");
    assert_eq!(bytes, b"last words");
    idle_turns(cx);
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn broken_pipe(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = std::io::pipe().expect("two descriptors");
    let seen = Rc::new(Cell::new(Interest::default()));
    let inside = seen.clone();
    let watch = cx.io.watch(&writer, Interest::PRIORITY, move |report, control| {
        inside.set(inside.get() | report.expect("no error of the watch"));
        if inside.get().failed() {
            control.end();
        }
    });
    let _watch = watch.expect("room");
    idle_turns(cx);
    drop(reader);
    cx.poll_until("the error", || seen.get().contains(Interest::ERROR));
    settled(cx, 0);
    Ok(())
}

fn file_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let file = std::fs::File::create_new(cx.scratch_dir().join("file")).expect("a file");
    let refused = cx.io.watch(&file, Interest::READABLE, |_, _| panic!("a false report"));
    let error = refused.err().expect("files have no readiness");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    idle_turns(cx);
    settled(cx, 0);
    Ok(())
}

fn nothing_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two) = pair();
    let refused = cx.io.watch(&one, Interest::default(), |_, _| panic!("nothing was asked"));
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::InvalidArgument));
    settled(cx, 0);
    Ok(())
}

fn many(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut ends: Vec<_> = (0..32).map(|_| pair()).collect();
    let seen = Rc::new(RefCell::new(vec![0usize; 32]));
    let mut watches = Vec::new();
    for (i, (_, two)) in ends.iter().enumerate() {
        let inside = seen.clone();
        let watch = cx.io.watch(two, Interest::READABLE, move |_, _| inside.borrow_mut()[i] += 1);
        watches.push(watch.expect("room"));
    }
    for round in 1..=3 {
        for (one, _) in &mut ends {
            one.write_all(b"x").expect("room in a socket");
        }
        cx.poll_until("all of them", || seen.borrow().iter().all(|count| *count >= round));
        for (_, two) in &mut ends {
            assert_eq!(two.read(&mut [0; 8]).expect("what was reported"), 1);
        }
    }
    watches.truncate(16);
    cx.poll_until("half of them to be gone", || cx.io.stats().descriptors == 16);
    for (one, _) in &mut ends {
        one.write_all(b"x").expect("room in a socket");
    }
    cx.poll_until("half of them", || seen.borrow()[..16].iter().all(|count| *count >= 4));
    idle_turns(cx);
    assert!(seen.borrow()[16..].iter().all(|count| *count == 3));
    Ok(())
}

fn submits_from_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let received = Rc::new(RefCell::new(Vec::new()));
    let into = received.clone();
    let socket = cx.io.adopt_socket(OwnedFd::from(two.try_clone().expect("a descriptor")));
    let socket = socket.expect("room");
    let slab = cx.slab(4, 8);
    let slots = slab.clone();
    let watch = cx.io.watch(&two, Interest::READABLE, move |_, _| {
        let into = into.clone();
        let receiving = socket.recv(slots.lease().expect("a slot"));
        let submitted = receiving.on_complete(move |ended| {
            into.borrow_mut().extend_from_slice(&ended.expect("receiving"));
        });
        submitted.expect("room");
    });
    let watch = watch.expect("room");
    one.write_all(b"abc").expect("room in a socket");
    cx.poll_until("the bytes", || *received.borrow() == b"abc");
    drop(watch);
    settled(cx, 0);
    assert_eq!(slab.available(), 4);
    Ok(())
}

fn cancel_all_ends_it(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_one, two) = pair();
    let told = Rc::new(RefCell::new(Vec::new()));
    let inside = told.clone();
    let watch = cx.io.watch(&two, Interest::READABLE, move |report, _| {
        inside.borrow_mut().push(report.map_err(|error| error.kind()));
    });
    let watch = watch.expect("room");
    idle_turns(cx);
    assert_eq!(cx.io.cancel_all().expect("the proactor is here"), 1);
    cx.poll_until("the end", || !told.borrow().is_empty());
    idle_turns(cx);
    assert_eq!(*told.borrow(), [Err(ErrorKind::Cancelled)], "told once");
    assert!(!watch.is_active());
    settled(cx, 0);
    Ok(())
}
