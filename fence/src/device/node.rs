//! The files of DRM devices: `/dev/dri/cardN`, which can do everything, and `/dev/dri/renderDN`,
//! which can do what needs no privilege.

use super::error::{FenceError, FenceErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const FOLDER: &str = "/dev/dri";

/// Those whose names begin so, in order.
pub(super) fn all(kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(kind))
        .map(|entry| entry.path())
        .collect();
    nodes.sort();
    nodes
}

pub(super) fn open(path: &Path) -> Result<OwnedFd, FenceError> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
    file.map(OwnedFd::from).map_err(|error| {
        let message = format!("cannot open {}: {error}", path.display());
        FenceError::new("drm device", FenceErrorKind::Refused, message)
            .with_errno(error.raw_os_error().unwrap_or_default())
    })
}
