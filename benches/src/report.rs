//! What is printed: one line a question, or one JSON object.

use crate::measure::{Measured, Spread};
use crate::questions::{Question, Unit};
use serde::Serialize;
use std::fmt::Write;

/// One question's answer.
#[derive(Serialize)]
pub struct Answer {
    question: String,
    /// Ok, missed, skipped, or measured where nothing is demanded.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    demanded: Option<f64>,
    #[serde(flatten)]
    figures: Option<Figures>,
}

#[derive(Serialize)]
struct Figures {
    ratio: Spread,
    cpu_ratio: Spread,
    /// Nanoseconds for a step.
    ours_ns: Spread,
    limit_ns: Spread,
    /// Bytes of a step, where it has some.
    bytes: Option<u64>,
}

impl Answer {
    /// Of a question that was measured.
    pub fn measured(question: &Question, measured: &Measured) -> Answer {
        let outcome = match question.demanded {
            None => "measured",
            Some(demanded) if measured.ratio.median >= demanded => "ok",
            Some(_) => "missed",
        };
        let figures = Figures {
            ratio: measured.ratio,
            cpu_ratio: measured.cpu_ratio,
            ours_ns: measured.ours_ns,
            limit_ns: measured.limit_ns,
            bytes: match question.unit {
                Unit::Operation => None,
                Unit::Bytes(bytes) => Some(bytes),
            },
        };
        Answer { outcome, reason: None, figures: Some(figures), ..Answer::of(question) }
    }

    /// Of one this machine cannot answer.
    pub fn skipped(question: &Question, reason: String) -> Answer {
        Answer { outcome: "skipped", reason: Some(reason), ..Answer::of(question) }
    }

    fn of(question: &Question) -> Answer {
        let (question, demanded) = (question.name.clone(), question.demanded);
        Answer { question, outcome: "", reason: None, demanded, figures: None }
    }

    /// Whether what is demanded was not reached.
    pub fn is_missed(&self) -> bool {
        self.outcome == "missed"
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mut line = format!("{:<28}", self.question);
        let Some(figures) = &self.figures else {
            let _ = write!(line, "skipped: {}", self.reason.as_deref().unwrap_or_default());
            return line;
        };
        let Spread { median, min, max } = figures.ratio;
        let _ = write!(line, "{median:>6.3} ({min:.3} to {max:.3})");
        let _ = write!(line, "  cpu {:>6.3}", figures.cpu_ratio.median);
        let (ours, limit) = (figures.show(figures.ours_ns), figures.show(figures.limit_ns));
        let _ = write!(line, "  ours {ours:>11}, limit {limit:>11}");
        if let Some(demanded) = self.demanded {
            let _ = write!(line, "  demanded {demanded}: {}", self.outcome);
        }
        line
    }
}

impl Figures {
    fn show(&self, per_step: Spread) -> String {
        match self.bytes {
            None => format!("{:.1} ns", per_step.median),
            Some(bytes) => format!("{:.0} MB/s", bytes as f64 * 1e3 / per_step.median),
        }
    }
}

/// Heads the lines.
pub fn heading(congestion_control: &str) -> String {
    format!(
        "ratio = rate of dataplane / rate of the hand-written loop: median (min to max) of the \
         rounds; cpu = the same of CPU time\nconnections: TCP over loopback, congestion control \
         {congestion_control}"
    )
}
