//! A userspace core as an inferior.
//!
//! gdb is told `<osabi>GNU/Linux</osabi>`, an exec-file and the auxiliary vector,
//! and the list of the libraries, where the dynamic linker's is whole. (Else gdb walks
//! what there is of it, as it does for a live process, with its own words for where it
//! ends; it takes a dozen packets for each library.) Files are served from an allow-list: what the core had mapped and
//! is there with the right build-id, under the name that the core or the dynamic
//! linker gives it, and the debug files that belong to those.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::addr::VirtAddr;
use crate::commands::{self, Subject};
use crate::elf::{BuildId, PT_LOAD};
use crate::error::ReadFault;
use crate::image::files::{Sparse, VirtualFile};
use crate::inferior::core_registers;
use crate::inferior::description::{Description, OsAbi};
use crate::inferior::{CommandContext, FileError, Inferior, RegisterFile, ThreadInfo, Tid};
use crate::memory::AddressSpace;
use crate::process::files::MappedFile;
use crate::process::found::FoundFile;
use crate::process::image::Image;
use crate::process::link_map::LinkMap;
use crate::process::{Process, debug_link, link_map, procfs, signal, skeleton};
use crate::xml::push_escaped;

/// A process of a core, for gdb.
pub struct ProcessInferior {
    process: Arc<Process>,
    description: Description,
    xsave_layout: Option<Vec<u8>>,
    threads: OnceLock<Vec<ThreadInfo>>,
    index: OnceLock<HashMap<Tid, usize>>,
    names: OnceLock<HashMap<String, Arc<MappedFile>>>,
    build_ids: OnceLock<HashSet<BuildId>>,
    debug_links: OnceLock<HashSet<String>>,
    skeletons: OnceLock<HashMap<String, Arc<Sparse>>>,
    libraries: OnceLock<Option<Arc<str>>>,
}

/// Where the bytes of a file come from.
pub enum Provided {
    /// A file on this machine.
    Here(PathBuf),
    /// A skeleton.
    Made(Arc<Sparse>),
}

impl ProcessInferior {
    /// Presents `process`.
    #[must_use]
    pub fn new(process: Arc<Process>) -> Self {
        let core = process.core();
        let first = core.threads.first().and_then(|t| t.xstate.as_ref()).map(|at| core.note(at));
        let extras = first.map(|area| core_registers::extras(&area)).unwrap_or_default();
        let xsave_layout = core.xsave_layout.as_ref().map(|at| core.note(at));
        Self {
            description: Description::new(OsAbi::Linux, &extras),
            xsave_layout,
            process,
            threads: OnceLock::new(),
            index: OnceLock::new(),
            names: OnceLock::new(),
            build_ids: OnceLock::new(),
            debug_links: OnceLock::new(),
            skeletons: OnceLock::new(),
            libraries: OnceLock::new(),
        }
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    fn position(&self, tid: Tid) -> Option<usize> {
        let threads = self.process.threads();
        let index =
            self.index.get_or_init(|| threads.iter().enumerate().rev().map(|(i, t)| (t.tid, i)).collect());
        index.get(&tid).copied()
    }

    /// The names under which mapped files are served.
    fn names(&self) -> &HashMap<String, Arc<MappedFile>> {
        self.names.get_or_init(|| {
            let mut names = HashMap::new();
            // The linker's names lead through links that the core does not tell:
            // each stands for the file that is mapped where its object lies.
            for object in self.process.link_map().iter().filter(|o| !o.name.is_empty()) {
                if let Some((file, _)) = self.process.file_at(object.dynamic) {
                    names.insert(object.name.clone(), Arc::clone(file));
                }
            }
            for file in self.process.files() {
                if let Some(plain) = file.name.strip_suffix(" (deleted)") {
                    names.entry(plain.to_owned()).or_insert_with(|| Arc::clone(file));
                }
            }
            names.extend(self.process.files().iter().map(|f| (f.name.clone(), Arc::clone(f))));
            names
        })
    }

    /// What stands for the files that are missing, by their names.
    fn skeletons(&self) -> &HashMap<String, Arc<Sparse>> {
        self.skeletons.get_or_init(|| {
            let lost = |image: &&Image| image.file.as_ref().is_some_and(|f| f.served().is_none());
            let made =
                |image: &Image| Some((image.name.clone(), Arc::new(skeleton::of(&self.process, image)?)));
            self.process.images().into_iter().filter(lost).filter_map(made).collect()
        })
    }

    /// All files under the names by which gdb will ask for them: where each lies on this
    /// machine, or what is made for it.
    #[must_use]
    pub fn files(&self) -> HashMap<String, Provided> {
        let provided = |file: &MappedFile| match file.served() {
            Some(found) => Some(Provided::Here(found.path.clone())),
            None => self.skeletons().get(&file.name).cloned().map(Provided::Made),
        };
        self.names().iter().filter_map(|(name, file)| Some((name.clone(), provided(file)?))).collect()
    }

    /// Build-ids whose files may be asked for: those of the mapped files and of what
    /// their debug files share (dwz).
    fn build_ids(&self) -> &HashSet<BuildId> {
        self.build_ids.get_or_init(|| {
            let own = self.process.files().iter().filter_map(|f| f.build_id());
            own.flat_map(|id| {
                let shared = self.process.debug_file(id).and_then(|f| f.elf.shared_debug_build_id());
                std::iter::once(id.clone()).chain(shared)
            })
            .collect()
        })
    }

    /// `ANYWHERE/.build-id/xx/yyyy.debug`, of a build-id of ours.
    fn open_by_build_id(&self, path: &str) -> Option<FoundFile> {
        let (_, id) = path.rsplit_once("/.build-id/")?;
        let (id, debug) = id.strip_suffix(".debug").map_or((id, false), |id| (id, true));
        let id = self.build_ids().get(&id.replacen('/', "", 1).parse::<BuildId>().ok()?)?;
        if debug {
            return self.process.debug_file(id);
        }
        FoundFile::open(&self.process.places().locator.executable(id, None)?).ok()
    }

    /// The names that gdb makes of `.gnu_debuglink`: beside the file, in `.debug`
    /// beside it, and below a debug folder.
    fn open_by_debug_link(&self, path: &str) -> Option<FoundFile> {
        let (dir, base) = path.rsplit_once('/')?;
        if !self.debug_links().contains(base) {
            return None;
        }
        let own_dirs = self.names().iter().filter_map(|(name, file)| Some((name.rsplit_once('/')?.0, file)));
        for (own, mapped) in own_dirs {
            let Some(file) = mapped.served() else { continue };
            if !(dir == own || dir.strip_suffix("/.debug") == Some(own) || dir.ends_with(own)) {
                continue;
            }
            let candidates = debug_link::places(self.process.places(), Path::new(own), base);
            let found = candidates.iter().filter_map(|p| FoundFile::open(p).ok());
            let mut proven = found.filter(|f| debug_link::belongs(file, f));
            if let Some(found) = proven.next() {
                return Some(found);
            }
        }
        None
    }

    /// The names in `.gnu_debuglink` of the served files. gdb probes some twenty
    /// names for each library: what is not among these is answered at once.
    fn debug_links(&self) -> &HashSet<String> {
        self.debug_links.get_or_init(|| {
            let served = self.process.files().iter().filter_map(|f| f.served());
            served.filter_map(|f| f.elf.debug_link()).collect()
        })
    }

    /// The `<library-list-svr4>` document, in gdbserver's form: the main program is named
    /// by its link map alone, what has no name is left out. A name that is taken from the folder
    /// the process was in leads nowhere from gdb's: the file's own stands for it. `lmid` is gdb
    /// 13's, others pass over it.
    fn make_libraries(&self) -> Option<Arc<str>> {
        let (main, others) = self.process.link_map().split_first()?;
        if !self.process.link_map_is_whole() {
            return None;
        }
        let mut xml = format!("<library-list-svr4 version=\"1.0\" main-lm=\"{:#x}\">\n", main.at);
        for object in others.iter().filter(|o| !o.name.is_empty()) {
            let file = || self.process.file_at(object.dynamic).map(|(file, _)| file.name.as_str());
            let own = (!object.name.starts_with('/')).then(file).flatten();
            let own = own.map(|name| name.strip_suffix(" (deleted)").unwrap_or(name));
            xml.push_str("<library name=\"");
            push_escaped(&mut xml, own.unwrap_or(&object.name));
            let LinkMap { at, bias, dynamic, namespace, .. } = object;
            xml.push_str(&format!(
                "\" lm=\"{at:#x}\" l_addr=\"{bias:#x}\" l_ld=\"{dynamic:#x}\" lmid=\"{namespace:#x}\"/>\n"
            ));
        }
        xml.push_str("</library-list-svr4>\n");
        Some(xml.into())
    }

    /// A file of `/proc/PID`, or nothing if there is no such one.
    fn open_proc(&self, path: &str) -> Option<VirtualFile> {
        let thread = |tid: &str| tid.parse().is_ok_and(|tid| self.position(tid).is_some());
        let bytes = match super::proc_name(path, |pid| pid == self.process.pid().to_string(), thread)? {
            "maps" => procfs::maps(&self.process).into_bytes(),
            "smaps" => procfs::smaps(&self.process).into_bytes(),
            "cmdline" => procfs::cmdline(&self.process),
            "stat" => procfs::stat(&self.process).into_bytes(),
            "status" => procfs::status(&self.process).into_bytes(),
            "auxv" => self.process.core().auxv.clone(),
            _ => return None,
        };
        Some(VirtualFile::from_bytes(bytes))
    }
}

fn served(found: &FoundFile) -> VirtualFile {
    VirtualFile::Disk(Arc::clone(&found.file), found.len)
}

impl Inferior for ProcessInferior {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn initial_thread(&self) -> Tid {
        self.process.threads().first().map_or(1, |t| t.tid)
    }

    fn stop_signal(&self) -> u8 {
        let first = self.process.threads().first();
        first.map_or(0, |t| u8::try_from(t.signal).unwrap_or(0))
    }

    fn threads(&self) -> &[ThreadInfo] {
        self.threads.get_or_init(|| {
            let info = |(i, t): (usize, &crate::process::core_file::ThreadNotes)| ThreadInfo {
                tid: t.tid,
                name: self.process.thread_name(t.tid).unwrap_or_default().to_owned(),
                core: None,
                extra: match (i, t.signal) {
                    (0, signal) if signal != 0 => signal::name(signal.into()),
                    _ => String::new(),
                },
            };
            // A hostile core may name a thread twice: gdb would be confused.
            let all = self.process.threads().iter().enumerate();
            all.filter(|(i, t)| self.position(t.tid) == Some(*i)).map(info).collect()
        })
    }

    fn thread_exists(&self, tid: Tid) -> bool {
        self.position(tid).is_some()
    }

    fn registers(&self, tid: Tid) -> Option<RegisterFile> {
        let thread = self.process.threads().get(self.position(tid)?)?;
        let (core, d) = (self.process.core(), &self.description);
        let mut file = RegisterFile::unavailable(d);
        if let Some(regs) = self.process.general_regs(thread) {
            file.set_all(d, "", &regs);
        }
        match (&thread.xstate, &thread.fpregs) {
            (Some(at), _) => {
                let area = core.note(at);
                let layout = core_registers::Layout::of(area.len(), self.xsave_layout.as_deref());
                core_registers::set_xsave(&mut file, d, &area, layout);
            }
            (None, Some(at)) => core_registers::set_fxsave(&mut file, d, &core.note(at)),
            (None, None) => {}
        }
        Some(file)
    }

    fn read_memory(&self, _tid: Tid, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        self.process.memory().read(addr, buf)
    }

    fn exec_file(&self) -> Option<String> {
        let file = self.process.program()?.file.as_ref()?;
        if file.served().is_none() {
            self.skeletons().get(&file.name)?;
        }
        Some(file.name.strip_suffix(" (deleted)").unwrap_or(&file.name).to_owned())
    }

    fn libraries_svr4(&self) -> Option<Arc<str>> {
        self.libraries.get_or_init(|| self.make_libraries()).clone()
    }

    fn text_segment(&self) -> Option<VirtAddr> {
        let program = self.process.program()?;
        let first = program.phdrs.iter().find(|p| p.kind == PT_LOAD)?;
        Some(VirtAddr(program.at(first.vaddr)))
    }

    fn auxv(&self) -> Option<Arc<[u8]>> {
        let auxv = &self.process.core().auxv;
        (!auxv.is_empty()).then(|| auxv.as_slice().into())
    }

    fn siginfo(&self, tid: Tid) -> Option<Vec<u8>> {
        let thread = self.process.threads().get(self.position(tid)?)?;
        let raw = self.process.core().note(thread.siginfo.as_ref()?);
        (!raw.is_empty()).then_some(raw)
    }

    fn tls_address(&self, tid: Tid, offset: u64, link_map: VirtAddr) -> Option<VirtAddr> {
        let thread = self.process.threads().get(self.position(tid)?)?;
        link_map::tls_address(&self.process, thread, offset, link_map.0).map(VirtAddr)
    }

    fn open_file(&self, path: &str) -> Result<VirtualFile, FileError> {
        if let Some(file) = self.open_proc(path) {
            return Ok(file);
        }
        if let Some(mapped) = self.names().get(path) {
            let skeleton = || self.skeletons().get(&mapped.name).cloned().map(VirtualFile::Sparse);
            return mapped.served().map(served).or_else(skeleton).ok_or(FileError::NotFound);
        }
        let debug = self.open_by_build_id(path).or_else(|| self.open_by_debug_link(path));
        debug.as_ref().map(served).ok_or(FileError::NotFound)
    }

    fn read_link(&self, path: &str) -> Result<String, FileError> {
        let proc = format!("/proc/{}/", self.process.pid());
        match path.strip_prefix(&proc) {
            Some("exe") => {
                let program = self.process.program().and_then(|i| i.file.as_ref());
                program.map(|f| f.name.clone()).ok_or(FileError::NotFound)
            }
            _ => Err(FileError::NotFound),
        }
    }

    fn monitor(&self, context: &CommandContext<'_>, line: &str, out: &mut dyn Write) -> io::Result<()> {
        commands::monitor(Subject::Process(&self.process), context, None, line, out)
    }
}
