//! The wire form of a frontier: one string of bytes for each value, and no other.
//!
//! ```text
//! version   1 byte    1
//! count     varint    how many pairs follow
//! the first pair:     axis, epoch                          2 varints
//! each further pair:  axis - the axis before - 1, epoch    2 varints
//! ```
//!
//! A varint is unsigned LEB128 (DWARF 5, section 7.6): 7 bits a byte, the lowest first, the top bit
//! set on all but the last; here in its shortest form, at most 10 bytes. Axes are sorted and the
//! differences coded, less one, so that an axis out of order or named twice cannot be written down
//! at all; one that would pass the greatest axis is refused. Epoch 0 is refused (it says nothing,
//! see the folder's head), and so is a varint that is longer than it must be. Thus what is
//! accepted re-encodes to the bytes it came from, and equal frontiers can be compared as bytes.
//!
//! A pair takes at least two bytes, so a count that the bytes left cannot hold is refused before
//! anything is allocated: the memory of a decoded frontier is at most eight times its encoding.
//! Whoever reads from a peer limits the message.

use super::error::DecodeError;
use super::pairs::Pairs;
use super::{Axis, Frontier, Tainted};

const VERSION: u8 = 1;
/// What the shortest pair takes: an axis and an epoch of one byte each.
const LEAST_PAIR_BYTES: usize = 2;
const VARINT_BYTES: usize = 10;

impl Frontier {
    /// Appends the encoding: 2 bytes if empty, and for small numbers 2 more for each pair.
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.push(VERSION);
        put(into, self.len() as u64);
        let mut least = 0;
        for (axis, epoch) in self.iter() {
            put(into, axis.number() - least);
            put(into, epoch);
            // Past the greatest axis no pair follows that would use this.
            least = axis.number().wrapping_add(1);
        }
    }

    /// Decodes `bytes`, which hold one frontier and nothing else. The result is a claim.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not the encoding of a frontier, or go on after it.
    pub fn decode(bytes: &[u8]) -> Result<Tainted<Frontier>, DecodeError> {
        let (frontier, length) = Frontier::decode_prefix(bytes)?;
        if length < bytes.len() {
            return Err(DecodeError::Trailing { at: length, bytes: bytes.len() - length });
        }
        Ok(frontier)
    }

    /// Decodes the frontier that `bytes` begin with, and says how many bytes it took.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes do not begin with the encoding of a frontier.
    pub fn decode_prefix(bytes: &[u8]) -> Result<(Tainted<Frontier>, usize), DecodeError> {
        let mut input = Input { bytes, at: 0 };
        let version = input.byte()?;
        if version != VERSION {
            return Err(DecodeError::Version { version });
        }
        let count = input.varint()?;
        let room = (bytes.len() - input.at) / LEAST_PAIR_BYTES;
        let Some(count) = usize::try_from(count).ok().filter(|&count| count <= room) else {
            return Err(DecodeError::Count { count, room });
        };
        let mut pairs = Pairs::with_capacity(count);
        let mut least = Some(0_u64);
        for _ in 0..count {
            let at = input.at;
            let step = input.varint()?;
            let axis = least.and_then(|least| least.checked_add(step));
            let axis = axis.ok_or(DecodeError::AxisOverflow { at })?;
            let at = input.at;
            let epoch = input.varint()?;
            if epoch == 0 {
                return Err(DecodeError::ZeroEpoch { at, axis: Axis::new(axis) });
            }
            pairs.push((Axis::new(axis), epoch));
            least = axis.checked_add(1);
        }
        Ok((Tainted::new(Frontier { pairs }), input.at))
    }
}

fn put(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.bytes.get(self.at).ok_or(DecodeError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(*byte)
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let at = self.at;
        let mut number = 0;
        for index in 0..VARINT_BYTES {
            let byte = self.byte()?;
            // The tenth byte has room for the 64th bit alone.
            if index == VARINT_BYTES - 1 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let shortest = byte > 0 || index == 0;
                return if shortest { Ok(number) } else { Err(DecodeError::Varint { at }) };
            }
        }
        Err(DecodeError::Varint { at })
    }
}
