//! What can be said of fences on a machine without a device: what is refused, what is exported.

#![cfg(not(loom))]

use fence::{
    DrmDevice, Exported, Failure, Fence, FenceEnd, FenceErrorKind, FenceStatus, Semaphore,
    SyncFile, VgemDevice,
};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

fn readable(fd: impl AsFd) -> bool {
    let copy = fd.as_fd().try_clone_to_owned().expect("a descriptor");
    Fence::from_fd(copy).expect("an event").status() == Ok(FenceStatus::Signalled)
}

#[test]
fn only_a_sync_file_is_one() {
    let file = OwnedFd::from(File::open("/dev/null").expect("it is there"));
    let number = file.as_raw_fd();
    let refused = SyncFile::from_fd(file).expect_err("it is none");
    assert_eq!(refused.error.kind(), FenceErrorKind::WrongKind);
    assert_eq!(refused.fd.as_raw_fd(), number, "it comes back");
    assert!(refused.to_string().starts_with("sync_file: "), "{refused}");
}

#[test]
fn a_device_without_syncobjs_comes_back() {
    let file = OwnedFd::from(File::open("/dev/null").expect("it is there"));
    let refused = DrmDevice::from_fd(file).expect_err("it is none");
    assert_eq!(refused.error.kind(), FenceErrorKind::Unsupported);
    let missing = DrmDevice::open("/dev/dri/none").expect_err("it is not there");
    assert_eq!(missing.errno(), Some(2));
}

#[test]
fn an_export_is_readable_when_the_value_is_reached() {
    let drawn = Semaphore::new(0);
    let exported = drawn.export(2, None).expect("a descriptor");
    assert!(matches!(exported, Exported::Event(_)));
    drawn.signal(1).expect("above");
    assert!(!readable(&exported));
    drawn.signal(2).expect("above");
    assert!(readable(&exported));
    assert!(readable(drawn.export(1, None).expect("a descriptor")), "reached before");
}

#[test]
fn an_export_is_readable_when_the_semaphore_fails() {
    let drawn = Semaphore::new(0);
    let exported = drawn.export(2, None).expect("a descriptor");
    drawn.fail(Failure::new("the device is lost"));
    assert!(readable(&exported));
    assert!(readable(drawn.export(2, None).expect("a descriptor")), "failed before");
}

/// What is written goes to the export's own descriptor, not into whatever reused the number.
#[test]
fn an_export_may_be_closed_early() {
    let drawn = Semaphore::new(0);
    let number = drawn.export(1, None).expect("a descriptor").into_fd().as_raw_fd();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let reused = writer.as_raw_fd() == number || reader.as_raw_fd() == number;
    drawn.signal(1).expect("above");
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("it reads");
    assert!(bytes.is_empty(), "reused: {reused}");
}

#[test]
fn many_exports_of_one_value() {
    let drawn = Semaphore::new(0);
    let exports: Vec<_> = (0..50).map(|_| drawn.export(1, None).expect("a descriptor")).collect();
    let signaller = std::thread::spawn({
        let drawn = drawn.clone();
        move || drawn.signal(1)
    });
    let end = Instant::now() + Duration::from_secs(20);
    while !exports.iter().all(readable) {
        assert!(Instant::now() < end, "some were not told");
        std::thread::yield_now();
    }
    signaller.join().expect("no panic").expect("above");
}

#[test]
fn a_device_that_is_not_vgem_comes_back() {
    let file = OwnedFd::from(File::open("/dev/null").expect("it is there"));
    let number = file.as_raw_fd();
    let refused = VgemDevice::from_fd(file).expect_err("it is none");
    assert_eq!(refused.error.kind(), FenceErrorKind::WrongKind);
    assert_eq!(refused.fd.as_raw_fd(), number);
    assert!(refused.to_string().contains("modprobe vgem"), "{refused}");
    let missing = VgemDevice::open("/dev/dri/none").expect_err("it is not there");
    assert_eq!(missing.errno(), Some(2));
}

/// The lab shows the same, and what takes ten seconds.
#[test]
fn an_expiring_export_pends_until_the_value_is_reached() {
    let Some(device) = VgemDevice::find() else {
        eprintln!("skipped: no device of vgem; `modprobe vgem`");
        return;
    };
    let drawn = Semaphore::new(0);
    let fences = [1, 2].map(|value| drawn.export_expiring(value, &device).expect("a fence"));
    drawn.signal(1).expect("above");
    assert_eq!(fences[0].end(), Ok(Some(FenceEnd::Reached)));
    assert_eq!(fences[0].sync_file().status(), Ok(FenceStatus::Signalled));
    assert_eq!(fences[1].end(), Ok(None));
    drop(drawn);
    assert_eq!(fences[1].end(), Ok(Some(FenceEnd::Failed)), "nobody is left to signal it");
}

#[test]
fn a_status_settles_a_semaphore() {
    let drawn = Semaphore::new(0);
    assert!(!drawn.settle(1, &Ok(FenceStatus::Pending)));
    assert!(drawn.settle(1, &Ok(FenceStatus::Signalled)));
    assert_eq!(drawn.value(), Ok(1));
    assert!(drawn.settle(1, &Ok(FenceStatus::Signalled)), "there already");
    assert!(drawn.settle(2, &Ok(FenceStatus::Failed(5))));
    let failed = drawn.value().expect_err("it failed");
    assert_eq!((failed.value, failed.failure.errno()), (1, Some(5)));
}
