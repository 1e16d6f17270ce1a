//! Bounds of our own that are reached: slots for results, registered descriptors, jobs for helper
//! threads. Each is an error that names it, nothing is lost, and there is room again afterwards.
#![allow(clippy::unwrap_used)]

use crate::child;

use dataplane::operations::Nop;
use dataplane::{Backend, ErrorKind, OpenOptions, Options, Proactor, Wait};
use std::io::Read;
use std::os::unix::net::UnixStream;

fn proactor(options: Options) -> Option<Proactor> {
    match Proactor::with(options) {
        Ok(io) => Some(io),
        Err(error) if std::env::var("REQUIRE").is_ok_and(|rows| rows.contains("io_uring")) => {
            panic!("io_uring is required: {error}")
        }
        Err(error) => {
            child::say(&format!("skipped: {error}"));
            None
        }
    }
}

/// Results wait for their futures in slots, of which there is a number.
fn results_fill_the_slots(backend: Backend) {
    const OPERATIONS: u32 = 64;
    const SLOTS: usize = 1 << 16;
    let options = Options::default().backend(backend).operations(OPERATIONS);
    let Some(io) = proactor(options) else { return };
    let (near, mut far) = UnixStream::pair().unwrap();
    let socket = io.adopt_socket(near).unwrap();
    let mut kept = Vec::new();
    let refused = loop {
        match io.nop().submit() {
            Ok(nop) => kept.push(nop),
            Err(failed) => break failed,
        }
        while io.stats().in_flight == OPERATIONS {
            io.poll(Wait::Forever).unwrap();
        }
        assert!(kept.len() <= SLOTS, "{backend}: no bound");
    };
    assert_eq!((refused.kind(), kept.len()), (ErrorKind::Exhausted, SLOTS), "{backend}");
    assert!(refused.error.message().contains("take or drop some"), "{refused}");
    let mut batch = io.batch();
    batch.add(Nop);
    let refused = batch.submit().err().unwrap();
    assert_eq!((refused.error.kind(), refused.index), (ErrorKind::Exhausted, None));
    assert!(refused.error.message().contains("take or drop some"), "{}", refused.error);
    // A socket that goes now is closed all the same.
    drop(socket);
    while io.stats().in_flight > 0 || io.stats().descriptors > 0 {
        io.poll(Wait::Now).unwrap();
    }
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "{backend}");
    kept.pop();
    kept.push(io.nop().submit().expect("there is room again"));
    for nop in kept {
        io.block_on(nop).unwrap().unwrap();
    }
}

#[test]
fn results_that_nobody_takes_are_bounded() {
    child::alone(module_path!(), "results_that_nobody_takes_are_bounded", || {
        Backend::ALL.into_iter().for_each(results_fill_the_slots);
    });
}

/// The kernel's table is no larger than RLIMIT_NOFILE when it is made.
#[test]
fn a_full_table_of_registered_descriptors_names_its_size() {
    child::alone(module_path!(), "a_full_table_of_registered_descriptors_names_its_size", || {
        const SIZE: u64 = 16;
        let Some(io) = proactor(Options::default().backend(Backend::IoUring)) else { return };
        let ends: Vec<_> = (0..SIZE).map(|_| UnixStream::pair().unwrap()).collect();
        let ends = ends.into_iter().flat_map(|(one, two)| [one, two]);
        let mut sockets: Vec<_> = ends.map(|end| io.adopt_socket(end).unwrap()).collect();
        child::descriptors_at_most(SIZE);
        assert!(sockets[0].register().unwrap());
        child::descriptors_at_most(1024);
        for socket in &sockets[1..SIZE as usize] {
            assert!(socket.register().unwrap());
        }
        let error = sockets[SIZE as usize].register().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.message().contains("16 of 16 registered descriptors"), "{error}");
        drop(sockets.remove(3));
        while io.stats().descriptors > sockets.len() {
            io.poll(Wait::Now).unwrap();
        }
        assert!(sockets[SIZE as usize].register().unwrap(), "there is room again");
    });
}

/// One thread blocks, a thousand jobs wait for it, and one more is refused.
#[test]
fn jobs_for_helper_threads_are_bounded() {
    child::alone(module_path!(), "jobs_for_helper_threads_are_bounded", || {
        const QUEUE: usize = 1024;
        let options = Options::default().backend(Backend::Epoll).helpers(1).operations(2048);
        let io = Proactor::with(options).unwrap();
        let fifo = std::env::temp_dir().join(format!("dataplane-jobs-{}", std::process::id()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let blocked = io.open(&fifo, OpenOptions::read()).unwrap().submit().unwrap();
        // Long enough for the thread to have taken it.
        for _ in 0..20 {
            io.poll(std::time::Duration::from_millis(5)).unwrap();
        }
        let open = || io.open("/dev/null", OpenOptions::read()).unwrap().submit().unwrap();
        let waiting: Vec<_> = (0..QUEUE).map(|_| open()).collect();
        let refused = io.block_on(open()).unwrap().map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted, "{refused}");
        let writer = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        for opened in waiting {
            drop(io.block_on(opened).unwrap().unwrap());
        }
        drop(io.block_on(blocked).unwrap().unwrap());
        drop(writer);
        std::fs::remove_file(&fifo).unwrap();
    });
}
