//! The numbers of [`Stats`] as a table: name, kind, unit, description.
//!
//! Names follow the conventions of Prometheus: a prefix, base units, `_total` for what only grows.
//! A name that stands twice differs by its label. Whatever exports the numbers iterates the table,
//! so that a number added to `Stats` and to the table is exported everywhere.
//!
//! See <https://prometheus.io/docs/practices/naming/>.

use super::Stats;

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, from zero.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
}

/// One number a proactor tells about itself.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// `dataplane_` and what it is; unique together with the label.
    pub name: &'static str,
    /// A label and its value, where several numbers share a name.
    pub label: Option<(&'static str, &'static str)>,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// What it counts.
    pub unit: MetricUnit,
    /// What it means.
    pub help: &'static str,
    /// Reads it.
    pub read: fn(&Stats) -> u64,
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Stats) -> u64) -> Metric {
    Metric { name, label: None, kind: MetricKind::Counter, unit: MetricUnit::Count, help, read }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Stats) -> u64) -> Metric {
    Metric { name, label: None, kind: MetricKind::Gauge, unit: MetricUnit::Count, help, read }
}

const fn bytes(direction: &'static str, read: fn(&Stats) -> u64) -> Metric {
    Metric {
        name: "dataplane_bytes_total",
        label: Some(("direction", direction)),
        kind: MetricKind::Counter,
        unit: MetricUnit::Bytes,
        help: "Bytes moved, by direction: socket receive and send, file read and write, and \
               transfer from file to socket inside the kernel.",
        read,
    }
}

const fn zero_copy(outcome: &'static str, read: fn(&Stats) -> u64) -> Metric {
    Metric {
        name: "dataplane_zero_copy_sends_total",
        label: Some(("outcome", outcome)),
        kind: MetricKind::Counter,
        unit: MetricUnit::Count,
        help: "Zero-copy sends, by what the kernel did: avoided the copy, or copied after all.",
        read,
    }
}

impl Stats {
    /// Every number there is, with its name.
    pub const METRICS: &'static [Metric] = &[
        gauge("dataplane_operations_pending", "Operations in flight.", |s| s.in_flight.into()),
        counter("dataplane_completions_total", "Operations that ended.", |s| s.completed),
        counter(
            "dataplane_results_total",
            "Results delivered: ends of operations and items of multishot ones.",
            |s| s.delivered,
        ),
        bytes("received", |s| s.bytes_received),
        bytes("sent", |s| s.bytes_sent),
        bytes("read", |s| s.bytes_read),
        bytes("written", |s| s.bytes_written),
        bytes("transferred", |s| s.bytes_transferred),
        Metric {
            unit: MetricUnit::Bytes,
            ..counter(
                "dataplane_direct_bytes_total",
                "Of the bytes read from and written to files, those past the page cache.",
                |s| s.bytes_direct,
            )
        },
        zero_copy("avoided", |s| s.zero_copy_sent),
        zero_copy("copied", |s| s.zero_copy_copied),
        counter(
            "dataplane_fallbacks_total",
            "Operations that went on another way after the kernel had refused the first.",
            |s| s.fell_back,
        ),
        gauge(
            "dataplane_backend_fallback",
            "1 when readiness stands in for an io_uring that was not to be had.",
            |s| s.is_fallback.into(),
        ),
        counter("dataplane_turns_total", "Turns of the loop.", |s| s.turns),
        counter("dataplane_system_calls_total", "System calls that submit or wait.", |s| s.enters),
        counter(
            "dataplane_wakes_total",
            "Polls that a wake from another thread made return.",
            |s| s.wakes,
        ),
        counter(
            "dataplane_bells_total",
            "Times another thread had to ring the sleeping loop, one write each.",
            |s| s.bells,
        ),
        counter("dataplane_messages_total", "Messages handed to the handler.", |s| s.messages),
        counter(
            "dataplane_unhandled_messages_total",
            "Messages that arrived while there was no handler.",
            |s| s.unhandled_messages,
        ),
        counter(
            "dataplane_inline_completions_total",
            "Operations finished at their submission, by a call that did not block.",
            |s| s.inline,
        ),
        counter(
            "dataplane_linked_steps_total",
            "Steps of sequences that went to the kernel as parts of a chain.",
            |s| s.linked_steps,
        ),
        counter(
            "dataplane_called_back_total",
            "Chains that were taken back from the kernel, since others waited behind them.",
            |s| s.called_back,
        ),
        counter(
            "dataplane_spin_hits_total",
            "Times that looking before sleeping found something.",
            |s| s.spin_hits,
        ),
        counter(
            "dataplane_spin_misses_total",
            "Times that looking before sleeping found nothing.",
            |s| s.spin_misses,
        ),
        gauge("dataplane_tasks", "Tasks that are not over.", |s| s.tasks as u64),
        counter("dataplane_foreign_submissions_total", "Submissions from other threads.", |s| {
            s.foreign_submissions
        }),
        counter("dataplane_timeouts_total", "Operations whose deadline passed.", |s| s.timed_out),
        counter(
            "dataplane_multishot_rearmed_total",
            "Multishot operations armed again after the kernel had ended them.",
            |s| s.rearmed,
        ),
        counter(
            "dataplane_multishot_paused_total",
            "Multishot operations paused because nobody took their results.",
            |s| s.paused,
        ),
        counter(
            "dataplane_pool_empty_total",
            "Receives that had to wait because their buffer pool was empty.",
            |s| s.pool_dry,
        ),
        counter(
            "dataplane_completion_queue_overflows_total",
            "Times the completion queue ran over.",
            |s| s.overflows,
        ),
        counter(
            "dataplane_submission_queue_full_total",
            "Entries that found the submission queue full and stood in line.",
            |s| s.queued,
        ),
        counter("dataplane_kernel_busy_total", "Times the kernel took nothing for now.", |s| {
            s.busy
        }),
        counter(
            "dataplane_stale_events_total",
            "Kernel events of operations that were already over, ignored.",
            |s| s.stale_events,
        ),
        counter(
            "dataplane_storage_polled_total",
            "Direct reads and writes completed by polling their device.",
            |s| s.polled,
        ),
        counter(
            "dataplane_storage_unpolled_total",
            "Direct reads and writes whose device could not be polled.",
            |s| s.unpolled,
        ),
        counter(
            "dataplane_leaked_operations_total",
            "Operations whose memory was leaked rather than freed under the kernel.",
            |s| s.leaked,
        ),
        counter(
            "dataplane_helped_operations_total",
            "Operations whose result came from a helper thread.",
            |s| s.helped,
        ),
        gauge("dataplane_helper_threads", "Helper threads running.", |s| s.helper_threads as u64),
        gauge("dataplane_descriptors", "Descriptors open.", |s| s.descriptors as u64),
        gauge("dataplane_regions_registered", "Regions registered.", |s| s.registered as u64),
        gauge(
            "dataplane_regions_releasing",
            "Regions unregistered whose release the kernel has not reported yet.",
            |s| s.releasing as u64,
        ),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        let mut seen = BTreeSet::new();
        for metric in Stats::METRICS {
            assert!(seen.insert((metric.name, metric.label)), "{} is there twice", metric.name);
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(metric.name.starts_with("dataplane_") && metric.name.chars().all(is_word));
            let grows = metric.name.ends_with("_total");
            assert_eq!(grows, metric.kind == MetricKind::Counter, "{}", metric.name);
            let in_bytes = metric.name.contains("_bytes");
            assert_eq!(in_bytes, metric.unit == MetricUnit::Bytes, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.help);
        }
    }

    /// Each number of `Stats` is set to another value: each must be read by exactly one row.
    #[test]
    fn every_number_is_in_the_table() {
        let stats = Stats {
            in_flight: 1,
            turns: 2,
            delivered: 3,
            completed: 4,
            stale_events: 5,
            rearmed: 6,
            paused: 7,
            pool_dry: 8,
            timed_out: 9,
            foreign_submissions: 10,
            wakes: 11,
            bells: 12,
            bytes_received: 13,
            bytes_sent: 14,
            bytes_read: 15,
            bytes_written: 16,
            bytes_transferred: 17,
            bytes_direct: 18,
            zero_copy_sent: 19,
            zero_copy_copied: 20,
            fell_back: 21,
            is_fallback: false,
            enters: 22,
            busy: 23,
            queued: 24,
            overflows: 25,
            polled: 26,
            unpolled: 27,
            leaked: 28,
            descriptors: 29,
            registered: 30,
            releasing: 31,
            helper_threads: 32,
            helped: 33,
            messages: 34,
            unhandled_messages: 35,
            inline: 36,
            linked_steps: 37,
            tasks: 38,
            spin_hits: 39,
            spin_misses: 40,
            called_back: 41,
        };
        let mut read: Vec<u64> =
            Stats::METRICS.iter().map(|metric| (metric.read)(&stats)).collect();
        read.sort_unstable();
        assert_eq!(read, (0..=41).collect::<Vec<u64>>());
    }
}
