//! Prints how near the toolkit comes to the limit, question by question.

use clap::Parser;
use dataplane_benches::fixture::Fixture;
use dataplane_benches::measure::{self, Plan};
use dataplane_benches::questions::{self, Opened, Question};
use dataplane_benches::report::{self, Answer};
use dataplane_benches::{Error, Result, wire};
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

/// Ratio of dataplane's rate to that of a hand-written io_uring loop doing the same work.
#[derive(Parser)]
#[command(name = "ratios")]
struct Arguments {
    /// Questions or topics (noop, fence, echo, receive, send, read, stream, noop/depth-1, …); all
    /// when none is named.
    questions: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Exit with 1 when a ratio that is demanded was not reached.
    #[arg(long)]
    check: bool,
    /// List the questions and what is demanded.
    #[arg(long)]
    list: bool,
    /// Rounds of each question.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Milliseconds each side runs in a round.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..))]
    round_ms: u64,
}

fn wanted(names: &[String]) -> Result<Vec<Question>> {
    let mut all = questions::all();
    for name in names {
        if !all.iter().any(|question| question.is_of(name)) {
            return Err(format!("no question `{name}`; `--list` shows them").into());
        }
    }
    all.retain(|question| names.is_empty() || names.iter().any(|name| question.is_of(name)));
    Ok(all)
}

fn ask(question: &Question, fixture: &Rc<Fixture>, plan: &Plan) -> Result<Answer> {
    match question.open(fixture)? {
        Opened::Skipped(reason) => Ok(Answer::skipped(question, reason)),
        Opened::Pair(mut pair) => {
            let measured = measure::interleaved(&mut pair, question, plan)?;
            Ok(Answer::measured(question, &measured))
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let questions = wanted(&arguments.questions)?;
    let mut out = std::io::stdout();
    if arguments.list {
        for question in &questions {
            let demanded = question.demanded.map(|ratio| format!("  {ratio}")).unwrap_or_default();
            writeln!(out, "{}{demanded}", question.name)?;
        }
        return Ok(true);
    }
    let plan = Plan {
        rounds: arguments.rounds.into(),
        round: Duration::from_millis(arguments.round_ms),
        ..Plan::default()
    };
    let fixture = Rc::new(Fixture::new()?);
    let congestion_control = wire::congestion_control();
    if !arguments.json {
        writeln!(out, "{}", report::heading(&congestion_control))?;
    }
    let mut answers = Vec::with_capacity(questions.len());
    for question in &questions {
        let answer = ask(question, &fixture, &plan)
            .map_err(|error| Error::from(format!("{}: {error}", question.name)))?;
        if !arguments.json {
            writeln!(out, "{}", answer.line())?;
        }
        answers.push(answer);
    }
    if arguments.json {
        let object = serde_json::json!({
            "congestion_control": congestion_control,
            "rounds": plan.rounds,
            "round_ms": arguments.round_ms,
            "answers": answers,
        });
        writeln!(out, "{object}")?;
    }
    Ok(!answers.iter().any(Answer::is_missed))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(reached) if reached || !arguments.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ratios: {error}");
            ExitCode::from(2)
        }
    }
}
