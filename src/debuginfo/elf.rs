//! vmlinux, modules, and the debug files of either: ELF files with a kernel's symbols.
//!
//! Only headers are read at opening; everything else when it is asked for, from the
//! mapped file, so that a vmlinux of half a gigabyte costs nothing until its DWARF
//! is wanted.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use object::elf::{
    ET_DYN, ET_EXEC, ET_REL, SHN_ABS, SHN_UNDEF, SHN_XINDEX, SHT_SYMTAB, STB_LOCAL, STB_WEAK, STT_COMMON,
    STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT,
};

use super::symbols::{Builder, SymbolTable};
use crate::bytes::source::{self, Source};
use crate::elf::{File, PT_LOAD, Section, Symbol};
use crate::error::{Error, Result};

/// Kernel addresses: what KASLR moves. Below lie per-CPU offsets, zero-based
/// until 6.15, and absolute symbols.
pub const KERNEL_HALF: u64 = 1 << 63;

/// A vmlinux, a module, or the debug file of either.
#[derive(Debug)]
pub struct Vmlinux(File);

impl Deref for Vmlinux {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Vmlinux {
    /// Opens the file at `path` and reads its headers.
    ///
    /// # Errors
    /// What stands where an x86-64 ELF header, its tables or names should.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(source::open(path)?)
    }

    /// The same over bytes from elsewhere, e.g. a decompressed module.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_source(source: Arc<dyn Source>) -> Result<Self> {
        let file = File::read(source)?;
        if !matches!(file.kind(), ET_REL | ET_EXEC | ET_DYN) {
            return Err(Error::Malformed {
                path: file.path().to_owned(),
                format: "ELF file",
                offset: 16,
                wanted: "a relocatable, executable or shared file",
                found: format!("type {}", file.kind().0),
            });
        }
        Ok(Self(file))
    }

    /// The lowest kernel address of a loaded segment: `_text` before KASLR.
    #[must_use]
    pub fn first_load_vaddr(&self) -> Option<u64> {
        let loads = self.program_headers().iter().filter(|p| p.kind == PT_LOAD);
        loads.map(|p| p.vaddr).filter(|&at| at >= KERNEL_HALF).min()
    }

    /// The symbols of `.symtab`, moved by the KASLR `slide`. Those below
    /// [`KERNEL_HALF`] (per-CPU, absolute) stay where they are.
    ///
    /// # Errors
    /// There is no symbol table, or it contradicts itself.
    pub fn symbols(&self, slide: u64) -> Result<SymbolTable> {
        self.symbols_placed(&|address, _| {
            Some(if address >= KERNEL_HALF { address.wrapping_add(slide) } else { address })
        })
    }

    /// The symbols of `.symtab`, each at the address that `place` gives to
    /// (value in the file, its section); those it gives none are left out.
    /// In a module the value is an offset into the section.
    ///
    /// # Errors
    /// As [`Self::symbols`].
    pub fn symbols_placed(
        &self,
        place: &dyn Fn(u64, Option<&Section>) -> Option<u64>,
    ) -> Result<SymbolTable> {
        let symbols = self.0.symbols(SHT_SYMTAB)?.ok_or_else(|| Error::Missing {
            path: self.path().to_owned(),
            what: "no symbol table (.symtab)".to_owned(),
            hint: "it was stripped: give the unstripped file or its .debug",
        })?;
        let mut builder = Builder::new(format!("symbol table of {}", self.path().display()));
        builder.reserve(symbols.len());
        for symbol in symbols.iter().filter(|symbol| !is_label(symbol.name())) {
            let Some((letter, section)) = self.letter(&symbol) else { continue };
            if let Some(address) = place(symbol.value, section) {
                builder.push(address, symbol.size, letter, symbol.name());
            }
        }
        Ok(builder.finish())
    }

    /// The letter that `nm` prints, and the section; `None` for what is no symbol
    /// of this file (undefined, file and section names).
    fn letter(&self, symbol: &Symbol<'_>) -> Option<(u8, Option<&Section>)> {
        if !matches!(symbol.info.st_type(), STT_NOTYPE | STT_OBJECT | STT_FUNC | STT_COMMON | STT_GNU_IFUNC) {
            return None;
        }
        let (letter, section) = match symbol.section {
            SHN_UNDEF => return None,
            SHN_ABS => (b'a', None),
            // Beyond 65,279 sections the number is in a table of its own; the
            // letter then follows from the type alone.
            SHN_XINDEX => (if symbol.info.st_type() == STT_FUNC { b't' } else { b'd' }, None),
            index => {
                let section = self.sections().get(usize::from(index.0))?;
                (letter(section), Some(section))
            }
        };
        Some(match symbol.info.st_bind() {
            STB_LOCAL => (letter, section),
            STB_WEAK if symbol.info.st_type() == STT_OBJECT => (b'V', section),
            STB_WEAK => (b'W', section),
            _ => (letter.to_ascii_uppercase(), section),
        })
    }
}

fn letter(section: &Section) -> u8 {
    match () {
        () if section.is_code() => b't',
        () if !section.is_alloc() => b'n',
        () if !section.is_writable() => b'r',
        () if section.is_nobits() && section.name.contains("bss") => b'b',
        () => b'd',
    }
}

/// Labels that only confuse: local ones of the assembler, checksums and
/// name strings of exports.
fn is_label(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 3] = [b".L", b"__crc_", b"__kstrtab"];
    name.is_empty() || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
#[path = "tests/elf.rs"]
mod tests;
