//! Measuring two contenders against each other.
//!
//! The two take turns every few milliseconds, so whatever else the machine does meanwhile falls on
//! both; who begins changes from turn to turn. A round takes of each side the quickest quarter's
//! slowest turn: on a busy machine every second turn of a millisecond is one in which somebody else
//! had the CPU, and a median would be of those. Of a few long turns it takes the median. A round
//! gives one ratio; the result is the median over the rounds, with the smallest and the largest.
//!
//! CPU time is that of the measuring thread alone, in user space and in the kernel: it tells work
//! from waiting. Where one thread does it all and never waits, the ratio of CPU times is the ratio
//! of rates, and where the two differ the machine was too busy to tell.

use crate::questions::{Pair, Question};
use crate::{Contender, Result, in_pieces};
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Fewest turns of each side in a round.
pub const TURNS: usize = 3;
/// From how many turns on a quarter of them says more than the middle.
const QUARTERED: usize = 16;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds; an odd number has a median of its own.
    pub rounds: usize,
    /// How long each side runs in a round, at least; and at least [`TURNS`] turns.
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

/// Time spent on a step, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    /// Time that passed.
    wall_ns: f64,
    /// Time the measuring thread ran.
    cpu_ns: f64,
}

impl Step {
    /// What a step takes when nobody disturbs it, of several turns.
    fn typical(turns: &[Step]) -> Step {
        let over = |f: fn(&Step) -> f64| {
            let mut values: Vec<f64> = turns.iter().map(f).collect();
            values.sort_by(f64::total_cmp);
            match values.len() {
                count @ QUARTERED.. => values[count / 4],
                _ => Spread::of(values).median,
            }
        };
        Step { wall_ns: over(|step| step.wall_ns), cpu_ns: over(|step| step.cpu_ns) }
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

/// Runs some steps; what one of them took.
fn turn(contender: &mut dyn Contender, steps: u64) -> Result<Step> {
    let mut spent = Step { wall_ns: 0.0, cpu_ns: 0.0 };
    in_pieces(contender, steps, |contender, piece| {
        let (start, cpu_start) = (Instant::now(), cpu_ns()?);
        contender.run(piece)?;
        spent.cpu_ns += cpu_ns()? - cpu_start;
        spent.wall_ns += start.elapsed().as_nanos() as f64;
        Ok(())
    })?;
    Ok(Step { wall_ns: spent.wall_ns / steps as f64, cpu_ns: spent.cpu_ns / steps as f64 })
}

/// Warms a contender up and finds how many steps fill a slice.
fn warm_up(contender: &mut dyn Contender, plan: &Plan, slice: Duration) -> Result<u64> {
    let (start, mut steps) = (Instant::now(), 1_u64);
    loop {
        let per_step_ns = turn(contender, steps)?.wall_ns;
        let wanted_ns = slice.as_nanos() as f64;
        let filled = per_step_ns * steps as f64 >= wanted_ns / 2.0;
        // The first steps are slow: come near in a few strides.
        steps = ((wanted_ns / per_step_ns).ceil() as u64).clamp(1, steps.saturating_mul(8));
        if start.elapsed() >= plan.warm_up && filled {
            return Ok(steps);
        }
    }
}

/// One round: what a step of ours and of the limit's took.
fn round(pair: &mut Pair, steps: (u64, u64), wanted: Duration) -> Result<(Step, Step)> {
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < 2 * wanted || ours.len() < TURNS {
        if ours.len() % 2 == 0 {
            ours.push(turn(pair.ours.as_mut(), steps.0)?);
            limit.push(turn(pair.limit.as_mut(), steps.1)?);
        } else {
            limit.push(turn(pair.limit.as_mut(), steps.1)?);
            ours.push(turn(pair.ours.as_mut(), steps.0)?);
        }
    }
    Ok((Step::typical(&ours), Step::typical(&limit)))
}

/// Measures a question's pair.
///
/// # Errors
///
/// What the contenders say.
pub fn interleaved(pair: &mut Pair, question: &Question, plan: &Plan) -> Result<Measured> {
    let slice = question.slice.min(plan.round);
    let ours_steps = warm_up(pair.ours.as_mut(), plan, slice)?;
    let limit_steps = warm_up(pair.limit.as_mut(), plan, slice)?;
    let rounds = (0..plan.rounds)
        .map(|_| round(pair, (ours_steps, limit_steps), plan.round))
        .collect::<Result<Vec<(Step, Step)>>>()?;
    let over = |f: fn(&(Step, Step)) -> f64| Spread::of(rounds.iter().map(f).collect());
    Ok(Measured {
        ratio: over(|(ours, limit)| limit.wall_ns / ours.wall_ns),
        cpu_ratio: over(|(ours, limit)| limit.cpu_ns / ours.cpu_ns),
        ours_ns: over(|(ours, _)| ours.wall_ns),
        limit_ns: over(|(_, limit)| limit.wall_ns),
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
    fn a_disturbed_turn_does_not_count() {
        let turns = [(10.0, 9.0), (500.0, 9.0), (12.0, 8.0)]
            .map(|(wall_ns, cpu_ns)| Step { wall_ns, cpu_ns });
        assert_eq!(Step::typical(&turns), Step { wall_ns: 12.0, cpu_ns: 9.0 });
        let many: Vec<Step> = turns.iter().copied().cycle().take(30).collect();
        assert_eq!(Step::typical(&many), Step { wall_ns: 10.0, cpu_ns: 8.0 });
    }

    /// Waits a microsecond or two a step, so that the ratio is known.
    struct Waits(Duration);

    impl Contender for Waits {
        fn run(&mut self, steps: u64) -> Result<()> {
            for _ in 0..steps {
                let start = Instant::now();
                while start.elapsed() < self.0 {}
            }
            Ok(())
        }
    }

    #[test]
    fn the_slower_side_has_the_smaller_ratio() {
        let [slow, fast] = [40, 10].map(|us| Box::new(Waits(Duration::from_micros(us))));
        let mut pair = Pair { ours: slow, limit: fast, peers: Vec::new() };
        let [round, warm_up] = [4, 1].map(Duration::from_millis);
        let plan = Plan { rounds: 3, round, warm_up };
        let questions = crate::questions::all();
        let measured = interleaved(&mut pair, &questions[0], &plan).unwrap();
        let ratio = measured.ratio.median;
        assert!((0.1..0.6).contains(&ratio), "{ratio}");
    }
}
