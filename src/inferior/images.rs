//! The files that a kernel inferior announces to gdb: its exec-file, libraries
//! and debug files, made at first use out of the dump.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;

use super::FileError;
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::debuginfo::btf::Btf;
use crate::debuginfo::elf::Vmlinux;
use crate::debuginfo::orc::Kind;
use crate::elf::BuildId;
use crate::image::cfi::{self, CalledFrom, Override};
use crate::image::files::VirtualFile;
use crate::image::skeleton::{self, Section, SectionKind};
use crate::image::{self, Code, Image, KernelParts, ModuleParts};
use crate::linux::{Kernel, Module, entry_text, registers, tasks};

/// Name of the exec-file.
pub(super) const EXEC: &str = "/kernel/vmlinux";
/// Where real DWARF is known: the second image of the kernel, for which gdb
/// finds it. (gdb prints this name behind frames without a source line.)
const DWARF: &str = "/vmlinux";
/// Our types of the kernel, where the exec-file's debug link leads gdb.
pub(super) const TYPES: &str = "/kernel/vmlinux.btf.debug";
/// Unwind rules of the kernel and of addresses in no image.
const UNWIND: &str = "/kernel/unwind";
/// Where the modules are.
const MODULES: &str = "/modules/";
/// Where images are that hold all there is.
const WHOLE: &str = "/whole/";
const WHOLE_KERNEL: &str = "/whole/vmlinux";
/// Bit of `taints`: the module did not come with the kernel.
const TAINT_OOT_MODULE: u64 = 1 << 12;
/// How far up the stack the caller of a function without ORC is looked for.
const STACK_SCAN: usize = 4096;
/// The entries of 32-bit programs: 4.18 and 4.19 have no ORC of them.
const ENTRIES: [&str; 3] = ["entry_SYSENTER_compat", "entry_SYSCALL_compat", "entry_INT80_compat"];
/// Bytes of an entry in which its first call stands: some 200 in 4.19.
const ENTRY_REACH: usize = 512;
/// Bytes of all modules' images (6.12: 5 MB). Modules behind that get symbols only.
const MODULES_MAX: usize = 256 << 20;
/// Largest BTF of a module that is believed.
const MODULE_BTF_MAX: u64 = 64 << 20;

/// The announced files.
pub(super) struct Images {
    files: HashMap<String, VirtualFile>,
    /// Debug files by the end of their name, `.build-id/xx/yyyy.debug`.
    debug: HashMap<String, VirtualFile>,
    /// The modules' sections.
    sections: Vec<Vec<Section>>,
    /// Modules for clients that look for debug info themselves, and that of ours.
    linked: OnceLock<HashMap<String, VirtualFile>>,
    /// Modules with our types in them, and the kernel.
    whole_modules: OnceLock<HashMap<String, VirtualFile>>,
    whole_kernel: OnceLock<VirtualFile>,
    libraries: Arc<str>,
    libraries_and_main: Arc<str>,
    whole_libraries: Arc<str>,
}

impl Images {
    /// Makes all that will be asked for at once: 0.2 s for a kernel and its modules.
    pub(super) fn new(kernel: &Kernel) -> Self {
        let begun = std::time::Instant::now();
        let found = kernel.debug_files();
        let real = real_dwarf(kernel);
        let sections: Vec<_> = kernel.modules().iter().map(module_sections).collect();
        let (made, modules) = thread::scope(|scope| {
            let modules = scope.spawn(|| match real {
                Some(_) => linked_modules(kernel, &sections),
                None => whole_modules(kernel, &sections),
            });
            (with_parts(kernel, image::kernel), modules.join().unwrap_or_default())
        });

        let mut out = Self {
            files: HashMap::new(),
            debug: HashMap::new(),
            sections,
            linked: OnceLock::new(),
            whole_modules: OnceLock::new(),
            whole_kernel: OnceLock::new(),
            libraries: "".into(),
            libraries_and_main: "".into(),
            whole_libraries: "".into(),
        };
        let bytes: u64 = modules.values().map(VirtualFile::len).sum();
        // Both are empty as yet.
        let _ = if real.is_some() { &out.linked } else { &out.whole_modules }.set(modules);
        let mut list: Vec<(String, u64)> = Vec::new();
        out.files.insert(EXEC.to_owned(), VirtualFile::Bytes(made.exec.bytes));
        if let Some(image) = made.dwarf {
            list.push(out.library(DWARF.to_owned(), image));
        }
        if let Some((v, id)) = real {
            out.disk_file(id, v.path());
        }
        if let Some(image) = made.debug {
            out.files.insert(TYPES.to_owned(), VirtualFile::Bytes(image.bytes));
        }
        for (module, path) in kernel.modules().iter().zip(&found.modules) {
            if let (Some(id), Some(path)) = (&module.build_id, path) {
                out.disk_file(id, path);
            }
        }
        let modules = || {
            let lowest = out.sections.iter().map(|s| skeleton::lowest(s).unwrap_or(0));
            kernel.modules().iter().map(|m| m.name.as_str()).zip(lowest)
        };
        let whole = std::iter::once((WHOLE_KERNEL.to_owned(), made.exec.segment))
            .chain(modules().map(|(name, lowest)| (whole_module(name), lowest)));
        out.whole_libraries = library_list(whole, "section");
        list.extend(modules().map(|(name, lowest)| (format!("{MODULES}{name}.ko"), lowest)));
        list.push(out.library(UNWIND.to_owned(), made.unwind));
        let main = std::iter::once((EXEC.to_owned(), made.exec.segment));
        out.libraries_and_main = library_list(main.chain(list.iter().cloned()), "segment");
        out.libraries = library_list(list.into_iter(), "segment");
        tracing::info!(
            "images made in {:.3} s: {} MB",
            begun.elapsed().as_secs_f64(),
            (out.files.values().filter_map(in_memory).sum::<u64>() + bytes) >> 20
        );
        out
    }

    fn library(&mut self, name: String, image: Image) -> (String, u64) {
        self.files.insert(name.clone(), VirtualFile::Bytes(image.bytes));
        (name, image.segment)
    }

    fn disk_file(&mut self, build_id: &BuildId, path: &Path) {
        match std::fs::File::open(path).and_then(|f| Ok((f.metadata()?.len(), f))) {
            Ok((len, file)) => {
                self.debug.insert(build_id.path(".debug"), VirtualFile::Disk(Arc::new(file), len));
            }
            Err(why) => tracing::warn!("cannot serve {}: {why}", path.display()),
        }
    }

    /// The `<library-list>`.
    pub(super) fn libraries(&self) -> Arc<str> {
        Arc::clone(&self.libraries)
    }

    /// The same with the exec-file as one of them.
    pub(super) fn libraries_and_main(&self) -> Arc<str> {
        Arc::clone(&self.libraries_and_main)
    }

    /// That of the whole images.
    pub(super) fn whole_libraries(&self) -> Arc<str> {
        Arc::clone(&self.whole_libraries)
    }

    /// One of the files.
    pub(super) fn open(&self, kernel: &Kernel, path: &str) -> Result<VirtualFile, FileError> {
        let file = if path == WHOLE_KERNEL {
            let made = || VirtualFile::Bytes(with_parts(kernel, image::whole_kernel).bytes);
            Some(self.whole_kernel.get_or_init(made))
        } else if path.starts_with(WHOLE) {
            self.whole_modules.get_or_init(|| whole_modules(kernel, &self.sections)).get(path)
        } else if path.starts_with(MODULES) {
            self.linked.get_or_init(|| linked_modules(kernel, &self.sections)).get(path)
        } else {
            let debug = || self.debug.get(path.get(path.rfind(".build-id/")?..)?);
            self.files.get(path).or_else(debug)
        };
        file.cloned().ok_or(FileError::NotFound)
    }
}

/// The name of the whole image of a module that has no debug info but ours. A client
/// without any of the kernel may have that of a module that did not come with it.
pub(super) fn whole_image(kernel: &Kernel, path: &str) -> Option<String> {
    let name = path.strip_prefix(MODULES)?.strip_suffix(".ko")?;
    let at = kernel.modules().iter().position(|m| m.name == name)?;
    let module = kernel.modules().get(at)?;
    let elsewhere = kernel.debug_files().modules.get(at).is_some_and(Option::is_some)
        || module.build_id.is_some() && module.taints & TAINT_OOT_MODULE != 0;
    (!elsewhere).then(|| whole_module(name))
}

fn whole_module(name: &str) -> String {
    format!("{WHOLE}{name}.ko")
}

fn library_list(libraries: impl Iterator<Item = (String, u64)>, at: &str) -> Arc<str> {
    let libraries: Vec<_> = libraries.collect();
    image::library_list(libraries.iter().map(|(name, lowest)| (name.as_str(), *lowest)), at).into()
}

/// The vmlinux for which gdb will find real DWARF.
fn real_dwarf(kernel: &Kernel) -> Option<(&Vmlinux, &BuildId)> {
    let found = kernel.debug_files();
    found.vmlinux.as_deref().zip(found.build_id.as_ref())
}

/// What `make` makes of the kernel's parts.
fn with_parts<T>(kernel: &Kernel, make: impl FnOnce(&KernelParts<'_>) -> T) -> T {
    let overrides = overrides(kernel);
    // Stubs are known as they were before 4.1.
    let old = kernel.orc().of_kernel().is_none() && kernel.layout().task.usersp.is_some();
    let stubs = if old { kernel.stubs() } else { &[] };
    let functions = if old { entry_text::prologues(kernel, kernel.symbols()) } else { Vec::new() };
    let real = real_dwarf(kernel);
    let sections = real.map(|(v, _)| vmlinux_sections(v, kernel.kaslr_offset())).unwrap_or_default();
    make(&KernelParts {
        symbols: kernel.symbols(),
        build_id: kernel.debug_files().build_id.as_ref().map(BuildId::as_bytes),
        sections: &sections,
        orc: kernel.orc().of_kernel(),
        btf: kernel.btf().map(Arc::as_ref),
        overrides: &overrides,
        code: Code { functions: &functions, stubs },
        real_dwarf: real.is_some(),
    })
}

fn in_memory(file: &VirtualFile) -> Option<u64> {
    matches!(file, VirtualFile::Bytes(_)).then(|| file.len())
}

/// The real file's loaded sections where they are now. The per-CPU section is
/// left out: before 6.15 it is at 0, which gdb takes for "unknown".
fn vmlinux_sections(vmlinux: &Vmlinux, slide: u64) -> Vec<Section> {
    vmlinux
        .sections()
        .iter()
        .filter(|s| s.is_alloc() && s.address >= 1 << 63 && s.size > 0)
        .map(|s| {
            let start = s.address.wrapping_add(slide);
            let kind = if s.is_code() { SectionKind::Text } else { SectionKind::Data };
            Section { name: s.name.clone(), range: start..start.saturating_add(s.size), kind }
        })
        .collect()
}

fn module_sections(module: &Module) -> Vec<Section> {
    let ranges: Vec<_> =
        module.ranges.iter().map(|r| (r.base.0..r.base.0.saturating_add(r.size), r.text)).collect();
    image::module_sections(module.sections.iter().map(|s| (s.name.as_str(), s.address.0)), &ranges)
}

fn linked_modules(kernel: &Kernel, sections: &[Vec<Section>]) -> HashMap<String, VirtualFile> {
    let mut files = HashMap::new();
    modules(kernel, sections, |module, parts, real| {
        // gdb reads real debug info by itself.
        let btf = parts.btf.filter(|_| !real);
        let made = image::module(&ModuleParts { btf, ..*parts });
        let debug = made.debug.map(|d| (format!("{MODULES}{}", image::module_types(&module.name)), d));
        let images = [Some((format!("{MODULES}{}.ko", module.name), made.library)), debug];
        let bytes = images.iter().flatten().map(|(_, image)| image.bytes.len()).sum();
        files.extend(images.into_iter().flatten().map(|(name, i)| (name, VirtualFile::Bytes(i.bytes))));
        bytes
    });
    files
}

fn whole_modules(kernel: &Kernel, sections: &[Vec<Section>]) -> HashMap<String, VirtualFile> {
    let mut files = HashMap::new();
    modules(kernel, sections, |module, parts, _| {
        let image = image::whole_module(parts);
        let bytes = image.bytes.len();
        files.insert(whole_module(&module.name), VirtualFile::Bytes(image.bytes));
        bytes
    });
    files
}

/// Has each module's images made of its parts; and whether there is real debug info. `make`
/// says how many bytes they are.
fn modules(
    kernel: &Kernel,
    sections: &[Vec<Section>],
    mut make: impl FnMut(&Module, &ModuleParts<'_>, bool) -> usize,
) {
    let btf = kernel.module_btf();
    let mut made = 0usize;
    let real = kernel.debug_files().modules.iter().map(Option::is_some).chain(std::iter::repeat(false));
    let all = kernel.modules().iter().zip(kernel.module_symbols()).zip(sections).zip(real);
    for (i, (((module, symbols), sections), real)) in all.enumerate() {
        let room = made <= MODULES_MAX;
        let btf = btf.iter().find(|(name, ..)| room && *name == module.name);
        let btf = btf.and_then(|(_, at, size)| module_btf(kernel, module, *at, *size));
        let old = !real && kernel.layout().task.usersp.is_some();
        let functions = if old { entry_text::prologues(kernel, symbols) } else { Vec::new() };
        let parts = ModuleParts {
            name: &module.name,
            symbols,
            build_id: module.build_id.as_ref().map(BuildId::as_bytes),
            sections,
            orc: kernel.orc().of_module(kernel, i).filter(|_| room),
            code: Code { functions: &functions, stubs: &[] },
            btf: btf.as_ref(),
        };
        made = made.saturating_add(make(module, &parts, real));
    }
}

fn module_btf(kernel: &Kernel, module: &Module, at: VirtAddr, size: u64) -> Option<Btf> {
    let read = || {
        let len = usize::try_from(size)
            .ok()
            .filter(|_| size <= MODULE_BTF_MAX)
            .ok_or("its size is not believed")?;
        let bytes = kernel.space().read_vec(at, len).map_err(|fault| fault.to_string())?;
        let base = kernel.btf().ok_or("the kernel has none")?;
        Btf::split(base, bytes, format!("BTF of module {}", module.name)).map_err(|e| e.to_string())
    };
    let result: Result<Btf, String> = read();
    result.inspect_err(|why| tracing::warn!("no BTF of module {}: {why}", module.name)).ok()
}

/// The rule of an entry whose code calls on with the user's registers.
fn entry(kernel: &Kernel, name: &str) -> Option<Override> {
    let mut code = [0; ENTRY_REACH];
    let at = kernel.symbol(name)?;
    let got = kernel.space().read(at, &mut code).ok()?;
    Some(Override { range: cfi::call_with_registers(code.get(..got)?, at.0)?, from: CalledFrom::User })
}

/// Functions without ORC in which a CPU stands: `__crash_kexec` after every
/// panic. Their frame is found by the call that led there. So is that of a function
/// which is outermost by ORC, but was called this moment (a retpoline thunk). And entries
/// without ORC, which have called what does the system call.
fn overrides(kernel: &Kernel) -> Vec<Override> {
    let Some(orc) = kernel.orc().of_kernel() else { return Vec::new() };
    let mut out: Vec<Override> = ENTRIES.iter().filter_map(|name| entry(kernel, name)).collect();
    out.dedup();
    out.retain(|o| orc.lookup(o.range.start).kind == Kind::Undefined);
    for &cpu in kernel.percpu().present() {
        let Some(mut task) = tasks::current(kernel, cpu).and_then(|at| tasks::read(kernel, at)) else {
            continue;
        };
        task.idle_of = (task.pid == 0).then_some(cpu);
        let regs = registers::of(kernel, &task);
        let (Some(pc), Some(sp)) = (regs.get(Register::Rip), regs.get(Register::Rsp)) else { continue };
        let kind = orc.lookup(pc).kind;
        if !orc.range().contains(&pc) || !matches!(kind, Kind::Undefined | Kind::End) {
            continue;
        }
        let Some((function, _)) = kernel.symbols().by_address(pc).filter(|(s, _)| s.is_text()) else {
            continue;
        };
        let mut stack = vec![0; STACK_SCAN];
        let got = kernel.space().read(VirtAddr(sp), &mut stack).unwrap_or(0);
        let code = |at| {
            let mut bytes = [0; 5];
            kernel.space().read_exact(VirtAddr(at), &mut bytes).ok().map(|()| bytes)
        };
        let got = if kind == Kind::End { got.min(8) } else { got };
        let found = cfi::frame_by_caller(stack.get(..got).unwrap_or_default(), function.address, code);
        if let Some(cfa) = found
            && !out.iter().any(|o| o.range.contains(&pc))
        {
            let range = function.address..function.address.saturating_add(function.size);
            out.push(Override { range, from: CalledFrom::Call(cfa) });
        }
    }
    out
}
