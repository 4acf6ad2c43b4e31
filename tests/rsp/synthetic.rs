//! A made-up target: memory with a hole, threads by the thousand, a program
//! that is served as a file. It shares nothing with the real inferiors.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use corestub::addr::VirtAddr;
use corestub::error::ReadFault;
use corestub::image::files::VirtualFile;
use corestub::inferior::description::{Extra, OsAbi};
use corestub::inferior::{CommandContext, Description, FileError, Inferior, RegisterFile, ThreadInfo, Tid};
use object::write::{Object, StandardSection, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope};

/// Readable memory, with a hole in it.
pub const MEMORY: std::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8000_0010_0000;
pub const HOLE: std::ops::Range<u64> = 0xffff_8000_0000_3000..0xffff_8000_0000_4000;
/// The made-up kernel's process id, and that of the process in it.
pub const PID: u32 = 5_242_880;
pub const PROCESS: u32 = 77;

pub struct Synthetic {
    pid: u32,
    signal: u8,
    description: Description,
    threads: Vec<ThreadInfo>,
    program: Arc<[u8]>,
    /// How many commands were given up because the client had gone on.
    pub cancelled: Arc<AtomicUsize>,
    /// Commands that were started.
    pub started: Arc<AtomicUsize>,
    /// What `waits` waits for.
    pub go_on: Arc<AtomicBool>,
}

/// The byte at an address.
pub fn byte_at(addr: u64) -> u8 {
    (addr ^ addr >> 8).to_le_bytes()[0]
}

/// The word at an address.
pub fn word_at(addr: u64) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| byte_at(addr + i as u64)))
}

/// A relocatable file with one function and one variable.
fn program() -> Vec<u8> {
    let mut file = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    for (name, section, kind) in [
        ("made_up_function", StandardSection::Text, SymbolKind::Text),
        ("made_up_variable", StandardSection::Data, SymbolKind::Data),
    ] {
        let section = file.section_id(section);
        let value = file.append_section_data(section, &[0x90; 64], 16);
        file.add_symbol(Symbol {
            name: name.into(),
            value,
            size: 64,
            kind,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    }
    file.write().unwrap()
}

impl Synthetic {
    pub fn new(threads: u32) -> Self {
        let threads = (1..=threads)
            .map(|tid| ThreadInfo {
                tid,
                name: match tid {
                    2 => "<bad>&\"name\"\x01".to_owned(),
                    3 => "kworker/0:1".to_owned(),
                    _ => format!("task-{tid}"),
                },
                core: Some(tid % 4),
                extra: format!("pid {tid} S"),
            })
            .collect();
        Self {
            pid: PID,
            signal: 0,
            description: Description::new(OsAbi::None, &[Extra::System]),
            threads,
            program: program().into(),
            cancelled: Arc::default(),
            started: Arc::default(),
            go_on: Arc::default(),
        }
    }

    fn process() -> Self {
        Self {
            pid: PROCESS,
            signal: 11,
            description: Description::new(OsAbi::Linux, &[]),
            threads: vec![ThreadInfo { tid: PROCESS, name: "init".into(), core: None, extra: String::new() }],
            program: program().into(),
            cancelled: Arc::default(),
            started: Arc::default(),
            go_on: Arc::default(),
        }
    }
}

impl Inferior for Synthetic {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn initial_thread(&self) -> Tid {
        self.threads.get(2).unwrap_or(&self.threads[0]).tid
    }

    fn stop_signal(&self) -> u8 {
        self.signal
    }

    fn threads(&self) -> &[ThreadInfo] {
        &self.threads
    }

    fn thread_exists(&self, tid: Tid) -> bool {
        self.threads.first().is_some_and(|first| tid >= first.tid)
            && self.threads.last().is_some_and(|last| tid <= last.tid)
    }

    fn registers(&self, tid: Tid) -> Option<RegisterFile> {
        if !self.thread_exists(tid) {
            return None;
        }
        let d = &self.description;
        let mut registers = RegisterFile::unavailable(d);
        registers.set_u64(d, "rip", MEMORY.start + 0x100 + u64::from(tid) * 16);
        registers.set_u64(d, "rsp", MEMORY.start + 0x1000);
        registers.set_u64(d, "rbx", u64::from(tid));
        Some(registers)
    }

    fn read_memory(&self, _tid: Tid, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let mut n = 0;
        for byte in buf.iter_mut() {
            let at = addr.0 + n as u64;
            if !MEMORY.contains(&at) || HOLE.contains(&at) {
                break;
            }
            *byte = byte_at(at);
            n += 1;
        }
        if n == 0 { Err(ReadFault::NotMapped { addr: addr.0, level: 1 }) } else { Ok(n) }
    }

    fn exec_file(&self) -> Option<String> {
        Some("/virtual/program".to_owned())
    }

    fn text_segment(&self) -> Option<VirtAddr> {
        (self.pid == PID).then_some(VirtAddr(MEMORY.start))
    }

    fn siginfo(&self, tid: Tid) -> Option<Vec<u8>> {
        (self.signal > 0).then(|| vec![tid.to_le_bytes()[0]; 128])
    }

    fn osdata(&self, table: &str) -> Option<Arc<str>> {
        let item =
            |columns: &str| Some(format!("<osdata type=\"{table}\"><item>{columns}</item></osdata>").into());
        match table {
            "" => item("<column name=\"Type\">made-up</column><column name=\"Description\">A table</column>"),
            "made-up" => item("<column name=\"pid\">4711</column><column name=\"command\">init</column>"),
            _ => None,
        }
    }

    fn vmcoreinfo(&self) -> Option<Arc<str>> {
        Some("OSRELEASE=made-up\n".into())
    }

    fn tls_address(&self, tid: Tid, offset: u64, link_map: VirtAddr) -> Option<VirtAddr> {
        (link_map.0 > 0).then(|| VirtAddr(u64::from(tid) * 0x1000 + offset))
    }

    fn open_file(&self, path: &str) -> Result<VirtualFile, FileError> {
        match path {
            "/virtual/program" => Ok(VirtualFile::from_bytes(Arc::clone(&self.program))),
            "/virtual/secret" => Err(FileError::Denied),
            _ => Err(FileError::NotFound),
        }
    }

    fn read_link(&self, path: &str) -> Result<String, FileError> {
        if path == "/proc/77/exe" { Ok("/virtual/program".to_owned()) } else { Err(FileError::NotFound) }
    }

    fn monitor(&self, context: &CommandContext<'_>, line: &str, out: &mut dyn Write) -> io::Result<()> {
        let done = |outcome: io::Result<()>| {
            if outcome.is_err() || (context.cancelled)() {
                self.cancelled.fetch_add(1, Ordering::SeqCst);
            }
            outcome
        };
        self.started.fetch_add(1, Ordering::SeqCst);
        match line {
            "help" => writeln!(out, "help: the commands of a made-up target, thread {:?}", context.thread),
            "why" => match context.last_fault {
                Some((addr, fault)) => writeln!(out, "{addr}: {fault}"),
                None => writeln!(out, "no read has failed"),
            },
            "lines" => (0..20_000).try_for_each(|n| writeln!(out, "line {n}")),
            "endless" => done((0..).try_for_each(|n| writeln!(out, "line {n}"))),
            "silent" => {
                while !(context.cancelled)() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                done(Ok(()))
            }
            "waits" => {
                writeln!(out, "before")?;
                while !self.go_on.load(Ordering::SeqCst) && !(context.cancelled)() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                writeln!(out, "after")
            }
            "slow" => (0..4).try_for_each(|n| {
                writeln!(out, "step {n}")?;
                std::thread::sleep(Duration::from_millis(600));
                Ok(())
            }),
            "broken" => Err(io::Error::other("made-up failure")),
            _ => writeln!(out, "no such command"),
        }
    }

    fn attach(&self, pid: u32) -> Option<Arc<dyn Inferior>> {
        (pid == PROCESS).then(|| Arc::new(Self::process()) as Arc<dyn Inferior>)
    }
}
