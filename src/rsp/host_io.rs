//! `vFile`: the files that an inferior announces, read-only.
//!
//! Paths come from the client and are only names to look up: no file of the
//! disk is reached by them, only what [`Inferior::open_file`] knows.
//!
//! gdb reads whole files this way, tens of megabytes: what costs a step for each byte
//! (a state machine that is fed byte by byte, as gdbstub's) is felt here.
//!
//! Source: the gdb manual, "File-I/O Remote Protocol Extension" / "Host I/O
//! Packets". Numbers in replies are hexadecimal, `struct stat` is big-endian,
//! errno values are the protocol's own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use gdbstub::target::ext::host_io::HostIoErrno as Errno;

use super::answer::{Answer, split};
use super::frame::{self, Runs, number};
use super::open_files::{LONGEST_READ, Open};
use super::served::Served;
use super::state::State;
use crate::hex;
use crate::inferior::{FileError, Inferior};

/// Longest path that is looked up (PATH_MAX).
const LONGEST_PATH: usize = 4096;
/// The protocol's O_WRONLY, O_RDWR, O_APPEND, O_CREAT, O_TRUNC and O_EXCL. Other flags
/// mean nothing here.
const WRITING: u64 = 0x1 | 0x2 | 0x8 | 0x200 | 0x400 | 0x800;
/// A regular file that all may read.
const MODE: u32 = 0o100_444;
/// Bytes of the protocol's `struct stat`.
const STAT_SIZE: usize = 64;

type Outcome = Result<Answer, Errno>;

/// `Fn`, with nothing behind it.
fn done(n: u64) -> Answer {
    Answer::text(format!("F{n:x}"))
}

/// `Fn;` and the `n` bytes, of which there may be more than fit: these are left out.
/// And how many there are.
fn attachment(data: &[u8], runs: Runs) -> (Answer, usize) {
    let mut escaped = Vec::with_capacity(data.len().min(LONGEST_READ));
    let fits = frame::escape_within(&mut escaped, data, LONGEST_READ, runs);
    let head = format!("F{fits:x};").into_bytes();
    (Answer::Reply([head, escaped].concat()), fits)
}

impl State {
    /// `vFile:OPERATION:ARGUMENTS`
    pub(crate) fn file(&mut self, packet: &[u8]) -> Answer {
        let Some((operation, args)) = split(packet, b':') else { return Answer::empty() };
        let mut fields = args.split(|&b| b == b',');
        let mut next = || fields.next();
        let outcome = match operation {
            b"open" => (|| {
                let (path, flags, _mode) = (hex::decode(next()?)?, number(next()?)?, number(next()?)?);
                Some(self.open(&path, flags))
            })(),
            b"pread" => (|| {
                let (fd, count, offset) = (number(next()?)?, number(next()?)?, number(next()?)?);
                Some(self.pread(fd, count, offset))
            })(),
            b"fstat" => (|| Some(self.fstat(number(next()?)?)))(),
            b"close" => (|| Some(self.files.close(number(next()?)?).map(|()| done(0))))(),
            b"readlink" => (|| Some(self.readlink(&hex::decode(next()?)?)))(),
            b"setfs" => (|| {
                let pid = number(next()?)?;
                self.files.process = (pid != 0).then_some(pid);
                Some(Ok(done(0)))
            })(),
            b"pwrite" | b"unlink" => Some(Err(Errno::EROFS)),
            _ => return Answer::empty(),
        };
        match outcome.unwrap_or(Err(Errno::EINVAL)) {
            Ok(answer) => answer,
            Err(errno) => Answer::text(format!("F-1,{:x}", errno as u32)),
        }
    }

    pub(super) fn path(path: &[u8]) -> Result<&str, Errno> {
        if path.len() > LONGEST_PATH {
            return Err(Errno::ENAMETOOLONG);
        }
        std::str::from_utf8(path).map_err(|_| Errno::ENOENT)
    }

    /// Asks the process of the last `setfs`, the selected one and the main one,
    /// in this order, until one of them knows the name.
    pub(super) fn look_up<T>(
        &self,
        find: impl Fn(&dyn Inferior) -> Result<T, FileError>,
    ) -> Result<T, Errno> {
        let named = self.files.process.and_then(|pid| self.selection.process(pid));
        let selected = self.selection.selected().map(|s| &s.served);
        let mut asked: Vec<&Arc<Served>> = Vec::new();
        let mut denied = false;
        for served in [named, selected, Some(self.selection.main())].into_iter().flatten() {
            if asked.iter().any(|other| Arc::ptr_eq(other, served)) {
                continue;
            }
            asked.push(served);
            match find(served.inferior()) {
                Ok(found) => return Ok(found),
                Err(FileError::Denied) => denied = true,
                Err(FileError::NotFound) => {}
            }
        }
        Err(if denied { Errno::EACCES } else { Errno::ENOENT })
    }

    fn open(&mut self, path: &[u8], flags: u64) -> Outcome {
        if flags & WRITING != 0 {
            return Err(Errno::EROFS);
        }
        let path = Self::path(path)?;
        let took_types = self.client.took_types;
        let file = self.look_up(|inferior| {
            let whole = took_types.then(|| inferior.whole_image(path)).flatten();
            inferior.open_file(whole.as_deref().unwrap_or(path))
        })?;
        self.client.took_types |= self.selection.main().inferior().is_types(path);
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let [a, b, c, d, ..] = hasher.finish().to_ne_bytes();
        let main = self.selection.inferior().and_then(Inferior::exec_file);
        let open = Open::new(file, u32::from_ne_bytes([a, b, c, d]), main.as_deref() == Some(path));
        self.files.insert(open).map(done)
    }

    fn pread(&mut self, fd: u64, count: u64, offset: u64) -> Outcome {
        let open = self.files.at(fd)?;
        let count = open.give(offset, usize::try_from(count).unwrap_or(usize::MAX));
        let data = open.file.read_at(offset, count).map_err(|_| Errno::EIO)?;
        let (answer, fits) =
            attachment(&data, if self.client.gdb { Runs::Shortened } else { Runs::AsTheyAre });
        open.given(offset, fits);
        Ok(answer)
    }

    /// `struct stat` of the protocol: dev, ino, mode, nlink, uid, gid, rdev of 4 bytes; size,
    /// blksize, blocks of 8; atime, mtime, ctime of 4; all of them big-endian.
    fn fstat(&mut self, fd: u64) -> Outcome {
        let device = self.files.device;
        let open = self.files.at(fd)?;
        let size = open.file.len();
        let mut stat = Vec::with_capacity(STAT_SIZE);
        [device, open.inode, MODE, 1, 0, 0, 0].iter().for_each(|n| stat.extend_from_slice(&n.to_be_bytes()));
        [size, 4096, size.div_ceil(512)].iter().for_each(|n| stat.extend_from_slice(&n.to_be_bytes()));
        stat.resize(STAT_SIZE, 0);
        Ok(attachment(&stat, Runs::AsTheyAre).0)
    }

    fn readlink(&self, path: &[u8]) -> Outcome {
        let path = Self::path(path)?;
        let link = self.look_up(|inferior| inferior.read_link(path))?;
        match link.len() {
            0..=LONGEST_PATH => Ok(attachment(link.as_bytes(), Runs::AsTheyAre).0),
            _ => Err(Errno::ENAMETOOLONG),
        }
    }
}
