//! The turn: attempt what can move, look at the poller, serve what it reports.
//!
//! Runs on the poll owner's thread, inside `wait` and `flush`.

use super::poller::ALWAYS;
use super::standing::Phase;
use super::token::{Report, Token};
use super::{BUSY_TURNS, Cause, Ready, Staged};
use crate::backend::{EVENTS_PER_TURN, Event, Fatal, MORE, Until};
use crate::engine::deadlines::now_ns;
use crate::engine::table::Table;
use std::os::fd::RawFd;

impl Ready {
    /// Attempts what has more to do, what is staged and whose rest is over.
    pub(super) fn advance(&mut self, table: &mut Table) {
        for _ in 0..self.hot.len() {
            let Some(id) = self.hot.pop_front() else { break };
            if self.standing.phase(id) == Phase::Hot {
                self.run(id, table, Cause::Turn);
            }
        }
        while self.done.len() < EVENTS_PER_TURN {
            match self.staged.pop_front() {
                Some(Staged::Push(id)) => self.run(id, table, Cause::Turn),
                Some(Staged::Cancel(id)) => self.cancel_now(id, table),
                None => break,
            }
        }
        self.retry(table);
    }

    fn retry(&mut self, table: &mut Table) {
        if self.soon.is_empty() {
            return;
        }
        let now = now_ns();
        while let Some(&(due, id)) = self.soon.front() {
            let stale = self.standing.phase(id) != Phase::Soon;
            if !stale && due > now {
                break;
            }
            self.soon.pop_front();
            if !stale {
                self.run(id, table, Cause::Turn);
            }
        }
    }

    /// How long there is nothing to do, `until` at most.
    fn sleep_until(&self, until: Until) -> Until {
        let idle = self.done.is_empty() && self.hot.is_empty() && self.staged.is_empty();
        match (until, self.soon.front()) {
            _ if !idle => Until::Now,
            (Until::Forever, Some(&(due, _))) => Until::At(due),
            (Until::At(at), Some(&(due, _))) => Until::At(at.min(due)),
            (until, _) => until,
        }
    }

    /// One whole turn; sleeps until `until` at most, if there is nothing to deliver.
    pub(super) fn turn(&mut self, until: Until, table: &mut Table) -> Result<(), Fatal> {
        self.advance(table);
        let until = self.sleep_until(until);
        self.busy_turns += 1;
        if !self.done.is_empty() && self.busy_turns < BUSY_TURNS {
            return Ok(());
        }
        self.busy_turns = 0;
        self.look_around(until, table)?;
        self.retry(table);
        Ok(())
    }

    fn look_around(&mut self, until: Until, table: &mut Table) -> Result<(), Fatal> {
        let mut reports = std::mem::take(&mut self.reports);
        self.looks += 1;
        let outcome = self.poller.wait(until, &mut reports);
        for report in reports.drain(..) {
            self.serve(report, table);
        }
        self.reports = reports;
        outcome.map_err(Fatal::Failed)
    }

    fn serve(&mut self, report: Report, table: &mut Table) {
        match report.token {
            Token::Bell => {
                // A bell that cannot be read is gone with the proactor.
                let _ = self.shared.bell.clear();
                self.bells += 1;
            }
            Token::Timer | Token::Edges => {}
            Token::Watch(id) => {
                if let Some((_, wanted)) = self.watches.get(&id) {
                    let bits = report.bits & wanted;
                    if bits != 0 {
                        self.done.push_back(Event::of(id, bits as i32, MORE));
                    }
                }
            }
            Token::Descriptor(fd, generation) => self.wake(fd, generation, report.bits, table),
        }
    }

    /// Attempts in order what stands on `fd` and waits for `bits`; once one of them blocks, those
    /// behind it that wait for the same would too.
    fn wake(&mut self, fd: RawFd, generation: u32, bits: u32, table: &mut Table) {
        let bits = if bits & ALWAYS != 0 { u32::MAX } else { bits };
        let mut blocked = 0;
        let mut at = self.standing.first(fd, generation);
        while let Some(id) = at {
            at = self.standing.next(id);
            let interest = self.standing.interest(id);
            if interest & bits == 0 || interest & !blocked == 0 {
                continue;
            }
            self.run(id, table, Cause::Report);
            if self.standing.phase(id) == Phase::Standing {
                blocked |= interest;
                if self.standing.needed(fd) & !blocked == 0 {
                    break;
                }
            }
        }
    }

    /// Who watches the descriptor instead of waiting must see work that nothing else shows.
    pub(super) fn remind(&mut self) -> Result<(), Fatal> {
        if !self.watched.get() {
            return Ok(());
        }
        match self.sleep_until(Until::Forever) {
            Until::Now => self.poller.remind(now_ns()),
            Until::At(at) => self.poller.remind(at),
            Until::Forever => Ok(()),
        }
        .map_err(Fatal::Failed)
    }
}
