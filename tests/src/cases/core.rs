//! The loop itself: completion in its three forms, counters, dumps.

use crate::{Case, Cx, Skip};
use dataplane::ErrorKind;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "core/nop_future", needs: &[], run: nop_future },
    Case { name: "core/nop_callback", needs: &[], run: nop_callback },
    Case { name: "core/nop_try_take", needs: &[], run: nop_try_take },
];

/// Fails on purpose: what does not report it as failed is no runner. Not part of a normal run.
pub const CANARY: Case = Case { name: "core/canary_must_fail", needs: &[], run: canary };

fn canary(cx: &Cx<'_>) -> Result<(), Skip> {
    let ended = cx.block_on(cx.io.nop()).map_err(|failed| failed.kind());
    assert_eq!(ended, Err(ErrorKind::DataLoss), "this case is meant to fail");
    Ok(())
}

fn nop_future(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.block_on(cx.io.nop()).expect("a no-op succeeds");
    Ok(())
}

fn nop_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let ran = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = ran.clone();
    let submitted = cx.io.nop().on_complete(move |ended| {
        assert!(ended.is_ok());
        count.set(count.get() + 1);
    });
    submitted.expect("room for a no-op");
    assert_eq!(ran.get(), 0, "not before a poll");
    cx.poll_until("the callback", || ran.get() > 0);
    assert_eq!(ran.get(), 1);
    Ok(())
}

fn nop_try_take(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut submission = cx.io.nop().submit().expect("room for a no-op");
    assert!(submission.try_take().is_none(), "not before a poll");
    let mut taken = None;
    cx.poll_until("the result", || {
        taken = submission.try_take();
        taken.is_some()
    });
    assert!(taken.is_some_and(|ended| ended.is_ok()));
    assert!(submission.try_take().is_none(), "a result is taken once");
    Ok(())
}
