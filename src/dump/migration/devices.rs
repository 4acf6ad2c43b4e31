//! What the sections of devices hold, by the JSON at the end of a migration stream.
//!
//! ```text
//!  {"page_size": 4096, "devices": [{"name": "cpu", "instance_id": 0, "vmsd_name": "cpu",
//!    "fields": [{"name": "env.regs", "array_len": 16, "type": "uint64", "size": 8}, ...],
//!    "subsections": [...]}]}
//! ```
//!
//! The size of a field is what was written of it, of each element where it is an array; a
//! subsection begins with 05, its name, and u32 version (QEMU `migration/vmstate.c`). A CPU's
//! fields are those of QEMU `target/i386/machine.c`.

use std::collections::HashMap;

use serde::Deserialize;

use super::super::notes::{Notes, PrStatus, QemuCpu, Segment};
use crate::arch::Register;
use crate::bytes::source::Source;

/// A description larger than this is none: they have 100 to 400 KB.
const MAX: u64 = 16 << 20;
const CPUS_MAX: u32 = 4096;

/// All devices, by name and instance.
pub(super) struct Description(HashMap<(String, u32), Device>);

#[derive(Deserialize)]
struct Json {
    devices: Vec<Device>,
}

/// A device, a part of one, or a subsection.
#[derive(Deserialize)]
pub(super) struct Device {
    #[serde(default)]
    name: String,
    #[serde(default)]
    vmsd_name: String,
    #[serde(default)]
    instance_id: u32,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    subsections: Vec<Device>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    #[serde(default)]
    array_len: Option<u64>,
    #[serde(default)]
    size: u64,
    #[serde(default, rename = "struct")]
    inner: Option<Device>,
}

impl Field {
    fn len(&self) -> Option<u64> {
        self.size.checked_mul(self.array_len.unwrap_or(1))
    }
}

impl Description {
    /// The description at the end of `source`: behind the last zero byte, five bytes before it.
    pub(super) fn find(source: &dyn Source) -> Option<Self> {
        let len = source.len().min(MAX);
        let from = source.len() - len;
        let tail = source.bytes(from, usize::try_from(len).ok()?).ok()?;
        let last_zero = memchr::memrchr(0, &tail)?;
        let start = last_zero + memchr::memchr(b'{', tail.get(last_zero..)?)?;
        let (mark, size) = tail.get(start.checked_sub(5)?..start)?.split_first()?;
        let size = usize::try_from(u32::from_be_bytes(size.try_into().ok()?)).ok()?;
        if *mark != 6 {
            return None;
        }
        // serde_json ends at 128 levels of nesting.
        let json: Json = serde_json::from_slice(tail.get(start..start.checked_add(size)?)?)
            .inspect_err(|e| tracing::debug!("the description of the devices is not understood: {e}"))
            .ok()?;
        // The first of a name counts.
        let devices = json.devices.into_iter().rev();
        Some(Self(devices.map(|d| ((d.name.clone(), d.instance_id), d)).collect()))
    }

    /// What the section of a device holds. A device has one: a stream that names it again and
    /// again would have its fields summed up each time.
    pub(super) fn take(&mut self, name: String, instance: u32) -> Option<Device> {
        self.0.remove(&(name, instance))
    }
}

impl Device {
    /// Bytes of its section.
    pub(super) fn len(&self) -> Option<u64> {
        let fields = self.fields.iter().try_fold(0u64, |sum, f| sum.checked_add(f.len()?))?;
        self.subsections
            .iter()
            .try_fold(fields, |sum, s| sum.checked_add(6 + s.vmsd_name.len() as u64)?.checked_add(s.len()?))
    }

    /// The field of a name: where it stands behind the start of the section.
    fn field(&self, name: &str) -> Option<(u64, &Field)> {
        let mut at = 0u64;
        for field in &self.fields {
            if field.name == name {
                return Some((at, field));
            }
            at = at.checked_add(field.len()?)?;
        }
        None
    }

    /// Takes the state of CPU `number`, whose section is at `at`.
    pub(super) fn cpu(&self, source: &dyn Source, at: u64, number: u32, to: &mut Notes) -> Option<()> {
        use Register::{
            Cs, Ds, Eflags, Es, Fs, FsBase, Gs, GsBase, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx,
            Rcx, Rdi, Rdx, Rip, Rsi, Rsp, Ss,
        };
        /// QEMU's order of `env.regs`, which is that of instructions.
        const GENERAL: [Register; 16] =
            [Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15];
        // CPUs come in their order; one that is missing would move all others.
        if number >= CPUS_MAX || usize::try_from(number).ok()? != to.qemu_cpus.len() {
            return None;
        }
        let read = |from: u64, len: u64| -> Option<u64> {
            let bytes = source.bytes(at.checked_add(from)?, usize::try_from(len.min(8)).ok()?).ok()?;
            Some(bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
        };
        let scalar = |name: &str| self.field(name).and_then(|(from, field)| read(from, field.size));
        let (from, regs) = self.field("env.regs").filter(|(_, f)| f.len() == Some(128))?;
        let mut cpu = QemuCpu { version: 1, ..QemuCpu::default() };
        for (register, i) in GENERAL.into_iter().zip(0..) {
            cpu.regs.set(register, read(from + i * regs.size, regs.size));
        }
        cpu.regs.set(Rip, scalar("env.eip"));
        cpu.regs.set(Eflags, scalar("env.eflags"));
        let segments = self.segments("env.segs", &read);
        if let [es, cs, ss, ds, fs, gs, ..] = segments[..] {
            (cpu.es, cpu.cs, cpu.ss, cpu.ds, cpu.fs, cpu.gs) = (es, cs, ss, ds, fs, gs);
            let selectors = [es, cs, ss, ds, fs, gs].map(|s| u64::from(s.selector));
            cpu.regs.extend([Es, Cs, Ss, Ds, Fs, Gs].into_iter().zip(selectors));
            cpu.regs.extend([(FsBase, fs.base), (GsBase, gs.base)]);
        }
        let one = |name: &str| self.segments(name, &read).first().copied().unwrap_or_default();
        (cpu.ldt, cpu.tr, cpu.gdt, cpu.idt) = (one("env.ldt"), one("env.tr"), one("env.gdt"), one("env.idt"));
        let control = |n: u32| scalar(&format!("env.cr[{n}]")).unwrap_or(0);
        (cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4) = (control(0), control(2), control(3), control(4));
        cpu.kernel_gs_base = scalar("env.kernelgsbase");
        to.prstatus.push(PrStatus { pid: number + 1, signal: 0, regs: cpu.regs });
        to.qemu_cpus.push(cpu);
        Some(())
    }

    /// The segment registers in the field or fields of a name.
    fn segments(&self, name: &str, read: &dyn Fn(u64, u64) -> Option<u64>) -> Vec<Segment> {
        let (mut at, mut out) = (0u64, Vec::new());
        for field in &self.fields {
            let Some(len) = field.len() else { break };
            if let Some(inner) = field.inner.as_ref().filter(|_| field.name == name) {
                for i in 0..field.array_len.unwrap_or(1).min(8) {
                    let value = |name: &str| {
                        let (from, of) = inner.field(name)?;
                        read(at + i * field.size + from, of.size)
                    };
                    let short = |name: &str| value(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
                    out.push(Segment {
                        selector: short("selector"),
                        limit: short("limit"),
                        flags: short("flags"),
                        base: value("base").unwrap_or(0),
                    });
                }
            }
            let Some(next) = at.checked_add(len) else { break };
            at = next;
        }
        out
    }
}
