//! What the ring crate's entry builders cannot say.
//!
//! Unsafe code: a field of an entry is written by its place in `struct io_uring_sqe`
//! (include/uapi/linux/io_uring.h), which is part of the kernel's ABI.

#![allow(unsafe_code)]

use io_uring::squeue::Entry;

/// In `ioprio` of a send or receive: its memory is a registered buffer (IORING_RECVSEND_FIXED_BUF).
const FIXED_BUFFER: u16 = 1 << 2;
/// Where `ioprio` and `buf_index` stand in an entry, in bytes.
const PRIORITY_AT: usize = 2;
const BUFFER_AT: usize = 40;

const _: () = assert!(size_of::<Entry>() == 64, "an entry is 64 bytes");

/// A zero-copy `sendmsg` whose vectors all lie in one registered buffer (Linux 6.15). The entry's
/// message, vectors and memory stay the caller's to keep alive.
pub(crate) fn from_registered(mut entry: Entry, index: u16) -> Entry {
    let bytes = (&raw mut entry).cast::<u8>();
    // SAFETY: an entry is `repr(C)` around the kernel's 64-byte structure, asserted above; both
    // fields are 16-bit integers, aligned, and any value of them is a value of their type.
    unsafe {
        let priority = bytes.add(PRIORITY_AT).cast::<u16>();
        priority.write(priority.read() | FIXED_BUFFER);
        bytes.add(BUFFER_AT).cast::<u16>().write(index);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::{opcode, types::Fd};

    #[test]
    fn the_index_stands_where_the_builders_put_theirs() {
        let built = opcode::SendZc::new(Fd(3), std::ptr::null(), 0).buf_index(Some(9)).build();
        let patched = from_registered(opcode::SendZc::new(Fd(3), std::ptr::null(), 0).build(), 9);
        let raw = |entry: &Entry| {
            // SAFETY: 64 initialised bytes of a local.
            unsafe { std::ptr::from_ref(entry).cast::<[u8; 64]>().read() }
        };
        assert_eq!(raw(&built), raw(&patched));
    }
}
