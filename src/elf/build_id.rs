//! Build-ids: which bytes belong together.
//!
//! The linker hashes what it links into an ELF note (`GNU`, `NT_GNU_BUILD_ID`);
//! image, debug file and dump of one build carry the same one.

use std::fmt;
use std::str::FromStr;

use object::elf::{ELF_NOTE_GNU, NT_GNU_BUILD_ID};
use serde::{Serialize, Serializer};

use super::notes::notes;
use crate::hex;

/// Longest id that is believed: `ld --build-id=0x...` allows any, hashes give 20.
const LEN_MAX: usize = 64;

/// A build-id, printed in hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// From its bytes; `None` for lengths that no linker writes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (2..=LEN_MAX).contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// The build-id among ELF notes of that alignment, e.g. the bytes of `.notes`.
    #[must_use]
    pub fn from_notes(data: &[u8], align: u64) -> Option<Self> {
        notes(data, align)
            .find(|note| note.kind == NT_GNU_BUILD_ID.0 && note.name == ELF_NOTE_GNU)
            .and_then(|note| Self::new(note.desc))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `.build-id/xx/yyyy` and the ending: none for the file itself, `.debug` for its
    /// debug file.
    #[must_use]
    pub fn path(&self, ending: &str) -> String {
        let hex = self.to_string();
        let (head, tail) = hex.split_at_checked(2).unwrap_or_default();
        format!(".build-id/{head}/{tail}{ending}")
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Serialize for BuildId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What is not a build-id in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a build-id: expected 4 to 128 hex digits")]
pub struct NotABuildId;

impl FromStr for BuildId {
    type Err = NotABuildId;

    fn from_str(text: &str) -> Result<Self, NotABuildId> {
        hex::decode(text.as_bytes()).and_then(|bytes| Self::new(&bytes)).ok_or(NotABuildId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id: BuildId = "3b43fad5034874490492495d552c0af6a5fab235".parse().unwrap();
        assert_eq!(id.to_string(), "3b43fad5034874490492495d552c0af6a5fab235");
        assert_eq!(id.path(".debug"), ".build-id/3b/43fad5034874490492495d552c0af6a5fab235.debug");
        for bad in ["", "3b", "3b4", "3b4g", "../../etc/passwd", "é3b43"] {
            assert_eq!(bad.parse::<BuildId>(), Err(NotABuildId), "{bad}");
        }
    }

    #[test]
    fn found_among_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, desc) in [
            (&b"Xen\0"[..], 3, &b"abcd"[..]),
            (b"GNU\0", 5, b"pppp"),
            (b"GNU\0", 3, &[0xab, 0xcd, 0xef, 0x01]),
        ] {
            for n in [name.len(), desc.len(), kind] {
                notes.extend(u32::try_from(n).unwrap().to_le_bytes());
            }
            notes.extend_from_slice(name);
            notes.extend_from_slice(desc);
        }
        assert_eq!(BuildId::from_notes(&notes, 4).unwrap().to_string(), "abcdef01");
        assert_eq!(BuildId::from_notes(&notes[..20], 4), None);
    }
}
