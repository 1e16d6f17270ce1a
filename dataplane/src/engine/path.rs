//! Which way the bytes of an operation went: mechanism, and whether anything copied them.

use std::fmt;

/// The kernel mechanism that moved the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// `recv(2)` or its ring form into a lease.
    Recv,
    /// A receive into a buffer selected from a pool.
    RecvSelected,
    /// `send(2)` or its ring form.
    Send,
    /// `sendmsg(2)` or its ring form.
    SendMessage,
    /// Zero-copy send from ordinary memory.
    SendZeroCopy,
    /// Zero-copy send from a registered buffer.
    SendZeroCopyFixed,
    /// Zero-copy `sendmsg`.
    SendMessageZeroCopy,
    /// Zero-copy `sendmsg` from one registered buffer.
    SendMessageZeroCopyFixed,
    /// Positioned read or write into or from ordinary memory.
    File,
    /// Positioned read or write into or from a registered buffer.
    FileFixed,
    /// `splice(2)` through a pipe.
    Splice,
}

impl Mechanism {
    /// A stable lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Recv => "recv",
            Mechanism::RecvSelected => "recv-selected",
            Mechanism::Send => "send",
            Mechanism::SendMessage => "sendmsg",
            Mechanism::SendZeroCopy => "send-zc",
            Mechanism::SendZeroCopyFixed => "send-zc-fixed",
            Mechanism::SendMessageZeroCopy => "sendmsg-zc",
            Mechanism::SendMessageZeroCopyFixed => "sendmsg-zc-fixed",
            Mechanism::File => "file",
            Mechanism::FileFixed => "file-fixed",
            Mechanism::Splice => "splice",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes were copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CopyReason {
    /// Zero-copy was switched off for this socket.
    NotAsked,
    /// Shorter than the socket's zero-copy threshold, below which a copy is cheaper.
    BelowThreshold,
    /// Asked for, and the kernel reported that it copied (loopback always does).
    KernelCopied,
    /// The backend or kernel has no zero-copy send.
    Unsupported,
    /// Asked for, and the kernel could not pin the memory (RLIMIT_MEMLOCK, optmem_max), or it is a
    /// device's.
    NotPinned,
    /// A socket receive copies from the kernel's packet buffers.
    SocketReceive,
    /// Through the page cache.
    PageCache,
}

impl fmt::Display for CopyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CopyReason::NotAsked => "zero-copy is switched off for this socket",
            CopyReason::BelowThreshold => "shorter than the zero-copy threshold",
            CopyReason::KernelCopied => "the kernel reported a copy (loopback always copies)",
            CopyReason::Unsupported => "this backend has no zero-copy send",
            CopyReason::NotPinned => {
                "the kernel could not pin the memory; register it, or raise RLIMIT_MEMLOCK; \
                 that of a device is never pinned"
            }
            CopyReason::SocketReceive => "a socket receive copies out of packet buffers",
            CopyReason::PageCache => "through the page cache; O_DIRECT avoids it",
        })
    }
}

/// The way the bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// What moved them.
    pub mechanism: Mechanism,
    /// None when the kernel took them from (or put them into) the caller's memory itself.
    pub copied: Option<CopyReason>,
}

impl Path {
    pub(crate) fn copied(mechanism: Mechanism, reason: CopyReason) -> Path {
        Path { mechanism, copied: Some(reason) }
    }

    pub(crate) fn direct(mechanism: Mechanism) -> Path {
        Path { mechanism, copied: None }
    }

    /// Whether nothing copied the bytes between the caller's memory and the device or stack.
    pub fn is_zero_copy(self) -> bool {
        self.copied.is_none()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.copied {
            None => write!(f, "{}, zero-copy", self.mechanism),
            Some(reason) => write!(f, "{}, copied: {reason}", self.mechanism),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_way_and_every_reason_has_words_of_its_own() {
        use {CopyReason::*, Mechanism::*};
        let mechanisms = [
            Recv,
            RecvSelected,
            Send,
            SendMessage,
            SendZeroCopy,
            SendZeroCopyFixed,
            SendMessageZeroCopy,
            SendMessageZeroCopyFixed,
            File,
            FileFixed,
            Splice,
        ];
        let reasons = [
            NotAsked,
            BelowThreshold,
            KernelCopied,
            Unsupported,
            NotPinned,
            SocketReceive,
            PageCache,
        ];
        let named: BTreeSet<String> = mechanisms
            .into_iter()
            .flat_map(|one| {
                let copied = reasons.map(|reason| Path::copied(one, reason));
                copied.into_iter().chain([Path::direct(one)])
            })
            .map(|path| path.to_string())
            .collect();
        assert_eq!(named.len(), mechanisms.len() * (reasons.len() + 1));
        assert!(named.contains("splice, zero-copy"), "{named:?}");
        let short = Path::copied(Send, BelowThreshold);
        assert_eq!(short.to_string(), "send, copied: shorter than the zero-copy threshold");
        assert!(!short.is_zero_copy());
    }
}
