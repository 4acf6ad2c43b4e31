//! VMCOREINFO as the kernel keeps it: `vmcoreinfo_note`, of which that in a dump's notes is a
//! copy, and the only thing that tells where bits of the copy turned over.
//!
//! The note is a pointer to memory of its own since 4.13 (203e9e41219b), and was an array
//! before. Source: `kernel/vmcore_info.c`.

use crate::addr::VirtAddr;
use crate::debuginfo::symbols::SymbolTable;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::memory::AddressSpace;

/// `VMCOREINFO_BYTES`, and the head of a note.
const ROOM: usize = 4096 + 64;
/// A text that differs in more characters is another one.
const TURNED_MAX: usize = 64;
const NAME: &[u8] = b"VMCOREINFO\0\0";

/// The kernel's own text, and what is said of `note`, where that was damaged.
pub(super) fn mended(
    note: &VmcoreInfo,
    space: &dyn AddressSpace,
    symbols: &SymbolTable,
) -> Option<(VmcoreInfo, String)> {
    let mut bytes = vec![0; ROOM];
    let mut text_at = |at: u64| {
        let read = space.read(VirtAddr(at), &mut bytes).ok()?;
        let bytes = bytes.get(..read)?;
        let text = memchr::memmem::find(bytes.get(..32)?, NAME)? + NAME.len();
        // Up to its end, or it may lack some.
        bytes.get(text..)?.contains(&0).then(|| VmcoreInfo::parse(bytes.get(text..).unwrap_or_default()))
    };
    let at = symbols.address("vmcoreinfo_note")?;
    let own = text_at(at).or_else(|| text_at(space.read_u64(VirtAddr(at)).ok()?))?;
    let whole = own.text().trim_end().len();
    if note.text().trim_end().len() < whole && own.text().starts_with(note.text()) {
        let said = format!(
            "VMCOREINFO in the dump's notes breaks off after {} of {} bytes; the kernel's own copy is used",
            note.text().len(),
            own.text().len()
        );
        return Some((own, said));
    }
    let turned = own.text().chars().zip(note.text().chars()).filter(|(own, note)| own != note).count();
    let same = own.text().chars().count() == note.text().chars().count();
    (same && (1..=TURNED_MAX).contains(&turned)).then(|| {
        let of = if turned == 1 { "a character".to_owned() } else { format!("{turned} characters") };
        (
            own,
            format!("of VMCOREINFO in the dump's notes {of} had turned over; the kernel's own copy is used"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debuginfo::symbols::Builder;
    use crate::linux::tests::machine::Machine;

    const TEXT: &str = "OSRELEASE=6.1.0\nSYMBOL(_stext)=ffffffff81000000\nKERNELOFFSET=14400000\n";
    const SYMBOL: u64 = 0xffff_ffff_8200_0000;
    const NOTE: u64 = 0xffff_8880_0100_0000;

    fn told(pointer: bool, text: &str, own: &str) -> Option<(VmcoreInfo, String)> {
        let mut m = Machine::new();
        let at = if pointer { NOTE } else { SYMBOL };
        m.word(SYMBOL, NOTE);
        m.write(at, &[11, 0, 0, 0, 70, 0, 0, 0, 0, 0, 0, 0]);
        m.write(at + 12, &[NAME, own.as_bytes()].concat());
        let mut symbols = Builder::new("made up");
        symbols.push(SYMBOL, 8, b'B', b"vmcoreinfo_note");
        mended(&VmcoreInfo::parse(text.as_bytes()), m.view().space(), &symbols.finish())
    }

    #[test]
    fn the_kernels_own_copy_proves_what_turned_over() {
        let whole = format!("{TEXT}\0");
        for pointer in [true, false] {
            for damaged in [TEXT.replace("EASE", "DASE"), TEXT.replace("14400000", "1440\u{fffd}000")] {
                let (own, said) = told(pointer, &damaged, &whole).unwrap();
                assert_eq!(own.text(), TEXT);
                assert!(said.contains("notes a character had turned"), "{said}");
            }
            for cut in [0, 20, 60] {
                let (own, said) = told(pointer, &TEXT[..cut], &whole).unwrap();
                assert_eq!(own.text(), TEXT);
                assert!(said.contains(&format!("breaks off after {cut} of 70 bytes")), "{said}");
            }
            assert!(told(pointer, TEXT, &whole).is_none());
            // Another kernel's, and one that is not there as a whole.
            assert!(told(pointer, &TEXT.replace("14400000", "0"), &whole).is_none());
            assert!(told(pointer, &TEXT.replace("EASE", "DASE"), TEXT).is_none());
        }
    }
}
