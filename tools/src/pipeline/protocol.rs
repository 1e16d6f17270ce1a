//! The wire protocol of `send`, `recv` and `stream`, version 1, over a TCP connection.
//!
//! Numbers are little-endian. Every record has a fixed size but the header, whose name is at most
//! 255 bytes; nothing is allocated by a number the peer sent. A record that is not exactly as
//! described, reserved bytes included, ends the connection.
//!
//! ```text
//! 1  sender   -> receiver  hello    48: magic 8 "DPLANE\r\n", version u16, role u8 (1 sender,
//!                                   2 receiver), flags u8 (1: has a token), zero 4, nonce 32
//! 2  receiver -> sender    hello    48: the same, with role 2
//!    with a token, see token.rs:
//! 3  sender   -> receiver  proof    32
//! 4  receiver -> sender    proof    32
//! 5  sender   -> receiver  header   16: hash u8 (0 none, 1 BLAKE3, 2 SHA-256), flags u8 (1: the
//!                                   length is known), name length u16, zero 4, length u64
//!                          name     a file name in UTF-8, for messages only: never a path
//! 6  sender   -> receiver  data     length known: that many bytes.
//!                                   Else frames: length u32 (1 to 16 MiB) and that many bytes;
//!                                   0 ends the data, 0xffff_ffff says "nothing yet, still here".
//! 7  sender   -> receiver  trailer  80: "TAIL", zero 4, length u64, hash 32, tag 32
//! 8  receiver -> sender    verdict  80: "DONE", code u8, zero 3, length u64, hash 32, tag 32
//! ```
//!
//! A verdict with code 255 says "still writing" and is followed by another one. A verdict other
//! than 0 may come at any time after the header; the sender stops then. Tags are proofs that the
//! record was made by the owner of the token, zeros without one. Hashes are zeros for `none`.

use crate::pipeline::hash::{Algorithm, Digest};
use std::fmt;

/// The first bytes of every connection; the line break shows a text-mode transfer.
const MAGIC: [u8; 8] = *b"DPLANE\r\n";
/// The only version there is.
pub const VERSION: u16 = 1;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 48;
/// Bytes of a header before its name.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a name at most.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a trailer and of a verdict.
pub const RECORD_BYTES: usize = 80;
/// Bytes of a trailer or verdict that its tag covers.
pub const TAGGED_BYTES: usize = 48;
/// Bytes of a frame at most.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;
/// The frame that says the sender still lives.
pub const FRAME_ALIVE: u32 = u32::MAX;

/// A record that is not as the protocol wants it: which, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; is the other end `dataplane` of this version?", self.0)
    }
}

/// Which end sends a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has the file.
    Sender = 1,
    /// It wants the file.
    Receiver = 2,
}

/// The first record of each end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who says it.
    pub role: Role,
    /// Whether this end has a token, and so wants the other's proof.
    pub token: bool,
    /// Random, never used twice.
    pub nonce: [u8; 32],
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl Hello {
    /// The record.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = self.role as u8;
        out[11] = u8::from(self.token);
        out[16..].copy_from_slice(&self.nonce);
        out
    }

    /// Reads the record of the other end, which must be `role`.
    pub fn decode(bytes: &[u8; HELLO_BYTES], role: Role) -> Result<Hello, Malformed> {
        if bytes[..8] != MAGIC {
            return Err(Malformed("it does not begin as this protocol does"));
        }
        if u16::from_le_bytes(array(bytes, 8)) != VERSION {
            return Err(Malformed("it speaks another version of the protocol (this is 1)"));
        }
        if bytes[10] != role as u8 {
            return Err(Malformed("both ends have the same role"));
        }
        if bytes[11] > 1 || !all_zero(&bytes[12..16]) {
            return Err(Malformed("its hello has unknown flags"));
        }
        Ok(Hello { role, token: bytes[11] == 1, nonce: array(bytes, 16) })
    }
}

/// What is about to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The hash of the trailer.
    pub hash: Algorithm,
    /// Bytes to come; None: frames.
    pub length: Option<u64>,
    /// Bytes of the name that follows.
    pub name_bytes: usize,
}

impl Header {
    /// The record, without the name.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0] = self.hash as u8;
        out[1] = u8::from(self.length.is_some());
        let name_bytes = self.name_bytes.min(NAME_BYTES_MAX) as u16;
        out[2..4].copy_from_slice(&name_bytes.to_le_bytes());
        out[8..].copy_from_slice(&self.length.unwrap_or(0).to_le_bytes());
        out
    }

    /// Reads the record.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Malformed> {
        let hash = Algorithm::from_wire(bytes[0]).ok_or(Malformed("it names an unknown hash"))?;
        let name_bytes = usize::from(u16::from_le_bytes(array(bytes, 2)));
        if bytes[1] > 1 || !all_zero(&bytes[4..8]) {
            return Err(Malformed("its header has unknown flags"));
        }
        if name_bytes > NAME_BYTES_MAX {
            return Err(Malformed("its file name is longer than 255 bytes"));
        }
        let length = u64::from_le_bytes(array(bytes, 8));
        match bytes[1] {
            1 if length > i64::MAX as u64 => {
                Err(Malformed("it announces more bytes than a file can hold"))
            }
            1 => Ok(Header { hash, length: Some(length), name_bytes }),
            _ if length != 0 => Err(Malformed("its header has a length it calls unknown")),
            _ => Ok(Header { hash, length: None, name_bytes }),
        }
    }
}

/// What the receiver found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Length and hash agree, and the bytes are where they should be.
    Good = 0,
    /// The lengths differ.
    Length = 1,
    /// The hashes differ.
    Hash = 2,
    /// The receiver could not write.
    Write = 3,
    /// The receiver wants another hash or does not take it for a reason of its own.
    Refused = 4,
    /// Not over: still writing.
    Working = 255,
}

impl Code {
    fn from_wire(number: u8) -> Option<Code> {
        [Code::Good, Code::Length, Code::Hash, Code::Write, Code::Refused, Code::Working]
            .into_iter()
            .find(|code| *code as u8 == number)
    }
}

/// A trailer, or a verdict: how many bytes and which hash this end counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// None in a trailer.
    pub code: Option<Code>,
    /// Bytes of data.
    pub length: u64,
    /// Their hash, zeros for none.
    pub digest: Digest,
}

impl Record {
    /// The record up to its tag.
    pub fn encode(&self) -> [u8; TAGGED_BYTES] {
        let mut out = [0; TAGGED_BYTES];
        out[..4].copy_from_slice(if self.code.is_some() { b"DONE" } else { b"TAIL" });
        out[4] = self.code.map_or(0, |code| code as u8);
        out[8..16].copy_from_slice(&self.length.to_le_bytes());
        out[16..].copy_from_slice(&self.digest);
        out
    }

    /// Reads a record up to its tag; `verdict` says which of the two it must be.
    pub fn decode(bytes: &[u8; RECORD_BYTES], verdict: bool) -> Result<Record, Malformed> {
        let (magic, what) = match verdict {
            true => (b"DONE", Malformed("what should be its verdict is something else")),
            false => (b"TAIL", Malformed("what should be its trailer is something else")),
        };
        let known = Code::from_wire(bytes[4]);
        if bytes[..4] != magic[..] || !all_zero(&bytes[5..8]) || (!verdict && bytes[4] != 0) {
            return Err(what);
        }
        let code = match verdict {
            true => Some(known.ok_or(Malformed("its verdict is an unknown code"))?),
            false => None,
        };
        let length = u64::from_le_bytes(array(bytes, 8));
        Ok(Record { code, length, digest: array(bytes, 16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_went() {
        let hello = Hello { role: Role::Receiver, token: true, nonce: [7; 32] };
        assert_eq!(Hello::decode(&hello.encode(), Role::Receiver), Ok(hello));
        for length in [None, Some(0), Some(1 << 40)] {
            let header = Header { hash: Algorithm::Sha256, length, name_bytes: 12 };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
        for code in [None, Some(Code::Good), Some(Code::Working)] {
            let record = Record { code, length: 99, digest: [3; 32] };
            let mut bytes = [0; RECORD_BYTES];
            bytes[..TAGGED_BYTES].copy_from_slice(&record.encode());
            assert_eq!(Record::decode(&bytes, code.is_some()), Ok(record));
        }
    }

    #[test]
    fn every_single_wrong_byte_of_a_hello_is_noticed() {
        let good = Hello { role: Role::Sender, token: false, nonce: [0; 32] }.encode();
        for at in 0..16 {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Hello::decode(&bad, Role::Sender).is_err(), "byte {at}");
        }
        assert!(Hello::decode(&good, Role::Receiver).is_err());
    }

    #[test]
    fn hostile_headers_are_refused() {
        let refused = |at: usize, with: &[u8]| {
            let header = Header { hash: Algorithm::None, length: Some(5), name_bytes: 0 };
            let mut bytes = header.encode();
            bytes[at..at + with.len()].copy_from_slice(with);
            Header::decode(&bytes).is_err()
        };
        assert!(refused(0, &[9]), "hash");
        assert!(refused(1, &[2]), "flags");
        assert!(refused(1, &[0]), "an unknown length that is given");
        assert!(refused(2, &[0, 1]), "name of 256 bytes");
        assert!(refused(4, &[1]), "reserved");
        assert!(refused(8, &[0xff; 8]), "length");
        assert!(!refused(8, &[6]));
    }

    #[test]
    fn hostile_records_are_refused() {
        let zeros = [0; RECORD_BYTES];
        assert!(Record::decode(&zeros, true).is_err());
        let mut tail = zeros;
        tail[..4].copy_from_slice(b"TAIL");
        assert!(Record::decode(&tail, false).is_ok());
        assert!(Record::decode(&tail, true).is_err());
        tail[4] = 1;
        assert!(Record::decode(&tail, false).is_err());
        let mut done = zeros;
        done[..4].copy_from_slice(b"DONE");
        done[4] = 77;
        assert!(Record::decode(&done, true).is_err());
    }
}
