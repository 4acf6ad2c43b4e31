//! The ORC tables that the dump holds: the kernel's and each module's.
//!
//! The kernel's lie between symbols that the linker script sets
//! (`include/asm-generic/vmlinux.lds.h`: `ORC_UNWIND_TABLE`, and since 6.4
//! `.orc_header`); a module's are named by `struct mod_arch_specific`
//! (`arch/x86/include/asm/module.h`). They are read-only data, which no dump
//! filter takes away.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Kernel;
use crate::addr::VirtAddr;
use crate::arch::map;
use crate::debuginfo::orc::{self, Layout, OrcEntry, OrcTable};
use crate::debuginfo::orc_scan;
use crate::memory;

/// Most rows that are read (a kernel with everything built in has 2 million).
const MAX_ROWS: u64 = 1 << 23;

/// The tables, each made at first use.
#[derive(Debug)]
pub struct OrcTables {
    kernel: Option<OrcTable>,
    modules: Vec<OnceLock<Option<OrcTable>>>,
    /// Rows of the modules read so far: damaged modules may all share one large table.
    module_rows: AtomicU64,
    /// `None` if it is not known: then modules have no rows either.
    layout: Option<Layout>,
    /// Why the kernel's own is not there.
    pub missing: Option<String>,
    /// What is lost of the kernel's own, in words.
    pub lost: Option<String>,
}

impl OrcTables {
    /// Reads the kernel's table.
    pub(super) fn read(kernel: &Kernel) -> Self {
        let header = kernel
            .symbol("__start_orc_header")
            .zip(kernel.symbol("__stop_orc_header"))
            .filter(|(start, stop)| stop.0.wrapping_sub(start.0) == 20)
            .and_then(|(start, _)| kernel.space().read_vec(start, 20).ok());
        let (layout, own) = match Layout::detect(header.as_deref(), kernel.layout().version.orc_layout()) {
            Ok(layout) => (Some(layout), of_kernel(kernel, layout)),
            Err(error) => (None, Err(error.to_string())),
        };
        let (own, lost, missing) = match own {
            Ok((table, lost)) => (Some(table), lost, None),
            Err(why) => (None, None, Some(why)),
        };
        let modules = kernel.modules().iter().map(|_| OnceLock::new()).collect();
        Self { kernel: own, modules, module_rows: AtomicU64::new(0), layout, missing, lost }
    }

    /// The kernel's own table.
    #[must_use]
    pub fn of_kernel(&self) -> Option<&OrcTable> {
        self.kernel.as_ref()
    }

    /// The table of the module with this index in [`Kernel::modules`].
    #[must_use]
    pub fn of_module(&self, kernel: &Kernel, index: usize) -> Option<&OrcTable> {
        self.modules.get(index)?.get_or_init(|| self.read_module(kernel, index)).as_ref()
    }

    fn read_module(&self, kernel: &Kernel, index: usize) -> Option<OrcTable> {
        let (_, _, count) = kernel.modules().get(index)?.orc?;
        let taken = self.module_rows.fetch_add(count.into(), Ordering::Relaxed);
        (taken < MAX_ROWS).then(|| of_module(kernel, index, self.layout?))?
    }

    /// The rule for `pc`: that of the kernel or of the module it lies in.
    #[must_use]
    pub fn lookup(&self, kernel: &Kernel, pc: u64) -> OrcEntry {
        self.of_code(kernel, pc).map_or(OrcEntry::UNDEFINED, |table| table.lookup(pc))
    }

    /// The rule on both sides of a hole around `pc` ([`OrcTable::bridged`]) in the kernel's code.
    #[must_use]
    pub fn bridged(&self, kernel: &Kernel, pc: u64) -> Option<OrcEntry> {
        self.of_code(kernel, pc)?.bridged(pc, kernel.symbols())
    }

    /// The table for `pc`.
    fn of_code(&self, kernel: &Kernel, pc: u64) -> Option<&OrcTable> {
        let own = self.kernel.as_ref().filter(|t| t.range().contains(&pc));
        let module = || kernel.modules().iter().position(|m| m.contains(VirtAddr(pc)));
        own.or_else(|| self.of_module(kernel, module()?))
    }

    /// Whether there was a rule for `pc` that is lost.
    #[must_use]
    pub fn is_lost(&self, kernel: &Kernel, pc: u64) -> bool {
        match &self.kernel {
            Some(table) if table.range().contains(&pc) => table.is_lost(pc),
            None if kernel.is_text(VirtAddr(pc)) && kernel.module_at(VirtAddr(pc)).is_none() => true,
            _ => {
                let index = kernel.modules().iter().position(|m| m.contains(VirtAddr(pc)) && m.orc.is_some());
                index.is_some_and(|i| self.of_module(kernel, i).is_none_or(|table| table.is_lost(pc)))
            }
        }
    }
}

/// A table, and what is lost of it.
type Parsed = (OrcTable, Option<String>);

fn of_kernel(kernel: &Kernel, layout: Layout) -> Result<Parsed, String> {
    let at = |name: &str| kernel.symbol(name).ok_or_else(|| format!("no symbol {name}"));
    let bounds =
        || Ok((at("__start_orc_unwind_ip")?, at("__stop_orc_unwind_ip")?, at("__start_orc_unwind")?));
    let (ip, ip_stop, rows) = match bounds() {
        Ok(bounds) => bounds,
        Err(why) if kernel.symbols().lacks_names() => {
            let start = kernel.text_start();
            let found = orc_scan::find(kernel.space(), start, map::KERNEL_IMAGE_SIZE).ok_or(why)?;
            let text = start.0..found.end;
            return parse(
                kernel,
                layout,
                found.ip,
                found.rows,
                found.count,
                text,
                "ORC of the kernel, found by content",
            );
        }
        Err(why) => return Err(why),
    };
    let bytes = ip_stop.0.wrapping_sub(ip.0);
    let count = bytes / 4;
    if bytes % 4 != 0 || count == 0 || count > MAX_ROWS {
        return Err(format!("its bounds contradict: {ip} to {ip_stop}"));
    }
    // Behind the last function of the image comes a row that ends it.
    let end = ["_einittext", "_etext"].iter().find_map(|n| kernel.symbol(n)).map_or(u64::MAX, |a| a.0);
    parse(kernel, layout, ip, rows, count, kernel.text_start().0..end, "ORC of the kernel")
}

fn of_module(kernel: &Kernel, index: usize, layout: Layout) -> Option<OrcTable> {
    let module = kernel.modules().get(index)?;
    let (ip, rows, count) = module.orc?;
    let text = || module.ranges.iter().filter(|r| r.text);
    let end = text().map(|r| r.base.0.saturating_add(r.size)).max()?;
    let start = text().map(|r| r.base.0).min()?;
    let origin = format!("ORC of module {}", module.name);
    match parse(kernel, layout, ip, rows, u64::from(count), start..end, &origin) {
        Ok((table, lost)) => {
            lost.iter().for_each(|lost| tracing::warn!("{origin}: {lost}"));
            Some(table)
        }
        Err(why) => {
            tracing::info!("{origin} not usable: {why}");
            None
        }
    }
}

fn parse(
    kernel: &Kernel,
    layout: Layout,
    ip: VirtAddr,
    rows: VirtAddr,
    count: u64,
    text: Range<u64>,
    origin: &str,
) -> Result<Parsed, String> {
    let count = usize::try_from(count.min(MAX_ROWS)).map_err(|e| e.to_string())?;
    let (ips, entries) = (
        memory::read_holed(kernel.space(), ip, count * 4),
        memory::read_holed(kernel.space(), rows, count * 6),
    );
    let mut lost = ips.sentence().or_else(|| entries.sentence());
    let (mut ip_holes, entry_holes) = (ips.lost(), entries.lost());
    if lost.is_some() && ip_holes.first().is_some_and(|h| h.len() == ips.bytes.len()) {
        return Err(lost.unwrap_or_default());
    }
    if let Some(all) = orc::foreign(&ips.bytes, &ip_holes, ip.0) {
        let pages = all.len() - ip_holes.len();
        let others = format!("in the place of {pages} of its pages stand others");
        lost = Some(lost.map_or_else(|| others.clone(), |lost| format!("{lost}; {others}")));
        ip_holes = all;
    }
    let (ips, entries) = ((&ips.bytes[..], &ip_holes[..]), (&entries.bytes[..], &entry_holes[..]));
    let table = OrcTable::parse_holed(layout, ips, ip.0, entries, text, origin).map_err(|e| e.to_string())?;
    Ok((table, lost))
}
