//! Where bytes go: nowhere, standard output, or a file that appears only when it is whole.
//!
//! A file is written under a temporary name beside its target, made durable, and renamed when the
//! hash agrees; until then, and after every failure, the target is as it was. The temporary name
//! begins with a dot and ends in `.part`; it goes when its [`Sink`] goes. What is written to
//! standard output has gone out before the hash is known: there the exit code tells.

use super::{End, failed};
use crate::failure::{Doing, Exit, Failure, Result};
use dataplane::operations::Write;
use dataplane::{File, OpenOptions, Submission};
use regions::Span;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Where to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    Discard,
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl Target {
    /// `-` is standard output.
    pub fn of(path: &Path) -> Target {
        match path == Path::new("-") {
            true => Target::Stdout,
            false => Target::File(path.to_owned()),
        }
    }
}

/// A target being written.
pub enum Sink {
    /// Dropped after the hash.
    Discard,
    /// A descriptor written in order.
    Stdout(File),
    /// A file under its temporary name.
    File(Partial),
}

/// A file under its temporary name; dropping it removes that.
pub struct Partial {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    whole: bool,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.whole {
            // Gone already, or not ours to remove any more: nothing is left to do about it.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Where a file will stand: through a symbolic link, and only over a regular file.
pub fn check_target(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let refuse = |text: String| Err(Failure::new(Exit::System, text));
    if path.file_name().is_none() {
        return refuse(format!("write {shown}: that names no file"));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            refuse(format!("write {shown}: it is a directory; name the file to write"))
        }
        Ok(found) if !found.is_file() => refuse(format!(
            "write {shown}: it is no regular file and would be replaced; use `-` and redirect"
        )),
        Ok(_) => std::fs::canonicalize(path).doing(format_args!("write {shown}")),
        Err(_) if !folder_of(path).is_dir() => {
            refuse(format!("write {shown}: there is no folder {}", folder_of(path).display()))
        }
        Err(_) => Ok(path.to_owned()),
    }
}

impl Sink {
    /// Opens a target for one transfer.
    pub async fn open(end: &End, target: &Target) -> Result<Sink> {
        match target {
            Target::Discard => Ok(Sink::Discard),
            Target::Stdout => {
                let stdout = std::io::stdout();
                let own = stdout.as_fd().try_clone_to_owned().doing("standard output")?;
                Ok(Sink::Stdout(end.io.adopt_file(own).doing("standard output")?))
            }
            Target::File(path) => Sink::partial(end, check_target(path)?).await,
        }
    }

    async fn partial(end: &End, target: PathBuf) -> Result<Sink> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).doing("a random file name")?;
        let mut name = std::ffi::OsString::from(".");
        // A name of its own full length would not fit; the random part is what makes it unique.
        let stem = target.file_name().unwrap_or_default();
        if stem.len() <= 200 {
            name.push(stem);
        }
        name.push(format!(".{:016x}.part", u64::from_le_bytes(random)));
        let temporary = folder_of(&target).join(name);
        let options = OpenOptions::write().create(0o644).new();
        let opening = end.io.open(&temporary, options).doing("write")?;
        let file = opening.await.map_err(|refused| Failure::system("write", refused.error))?;
        let partial = Partial { file, temporary, target, whole: false };
        // A table that is full or missing costs a look-up per operation and nothing else.
        let _ = partial.file.register();
        Ok(Sink::File(partial))
    }

    /// Starts writing a span; None when nothing is to be written.
    pub fn write(&self, span: Span, offset: u64) -> Result<Option<Submission<Write>>> {
        let request = match self {
            Sink::Discard => return Ok(None),
            Sink::Stdout(file) => file.write(span),
            Sink::File(partial) => partial.file.write_at(span, offset),
        };
        let submitted = request.submit().map_err(|refused| self.failed(&refused.error))?;
        Ok(Some(submitted))
    }

    /// Names the target in a failure.
    pub fn failed(&self, error: &dataplane::Error) -> Failure {
        match self {
            Sink::Discard => failed("write", error),
            // The reader of a pipe is no peer of the protocol.
            Sink::Stdout(_) => Failure::system("write to standard output", error),
            Sink::File(partial) => {
                let shown = partial.target.display();
                Failure::system(format_args!("write {shown} (nothing is left of it)"), error)
            }
        }
    }

    /// Makes the file durable under its temporary name.
    pub async fn sync(&self) -> Result<()> {
        match self {
            Sink::Discard | Sink::Stdout(_) => Ok(()),
            Sink::File(partial) => {
                partial.file.sync().await.map_err(|refused| self.failed(&refused.error))
            }
        }
    }

    /// Gives the file its name, and makes that durable.
    pub fn commit(self) -> Result<()> {
        let Sink::File(mut partial) = self else { return Ok(()) };
        let doing = format!("write {}", partial.target.display());
        std::fs::rename(&partial.temporary, &partial.target).doing(&doing)?;
        partial.whole = true;
        let folder = std::fs::File::open(folder_of(&partial.target)).doing(&doing)?;
        folder.sync_all().doing(&doing)
    }
}
