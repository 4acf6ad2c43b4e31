//! `vFile`: the files that an inferior announces, read-only.
//!
//! Paths come from the client and are only names to look up: no file of the
//! disk is reached by them, only what [`Inferior::open_file`] knows.
//!
//! Source: the gdb manual, "File-I/O Remote Protocol Extension" / "Host I/O
//! Packets". Numbers in replies are hexadecimal, `struct stat` is big-endian,
//! errno values are the protocol's own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use gdbstub::target::ext::host_io::{
    FsKind, HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat, HostIoFstatOps,
    HostIoOpen, HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoPread, HostIoPreadOps, HostIoReadlink,
    HostIoReadlinkOps, HostIoResult, HostIoSetfs, HostIoSetfsOps, HostIoStat,
};

use super::answer::{Answer, split};
use super::frame::number;
use super::open_files::{LONGEST_READ, Open};
use super::served::Served;
use super::state::State;
use crate::hex;
use crate::inferior::{FileError, Inferior};

/// Longest path that is looked up (PATH_MAX).
const LONGEST_PATH: usize = 4096;
/// The protocol's O_WRONLY, O_RDWR, O_APPEND, O_CREAT, O_TRUNC and O_EXCL.
const WRITING: u64 = 0x1 | 0x2 | 0x8 | 0x200 | 0x400 | 0x800;

fn refusal(errno: HostIoErrno) -> Answer {
    Answer::text(format!("F-1,{:x}", errno as u32))
}

impl State {
    /// `vFile:OPERATION:ARGUMENTS`
    pub(crate) fn file(&self, packet: &[u8]) -> Answer {
        let Some((operation, args)) = split(packet, b':') else { return Answer::empty() };
        let mut fields = args.split(|&b| b == b',');
        let mut next = || fields.next();
        let passed = match operation {
            b"open" => (|| {
                let (path, flags, _mode) = (hex::decode(next()?)?, number(next()?)?, number(next()?)?);
                Some(match Self::path(&path) {
                    _ if flags & WRITING != 0 => Err(HostIoErrno::EROFS),
                    Err(errno) => Err(errno),
                    // Other flags mean nothing here, and gdbstub knows only some.
                    Ok(path) => Ok(format!("vFile:open:{},0,0", hex::encode(path.as_bytes()))),
                })
            })(),
            b"pread" => (|| {
                let (fd, count, offset) = (number(next()?)?, number(next()?)?, number(next()?)?);
                let fd = u32::try_from(fd).unwrap_or(u32::MAX);
                Some(Ok(format!("vFile:pread:{fd:x},{:x},{offset:x}", count.min(LONGEST_READ as u64))))
            })(),
            b"fstat" | b"close" => (|| {
                let fd = u32::try_from(number(next()?)?).unwrap_or(u32::MAX);
                let operation = if operation == b"fstat" { "fstat" } else { "close" };
                Some(Ok(format!("vFile:{operation}:{fd:x}")))
            })(),
            b"readlink" => (|| {
                let path = hex::decode(next()?)?;
                Some(Self::path(&path).map(|path| format!("vFile:readlink:{}", hex::encode(path.as_bytes()))))
            })(),
            b"setfs" => (|| Some(Ok(format!("vFile:setfs:{:x}", number(next()?)?))))(),
            b"pwrite" | b"unlink" => Some(Err(HostIoErrno::EROFS)),
            _ => return Answer::empty(),
        };
        match passed {
            Some(Ok(packet)) => Answer::pass(
                packet,
                match operation {
                    b"pread" => LONGEST_READ,
                    b"readlink" => LONGEST_PATH,
                    _ => 0,
                },
            ),
            Some(Err(errno)) => refusal(errno),
            None => refusal(HostIoErrno::EINVAL),
        }
    }

    fn path(path: &[u8]) -> Result<&str, HostIoErrno> {
        if path.len() > LONGEST_PATH {
            return Err(HostIoErrno::ENAMETOOLONG);
        }
        std::str::from_utf8(path).map_err(|_| HostIoErrno::ENOENT)
    }

    /// Asks the process of the last `setfs`, the selected one and the main one,
    /// in this order, until one of them knows the name.
    fn look_up<T>(&self, find: impl Fn(&dyn Inferior) -> Result<T, FileError>) -> Result<T, HostIoErrno> {
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
        Err(if denied { HostIoErrno::EACCES } else { HostIoErrno::ENOENT })
    }
}

impl HostIo for State {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_pread(&mut self) -> Option<HostIoPreadOps<'_, Self>> {
        Some(self)
    }

    fn support_fstat(&mut self) -> Option<HostIoFstatOps<'_, Self>> {
        Some(self)
    }

    fn support_readlink(&mut self) -> Option<HostIoReadlinkOps<'_, Self>> {
        Some(self)
    }

    fn support_setfs(&mut self) -> Option<HostIoSetfsOps<'_, Self>> {
        Some(self)
    }
}

impl HostIoOpen for State {
    fn open(
        &mut self,
        name: &[u8],
        _flags: HostIoOpenFlags,
        _mode: HostIoOpenMode,
    ) -> HostIoResult<u32, Self> {
        let path = Self::path(name).map_err(HostIoError::Errno)?;
        let file = self.look_up(|inferior| inferior.open_file(path)).map_err(HostIoError::Errno)?;
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let [a, b, c, d, ..] = hasher.finish().to_ne_bytes();
        let main = self.selection.inferior().and_then(Inferior::exec_file);
        let open = Open::new(file, u32::from_ne_bytes([a, b, c, d]), main.as_deref() == Some(path));
        self.files.insert(open).map_err(HostIoError::Errno)
    }
}

impl HostIoClose for State {
    fn close(&mut self, fd: u32) -> HostIoResult<(), Self> {
        self.files.close(fd).map_err(HostIoError::Errno)
    }
}

impl HostIoPread for State {
    fn pread(&mut self, fd: u32, count: usize, offset: u64, buf: &mut [u8]) -> HostIoResult<usize, Self> {
        let open = self.files.at(fd).map_err(HostIoError::Errno)?;
        let count = open.give(offset, count).min(buf.len());
        let data = open.file.read_at(offset, count).map_err(|_| HostIoError::Errno(HostIoErrno::EIO))?;
        buf.iter_mut().zip(&data).for_each(|(to, from)| *to = *from);
        Ok(open.given(offset, &data))
    }
}

impl HostIoFstat for State {
    fn fstat(&mut self, fd: u32) -> HostIoResult<HostIoStat, Self> {
        let device = self.files.device;
        let open = self.files.at(fd).map_err(HostIoError::Errno)?;
        let size = open.file.len();
        let readable = HostIoOpenMode::S_IRUSR | HostIoOpenMode::S_IRGRP | HostIoOpenMode::S_IROTH;
        Ok(HostIoStat {
            st_dev: device,
            st_ino: open.inode,
            st_mode: HostIoOpenMode::S_IFREG | readable,
            st_nlink: 1,
            st_uid: 0,
            st_gid: 0,
            st_rdev: 0,
            st_size: size,
            st_blksize: 4096,
            st_blocks: size.div_ceil(512),
            st_atime: 0,
            st_mtime: 0,
            st_ctime: 0,
        })
    }
}

impl HostIoReadlink for State {
    fn readlink(&mut self, name: &[u8], buf: &mut [u8]) -> HostIoResult<usize, Self> {
        let path = Self::path(name).map_err(HostIoError::Errno)?;
        let link = self.look_up(|inferior| inferior.read_link(path)).map_err(HostIoError::Errno)?;
        let too_long = HostIoError::Errno(HostIoErrno::ENAMETOOLONG);
        if link.len() > LONGEST_PATH {
            return Err(too_long);
        }
        let Some(to) = buf.get_mut(..link.len()) else { return Err(too_long) };
        to.copy_from_slice(link.as_bytes());
        Ok(link.len())
    }
}

impl HostIoSetfs for State {
    fn setfs(&mut self, fs: FsKind) -> HostIoResult<(), Self> {
        self.files.process = match fs {
            FsKind::Stub => None,
            FsKind::Pid(pid) => u64::try_from(pid.get()).ok(),
        };
        Ok(())
    }
}
