//! Temporary files without names.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::archive::TempFiles;

/// Files in a directory that nobody else can open and that no crash leaves behind (`O_TMPFILE`,
/// Linux 3.11; overlayfs since 6.3).
#[derive(Debug, Clone)]
pub struct AnonymousFiles {
    pub directory: PathBuf,
}

impl TempFiles for AnonymousFiles {
    fn create(&self) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&self.directory, flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(file.into()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let name = format!(
                    ".layercake-{}-{:?}",
                    std::process::id(),
                    std::thread::current().id()
                );
                let path = self.directory.join(name);
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = rustix::fs::open(&path, flags, mode)?;
                rustix::fs::unlink(&path)?;
                Ok(file.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}
