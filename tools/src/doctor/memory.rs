//! Memory: how much can be registered, huge pages, NUMA nodes.

use super::exchange::{PATIENCE, Trouble, pattern, run};
use super::remedies;
use super::report::Check;
use dataplane::diagnose::{self, UringReport};
use dataplane::{Capability, Mechanism, Proactor};
use regions::{HugePagePool, HugePages, PageSize, Slab};
use std::fs;
use std::io::Write;

const MIB: usize = 1 << 20;
/// What a busy program registers.
const WANTED_BYTES: usize = 64 * MIB;
const NODES: &str = "/sys/devices/system/node/online";

/// The name of the check that registers memory.
pub const REGISTERED: &str = "registered-memory";

/// All of them.
pub fn checks(io: &Proactor, uring: &UringReport) -> Vec<Check> {
    let mut checks = vec![registered(io, uring), pages(), huge_pages()];
    checks.extend(numa());
    checks
}

/// Registers ever smaller slabs until one is taken, and reads into it.
fn registered(io: &Proactor, uring: &UringReport) -> Check {
    if !io.capabilities().contains(Capability::RegisteredBuffers) {
        let why = io.fallback().unwrap_or("this ring takes none".to_owned());
        let reason = format!("memory is registered with io_uring only: {why}");
        return Check::missing(REGISTERED, reason, "asked for a ring")
            .remedy(remedies::for_io_uring(uring));
    }
    let smallest = PageSize::base().bytes();
    let (mut bytes, mut refusals) = (WANTED_BYTES, Vec::new());
    while bytes >= smallest {
        match register(io, bytes) {
            Ok(mechanism) => return judged(bytes, mechanism, refusals.first()),
            Err(trouble) => refusals.push(trouble),
        }
        bytes /= 2;
    }
    let reason = refusals.first().map_or(String::new(), Trouble::to_string);
    let proof = format!("tried slabs of {} down to {}", size(WANTED_BYTES), size(smallest));
    let reason = format!("nothing can be registered: {reason}");
    Check::limited(REGISTERED, reason, proof).remedy(remedies::MEMLOCK)
}

fn judged(bytes: usize, mechanism: Mechanism, refusal: Option<&Trouble>) -> Check {
    let proof = format!("registered a slab of {} and read into it by {mechanism}", size(bytes));
    match (refusal, mechanism) {
        (None, Mechanism::FileFixed) => {
            Check::ok(REGISTERED, proof).found(format!("{} can be registered", size(bytes)))
        }
        (None, other) => {
            let reason = format!("the read went by {other}, not by the registered form");
            Check::limited(REGISTERED, reason, proof).remedy("report this")
        }
        (Some(refusal), _) => {
            let reason = format!("{} can be registered, not {}", size(bytes), size(2 * bytes));
            Check::limited(REGISTERED, format!("{reason}: {refusal}"), proof)
                .remedy(remedies::MEMLOCK)
        }
    }
}

fn register(io: &Proactor, bytes: usize) -> Result<Mechanism, Trouble> {
    let slots = 4.min(bytes / PageSize::base().bytes());
    let slab = Slab::builder(slots, bytes / slots).huge_pages(HugePages::Never).build()?;
    let _registration = io.register_slab(&slab)?;
    let (reader, mut writer) = std::io::pipe().map_err(Trouble::system("pipe"))?;
    let message: Vec<u8> = (0..64).map(pattern).collect();
    writer.write_all(&message).map_err(Trouble::system("write"))?;
    let pipe = io.adopt_file(reader)?;
    let mut lease = slab.lease()?;
    lease.truncate(message.len());
    let read = run(io, async { Ok(pipe.read(lease).timeout(PATIENCE).await?) })?;
    match read[..] == message[..] {
        true => Ok(read.path().mechanism),
        false => Err(Trouble::wrong("other bytes were read than written")),
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        _ if bytes >= MIB => format!("{} MiB", bytes / MIB),
        _ => format!("{} KiB", bytes / 1024),
    }
}

fn pages() -> Check {
    const NAME: &str = "pages";
    let page = diagnose::page_bytes();
    match Slab::builder(16, page).huge_pages(HugePages::Never).build() {
        Ok(slab) => {
            let found = format!("base pages of {} KiB", page / 1024);
            Check::ok(NAME, format!("made a {}", slab.report())).found(found)
        }
        Err(error) => {
            let proof = format!("asked for a slab of 16 slots of {page} bytes");
            Check::failed(NAME, error.to_string(), proof).remedy("free memory, then run it again")
        }
    }
}

fn huge_pages() -> Check {
    const NAME: &str = "huge-pages";
    let pools = PageSize::huge_pools();
    let Some(first) = pools.first() else {
        return Check::missing(NAME, "no pools", "read /sys/kernel/mm/hugepages")
            .remedy("a kernel with CONFIG_HUGETLBFS, and /sys mounted");
    };
    let shown: Vec<_> = pools.iter().map(describe).collect();
    let shown = shown.join("; ");
    let usable = pools.iter().find(|pool| pool.free > 0).unwrap_or(first);
    let page = usable.page;
    let built = Slab::builder(1, page.bytes()).huge_pages(HugePages::Require).build();
    match built {
        Ok(slab) => Check::ok(NAME, format!("made a {}", slab.report())).found(shown),
        Err(error) => {
            let proof = format!("asked for a slab of one page of {page}");
            let reason = match usable.free {
                0 => shown,
                _ => format!("{shown}: {error}"),
            };
            let remedy = "reserve some as root: `sysctl -w vm.nr_hugepages=512` (1 GiB of 2 MiB \
                pages), best early after the start of the machine; slabs use base pages meanwhile";
            Check::missing(NAME, reason, proof).remedy(remedy)
        }
    }
}

fn describe(pool: &HugePagePool) -> String {
    format!("{} of {} pages of {} free", pool.free, pool.total, size(pool.page.bytes()))
}

/// One check per node that is online.
fn numa() -> Vec<Check> {
    const NAME: &str = "numa";
    let text = match fs::read_to_string(NODES) {
        Ok(text) => text,
        Err(error) => {
            let reason = format!("{NODES}: {error}");
            let check = Check::missing(NAME, reason, format!("read {NODES}"))
                .remedy("none needed on a machine of one node; else mount /sys");
            return vec![check];
        }
    };
    nodes(&text).into_iter().map(node).collect()
}

fn node(number: u32) -> Check {
    let name = format!("numa-node-{number}");
    let page = PageSize::base().bytes();
    let built = Slab::builder(1, page).huge_pages(HugePages::Never).numa_node(number).build();
    match built {
        Ok(_) => Check::ok(&name, format!("made a slab of {page} bytes bound to it")),
        Err(error) => {
            let proof = format!("asked for a slab of {page} bytes bound to it");
            Check::limited(&name, error.to_string(), proof)
                .remedy("let the seccomp profile allow mbind(2) (docker: --cap-add SYS_NICE)")
        }
    }
}

/// Numbers of a list like `0-2,5`. What does not read as one is left out.
fn nodes(list: &str) -> Vec<u32> {
    /// More than any machine has: a strange file must not fill the memory.
    const MOST: u32 = 1024;
    let mut found = Vec::new();
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
            found.extend(from..=to.min(from.saturating_add(MOST)));
        }
    }
    found.truncate(MOST as usize);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_lists_are_read() {
        assert_eq!(nodes("0\n"), [0]);
        assert_eq!(nodes("0-2,5\n"), [0, 1, 2, 5]);
        assert!(nodes("\n").is_empty() && nodes("x-3").is_empty() && nodes("3-1").is_empty());
        assert_eq!(nodes("0-4294967295").len(), 1024);
    }

    #[test]
    fn sizes_are_told_in_whole_units() {
        assert_eq!((size(64 * MIB), size(4096)), ("64 MiB".into(), "4 KiB".into()));
    }
}
