//! Every question is asked once, with few steps: both sides do their work and check it.

use crate::fixture::Fixture;
use crate::in_pieces;
use crate::questions::{self, Opened, Question};
use std::collections::HashSet;
use std::rc::Rc;

fn ask(topic: &str) {
    let fixture = Rc::new(Fixture::new().unwrap());
    let questions = questions::all();
    let questions: Vec<&Question> = questions.iter().filter(|q| q.is_of(topic)).collect();
    assert!(!questions.is_empty());
    for question in questions {
        match question.open(&fixture).unwrap() {
            Opened::Skipped(reason) => println!("{} skipped: {reason}", question.name),
            Opened::Pair(mut pair) => {
                // Twice, and with more steps than are in flight at once.
                for steps in [1, 20] {
                    let steps = if topic == "stream" { 1 } else { steps };
                    for side in [&mut pair.ours, &mut pair.limit] {
                        in_pieces(side.as_mut(), steps, |side, piece| side.run(piece)).unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn noop() {
    ask("noop");
}

#[test]
fn handoff() {
    ask("handoff");
}

#[test]
fn fence() {
    ask("fence");
}

#[test]
fn echo() {
    ask("echo");
}

#[test]
fn receive() {
    ask("receive");
}

#[test]
fn send() {
    ask("send");
}

#[test]
fn read() {
    ask("read");
}

#[test]
fn stream() {
    ask("stream");
}

#[test]
fn questions_have_names_of_their_own_and_topics() {
    let all = questions::all();
    let names: HashSet<&str> = all.iter().map(|question| question.name.as_str()).collect();
    assert_eq!(names.len(), all.len());
    let count = |wanted: &str| all.iter().filter(|question| question.is_of(wanted)).count();
    assert_eq!((count("noop"), count("noop/depth-1"), count("noop/depth-1/try_take")), (9, 3, 1));
    assert_eq!((count("no"), count("read"), count("stream"), count("nothing")), (0, 4, 2, 0));
    assert_eq!(all.iter().filter(|question| question.demanded == Some(0.9)).count(), 2);
}
