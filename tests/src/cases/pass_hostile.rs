//! What no decent peer sends: malformed headers, missing and surplus descriptors, memory that is
//! not what it is said to be. Everything is refused and closed.

use super::pass::{assert_closed, hostile_pair, kind, receive, seqpacket, witness};
use crate::{Case, Cx, Skip};
use dataplane::{
    ErrorKind, File, PASS_HEADER_BYTES, Passed, PassedEvent, PassedFence, PassedSlab, Socket,
};
use futures_util::future::join;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::ftruncate;
use regions::Region;
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "pass_hostile/peer_goes_in_the_middle", needs: &[], run: in_the_middle },
    Case { name: "pass_hostile/header_in_pieces", needs: &[], run: header_in_pieces },
    Case { name: "pass_hostile/bytes", needs: &[], run: hostile_bytes },
    Case { name: "pass_hostile/without_descriptor", needs: &[], run: without_descriptor },
    Case { name: "pass_hostile/with_several", needs: &[], run: with_several },
    Case { name: "pass_hostile/with_one_per_byte", needs: &[], run: one_per_byte },
    Case { name: "pass_hostile/long_message", needs: &[], run: long_message },
    Case { name: "pass_hostile/unsealed", needs: &[], run: unsealed },
    Case { name: "pass_hostile/partly_sealed", needs: &[], run: partly_sealed },
    Case { name: "pass_hostile/too_small", needs: &[], run: too_small },
    Case { name: "pass_hostile/layout", needs: &[], run: hostile_layout },
    Case { name: "pass_hostile/no_memfd", needs: &[], run: hostile_no_memfd },
    Case { name: "pass_hostile/event", needs: &[], run: hostile_event },
];

const SLAB: u32 = 1;
const REGION: u32 = 2;
const SOCKET: u32 = 3;
const FILE: u32 = 4;
const EVENT: u32 = 5;

/// What came is refused as malformed, and closed.
fn refused<T: Passed>(cx: &Cx<'_>, bytes: &[u8], descriptors: &[&OwnedFd]) -> String {
    let (near, far) = hostile_pair(cx);
    send_raw(&far, bytes, descriptors);
    let error = receive::<T>(cx, &near).err().expect("it is malformed");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    error.message().to_owned()
}

fn send_raw(from: &UnixStream, bytes: &[u8], descriptors: &[&OwnedFd]) {
    let numbers: Vec<_> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &control[..0] } else { &control[..] };
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg::<()>(from.as_raw_fd(), &parts, control, MsgFlags::empty(), None);
    assert_eq!(sent.expect("room in a socket"), bytes.len());
}

fn memfd(bytes: i64, seals: SealFlag) -> OwnedFd {
    let fd = memfd_create("hostile", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
    let fd = fd.expect("a memfd");
    ftruncate(&fd, bytes).expect("a size");
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).expect("sealing");
    fd
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

fn header(kind: u32, slots: u32, slot_bytes: u64, len_bytes: u64) -> Vec<u8> {
    let mut bytes = b"dplpass1".to_vec();
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&slots.to_le_bytes());
    bytes.extend_from_slice(&slot_bytes.to_le_bytes());
    bytes.extend_from_slice(&len_bytes.to_le_bytes());
    assert_eq!(bytes.len(), PASS_HEADER_BYTES);
    bytes
}

fn header_in_pieces(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = hostile_pair(cx);
    let event = OwnedFd::from(EventFd::new().expect("a descriptor"));
    let bytes = header(EVENT, 0, 0, 0);
    send_raw(&far, &bytes[..9], &[&event]);
    let (got, ()) = cx.block_on(Box::pin(join(near.receive_passed::<PassedEvent>(), async {
        for at in 9..PASS_HEADER_BYTES {
            cx.io.nop().await.expect("a turn");
            send_raw(&far, &bytes[at..=at], &[]);
        }
    })));
    got.expect("an event");
    Ok(())
}

fn hostile_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (fd, witness) = witness();
    refused::<Socket>(cx, &[0; PASS_HEADER_BYTES], &[&fd]);
    refused::<Socket>(cx, &Cx::pattern(PASS_HEADER_BYTES, 5), &[&fd]);
    refused::<Socket>(cx, &header(0, 0, 0, 0), &[&fd]);
    refused::<Socket>(cx, &header(u32::MAX, 0, 0, 0), &[&fd]);
    drop(fd);
    assert_closed(witness);
    Ok(())
}

fn without_descriptor(cx: &Cx<'_>) -> Result<(), Skip> {
    let said = refused::<Socket>(cx, &header(SOCKET, 0, 0, 0), &[]);
    assert!(said.contains("without a descriptor"), "{said}");
    Ok(())
}

fn with_several(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((a, a_witness), (b, b_witness)) = (witness(), witness());
    let said = refused::<Socket>(cx, &header(SOCKET, 0, 0, 0), &[&a, &b]);
    assert!(said.contains("several"), "{said}");
    drop((a, b));
    assert_closed(a_witness);
    assert_closed(b_witness);
    Ok(())
}

fn one_per_byte(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = hostile_pair(cx);
    let ((a, a_witness), (b, b_witness)) = (witness(), witness());
    send_raw(&far, b"d", &[&a]);
    send_raw(&far, b"p", &[&b]);
    drop((a, b));
    assert_eq!(kind(receive::<Socket>(cx, &near)), Some(ErrorKind::InvalidArgument));
    assert_closed(a_witness);
    assert_closed(b_witness);
    Ok(())
}

fn long_message(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = seqpacket(cx);
    let far = UnixStream::from(far);
    let (fd, witness) = witness();
    let mut bytes = header(SOCKET, 0, 0, 0);
    bytes.push(0);
    send_raw(&far, &bytes, &[&fd]);
    drop(fd);
    assert_eq!(kind(receive::<Socket>(cx, &near)), Some(ErrorKind::InvalidArgument));
    assert_closed(witness);
    Ok(())
}

fn unsealed(cx: &Cx<'_>) -> Result<(), Skip> {
    let memory = memfd(8192, SealFlag::empty());
    let said = refused::<PassedSlab>(cx, &header(SLAB, 2, 4096, 8192), &[&memory]);
    assert!(said.contains("not sealed"), "{said}");
    let said = refused::<Region>(cx, &header(REGION, 0, 0, 8192), &[&memory]);
    assert!(said.contains("not sealed"), "{said}");
    Ok(())
}

fn partly_sealed(cx: &Cx<'_>) -> Result<(), Skip> {
    for missing in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL] {
        let memory = memfd(8192, all_seals() - missing);
        refused::<Region>(cx, &header(REGION, 0, 0, 8192), &[&memory]);
    }
    Ok(())
}

fn too_small(cx: &Cx<'_>) -> Result<(), Skip> {
    let memory = memfd(4096, all_seals());
    refused::<Region>(cx, &header(REGION, 0, 0, 4097), &[&memory]);
    refused::<Region>(cx, &header(REGION, 0, 0, u64::MAX), &[&memory]);
    refused::<Region>(cx, &header(REGION, 0, 0, 0), &[&memory]);
    refused::<PassedSlab>(cx, &header(SLAB, 2, 4096, 8192), &[&memory]);
    Ok(())
}

fn hostile_layout(cx: &Cx<'_>) -> Result<(), Skip> {
    let memory = memfd(8192, all_seals());
    refused::<PassedSlab>(cx, &header(SLAB, 3, 4096, 8192), &[&memory]);
    refused::<PassedSlab>(cx, &header(SLAB, 0, 4096, 8192), &[&memory]);
    refused::<PassedSlab>(cx, &header(SLAB, 2, 0, 8192), &[&memory]);
    refused::<PassedSlab>(cx, &header(SLAB, u32::MAX, u64::MAX, 8192), &[&memory]);
    Ok(())
}

fn hostile_no_memfd(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("file");
    let mut made = std::fs::File::create_new(&path).expect("a file");
    made.write_all(&[7; 8192]).expect("room");
    let file = OwnedFd::from(made);
    refused::<Region>(cx, &header(REGION, 0, 0, 8192), &[&file]);
    let (fd, _witness) = witness();
    refused::<Region>(cx, &header(REGION, 0, 0, 8192), &[&fd]);
    refused::<File>(cx, &header(FILE, 0, 0, 0), &[&fd]);
    refused::<Socket>(cx, &header(SOCKET, 0, 0, 0), &[&file]);
    Ok(())
}

fn hostile_event(cx: &Cx<'_>) -> Result<(), Skip> {
    let (fd, witness) = witness();
    refused::<PassedEvent>(cx, &header(EVENT, 0, 0, 0), &[&fd]);
    refused::<PassedFence>(cx, &header(6, 0, 0, 0), &[&fd]);
    drop(fd);
    assert_closed(witness);
    Ok(())
}

fn in_the_middle(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = hostile_pair(cx);
    let (fd, witness) = witness();
    send_raw(&far, &header(SOCKET, 0, 0, 0)[..20], &[&fd]);
    drop((fd, far));
    assert_eq!(kind(receive::<Socket>(cx, &near)), Some(ErrorKind::DataLoss));
    assert_closed(witness);
    Ok(())
}
