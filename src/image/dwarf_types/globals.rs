//! Variables: the per-CPU ones that BTF knows, and the globals whose types are the
//! same in many kernels. (BTF has no other globals; pahole writes them since 2024,
//! but the kernel's build does not ask for them.)

use std::collections::HashSet;

use super::{Abbrev, Put, Writer, len32};
use crate::addr::PAGE_SIZE;
use crate::debuginfo::btf::{Kind, Type, TypeId};
use crate::debuginfo::symbols::Symbol;

/// `TYPE: NAME...`, or `percpu TYPE: NAME...`; what scripts/lab/record-globals found
/// to be the same in Debian's 6.1 and 6.12.
const RECORDED: &str = include_str!("globals.txt");

/// What other kernels have, or declare otherwise. Of several types for one name the
/// first one that is in BTF and as large as the symbol counts; `if STRUCT.MEMBER` is what
/// kernels have that declare it so.
const MORE: &str = "\
struct task_struct: init_task
struct list_head: cgroup_roots modules net_namespace_list slab_caches super_blocks task_groups vmap_area_list workqueues
struct files_struct: init_files
struct fs_struct: init_fs
struct css_set: init_css_set
struct signal_struct: init_signals
struct cgroup_namespace: init_cgroup_ns
struct console *: console_drivers
struct hlist_head: console_list
struct printk_ringbuffer *: prb
struct kimage *: kexec_crash_image
struct tk_data: tk_core
struct class: block_class
const struct class: block_class
struct bus_type: pci_bus_type platform_bus_type
const struct bus_type: pci_bus_type platform_bus_type
volatile unsigned long: jiffies
unsigned long []: __per_cpu_offset
struct mem_section **: mem_section
pgd_t []: init_top_pgt
gate_desc []: idt_table
const sys_call_ptr_t []: sys_call_table
rwlock_t: dev_base_lock tasklist_lock
struct file_system_type * if file_system_type.next: file_systems
struct hlist_head if file_system_type.list: file_systems
unsigned int: total_nr_irqs
const struct irq_stat_info []: irq_stat_info
unsigned long []: irq_stat_count_show
unsigned long [3]: avenrun
percpu struct rq: runqueues
percpu struct task_struct *: current_task
percpu struct tss_struct: cpu_tss_rw
percpu unsigned long: this_cpu_off
";

/// `'printk.c'::prb`: names that scripts say with their file.
const FILES: &[(&str, &str)] = &[("prb", "kernel/printk/printk.c")];

/// A variable that stands in a unit of its file once more.
pub(super) struct OfFile {
    file: &'static str,
    name: &'static str,
    /// Where its type stands.
    type_at: u32,
    address: u64,
}

/// Declared the same in every kernel, for drivers to use (`<linux/ioport.h>`): what stands
/// behind them says nothing. (7.3.4 has 64 bytes there that have no name in kallsyms.)
const SURE: &[&str] = &["iomem_resource", "ioport_resource"];

/// A symbol's size is the gap to the next one: as much more than its type's may be
/// padding, if the next one does not begin a page.
const PADDING: u64 = 64;

/// A type as the tables write it.
struct Spec<'t> {
    qualifier: Option<Abbrev>,
    /// As BTF calls it; `None` is `void`.
    base: Option<&'t str>,
    stars: usize,
    /// Elements of an array; 0 where their number is not known.
    count: Option<u32>,
}

impl<'t> Spec<'t> {
    fn parse(spec: &'t str) -> Self {
        let (spec, count) = match spec.split_once('[') {
            Some((spec, count)) => (spec, Some(count.trim_end_matches(']').parse().unwrap_or(0))),
            None => (spec, None),
        };
        let stars = spec.bytes().filter(|&c| c == b'*').count();
        let mut base = spec.trim_end_matches(['*', ' ']);
        let mut qualifier = None;
        for (word, abbrev) in [("const ", Abbrev::Const), ("volatile ", Abbrev::Volatile)] {
            if let Some(rest) = base.strip_prefix(word) {
                (base, qualifier) = (rest, Some(abbrev));
            }
        }
        // BTF calls them as gcc does.
        let base = match base {
            "void" => None,
            "long" => Some("long int"),
            "unsigned long" => Some("long unsigned int"),
            "short" => Some("short int"),
            "unsigned short" => Some("short unsigned int"),
            "unsigned long long" => Some("long long unsigned int"),
            "long long" => Some("long long int"),
            other => Some(other),
        };
        Self { qualifier, base, stars, count }
    }
}

/// The tables' rows: whether of per-CPU variables, their type, their names.
pub(super) fn rows() -> impl Iterator<Item = (bool, &'static str, &'static str)> {
    MORE.lines().chain(RECORDED.lines()).filter_map(|row| {
        let (spec, names) = row.split_once(": ")?;
        let per_cpu = spec.strip_prefix("percpu ");
        Some((per_cpu.is_some(), per_cpu.unwrap_or(spec), names))
    })
}

impl Writer<'_> {
    pub(super) fn globals(&mut self) {
        let zero = self.input.symbols.address("__per_cpu_start");
        let types: Vec<_> = self.btf.own_types().filter(|t| t.kind == Kind::Datasec).collect();
        let mut told = HashSet::new();
        for section in types {
            let per_cpu = section.name() == ".data..percpu";
            if self.is_too_much() {
                return;
            }
            for v in section.section_vars() {
                let Some(var) = self.btf.get(v.type_id).filter(|t| t.kind == Kind::Var) else { continue };
                let Some(id) = var.target().and_then(|id| self.resolve_ending(id)) else { continue };
                // Offsets are from the start of the section (before 6.15: 0).
                // A module's section has no such symbol.
                let address = match zero {
                    Some(zero) if per_cpu && self.btf.base().is_none() => {
                        Some(zero.saturating_add(u64::from(v.offset)))
                    }
                    _ => self.input.symbols.address(var.name()),
                };
                let Some(address) = address else { continue };
                self.abbrev(Abbrev::Variable);
                self.name(var.name_offset());
                self.reference(id, false);
                self.location(address);
                told.insert(var.name());
            }
        }
        if self.btf.base().is_none() {
            self.known_globals(told);
        }
    }

    fn known_globals<'t>(&mut self, mut told: HashSet<&'t str>)
    where
        'static: 't,
    {
        let address = |name| self.input.symbols.address(name).unwrap_or(0);
        let per_cpu_area = address("__per_cpu_start")..address("__per_cpu_end");
        for (per_cpu, spec, names) in rows() {
            let (spec, condition) = spec.split_once(" if ").map_or((spec, None), |(s, c)| (s, Some(c)));
            if condition.is_some_and(|c| !self.has_member(c)) {
                continue;
            }
            let spec = Spec::parse(spec);
            let base = spec.base.and_then(|name| self.find_known(name));
            if base.is_none() && (spec.base.is_some() || spec.stars == 0) {
                continue;
            }
            let Some(element) = self.known_size(&spec, base) else { continue };
            // One without a name is known by its members and its size alone.
            let named = spec.stars == 0 && spec.base.is_some_and(|name| !name.starts_with('{'));
            let open = spec.count == Some(0) || named && base.is_some_and(|id| self.is_open(id));
            for name in names.split(' ') {
                let data = |s: &Symbol<'_>| {
                    !s.is_text()
                        && per_cpu == per_cpu_area.contains(&s.address)
                        && (per_cpu || s.address >= 1 << 63)
                        && fits(s, element, spec.count, open || SURE.contains(&name))
                };
                let Some(symbol) = self.input.symbols.by_name(name).filter(data) else { continue };
                if told.insert(name) {
                    self.known(name, &spec, base, symbol.address);
                }
            }
        }
    }

    /// `STRUCT.MEMBER`: whether there is such a one.
    fn has_member(&self, place: &str) -> bool {
        let Some((structure, member)) = place.split_once('.') else { return false };
        let found = self.find_known(structure).and_then(|id| self.btf.strip(id));
        found.is_some_and(|t| t.members().any(|m| m.name == member))
    }

    /// The bytes of one element.
    fn known_size(&self, spec: &Spec<'_>, base: Option<TypeId>) -> Option<u64> {
        if spec.stars > 0 { Some(8) } else { self.btf.size(base?) }
    }

    /// Whether it ends with an array of any length, as `struct mm_struct` does.
    fn is_open(&self, id: TypeId) -> bool {
        let last = self.btf.strip(id).and_then(|t| t.members().last());
        last.and_then(|m| self.btf.strip(m.type_id)?.array()).is_some_and(|a| a.len == 0)
    }

    fn known(&mut self, name: &'static str, spec: &Spec<'_>, known: Option<TypeId>, address: u64) {
        // Types that may not be in BTF are made anew, inside out.
        let mut made: Option<u32> = None;
        let layers = spec.qualifier.into_iter().chain(std::iter::repeat_n(Abbrev::Pointer, spec.stars));
        for layer in layers {
            let at = len32(self.info.len());
            let nothing = made.is_none() && known.is_none();
            self.abbrev(match layer {
                Abbrev::Const if nothing => Abbrev::ConstVoid,
                Abbrev::Volatile if nothing => Abbrev::VolatileVoid,
                _ if nothing => Abbrev::PointerVoid,
                layer => layer,
            });
            if matches!(layer, Abbrev::Pointer) {
                self.info.push(8);
            }
            if !nothing {
                self.made_or(made, known);
            }
            made = Some(at);
        }
        if let Some(count) = spec.count {
            let Some(index) = self.find_known("long unsigned int") else { return };
            let at = len32(self.info.len());
            self.abbrev(Abbrev::Array);
            self.made_or(made, known);
            self.abbrev(if count > 0 { Abbrev::Subrange } else { Abbrev::SubrangeOpen });
            self.reference(index, false);
            if count > 0 {
                self.info.uleb(u64::from(count));
            }
            self.abbrev(Abbrev::End);
            made = Some(at);
        }
        self.abbrev(Abbrev::Variable);
        self.text(name);
        self.made_or(made, known);
        self.location(address);
        let file = FILES.iter().find(|(of_file, _)| *of_file == name);
        if let (Some(type_at), Some((_, file))) = (made, file) {
            self.of_files.push(OfFile { file, name, type_at, address });
        }
    }

    /// The units behind the one with all types.
    pub(super) fn file_units(&mut self) {
        for v in std::mem::take(&mut self.of_files) {
            let start = self.info.len();
            self.unit_header();
            self.abbrev(Abbrev::FileUnit);
            self.text(v.file);
            self.info.push(super::C99);
            self.abbrev(Abbrev::FileVariable);
            self.text(v.name);
            self.info.u32(v.type_at);
            self.location(v.address);
            self.abbrev(Abbrev::End);
            let length = len32(self.info.len() - start - 4);
            self.info.patch_u32(start, length);
        }
    }

    /// By name, or by its members: `{seq,timekeeper}` has no name.
    fn find_known(&self, name: &str) -> Option<TypeId> {
        let Some(members) = name.strip_prefix('{') else {
            return self.resolve_ending(self.btf.find(name)?);
        };
        let members = members.trim_end_matches('}').split(',');
        let same = |t: &Type<'_>| {
            t.kind == Kind::Struct && t.name().is_empty() && t.members().map(|m| m.name).eq(members.clone())
        };
        self.btf.own_types().find(same).map(|t| t.id)
    }

    fn made_or(&mut self, made: Option<u32>, known: Option<TypeId>) {
        match (made, known) {
            (Some(at), _) => self.info.u32(at),
            (None, Some(id)) => self.reference(id, false),
            (None, None) => self.info.u32(0),
        }
    }

    fn location(&mut self, address: u64) {
        self.info.extend([9, 0x03]); // DW_OP_addr
        self.info.u64(address);
    }
}

/// Whether `symbol` may be `count` elements of that size, or more of them where it
/// is `open`: a type that the kernel has changed since the tables were made does not
/// get through.
fn fits(symbol: &Symbol<'_>, element: u64, count: Option<u32>, open: bool) -> bool {
    let least = element.saturating_mul(u64::from(count.unwrap_or(1).max(1)));
    let end = symbol.address.saturating_add(symbol.size);
    least <= symbol.size && (open || symbol.size - least < PADDING || end.is_multiple_of(PAGE_SIZE))
}
