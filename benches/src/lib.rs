//! What a user would want to know about speed, beside the limit.
//!
//! Each question of [`questions`] is answered twice in the same process, on the same thread, with
//! the same files, sockets and sizes: once by this toolkit ([`ours`]), once by an io_uring loop
//! written by hand for that one job ([`limit`]), which does the same work with the same mechanisms
//! and nothing else. What is printed is the ratio of the two rates: 1 means as fast as the limit.
//!
//! - `cargo bench -p dataplane-benches` gives absolute times by criterion, and the ratio.
//! - `cargo run --release -p dataplane-benches --bin ratios` gives the ratios alone. The two sides
//!   take turns every few milliseconds ([`measure`]), so that a noisy machine disturbs both alike.
//!
//! Socket peers are plain blocking threads ([`peer`]) and the same for both sides. Connections use
//! cubic or reno where the system allows it ([`wire`]), since bbr paces even loopback.

#[cfg(test)]
mod every_question;
pub mod fixture;
pub mod limit;
pub mod measure;
pub mod ours;
pub mod peer;
pub mod pipeline;
pub mod questions;
pub mod report;
pub mod wire;

/// Anything that stops a benchmark, with its text.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// A benchmark's result.
pub type Result<T> = std::result::Result<T, Error>;

/// One side of a question: the toolkit or the limit.
pub trait Contender {
    /// Sees to what at most `steps` steps need and is none of the question's work, while no clock
    /// runs; how many steps may follow.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn prepare(&mut self, steps: u64) -> Result<u64> {
        Ok(steps)
    }

    /// Does `steps` steps of the question's work and checks what came of each.
    ///
    /// # Errors
    ///
    /// What the system says, and any result that is not what the work demands.
    fn run(&mut self, steps: u64) -> Result<()>;
}

/// Runs some steps, prepared and then `timed`, in as many pieces as the contender wants.
///
/// # Errors
///
/// What the contender says.
pub fn in_pieces(
    contender: &mut dyn Contender,
    mut steps: u64,
    mut timed: impl FnMut(&mut dyn Contender, u64) -> Result<()>,
) -> Result<()> {
    while steps > 0 {
        let piece = contender.prepare(steps)?.min(steps);
        timed(contender, piece)?;
        steps -= piece;
    }
    Ok(())
}

/// An error unless `right`; the text is made only then.
#[inline]
pub(crate) fn expect(right: bool, wrong: impl FnOnce() -> String) -> Result<()> {
    if right { Ok(()) } else { Err(wrong().into()) }
}
