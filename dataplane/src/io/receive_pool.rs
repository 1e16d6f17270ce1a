//! Receive pools: buffers the kernel picks from when something arrives.

use crate::backend::RegisterError;
use crate::engine::Engine;
use crate::engine::groups::{MAX_ENTRIES, PoolId};
use crate::error::{Error, ErrorKind, Result};
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use crate::remote::inbox::{self, Shared};
use regions::Slab;
use std::fmt;
use std::sync::Arc;

/// A shared handle of a receive pool; `Send`. The pool ends when its last handle is gone and no
/// receive is armed on it; leases of its buffers live on.
#[derive(Clone)]
pub struct ReceivePool(Arc<PoolHandle>);

struct PoolHandle {
    shared: Arc<Shared>,
    id: PoolId,
    slab: Slab,
    kernel: bool,
}

impl Drop for PoolHandle {
    fn drop(&mut self) {
        if self.shared.origin.is_here() && !self.shared.is_closed() {
            self.shared.returns.pools.insert(self.id.index as usize);
            self.shared.announce();
        }
    }
}

impl ReceivePool {
    pub(crate) fn id(&self) -> PoolId {
        self.0.id
    }

    /// The slab whose slots it fills.
    pub fn slab(&self) -> &Slab {
        &self.0.slab
    }

    /// Whether the kernel picks buffers by itself; else each receive takes one when it needs it.
    pub fn is_kernel_ring(&self) -> bool {
        self.0.kernel
    }
}

impl fmt::Debug for ReceivePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceivePool({}, kernel ring: {})", self.0.id.index, self.0.kernel)
    }
}

/// Opens a pool over a slab.
fn open(engine: &mut Engine, shared: &Arc<Shared>, slab: &Slab) -> Result<ReceivePool> {
    const NAME: &str = "receive pool";
    if engine.draining {
        return Err(inbox::gone(NAME));
    }
    let Some(index) = engine.table.groups.vacant() else {
        let message = "all buffer groups are in use; drop a receive pool first";
        return Err(Error::new(NAME, ErrorKind::Exhausted, message));
    };
    // As many as the slab has slots, a power of two; a larger slab refills as buffers return.
    let entries = slab.slots().next_power_of_two().min(MAX_ENTRIES as usize) as u16;
    let Some(backend) = &mut engine.backend else { return Err(inbox::gone(NAME)) };
    let kernel = backend.open_pool(index, entries).map_err(|error| match error {
        RegisterError::Refused(libc::ENOMEM) => Error::from_errno(NAME, libc::ENOMEM).with_message(
            "the buffer ring does not fit in RLIMIT_MEMLOCK; raise it (`ulimit -l`) or use \
                 fewer slots",
        ),
        RegisterError::Refused(errno) => Error::from_errno(NAME, errno),
        RegisterError::Full { used, maximum } => Error::new(
            NAME,
            ErrorKind::Exhausted,
            format!("{used} of {maximum} buffer groups are in use"),
        ),
        RegisterError::Unavailable => {
            Error::new(NAME, ErrorKind::Unavailable, "no buffer pools on this backend")
        }
    })?;
    let id = engine.table.groups.install(index, slab.clone(), kernel, entries);
    engine.fill_pools();
    let handle = PoolHandle { shared: shared.clone(), id, slab: slab.clone(), kernel };
    Ok(ReceivePool(Arc::new(handle)))
}

impl Proactor {
    /// A pool of `slots` buffers of `slot_bytes` each, over a slab of its own.
    ///
    /// # Errors
    ///
    /// What the slab or the buffer ring says: sizes, memory limits, exhausted tables.
    pub fn receive_pool(&self, slots: usize, slot_bytes: usize) -> Result<ReceivePool> {
        self.receive_pool_over(&Slab::new(slots, slot_bytes)?)
    }

    /// A pool over a slab; slots leased elsewhere are simply not in the pool meanwhile.
    ///
    /// # Errors
    ///
    /// As [`receive_pool`](Self::receive_pool).
    pub fn receive_pool_over(&self, slab: &Slab) -> Result<ReceivePool> {
        let shared = &self.inner().shared;
        self.inner().with("receive pool", |engine| open(engine, shared, slab))?
    }
}

impl Handle {
    /// A pool over a slab, opened from any thread.
    ///
    /// # Errors
    ///
    /// As [`Proactor::receive_pool`]; ShutDown when the proactor is gone.
    pub async fn receive_pool_over(&self, slab: &Slab) -> Result<ReceivePool> {
        let slab = slab.clone();
        self.call(move |io| io.receive_pool_over(&slab)).await?
    }
}
