//! Kernel-held buffer pools: one provided buffer ring for each group.
//!
//! Unsafe code: buffers handed to the kernel are slots the receive pool leased for it; they come
//! back as leases with their completion, or when the pool is closed with nothing armed on it.

#![allow(unsafe_code)]

use super::buf_ring::{BufRing, Consume, FIRST_GROUP};
use super::ring::Ring;
use super::setup;
use crate::backend::{Provided, RegisterError};
use crate::op::{Context, Op};

/// The buffer rings of one backend, by group.
#[derive(Default)]
pub(crate) struct Pools {
    rings: Vec<Option<BufRing>>,
}

impl Pools {
    pub(crate) fn open(
        &mut self,
        ring: &mut Ring,
        group: u16,
        entries: u16,
    ) -> Result<(), RegisterError> {
        let (id, entries) = (FIRST_GROUP + group, entries.next_power_of_two());
        let made = BufRing::register(ring, id, entries, Consume::Whole).map_err(|error| {
            RegisterError::Refused(setup::errno_of(&error).unwrap_or(libc::EIO))
        })?;
        let at = group as usize;
        if self.rings.len() <= at {
            self.rings.resize_with(at + 1, || None);
        }
        self.rings[at] = Some(made);
        Ok(())
    }

    pub(crate) fn provide(&mut self, group: u16, buffers: &[Provided]) {
        let Some(Some(ring)) = self.rings.get_mut(group as usize) else { return };
        for buffer in buffers {
            // SAFETY: the slot was leased for the kernel and stays leased until it comes back
            // with a completion or the pool is closed; there are never more buffers out than the
            // ring has entries, since numbers are handed out once.
            unsafe { ring.push(buffer.at, buffer.bytes, buffer.number) };
        }
        ring.publish();
    }

    /// Only when no operation is armed on the group: then nothing selects from it any more.
    pub(crate) fn close(&mut self, ring: &mut Ring, group: u16) {
        let Some(place) = self.rings.get_mut(group as usize) else { return };
        let Some(mut buffers) = place.take() else { return };
        // A ring that cannot be unregistered or released is leaked by its drop, and counted there.
        if buffers.unregister(ring).is_ok() {
            let _ = buffers.release();
        }
    }
}

/// Gives a pool receive the buffer it must carry itself. False: the pool is dry.
pub(crate) fn carry_buffer(op: &mut Op, cx: &mut Context<'_>) -> bool {
    let Some(arm) = op.pool_arm() else { return true };
    if arm.held.is_none() {
        arm.held = cx.groups.lease(arm.pool);
    }
    arm.held.is_some()
}
