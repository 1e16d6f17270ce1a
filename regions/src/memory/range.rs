//! Lengths and ranges, checked in one place.

use std::ops::{Bound, RangeBounds};

use crate::error::{RegionError, RegionErrorKind};
use crate::page::PageSize;

/// Refuses lengths that no memory has.
pub(crate) fn check_len(operation: &'static str, len: usize) -> Result<(), RegionError> {
    if len == 0 {
        return Err(RegionError::invalid(operation, "zero bytes; ask for at least one"));
    }
    if isize::try_from(len).is_err() {
        let message = format!("{len} bytes, the limit is {}; ask for less", isize::MAX);
        return Err(RegionError::invalid(operation, message));
    }
    Ok(())
}

/// `len` in whole pages.
pub(crate) fn page_rounded(
    operation: &'static str,
    len: usize,
    page: PageSize,
) -> Result<usize, RegionError> {
    check_len(operation, len)?;
    let rounded = page.round_up(len).filter(|bytes| isize::try_from(*bytes).is_ok());
    rounded.ok_or_else(|| {
        let message = format!("{len} bytes, the limit is {}; ask for less", isize::MAX);
        RegionError::invalid(operation, message)
    })
}

/// Any kind of range as start and end inside `0..len`.
pub(crate) fn resolve(
    operation: &'static str,
    range: impl RangeBounds<usize>,
    len: usize,
) -> Result<(usize, usize), RegionError> {
    let start = match range.start_bound() {
        Bound::Included(start) => Some(*start),
        Bound::Excluded(start) => start.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.checked_add(1),
        Bound::Excluded(end) => Some(*end),
        Bound::Unbounded => Some(len),
    };
    match (start, end) {
        (Some(start), Some(end)) if start <= end && end <= len => Ok((start, end)),
        _ => {
            let message = format!(
                "the range {:?}..{:?} is not inside 0..{len}; clip it to the length",
                range.start_bound(),
                range.end_bound()
            );
            Err(RegionError::new(operation, RegionErrorKind::OutOfRange, message))
        }
    }
}
