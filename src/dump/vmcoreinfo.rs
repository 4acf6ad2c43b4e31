//! VMCOREINFO: what the kernel tells dump tools about itself.
//!
//! Lines of `KEY=value` and `KIND(name)=value` that the kernel writes at boot
//! (`kernel/vmcore_info.c`, before 6.9 `kernel/crash_core.c`; x86 part in
//! `arch/x86/kernel/vmcore_info_64.c`) and completes with `CRASHTIME` when it crashes.
//!
//! | kind | value |
//! |---|---|
//! | `SYMBOL` | address, hexadecimal without `0x` |
//! | `OFFSET`, `SIZE`, `LENGTH` | bytes or elements, decimal |
//! | `NUMBER` | decimal and perhaps negative, or hexadecimal with `0x` |
//!
//! `BUILD-ID` is not always to be trusted: see [`VmcoreInfo::build_id`].

use std::collections::HashMap;
use std::path::Path;

use super::notes::Notes;
use crate::bytes;
use crate::bytes::source;
use crate::elf::BuildId;
use crate::error::{Error, Result};

/// The parsed text.
#[derive(Debug, Clone)]
pub struct VmcoreInfo {
    text: String,
    /// Key and value as ranges would save little: the text is one page.
    values: HashMap<String, String>,
}

impl VmcoreInfo {
    /// What it begins with.
    pub(super) const FIRST: &[u8] = b"OSRELEASE=";

    /// Whether some of it is in `data`.
    pub(super) fn is_in(data: &[u8]) -> bool {
        [Self::FIRST, b"\nSYMBOL("].iter().any(|mark| memchr::memmem::find(data, mark).is_some())
    }

    /// Parses the text of a note. The first of two equal keys counts; lines
    /// without `=` are skipped.
    #[must_use]
    pub fn parse(data: &[u8]) -> Self {
        let data = data.get(..data.len().min(Notes::TEXT_MAX)).unwrap_or_default();
        let text = bytes::cstr(data).into_owned();
        let mut values = HashMap::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            values.entry(key.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
        }
        Self { text, values }
    }

    /// Reads the text from a file: `--vmcoreinfo`, as `/sys/kernel/vmcoreinfo`
    /// points to it or `makedumpfile -g` writes it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let source = source::open(path)?;
        let data =
            source.bytes_up_to(0, Notes::TEXT_MAX).map_err(|source| Error::io("read", path, source))?;
        let info = Self::parse(&data);
        if info.get("OSRELEASE").is_none() {
            return Err(Error::Malformed {
                path: path.to_owned(),
                format: "VMCOREINFO",
                offset: 0,
                wanted: "text with a line `OSRELEASE=...`",
                found: format!("{} lines without it", info.text.lines().count()),
            });
        }
        Ok(info)
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value of a key as it stands, e.g. `OSRELEASE` or `SYMBOL(_stext)`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    fn of_kind(&self, kind: &str, name: &str) -> Option<&str> {
        self.get(&format!("{kind}({name})"))
    }

    /// `SYMBOL(name)`: a run-time address (KASLR applied).
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        hex(self.of_kind("SYMBOL", name)?)
    }

    /// All `SYMBOL(name)`s.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, u64)> {
        self.values.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("SYMBOL(")?.strip_suffix(')')?;
            Some((name, hex(value)?))
        })
    }

    /// `NUMBER(name)`. Addresses beyond the signed range come out negative: cast them back.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        let value = self.of_kind("NUMBER", name)?;
        match value.strip_prefix("0x") {
            Some(digits) => hex(digits).map(u64::cast_signed),
            None => value.parse().ok().or_else(|| value.parse().ok().map(u64::cast_signed)),
        }
    }

    /// `OFFSET(struct.field)`, in bytes.
    #[must_use]
    pub fn offset(&self, name: &str) -> Option<u64> {
        self.of_kind("OFFSET", name)?.parse().ok()
    }

    /// `SIZE(name)`, in bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        self.of_kind("SIZE", name)?.parse().ok()
    }

    /// `LENGTH(name)`, in elements.
    #[must_use]
    pub fn length(&self, name: &str) -> Option<u64> {
        self.of_kind("LENGTH", name)?.parse().ok()
    }

    /// `OSRELEASE`, as `uname -r` says it.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.get("OSRELEASE").filter(|r| !r.is_empty())
    }

    /// `KERNELOFFSET`: by how much KASLR moved the kernel's text.
    #[must_use]
    pub fn kaslr_offset(&self) -> Option<u64> {
        hex(self.get("KERNELOFFSET")?)
    }

    /// `CRASHTIME`: seconds since 1970. Only a kernel that crashed writes it.
    #[must_use]
    pub fn crash_time(&self) -> Option<i64> {
        self.get("CRASHTIME")?.parse().ok()
    }

    /// `BUILD-ID` (since 5.9). Some kernels write garbage here, which looks like any other.
    #[must_use]
    pub fn build_id(&self) -> Option<BuildId> {
        self.get("BUILD-ID")?.parse().ok()
    }
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"OSRELEASE=6.1.0-56-cloud-amd64\nBUILD-ID=0aFf\nPAGESIZE=4096\n\
        SYMBOL(_stext)=ffffffff95400000\nOFFSET(uts_namespace.name)=0\nSIZE(page)=64\nLENGTH(node_data)=1024\n\
        NUMBER(phys_base)=-12582912\nNUMBER(VMALLOC_START)=0xffffc90000000000\nNUMBER(sme_mask)=0\n\
        NUMBER(X)=18446744073709551615\nKERNELOFFSET=14400000\nCRASHTIME=1795230339\nno value\n\
        OSRELEASE=second\n\0";

    #[test]
    fn each_kind_is_read_in_its_base() {
        let v = VmcoreInfo::parse(TEXT);
        assert_eq!(v.release(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(v.build_id().unwrap().to_string(), "0aff");
        assert_eq!(v.symbol("_stext"), Some(0xffff_ffff_9540_0000));
        assert_eq!(v.offset("uts_namespace.name"), Some(0));
        assert_eq!((v.size("page"), v.length("node_data")), (Some(64), Some(1024)));
        assert_eq!(v.number("phys_base"), Some(-12_582_912));
        assert_eq!(v.number("VMALLOC_START").map(i64::cast_unsigned), Some(0xffff_c900_0000_0000));
        assert_eq!(v.number("X"), Some(-1));
        assert_eq!(v.kaslr_offset(), Some(0x1440_0000));
        assert_eq!(v.crash_time(), Some(1_795_230_339));
        assert_eq!(v.symbol("nothing"), None);
        assert!(v.text().ends_with("second\n"));
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        std::fs::write(&path, b"hello\nworld\n").unwrap();
        let message = VmcoreInfo::from_file(&path).unwrap_err().to_string();
        assert!(message.contains("OSRELEASE") && message.contains("2 lines"), "{message}");
        std::fs::write(&path, TEXT).unwrap();
        assert_eq!(VmcoreInfo::from_file(&path).unwrap().symbol("_stext"), Some(0xffff_ffff_9540_0000));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(data in proptest::collection::vec(any::<u8>(), 0..600), lines in "([A-Z-]{0,9}[(=.0-9a-fx)\n-]{0,9}){0,40}") {
            for v in [VmcoreInfo::parse(&data), VmcoreInfo::parse(lines.as_bytes())] {
                let _ = (v.build_id(), v.kaslr_offset(), v.crash_time(), v.symbol("a"), v.number("a"), v.offset("a"));
            }
        }
    }
}
