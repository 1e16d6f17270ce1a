//! Hashing while the bytes are in the slab.
//!
//! The hasher is given spans: it reads the slot the kernel filled, beside the send or the write
//! that reads the same slot, and nothing is copied. A slot is free when both are done with it.
//!
//! On its own thread the hash overlaps the loop's system calls; the queue between the two holds at
//! most as many spans as the slab has slots, so it needs no bound of its own. On the loop's thread
//! it saves the hand-over. Which is faster was measured, see [`Placement::choose`].

use crate::failure::{Exit, Failure, Result};
use clap::ValueEnum;
use regions::Span;
use sha2::Digest as _;
use std::fmt;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// A hash, 32 bytes for both algorithms.
pub type Digest = [u8; 32];

/// Which hash both ends compute. The numbers are those of the wire protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[repr(u8)]
pub enum Algorithm {
    /// No hash: only the length is compared, and nothing is called verified.
    None = 0,
    /// BLAKE3.
    Blake3 = 1,
    /// SHA-256, which other tools can check.
    Sha256 = 2,
}

impl Algorithm {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::None => "none",
            Algorithm::Blake3 => "blake3",
            Algorithm::Sha256 => "sha256",
        }
    }

    /// The algorithm of a number on the wire.
    pub fn from_wire(number: u8) -> Option<Algorithm> {
        [Algorithm::None, Algorithm::Blake3, Algorithm::Sha256]
            .into_iter()
            .find(|algorithm| *algorithm as u8 == number)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the hash is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Placement {
    /// Where it is faster, see `--help`.
    Auto,
    /// On a thread of its own.
    Thread,
    /// On the loop's thread, between completions.
    Loop,
}

impl Placement {
    /// Decides for `auto`: a thread of its own wherever there is a second CPU.
    ///
    /// Measured with `stream` on 1 GiB in the page cache, two CPUs shared with other work, both
    /// ends in one process, median of five: BLAKE3 1506 MB/s on a thread and 1395 on the loop,
    /// SHA-256 1034 and 975. There the hash is half of all CPU time; with more CPUs than that, or
    /// one end per machine, a thread gains more.
    pub fn choose(self, algorithm: Algorithm) -> Placement {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        match (self, algorithm) {
            (_, Algorithm::None) => Placement::Loop,
            (Placement::Auto, _) if cpus > 1 => Placement::Thread,
            (Placement::Auto, _) => Placement::Loop,
            (chosen, _) => chosen,
        }
    }
}

/// The state of one hash.
enum State {
    None,
    Blake3(Box<blake3::Hasher>),
    Sha256(Box<sha2::Sha256>),
}

impl State {
    fn new(algorithm: Algorithm) -> State {
        match algorithm {
            Algorithm::None => State::None,
            Algorithm::Blake3 => State::Blake3(Box::default()),
            Algorithm::Sha256 => State::Sha256(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::None => {}
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Option<Digest> {
        match self {
            State::None => None,
            State::Blake3(hasher) => Some(*hasher.finalize().as_bytes()),
            State::Sha256(hasher) => Some(hasher.finalize().into()),
        }
    }
}

/// A hash being computed; see the head of this file.
pub struct Hasher(Runs);

enum Runs {
    Here(State),
    There { spans: Sender<Span>, thread: JoinHandle<Result<Option<Digest>>> },
}

fn feed(state: &mut State, span: &Span) -> Result<()> {
    let bytes = span.bytes().map_err(|error| Failure::system("hash", error))?;
    state.update(bytes);
    Ok(())
}

impl Hasher {
    /// A hash of nothing yet.
    pub fn new(algorithm: Algorithm, placement: Placement) -> Result<Hasher> {
        let mut state = State::new(algorithm);
        if placement.choose(algorithm) == Placement::Loop {
            return Ok(Hasher(Runs::Here(state)));
        }
        let (spans, queue) = channel::<Span>();
        let run = move || {
            for span in queue {
                feed(&mut state, &span)?;
            }
            Ok(state.finish())
        };
        let builder = std::thread::Builder::new().name("hash".to_owned());
        let thread = builder.spawn(run).map_err(|error| {
            Failure::system("start the hash thread (try --hash-on loop)", error)
        })?;
        Ok(Hasher(Runs::There { spans, thread }))
    }

    /// The place holder of a hash that was taken out.
    pub fn nothing() -> Hasher {
        Hasher(Runs::Here(State::None))
    }

    /// Adds the bytes of a span.
    pub fn update(&mut self, span: &Span) -> Result<()> {
        match &mut self.0 {
            Runs::Here(State::None) => Ok(()),
            Runs::Here(state) => feed(state, span),
            // Refused only when the thread failed; `finish` tells how.
            Runs::There { spans, .. } => {
                let _ = spans.send(span.clone());
                Ok(())
            }
        }
    }

    /// The hash of everything; waits for the thread, whose queue is at most a slab long.
    pub fn finish(self) -> Result<Option<Digest>> {
        match self.0 {
            Runs::Here(state) => Ok(state.finish()),
            Runs::There { spans, thread } => {
                drop(spans);
                let panicked = |_| Failure::new(Exit::System, "hash: its thread panicked");
                thread.join().map_err(panicked)?
            }
        }
    }
}

/// A digest as people write it.
pub fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: Algorithm, placement: Placement, parts: &[&'static [u8]]) -> Option<String> {
        let mut hasher = Hasher::new(algorithm, placement).unwrap();
        for part in parts {
            hasher.update(&Span::from(*part)).unwrap();
        }
        hasher.finish().unwrap().as_ref().map(hex)
    }

    #[test]
    fn both_places_give_the_published_values() {
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let blake = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        for placement in [Placement::Thread, Placement::Loop] {
            let parts: [&[u8]; 2] = [b"a", b"bc"];
            assert_eq!(of(Algorithm::Sha256, placement, &parts).as_deref(), Some(sha));
            assert_eq!(of(Algorithm::Blake3, placement, &parts).as_deref(), Some(blake));
            assert_eq!(of(Algorithm::None, placement, &parts), None);
        }
    }

    #[test]
    fn numbers_on_the_wire_are_checked() {
        assert_eq!(Algorithm::from_wire(2), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::from_wire(3), None);
    }
}
