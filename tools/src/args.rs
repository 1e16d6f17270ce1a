//! Options the commands share.

use crate::failure::{Exit, Failure, Result};
use crate::metrics::Metrics;
use crate::pipeline::Settings;
use crate::pipeline::hash::Placement;
use clap::ValueEnum;
use dataplane::{Backend, ZeroCopy};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Smallest and largest slot, in bytes: a page, and what one protocol frame holds.
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 4096..=16 << 20;
/// Fewest and most slots.
const BUFFERS: std::ops::RangeInclusive<usize> = 2..=4096;

/// When sends go without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// Above a threshold that follows what the kernel reports.
    Auto,
    /// Every send asks for it.
    Always,
    /// No send asks for it.
    Never,
}

/// What must hold, or the command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Require {
    /// Every send went without a copy.
    ZeroCopy,
}

/// Options of every pipeline.
#[derive(clap::Args, Clone, Debug)]
pub struct Shared {
    /// What carries the operations: auto, io_uring, epoll or poll.
    #[arg(long, default_value = "auto")]
    backend: Backend,
    /// Bytes of a buffer, 4K to 16M; K and M are understood.
    #[arg(long, value_name = "BYTES", default_value = "256K", value_parser = size)]
    buffer_size: usize,
    /// How many buffers, 2 to 4096; they are memory registered once.
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    buffers: usize,
    /// Where the hash is computed. auto: on its own thread when there is more than one CPU.
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    hash_on: Placement,
    /// Seconds a peer may do nothing before it is given up; a peer with nothing to say says so
    /// four times a second.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,
    /// Serve what the loops count as Prometheus text, at http://ADDR/metrics, while the command
    /// runs: a literal address, or a port on loopback (0: a free one, told on standard error).
    #[arg(long, value_name = "ADDR", value_parser = crate::metrics::address)]
    metrics: Option<SocketAddr>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of what sends.
#[derive(clap::Args, Clone, Debug)]
pub struct Sending {
    /// Read past the page cache (O_DIRECT).
    #[arg(long)]
    pub direct: bool,
    /// When sends go without a copy.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    zero_copy: Wanted,
    /// Fail unless this holds for every send.
    #[arg(long, value_name = "WHAT")]
    require: Option<Require>,
}

impl Sending {
    fn policy(&self) -> Result<ZeroCopy> {
        match (self.require, self.zero_copy) {
            (Some(Require::ZeroCopy), Wanted::Never) => {
                let text = "--require zero-copy and --zero-copy never exclude each other";
                Err(Failure::new(Exit::Usage, text))
            }
            (Some(Require::ZeroCopy), _) => Ok(ZeroCopy::Require),
            (None, Wanted::Auto) => Ok(ZeroCopy::Auto),
            (None, Wanted::Always) => Ok(ZeroCopy::Always),
            (None, Wanted::Never) => Ok(ZeroCopy::Never),
        }
    }
}

impl Shared {
    /// Serves metrics, if that is asked for; after signals were blocked.
    pub fn metrics(&self) -> Result<Option<Arc<Metrics>>> {
        self.metrics.map(|address| Metrics::serve(address, self.json)).transpose()
    }

    /// The settings of a pipeline.
    pub fn settings(&self, sending: Option<&Sending>) -> Result<Settings> {
        let usage = |text: String| Err(Failure::new(Exit::Usage, text));
        if !BUFFER_BYTES.contains(&self.buffer_size) {
            return usage(format!(
                "--buffer-size {}: a buffer has {} to {} bytes",
                self.buffer_size,
                BUFFER_BYTES.start(),
                BUFFER_BYTES.end()
            ));
        }
        if !BUFFERS.contains(&self.buffers) {
            return usage(format!(
                "--buffers {}: {} to {} can be used",
                self.buffers,
                BUFFERS.start(),
                BUFFERS.end()
            ));
        }
        Ok(Settings {
            backend: self.backend,
            buffer_bytes: self.buffer_size,
            buffers: self.buffers,
            zero_copy: sending.map_or(Ok(ZeroCopy::Never), Sending::policy)?,
            hash_on: self.hash_on,
            stall: self.timeout,
            shows_progress: true,
        })
    }
}

/// A number of bytes: 65536, 64K, 1M.
fn size(text: &str) -> std::result::Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let number: usize = digits.parse().map_err(|_| format!("`{text}`: write 65536, 64K or 1M"))?;
    number.checked_mul(unit).ok_or_else(|| format!("`{text}` is too large"))
}

/// A time in seconds, above zero and at most a day.
pub fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}`: write seconds, as 10 or 0.5"))?;
    match number > 0.0 && number <= 86400.0 {
        true => Ok(Duration::from_secs_f64(number)),
        false => Err(format!("`{text}`: above 0 and at most 86400 seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(size("64K"), Ok(65536));
        assert_eq!(size("1M"), Ok(1 << 20));
        assert_eq!(size("4097"), Ok(4097));
        for bad in ["", "K", "-1", "1G", "99999999999999999999", "18446744073709551615M"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "NaN", "inf", "1e300", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
