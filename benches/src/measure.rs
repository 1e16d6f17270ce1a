//! Measuring two contenders against each other.
//!
//! The two take turns every few milliseconds, so whatever else the machine does meanwhile falls on
//! both. A round adds up the turns of each until both have run long enough and gives one ratio; who
//! begins changes from turn to turn. The result is the median over the rounds, with the smallest
//! and the largest. CPU time is that of the measuring thread alone, in user space and in the
//! kernel: it tells work from waiting, and where no peer is involved it is the less noisy of the
//! two.

use crate::questions::{Pair, Question};
use crate::{Contender, Result};
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds; an odd number has a median of its own.
    pub rounds: usize,
    /// How long each side runs in a round, at least.
    pub round: Duration,
    /// How long each side runs before anything counts, at least.
    pub warm_up: Duration,
}

impl Default for Plan {
    fn default() -> Plan {
        let [round, warm_up] = [150, 150].map(Duration::from_millis);
        Plan { rounds: 9, round, warm_up }
    }
}

/// Time spent on some steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Steps done.
    pub steps: u64,
    /// Time that passed, in nanoseconds.
    pub wall_ns: f64,
    /// Time the measuring thread ran, in nanoseconds.
    pub cpu_ns: f64,
}

impl Spent {
    fn add(&mut self, other: Spent) {
        self.steps += other.steps;
        self.wall_ns += other.wall_ns;
        self.cpu_ns += other.cpu_ns;
    }

    fn wall_per_step(&self) -> f64 {
        self.wall_ns / self.steps as f64
    }

    fn cpu_per_step(&self) -> f64 {
        self.cpu_ns / self.steps as f64
    }
}

/// Median, smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some values; NaN when there are none.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let count = values.len();
        let median = (at(count.saturating_sub(1) / 2) + at(count / 2)) / 2.0;
        Spread { median, min: at(0), max: at(count.saturating_sub(1)) }
    }
}

/// What came out.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Rate of the toolkit by that of the limit: 1 is as fast, above is faster.
    pub ratio: Spread,
    /// The limit's CPU time by the toolkit's, for the same work.
    pub cpu_ratio: Spread,
    /// Nanoseconds for a step of the toolkit.
    pub ours_ns: Spread,
    /// Nanoseconds for a step of the limit.
    pub limit_ns: Spread,
}

fn cpu_ns() -> Result<f64> {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(now.tv_sec() as f64 * 1e9 + now.tv_nsec() as f64)
}

fn turn(contender: &mut dyn Contender, steps: u64) -> Result<Spent> {
    let (start, cpu_start) = (Instant::now(), cpu_ns()?);
    contender.run(steps)?;
    let cpu_ns = cpu_ns()? - cpu_start;
    Ok(Spent { steps, wall_ns: start.elapsed().as_nanos() as f64, cpu_ns })
}

/// Warms a contender up and finds how many steps fill a slice.
fn warm_up(contender: &mut dyn Contender, plan: &Plan, slice: Duration) -> Result<u64> {
    let (start, mut steps) = (Instant::now(), 1);
    loop {
        let spent = turn(contender, steps)?;
        let wanted_ns = slice.as_nanos() as f64;
        let next = (wanted_ns / spent.wall_per_step()).ceil().max(1.0);
        // The first steps are slow: come near in a few strides.
        steps = (next as u64).clamp(1, steps.saturating_mul(8));
        if start.elapsed() >= plan.warm_up && spent.wall_ns >= wanted_ns / 2.0 {
            return Ok(steps);
        }
    }
}

/// Measures a question's pair.
///
/// # Errors
///
/// What the contenders say.
pub fn interleaved(pair: &mut Pair, question: &Question, plan: &Plan) -> Result<Measured> {
    let (ours, limit) = (pair.ours.as_mut(), pair.limit.as_mut());
    let slice = question.slice.min(plan.round);
    let (ours_steps, limit_steps) = (warm_up(ours, plan, slice)?, warm_up(limit, plan, slice)?);
    let wanted_ns = plan.round.as_nanos() as f64;
    let mut rounds = Vec::with_capacity(plan.rounds);
    let mut ours_first = true;
    for _ in 0..plan.rounds {
        let (mut a, mut b) = (Spent::default(), Spent::default());
        while a.wall_ns < wanted_ns || b.wall_ns < wanted_ns {
            if ours_first {
                a.add(turn(ours, ours_steps)?);
            }
            b.add(turn(limit, limit_steps)?);
            if !ours_first {
                a.add(turn(ours, ours_steps)?);
            }
            ours_first = !ours_first;
        }
        rounds.push((a, b));
    }
    let over = |f: fn(&(Spent, Spent)) -> f64| Spread::of(rounds.iter().map(f).collect());
    Ok(Measured {
        ratio: over(|(ours, limit)| limit.wall_per_step() / ours.wall_per_step()),
        cpu_ratio: over(|(ours, limit)| limit.cpu_per_step() / ours.cpu_per_step()),
        ours_ns: over(|(ours, _)| ours.wall_per_step()),
        limit_ns: over(|(_, limit)| limit.wall_per_step()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert!(Spread::of(vec![]).median.is_nan());
    }

    #[test]
    fn turns_add_up() {
        let mut sum = Spent { steps: 2, wall_ns: 10.0, cpu_ns: 4.0 };
        sum.add(Spent { steps: 3, wall_ns: 15.0, cpu_ns: 6.0 });
        assert_eq!((sum.wall_per_step(), sum.cpu_per_step()), (5.0, 2.0));
    }
}
