//! Variables: the per-CPU ones that BTF knows, and the few dozen globals that
//! people print. (BTF has no other globals; pahole writes them since 2024, but
//! the kernel's build does not ask for them.)

use super::{Abbrev, Put, Writer, len32};
use crate::debuginfo::btf::{Kind, TypeId};

/// Names and types of well-known globals. The types have been the same in all
/// kernels with BTF; one whose type is not in BTF is left out.
const KNOWN: &[(&str, &str)] = &[
    ("init_task", "struct task_struct"),
    ("init_mm", "struct mm_struct"),
    ("init_cred", "struct cred"),
    ("init_files", "struct files_struct"),
    ("init_fs", "struct fs_struct"),
    ("init_nsproxy", "struct nsproxy"),
    ("init_pid_ns", "struct pid_namespace"),
    ("init_uts_ns", "struct uts_namespace"),
    ("init_ipc_ns", "struct ipc_namespace"),
    ("init_user_ns", "struct user_namespace"),
    ("init_cgroup_ns", "struct cgroup_namespace"),
    ("init_css_set", "struct css_set"),
    ("init_net", "struct net"),
    ("init_signals", "struct signal_struct"),
    ("modules", "struct list_head"),
    ("super_blocks", "struct list_head"),
    ("slab_caches", "struct list_head"),
    ("workqueues", "struct list_head"),
    ("task_groups", "struct list_head"),
    ("vmap_area_list", "struct list_head"),
    ("cgroup_roots", "struct list_head"),
    ("net_namespace_list", "struct list_head"),
    ("clocksource_list", "struct list_head"),
    ("root_task_group", "struct task_group"),
    ("cgrp_dfl_root", "struct cgroup_root"),
    ("boot_cpu_data", "struct cpuinfo_x86"),
    ("nr_cpu_ids", "unsigned int"),
    ("__cpu_online_mask", "struct cpumask"),
    ("__cpu_possible_mask", "struct cpumask"),
    ("__cpu_present_mask", "struct cpumask"),
    ("__per_cpu_offset", "unsigned long []"),
    ("node_data", "struct pglist_data *[]"),
    ("mem_section", "struct mem_section **"),
    ("high_memory", "void *"),
    ("phys_base", "unsigned long"),
    ("page_offset_base", "unsigned long"),
    ("vmalloc_base", "unsigned long"),
    ("vmemmap_base", "unsigned long"),
    ("max_pfn", "unsigned long"),
    ("init_top_pgt", "pgd_t []"),
    ("idt_table", "gate_desc []"),
    ("sys_call_table", "sys_call_ptr_t []"),
    ("vm_stat", "atomic_long_t []"),
    ("vm_zone_stat", "atomic_long_t []"),
    ("vm_node_stat", "atomic_long_t []"),
    ("swap_info", "struct swap_info_struct *[]"),
    ("jiffies", "volatile unsigned long"),
    ("jiffies_64", "u64"),
    ("saved_command_line", "char *"),
    ("boot_command_line", "char []"),
    ("linux_banner", "const char []"),
    ("log_buf", "char *"),
    ("prb", "struct printk_ringbuffer *"),
    ("console_drivers", "struct console *"),
    ("console_list", "struct hlist_head"),
    ("panic_cpu", "atomic_t"),
    ("panic_on_oops", "int"),
    ("panic_timeout", "int"),
    ("oops_in_progress", "int"),
    ("tainted_mask", "unsigned long"),
    ("system_state", "enum system_states"),
    ("kexec_crash_image", "struct kimage *"),
    ("vmcoreinfo_data", "unsigned char *"),
    ("vmcoreinfo_size", "size_t"),
    ("crash_notes", "note_buf_t *"),
    ("rcu_state", "struct rcu_state"),
    ("system_wq", "struct workqueue_struct *"),
    ("block_class", "struct class"),
    ("tcp_prot", "struct proto"),
    ("udp_prot", "struct proto"),
    ("tcp_hashinfo", "struct inet_hashinfo"),
    ("udp_table", "struct udp_table"),
    ("dev_base_lock", "rwlock_t"),
    ("tasklist_lock", "rwlock_t"),
    ("avenrun", "unsigned long [3]"),
    ("total_forks", "unsigned long"),
    ("nr_threads", "int"),
];

impl Writer<'_> {
    pub(super) fn globals(&mut self) {
        let zero = self.input.symbols.address("__per_cpu_start");
        let types: Vec<_> = self.btf.own_types().filter(|t| t.kind == Kind::Datasec).collect();
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
            }
        }
        if self.btf.base().is_none() {
            for (name, spec) in KNOWN {
                self.known(name, spec);
            }
        }
    }

    fn location(&mut self, address: u64) {
        self.info.extend([9, 0x03]); // DW_OP_addr
        self.info.u64(address);
    }

    fn known(&mut self, name: &'static str, spec: &str) {
        let data = |s: &crate::debuginfo::symbols::Symbol<'_>| !s.is_text() && s.address >= 1 << 63;
        let Some(symbol) = self.input.symbols.by_name(name).filter(data) else { return };
        let (spec, count) = match spec.split_once('[') {
            Some((spec, count)) => (spec, Some(count.trim_end_matches(']').parse().unwrap_or(0u32))),
            None => (spec, None),
        };
        let stars = spec.chars().filter(|c| *c == '*').count();
        let mut base = spec.trim_end_matches(['*', ' ']);
        let mut qualifier = None;
        for (word, abbrev) in [("const ", Abbrev::Const), ("volatile ", Abbrev::Volatile)] {
            if let Some(rest) = base.strip_prefix(word) {
                (base, qualifier) = (rest, Some(abbrev));
            }
        }
        let known = if base == "void" { None } else { self.find_known(base) };
        if (known.is_none() && base != "void") || (known.is_none() && stars == 0) {
            return;
        }
        // Types that may not be in BTF are made anew, inside out.
        let mut made: Option<u32> = None;
        let layers = qualifier.into_iter().chain(std::iter::repeat_n(Abbrev::Pointer, stars));
        for layer in layers {
            let at = len32(self.info.len());
            let nothing = made.is_none() && known.is_none();
            self.abbrev(if nothing { Abbrev::PointerVoid } else { layer });
            if matches!(layer, Abbrev::Pointer) {
                self.info.push(8);
            }
            if !nothing {
                self.made_or(made, known);
            }
            made = Some(at);
        }
        if let Some(count) = count {
            let Some(index) = self.find_known("unsigned long") else { return };
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
        self.location(symbol.address);
    }

    fn find_known(&self, name: &str) -> Option<TypeId> {
        // BTF calls it as gcc does.
        let name = match name {
            "unsigned long" => "long unsigned int",
            other => other,
        };
        self.resolve_ending(self.btf.find(name)?)
    }

    fn made_or(&mut self, made: Option<u32>, known: Option<TypeId>) {
        match (made, known) {
            (Some(at), _) => self.info.u32(at),
            (None, Some(id)) => self.reference(id, false),
            (None, None) => self.info.u32(0),
        }
    }
}
