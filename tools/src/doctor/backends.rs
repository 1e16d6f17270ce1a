//! The backends, each by moving bytes through it, and the capabilities of io_uring.

use super::exchange::{Trouble, exchange, options, proactor, run, unix_pair};
use super::remedies;
use super::report::Check;
use dataplane::diagnose::UringReport;
use dataplane::{Backend, Capability, Options, Proactor, SqPoll};
use regions::Slab;
use std::time::Duration;

const MESSAGE_BYTES: usize = 64;

/// One check per backend, in the order of preference.
pub fn backends(uring: &UringReport) -> Vec<Check> {
    Backend::ALL.into_iter().map(|backend| one(backend, uring)).collect()
}

fn one(backend: Backend, uring: &UringReport) -> Check {
    let name = backend.name();
    let io = match proactor(options().backend(backend), uring) {
        Ok(io) => io,
        Err(error) => {
            let proof = "asked for a proactor on this backend alone";
            return match backend {
                Backend::IoUring => Check::missing(name, error.to_string(), proof)
                    .remedy(remedies::for_io_uring(uring)),
                _ => Check::failed(name, error.to_string(), proof)
                    .remedy("free descriptors or memory, then run it again"),
            };
        }
    };
    let tried = format!("sent {MESSAGE_BYTES} bytes over a socket pair");
    match round_trip(&io) {
        Ok(()) => Check::ok(name, format!("{tried} and received the same bytes")),
        Err(trouble) => {
            let remedy = trouble.remedy("choose another backend (--backend) and report this");
            Check::failed(name, trouble.to_string(), tried).remedy(remedy)
        }
    }
}

fn round_trip(io: &Proactor) -> Result<(), Trouble> {
    let slab = Slab::new(2, MESSAGE_BYTES)?;
    let (near, far) = unix_pair(io)?;
    run(io, exchange(&near, &far, &slab)).map(|_| ())
}

/// What `auto` picks, a ring served by a kernel thread, and every capability with its proof.
pub fn capabilities(uring: &UringReport) -> Vec<Check> {
    let mut checks = vec![auto(uring), sqpoll(uring)];
    checks.extend(Capability::ALL.into_iter().map(|capability| proven(capability, uring)));
    checks
}

fn auto(uring: &UringReport) -> Check {
    const NAME: &str = "auto-backend";
    let proof = "made a proactor with default options and asked it";
    match proactor(Options::default(), uring) {
        Ok(io) => {
            let backend = io.backend();
            match io.fallback() {
                None => Check::ok(NAME, proof).found(backend.name()),
                Some(why) => Check::limited(NAME, format!("{backend}, because: {why}"), proof)
                    .remedy(remedies::for_io_uring(uring)),
            }
        }
        Err(error) => Check::failed(NAME, error.to_string(), proof)
            .remedy("free descriptors or memory, then run it again"),
    }
}

fn sqpoll(uring: &UringReport) -> Check {
    const NAME: &str = "sqpoll";
    let proof = "sent bytes over a socket pair, submitted by a kernel thread";
    if let Some(why) = &uring.unavailable {
        return Check::missing(NAME, why.message.clone(), "asked for a ring")
            .remedy(remedies::for_io_uring(uring));
    }
    let thread = SqPoll { idle: Duration::from_millis(1), cpu: None };
    let made = proactor(options().backend(Backend::IoUring).sqpoll(thread), uring);
    match made.map_err(Trouble::from).and_then(|io| round_trip(&io)) {
        Ok(()) => Check::ok(NAME, proof),
        Err(trouble) => Check::limited(NAME, trouble.to_string(), proof)
            .tried()
            .remedy("none needed: submitting from the calling thread works without it"),
    }
}

fn proven(capability: Capability, uring: &UringReport) -> Check {
    let name = format!("io_uring/{capability}");
    let Some(proof) = uring.proof(capability) else {
        return Check::missing(&name, "it was not tried", "asked the probe")
            .remedy("report this: every capability is tried");
    };
    let check = match (proof.available, &uring.unavailable) {
        (true, _) => return Check::ok(&name, proof.proof.clone()),
        (false, why) => {
            let done = match (why, capability) {
                (Some(_), _) => "asked for a ring",
                (None, Capability::ZeroCopyReceive) => "not tried: no card's queue is set up",
                (None, Capability::DmaBuf | Capability::DeviceFence) => {
                    "not tried: io_uring has nothing to try it with"
                }
                (None, _) => "tried it on a ring",
            };
            Check::missing(&name, proof.proof.clone(), done)
        }
    };
    check.remedy(match uring.unavailable {
        Some(_) if !remedies::is_for_later(capability) => remedies::for_io_uring(uring),
        None if proof.proof.starts_with("could not be tried") => {
            "remove what stood in the way, then run it again".to_owned()
        }
        _ => remedies::for_capability(capability),
    })
}
