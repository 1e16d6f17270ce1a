//! The sending end: source -> slot -> hash and socket.
//!
//! One loop drives everything: it takes the next piece of the source as soon as there is one,
//! hands it to the hash, submits its send behind the others, and takes results as they come. Reads
//! are started whenever the source is asked, so as long as slots are free, reads, hashing and
//! sends overlap. A receive for the verdict is in flight all along: a receiver that gives up early
//! is heard.

use super::hash::{Algorithm, Digest, Hasher};
use super::source::Source;
use super::wire::Wire;
use super::{Bar, End, failed};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::pipeline::protocol::{
    Code, FRAME_ALIVE, Header, NAME_BYTES_MAX, RECORD_BYTES, Record, TAGGED_BYTES,
};
use crate::pipeline::token::{Claim, Session};
use crate::report::{Stage, Tally};
use dataplane::{Filled, Sent, Submission, Timer, ZeroCopy, operations};
use futures_util::future::{Either, select};
use regions::Span;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often the loop looks whether the peer still takes anything, and tells it that a source with
/// nothing to give still lives.
const TICK: Duration = Duration::from_millis(250);
/// How long a receiver that closed is listened to for its reason.
const GRACE: Duration = Duration::from_secs(1);

/// What the sending end found.
pub struct Outcome {
    /// Bytes sent.
    pub bytes: u64,
    /// Their hash.
    pub digest: Option<Digest>,
    /// What the receiver says: Good, Length or Hash.
    pub verdict: Code,
    /// Which way the bytes went.
    pub stages: Vec<Stage>,
}

/// What is being sent, and how.
struct Sending<'a> {
    wire: &'a Wire,
    source: Source,
    bar: Bar,
    hasher: Hasher,
    framed: bool,
    over: bool,
    sending: VecDeque<(Submission<operations::Send>, bool)>,
    verdict: Submission<operations::Recv>,
    timer: Submission<Timer>,
    progressed: Instant,
    bytes: u64,
    read: Tally,
    send: Tally,
}

enum Event {
    Sent(Result<Sent>, bool),
    Piece(Option<Result<Filled>>),
    Verdict(Result<Filled>),
    Tick,
    Over,
}

/// The header and name as they go over the wire.
fn header(source: &Source, hash: Algorithm, name: &str) -> Vec<u8> {
    let mut cut = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    let name = &name.as_bytes()[..cut];
    let header = Header { hash, length: source.length, name_bytes: name.len() };
    [&header.encode()[..], name].concat()
}

/// Sends a source over a connection on which the handshake is done, and hears the verdict.
pub async fn send(
    end: &End,
    wire: &Wire,
    source: Source,
    (hash, name): (Algorithm, &str),
    session: Option<&Session>,
) -> Result<Outcome> {
    let header = header(&source, hash, name);
    let bar = Bar::new(end, source.length);
    wire.put(&header).await?;
    let mut sending = Sending {
        wire,
        framed: source.length.is_none(),
        source,
        bar,
        hasher: Hasher::new(hash, end.settings.hash_on)?,
        over: false,
        sending: VecDeque::with_capacity(end.slab.slots()),
        verdict: wire.expect(RECORD_BYTES)?,
        timer: wire.timer(Instant::now() + TICK)?,
        progressed: Instant::now(),
        bytes: 0,
        read: Tally::new("read"),
        send: Tally::new("send"),
    };
    set_policy(wire, end.settings.zero_copy)?;
    sending.run(session).await?;
    set_policy(wire, ZeroCopy::Never)?;
    sending.conclude(&header, session).await
}

fn set_policy(wire: &Wire, wanted: ZeroCopy) -> Result<()> {
    wire.socket.zero_copy(wanted).map_err(|error| {
        let exit = match wanted {
            ZeroCopy::Require => Exit::Requirement,
            _ => Exit::System,
        };
        Failure::new(exit, error.to_string())
    })
}

impl Sending<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some((front, is_data)) = self.sending.front_mut()
            && let Poll::Ready(result) = Pin::new(front).poll(cx)
        {
            let is_data = *is_data;
            self.sending.pop_front();
            let peer = &self.wire.peer;
            let result = result.map_err(|refused| failed(peer, &refused.error));
            return Poll::Ready(Event::Sent(result, is_data));
        }
        if !self.over
            && let Poll::Ready(piece) = self.source.poll_next(cx)
        {
            return Poll::Ready(Event::Piece(piece));
        }
        if self.over && self.sending.is_empty() {
            return Poll::Ready(Event::Over);
        }
        if let Poll::Ready(result) = Pin::new(&mut self.verdict).poll(cx) {
            let wire = self.wire;
            let result = result.map_err(|e| wire.receive_failed(&e.error, "before the end"));
            return Poll::Ready(Event::Verdict(result));
        }
        if Pin::new(&mut self.timer).poll(cx).is_ready() {
            return Poll::Ready(Event::Tick);
        }
        Poll::Pending
    }

    async fn run(&mut self, session: Option<&Session>) -> Result<()> {
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Event::Over => return self.complete(),
                Event::Piece(None) => self.over = true,
                Event::Piece(Some(piece)) => self.submit(piece?)?,
                Event::Sent(Ok(sent), is_data) => {
                    self.progressed = Instant::now();
                    if is_data {
                        self.send.add(sent.path, sent.bytes);
                        self.bar.add(sent.bytes);
                    }
                }
                Event::Sent(Err(failure), _) => return Err(self.why(failure, session).await),
                Event::Verdict(result) => return Err(self.early(result, session)),
                Event::Tick => self.tick()?,
            }
        }
    }

    /// The source gave what it announced.
    fn complete(&self) -> Result<()> {
        match self.source.length {
            Some(length) if length != self.bytes => {
                let text = format!("read the source: {} bytes of {length}", self.bytes);
                Err(Failure::new(Exit::System, text))
            }
            _ => Ok(()),
        }
    }

    fn submit(&mut self, piece: Filled) -> Result<()> {
        let (path, bytes) = (piece.path(), piece.len());
        let span = piece.freeze();
        self.read.add(path, bytes);
        self.bytes += bytes as u64;
        self.hasher.update(&span)?;
        if self.framed {
            self.frame(bytes as u32)?;
        }
        if self.sending.is_empty() {
            // The peer has had nothing to take until now.
            self.progressed = Instant::now();
        }
        let send = self.wire.socket.send_all(span).submit().map_err(|refused| refused.error);
        self.sending.push_back((send.doing("send")?, true));
        Ok(())
    }

    fn frame(&mut self, word: u32) -> Result<()> {
        let span = Span::from(word.to_le_bytes().to_vec());
        let socket = &self.wire.socket;
        let request = match word {
            0 | FRAME_ALIVE => socket.send_all(span),
            _ => socket.send_more(span),
        };
        let send = request.submit().map_err(|refused| refused.error).doing("send")?;
        self.sending.push_back((send, false));
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        self.timer = self.wire.timer(Instant::now() + TICK)?;
        if self.sending.is_empty() {
            if self.framed {
                self.progressed = Instant::now();
                self.frame(FRAME_ALIVE)?;
            }
            return Ok(());
        }
        match self.progressed.elapsed() > self.wire.stall() {
            true => Err(self.wire.stalled("taking data")),
            false => Ok(()),
        }
    }

    /// A send failed: the receiver may have said why before it closed.
    async fn why(&mut self, failure: Failure, session: Option<&Session>) -> Failure {
        if failure.exit != Exit::Peer {
            return failure;
        }
        let Ok(timer) = self.wire.timer(Instant::now() + GRACE) else { return failure };
        match select(&mut self.verdict, timer).await {
            Either::Left((Ok(filled), _)) if !filled.is_empty() => self.early(Ok(filled), session),
            _ => failure,
        }
    }

    /// The receiver spoke before it had everything.
    fn early(&self, result: Result<Filled>, session: Option<&Session>) -> Failure {
        let when = format!("after {} bytes were read for it", self.bytes);
        match result.and_then(|filled| self.read_verdict(&filled, &when, session)) {
            Ok(record) => self.refused(record.code.unwrap_or(Code::Refused)),
            Err(failure) => failure,
        }
    }

    fn refused(&self, code: Code) -> Failure {
        let peer = &self.wire.peer;
        match code {
            Code::Write => Failure::peer(format!("{peer}: it could not write; see its message")),
            Code::Length | Code::Hash => {
                let text = format!("{peer}: it gave up because length or hash differ");
                Failure::new(Exit::Mismatch, text)
            }
            _ => Failure::peer(format!("{peer}: it refused the transfer; see its message")),
        }
    }

    fn read_verdict(&self, bytes: &[u8], when: &str, session: Option<&Session>) -> Result<Record> {
        let Ok(bytes) = <&[u8; RECORD_BYTES]>::try_from(bytes) else {
            return Err(self.wire.ended(when));
        };
        if let Some(session) = session
            && !session.is_proven(Claim::Verdict(&bytes[..TAGGED_BYTES]), &bytes[TAGGED_BYTES..])
        {
            let text = format!("{}: the verdict is not from the token's owner", self.wire.peer);
            return Err(Failure::new(Exit::Token, text));
        }
        Record::decode(bytes, true).map_err(|error| self.wire.malformed(error))
    }

    /// The trailer, and the receiver's answer to it.
    async fn conclude(mut self, header: &[u8], session: Option<&Session>) -> Result<Outcome> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::nothing());
        let digest = hasher.finish()?;
        let end_of_frames = 0u32.to_le_bytes();
        if self.framed {
            self.wire.put(&end_of_frames).await?;
        }
        let record = Record { code: None, length: self.bytes, digest: digest.unwrap_or_default() };
        let mut trailer = [0; RECORD_BYTES];
        trailer[..TAGGED_BYTES].copy_from_slice(&record.encode());
        if let Some(session) = session {
            let tag = session.prove(Claim::Trailer(header, &record.encode()));
            trailer[TAGGED_BYTES..].copy_from_slice(&tag);
        }
        self.wire.put(&trailer).await?;
        let answer = self.verdict(session).await?;
        let verdict = match answer.code {
            Some(Code::Good) if answer.length != self.bytes => Code::Length,
            Some(Code::Good) if answer.digest != record.digest => Code::Hash,
            Some(code @ (Code::Good | Code::Length | Code::Hash)) => code,
            other => return Err(self.refused(other.unwrap_or(Code::Refused))),
        };
        let stages = [self.read.stages(), self.send.stages()].concat();
        Ok(Outcome { bytes: self.bytes, digest, verdict, stages })
    }

    /// The final verdict: one that says "still writing" is followed by another.
    async fn verdict(&mut self, session: Option<&Session>) -> Result<Record> {
        loop {
            let timer = self.wire.timer(Instant::now() + self.wire.stall())?;
            let filled = match select(&mut self.verdict, timer).await {
                Either::Right(_) => return Err(self.wire.stalled("before its verdict")),
                Either::Left((Ok(filled), _)) => filled,
                Either::Left((Err(refused), _)) => {
                    return Err(self.wire.receive_failed(&refused.error, "its verdict"));
                }
            };
            let record = self.read_verdict(&filled, "before its verdict", session)?;
            if record.code != Some(Code::Working) {
                return Ok(record);
            }
            drop(filled);
            self.verdict = self.wire.expect(RECORD_BYTES)?;
        }
    }
}
