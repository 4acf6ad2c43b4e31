//! Relocations: places that the linker or loader fills in (`Elf64_Rela`).

use object::LittleEndian as LE;
use object::elf::{ET_REL, R_X86_64_32, R_X86_64_64, Rela64, SHT_SYMTAB};

use super::{File, Section, rows};

/// The places that a table of relocations names.
pub fn relocated_places(table: &[u8]) -> impl Iterator<Item = u64> {
    rows::<Rela64<LE>>(table).iter().map(|rela| rela.r_offset.get(LE))
}

impl File {
    /// The bytes of a debug section, with its relocations done if the file is not
    /// linked yet: a module. `base` tells where one of its sections was loaded.
    #[must_use]
    pub fn relocated(&self, section: &Section, base: &dyn Fn(&Section) -> u64) -> Option<Vec<u8>> {
        let mut bytes = self.data(section).ok()?.into_owned();
        if self.kind() != ET_REL {
            return Some(bytes);
        }
        let Some(table) = self.section_data(&format!(".rela{}", section.name)).ok()? else {
            return Some(bytes);
        };
        let symbols = self.symbols(SHT_SYMTAB).ok()??;
        for rela in rows::<Rela64<LE>>(&table) {
            let Some(symbol) = symbols.get(rela.r_sym(LE, false) as usize) else { continue };
            let len = match rela.r_type(LE, false) {
                R_X86_64_64 => 8,
                R_X86_64_32 => 4,
                _ => continue,
            };
            // A section of the module lies where it was loaded, a debug section at 0.
            let of = self.sections().get(usize::from(symbol.section.0)).filter(|s| s.is_alloc());
            let target =
                of.map_or(0, base).wrapping_add(symbol.value).wrapping_add_signed(rela.r_addend.get(LE));
            let at = usize::try_from(rela.r_offset.get(LE)).ok()?;
            if let Some(to) = bytes.get_mut(at..at.checked_add(len)?) {
                to.copy_from_slice(target.to_le_bytes().get(..len)?);
            }
        }
        Some(bytes)
    }
}
