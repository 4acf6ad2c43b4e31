//! Loaded modules: where each lies, its sections, build-id, symbols, and where
//! its ORC and BTF are.
//!
//! | kernel | base and size | section names and addresses |
//! |---|---|---|
//! | < 4.5 | `module_core`, `core_size` | `sect_attrs->attrs[nsections]` |
//! | 4.5 - 6.3 | `core_layout` | the same; since 5.8 the name is `battr.attr.name` |
//! | >= 6.4 | `mem[MOD_TEXT..]`, not contiguous | the same until 6.13 |
//! | >= 6.14 | `mem[]` | `sect_attrs->grp.bin_attrs`, address in `private` |
//!
//! Which one holds is told by the members that the types have. The section
//! attributes are slab memory, which a filtered dump can lack: then a module is
//! known by its memory ranges alone. Sources: `include/linux/module.h`,
//! `kernel/module/sysfs.c`, `kernel/module/internal.h`.

use object::elf::SHN_UNDEF;

use super::View;
use super::list;
use super::module_scan;
use super::object::Object;
use crate::addr::VirtAddr;
use crate::bytes::{array_at, cstr};
use crate::debuginfo::symbols::{Builder, SymbolTable};
use crate::elf::{BuildId, Symbols};

/// More modules than this are not believed.
pub(super) const MAX_MODULES: usize = 10_000;
/// Sections of one module; large ones have about 60.
const MAX_SECTIONS: u64 = 1024;
/// Symbols of one module.
const MAX_SYMBOLS: u64 = 1 << 18;
/// Bytes that the symbols of all modules may take; those of a distribution's kernel
/// with everything loaded take 50 MiB. Damaged modules may share one large table.
const MAX_SYMBOLS_MEMORY: usize = 512 << 20;
/// Bytes of one memory range of a module.
const MAX_RANGE: u64 = 256 << 20;

/// `enum module_state` (`include/linux/module.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Loaded.
    Live,
    /// Its init function was running.
    Coming,
    /// Being removed.
    Going,
    /// Still being set up.
    Unformed,
}

/// One section at its run-time address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `.text`, `.data`, ...
    pub name: String,
    /// Where it was loaded.
    pub address: VirtAddr,
}

/// A range of memory that belongs to a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub base: VirtAddr,
    /// Bytes.
    pub size: u64,
    /// Whether code lies here.
    pub text: bool,
    /// Whether it is freed once the module is initialised.
    pub init: bool,
}

/// One module.
#[derive(Debug, Clone)]
pub struct Module {
    /// Address of its `struct module`.
    pub addr: VirtAddr,
    /// Its name, with `_`.
    pub name: String,
    /// Live, coming or going.
    pub state: State,
    /// Its memory; the first range is the one with code.
    pub ranges: Vec<Range>,
    /// Its sections, by address; empty if the dump lacks the attributes.
    pub sections: Vec<Section>,
    /// Its GNU build-id.
    pub build_id: Option<BuildId>,
    /// `taints`.
    pub taints: u64,
    /// ORC: address of the ip table, of the entries, and how many.
    pub orc: Option<(VirtAddr, VirtAddr, u32)>,
}

impl Module {
    /// First byte of its code.
    #[must_use]
    pub fn base(&self) -> VirtAddr {
        self.ranges.first().map_or(VirtAddr(0), |r| r.base)
    }

    /// Bytes of all its ranges that stay after initialisation.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.ranges.iter().filter(|r| !r.init).map(|r| r.size).sum()
    }

    /// Whether `addr` lies in one of its ranges.
    #[must_use]
    pub fn contains(&self, addr: VirtAddr) -> bool {
        self.ranges.iter().any(|r| addr.0.wrapping_sub(r.base.0) < r.size)
    }

    /// Run-time address of a section.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<VirtAddr> {
        self.sections.iter().find(|s| s.name == name).map(|s| s.address)
    }
}

/// All modules, in the order of the kernel's list: the newest first.
#[must_use]
pub fn collect(view: &View) -> Vec<Module> {
    let mut out = Vec::new();
    let Some(link) = view.types().field("module", "list") else { return out };
    let searched = || {
        let head = view.symbols().lacks_names().then(|| module_scan::head(view, link.offset))??;
        tracing::warn!("the name `modules` is lost: the list was found by a search of the modules' memory");
        Some(head)
    };
    let Some(head) = view.symbol("modules").or_else(searched) else { return out };
    let walked = list::both_ways(view, head, link.offset, MAX_MODULES);
    for at in walked.elements {
        match read(view, at) {
            Some(module) => out.push(module),
            None => tracing::warn!("the module list's element at {at} is not a module"),
        }
    }
    if let Some(why) = walked.broken {
        tracing::warn!(
            "the module list is damaged, or not whole in the dump: {} modules found; {why}",
            out.len()
        );
    }
    out
}

pub(super) fn read(view: &View, addr: VirtAddr) -> Option<Module> {
    let object = Object::new(view, "module", addr);
    let name_len = view.types().field("module", "name")?.size.min(256);
    let raw = view.space().read_vec(object.address("name")?, usize::try_from(name_len).ok()?).ok()?;
    let name = cstr(&raw).into_owned();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let state = match object.number("state") {
        Some(0) => State::Live,
        Some(1) => State::Coming,
        Some(2) => State::Going,
        _ => State::Unformed,
    };
    let ranges = ranges(view, &object);
    let mut sections = sections(view, &object);
    // An element that points out of the module is not one of its sections.
    sections.retain(|s| ranges.iter().any(|r| s.address.0.wrapping_sub(r.base.0) <= r.size));
    sections.sort_by_key(|s| s.address);
    let orc = object
        .number("arch.num_orcs")
        .zip(object.number("arch.orc_unwind_ip"))
        .zip(object.number("arch.orc_unwind"))
        .and_then(|((n, ip), rows)| Some((VirtAddr(ip), VirtAddr(rows), u32::try_from(n).ok()?)))
        .filter(|&(ip, rows, n)| n > 0 && ip.0 != 0 && rows.0 != 0);
    let mut module = Module {
        addr,
        name,
        state,
        ranges,
        sections,
        build_id: None,
        taints: object.number("taints").unwrap_or(0),
        orc,
    };
    module.build_id = build_id(view, &module);
    Some(module)
}

fn ranges(view: &View, object: &Object<'_>) -> Vec<Range> {
    let mut out = Vec::new();
    let mut push = |base: Option<u64>, size: Option<u64>, text, init| {
        if let (Some(base), Some(size)) = (base, size)
            && base >= view.user_limit()
            && (1..=MAX_RANGE).contains(&size)
            && base.checked_add(size).is_some()
        {
            out.push(Range { base: VirtAddr(base), size, text, init });
        }
    };
    let types = view.types();
    if let (Some(mem), Some(count)) = (types.field("module", "mem"), types.array_len("module", "mem")) {
        // enum mod_mem_type (6.4): TEXT, DATA, RODATA, RO_AFTER_INIT, then the INIT_ ones.
        let element = mem.size / count.max(1);
        let first_init = types.enumerator("MOD_INIT_TEXT").unwrap_or(4).cast_unsigned();
        let text = types.enumerator("MOD_TEXT").unwrap_or(0).cast_unsigned();
        for i in 0..count.min(16) {
            let memory =
                VirtAddr(object.base.0.wrapping_add(mem.offset).wrapping_add(element.wrapping_mul(i)));
            let memory = Object::new(view, "module_memory", memory);
            push(memory.number("base"), memory.number("size"), i == text || i == first_init, i >= first_init);
        }
    } else if types.field("module", "core_layout").is_some() {
        push(object.number("core_layout.base"), object.number("core_layout.size"), true, false);
        push(object.number("init_layout.base"), object.number("init_layout.size"), true, true);
    } else {
        push(object.number("module_core"), object.number("core_size"), true, false);
        push(object.number("module_init"), object.number("init_size"), true, true);
    }
    out
}

fn sections(view: &View, object: &Object<'_>) -> Vec<Section> {
    let types = view.types();
    let Some(attrs) = object.number("sect_attrs").filter(|&p| p >= view.user_limit()) else {
        return Vec::new();
    };
    let text = |at: Option<u64>| view.space().read_cstr(VirtAddr(at?), 128).ok().filter(|s| !s.is_empty());
    let mut out = Vec::new();
    if let (Some(n), Some(array), Some(size)) = (
        Object::new(view, "module_sect_attrs", VirtAddr(attrs)).number("nsections"),
        types.field("module_sect_attrs", "attrs"),
        types.size_of("module_sect_attr"),
    ) {
        for i in 0..n.min(MAX_SECTIONS) {
            let base = VirtAddr(attrs.wrapping_add(array.offset).wrapping_add(i.wrapping_mul(size)));
            let attr = Object::new(view, "module_sect_attr", base);
            let name = text(attr.number("battr.attr.name").or_else(|| attr.number("name")));
            if let (Some(name), Some(address)) = (name, attr.number("address")) {
                out.push(Section { name, address: VirtAddr(address) });
            }
        }
        return out;
    }
    let sect_attrs = Object::new(view, "module_sect_attrs", VirtAddr(attrs));
    // 6.14 made it an array of pointers, which 6.17 marked const under another name.
    let list = ["grp.bin_attrs", "grp.bin_attrs_new"].iter().find_map(|p| sect_attrs.number(p));
    for i in 0..list.map_or(0, |_| MAX_SECTIONS) {
        let slot = VirtAddr(list.unwrap_or(0).wrapping_add(i * 8));
        let Some(attr) = view.space().read_u64(slot).ok().filter(|&p| p >= view.user_limit()) else {
            break;
        };
        let attr = Object::new(view, "bin_attribute", VirtAddr(attr));
        if let (Some(name), Some(address)) = (text(attr.number("attr.name")), attr.number("private")) {
            out.push(Section { name, address: VirtAddr(address) });
        }
    }
    out
}

/// The build-id: from its note's section, else by the note's own bytes in the
/// module's memory.
fn build_id(view: &View, module: &Module) -> Option<BuildId> {
    if let Some(at) = module.section(".note.gnu.build-id") {
        let mut bytes = [0; 80];
        let n = view.space().read(at, &mut bytes).ok()?;
        return BuildId::from_notes(bytes.get(..n)?, 4);
    }
    // namesz 4, descsz 20, type 3, "GNU": what the linker writes with SHA-1.
    let head = *b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    module.ranges.iter().filter(|r| !r.init).find_map(|range| {
        let len = usize::try_from(range.size.min(8 << 20)).ok()?;
        let mut bytes = vec![0; len];
        let n = view.space().read(range.base, &mut bytes).ok()?;
        let at = (0..n).step_by(4).find(|&at| array_at::<16>(&bytes, at) == Some(head))?;
        BuildId::from_notes(bytes.get(at..)?, 4)
    })
}

/// The symbols of each of `modules`.
#[must_use]
pub fn all_symbols(view: &View, modules: &[Module]) -> Vec<SymbolTable> {
    let mut left = MAX_SYMBOLS_MEMORY;
    let tables = modules.iter().map(|module| {
        if left == 0 {
            return SymbolTable::empty(format!("module {}: too many symbols before it", module.name));
        }
        let table = symbols(view, module);
        left = left.saturating_sub(table.memory());
        table
    });
    tables.collect()
}

/// The symbols of a module by its own kallsyms (`struct mod_kallsyms`; before
/// 4.5 members of `struct module`).
#[must_use]
pub(crate) fn symbols(view: &View, module: &Module) -> SymbolTable {
    let mut table = Builder::new(format!("kallsyms of module {}", module.name));
    let object = Object::new(view, "module", module.addr);
    let object = match object.number("kallsyms").filter(|&p| p >= view.user_limit()) {
        Some(own) => Object::new(view, "mod_kallsyms", VirtAddr(own)),
        None => object,
    };
    let (Some(symtab), Some(strtab), Some(count)) =
        (object.number("symtab"), object.number("strtab"), object.number("num_symtab"))
    else {
        return table.finish();
    };
    let count = usize::try_from(count.min(MAX_SYMBOLS)).unwrap_or(0);
    let mut entries = vec![0; count * 24];
    let Ok(got) = view.space().read(VirtAddr(symtab), &mut entries) else { return table.finish() };
    entries.truncate(got);
    // The type letters, since 5.2; before, `st_info` was overwritten with them.
    let letters = object.number("typetab").and_then(|at| view.space().read_vec(VirtAddr(at), count).ok());
    let mut strings = vec![0; usize::try_from(end_of_range(module, strtab)).unwrap_or(0)];
    let read = view.space().read(VirtAddr(strtab), &mut strings).unwrap_or(0);
    strings.truncate(read);
    for (i, symbol) in Symbols::new(entries, strings).iter().enumerate() {
        if symbol.section == SHN_UNDEF || !module.contains(VirtAddr(symbol.value)) {
            continue;
        }
        let name = symbol.name();
        if name.is_empty() {
            continue;
        }
        let letter = letters.as_ref().map_or(Some(symbol.info.0), |letters| letters.get(i).copied());
        let letter = letter.filter(u8::is_ascii_alphabetic).unwrap_or(b't');
        table.push(symbol.value, symbol.size, letter, name);
    }
    table.finish()
}

/// How far a string table at `at` can reach: the end of the range it lies in,
/// or 4 MiB where it lies outside (a module being initialised).
fn end_of_range(module: &Module, at: u64) -> u64 {
    module
        .ranges
        .iter()
        .find(|r| at.wrapping_sub(r.base.0) < r.size)
        .map_or(4 << 20, |r| r.size.saturating_sub(at.wrapping_sub(r.base.0)))
        .min(64 << 20)
}

/// BTF of modules: name, address of the bytes, and how many, from the list
/// `btf_modules` (`kernel/bpf/btf.c`).
#[must_use]
pub fn btf(view: &View) -> Vec<(String, VirtAddr, u64)> {
    let mut out = Vec::new();
    let types = view.types();
    let (Some(head), Some(link)) = (view.symbol("btf_modules"), types.field("btf_module", "list")) else {
        return out;
    };
    for at in list::both_ways(view, head, link.offset, MAX_MODULES).elements {
        let entry = Object::new(view, "btf_module", at);
        let Some(btf) = entry.number("btf") else { continue };
        let btf = Object::new(view, "btf", VirtAddr(btf));
        let name = btf.address("name").and_then(|a| view.space().read_cstr(a, 64).ok());
        if let (Some(name), Some(data), Some(size)) = (name, btf.number("data"), btf.number("data_size")) {
            out.push((name, VirtAddr(data), size));
        }
    }
    out
}
