//! Work through the backend that `auto` picks: TCP over loopback, zero-copy sends, a receive pool,
//! the descriptor table, a file past the page cache, a name.

use super::exchange::{PATIENCE, Trouble, exchange, filled_slot, is_intact, pattern};
use super::exchange::{run, tcp_pair, unix_pair};
use super::remedies;
use super::report::Check;
use dataplane::{Capability, Mechanism, OpenOptions, Proactor, ZeroCopy};
use futures_util::StreamExt;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use regions::Slab;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Larger than a page, and small enough for any socket buffer.
const SLOT_BYTES: usize = 16 << 10;

/// All of them, on one proactor.
pub fn checks(io: &Proactor) -> Vec<Check> {
    vec![
        loopback(io),
        zero_copy_send(io),
        receive_pool(io),
        registered_descriptors(io),
        direct_file(io),
        names(io),
    ]
}

fn loopback(io: &Proactor) -> Check {
    const NAME: &str = "tcp-loopback";
    let attempt = || -> Result<String, Trouble> {
        let slab = Slab::new(2, SLOT_BYTES)?;
        run(io, async {
            let (near, far) = tcp_pair(io).await?;
            near.zero_copy(ZeroCopy::Never)?;
            let done = exchange(&near, &far, &slab).await?;
            let (out, back) = (done.sent.path, done.received.path());
            Ok(format!("{} bytes went by {}, came by {}", done.sent.bytes, out.mechanism, back))
        })
    };
    match attempt() {
        Ok(proof) => Check::ok(NAME, proof),
        Err(trouble) => {
            let remedy = trouble.remedy("bring the loopback interface up: `ip link set lo up`");
            Check::failed(NAME, trouble.to_string(), "connected to 127.0.0.1").remedy(remedy)
        }
    }
}

fn zero_copy_send(io: &Proactor) -> Check {
    const NAME: &str = "zero-copy-send";
    if !io.capabilities().contains(Capability::ZeroCopySend) {
        let reason = format!("the {} backend sends copies", io.backend());
        let proof = "asked the proactor for its capabilities";
        return Check::missing(NAME, reason, proof)
            .remedy("what brings io_uring/zero-copy-send, above");
    }
    let attempt = || {
        let slab = Slab::new(2, SLOT_BYTES)?;
        let registered = io.register_slab(&slab);
        run(io, async {
            let (near, far) = tcp_pair(io).await?;
            near.zero_copy(ZeroCopy::Always)?;
            let sent = exchange(&near, &far, &slab).await?.sent;
            Ok((sent, registered.err()))
        })
    };
    let (sent, unregistered) = match attempt() {
        Ok(outcome) => outcome,
        Err(trouble) => {
            let proof = format!("sent {SLOT_BYTES} bytes over loopback TCP without a copy");
            let remedy = trouble.remedy("report this, unless tcp-loopback fails as well");
            let state = if trouble.is_memory() { Check::limited } else { Check::failed };
            let check = state(NAME, trouble.to_string(), proof).remedy(remedy);
            return if trouble.is_memory() { check.tried() } else { check };
        }
    };
    let proof = format!(
        "{} bytes over loopback TCP by {}, its notification read, the same bytes received",
        sent.bytes, sent.path.mechanism
    );
    let usage = match sent.path.copied {
        None => "the kernel reported no copy".to_owned(),
        Some(reason) => reason.to_string(),
    };
    match (sent.path.mechanism, unregistered) {
        (Mechanism::SendZeroCopyFixed, _) => Check::ok(NAME, proof).found(usage),
        (Mechanism::SendZeroCopy, why) => {
            let why = why.map_or("registered memory was not used".into(), |why| why.to_string());
            Check::limited(NAME, format!("{why}; {usage}"), proof).remedy(remedies::MEMLOCK)
        }
        (other, _) => {
            let reason = format!("it went by {other}: {usage}");
            Check::limited(NAME, reason, proof).remedy(remedies::MEMLOCK)
        }
    }
}

fn receive_pool(io: &Proactor) -> Check {
    const NAME: &str = "receive-pool";
    let attempt = || -> Result<(bool, usize), Trouble> {
        let pool = io.receive_pool(4, SLOT_BYTES)?;
        let slab = Slab::new(2, SLOT_BYTES)?;
        let (near, far) = unix_pair(io)?;
        run(io, async {
            let mut arriving = far.receive_all(&pool).timeout(PATIENCE).submit()?;
            let sending = near.send_all(filled_slot(&slab)?.freeze()).timeout(PATIENCE).submit()?;
            let (mut bytes, mut buffers) = (Vec::new(), 0);
            while bytes.len() < SLOT_BYTES {
                let Some(piece) = arriving.next().await else { break };
                bytes.extend_from_slice(&piece?);
                buffers += 1;
            }
            sending.await?;
            match bytes.len() == SLOT_BYTES && is_intact(&bytes) {
                true => Ok((pool.is_kernel_ring(), buffers)),
                false => Err(Trouble::wrong("other bytes arrived than were sent")),
            }
        })
    };
    let armed = "armed one receive on a pool of 4 buffers";
    match attempt() {
        Ok((true, buffers)) => {
            let proof = format!("{armed}; the kernel picked {buffers} of them, bytes compared");
            Check::ok(NAME, proof)
        }
        Ok((false, buffers)) => {
            let proof = format!("{armed}; {buffers} of them filled, bytes compared");
            Check::limited(NAME, "buffers are picked here, not by the kernel", proof)
                .remedy("what brings io_uring/buffer-rings, above")
        }
        Err(trouble) if trouble.is_memory() => {
            Check::limited(NAME, trouble.to_string(), armed).tried().remedy(remedies::MEMLOCK)
        }
        Err(trouble) => {
            Check::failed(NAME, trouble.to_string(), armed).remedy(trouble.remedy("report this"))
        }
    }
}

fn registered_descriptors(io: &Proactor) -> Check {
    const NAME: &str = "registered-descriptors";
    let attempt = || -> Result<bool, Trouble> {
        let slab = Slab::new(2, 64)?;
        let (near, far) = unix_pair(io)?;
        let registered = near.register()? && far.register()?;
        run(io, exchange(&near, &far, &slab))?;
        Ok(registered)
    };
    let proof = "put two sockets in the descriptor table and moved 64 bytes between them";
    let by_kernel = io.capabilities().contains(Capability::FixedFiles);
    match attempt() {
        Ok(true) if by_kernel => Check::ok(NAME, proof),
        Ok(_) => {
            let reason = format!("the kernel keeps no such table for {}", io.backend());
            Check::missing(NAME, reason, proof).remedy("what brings io_uring/fixed-files, above")
        }
        Err(trouble) => {
            let remedy = trouble.remedy("report this");
            Check::failed(NAME, trouble.to_string(), proof).remedy(remedy)
        }
    }
}

/// A file of the check's own, gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes it with `bytes` of the pattern, on the disk and not only in the page cache.
    fn new(folder: &Path, bytes: usize) -> Result<Scratch, Trouble> {
        let path = folder.join(format!("dataplane-doctor-{}", std::process::id()));
        let mut file = fs::File::create_new(&path).map_err(Trouble::system("create"))?;
        let scratch = Scratch(path);
        let content: Vec<u8> = (0..bytes).map(pattern).collect();
        file.write_all(&content).map_err(Trouble::system("write"))?;
        file.sync_all().map_err(Trouble::system("fsync"))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in the temporary folder: whoever empties that has the last word.
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether a folder lies in memory, where nothing can pass by the page cache.
fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC)
}

fn direct_file(io: &Proactor) -> Check {
    const NAME: &str = "direct-files";
    const FILE_BYTES: usize = 64 << 10;
    let folder = std::env::temp_dir();
    let place = folder.display();
    let wrote = format!("wrote {FILE_BYTES} bytes to a file in {place}");
    let scratch = match Scratch::new(&folder, FILE_BYTES) {
        Ok(scratch) => scratch,
        Err(trouble) => {
            let reason = format!("{place}: {trouble}");
            let remedy = trouble.remedy(remedies::TEMPORARY);
            return Check::missing(NAME, reason, wrote).tried().remedy(remedy);
        }
    };
    let attempt = || -> Result<String, Trouble> {
        let slab = Slab::new(1, FILE_BYTES)?;
        let _registered = io.register_slab(&slab);
        run(io, async {
            let file = io.open(&scratch.0, OpenOptions::read().direct())?.await?;
            let read = file.read_at(slab.lease()?, 0).timeout(PATIENCE).await?;
            if read.len() != FILE_BYTES || !is_intact(&read) {
                return Err(Trouble::wrong("other bytes were read than written"));
            }
            let align = match file.direct_alignment()? {
                Some((memory, offset)) => format!("{memory} bytes in memory, {offset} in the file"),
                None => "unknown".to_owned(),
            };
            Ok(format!("{}; alignment: {align}", read.path()))
        })
    };
    let proof = format!("{wrote} and read them back with O_DIRECT");
    match attempt() {
        Ok(_) if is_in_memory(&folder) => {
            let reason = format!("{place} is a tmpfs: it takes O_DIRECT and copies all the same");
            Check::limited(NAME, reason, proof).remedy(remedies::TEMPORARY)
        }
        Ok(found) => Check::ok(NAME, proof).found(found),
        Err(trouble) => {
            let remedy = trouble.remedy(remedies::TEMPORARY);
            Check::missing(NAME, format!("{place}: {trouble}"), proof).tried().remedy(remedy)
        }
    }
}

fn names(io: &Proactor) -> Check {
    const NAME: &str = "name-resolution";
    let proof = "resolved localhost on a helper thread";
    let resolving = async { Ok(io.resolve("localhost:80").timeout(PATIENCE).await?) };
    match run(io, resolving) {
        Ok(found) => {
            let found: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
            Check::ok(NAME, proof).found(format!("localhost is {}", found.join(", ")))
        }
        Err(trouble) => {
            let remedy = "use numeric addresses, or put `127.0.0.1 localhost` into /etc/hosts";
            Check::limited(NAME, trouble.to_string(), proof).tried().remedy(trouble.remedy(remedy))
        }
    }
}
