//! The registers that a dump tells, by name and by number.
//!
//! gdb's numbers are those of `org.gnu.gdb.i386.core` (`gdb/features/i386/64bit-core.xml`),
//! which `gdbstub_arch` knows as [`X86_64CoreRegId`]: a register's place in
//! [`Register`] is its number there. DWARF's are those of the psABI, figure 3.36.

use gdbstub::arch::RegId;
use gdbstub_arch::x86::reg::id::X86_64CoreRegId;

macro_rules! registers {
    ($($variant:ident $name:literal $dwarf:expr;)*) => {
        /// A register of at most 64 bits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the registers' own names")]
        pub enum Register { $($variant,)* }

        impl Register {
            /// All, in gdb's order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// gdb's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// DWARF's number, if it has one.
            #[must_use]
            pub const fn dwarf(self) -> Option<u8> {
                match self { $(Self::$variant => $dwarf,)* }
            }
        }
    };
}

registers! {
    Rax "rax" Some(0);
    Rbx "rbx" Some(3);
    Rcx "rcx" Some(2);
    Rdx "rdx" Some(1);
    Rsi "rsi" Some(4);
    Rdi "rdi" Some(5);
    Rbp "rbp" Some(6);
    Rsp "rsp" Some(7);
    R8 "r8" Some(8);
    R9 "r9" Some(9);
    R10 "r10" Some(10);
    R11 "r11" Some(11);
    R12 "r12" Some(12);
    R13 "r13" Some(13);
    R14 "r14" Some(14);
    R15 "r15" Some(15);
    // DWARF's 16 is the return address, which is what a caller's rip is.
    Rip "rip" Some(16);
    Eflags "eflags" Some(49);
    Cs "cs" Some(51);
    Ss "ss" Some(52);
    Ds "ds" Some(53);
    Es "es" Some(50);
    Fs "fs" Some(54);
    Gs "gs" Some(55);
    // From here on not of gdb's core.
    OrigRax "orig_rax" None;
    FsBase "fs_base" Some(58);
    GsBase "gs_base" Some(59);
    Cr0 "cr0" None;
    Cr2 "cr2" None;
    Cr3 "cr3" None;
    Cr4 "cr4" None;
    Efer "efer" None;
}

impl Register {
    const COUNT: usize = Self::ALL.len();

    /// The sixteen general registers and rip: what a frame of a stack has.
    #[must_use]
    pub fn of_frame() -> &'static [Self] {
        Self::ALL.get(..=Self::Rip as usize).unwrap_or_default()
    }

    /// The register that DWARF calls `number`.
    #[must_use]
    pub fn from_dwarf(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.dwarf().map(u16::from) == Some(number))
    }
}

/// A register of gdb's core and SSE features.
#[derive(Debug, Clone)]
pub struct CoreRegister {
    /// What it is.
    pub id: X86_64CoreRegId,
    /// gdb's name.
    pub name: String,
    /// Its width.
    pub bytes: usize,
}

/// gdb's core and SSE features: the first registers of the `g` packet, in their order.
pub fn of_gdb_core() -> impl Iterator<Item = CoreRegister> {
    use X86_64CoreRegId as Id;
    let named = |n| {
        let (id, bytes) = Id::from_raw_id(n)?;
        let name = match id {
            Id::St(i) => format!("st{i}"),
            Id::Fpu(of_fpu) => format!("{of_fpu:?}").to_lowercase(),
            Id::Xmm(i) => format!("xmm{i}"),
            Id::Mxcsr => "mxcsr".to_owned(),
            _ => Register::ALL.get(n)?.name().to_owned(),
        };
        Some(CoreRegister { id, name, bytes: bytes?.get() })
    };
    (0..).map_while(named)
}

/// A set of registers; what is not known is absent, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers([Option<u64>; Register::COUNT]);

impl Registers {
    /// The value of `register`, if it is known.
    #[must_use]
    pub fn get(&self, register: Register) -> Option<u64> {
        self.0.get(register as usize).copied().flatten()
    }

    /// Sets the value of `register`, or makes it unknown.
    pub fn set(&mut self, register: Register, value: Option<u64>) {
        if let Some(slot) = self.0.get_mut(register as usize) {
            *slot = value;
        }
    }

    /// Those that are known, in gdb's order.
    pub fn iter(&self) -> impl Iterator<Item = (Register, u64)> {
        Register::ALL.iter().zip(self.0).filter_map(|(&register, value)| Some((register, value?)))
    }

    /// Whether they are those of user mode (`cs` of ring 3).
    #[must_use]
    pub fn in_user_mode(&self) -> bool {
        self.get(Register::Cs).is_some_and(|cs| cs & 3 == 3)
    }
}

impl Extend<(Register, u64)> for Registers {
    fn extend<T: IntoIterator<Item = (Register, u64)>>(&mut self, values: T) {
        for (register, value) in values {
            self.set(register, Some(value));
        }
    }
}

impl FromIterator<(Register, u64)> for Registers {
    fn from_iter<T: IntoIterator<Item = (Register, u64)>>(values: T) -> Self {
        let mut all = Self::default();
        all.extend(values);
        all
    }
}

#[cfg(test)]
mod tests {
    use gdbstub_arch::x86::reg::id::X86SegmentRegId;

    use super::*;

    #[test]
    fn the_place_of_a_register_is_its_number_in_gdb() {
        let number = |name: &str| of_gdb_core().position(|r| r.name == name);
        for (n, register) in Register::ALL.iter().enumerate().take(24) {
            assert_eq!(number(register.name()), Some(n));
        }
        let of = |register: Register| X86_64CoreRegId::from_raw_id(register as usize).unwrap();
        assert!(matches!(of(Register::R15), (X86_64CoreRegId::Gpr(15), Some(n)) if n.get() == 8));
        assert!(matches!(of(Register::Rip), (X86_64CoreRegId::Rip, _)));
        assert!(
            matches!(of(Register::Ss), (X86_64CoreRegId::Segment(X86SegmentRegId::SS), Some(n)) if n.get() == 4)
        );
        assert_eq!(of_gdb_core().last().map(|r| r.name), Some("mxcsr".to_owned()));
        assert_eq!(of_gdb_core().map(|r| r.bytes).sum::<usize>(), 0x218);
    }

    #[test]
    fn dwarfs_numbers_are_those_of_gimli() {
        for &register in Register::ALL {
            let name = match register {
                Register::Rip => "RA",
                Register::Eflags => "rFLAGS",
                Register::FsBase => "fs.base",
                Register::GsBase => "gs.base",
                other => other.name(),
            };
            let theirs = gimli::X86_64::name_to_register(name).map(|r| r.0);
            assert_eq!(register.dwarf().map(u16::from), theirs, "{name}");
            assert!(theirs.is_none_or(|n| Register::from_dwarf(n) == Some(register)));
        }
    }

    #[test]
    fn what_was_not_set_is_unknown() {
        let mut some: Registers = [(Register::Cs, 0x33), (Register::Rax, 0)].into_iter().collect();
        assert!(some.in_user_mode());
        assert_eq!((some.get(Register::Rax), some.get(Register::Rbx)), (Some(0), None));
        some.set(Register::Rax, None);
        assert_eq!(some.iter().collect::<Vec<_>>(), [(Register::Cs, 0x33)]);
    }
}
