//! Several threads share the work of one ring.
//!
//! A context is an executor that any number of threads may run. One thread of its own, the driver,
//! owns the ring; the runners execute what is ready and submit through it. This program starts a
//! server and its clients as tasks of one context, lets three threads run them, has one of the
//! threads leave in the middle, and shows that nobody misses it.
//!
//! Run it with `cargo run -p dataplane --example context_pool`. It ends by itself; everything it
//! says is checked.

use dataplane::regions::Slab;
use dataplane::{Context, ContextHandle, Handle, Options, Result, Socket};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
const MESSAGES: usize = 20;
const MESSAGE_BYTES: usize = 256;

/// Answers one connection until its client is done. Whichever runner is free polls it next, so it
/// may move from thread to thread at every `await`; what it holds is `Send`.
async fn serve(socket: Socket<Handle>, slab: Slab, seen: Seen) -> Result<usize> {
    let mut answered = 0;
    loop {
        let message = socket.recv_all(slab.lease()?).await?;
        if message.is_empty() {
            return Ok(answered);
        }
        seen.here();
        socket.send_all(message.freeze()).await?;
        answered += 1;
    }
}

/// Sends messages and checks that each comes back as it was.
async fn ask(driver: Handle, to: dataplane::Address, slab: Slab, number: usize) -> Result<usize> {
    let socket = driver.connect(to).await?;
    for round in 0..MESSAGES {
        let mut message = slab.lease()?;
        message.fill((number * MESSAGES + round) as u8);
        let sent = message.to_vec();
        socket.send_all(message.freeze()).await?;
        let answer = socket.recv_all(slab.lease()?).await?;
        assert!(answer[..] == sent, "message {round} of client {number} came back as another");
    }
    socket.finish().await?;
    Ok(MESSAGES)
}

/// The server and its clients.
struct Party {
    /// Tasks reach their context by a handle, which does not keep it alive.
    spawner: ContextHandle,
    slab: Slab,
    seen: Seen,
}

impl Party {
    /// Starts the clients, accepts as many connections, serves each by a task of its own. Messages
    /// asked and messages answered.
    async fn run(self) -> Result<(usize, usize)> {
        let driver = self.spawner.driver();
        let listener = driver.listen("127.0.0.1:0").await?;
        let to = listener.local_addr().await?;
        println!("listening on {to}");
        let start = |number| {
            let client = ask(driver.clone(), to.clone(), self.slab.clone(), number);
            self.spawner.spawn(client)
        };
        let clients: Vec<_> = (0..CLIENTS).map(start).collect();
        let mut servers = Vec::new();
        for _ in 0..CLIENTS {
            let connection = serve(listener.accept().await?, self.slab.clone(), self.seen.clone());
            servers.push(self.spawner.spawn(connection));
        }
        let (mut asked, mut answered) = (0, 0);
        for client in clients {
            asked += client.await??;
        }
        for server in servers {
            answered += server.await??;
        }
        Ok((asked, answered))
    }
}

/// Which threads did some of the work.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, usize>>>);

impl Seen {
    fn here(&self) {
        let id: ThreadId = std::thread::current().id();
        let mut seen = self.0.lock().expect("nobody panics with it");
        *seen.entry(format!("{id:?}")).or_default() += 1;
    }
}

/// Runs it.
///
/// # Errors
///
/// What the machine refuses: descriptors, memory, loopback.
pub fn main() -> Result<()> {
    // The driver starts with the context and ends with its last owner.
    let context = Context::start(Options::default().name("driver"))?;
    let driver = context.driver();
    println!("driver: {driver:?}");

    // A guard is work: without it the runners below would leave before the first task is spawned.
    let work = context.work();
    let seen = Seen::default();
    let runners: Vec<_> = (0..2)
        .map(|_| {
            let context = context.clone();
            std::thread::spawn(move || context.run())
        })
        .collect();

    // One more runner, which helps with thirty handlers and goes its way. What it was in the middle
    // of belongs to the context: the operations are the driver's, the tasks anybody's.
    let guest = context.clone();
    let guest = std::thread::spawn(move || -> Result<usize> {
        let (mut ran, end) = (0, Instant::now() + Duration::from_secs(5));
        while ran < 30 && !guest.stopped() && Instant::now() < end {
            ran += guest.wait_one(end)?;
        }
        Ok(ran)
    });

    let slab = Slab::new(4 * CLIENTS, MESSAGE_BYTES)?;
    let party = Party { spawner: context.handle(), slab: slab.clone(), seen: seen.clone() };
    let mut whole = context.spawn(party.run());

    // From here on the tasks are the only work. When the last has ended the context is stopped and
    // every runner returns.
    drop(work);
    let guest = guest.join().expect("the guest does not panic")?;
    let mut ran = Vec::new();
    for runner in runners {
        ran.push(runner.join().expect("a runner does not panic")?);
    }
    let told = whole.try_take().expect("the context ran out of work, so it has ended");
    let (asked, answered) = told??;
    assert!(context.stopped());
    assert_eq!((asked, answered), (CLIENTS * MESSAGES, CLIENTS * MESSAGES));
    assert_eq!(slab.available(), 4 * CLIENTS, "every buffer came back");
    println!("{answered} messages answered, over {CLIENTS} connections");
    println!("turns: {ran:?} by those who stayed, {guest} by the guest");
    for (thread, messages) in seen.0.lock().expect("nobody panics with it").iter() {
        println!("  {thread} read {messages} of them");
    }
    Ok(())
}
