//! What can go wrong with frontiers: an axis that is not as asked, or bytes that are none.
//!
//! Both are plain values, `Clone`, `Send` and `Sync`, and every one about an axis names it.

use std::error::Error;
use std::fmt;

use super::Axis;
use crate::error::{Failure, SignalError};

/// What a [`Tracker`](crate::Tracker) met at one of the axes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrontierError {
    /// The tracker has no semaphore for the axis.
    Unknown {
        /// The axis asked for.
        axis: Axis,
    },
    /// The tracker has a semaphore for the axis already.
    Taken {
        /// The axis that was to be added.
        axis: Axis,
    },
    /// A claim names an epoch that has not been reached.
    NotReached {
        /// The axis.
        axis: Axis,
        /// The epoch claimed.
        epoch: u64,
        /// The value its semaphore has.
        value: u64,
    },
    /// The semaphore of the axis failed.
    Failed {
        /// The axis.
        axis: Axis,
        /// Why it failed.
        failure: Failure,
    },
    /// The semaphore of the axis refused the signal.
    Signal {
        /// The axis.
        axis: Axis,
        /// What it said.
        error: SignalError,
    },
}

impl FrontierError {
    /// The axis this is about.
    pub fn axis(&self) -> Axis {
        match self {
            FrontierError::Unknown { axis }
            | FrontierError::Taken { axis }
            | FrontierError::NotReached { axis, .. }
            | FrontierError::Failed { axis, .. }
            | FrontierError::Signal { axis, .. } => *axis,
        }
    }

    /// The failure of the axis's semaphore, where that is the cause.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            FrontierError::Failed { failure, .. }
            | FrontierError::Signal { error: SignalError::Failed { failure, .. }, .. } => {
                Some(failure)
            }
            _ => None,
        }
    }
}

impl fmt::Display for FrontierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrontierError::Unknown { axis } => {
                write!(f, "frontier: axis {axis} is not known to the tracker; add its semaphore")
            }
            FrontierError::Taken { axis } => {
                write!(f, "frontier: axis {axis} has a semaphore; remove it before adding another")
            }
            FrontierError::NotReached { axis, epoch, value } => write!(
                f,
                "frontier: axis {axis} is said to have reached {epoch} and is at {value}; \
                 wait for it, or do not believe the claim"
            ),
            FrontierError::Failed { axis, failure } => write!(
                f,
                "frontier: axis {axis} failed: {failure}; \
                 a failed semaphore stays failed, add a new one"
            ),
            FrontierError::Signal { axis, error } => write!(f, "frontier: axis {axis}: {error}"),
        }
    }
}

impl Error for FrontierError {}

/// Why bytes are not the encoding of a frontier. Offsets are in bytes from their start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside the frontier.
    Truncated {
        /// Where a byte is missing.
        at: usize,
    },
    /// The version is not one this code knows.
    Version {
        /// The version found.
        version: u8,
    },
    /// More pairs are announced than the bytes left can hold.
    Count {
        /// How many are announced.
        count: u64,
        /// The most there is room for.
        room: usize,
    },
    /// A number is longer than it must be, or greater than 64 bits hold.
    Varint {
        /// Where it begins.
        at: usize,
    },
    /// An axis lies beyond 64 bits.
    AxisOverflow {
        /// Where its number begins.
        at: usize,
    },
    /// An axis is named with epoch 0, which is never written.
    ZeroEpoch {
        /// Where the epoch is.
        at: usize,
        /// The axis.
        axis: Axis,
    },
    /// The bytes go on after the frontier.
    Trailing {
        /// Where the frontier ends.
        at: usize,
        /// How many bytes follow.
        bytes: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("frontier decode: ")?;
        match self {
            DecodeError::Truncated { at } => write!(f, "byte {at} is missing; read more first"),
            DecodeError::Version { version } => {
                write!(f, "version {version} is not known, only 1 is; update this side")
            }
            DecodeError::Count { count, room } => {
                write!(f, "{count} pairs announced where {room} fit; the bytes are cut or corrupt")
            }
            DecodeError::Varint { at } => write!(
                f,
                "the number at byte {at} is not in its shortest form or exceeds 64 bits; \
                 the bytes are corrupt"
            ),
            DecodeError::AxisOverflow { at } => {
                write!(f, "the axis at byte {at} exceeds 64 bits; the bytes are corrupt")
            }
            DecodeError::ZeroEpoch { at, axis } => {
                write!(f, "axis {axis} has epoch 0 at byte {at}; leave it out instead")
            }
            DecodeError::Trailing { at, bytes } => write!(
                f,
                "{bytes} bytes follow the frontier's end at {at}; pass its own bytes alone"
            ),
        }
    }
}

impl Error for DecodeError {}
