//! Two loops on two threads that tell each other numbers.
//!
//! A message is 64 bits: it needs no memory and no descriptor, and goes to the handler of another
//! proactor from any thread, in order per sender. Here one loop asks, another answers. The asker
//! sends as an operation, which is awaited, takes part in batches and sequences, and says whether
//! the target took it; the answerer sends from inside its handler, at once. A full queue is an
//! error and no loss. Run it with `cargo run -p dataplane --example two_proactors`.

use dataplane::{Handle, MessageError, Options, Proactor, ProactorThread, Result, Wait};
use std::cell::RefCell;
use std::rc::Rc;

const QUESTIONS: u64 = 100;

/// The set-up of the answering loop, on its own thread: a handler that answers each number by its
/// square. It holds a handle, not a proactor, of the asker; that may end first.
fn answer_with_squares(io: &Proactor, asker: Handle) -> Result<()> {
    io.on_message(move |number| match asker.message(number * number) {
        Ok(()) | Err(MessageError::ShutDown) => {}
        // The asker never has more than its queue holds under way.
        Err(refused) => panic!("{refused}"),
    })
}

/// Asks everything, each question as an operation of this thread's loop.
async fn ask(io: &Proactor, answerer: &Handle) -> Result<()> {
    for number in 0..QUESTIONS {
        io.send_message(answerer, number).await?;
    }
    Ok(())
}

/// Fills the queue of a loop that does not poll, and shows that a later try goes through. How many
/// messages it held.
fn fill_a_queue() -> Result<u64> {
    let io = Proactor::with(Options::default().messages(1))?;
    let handle = io.handle();
    let mut sent = 0;
    while handle.message(sent).is_ok() {
        sent += 1;
    }
    assert_eq!(handle.message(sent), Err(MessageError::Exhausted));
    // Nobody handles them here, so that this poll counts them and makes room.
    io.poll(Wait::Now)?;
    handle.message(sent)?;
    io.poll(Wait::Now)?;
    assert_eq!(io.stats().unhandled_messages, sent + 1);
    Ok(sent)
}

/// Runs it.
///
/// # Errors
///
/// What the machine refuses: threads, descriptors.
pub fn main() -> Result<()> {
    let io = Proactor::with(Options::default().name("asker"))?;
    let answers = Rc::new(RefCell::new(Vec::new()));
    let heard = answers.clone();
    io.on_message(move |square| heard.borrow_mut().push(square))?;

    let asker = io.handle();
    let answerer = ProactorThread::start_with(Options::default().name("answerer"), move |io| {
        answer_with_squares(io, asker)
    })?;
    io.block_on(ask(&io, &answerer.handle()))??;
    while answers.borrow().len() < QUESTIONS as usize {
        io.poll(Wait::Forever)?;
    }

    let squares: Vec<u64> = (0..QUESTIONS).map(|number| number * number).collect();
    assert_eq!(*answers.borrow(), squares, "messages of one sender arrive in order");
    let gone = answerer.handle();
    answerer.join()?;
    assert_eq!(gone.message(1), Err(MessageError::ShutDown));

    let held = fill_a_queue()?;
    println!("{QUESTIONS} questions and as many answers between two loops on {}", io.backend());
    println!("a queue of {held} refused one more, and took it when it was empty");
    Ok(())
}
