//! What the benchmarks share: both sides under criterion, then their ratio.

use criterion::{BenchmarkId, Criterion, Throughput};
use dataplane_benches::fixture::Fixture;
use dataplane_benches::measure::{self, Plan};
use dataplane_benches::questions::{self, Opened, Pair, Question, Unit};
use dataplane_benches::report::{self, Answer};
use dataplane_benches::{Contender, in_pieces, wire};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Asks every question of a topic. Anything that goes wrong ends the benchmark with its text.
pub fn topic(name: &str) {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let testing = std::env::args().any(|argument| argument == "--test");
    let fixture = Rc::new(Fixture::new().expect("a file in the temporary directory"));
    println!("{}", report::heading(&wire::congestion_control()));
    for question in questions::all().iter().filter(|question| question.is_of(name)) {
        match question.open(&fixture).expect("both sides of the question") {
            Opened::Skipped(reason) => println!("{}", Answer::skipped(question, reason).line()),
            Opened::Pair(mut pair) => {
                both(&mut criterion, question, &mut pair);
                if !testing {
                    let measured = measure::interleaved(&mut pair, question, &Plan::default())
                        .expect("both sides of the question");
                    println!("ratio: {}\n", Answer::measured(question, &measured).line());
                }
            }
        }
    }
    criterion.final_summary();
}

fn both(criterion: &mut Criterion, question: &Question, pair: &mut Pair) {
    let mut group = criterion.benchmark_group(&question.name);
    group.throughput(match question.unit {
        Unit::Operation => Throughput::Elements(1),
        Unit::Bytes(bytes) => Throughput::Bytes(bytes),
    });
    let sides: [(&str, &mut Box<dyn Contender>); 2] =
        [("ours", &mut pair.ours), ("limit", &mut pair.limit)];
    for (side, contender) in sides {
        group.bench_function(BenchmarkId::from_parameter(side), |bencher| {
            bencher.iter_custom(|steps| {
                let mut spent = Duration::ZERO;
                in_pieces(contender.as_mut(), steps, |contender, piece| {
                    let start = Instant::now();
                    contender.run(piece)?;
                    spent += start.elapsed();
                    Ok(())
                })
                .expect("the question's work");
                spent
            });
        });
    }
    group.finish();
}
