//! `dataplane send`: a file, a block device or standard input to a waiting `dataplane recv`.

use crate::args::{Sending, Shared};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::pipeline::hash::Algorithm;
use crate::pipeline::protocol::{Code, Role};
use crate::pipeline::source::Source;
use crate::pipeline::token::Token;
use crate::pipeline::wire::Wire;
use crate::pipeline::{End, outgoing};
use crate::report::{Report, Watch};
use crate::signals::Signals;
use dataplane::{ErrorKind, Socket};
use futures_util::future::{Either, select};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Instant;

/// Arguments of `send`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The file, `-` for standard input.
    file: PathBuf,
    /// Where `recv` listens: host:port, 192.0.2.7:9000 or [2001:db8::7]:9000.
    #[arg(long, value_name = "ADDR")]
    to: String,
    /// A secret both ends hold, 16 to 4096 bytes; each proves it without sending it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The hash both ends compute.
    #[arg(long, default_value = "blake3")]
    hash: Algorithm,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    shared: Shared,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let settings = args.shared.settings(Some(&args.sending))?;
    let token = args.token_file.as_deref().map(Token::load).transpose()?;
    let signals = Signals::block()?;
    let metrics = args.shared.metrics()?;
    let end = End::new("sender", &settings)?;
    metrics.iter().for_each(|metrics| metrics.watch(&end.io));
    let watch = std::cell::OnceCell::new();
    let work = async {
        let source = Source::open(&end, &args.file, args.sending.direct).await?;
        let wire = Wire::new(&end, connect(&end, &args.to).await?)?;
        let session = wire.shake_hands(Role::Sender, token.as_ref()).await?;
        watch.get_or_init(Watch::start);
        let name = args.file.file_name().unwrap_or_default().to_string_lossy();
        outgoing::send(&end, &wire, source, (args.hash, &name), session.as_ref()).await
    };
    let sent = signals.drive(&end.io, work)?;
    let mut report = Report::new("send", sent.bytes, watch.get_or_init(Watch::start));
    report.backend = end.io.backend().to_string();
    report.hashed(args.hash, sent.digest, sent.verdict == Code::Good);
    report.stages = sent.stages;
    report.fell_back(end.fallbacks.clone());
    report.print(args.shared.json, false)?;
    match sent.verdict {
        Code::Good => Ok(()),
        Code::Length => Err(differs("length")),
        _ => Err(differs("hash")),
    }
}

fn differs(what: &str) -> Failure {
    let text = format!("send: the receiver counted another {what} and kept nothing; send it again");
    Failure::new(Exit::Mismatch, text)
}

async fn connect(end: &End, to: &str) -> Result<Socket> {
    let stall = end.settings.stall;
    let timer = end.io.sleep_until(Instant::now() + stall).submit();
    let timer = timer.map_err(|refused| refused.error).doing("timer")?;
    let connecting = pin!(end.io.connect(to));
    match select(connecting, timer).await {
        Either::Left((Ok(socket), _)) => Ok(socket),
        Either::Left((Err(error), _)) => {
            let exit = match error.kind() {
                ErrorKind::Refused | ErrorKind::Disconnected => Exit::Peer,
                _ => Exit::System,
            };
            let text = format!("connect to {to}: {error}; is `dataplane recv` listening there?");
            Err(Failure::new(exit, text))
        }
        Either::Right(_) => {
            let seconds = stall.as_secs_f64();
            let text = format!("connect to {to}: no answer for {seconds} s; see address, firewall");
            Err(Failure::peer(text))
        }
    }
}
