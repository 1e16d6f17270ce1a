//! Registering memory with a proactor: from then on every operation on a span or lease of the
//! region uses the registered form, without naming the registration.

use crate::backend::RegisterError;
use crate::engine::Engine;
use crate::engine::registry::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use crate::remote::inbox::{self, Shared};
use regions::{Region, Slab};
use std::fmt;
use std::sync::Arc;

/// Keeps a region registered; `Send`. Dropping it, anywhere and at any time, unregisters: what is
/// in flight goes on, and the region's memory is released when the kernel says so.
pub struct Registration {
    _held: Arc<Held>,
    entries: u32,
}

impl Registration {
    /// How many entries of the table it takes (one for each started GiB).
    pub fn entries(&self) -> u32 {
        self.entries
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({} entries)", self.entries)
    }
}

fn refused(error: RegisterError, region: &Region) -> Error {
    const NAME: &str = "register memory";
    match error {
        RegisterError::Unavailable => Error::new(
            NAME,
            ErrorKind::Unavailable,
            "registered buffers are missing or masked; operations work without, copied in and out \
             by the ordinary path",
        ),
        RegisterError::Full { used, maximum } => Error::new(
            NAME,
            ErrorKind::Exhausted,
            format!("{used} of {maximum} buffer entries are in use; drop a registration first"),
        ),
        RegisterError::Refused(libc::ENOMEM) => Error::from_errno(NAME, libc::ENOMEM)
            .with_kind(ErrorKind::Exhausted)
            .with_message(format!(
                "{} bytes do not fit in RLIMIT_MEMLOCK; raise it (`ulimit -l`, LimitMEMLOCK=), or \
                 go on without: operations then use unregistered memory",
                region.len_bytes()
            )),
        // The second for a shared mapping of a file, from Linux before 6.6.
        RegisterError::Refused(errno @ (libc::EFAULT | libc::EOPNOTSUPP)) => {
            Error::from_errno(NAME, errno).with_kind(ErrorKind::InvalidArgument).with_message(
                "the kernel cannot pin this memory (shared file mappings, device memory); use a \
                 slab, an anonymous region or a memfd",
            )
        }
        RegisterError::Refused(errno) => Error::from_errno(NAME, errno),
    }
}

fn register(engine: &mut Engine, shared: &Arc<Shared>, region: &Region) -> Result<Registration> {
    const NAME: &str = "register memory";
    if engine.draining {
        return Err(inbox::gone(NAME));
    }
    let entries = region.chunks().count() as u32;
    if let Some(held) = engine.table.registry.share(region.id()) {
        return Ok(Registration { _held: held, entries });
    }
    if region.as_ptr().is_none() {
        let message = "the region is not visible to the CPU";
        return Err(Error::new(NAME, ErrorKind::InvalidArgument, message));
    }
    if engine.table.registry.is_full() {
        let message = "65536 regions are registered; drop a registration first";
        return Err(Error::new(NAME, ErrorKind::Exhausted, message));
    }
    let pieces: Vec<(*mut u8, usize)> =
        region.chunks().map(|(at, bytes)| (at.as_ptr(), bytes)).collect();
    let Some(backend) = &mut engine.backend else { return Err(inbox::gone(NAME)) };
    let first = backend.register_memory(&pieces).map_err(|error| {
        let error = refused(error, region);
        engine.trace.refused(&error);
        error
    })?;
    let held = engine.table.registry.install(region.clone(), first, entries, shared);
    Ok(Registration { _held: held, entries })
}

impl Engine {
    /// A registration was dropped somewhere.
    pub(crate) fn unregister(&mut self, index: u32) {
        if let Some((first, count)) = self.table.registry.leave(index)
            && let Some(backend) = &mut self.backend
        {
            backend.unregister_memory(first, count);
        }
    }
}

impl Proactor {
    /// Registers a region. Registering one twice shares the entry.
    ///
    /// # Errors
    ///
    /// Exhausted (the table, with used and maximum, or RLIMIT_MEMLOCK), InvalidArgument for memory
    /// that cannot be pinned, Unavailable where registration is missing or masked.
    pub fn register(&self, region: &Region) -> Result<Registration> {
        let shared = &self.inner().shared;
        self.inner().with("register memory", |engine| register(engine, shared, region))?
    }

    /// Registers a slab's region.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register).
    pub fn register_slab(&self, slab: &Slab) -> Result<Registration> {
        self.register(slab.region())
    }
}

impl Handle {
    /// Registers a region from any thread.
    ///
    /// # Errors
    ///
    /// As [`Proactor::register`]; ShutDown when the proactor is gone.
    pub async fn register(&self, region: &Region) -> Result<Registration> {
        let region = region.clone();
        self.call(move |io| io.register(&region)).await?
    }
}
