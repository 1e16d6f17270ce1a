//! What the built binary asks of the machine it runs on.

use std::process::Command;

/// Parts of the C library itself.
const LIBC: [&str; 7] =
    ["linux-vdso.so", "libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "ld-linux"];

#[test]
fn needs_no_shared_library_beyond_libc() {
    let output = match Command::new("ldd").arg(env!("CARGO_BIN_EXE_dataplane")).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: ldd cannot be run here: {error}");
            return;
        }
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let needed: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(!needed.is_empty());
    let foreign: Vec<_> =
        needed.iter().filter(|line| !LIBC.iter().any(|part| line.contains(part))).collect();
    assert!(foreign.is_empty(), "the binary also needs {foreign:?}");
}
