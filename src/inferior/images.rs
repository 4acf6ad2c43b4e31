//! The files that a kernel inferior announces to gdb: its exec-file, libraries
//! and debug files, made at first use out of the dump.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::FileError;
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::debuginfo::btf::Btf;
use crate::debuginfo::orc::Kind;
use crate::elf::BuildId;
use crate::image::cfi::{self, CallOverride};
use crate::image::files::VirtualFile;
use crate::image::skeleton::{Section, SectionKind};
use crate::image::{self, Code, Image, KernelParts, ModuleParts};
use crate::linux::{Kernel, Module, entry_text, registers, tasks};

/// Name of the exec-file.
pub(super) const EXEC: &str = "/kernel/vmlinux";
/// Where real DWARF is known: the second image of the kernel, for which gdb
/// finds it. (gdb prints this name behind frames without a source line.)
const DWARF: &str = "/vmlinux";
/// Unwind rules of the kernel and of addresses in no image.
const UNWIND: &str = "/kernel/unwind";
/// How far up the stack the caller of a function without ORC is looked for.
const STACK_SCAN: usize = 4096;
/// Bytes of all modules' images (6.12: 5 MB). Modules behind that get symbols only.
const MODULES_MAX: usize = 256 << 20;
/// Largest BTF of a module that is believed.
const MODULE_BTF_MAX: u64 = 64 << 20;

/// The announced files.
pub(super) struct Images {
    files: HashMap<String, VirtualFile>,
    /// Debug files by the end of their name, `.build-id/xx/yyyy.debug`.
    debug: HashMap<String, VirtualFile>,
    libraries: Arc<str>,
    libraries_and_main: Arc<str>,
}

impl Images {
    /// Makes all of them: 0.2 s for a kernel and its modules.
    pub(super) fn new(kernel: &Kernel) -> Self {
        let begun = std::time::Instant::now();
        let overrides = overrides(kernel);
        // Stubs are known as they were before 4.1.
        let old = kernel.orc().of_kernel().is_none() && kernel.layout().task.usersp.is_some();
        let stubs = if old { kernel.stubs() } else { &[] };
        let functions = if old { entry_text::prologues(kernel, kernel.symbols()) } else { Vec::new() };
        let found = kernel.debug_files();
        let build_id = found.build_id.as_ref();
        let dwarf = found.vmlinux.as_ref().filter(|_| build_id.is_some());
        let sections = dwarf.map(|v| vmlinux_sections(v, kernel.kaslr_offset())).unwrap_or_default();
        let parts = KernelParts {
            symbols: kernel.symbols(),
            build_id: build_id.map(BuildId::as_bytes),
            sections: &sections,
            orc: kernel.orc().of_kernel(),
            btf: kernel.btf().map(Arc::as_ref),
            overrides: &overrides,
            code: Code { functions: &functions, stubs },
            real_dwarf: dwarf.is_some(),
        };
        let (made, modules) = thread::scope(|scope| {
            let modules = scope.spawn(|| modules(kernel));
            (image::kernel(&parts), modules.join().unwrap_or_default())
        });

        let mut out = Self {
            files: HashMap::new(),
            debug: HashMap::new(),
            libraries: "".into(),
            libraries_and_main: "".into(),
        };
        let mut list: Vec<(String, u64)> = Vec::new();
        out.files.insert(EXEC.to_owned(), VirtualFile::Bytes(made.exec.bytes));
        if let Some(image) = made.dwarf {
            list.push(out.library(DWARF.to_owned(), image));
        }
        if let (Some(v), Some(id)) = (dwarf, build_id) {
            out.disk_file(id, v.path());
        }
        if let Some(image) = made.debug {
            out.files.insert(format!("/kernel/{}", image::KERNEL_TYPES), VirtualFile::Bytes(image.bytes));
        }
        for (module, path) in kernel.modules().iter().zip(&found.modules) {
            if let (Some(id), Some(path)) = (&module.build_id, path) {
                out.disk_file(id, path);
            }
        }
        for (module, images) in kernel.modules().iter().zip(modules) {
            if let Some(image) = images.debug {
                let name = format!("/modules/{}", image::module_types(&module.name));
                out.files.insert(name, VirtualFile::Bytes(image.bytes));
            }
            list.push(out.library(format!("/modules/{}.ko", module.name), images.library));
        }
        list.push(out.library(UNWIND.to_owned(), made.unwind));
        let libraries = list.iter().map(|(n, s)| (n.as_str(), *s));
        out.libraries = image::library_list(libraries.clone()).into();
        let main = std::iter::once((EXEC, made.exec.segment));
        out.libraries_and_main = image::library_list(main.chain(libraries)).into();
        tracing::info!(
            "images made in {:.3} s: {} MB",
            begun.elapsed().as_secs_f64(),
            out.files.values().chain(out.debug.values()).filter_map(in_memory).sum::<u64>() >> 20
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

    /// One of the files.
    pub(super) fn open(&self, path: &str) -> Result<VirtualFile, FileError> {
        let debug = || self.debug.get(path.get(path.rfind(".build-id/")?..)?);
        self.files.get(path).or_else(debug).cloned().ok_or(FileError::NotFound)
    }
}

fn in_memory(file: &VirtualFile) -> Option<u64> {
    matches!(file, VirtualFile::Bytes(_)).then(|| file.len())
}

/// The real file's loaded sections where they are now. The per-CPU section is
/// left out: before 6.15 it is at 0, which gdb takes for "unknown".
fn vmlinux_sections(vmlinux: &crate::debuginfo::elf::Vmlinux, slide: u64) -> Vec<Section> {
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

fn modules(kernel: &Kernel) -> Vec<image::ModuleImages> {
    let btf = kernel.module_btf();
    let mut made = 0usize;
    let real = kernel.debug_files().modules.iter().map(Option::is_some).chain(std::iter::repeat(false));
    kernel
        .modules()
        .iter()
        .zip(kernel.module_symbols())
        .zip(real)
        .enumerate()
        .map(|(i, ((module, symbols), real))| {
            let ranges: Vec<_> =
                module.ranges.iter().map(|r| (r.base.0..r.base.0.saturating_add(r.size), r.text)).collect();
            let starts = module.sections.iter().map(|s| (s.name.as_str(), s.address.0));
            let sections = image::module_sections(starts, &ranges);
            let room = made <= MODULES_MAX;
            let btf = btf.iter().find(|(name, ..)| room && !real && *name == module.name);
            let btf = btf.and_then(|(_, at, size)| module_btf(kernel, module, *at, *size));
            // gdb reads real debug info, rules and all, by itself.
            let old = !real && kernel.layout().task.usersp.is_some();
            let functions = if old { entry_text::prologues(kernel, symbols) } else { Vec::new() };
            let images = image::module(&ModuleParts {
                name: &module.name,
                symbols,
                build_id: module.build_id.as_ref().map(BuildId::as_bytes),
                sections: &sections,
                orc: kernel.orc().of_module(kernel, i).filter(|_| room),
                code: Code { functions: &functions, stubs: &[] },
                btf: btf.as_ref(),
            });
            made = made.saturating_add(images.library.bytes.len());
            made = made.saturating_add(images.debug.as_ref().map_or(0, |d| d.bytes.len()));
            images
        })
        .collect()
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

/// Functions without ORC in which a CPU stands: `__crash_kexec` after every
/// panic. Their frame is found by the call that led there. So is that of a function
/// which is outermost by ORC, but was called this moment (a retpoline thunk).
fn overrides(kernel: &Kernel) -> Vec<CallOverride> {
    let mut out: Vec<CallOverride> = Vec::new();
    let Some(orc) = kernel.orc().of_kernel() else { return out };
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
            out.push(CallOverride { range, cfa });
        }
    }
    out
}
