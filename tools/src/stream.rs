//! `dataplane stream`: a file through registered slots over loopback TCP to a receiver in the same
//! process, and proof that every byte arrived.
//!
//! The sender runs on the calling thread, the receiver on a second one; each has its own proactor
//! and slab, and they share nothing but the connection. The receiver takes only the connection the
//! sender made: another process that finds the port is turned away.

use crate::args::{Sending, Shared};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::metrics::Metrics;
use crate::pipeline::hash::Algorithm;
use crate::pipeline::protocol::{Code, Role};
use crate::pipeline::sink::Target;
use crate::pipeline::source::Source;
use crate::pipeline::wire::Wire;
use crate::pipeline::{End, Settings, incoming, outgoing};
use crate::report::{Report, Watch};
use crate::signals::Signals;
use dataplane::{Address, Handle, Socket};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Arguments of `stream`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The file; the running executable when none is named, `-` for standard input.
    file: Option<PathBuf>,
    /// Write what arrives to this file (`-`: standard output) instead of dropping it.
    #[arg(long, value_name = "PATH")]
    into: Option<PathBuf>,
    /// The hash both ends compute.
    #[arg(long, default_value = "blake3")]
    hash: Algorithm,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    shared: Shared,
}

/// Where the receiver listens.
type Listening = Result<(Address, Handle)>;

struct Received {
    outcome: incoming::Outcome,
    fallbacks: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let path = match &args.file {
        Some(path) => path.clone(),
        None => std::env::current_exe().doing("find the running executable")?,
    };
    let settings = args.shared.settings(Some(&args.sending))?;
    let target = args.into.as_deref().map_or(Target::Discard, Target::of);
    if let Target::File(path) = &target {
        crate::pipeline::sink::check_target(path)?;
    }
    let signals = Signals::block()?;
    let metrics = args.shared.metrics()?;
    let end = End::new("sender", &settings)?;
    metrics.iter().for_each(|metrics| metrics.watch(&end.io));
    let opening = end.io.block_on(Source::open(&end, &path, args.sending.direct));
    let source = opening.doing("sender")??;
    let (to_main, listening) = channel();
    let (to_receiver, expected) = channel();
    let receiver = {
        let settings = Settings { shows_progress: false, ..settings };
        let target = target.clone();
        let run = move || receive(&settings, &target, metrics.as_deref(), &to_main, &expected);
        let builder = std::thread::Builder::new().name("receiver".to_owned());
        builder.spawn(run).doing("start the receiver's thread")?
    };
    let watch = Watch::start();
    let work = async {
        let lost = |_| Failure::peer("the receiver ended before it listened");
        let (address, handle) = listening.recv().map_err(lost)??;
        signals.others.borrow_mut().push(handle);
        send(&end, source, &path, args.hash, (address, to_receiver)).await
    };
    let sent = signals.drive(&end.io, work);
    let (backend, fallbacks) = (end.io.backend(), end.fallbacks.clone());
    // Ends the loop, and with it the connection: a receiver that still waits then hears of it.
    drop(end);
    let panicked = |_| Failure::new(Exit::System, "the receiver's thread panicked");
    let received = receiver.join().map_err(panicked)?;
    let (sent, received) = agree(sent, received)?;
    let mut report = Report::new("stream", sent.bytes, &watch);
    report.backend = backend.to_string();
    let there = &received.outcome;
    let agreed = sent.verdict == Code::Good
        && there.verdict == Code::Good
        && (sent.bytes, sent.digest) == (there.bytes, there.digest);
    report.hashed(args.hash, sent.digest, agreed);
    report.stages = [sent.stages, received.outcome.stages].concat();
    report.fell_back(fallbacks);
    report.fell_back(received.fallbacks);
    report.print(args.shared.json, target == Target::Stdout)?;
    match agreed {
        true => Ok(()),
        false => Err(Failure::new(Exit::Mismatch, "stream: length or hash do not agree")),
    }
}

/// Of two ends that failed, the one that did not merely lose the other tells why.
fn agree(
    sent: Result<outgoing::Outcome>,
    received: Result<Received>,
) -> Result<(outgoing::Outcome, Received)> {
    match (sent, received) {
        (Ok(sent), Ok(received)) => Ok((sent, received)),
        (Err(sender), Err(receiver)) if sender.exit == Exit::Peer => Err(receiver),
        (Err(failure), _) | (_, Err(failure)) => Err(failure),
    }
}

async fn send(
    end: &End,
    source: Source,
    path: &std::path::Path,
    hash: Algorithm,
    (address, to_receiver): (Address, Sender<Address>),
) -> Result<outgoing::Outcome> {
    let socket = end.io.connect(address).await.doing("sender")?;
    let mine = socket.local_addr().doing("sender")?;
    // The receiver's thread says itself why it is gone.
    let _ = to_receiver.send(mine);
    let wire = Wire::new(end, socket)?;
    wire.shake_hands(Role::Sender, None).await?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    outgoing::send(end, &wire, source, (hash, &name), None).await
}

fn receive(
    settings: &Settings,
    target: &Target,
    metrics: Option<&Metrics>,
    to_main: &Sender<Listening>,
    expected: &Receiver<Address>,
) -> Result<Received> {
    let made = End::new("receiver", settings);
    let listening = made.and_then(|end| {
        let listener = end.io.listen("127.0.0.1:0").doing("receiver")?;
        let address = listener.local_addr().doing("receiver")?;
        Ok((end, listener, address))
    });
    let (end, listener) = match listening {
        Ok((end, listener, address)) => {
            metrics.iter().for_each(|metrics| metrics.watch(&end.io));
            let _ = to_main.send(Ok((address, end.io.handle())));
            (end, listener)
        }
        Err(failure) => {
            let _ = to_main.send(Err(failure.clone()));
            return Err(failure);
        }
    };
    let run = async {
        let socket = accept(&listener, expected).await?;
        let wire = Wire::new(&end, socket)?;
        wire.shake_hands(Role::Receiver, None).await?;
        incoming::receive(&end, &wire, target, None, None).await
    };
    let outcome = end.io.block_on(run).doing("receiver")??;
    Ok(Received { outcome, fallbacks: end.fallbacks.clone() })
}

/// Accepts the sender's connection and no other.
async fn accept(listener: &Socket, expected: &Receiver<Address>) -> Result<Socket> {
    let lost = |_| Failure::peer("the sender ended before it connected");
    let sender = expected.recv().map_err(lost)?;
    loop {
        let socket = listener.accept().await.map_err(|refused| refused.error).doing("receiver")?;
        if socket.peer_addr().is_ok_and(|peer| peer == sender) {
            return Ok(socket);
        }
    }
}
