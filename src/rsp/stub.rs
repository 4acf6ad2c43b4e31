//! gdbstub's view of a client's state: the traits behind `m`, `g`, `p`,
//! `qRcmd`, `qOffsets` and `qXfer:features|exec-file|auxv|libraries`.
//!
//! The front has seen to it that only these packets come, in canonical form and
//! about a thread that exists. gdbstub hands over a thread id of its own, which
//! is ignored: the selection lives in [`State`], with its process. An `Err` of
//! the fatal kind would end the session, so none is ever made.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gdbstub::arch::{Arch, RegId, Registers};
use gdbstub::common::{Pid, Tid};
use gdbstub::target::ext::auxv::{Auxv, AuxvOps};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::MultiThreadBase;
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::exec_file::{ExecFile, ExecFileOps};
use gdbstub::target::ext::libraries::{Libraries, LibrariesOps, LibrariesSvr4, LibrariesSvr4Ops};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::section_offsets::{Offsets, SectionOffsets, SectionOffsetsOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::state::{Link, State};
use super::wire::Stop;
use super::xfer;
use crate::inferior::{CommandContext, Inferior, RegisterFile};

/// EFAULT and EROFS, as `E` replies carry them.
const EFAULT: TargetError<Infallible> = TargetError::Errno(14);
const EROFS: TargetError<Infallible> = TargetError::Errno(30);

/// Output of a command is sent when there is this much of it,
const OUTPUT_PIECE: usize = 0x4000;
/// or when it is this old.
const OUTPUT_AGE: Duration = Duration::from_secs(1);

/// x86-64 as far as gdbstub needs to know it; the description is the inferior's.
#[derive(Debug)]
pub(crate) enum X86_64 {}

/// The `g` packet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RegisterBytes(Arc<RegisterFile>);

impl Registers for RegisterBytes {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        0
    }

    fn gdb_serialize(&self, write_byte: impl FnMut(Option<u8>)) {
        self.0.bytes().iter().copied().for_each(write_byte);
    }

    fn gdb_deserialize(&mut self, _bytes: &[u8]) -> Result<(), ()> {
        Ok(())
    }
}

/// The number in a `p` packet; its size is the description's to say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegisterNumber(usize);

impl RegId for RegisterNumber {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Some((Self(id), None))
    }
}

impl Arch for X86_64 {
    type Usize = u64;
    type Registers = RegisterBytes;
    type BreakpointKind = usize;
    type RegId = RegisterNumber;
}

impl Target for State {
    type Arch = X86_64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64, Infallible> {
        BaseOps::MultiThread(self)
    }

    /// There are no breakpoints in a dump; without this gdbstub does not start.
    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }

    fn use_rle(&self) -> bool {
        false
    }

    fn use_no_ack_mode(&self) -> bool {
        false
    }

    fn use_resume_stub(&self) -> bool {
        false
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_section_offsets(&mut self) -> Option<SectionOffsetsOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        Some(self)
    }

    fn support_auxv(&mut self) -> Option<AuxvOps<'_, Self>> {
        Some(self)
    }

    fn support_libraries(&mut self) -> Option<LibrariesOps<'_, Self>> {
        Some(self)
    }

    fn support_libraries_svr4(&mut self) -> Option<LibrariesSvr4Ops<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for State {
    fn read_registers(&mut self, regs: &mut RegisterBytes, _tid: Tid) -> TargetResult<(), Self> {
        *regs = RegisterBytes(self.selection.registers().ok_or(TargetError::NonFatal)?);
        Ok(())
    }

    fn write_registers(&mut self, _regs: &RegisterBytes, _tid: Tid) -> TargetResult<(), Self> {
        Err(EROFS)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], _tid: Tid) -> TargetResult<usize, Self> {
        // The front answers `m` itself; the trait wants this all the same.
        self.selection.read_memory(start, data).ok_or(EFAULT)
    }

    fn write_addrs(&mut self, _start: u64, _data: &[u8], _tid: Tid) -> TargetResult<(), Self> {
        Err(EROFS)
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        // The front answers everything that asks for a list.
        let tid = self.selection.thread().and_then(|(_, tid)| usize::try_from(tid).ok());
        tid.and_then(Tid::new).into_iter().for_each(thread_is_active);
        Ok(())
    }

    fn is_thread_alive(&mut self, _tid: Tid) -> Result<bool, Infallible> {
        Ok(true)
    }
}

impl SingleRegisterAccess<Tid> for State {
    fn read_register(
        &mut self,
        _tid: Tid,
        RegisterNumber(n): RegisterNumber,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let registers = self.selection.registers().ok_or(TargetError::NonFatal)?;
        let inferior = self.selection.inferior().ok_or(TargetError::NonFatal)?;
        let (at, len) = inferior.description().place_of_number(n).ok_or(TargetError::NonFatal)?;
        let known: Option<Vec<u8>> = registers.bytes().iter().skip(at).take(len).copied().collect();
        let known = known.ok_or(TargetError::NonFatal)?;
        buf.get_mut(..known.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(&known);
        Ok(known.len())
    }

    fn write_register(&mut self, _tid: Tid, _id: RegisterNumber, _val: &[u8]) -> TargetResult<(), Self> {
        Err(EROFS)
    }
}

/// Copies a slice of `document` for a `qXfer` reply.
fn copy(document: &[u8], offset: u64, length: usize, buf: &mut [u8]) -> usize {
    let data = xfer::slice(document, offset, length.min(buf.len()));
    buf.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    data.len()
}

/// The same for a document that may be absent.
fn copy_some(
    document: Option<&[u8]>,
    offset: u64,
    length: usize,
    buf: &mut [u8],
) -> TargetResult<usize, State> {
    document.map(|document| copy(document, offset, length, buf)).ok_or(TargetError::NonFatal)
}

impl TargetDescriptionXmlOverride for State {
    fn target_description_xml(
        &self,
        _annex: &[u8],
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let xml = self.selection.inferior().map(|i| i.description().xml().as_bytes());
        copy_some(xml, offset, length, buf)
    }
}

impl ExecFile for State {
    fn get_exec_file(
        &self,
        pid: Option<Pid>,
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let inferior = match pid {
            Some(pid) => {
                let served = u64::try_from(pid.get()).ok().and_then(|pid| self.selection.process(pid));
                served.map(|served| served.inferior())
            }
            None => self.selection.inferior(),
        };
        let name = inferior.and_then(Inferior::exec_file);
        copy_some(name.as_deref().map(str::as_bytes), offset, length, buf)
    }
}

impl Auxv for State {
    fn get_auxv(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        copy_some(self.selection.inferior().and_then(Inferior::auxv).as_deref(), offset, length, buf)
    }
}

impl Libraries for State {
    fn get_libraries(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let inferior = self.selection.inferior();
        let document = if self.client.lldb {
            inferior.and_then(|i| i.whole_libraries().or_else(|| i.libraries()))
        } else if self.is_without_main_image() {
            inferior.and_then(Inferior::libraries_and_main)
        } else {
            inferior.and_then(Inferior::libraries)
        };
        copy_some(document.as_deref().map(str::as_bytes), offset, length, buf)
    }
}

impl LibrariesSvr4 for State {
    fn get_libraries_svr4(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let document = self.selection.inferior().and_then(Inferior::libraries_svr4);
        copy_some(document.as_deref().map(str::as_bytes), offset, length, buf)
    }
}

impl SectionOffsets for State {
    fn get_section_offsets(&mut self) -> Result<Offsets<u64>, Infallible> {
        // Never `Text=`: it leaves all but three sections behind.
        let start = self.selection.inferior().and_then(Inferior::text_segment);
        Ok(Offsets::Segments { text_seg: start.unwrap_or_default().0, data_seg: None })
    }
}

impl MonitorCmd for State {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        let line = String::from_utf8_lossy(cmd);
        let (inferior, thread) = match self.selection.selected() {
            Some(selected) => (selected.inferior(), selected.tid),
            None => (self.selection.main().inferior(), None),
        };
        self.link.borrow_mut().live = true;
        let output = RefCell::new(Output { out, pending: 0, since: Instant::now(), link: self.link.clone() });
        let cancelled = || output.borrow_mut().cancelled();
        let context =
            CommandContext { thread, last_fault: self.selection.last_fault(), cancelled: &cancelled };
        let mut writer = Writer(&output);
        let outcome = inferior.monitor(&context, &line, &mut writer);
        let mut output = output.into_inner();
        if let Err(e) = outcome {
            tracing::debug!(error = %e, %line, "the command was given up");
            if self.link.borrow().stop.is_none() && self.link.borrow().broken.is_none() {
                output.out.write_raw(format!("error: {e}\n").as_bytes());
            }
        }
        output.out.flush();
        drop(output);
        self.link.borrow_mut().live = false;
        Ok(())
    }
}

/// Where a command's text goes: into `O` packets of some size, none held back
/// for long. While it is at it, it looks whether the client still listens.
struct Output<'a> {
    out: ConsoleOutput<'a>,
    pending: usize,
    since: Instant,
    link: Link,
}

impl Output<'_> {
    fn cancelled(&mut self) -> bool {
        if self.pending > 0 && self.since.elapsed() >= OUTPUT_AGE {
            self.flush();
        }
        let mut link = self.link.borrow_mut();
        if link.broken.is_none() && link.stop.is_none() {
            link.stop = link.wire.poll();
        }
        link.broken.is_some() || link.stop.is_some()
    }

    fn flush(&mut self) {
        self.out.flush();
        self.pending = 0;
    }
}

/// The command's end of it.
struct Writer<'a, 'b>(&'a RefCell<Output<'b>>);

impl Write for Writer<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut output = self.0.borrow_mut();
        if output.cancelled() {
            let stop = output.link.borrow().stop;
            return Err(match stop {
                Some(Stop::Interrupt | Stop::NewPacket) => io::Error::other("interrupted by the client"),
                Some(Stop::Closed) | None => io::ErrorKind::BrokenPipe.into(),
            });
        }
        if output.pending == 0 {
            output.since = Instant::now();
        }
        // One packet holds half as many bytes as it has digits.
        let part = buf.get(..OUTPUT_PIECE).unwrap_or(buf);
        output.out.write_raw(part);
        output.pending += part.len();
        if output.pending >= OUTPUT_PIECE || output.since.elapsed() >= OUTPUT_AGE {
            output.flush();
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush();
        Ok(())
    }
}
