//! Links the unwinder into the tool, so that the binary needs no shared library beyond libc's own.
//!
//! Rust's standard library asks for the shared libgcc_s, which small images lack. The C compiler
//! that links Rust programs brings the same code as an archive; a linker script by the shared
//! library's name, in a folder that is searched first, points there. Where the archive cannot be
//! found nothing is changed, and the tool needs libgcc_s as any Rust program does.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn archive(name: &str) -> Option<PathBuf> {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".into());
    let output = Command::new(linker).arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    // A compiler that does not have it answers with the bare name.
    (path.is_absolute() && path.exists()).then_some(path)
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    let is_native = env::var("HOST").ok() == env::var("TARGET").ok();
    if !is_gnu || !is_native {
        return;
    }
    let (Some(unwinder), Some(support)) = (archive("libgcc_eh.a"), archive("libgcc.a")) else {
        return;
    };
    let Some(folder) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    let script = format!("INPUT({} {})\n", unwinder.display(), support.display());
    if fs::write(folder.join("libgcc_s.so"), script).is_ok() {
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
}
