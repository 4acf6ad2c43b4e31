//! target.xml and the register file: which registers gdb is shown, in which
//! order and width, and which of them the dump does not hold.
//!
//! The order of the registers in the XML is their order in the `g` packet.
//! gdb requires the x87 registers in `org.gnu.gdb.i386.core`; the other
//! features are optional (gdb: `gdb/features/i386/64bit-*.xml`).

use std::collections::HashMap;
use std::fmt::Write;

use gdbstub_arch::x86::reg::id::X86_64CoreRegId as CoreId;

use crate::arch::registers::{Register, Registers, of_gdb_core};

/// Operating system ABI named in target.xml. It decides how gdb finds
/// libraries: `none` makes it ask `qXfer:libraries`, `GNU/Linux` walk `r_debug`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OsAbi {
    /// A kernel.
    None,
    /// A user process.
    Linux,
}

/// Optional groups of registers, beside core, SSE, linux and segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// `ymm0h`..`ymm15h`.
    Avx,
    /// `k0`..`k7`, `zmm0h`.., `xmm16`.., `ymm16h`.., `zmm16h`...
    Avx512,
    /// `pkru`.
    Pkeys,
    /// Control registers and facts of a kernel task: `cr0 cr2 cr3 cr4 efer cpu task`.
    System,
    /// `user_rax`..: the registers of user mode of a kernel task.
    User,
}

/// The registers that are announced, and where each stands in the `g` packet.
#[derive(Debug, Clone)]
pub struct Description {
    xml: String,
    places: HashMap<String, (usize, usize)>,
    order: Vec<(String, usize, usize)>,
    len: usize,
}

impl Description {
    /// The description of an x86-64 target.
    #[must_use]
    pub fn new(osabi: OsAbi, extras: &[Extra]) -> Self {
        let mut d = Self { xml: String::new(), places: HashMap::new(), order: Vec::new(), len: 0 };
        d.xml.push_str("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n<architecture>i386:x86-64</architecture>\n");
        d.xml.push_str(match osabi {
            OsAbi::None => "<osabi>none</osabi>\n",
            OsAbi::Linux => "<osabi>GNU/Linux</osabi>\n",
        });
        d.core();
        d.sse();
        d.feature("org.gnu.gdb.i386.linux", |d| d.reg("orig_rax", 64, "int64", ""));
        d.feature("org.gnu.gdb.i386.segments", |d| {
            d.reg("fs_base", 64, "int64", "");
            d.reg("gs_base", 64, "int64", "");
        });
        for extra in extras {
            match extra {
                Extra::Avx => d.feature("org.gnu.gdb.i386.avx", |d| {
                    (0..16).for_each(|i| d.reg(&format!("ymm{i}h"), 128, "uint128", ""));
                }),
                Extra::Avx512 => d.avx512(),
                Extra::Pkeys => d.feature("org.gnu.gdb.i386.pkeys", |d| d.reg("pkru", 32, "uint32", "")),
                Extra::System => d.system(),
                Extra::User => d.user(),
            }
        }
        d.xml.push_str("</target>\n");
        d
    }

    fn feature(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        let _ = writeln!(self.xml, "<feature name=\"{name}\">");
        fill(self);
        self.xml.push_str("</feature>\n");
    }

    fn reg(&mut self, name: &str, bits: usize, ty: &str, group: &str) {
        let group = if group.is_empty() { String::new() } else { format!(" group=\"{group}\"") };
        let _ = writeln!(self.xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{ty}\"{group}/>");
        self.places.insert(name.to_owned(), (self.len, bits / 8));
        self.order.push((name.to_owned(), self.len, bits / 8));
        self.len += bits / 8;
    }

    /// Those of gdb's core registers to which `kind` gives a type and a group.
    fn of_core(&mut self, kind: impl Fn(CoreId) -> Option<(&'static str, &'static str)>) {
        for register in of_gdb_core() {
            if let Some((ty, group)) = kind(register.id) {
                self.reg(&register.name, register.bytes * 8, ty, group);
            }
        }
    }

    fn core(&mut self) {
        self.feature("org.gnu.gdb.i386.core", |d| {
            d.xml.push_str(concat!(
                "<flags id=\"i386_eflags\" size=\"4\">",
                "<field name=\"\" start=\"22\" end=\"31\"/>",
                "<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>",
                "<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>",
                "<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>",
                "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>",
                "<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/>",
                "<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" end=\"16\"/>",
                "<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>",
                "<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/>",
                "<field name=\"ID\" start=\"21\" end=\"21\"/></flags>\n",
            ));
            d.of_core(|id| {
                Some(match id {
                    CoreId::Rip => ("code_ptr", ""),
                    // rbp and rsp
                    CoreId::Gpr(6 | 7) => ("data_ptr", ""),
                    CoreId::Gpr(_) => ("int64", ""),
                    CoreId::Eflags => ("i386_eflags", ""),
                    CoreId::Segment(_) => ("int32", ""),
                    CoreId::St(_) => ("i387_ext", ""),
                    CoreId::Fpu(_) => ("int", "float"),
                    _ => return None,
                })
            });
        });
    }

    /// The type of an XMM register, as gdb has it for its own cores, with the names of a feature.
    fn vec128(&mut self, prefix: &str) {
        let views = [
            ("v8bf16", "bfloat16", 8, "v8_bfloat16"),
            ("v8h", "ieee_half", 8, "v8_half"),
            ("v4f", "ieee_single", 4, "v4_float"),
            ("v2d", "ieee_double", 2, "v2_double"),
            ("v16i8", "int8", 16, "v16_int8"),
            ("v8i16", "int16", 8, "v8_int16"),
            ("v4i32", "int32", 4, "v4_int32"),
            ("v2i64", "int64", 2, "v2_int64"),
        ];
        for (id, item, count, _) in views {
            let _ = write!(self.xml, "<vector id=\"{prefix}{id}\" type=\"{item}\" count=\"{count}\"/>");
        }
        let _ = write!(self.xml, "<union id=\"{prefix}vec128\">");
        for (id, _, _, field) in views {
            let _ = write!(self.xml, "<field name=\"{field}\" type=\"{prefix}{id}\"/>");
        }
        self.xml.push_str("<field name=\"uint128\" type=\"uint128\"/></union>\n");
    }

    fn sse(&mut self) {
        self.feature("org.gnu.gdb.i386.sse", |d| {
            d.vec128("");
            d.xml.push_str(concat!(
                "<flags id=\"i386_mxcsr\" size=\"4\">",
                "<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>",
                "<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/>",
                "<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" end=\"5\"/>",
                "<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" end=\"7\"/>",
                "<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" end=\"9\"/>",
                "<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" start=\"11\" end=\"11\"/>",
                "<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" start=\"15\" end=\"15\"/></flags>\n",
            ));
            d.of_core(|id| match id {
                CoreId::Xmm(_) => Some(("vec128", "")),
                CoreId::Mxcsr => Some(("i386_mxcsr", "vector")),
                _ => None,
            });
        });
    }

    fn avx512(&mut self) {
        self.feature("org.gnu.gdb.i386.avx512", |d| {
            d.vec128("z");
            d.xml.push_str("<vector id=\"zv2ui128\" type=\"uint128\" count=\"2\"/>\n");
            (0..8).for_each(|i| d.reg(&format!("k{i}"), 64, "uint64", ""));
            (0..16).for_each(|i| d.reg(&format!("zmm{i}h"), 256, "zv2ui128", ""));
            (16..32).for_each(|i| d.reg(&format!("xmm{i}"), 128, "zvec128", ""));
            (16..32).for_each(|i| d.reg(&format!("ymm{i}h"), 128, "uint128", ""));
            (16..32).for_each(|i| d.reg(&format!("zmm{i}h"), 256, "zv2ui128", ""));
        });
    }

    fn system(&mut self) {
        self.feature("org.corestub.system", |d| {
            for register in [Register::Cr0, Register::Cr2, Register::Cr3, Register::Cr4, Register::Efer] {
                d.reg(register.name(), 64, "uint64", "system");
            }
            d.reg("cpu", 32, "uint32", "system");
            d.reg("task", 64, "data_ptr", "system");
        });
    }

    fn user(&mut self) {
        self.feature("org.corestub.user", |d| {
            let wide = [Register::OrigRax, Register::FsBase, Register::GsBase];
            let narrow = [Register::Eflags, Register::Cs, Register::Ss];
            for &register in Register::of_frame().iter().chain(&wide).chain(&narrow) {
                let (bits, ty) = match register {
                    Register::Rip => (64, "code_ptr"),
                    Register::Rsp | Register::Rbp => (64, "data_ptr"),
                    _ if narrow.contains(&register) => (32, "uint32"),
                    _ => (64, "uint64"),
                };
                d.reg(&format!("user_{}", register.name()), bits, ty, "user");
            }
        });
    }

    /// The target.xml document.
    #[must_use]
    pub fn xml(&self) -> &str {
        &self.xml
    }

    /// Bytes of the `g` packet before hexadecimal coding.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Offset and size of a register in the `g` packet.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<(usize, usize)> {
        self.places.get(name).copied()
    }

    /// Offset and size of register number `n` (the `p` packet's number).
    #[must_use]
    pub fn place_of_number(&self, n: usize) -> Option<(usize, usize)> {
        self.order.get(n).map(|&(_, at, len)| (at, len))
    }

    /// All registers in order: name, offset, size in bytes.
    pub fn registers(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        self.order.iter().map(|(n, at, len)| (n.as_str(), *at, *len))
    }
}

/// The bytes of a `g` packet; `None` is a byte that the dump does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegisterFile {
    bytes: Vec<Option<u8>>,
}

impl RegisterFile {
    /// All registers of `description`, unavailable.
    #[must_use]
    pub fn unavailable(description: &Description) -> Self {
        Self { bytes: vec![None; description.len()] }
    }

    /// Sets a register from little-endian `value`, cut or zero-extended to its
    /// size. A register that is not announced is ignored.
    pub fn set(&mut self, description: &Description, name: &str, value: &[u8]) {
        let Some((at, len)) = description.place(name) else { return };
        for (i, byte) in self.bytes.iter_mut().skip(at).take(len).enumerate() {
            *byte = Some(value.get(i).copied().unwrap_or(0));
        }
    }

    /// Sets those of `registers` that are known; `prefix` stands before their names.
    pub fn set_all(&mut self, description: &Description, prefix: &str, registers: &Registers) {
        for (register, value) in registers.iter() {
            self.set_u64(description, &format!("{prefix}{}", register.name()), value);
        }
    }

    /// Sets a register of up to 64 bits.
    pub fn set_u64(&mut self, description: &Description, name: &str, value: u64) {
        self.set(description, name, &value.to_le_bytes());
    }

    /// The value of a register of up to 64 bits, if it is known.
    #[must_use]
    pub fn u64(&self, description: &Description, name: &str) -> Option<u64> {
        let (at, len) = description.place(name)?;
        let bytes = self.bytes.get(at..at + len)?;
        bytes.iter().take(8).rev().try_fold(0u64, |v, b| b.map(|b| v << 8 | u64::from(b)))
    }

    /// The bytes in the order of the `g` packet.
    #[must_use]
    pub fn bytes(&self) -> &[Option<u8>] {
        &self.bytes
    }
}
