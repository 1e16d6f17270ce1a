//! Names: what was made by one proactor means nothing to another, even where index and generation
//! are the same in both.

use super::proactor;
use dataplane::{Backend, ErrorKind, Wait};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[test]
fn a_file_of_another_proactor_is_refused() {
    let one = proactor(Backend::IoUring);
    let two = proactor(Backend::IoUring);
    let secret = std::env::temp_dir().join(format!("sound-secret-{}", std::process::id()));
    std::fs::write(&secret, b"secret").unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    // The same place in both tables, another file.
    let _secret = one.adopt_file(std::fs::File::open(&secret).unwrap()).unwrap();
    let public = two.adopt_file(std::fs::File::open("/etc/passwd").unwrap()).unwrap();
    let socket = one.adopt_socket(OwnedFd::from(a)).unwrap();
    let sent = one.block_on(async { socket.transfer(&public, 0, 6)?.await.map_err(|f| f.error) });
    assert_eq!(sent.unwrap().map_err(|e| e.kind()), Err(ErrorKind::InvalidArgument));
    peer.set_nonblocking(true).unwrap();
    let nothing = peer.read(&mut [0; 6]).map_err(|error| error.kind());
    assert_eq!(nothing, Err(std::io::ErrorKind::WouldBlock));
    std::fs::remove_file(&secret).unwrap();
}

#[test]
fn a_pool_of_another_proactor_is_refused() {
    let one = proactor(Backend::IoUring);
    let two = proactor(Backend::IoUring);
    let mine = one.receive_pool(2, 64).unwrap();
    let theirs = two.receive_pool(2, 64).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let socket = one.adopt_socket(OwnedFd::from(a)).unwrap();
    peer.write_all(b"x").unwrap();
    let got = one.block_on(async { socket.recv_pool(&theirs).await });
    let got = got.unwrap().map(drop).map_err(|failed| failed.kind());
    assert_eq!(got, Err(ErrorKind::InvalidArgument));
    assert_eq!(mine.slab().available() + theirs.slab().available(), 0, "all with the kernel");
}

#[test]
fn a_cancel_by_the_name_of_another_proactors_operation_finds_nothing() {
    let one = proactor(Backend::IoUring);
    let two = proactor(Backend::IoUring);
    let later = Instant::now() + Duration::from_secs(3600);
    let (mine, theirs) = (one.sleep_until(later).submit(), two.sleep_until(later).submit());
    let (mut mine, theirs) = (mine.unwrap(), theirs.unwrap());
    assert_eq!(format!("{:?}", mine.id()), format!("{:?}", theirs.id()), "alike but for the owner");
    assert_eq!(one.cancel(theirs.id()).map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    one.poll(Wait::Now).unwrap();
    assert!(mine.try_take().is_none(), "still asleep");
    one.cancel(mine.id()).unwrap();
}
