//! Notes: what a file tells beside its contents.
//!
//! A row of `{u32 namesz, u32 descsz, u32 type, name, desc}`, name and descriptor
//! padded (`include/uapi/linux/elf.h`, `Elf64_Nhdr`). Sizes in notes lie in real
//! dumps (a CPU that died while it wrote leaves zeros) and in hostile ones.

use object::LittleEndian as LE;
use object::elf::FileHeader64;
use object::read::elf::NoteIterator;

/// One note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note<'a> {
    /// The originator, without its NUL: `CORE`, `GNU`, `LINUX`, `VMCOREINFO`, `QEMU`.
    pub name: &'a [u8],
    /// What the originator calls it.
    pub kind: u32,
    /// The descriptor.
    pub desc: &'a [u8],
}

/// The notes in `data`, up to the first that does not fit; what precedes it stays.
///
/// `align` is that of the section or segment. Only 8 makes a difference
/// (`.note.gnu.property`): dumps pad to four bytes, whatever their headers say.
pub fn notes(data: &[u8], align: u64) -> impl Iterator<Item = Note<'_>> {
    let align = if align == 8 { 8 } else { 4 };
    NoteIterator::<FileHeader64<LE>>::new(LE, align, data)
        .into_iter()
        .flatten()
        .map_while(|note| note.ok())
        // /proc/vmcore pads the notes of a CPU that saved nothing with zeros: each
        // twelve of them are an empty note. The next CPU's come after them.
        .filter(|note| note.n_namesz(LE) != 0 || note.n_descsz(LE) != 0)
        .map(|note| Note { name: note.name(), kind: note.n_type(LE).0, desc: note.desc() })
}
