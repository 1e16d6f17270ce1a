//! Trials of zero-copy sends, over a loopback connection of their own.
//!
//! Unsafe code: entries handed to the bench, over memory of the bench.
#![allow(unsafe_code)]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};

use super::sqe;
use super::trial::{Bench, Completion, Why, stays_armed};

/// Sends 8 bytes with each of the two entries, and waits for what they report.
pub(super) fn zero_copy_send(bench: &mut Bench) -> Result<String, Why> {
    const REPORT_USAGE: u16 = 1 << 3;
    const COPIED: u32 = 1 << 31;
    let (near, mut far) = loopback()?;
    let (fd, memory) = (Fd(near.as_raw_fd()), bench.memory());
    // SAFETY: the bench's own memory, which no operation uses now.
    let message = unsafe {
        memory.cast::<[u8; 8]>().write(*b"zerocopy");
        (*memory).vectors[0] = libc::iovec { iov_base: memory.cast(), iov_len: 8 };
        (*memory).message.msg_iov = (&raw mut (*memory).vectors).cast();
        (*memory).message.msg_iovlen = 1;
        &raw const (*memory).message
    };
    let plain = opcode::SendZc::new(fd, memory.cast(), 8).zc_flags(REPORT_USAGE).build();
    let vectored = opcode::SendMsgZc::new(fd, message).ioprio(REPORT_USAGE).build();
    let mut copied = 0;
    for (what, entry) in [("SEND_ZC", plain), ("SENDMSG_ZC", vectored)] {
        // SAFETY: the message, its vector and its bytes are the bench's memory.
        let sent = unsafe { bench.run(entry)? };
        let notice = notified(what, sent.expect(what, 8)?, bench)?;
        copied += u32::from(notice.result as u32 & COPIED != 0);
        received(what, &mut far, *b"zerocopy")?;
    }
    Ok(format!(
        "SEND_ZC and SENDMSG_ZC moved 8 bytes each over loopback TCP and reported their use \
         ({copied} of 2 copied, as loopback does)"
    ))
}

/// Sends the two parts of the bench's page that its vectors name.
pub(super) fn send_vectored_fixed(bench: &mut Bench, index: u16) -> Result<(), Why> {
    let (near, mut far) = loopback()?;
    let memory = bench.memory();
    // SAFETY: the bench's own memory, which no operation uses now.
    let message = unsafe {
        (*memory).message.msg_iov = (&raw mut (*memory).vectors).cast();
        (*memory).message.msg_iovlen = 2;
        &raw const (*memory).message
    };
    let entry = opcode::SendMsgZc::new(Fd(near.as_raw_fd()), message).build();
    // SAFETY: the message, its vectors and their bytes are the bench's memory.
    let sent = unsafe { bench.run(sqe::from_registered(entry, index))? };
    notified("SENDMSG_ZC", sent.expect("SENDMSG_ZC from a registered page", 8)?, bench)?;
    received("SENDMSG_ZC", &mut far, *b"halves 2")
}

/// Two ends of a TCP connection over loopback; the second gives up reading after a second.
fn loopback() -> Result<(TcpStream, TcpStream), Why> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(Why::untried("bind to loopback"))?;
    let address = listener.local_addr().map_err(Why::untried("getsockname"))?;
    let near = TcpStream::connect(address).map_err(Why::untried("connect over loopback"))?;
    let (far, _) = listener.accept().map_err(Why::untried("accept over loopback"))?;
    far.set_read_timeout(Some(Duration::from_secs(1))).map_err(Why::untried("SO_RCVTIMEO"))?;
    Ok((near, far))
}

fn received(what: &str, far: &mut TcpStream, expected: [u8; 8]) -> Result<(), Why> {
    let mut received = [0; 8];
    far.read_exact(&mut received).map_err(Why::untried("read over loopback"))?;
    match received == expected {
        true => Ok(()),
        false => Err(Why::Missing(format!("{what}: wrong bytes {received:02x?}"))),
    }
}

/// The notification that follows a zero-copy send's result.
fn notified(what: &str, sent: Completion, bench: &mut Bench) -> Result<Completion, Why> {
    stays_armed(what, sent)?;
    let notice = bench.one()?;
    match cqueue::notif(notice.flags) {
        true => Ok(notice),
        false => Err(Why::Missing(format!("{what}: no notification but {notice}"))),
    }
}
