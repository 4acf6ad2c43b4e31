//! The kernel's name for itself: `init_uts_ns.name` (`include/uapi/linux/utsname.h`).

use super::Kernel;
use crate::addr::VirtAddr;
use crate::bytes::cstr;
pub use crate::dump::Utsname;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::memory::AddressSpace;

/// `struct new_utsname`: six fields of this many bytes.
const FIELD: usize = 65;
/// `struct uts_namespace` begins with it, or with no more than a reference count.
const BEFORE: usize = 64;

/// Reads it; what cannot be read stays as VMCOREINFO says, or empty.
pub(super) fn read(kernel: &Kernel) -> Utsname {
    let info = kernel.vmcoreinfo();
    let at = info.symbol("init_uts_ns").map(VirtAddr).or_else(|| kernel.symbol("init_uts_ns"));
    let mut out = at.and_then(|at| at_namespace(kernel.space(), at)).unwrap_or_default();
    if out.release.is_empty() {
        kernel.layout().version.release().clone_into(&mut out.release);
    }
    out
}

/// The release before symbols and types are known. The kernel's own word goes before
/// VMCOREINFO's, whose bits nothing guards: a page that is packed and damaged is not read at all.
pub(super) fn release(space: &dyn AddressSpace, info: &VmcoreInfo, header: Option<&Utsname>) -> String {
    let own = info.symbol("init_uts_ns").and_then(|at| at_namespace(space, VirtAddr(at)));
    let own = own.map(|name| name.release).filter(|own| own.starts_with(|c: char| c.is_ascii_digit()));
    own.or_else(|| info.release().map(str::to_owned))
        .or_else(|| header.map(|name| name.release.clone()))
        .unwrap_or_default()
}

fn at_namespace(space: &dyn AddressSpace, at: VirtAddr) -> Option<Utsname> {
    let mut bytes = [0; BEFORE + 6 * FIELD];
    let read = space.read(at, &mut bytes).ok()?;
    let start = memchr::memmem::find(bytes.get(..read.min(BEFORE))?, b"Linux\0")?;
    let mut fields = bytes.get(start..read)?.chunks_exact(FIELD).map(|f| cstr(f).into_owned());
    let mut next = || fields.next().unwrap_or_default();
    Some(Utsname { sysname: next(), nodename: next(), release: next(), version: next(), machine: next() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::machine::Machine;

    const AT: u64 = 0xffff_ffff_8100_0040;

    fn machine(release: &str) -> Machine {
        let mut m = Machine::new();
        m.write(AT, &[0; 8 + 6 * FIELD]);
        m.write(AT + 4, b"Linux");
        m.write(AT + 4 + 2 * FIELD as u64, release.as_bytes());
        m
    }

    #[test]
    fn the_kernel_itself_goes_before_what_notes_and_headers_say() {
        let header = Utsname { release: "6.3.0".to_owned(), ..Utsname::default() };
        let told = |m: Machine, info: &str| {
            let info = VmcoreInfo::parse(info.as_bytes());
            release(m.view().space(), &info, Some(&header))
        };
        let at = format!("SYMBOL(init_uts_ns)={AT:x}\n");
        // A bit of the key, and of the value.
        assert_eq!(told(machine("6.1.0-56-cloud"), &format!("OSRELDASE=6.1.0\n{at}")), "6.1.0-56-cloud");
        assert_eq!(told(machine("6.1.0-56-cloud"), &format!("OSRELEASE=4.1.0\n{at}")), "6.1.0-56-cloud");
        // What is there is not its name, or not in the dump.
        assert_eq!(told(machine("\x01"), &format!("OSRELEASE=6.1.0\n{at}")), "6.1.0");
        assert_eq!(told(Machine::new(), &format!("OSRELEASE=6.1.0\n{at}")), "6.1.0");
        assert_eq!(told(machine("6.1.0"), "OSRELEASE=6.2.0\n"), "6.2.0");
        assert_eq!(told(Machine::new(), &at), "6.3.0");
    }
}
