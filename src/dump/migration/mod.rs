//! QEMU's migration streams: `migrate file:` and `exec:`, `virsh save`, `virsh dump` without
//! `--memory-only`.
//!
//! ```text
//!  "QEVM", u32 version 3
//!  07  configuration: the machine's name, subsections (05): capabilities, ...
//!  01  a section starts: u32 id, name, u32 instance, u32 version, data        memory ("ram")
//!  02  a further part of it: u32 id, data            03  its last part
//!  04  a section as a whole: as 01                                              devices, CPUs
//!  08  a command: u16 kind, u16 length, data         7e  end of a section: u32 id
//!  00  end;  06  description of all devices: u32 length, JSON
//! ```
//!
//! All numbers are big-endian, names have one byte of length before them. Source: QEMU
//! `migration/savevm.c`, `docs/devel/migration`, `scripts/analyze-migration.py`. [`ram`] is
//! where each page stands; what a device's section holds is only known by the description
//! at the end ([`devices`]), which is where the registers of the CPUs are from.
//!
//! `virsh save` puts a header before it (libvirt `src/qemu/qemu_saveimage.h`), and may
//! compress what follows.

use std::sync::Arc;

use super::notes::Notes;
use super::{Form, Memory, PhysicalMemory};
use crate::addr::PhysAddr;
use crate::bytes::packed::{self, Unpack};
use crate::bytes::source::{Source, Tail};
use crate::bytes::u32_at;
use crate::error::{Error, ReadFault, Result};

mod devices;
mod ram;
mod stream;

use devices::Description;
use ram::Ram;
use stream::Stream;

const LIBVIRT: &[u8] = b"LibvirtQemudSave";
const LIBVIRT_HEADER: u64 = 92;
/// What libvirt writes before it has written all.
const LIBVIRT_PART: &[u8] = b"LibvirtQemudPart";
const QEVM: &[u8] = b"QEVM\0\0\0\x03";

/// A migration stream.
pub(super) struct Migration {
    source: Arc<dyn Source>,
    ram: Ram,
    machine: String,
    notes: Notes,
    by_libvirt: bool,
    /// Where it breaks off.
    broken: Option<String>,
}

/// Whether `head` begins like one.
pub(super) fn is_migration(head: &[u8]) -> bool {
    head.starts_with(b"QEVM") || head.starts_with(LIBVIRT) || head.starts_with(LIBVIRT_PART)
}

impl Migration {
    /// Finds all pages in `source`.
    pub(super) fn open(source: Arc<dyn Source>, how: &Unpack) -> Result<Self> {
        let head = source.bytes_up_to(0, 40).map_err(|e| Error::io("read", source.path(), e))?.into_owned();
        if head.starts_with(b"QEVM") {
            return Self::read(source, 0, false);
        }
        let path = source.path().to_owned();
        let bad = |offset, wanted, found| Error::Malformed {
            path: path.clone(),
            format: "libvirt save",
            offset,
            wanted,
            found,
        };
        let word = |at| u32_at(&head, at);
        let (Some(version), Some(len), Some(packing)) = (word(16), word(20), word(28)) else {
            return Err(bad(0, "a header of 92 bytes", format!("{} bytes", head.len())));
        };
        if !(1..=3).contains(&version) {
            return Err(bad(16, "version 1 to 3", version.to_string()));
        }
        let start = LIBVIRT_HEADER + u64::from(len);
        if packing == 4 {
            let what = "a libvirt save in lzop".to_owned();
            return Err(Error::Unsupported {
                path,
                what,
                hint: "tail -c +N FILE | lzop -d, with N behind the XML",
            });
        }
        let inner: Arc<dyn Source> = Arc::new(Tail::new(Arc::clone(&source), start));
        let mark = inner.bytes_up_to(0, 16).map_err(|e| Error::io("read", source.path(), e))?.into_owned();
        match mark.starts_with(b"QEVM") {
            // Where pages are said to be is counted from the front of the file.
            true => Self::read(source, start, true),
            false => Self::read(packed::unwrap(inner, how)?, 0, true),
        }
    }

    fn read(source: Arc<dyn Source>, start: u64, by_libvirt: bool) -> Result<Self> {
        let path = source.path().to_owned();
        let mut stream = Stream::new(&*source, start);
        let magic = stream.take(8).unwrap_or_default();
        if magic != QEVM {
            let found = magic.escape_ascii().to_string();
            let wanted = "a migration stream: `QEVM` and version 3";
            return Err(Error::Malformed { path, format: "migration stream", offset: start, wanted, found });
        }
        let mut description = Description::find(&*source);
        let mut found =
            Found { ram: Ram::default(), machine: String::new(), ram_section: None, notes: Notes::default() };
        let end = found.walk(&mut stream, description.as_mut());
        let at = stream.at();
        let Found { mut ram, machine, notes, .. } = found;
        if ram.is_empty() {
            return Err(Error::Malformed {
                path,
                format: "migration stream",
                offset: at,
                wanted: "a section `ram` with blocks of memory",
                found: "none".to_owned(),
            });
        }
        ram.lay_out(&machine);
        if let Some(why) = ram.refused() {
            return Err(Error::Unsupported {
                path,
                what: why.to_owned(),
                hint: "virsh dump --memory-only makes an ELF dump",
            });
        }
        let broken = match end {
            Some(()) => None,
            None if ram.is_whole() => {
                tracing::info!(
                    "{}: what follows memory at {at:#x} is not understood: no registers",
                    path.display()
                );
                None
            }
            None => Some(format!("{} breaks off at {at:#x} within its memory", path.display())),
        };
        Ok(Self { source, ram, machine, notes, by_libvirt, broken })
    }
}

/// What the walk gathers.
struct Found {
    ram: Ram,
    machine: String,
    ram_section: Option<u32>,
    notes: Notes,
}

impl Found {
    /// Goes through the sections; `None` where it cannot go on.
    fn walk(&mut self, stream: &mut Stream<'_>, mut description: Option<&mut Description>) -> Option<()> {
        loop {
            match stream.u8()? {
                0 => return Some(()),
                1 | 4 => {
                    let id = stream.u32()?;
                    let name = stream.name()?;
                    let (instance, _version) = (stream.u32()?, stream.u32()?);
                    if name == "ram" {
                        self.ram_section = Some(id);
                        self.ram.read_part(stream)?;
                    } else {
                        let is_cpu = name == "cpu";
                        let device = description.as_mut()?.take(name, instance)?;
                        let at = stream.at();
                        stream.skip(device.len()?)?;
                        if is_cpu {
                            device.cpu(stream.source(), at, instance, &mut self.notes);
                        }
                    }
                }
                2 | 3 => {
                    (Some(stream.u32()?) == self.ram_section).then_some(())?;
                    self.ram.read_part(stream)?;
                }
                7 => self.configuration(stream)?,
                8 => {
                    let (_kind, len) = (stream.u16()?, stream.u16()?);
                    stream.skip(len.into())?;
                }
                0x7e => drop(stream.u32()?),
                _ => return None,
            }
        }
    }

    fn configuration(&mut self, stream: &mut Stream<'_>) -> Option<()> {
        let len = stream.u32()?;
        self.machine =
            String::from_utf8_lossy(&stream.take(usize::try_from(len.min(256)).ok()?)?).into_owned();
        while stream.peek()? == 5 {
            stream.u8()?;
            let name = stream.name()?;
            stream.u32()?;
            match name.as_str() {
                "configuration/capabilities" => {
                    for _ in 0..stream.u32()?.min(256) {
                        match stream.name()?.as_str() {
                            "mapped-ram" => self.ram.mapped = true,
                            "x-ignore-shared" => self.ram.ignores_shared = true,
                            _ => {}
                        }
                    }
                }
                "configuration/target-page-bits" => drop(stream.u32()?),
                "configuration/uuid" => stream.skip(16)?,
                _ => return None,
            }
        }
        Some(())
    }
}

impl Form for Migration {
    fn name(&self) -> String {
        let by = if self.by_libvirt { "libvirt save" } else { "QEMU migration stream" };
        let mapped = if self.ram.mapped { ", mapped-ram" } else { "" };
        match self.machine.as_str() {
            "" => format!("{by}{mapped}"),
            machine => format!("{by} ({machine}{mapped})"),
        }
    }

    fn notes(&self) -> Notes {
        self.notes.clone()
    }

    fn incomplete(&self) -> Option<String> {
        let own = self.broken.clone();
        own.or_else(|| self.ram.lacks().map(|lacks| format!("{}: {lacks}", self.source.path().display())))
    }

    fn memory(&self) -> &dyn Memory {
        self
    }
}

impl Memory for Migration {
    fn physical_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        self.ram.ranges(max)
    }

    fn stored_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        self.ram.ranges(max)
    }

    fn trouble(&self) -> Vec<String> {
        self.source.trouble().into_iter().collect()
    }
}

impl PhysicalMemory for Migration {
    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        self.ram.read_phys(&*self.source, addr, buf)
    }
}

#[cfg(test)]
mod tests;
