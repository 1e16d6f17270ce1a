//! The receiving end: socket -> slot -> hash and sink.
//!
//! Two receives of whole slots are submitted ahead; what arrived is handed to the hash and written
//! from the same slot, with several writes in flight. A receive that ends short (its deadline
//! passed while bytes were trickling in) counts for what it brought: positions come from what
//! arrived, never from what was asked for. Nothing is allocated by the peer's word.
//!
//! Whatever goes wrong here is told to the sender in a verdict where it can be, and to the caller
//! as a failure; the sink then takes its temporary file away.

use super::hash::{Algorithm, Digest, Hasher};
use super::sink::{Sink, Target};
use super::wire::Wire;
use super::{Bar, End, Leases};
use crate::failure::{Exit, Failure, Result};
use crate::pipeline::protocol::{
    Code, FRAME_ALIVE, FRAME_BYTES_MAX, HEADER_BYTES, Header, Malformed, RECORD_BYTES, Record,
    TAGGED_BYTES,
};
use crate::pipeline::token::{Claim, Session};
use crate::report::{Stage, Tally, idle};
use dataplane::{ErrorKind, Filled, Sent, Submission, operations};
use futures_util::future::{Either, select};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Receives submitted ahead.
const AHEAD: usize = 2;
/// How often the sender is told that writing goes on.
const STILL_WORKING: Duration = Duration::from_millis(250);

/// What the receiving end found.
pub struct Outcome {
    /// Bytes received.
    pub bytes: u64,
    /// The sender's choice of hash.
    pub algorithm: Algorithm,
    /// The hash computed here.
    pub digest: Option<Digest>,
    /// Good, Length or Hash.
    pub verdict: Code,
    /// Which way the bytes went.
    pub stages: Vec<Stage>,
}

type Received = std::result::Result<Filled, dataplane::Failed<operations::Recv>>;
type Written = std::result::Result<Sent, dataplane::Failed<operations::Write>>;

enum Event {
    Received(Received),
    Written(Written),
    Over,
}

struct Receiving<'a> {
    wire: &'a Wire,
    sink: &'a Sink,
    leases: Leases,
    bar: Bar,
    hasher: Hasher,
    receiving: VecDeque<(Submission<operations::Recv>, usize)>,
    writing: VecDeque<Submission<operations::Write>>,
    /// Bytes of the current piece not yet asked for.
    to_ask: u64,
    progressed: Instant,
    bytes: u64,
    receive: Tally,
    write: Tally,
}

/// Receives one file over a connection on which the handshake is done, and gives the verdict.
/// `wanted` is the only hash taken, when there is one.
pub async fn receive(
    end: &End,
    wire: &Wire,
    target: &Target,
    wanted: Option<Algorithm>,
    session: Option<&Session>,
) -> Result<Outcome> {
    let mut record = wire.get::<HEADER_BYTES>("its header").await?.to_vec();
    let mut fixed = [0; HEADER_BYTES];
    fixed.copy_from_slice(&record);
    let header = Header::decode(&fixed).map_err(|error| wire.malformed(error))?;
    if header.name_bytes > 0 {
        record.extend(wire.get_bytes(header.name_bytes, "its file name").await?);
    }
    let received = start(end, wire, target, wanted, &header, (&record, session)).await;
    let failure = match received {
        Ok(outcome) => return Ok(outcome),
        Err(failure) => failure,
    };
    let code = match failure.exit {
        Exit::System => Code::Write,
        Exit::Usage => Code::Refused,
        _ => return Err(failure),
    };
    // The failure stands, whether or not the sender hears of it.
    if verdict(wire, session, code, 0, Digest::default()).await.is_ok() {
        wire.linger(&end.slab).await;
    }
    Err(failure)
}

async fn start(
    end: &End,
    wire: &Wire,
    target: &Target,
    wanted: Option<Algorithm>,
    header: &Header,
    (record, session): (&[u8], Option<&Session>),
) -> Result<Outcome> {
    if let Some(wanted) = wanted
        && wanted != header.hash
    {
        let text = format!("{}: sends with hash {}, not {wanted}", wire.peer, header.hash);
        return Err(Failure::new(Exit::Usage, text));
    }
    let sink = Sink::open(end, target).await?;
    let mut receiving = Receiving {
        wire,
        sink: &sink,
        leases: Leases::new(&end.slab),
        bar: Bar::new(end, header.length),
        hasher: Hasher::new(header.hash, end.settings.hash_on)?,
        receiving: VecDeque::with_capacity(AHEAD),
        writing: VecDeque::with_capacity(end.slab.slots()),
        to_ask: 0,
        progressed: Instant::now(),
        bytes: 0,
        receive: Tally::new("receive"),
        write: Tally::new("write"),
    };
    receiving.data(header.length).await?;
    let trailer = wire.get::<RECORD_BYTES>("its trailer").await?;
    let theirs = check_trailer(wire, session, record, &trailer)?;
    let bytes = receiving.bytes;
    let mut stages = receiving.receive.stages();
    let (digest, written) = receiving.settle(session).await?;
    stages.extend(written);
    let good = judge(bytes, digest, &theirs);
    if good == Code::Good {
        sink.commit()?;
    }
    verdict(wire, session, good, bytes, digest.unwrap_or_default()).await?;
    Ok(Outcome { bytes, algorithm: header.hash, digest, verdict: good, stages })
}

fn judge(bytes: u64, digest: Option<Digest>, theirs: &Record) -> Code {
    match digest {
        _ if theirs.length != bytes => Code::Length,
        Some(digest) if digest != theirs.digest => Code::Hash,
        _ => Code::Good,
    }
}

fn check_trailer(
    wire: &Wire,
    session: Option<&Session>,
    header: &[u8],
    trailer: &[u8; RECORD_BYTES],
) -> Result<Record> {
    let theirs = Record::decode(trailer, false).map_err(|error| wire.malformed(error))?;
    let (tagged, tag) = trailer.split_at(TAGGED_BYTES);
    match session {
        Some(session) if !session.is_proven(Claim::Trailer(header, tagged), tag) => {
            let text = "the trailer is not from the token's owner; nothing was kept";
            Err(Failure::new(Exit::Token, format!("{}: {text}", wire.peer)))
        }
        _ => Ok(theirs),
    }
}

async fn verdict(
    wire: &Wire,
    session: Option<&Session>,
    code: Code,
    length: u64,
    digest: Digest,
) -> Result<()> {
    let tagged = Record { code: Some(code), length, digest }.encode();
    let mut record = [0; RECORD_BYTES];
    record[..TAGGED_BYTES].copy_from_slice(&tagged);
    if let Some(session) = session {
        record[TAGGED_BYTES..].copy_from_slice(&session.prove(Claim::Verdict(&tagged)));
    }
    wire.put(&record).await
}

impl Receiving<'_> {
    /// All data: `length` bytes, or frames until their end.
    async fn data(&mut self, length: Option<u64>) -> Result<()> {
        if let Some(length) = length {
            return self.piece(length).await;
        }
        loop {
            let word = u32::from_le_bytes(self.wire.get("the length of a frame").await?);
            match word {
                0 => return Ok(()),
                FRAME_ALIVE => {}
                1..=FRAME_BYTES_MAX => self.piece(u64::from(word)).await?,
                _ => {
                    let malformed = Malformed("it announces a frame of more than 16 MiB");
                    return Err(self.wire.malformed(malformed));
                }
            }
        }
    }

    /// Exactly `bytes` bytes of data.
    async fn piece(&mut self, bytes: u64) -> Result<()> {
        self.to_ask = bytes;
        self.progressed = Instant::now();
        loop {
            match poll_fn(|cx| self.poll(cx)).await? {
                Event::Over => return Ok(()),
                Event::Received(received) => self.took(received)?,
                Event::Written(written) => self.wrote(written)?,
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event>> {
        while self.to_ask > 0 && self.receiving.len() < AHEAD {
            let Poll::Ready(mut lease) = self.leases.poll(cx) else { break };
            lease.truncate(usize::try_from(self.to_ask).unwrap_or(usize::MAX));
            let asked = lease.len();
            let request = self.wire.socket.recv_all(lease).timeout(self.wire.stall());
            match request.submit() {
                Ok(submission) => self.receiving.push_back((submission, asked)),
                Err(refused) => {
                    return Poll::Ready(Err(self.wire.receive_failed(&refused.error, "data")));
                }
            }
            self.to_ask -= asked as u64;
        }
        if let Some((front, asked)) = self.receiving.front_mut()
            && let Poll::Ready(received) = Pin::new(front).poll(cx)
        {
            let got = received.as_ref().map_or(0, |filled| filled.len());
            // What did not come is asked for again.
            self.to_ask += (*asked - got) as u64;
            self.receiving.pop_front();
            return Poll::Ready(Ok(Event::Received(received)));
        }
        if let Some(front) = self.writing.front_mut()
            && let Poll::Ready(written) = Pin::new(front).poll(cx)
        {
            self.writing.pop_front();
            return Poll::Ready(Ok(Event::Written(written)));
        }
        match self.receiving.is_empty() && self.to_ask == 0 {
            true => Poll::Ready(Ok(Event::Over)),
            false => Poll::Pending,
        }
    }

    fn took(&mut self, received: Received) -> Result<()> {
        let filled = match received {
            Ok(filled) => filled,
            Err(refused) if refused.kind() == ErrorKind::TimedOut => {
                // One that waited behind another may be late without the peer being at fault.
                return match self.progressed.elapsed() < self.wire.stall() {
                    true => Ok(()),
                    false => Err(self.wire.stalled("sending data")),
                };
            }
            Err(refused) => return Err(self.wire.receive_failed(&refused.error, "data")),
        };
        if filled.is_empty() {
            let left = format!("after {} bytes of data, before their end", self.bytes);
            return Err(self.wire.ended(left));
        }
        self.progressed = Instant::now();
        let (path, bytes) = (filled.path(), filled.len());
        let span = filled.freeze();
        self.receive.add(path, bytes);
        self.bar.add(bytes);
        self.hasher.update(&span)?;
        if let Some(writing) = self.sink.write(span, self.bytes)? {
            self.writing.push_back(writing);
        }
        self.bytes += bytes as u64;
        Ok(())
    }

    fn wrote(&mut self, written: Written) -> Result<()> {
        match written {
            Ok(sent) => {
                self.write.add(sent.path, sent.bytes);
                Ok(())
            }
            Err(refused) => Err(self.sink.failed(&refused.error)),
        }
    }

    /// Waits for writes and makes them durable, telling the sender meanwhile that it goes on; and
    /// the hash, which is over long before.
    async fn settle(mut self, session: Option<&Session>) -> Result<(Option<Digest>, Vec<Stage>)> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::nothing());
        let wire = self.wire;
        let written = {
            let mut writing = pin!(self.flush());
            loop {
                let timer = wire.timer(Instant::now() + STILL_WORKING)?;
                match select(writing.as_mut(), timer).await {
                    Either::Left((written, _)) => break written?,
                    Either::Right(_) => {
                        verdict(wire, session, Code::Working, 0, Digest::default()).await?;
                    }
                }
            }
        };
        Ok((hasher.finish()?, written))
    }

    async fn flush(mut self) -> Result<Vec<Stage>> {
        while let Some(front) = self.writing.pop_front() {
            let written = front.await;
            self.wrote(written)?;
        }
        self.sink.sync().await?;
        Ok(match self.sink {
            Sink::Discard => vec![idle("write", "discarded after the hash; --into keeps them")],
            _ => self.write.stages(),
        })
    }
}
