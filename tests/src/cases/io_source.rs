//! Readiness for tasks: what waits on a source, and what becomes of it.

use super::net::{idle_turns, settled};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Interest, IoSource, Proactor, Readiness, Trigger, Wait};
use futures_util::future::{FutureExt, join, join_all};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "io_source/readable", needs: &[], run: readable },
    Case { name: "io_source/ready_at_once", needs: &[], run: ready_at_once },
    Case { name: "io_source/writable", needs: &[], run: writable },
    Case { name: "io_source/both_directions", needs: &[], run: both_directions },
    Case { name: "io_source/many_tasks_one_direction", needs: &[], run: many_tasks },
    Case { name: "io_source/hang_up_wakes_both", needs: &[], run: hang_up_wakes_both },
    Case { name: "io_source/deregistering_wakes", needs: &[], run: deregistering_wakes },
    Case { name: "io_source/deregistered_before", needs: &[], run: deregistered_before },
    Case { name: "io_source/dropped_under_a_wait", needs: &[], run: dropped_under_a_wait },
    Case { name: "io_source/readiness_goes_first", needs: &[], run: readiness_goes_first },
    Case { name: "io_source/proactor_goes_first", needs: &[], run: proactor_goes_first },
    Case { name: "io_source/a_woken_task_changes_everything", needs: &[], run: woken_changes },
    Case { name: "io_source/a_wait_dropped", needs: &[], run: a_wait_dropped },
    Case { name: "io_source/a_waker_replaced", needs: &[], run: a_waker_replaced },
    Case { name: "io_source/a_waker_that_panics", needs: &[], run: a_waker_that_panics },
    Case { name: "io_source/not_registered_for_that", needs: &[], run: not_registered_for_that },
    Case { name: "io_source/reregistered_under_a_wait", needs: &[], run: reregistered },
    Case { name: "io_source/faulted_under_a_wait", needs: &[], run: faulted },
    Case { name: "io_source/io_echo", needs: &[], run: io_echo },
    Case { name: "io_source/into_inner", needs: &[], run: into_inner },
    Case { name: "io_source/refused", needs: &[], run: refused },
    Case { name: "io_source/beside_a_poll", needs: &[], run: beside_a_poll },
];

const READ: Interest = Interest::READABLE;
const WRITE: Interest = Interest::WRITABLE;

fn pair() -> (UnixStream, UnixStream) {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    one.set_nonblocking(true).expect("a socket");
    two.set_nonblocking(true).expect("a socket");
    (one, two)
}

fn source(readiness: &Readiness, end: UnixStream) -> IoSource<UnixStream> {
    IoSource::new(readiness, end).expect("room")
}

/// Counts its wakes.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn polled<F: Future>(future: Pin<&mut F>, count: &Arc<Count>) -> Option<F::Output> {
    let waker = Waker::from(count.clone());
    match future.poll(&mut Context::from_waker(&waker)) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

fn readable(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = source(&readiness, two);
    for _ in 0..5 {
        let count = Arc::new(Count::default());
        let mut waiting = pin!(source.readable());
        assert!(polled(waiting.as_mut(), &count).is_none());
        idle_turns(cx);
        one.write_all(b"x").expect("room in a socket");
        cx.poll_until("a wake", || count.0.load(Ordering::SeqCst) > 0);
        assert_eq!(polled(waiting, &count).expect("ready").expect("no error"), READ);
        assert_eq!(source.get_ref().read(&mut [0; 8]).expect("what was told"), 1);
    }
    Ok(())
}

fn ready_at_once(cx: &Cx<'_>) -> Result<(), Skip> {
    // What came before, and was reported before, is found all the same.
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    one.write_all(b"x").expect("room in a socket");
    let source = source(&readiness, two);
    for _ in 0..3 {
        idle_turns(cx);
        assert_eq!(cx.block_on(source.readable()).expect("no error"), READ);
    }
    Ok(())
}

/// Fills a socket until a write would block; how much went in.
fn fill(end: &UnixStream) -> usize {
    let mut written = 0;
    let mut end = end;
    while let Ok(some) = end.write(&[7; 4096]) {
        written += some;
    }
    written
}

fn writable(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = source(&readiness, two);
    assert_eq!(cx.block_on(source.writable()).expect("no error"), WRITE);
    let mut left = fill(source.get_ref());
    let mut waiting = pin!(source.writable());
    let count = Arc::new(Count::default());
    assert!(polled(waiting.as_mut(), &count).is_none());
    idle_turns(cx);
    assert!(polled(waiting.as_mut(), &count).is_none());
    while left > 0 {
        left -= one.read(&mut [0; 1 << 16]).expect("what was written");
    }
    assert_eq!(cx.block_on(waiting).expect("no error"), WRITE);
    Ok(())
}

fn both_directions(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = source(&readiness, two);
    fill(source.get_ref());
    let count = Arc::new(Count::default());
    let (mut reading, mut writing) = (pin!(source.readable()), pin!(source.writable()));
    assert!(polled(reading.as_mut(), &count).is_none());
    assert!(polled(writing.as_mut(), &count).is_none());
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(cx.block_on(reading).expect("no error"), READ);
    assert!(polled(writing, &count).is_none(), "there still is no room");
    Ok(())
}

fn many_tasks(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = source(&readiness, two);
    let mut waits = pin!(join_all((0..20).map(|_| source.readable())));
    let count = Arc::new(Count::default());
    assert!(polled(waits.as_mut(), &count).is_none());
    idle_turns(cx);
    one.write_all(b"x").expect("room in a socket");
    for told in cx.block_on(waits) {
        assert_eq!(told.expect("no error"), READ);
    }
    Ok(())
}

fn hang_up_wakes_both(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (one, two) = pair();
    let source = source(&readiness, two);
    fill(source.get_ref());
    let mut both = pin!(join(source.readable(), source.writable()));
    let count = Arc::new(Count::default());
    assert!(polled(both.as_mut(), &count).is_none());
    idle_turns(cx);
    drop(one);
    let (reading, writing) = cx.block_on(both);
    assert!(reading.expect("seen, not failed").failed());
    assert!(writing.expect("seen, not failed").failed());
    Ok(())
}

fn deregistering_wakes(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Edge).expect("room");
    let mut waits = pin!(join_all((0..5).map(|_| readiness.ready(token, READ))));
    let count = Arc::new(Count::default());
    assert!(polled(waits.as_mut(), &count).is_none());
    readiness.deregister(token).expect("it is there");
    assert!(count.0.load(Ordering::SeqCst) > 0, "woken at once");
    for told in polled(waits, &count).expect("all of them") {
        assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::Closed));
    }
    settled(cx, 0);
    Ok(())
}

fn deregistered_before(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Edge).expect("room");
    readiness.deregister(token).expect("it is there");
    let told = cx.block_on(readiness.ready(token, READ));
    assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::Closed));
    Ok(())
}

fn dropped_under_a_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let source = source(&readiness, two);
    let mut waiting = pin!(source.readable());
    let count = Arc::new(Count::default());
    assert!(polled(waiting.as_mut(), &count).is_none());
    drop(source);
    let told = cx.block_on(waiting);
    assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::Closed));
    settled(cx, 0);
    Ok(())
}

fn readiness_goes_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let source = source(&readiness, two);
    let mut waiting = pin!(source.readable());
    let count = Arc::new(Count::default());
    assert!(polled(waiting.as_mut(), &count).is_none());
    drop(readiness);
    let told = cx.block_on(waiting);
    assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::Closed));
    let told = cx.block_on(source.writable());
    assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::Closed));
    settled(cx, 0);
    Ok(())
}

fn proactor_goes_first(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let readiness = Readiness::new(&io);
    let (_one, two) = pair();
    let source = source(&readiness, two);
    let mut waiting = pin!(source.readable());
    let count = Arc::new(Count::default());
    assert!(polled(waiting.as_mut(), &count).is_none());
    io.shutdown(Wait::Now).expect("only a watch is in flight");
    assert!(count.0.load(Ordering::SeqCst) > 0);
    let told = polled(waiting, &count).expect("it is over");
    assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::ShutDown));
    Ok(())
}

/// Runs something when it is woken, on the thread that polls.
struct Act(std::sync::Mutex<Box<dyn FnMut() + Send>>);

impl Wake for Act {
    fn wake(self: Arc<Self>) {
        (self.0.lock().expect("not twice at once"))();
    }
}

thread_local! {
    /// What a waker of `woken_changes` works with: wakers are Send, this is not.
    static HERE: RefCell<Option<Rc<Readiness>>> = const { RefCell::new(None) };
}

fn woken_changes(cx: &Cx<'_>) -> Result<(), Skip> {
    // Inside the wake itself: register, re-register, deregister.
    let readiness = Rc::new(Readiness::new(cx.io));
    HERE.set(Some(readiness.clone()));
    let (mut one, two) = pair();
    let spare = two.try_clone().expect("a descriptor");
    let token = readiness.register(&two, READ, Trigger::Edge).expect("room");
    let acted = Arc::new(Count::default());
    let inside = acted.clone();
    let act = Act(std::sync::Mutex::new(Box::new(move || {
        let readiness = HERE.with_borrow(|here| here.clone()).expect("this thread's");
        let new = readiness.register(&spare, READ, Trigger::Level).expect("room");
        readiness.reregister(new, WRITE, Trigger::Edge).expect("room");
        readiness.deregister(token).expect("it is there");
        readiness.deregister(new).expect("it is there");
        inside.0.fetch_add(1, Ordering::SeqCst);
    })));
    let waker = Waker::from(Arc::new(act));
    let mut waiting = pin!(readiness.ready(token, READ));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("the wake", || acted.0.load(Ordering::SeqCst) == 1);
    let told = waiting.now_or_never().expect("it is over");
    assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::Closed));
    HERE.set(None);
    settled(cx, 0);
    Ok(())
}

fn a_wait_dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = source(&readiness, two);
    let count = Arc::new(Count::default());
    for _ in 0..3 {
        let mut waiting = Box::pin(source.readable());
        assert!(polled(waiting.as_mut(), &count).is_none());
    }
    assert_eq!(Arc::strong_count(&count), 1, "no waker is left");
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(cx.block_on(source.readable()).expect("no error"), READ, "and nothing is lost");
    assert_eq!(count.0.load(Ordering::SeqCst), 0);
    Ok(())
}

fn a_waker_replaced(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = source(&readiness, two);
    let (old, new) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let mut waiting = pin!(source.readable());
    assert!(polled(waiting.as_mut(), &old).is_none());
    assert!(polled(waiting.as_mut(), &new).is_none());
    assert_eq!(Arc::strong_count(&old), 1);
    one.write_all(b"x").expect("room in a socket");
    cx.poll_until("the wake", || new.0.load(Ordering::SeqCst) == 1);
    assert_eq!(old.0.load(Ordering::SeqCst), 0);
    Ok(())
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("on purpose");
    }
}

fn a_waker_that_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = source(&readiness, two);
    let bad = Waker::from(Arc::new(Panics));
    let count = Arc::new(Count::default());
    let (mut first, mut second) = (pin!(source.readable()), pin!(source.readable()));
    assert!(first.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
    assert!(polled(second.as_mut(), &count).is_none());
    one.write_all(b"x").expect("room in a socket");
    let mut panics = 0;
    for _ in 0..1000 {
        if count.0.load(Ordering::SeqCst) > 0 {
            break;
        }
        let poll = catch_unwind(AssertUnwindSafe(|| cx.io.poll(Duration::from_millis(1))));
        panics += usize::from(poll.is_err());
    }
    assert_eq!((panics, count.0.load(Ordering::SeqCst)), (1, 1), "the other is told");
    assert!(readiness.fault(source.token()).is_none(), "the registration goes on");
    Ok(())
}

fn not_registered_for_that(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (reader, _writer) = std::io::pipe().expect("two descriptors");
    let source = IoSource::with_interest(&readiness, reader, READ).expect("room");
    let told = cx.block_on(source.writable()).err().map(|error| error.kind());
    assert_eq!(told, Some(ErrorKind::InvalidArgument));
    let told = cx.block_on(source.ready(Interest::default())).err().map(|error| error.kind());
    assert_eq!(told, Some(ErrorKind::InvalidArgument));
    Ok(())
}

fn reregistered(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let token = readiness.register(&two, READ, Trigger::Edge).expect("room");
    let mut waiting = pin!(readiness.ready(token, READ));
    let count = Arc::new(Count::default());
    assert!(polled(waiting.as_mut(), &count).is_none());
    readiness.reregister(token, READ | WRITE, Trigger::Level).expect("room");
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(cx.block_on(waiting).expect("no error"), READ, "it goes on");
    // Where nobody will ever report what it waits for it is told so.
    let mut waiting = pin!(readiness.ready(token, Interest::PRIORITY | READ));
    assert!(polled(waiting.as_mut(), &count).is_some_and(|told| told.is_err()));
    Ok(())
}

fn faulted(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (_one, two) = pair();
    let source = source(&readiness, two);
    let mut waiting = pin!(source.readable());
    let count = Arc::new(Count::default());
    assert!(polled(waiting.as_mut(), &count).is_none());
    idle_turns(cx);
    cx.io.cancel_all().expect("the proactor is here");
    let told = cx.block_on(waiting).err().map(|error| error.kind());
    cx.note(format!("{told:?}"));
    assert_eq!(told, Some(ErrorKind::Cancelled));
    Ok(())
}

fn io_echo(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (one, two) = pair();
    let (near, far) = (source(&readiness, one), source(&readiness, two));
    let bytes = Cx::pattern(500_000, 3);
    let write = async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let sent = near.io(WRITE, |mut end| end.write(rest)).await.expect("writing");
            rest = &rest[sent..];
        }
    };
    let read = async {
        let mut all = Vec::new();
        let mut chunk = [0; 8192];
        while all.len() < bytes.len() {
            let got = far.io(READ, |mut end| end.read(&mut chunk)).await.expect("reading");
            all.extend_from_slice(&chunk[..got]);
        }
        all
    };
    let ((), all) = cx.block_on(join(write, read));
    assert!(all == bytes);
    Ok(())
}

fn into_inner(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let mut source = source(&readiness, two);
    source.get_mut().set_nonblocking(false).expect("a socket");
    let mut two = source.into_inner();
    settled(cx, 0);
    one.write_all(b"x").expect("room in a socket");
    assert_eq!(two.read(&mut [0; 8]).expect("it works on"), 1);
    Ok(())
}

fn refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let readiness = Readiness::new(cx.io);
    let file = std::fs::File::create_new(cx.scratch_dir().join("file")).expect("a file");
    let refused = IoSource::new(&readiness, &file).err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::InvalidArgument));
    settled(cx, 0);
    Ok(())
}

fn beside_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    // A poll's events and a task's wait take nothing from each other.
    let readiness = Readiness::new(cx.io);
    let (mut one, two) = pair();
    let source = IoSource::with_interest(&readiness, two, READ).expect("room");
    let woken = Rc::new(Cell::new(false));
    let count = Arc::new(Count::default());
    let mut waiting = pin!(source.readable());
    assert!(polled(waiting.as_mut(), &count).is_none());
    one.write_all(b"x").expect("room in a socket");
    let mut events = Vec::new();
    for _ in 0..1000 {
        if readiness.poll(&mut events, Duration::from_millis(10)).expect("polling") > 0 {
            woken.set(true);
            break;
        }
    }
    assert!(woken.get());
    assert_eq!((events[0].token, events[0].ready), (source.token(), READ));
    assert_eq!(polled(waiting, &count).expect("it was woken too").expect("no error"), READ);
    Ok(())
}
