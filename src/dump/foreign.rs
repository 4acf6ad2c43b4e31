//! What people offer for a dump and is none that is read here: its name, and what makes a
//! dump of it.

const LINUX_ONLY: &str = "corestub reads dumps of Linux";
const UNPACK: &str = "unpack it, and give the dump in it";
const FROM_DISK: &str = "it is a disk, not memory: start the guest, then virsh dump --memory-only";
pub(super) const OTHER_DUMP: &str = "dump with kdump in the guest, or by the hypervisor as ELF";

const LKCD: &str = "crash reads it; LKCD ended with Linux 2.6";
const RESTORE_XEN: &str = "restore it; then xl dump-core, or kdump in the guest";

const SADUMP: (&str, &str) =
    ("a SADUMP file (Fujitsu)", "makedumpfile -l -d 0 -x VMLINUX FILE NEW makes a kdump file of it");

/// First bytes, what begins so, and what to do.
const FOREIGN: [(&[u8], &str, &str); 34] = [
    (b"PAGEDU64", "a Windows crash dump", LINUX_ONLY),
    (b"PAGEDUMP", "a 32-bit Windows crash dump", LINUX_ONLY),
    (b"MDMP", "a minidump of a Windows process", "corestub reads Linux vmcores and ELF cores"),
    (b"hibr", "a Windows hibernation file", LINUX_ONLY),
    (b"HIBR", "a Windows hibernation file", LINUX_ONLY),
    (b"RSTR", "a Windows hibernation file", LINUX_ONLY),
    (b"wake", "a Windows hibernation file", LINUX_ONLY),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file (macOS)", LINUX_ONLY),
    (b"minidump FreeBSD", "a FreeBSD minidump", LINUX_ONLY),
    (b"FreeBSD Kernel Dump", "a FreeBSD dump", LINUX_ONLY),
    (b"\0\0\0\0FreeBSD", "a FreeBSD dump", LINUX_ONLY),
    (b"sadump\0\0", SADUMP.0, SADUMP.1),
    (b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "an LKCD dump", LKCD),
    (b"\xcd\x23\x8f\x61\x73\x01\x19\xa8", "a live LKCD dump", LKCD),
    (b"\xa8\x19\x01\x73\x61\x8f\x23\xed", "a big-endian LKCD dump", LKCD),
    (b"\xfd\x23\x8f\x61\x73\x01\x19\xa8", "an s390 dump", "corestub serves x86-64 dumps only"),
    (b"mclx", "a Mission Critical Linux dump", "crash reads it"),
    (b"\xed\xeb\x0f\xf0", "a dump of a Xen domain (xm dump-core, old form)", OTHER_DUMP),
    (b"\xee\xeb\x0f\xf0", "a dump of a Xen HVM domain (xm dump-core, old form)", OTHER_DUMP),
    (b"LinuxGuestRecord", "a saved Xen domain (xl save)", RESTORE_XEN),
    (b"Xen saved domain", "a saved Xen domain (xl save)", RESTORE_XEN),
    (b"\xff\xff\xff\xff\xff\xff\xff\xff\x46\x4e\x45\x58", "a saved Xen domain (libxc)", RESTORE_XEN),
    (
        b"\x7fVirtualBox Saved",
        "a saved state of VirtualBox",
        "restore it; then VBoxManage debugvm VM dumpvmcore --filename F",
    ),
    (
        b"\x14\x20\x28\x01",
        "a saved state of Hyper-V (.vmrs)",
        "vm2core FILE.vmrs CORE makes an ELF dump of it",
    ),
    (
        b"QFI\xfb",
        "a qcow2 disk",
        "a snapshot in it: qemu-system-x86_64 -loadvm NAME ..., then dump-guest-memory; else it is a disk",
    ),
    (b"KDMV", "a VMDK disk", FROM_DISK),
    (b"COWD", "a VMDK disk", FROM_DISK),
    (b"vhdxfile", "a VHDX disk", FROM_DISK),
    (b"conectix", "a VHD disk", FROM_DISK),
    (b"<<< ", "a VirtualBox disk", FROM_DISK),
    (b"PK\x03\x04", "a zip file", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file", UNPACK),
    (b"\x89LZO\0\r\n\x1a\n", "an lzop file", "unpack it: lzop -d"),
    (b"LZIP", "an lzip file", "unpack it: lzip -dk"),
];

/// How much of a file is looked at.
pub(super) const HEAD: usize = 4096 + 24;

/// What a file is that begins so, and what to do.
pub(super) fn name(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, what, hint)) = FOREIGN.iter().find(|(magic, ..)| at(0, magic)) {
        return Some((what, hint));
    }
    if at(257, b"ustar") {
        return Some(("a tar file", "unpack it: tar -xf"));
    }
    // Swap headers end a page (include/linux/swap.h); a hibernated one says so there.
    if at(4086, b"S1SUSPEND") || at(4086, b"ULSUSPEND") || at(4086, b"LINHIB0001") {
        return Some((
            "a swap area with a hibernated Linux",
            "resume it, then dump: a hibernation image is not memory as it stood",
        ));
    }
    if at(4086, b"SWAPSPACE2") {
        return Some(("a swap area", "give the dump: /var/crash/..., or the file that kdump wrote"));
    }
    // SADUMP's header stands behind a block of its own on some media (crash's sadump.h).
    at(4096, b"sadump\0\0").then_some(SADUMP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_named_by_its_first_bytes() {
        for (magic, what, _) in FOREIGN {
            assert_eq!(name(magic).unwrap().0, what);
        }
        let mut swap = vec![0; 4096];
        swap[4086..4095].copy_from_slice(b"S1SUSPEND");
        assert!(name(&swap).unwrap().0.contains("hibernated"));
        assert_eq!((name(&[0; 4096]), name(b""), name(b"KDUMP   ")), (None, None, None));
    }
}
