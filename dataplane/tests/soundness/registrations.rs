//! Registered memory and pools let their memory go when the last handle is gone, not before.

use super::{MS, proactor, turns};
use dataplane::regions::Slab;
use dataplane::{Backend, Options, Proactor, Wait};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

#[test]
fn two_registrations_of_a_slab_dropped_in_one_turn_unregister_it() {
    let io = proactor(Backend::IoUring);
    let slab = Slab::new(1, 4096).unwrap();
    let (a, b) = (io.register_slab(&slab).unwrap(), io.register_slab(&slab).unwrap());
    drop((a, b));
    turns(&io, 50);
    assert_eq!((io.stats().registered, io.stats().releasing), (0, 0));
}

#[test]
fn unregistering_waits_for_operations_still_in_line() {
    let options = Options::default().backend(Backend::IoUring).operations(16).submissions(1);
    let io = Proactor::with(options).unwrap();
    let slab = Slab::new(8, 4096).unwrap();
    let registration = io.register_slab(&slab).unwrap();
    let file = io.adopt_file(std::fs::File::open("/etc/passwd").unwrap()).unwrap();
    let mut reads: Vec<_> =
        (0..8).map(|_| file.read_at(slab.lease().unwrap(), 0).submit().unwrap()).collect();
    drop(registration);
    turns(&io, 100);
    let errors: Vec<String> = reads
        .iter_mut()
        .filter_map(|read| read.try_take().unwrap().err())
        .map(|failed| failed.error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

fn pool_handle_dropped(backend: Backend) {
    let io = proactor(backend);
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let pool = io.receive_pool(2, 64).unwrap();
    let mut stream = a.receive_all(&pool).submit().unwrap();
    drop(pool);
    for round in 0..8 {
        peer.write_all(b"hello").unwrap();
        let mut got = None;
        let end = Instant::now() + 500 * MS;
        while got.is_none() && Instant::now() < end {
            io.poll(Wait::Until(Instant::now() + 20 * MS)).unwrap();
            got = stream.try_next();
        }
        assert!(got.is_some(), "round {round}: the stream stalls for ever");
    }
}

#[test]
fn a_stream_goes_on_after_the_handle_of_its_pool_is_dropped_on_io_uring() {
    pool_handle_dropped(Backend::IoUring);
}

#[test]
fn a_stream_goes_on_after_the_handle_of_its_pool_is_dropped_on_epoll() {
    pool_handle_dropped(Backend::Epoll);
}

/// The inode of what is mapped at an address, as `/proc/self/maps` has it: the fifth column
/// of the line that covers it.
fn inode_at(address: usize) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        let (first, last) = columns.next()?.split_once('-')?;
        let range = usize::from_str_radix(first, 16).ok()?..usize::from_str_radix(last, 16).ok()?;
        let inode = columns.nth(3)?;
        range.contains(&address).then(|| inode.to_owned())
    })
}

#[test]
fn a_dropped_pool_unmaps_its_slab() {
    let io = proactor(Backend::IoUring);
    let slab = Slab::new(2, 4096).unwrap();
    let inode = inode_at(slab.slot_ptr(0).as_ptr() as usize).expect("mapped");
    assert_ne!(inode, "0", "a slab is a memfd");
    let pool = io.receive_pool_over(&slab).unwrap();
    drop((pool, slab));
    turns(&io, 50);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let still = maps.lines().any(|line| line.split_whitespace().nth(4) == Some(inode.as_str()));
    assert!(!still, "the slab of a dropped pool is still mapped");
}
