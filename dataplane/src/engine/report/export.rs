//! Publishing a proactor's numbers through the `metrics` facade.
//!
//! The user calls [`MetricsExporter::publish`] when he likes: by a timer, or when somebody asks for
//! the numbers. Nothing is published on the path of an operation. Counters grow by what was added
//! since the last time, and gauges change by the difference, so two proactors with the same labels
//! add up, and the gauges of one that is gone are back at zero when its exporter is dropped.
//!
//! The facade belongs to the process: which exporter stands behind it is the program's choice. With
//! none installed publishing does next to nothing.

use super::Stats;
use super::metric::{Metric, MetricKind, MetricUnit};
use crate::proactor::Proactor;
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder, Unit, with_recorder};
use std::fmt;

/// Publishes one proactor's [`Stats`], each number under the name it has in [`Stats::METRICS`].
///
/// `Send`: a thread that serves the numbers may own it, and ask the proactor by
/// [`Handle::stats`](crate::Handle::stats). Dropping it takes its share of the gauges back.
pub struct MetricsExporter {
    numbers: Vec<Published>,
}

/// A number of the facade, and what was published of it.
enum Published {
    Counter(Counter, u64),
    Gauge(Gauge, u64),
}

impl MetricsExporter {
    /// An exporter with the labels `proactor` (its name) and `backend`.
    pub fn new(io: &Proactor) -> MetricsExporter {
        let backend = io.backend().name();
        MetricsExporter::with_labels([("proactor", io.name()), ("backend", backend.to_owned())])
    }

    /// An exporter with labels of your own. Call it after the recorder was installed.
    pub fn with_labels(
        labels: impl IntoIterator<Item = (&'static str, String)>,
    ) -> MetricsExporter {
        let labels: Vec<Label> = labels.into_iter().map(|(k, v)| Label::new(k, v)).collect();
        let numbers = with_recorder(|recorder| {
            Stats::METRICS.iter().map(|metric| register(recorder, metric, &labels)).collect()
        });
        MetricsExporter { numbers }
    }

    /// Publishes what changed since the last call. An older copy takes nothing back from a counter.
    pub fn publish(&mut self, stats: &Stats) {
        for (metric, number) in Stats::METRICS.iter().zip(&mut self.numbers) {
            let now = (metric.read)(stats);
            match number {
                Published::Counter(counter, before) => {
                    counter.increment(now.saturating_sub(*before));
                    *before = now.max(*before);
                }
                Published::Gauge(gauge, before) => {
                    gauge.increment(now as f64 - *before as f64);
                    *before = now;
                }
            }
        }
    }
}

fn register(recorder: &dyn Recorder, metric: &Metric, labels: &[Label]) -> Published {
    let unit = match metric.unit {
        MetricUnit::Count => Unit::Count,
        MetricUnit::Bytes => Unit::Bytes,
    };
    let own = metric.label.map(|(key, value)| Label::from_static_parts(key, value));
    let key = Key::from_parts(metric.name, labels.iter().cloned().chain(own).collect::<Vec<_>>());
    let metadata = Metadata::new("dataplane", Level::INFO, None);
    let help = metric.help.into();
    match metric.kind {
        MetricKind::Counter => {
            recorder.describe_counter(metric.name.into(), Some(unit), help);
            Published::Counter(recorder.register_counter(&key, &metadata), 0)
        }
        MetricKind::Gauge => {
            recorder.describe_gauge(metric.name.into(), Some(unit), help);
            Published::Gauge(recorder.register_gauge(&key, &metadata), 0)
        }
    }
}

impl Drop for MetricsExporter {
    fn drop(&mut self) {
        for number in &self.numbers {
            if let Published::Gauge(gauge, published) = number {
                gauge.decrement(*published as f64);
            }
        }
    }
}

impl fmt::Debug for MetricsExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MetricsExporter({} numbers)", self.numbers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use metrics::{CounterFn, GaugeFn, Histogram, KeyName, SharedString, with_local_recorder};
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    /// Adds up what is published, by name and labels.
    #[derive(Clone, Default)]
    struct Book(Arc<Mutex<BTreeMap<String, f64>>>);

    struct Line(Book, String);

    impl Book {
        fn add(&self, key: &str, value: f64) {
            *self.0.lock().expect("no test panics with it").entry(key.into()).or_default() += value;
        }

        fn read(&self, name: &str) -> f64 {
            let book = self.0.lock().expect("no test panics with it");
            book.iter().filter(|(key, _)| key.contains(name)).map(|(_, value)| value).sum()
        }

        fn line(&self, key: &Key) -> Arc<Line> {
            self.add(&key.to_string(), 0.0);
            Arc::new(Line(self.clone(), key.to_string()))
        }
    }

    impl CounterFn for Line {
        fn increment(&self, value: u64) {
            self.0.add(&self.1, value as f64);
        }
        fn absolute(&self, _: u64) {
            unreachable!("counters are published as differences")
        }
    }

    impl GaugeFn for Line {
        fn increment(&self, value: f64) {
            self.0.add(&self.1, value);
        }
        fn decrement(&self, value: f64) {
            self.0.add(&self.1, -value);
        }
        fn set(&self, _: f64) {
            unreachable!("gauges are published as differences")
        }
    }

    impl Recorder for Book {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.line(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.line(key))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn what_is_published_is_what_was_counted() {
        let book = Book::default();
        let io = Proactor::with(Options::default().name("books")).expect("proactor");
        let mut exporter = with_local_recorder(&book, || MetricsExporter::new(&io));
        let nops: Vec<_> = (0..3).map(|_| io.nop().submit().expect("room")).collect();
        exporter.publish(&io.stats());
        assert_eq!(book.read("dataplane_operations_pending"), 3.0);
        assert_eq!(book.read("dataplane_completions_total"), 0.0);
        for nop in nops {
            io.block_on(nop).expect("polls").expect("a no-op");
            exporter.publish(&io.stats());
            exporter.publish(&io.stats());
        }
        assert_eq!(book.read("dataplane_completions_total"), 3.0);
        assert_eq!(book.read("dataplane_operations_pending"), 0.0);
        assert!(book.read("proactor = books") > 0.0, "its name is a label");
    }

    #[test]
    fn proactors_with_the_same_labels_add_up_and_leave_no_gauge_behind() {
        let book = Book::default();
        let (one, two) = (
            Stats { in_flight: 2, completed: 5, ..Stats::default() },
            Stats { in_flight: 3, completed: 7, ..Stats::default() },
        );
        let make = || MetricsExporter::with_labels([("proactor", "same".to_owned())]);
        let (mut first, mut second) = with_local_recorder(&book, || (make(), make()));
        first.publish(&one);
        second.publish(&two);
        assert_eq!(book.read("dataplane_operations_pending"), 5.0);
        drop(second);
        assert_eq!(book.read("dataplane_operations_pending"), 2.0);
        drop(first);
        assert_eq!(book.read("dataplane_operations_pending"), 0.0);
        assert_eq!(book.read("dataplane_completions_total"), 12.0);
    }

    #[test]
    fn older_numbers_take_nothing_back_from_a_counter() {
        let book = Book::default();
        let mut exporter = with_local_recorder(&book, || MetricsExporter::with_labels([]));
        exporter.publish(&Stats { completed: 5, ..Stats::default() });
        exporter.publish(&Stats { completed: 3, ..Stats::default() });
        exporter.publish(&Stats { completed: 6, ..Stats::default() });
        assert_eq!(book.read("dataplane_completions_total"), 6.0);
    }
}
