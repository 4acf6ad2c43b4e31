//! The files that one client holds open.

use gdbstub::target::ext::host_io::HostIoErrno as Errno;

use super::frame::PACKET_SIZE;
use crate::image::files::VirtualFile;

/// Files that one client may hold open. gdb keeps each image and debug file open
/// as long as it has its symbols: two for each module, and kernels have hundreds.
const OPEN_FILES: usize = 4096;
/// Most bytes of one read: with `F`, the count and `;` they fill a packet.
pub(crate) const LONGEST_READ: usize = PACKET_SIZE - 16;
/// Bytes of a read that leaps. gdb goes through the tables of a library backwards, so that
/// what follows is not used: of 500 libraries this took less processor time of both than
/// 512 bytes (more packets), 4 KiB and all that follows (more bytes).
const FIRST_READ: usize = 2 << 10;
/// A file of no more than this many bytes is given whole at first: both ends of it are read
/// before gdb goes on to the next file, and it keeps what one reply held.
const SMALL_FILE: u64 = 48 << 10;

/// Where the last read of a file ended that was not read yet.
const UNREAD: u64 = u64::MAX;

pub(crate) struct Open {
    pub(crate) file: VirtualFile,
    pub(crate) inode: u32,
    /// It is the main image.
    is_main: bool,
    /// Where the last read ended, and how much the next one gets if it goes on
    /// from there.
    next: u64,
    window: usize,
}

impl Open {
    pub(crate) fn new(file: VirtualFile, inode: u32, is_main: bool) -> Self {
        Self { file, inode, is_main, next: UNREAD, window: FIRST_READ }
    }

    /// How many of `count` bytes to give. gdb asks for a whole packet, however
    /// little it needs, and reads ELF files by leaps: a read that does not go on
    /// where the last one ended gets a short answer, and one that does gets more
    /// each time.
    pub(crate) fn give(&mut self, offset: u64, count: usize) -> usize {
        self.window = match self.file.len() {
            0..=SMALL_FILE if self.next == UNREAD => LONGEST_READ,
            _ if offset == self.next => (4 * self.window).min(LONGEST_READ),
            _ => FIRST_READ,
        };
        count.min(self.window)
    }

    /// So many of the bytes at `offset` went out: a short read is in order, a reply
    /// beyond the packet size is not.
    pub(crate) fn given(&mut self, offset: u64, count: usize) {
        self.next = offset.saturating_add(count as u64);
    }
}

/// One client's open files.
pub(crate) struct Files {
    open: Vec<Option<Open>>,
    /// Whose files are meant: the process of the last `vFile:setfs`.
    pub(crate) process: Option<u64>,
    /// Differs between servers: gdb takes a file of the same name, size and
    /// device for the one that it has loaded, and two dumps of one kernel have
    /// images that differ only in their addresses.
    pub(crate) device: u32,
}

impl Files {
    pub(crate) fn new(device: u32) -> Self {
        Self { open: Vec::new(), process: None, device }
    }

    /// Whether the client has the main image open, as gdb has while it has its symbols.
    pub(crate) fn has_main(&self) -> bool {
        self.open.iter().flatten().any(|open| open.is_main)
    }

    pub(crate) fn at(&mut self, fd: u64) -> Result<&mut Open, Errno> {
        let place = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.open.get_mut(place).and_then(Option::as_mut).ok_or(Errno::EBADF)
    }

    pub(crate) fn insert(&mut self, open: Open) -> Result<u64, Errno> {
        let place = match self.open.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.open.len() < OPEN_FILES => {
                self.open.push(None);
                self.open.len() - 1
            }
            None => return Err(Errno::EMFILE),
        };
        let slot = self.open.get_mut(place).ok_or(Errno::EMFILE)?;
        *slot = Some(open);
        Ok(place as u64)
    }

    pub(crate) fn close(&mut self, fd: u64) -> Result<(), Errno> {
        let slot = usize::try_from(fd).ok().and_then(|place| self.open.get_mut(place));
        slot.and_then(Option::take).map(drop).ok_or(Errno::EBADF)
    }
}
