//! `dataplane recv`: waits for `dataplane send` and writes what it brings.
//!
//! One connection is served at a time, others wait in the listen queue. A peer has `--timeout`
//! for each record and for each stretch without data, so that one that does nothing is gone soon;
//! on other addresses than loopback it must know the token before anything it says counts.

use crate::args::Shared;
use crate::failure::{Doing, Exit, Failure, Result};
use crate::pipeline::hash::Algorithm;
use crate::pipeline::protocol::{Code, Role};
use crate::pipeline::sink::{Target, check_target};
use crate::pipeline::token::Token;
use crate::pipeline::wire::Wire;
use crate::pipeline::{End, incoming};
use crate::report::{Report, Watch, say};
use crate::signals::Signals;
use dataplane::Socket;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Arguments of `recv`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where to listen. Any address but loopback needs --token-file. Port 0: one that is free,
    /// named on standard error.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
    /// Where to write, `-` for standard output. A file appears when its hash agrees, not before.
    #[arg(long, value_name = "PATH")]
    into: PathBuf,
    /// A secret both ends hold, 16 to 4096 bytes; each proves it without sending it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Go on with the next sender after this one, and after failures.
    #[arg(long)]
    keep: bool,
    /// Take no other hash than this.
    #[arg(long)]
    hash: Option<Algorithm>,
    #[command(flatten)]
    shared: Shared,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let settings = args.shared.settings(None)?;
    let token = args.token_file.as_deref().map(Token::load).transpose()?;
    let target = Target::of(&args.into);
    if let Target::File(path) = &target {
        check_target(path)?;
    }
    let signals = Signals::block()?;
    let metrics = args.shared.metrics()?;
    let end = End::new("receiver", &settings)?;
    metrics.iter().for_each(|metrics| metrics.watch(&end.io));
    signals.drive(&end.io, serve(args, &end, &target, token.as_ref()))
}

/// The address to listen on; a name is resolved.
async fn address(end: &End, text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let usage = |error: &dyn std::fmt::Display| {
        let text = format!("--listen {text}: {error}; write IP:PORT, [IPv6]:PORT or name:PORT");
        Failure::new(Exit::Usage, text)
    };
    let found = end.io.resolve(text).await.map_err(|refused| usage(&refused.error))?;
    found.into_iter().next().ok_or_else(|| usage(&"the name has no address"))
}

fn listen(end: &End, at: SocketAddr, has_token: bool, json: bool) -> Result<Socket> {
    let is_loopback = at.ip().to_canonical().is_loopback();
    if !is_loopback && !has_token {
        let text = format!(
            "--listen {at}: other hosts reach this address, so --token-file is needed (the same \
             file on both ends); or listen on 127.0.0.1 or [::1]"
        );
        return Err(Failure::new(Exit::Token, text));
    }
    let listener = end.io.listen(at).doing("recv")?;
    let bound = listener.local_addr().doing("recv")?;
    match json {
        true => say(serde_json::json!({ "listening": bound.to_string() })),
        false => say(format_args!("listening on {bound}")),
    }
    if !is_loopback {
        say("note: the bytes themselves are not encrypted; use a tunnel where others can listen");
    }
    Ok(listener)
}

async fn serve(args: &Args, end: &End, target: &Target, token: Option<&Token>) -> Result<()> {
    let at = address(end, &args.listen).await?;
    let listener = listen(end, at, token.is_some(), args.shared.json)?;
    loop {
        let accepted = listener.accept().await.map_err(|refused| refused.error);
        let socket = accepted.doing("recv")?;
        let served = one(args, end, target, token, socket).await;
        match (served, args.keep) {
            (served, false) => return served,
            (Ok(()), true) => {}
            (Err(failure), true) => say(format_args!("dataplane: {failure}")),
        }
    }
}

async fn one(
    args: &Args,
    end: &End,
    target: &Target,
    token: Option<&Token>,
    socket: Socket,
) -> Result<()> {
    let wire = Wire::new(end, socket)?;
    let session = wire.shake_hands(Role::Receiver, token).await?;
    let watch = Watch::start();
    let got = incoming::receive(end, &wire, target, args.hash, session.as_ref()).await?;
    let mut report = Report::new("recv", got.bytes, &watch);
    report.backend = end.io.backend().to_string();
    report.hashed(got.algorithm, got.digest, got.verdict == Code::Good);
    report.stages = got.stages;
    report.fell_back(end.fallbacks.clone());
    report.print(args.shared.json, *target == Target::Stdout)?;
    let what = match got.verdict {
        Code::Good => return Ok(()),
        Code::Length => "length",
        _ => "hash",
    };
    let text = format!("{}: sent data whose {what} does not agree; nothing was kept", wire.peer);
    Err(Failure::new(Exit::Mismatch, text))
}
