//! What a poller's reports are about, and how that travels through the 64 bits of an epoll event.
//!
//! The top eight bits tell the kinds apart. A descriptor takes 24 bits of generation and 32 of
//! number, a persistent poll the 56 bits of its operation's id.

use crate::backend::OpId;
use std::os::fd::RawFd;

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A descriptor number and the generation of its registration (24 bits).
    Descriptor(RawFd, u32),
    /// A persistent poll.
    Watch(OpId),
    /// The bell.
    Bell,
    /// The timer.
    Timer,
    /// The set of edges inside the poll vector.
    Edges,
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        match self {
            Token::Descriptor(fd, generation) => {
                u64::from(generation & 0x00ff_ffff) << 32 | u64::from(fd as u32)
            }
            Token::Watch(id) => 1 << 56 | id.0 & 0x00ff_ffff_ffff_ffff,
            Token::Bell => 2 << 56,
            Token::Timer => 3 << 56,
            Token::Edges => 4 << 56,
        }
    }

    pub(super) fn unpack(word: u64) -> Token {
        match word >> 56 {
            0 => Token::Descriptor(word as u32 as RawFd, (word >> 32) as u32),
            1 => Token::Watch(OpId(word & 0x00ff_ffff_ffff_ffff)),
            2 => Token::Bell,
            3 => Token::Timer,
            _ => Token::Edges,
        }
    }
}

/// One report: what it is about, and the bits of `poll(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) token: Token,
    pub(super) bits: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let tokens = [
            Token::Descriptor(0, 0),
            Token::Descriptor(RawFd::MAX, 0x00ff_ffff),
            Token::Watch(OpId::new(u32::MAX, u32::MAX)),
            Token::Watch(OpId::new(0, 0)),
            Token::Bell,
            Token::Timer,
            Token::Edges,
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
