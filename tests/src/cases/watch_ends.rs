//! How watches end, and what keeps them from ending: other callbacks, panics, pressure, the
//! proactor going first, and descriptors that have nothing to watch.

use super::net::{idle_turns, settled};
use crate::{Case, Cx, Skip};
use dataplane::{Backend, ErrorKind, Interest, Proactor, Wait, Watch};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "watch_ends/by_anothers_callback", needs: &[], run: by_anothers_callback },
    Case { name: "watch_ends/each_by_the_other", needs: &[], run: each_by_the_other },
    Case { name: "watch_ends/watched_again_from_inside", needs: &[], run: again_from_inside },
    Case { name: "watch_ends/a_panic", needs: &[], run: a_panic },
    Case { name: "watch_ends/a_panic_costs_the_others_nothing", needs: &[], run: panics_beside },
    Case { name: "watch_ends/a_panic_on_the_last_call", needs: &[], run: panic_on_the_last_call },
    Case { name: "watch_ends/the_fault_is_readable", needs: &[], run: the_fault_is_readable },
    Case { name: "watch_ends/no_fault_when_unregistered", needs: &[], run: no_fault },
    Case { name: "watch_ends/proactor_first", needs: &[], run: proactor_first },
    Case { name: "watch_ends/after_the_proactor", needs: &[], run: after_the_proactor },
    Case { name: "watch_ends/proactor_dropped_inside", needs: &[], run: proactor_dropped_inside },
    Case { name: "watch_ends/not_by_the_default_timeout", needs: &[], run: no_default_timeout },
    Case { name: "watch_ends/not_by_a_small_queue", needs: &[], run: a_small_queue },
    Case { name: "watch_ends/too_many", needs: &[], run: too_many },
    Case { name: "watch_ends/too_many_descriptors", needs: &[], run: too_many_descriptors },
    Case { name: "watch_ends/memfd_is_refused", needs: &[], run: memfd_is_refused },
    Case { name: "watch_ends/directory_is_refused", needs: &[], run: directory_is_refused },
    Case { name: "watch_ends/null_device_is_refused", needs: &[], run: null_device_is_refused },
    Case { name: "watch_ends/event_descriptor", needs: &[], run: event_descriptor },
    Case { name: "watch_ends/pipe_end_with_bytes_left", needs: &[], run: pipe_end },
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

/// Polls until `ready`; how many panics left the polls.
fn panics_until(io: &Proactor, ready: impl Fn() -> bool) -> usize {
    let mut panics = 0;
    for _ in 0..1000 {
        if ready() {
            break;
        }
        let polled = catch_unwind(AssertUnwindSafe(|| io.poll(Duration::from_millis(1))));
        panics += usize::from(polled.is_err());
    }
    assert!(ready(), "it never came");
    panics
}

fn by_anothers_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    // Both report in one turn; whichever is first ends the second.
    let ((mut a, a2), (mut b, b2)) = (pair(), pair());
    let watches: Rc<RefCell<Vec<Option<Watch>>>> = Rc::new(RefCell::new(vec![None, None]));
    let (count, _) = counter();
    for (mine, end) in [&a2, &b2].into_iter().enumerate() {
        let (others, count) = (watches.clone(), count.clone());
        let watch = cx.io.watch(end, Interest::READABLE, move |_, _| {
            count.set(count.get() + 1);
            let other = others.borrow_mut()[1 - mine].take();
            drop(other);
        });
        watches.borrow_mut()[mine] = Some(watch.expect("room"));
    }
    cx.io.flush().expect("flushing");
    a.write_all(b"x").expect("room in a socket");
    b.write_all(b"x").expect("room in a socket");
    cx.poll_until("one of them", || count.get() > 0);
    idle_turns(cx);
    assert_eq!(count.get(), 1, "the other's report was on its way, and is not delivered");
    watches.borrow_mut().clear();
    settled(cx, 0);
    Ok(())
}

fn each_by_the_other(cx: &Cx<'_>) -> Result<(), Skip> {
    // Ten watches; the first call ends all of them, its own too.
    let mut ends: Vec<_> = (0..10).map(|_| pair()).collect();
    let watches: Rc<RefCell<Vec<Watch>>> = Rc::default();
    let (count, _) = counter();
    for (_, end) in &ends {
        let (all, count) = (watches.clone(), count.clone());
        let watch = cx.io.watch(end, Interest::READABLE, move |_, _| {
            count.set(count.get() + 1);
            let gone = all.take();
            drop(gone);
        });
        watches.borrow_mut().push(watch.expect("room"));
    }
    cx.io.flush().expect("flushing");
    for (one, _) in &mut ends {
        one.write_all(b"x").expect("room in a socket");
    }
    settled(cx, 0);
    assert_eq!(count.get(), 1);
    assert_eq!(Rc::strong_count(&watches), 1, "every callback is gone");
    Ok(())
}

fn again_from_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    // A callback replaces its own watch; the descriptor's state is reported to the new one.
    let (mut one, two) = pair();
    let place: Rc<RefCell<Option<Watch>>> = Rc::default();
    let (count, inside) = counter();
    let (inner_place, two_again) = (place.clone(), two.try_clone().expect("a descriptor"));
    let io = cx.io.clone();
    let watch = cx.io.watch(&two, Interest::READABLE, move |_, _| {
        let inside = inside.clone();
        let again =
            io.watch(&two_again, Interest::READABLE, move |_, _| inside.set(inside.get() + 1));
        let old = inner_place.borrow_mut().replace(again.expect("room"));
        drop(old);
    });
    *place.borrow_mut() = Some(watch.expect("room"));
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("the new watch's call", || count.get() == 1);
    drop(place.borrow_mut().take());
    settled(cx, 0);
    Ok(())
}

fn a_panic(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, mut two) = pair();
    let (count, inside) = counter();
    let watch = cx.io.watch(&two, Interest::READABLE, move |_, _| {
        inside.set(inside.get() + 1);
        panic!("on purpose");
    });
    let watch = watch.expect("room");
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(panics_until(cx.io, || count.get() == 1), 1);
    assert!(!watch.is_active());
    assert_eq!(watch.fault().map(|fault| fault.kind()), Some(ErrorKind::Interrupted));
    assert_eq!(two.read(&mut [0; 8]).expect("what was reported"), 1);
    one.write_all(b"x").expect("room in a socket");
    settled(cx, 0);
    assert_eq!((count.get(), Rc::strong_count(&count)), (1, 1), "not called again, and gone");
    drop(watch);
    cx.block_on(cx.io.nop()).expect("the loop goes on");
    Ok(())
}

fn panics_beside(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut ends: Vec<_> = (0..9).map(|_| pair()).collect();
    let (count, _) = counter();
    let mut watches = Vec::new();
    for (n, (_, end)) in ends.iter().enumerate() {
        let count = count.clone();
        let watch = cx.io.watch(end, Interest::READABLE, move |_, _| {
            count.set(count.get() + 1);
            assert!(n % 3 != 0, "on purpose");
        });
        watches.push(watch.expect("room"));
    }
    cx.io.flush().expect("flushing");
    for (one, _) in &mut ends {
        one.write_all(b"x").expect("room in a socket");
    }
    let panics = panics_until(cx.io, || count.get() == 9);
    cx.note(format!("{panics} panics"));
    assert_eq!(watches.iter().filter(|watch| watch.is_active()).count(), 6);
    drop(watches);
    settled(cx, 0);
    Ok(())
}

fn panic_on_the_last_call(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_one, two) = pair();
    let (count, inside) = counter();
    let watch = cx.io.watch(&two, Interest::READABLE, move |seen, _| {
        inside.set(inside.get() + 1);
        seen.expect("on purpose");
    });
    let watch = watch.expect("room");
    idle_turns(cx);
    cx.io.cancel_all().expect("the proactor is here");
    assert_eq!(panics_until(cx.io, || count.get() == 1), 1);
    assert!(watch.fault().is_some());
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn the_fault_is_readable(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_one, two) = pair();
    let watch = cx.io.watch(&two, Interest::READABLE, |_, _| {}).expect("room");
    assert!(watch.is_active() && watch.fault().is_none());
    cx.io.cancel_all().expect("the proactor is here");
    cx.poll_until("the end", || !watch.is_active());
    cx.note(format!("{:?}", watch.fault().map(|fault| fault.kind())));
    assert_eq!(watch.fault().map(|fault| fault.kind()), Some(ErrorKind::Cancelled));
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn no_fault(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut one, two) = pair();
    let watch = cx.io.watch(&two, Interest::READABLE, |_, control| control.end()).expect("room");
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("the end", || !watch.is_active());
    assert!(watch.fault().is_none(), "it ended because it was asked to");
    settled(cx, 0);
    Ok(())
}

fn proactor_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let (_one, two) = pair();
    let told = Rc::new(RefCell::new(Vec::new()));
    let inside = told.clone();
    let watch = io.watch(&two, Interest::READABLE, move |report, _| {
        inside.borrow_mut().push(report.map_err(|error| error.kind()));
    });
    let watch = watch.expect("room");
    io.poll(Wait::Now).expect("polling");
    drop(io);
    assert_eq!(*told.borrow(), [Err(ErrorKind::ShutDown)], "told once");
    assert_eq!(watch.fault().map(|fault| fault.kind()), Some(ErrorKind::ShutDown));
    assert_eq!(Rc::strong_count(&told), 1, "the callback is gone");
    drop(watch);
    Ok(())
}

fn after_the_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let handle = io.handle();
    let (_one, two) = pair();
    let other = io.clone();
    io.shutdown(Wait::Now).expect("nothing is in flight");
    let refused = other.watch(&two, Interest::READABLE, |_, _| panic!("it is gone"));
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::ShutDown));
    let refused = cx.block_on(handle.watch(&two, Interest::READABLE, |_, _| panic!("gone")));
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::ShutDown));
    Ok(())
}

fn proactor_dropped_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Rc::new(RefCell::new(Some(Proactor::with(cx.options.clone()).expect("a second"))));
    let (mut one, two) = pair();
    let told = Rc::new(RefCell::new(Vec::new()));
    let (inside, last) = (told.clone(), io.clone());
    let watch = io.borrow().as_ref().map(|io| {
        io.watch(&two, Interest::READABLE, move |report, _| {
            inside.borrow_mut().push(report.map(drop).map_err(|error| error.kind()));
            drop(last.borrow_mut().take());
        })
    });
    let watch = watch.expect("it is there").expect("room");
    one.write_all(b"x").expect("room in a socket");
    let lent = io.borrow().clone().expect("it is there");
    while told.borrow().is_empty() {
        lent.poll(Duration::from_millis(5)).expect("polling");
    }
    // `lent` was the last owner: now it ends.
    drop(lent);
    assert_eq!(*told.borrow(), [Ok(()), Err(ErrorKind::ShutDown)]);
    assert!(!watch.is_active());
    Ok(())
}

fn no_default_timeout(cx: &Cx<'_>) -> Result<(), Skip> {
    let options = cx.options.clone().timeout(Duration::from_millis(2));
    let io = Proactor::with(options).expect("a second proactor");
    let (mut one, two) = pair();
    let (count, inside) = counter();
    let watch = io.watch(&two, Interest::READABLE, move |report, _| {
        report.expect("no timeout");
        inside.set(inside.get() + 1);
    });
    let watch = watch.expect("room");
    io.poll(Duration::from_millis(8)).expect("polling");
    assert!(watch.is_active(), "{:?}", watch.fault());
    one.write_all(b"x").expect("room in a socket");
    while count.get() == 0 {
        io.poll(Duration::from_millis(5)).expect("polling");
    }
    Ok(())
}

fn a_small_queue(cx: &Cx<'_>) -> Result<(), Skip> {
    // Far more reports at once than completions fit: none is lost, and each watch goes on.
    let io = Proactor::with(cx.options.clone().operations(64).submissions(4).completions(8));
    let io = io.expect("a second proactor");
    let mut ends: Vec<_> = (0..48).map(|_| pair()).collect();
    let seen = Rc::new(RefCell::new(vec![0usize; ends.len()]));
    let mut watches = Vec::new();
    for (i, (_, end)) in ends.iter().enumerate() {
        let inside = seen.clone();
        let watch = io.watch(end, Interest::READABLE, move |report, _| {
            report.expect("pressure is no error");
            inside.borrow_mut()[i] += 1;
        });
        watches.push(watch.expect("room"));
    }
    io.poll(Wait::Now).expect("polling");
    for round in 1..=3 {
        for (one, _) in &mut ends {
            one.write_all(b"x").expect("room in a socket");
        }
        let all = || seen.borrow().iter().all(|count| *count >= round);
        panics_until(&io, all);
        for (_, two) in &mut ends {
            assert_eq!(two.read(&mut [0; 8]).expect("what was reported"), 1);
        }
    }
    assert!(watches.iter().all(Watch::is_active));
    let stats = io.stats();
    let was_pressed = stats.overflows > 0 && stats.rearmed > 0;
    assert!(io.backend() != Backend::IoUring || was_pressed, "it was no pressure: {stats:?}");
    Ok(())
}

fn too_many(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_one, two) = pair();
    let mut watches = Vec::new();
    let refused = loop {
        match cx.io.watch(&two, Interest::READABLE, |_, _| {}) {
            Ok(watch) => watches.push(watch),
            Err(error) => break error,
        }
    };
    assert_eq!((refused.kind(), watches.len()), (ErrorKind::Exhausted, 64));
    watches.pop();
    cx.poll_until("room", || cx.io.stats().descriptors == 63 && cx.io.stats().in_flight == 63);
    watches.push(cx.io.watch(&two, Interest::READABLE, |_, _| {}).expect("room again"));
    drop(watches);
    settled(cx, 0);
    Ok(())
}

fn too_many_descriptors(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().descriptors(2)).expect("a second proactor");
    let (_one, two) = pair();
    let watch = || io.watch(&two, Interest::READABLE, |_, _| {});
    let _kept = [watch().expect("room"), watch().expect("room")];
    assert_eq!(watch().err().map(|error| error.kind()), Some(ErrorKind::Exhausted));
    Ok(())
}

fn refused(cx: &Cx<'_>, fd: impl std::os::fd::AsFd) {
    let refused = cx.io.watch(&fd, Interest::READABLE, |_, _| panic!("a false report"));
    let error = refused.err().expect("it has no readiness");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("no readiness"), "{error}");
    settled(cx, 0);
}

fn memfd_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    refused(cx, memfd_create("case", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
    Ok(())
}

fn directory_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    refused(cx, std::fs::File::open("/").expect("a directory"));
    Ok(())
}

fn null_device_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    refused(cx, std::fs::File::open("/dev/null").expect("a device"));
    Ok(())
}

fn event_descriptor(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = EventFd::new().expect("a descriptor");
    let (count, inside) = counter();
    let watch = cx.io.watch(&event, Interest::READABLE, move |seen, _| {
        assert_eq!(seen.expect("no error"), Interest::READABLE);
        inside.set(inside.get() + 1);
    });
    let watch = watch.expect("room");
    for round in 1..=3 {
        event.write(7).expect("room for a count");
        cx.poll_until("a call", || count.get() == round);
        assert_eq!(event.read().expect("the count"), 7);
    }
    drop(watch);
    settled(cx, 0);
    Ok(())
}

fn pipe_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let (mut reader, mut writer) = std::io::pipe().expect("two descriptors");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let inside = seen.clone();
    let watch = cx.io.watch(&reader, Interest::READABLE, move |report, _| {
        inside.borrow_mut().push(report.expect("no error of the watch"));
    });
    let watch = watch.expect("room");
    idle_turns(cx);
    writer.write_all(b"last words").expect("room in a pipe");
    drop(writer);
    let ended = || seen.borrow().last().is_some_and(|last| last.contains(Interest::HANG_UP));
    cx.poll_until("the hang-up", ended);
    for report in seen.borrow().iter() {
        assert!(report.contains(Interest::READABLE), "nobody has read yet: {report:?}");
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("what was left, and the end");
    assert_eq!(bytes, b"last words");
    drop(watch);
    settled(cx, 0);
    Ok(())
}
