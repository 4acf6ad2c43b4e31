//! The kernel's name for itself: `init_uts_ns.name` (`include/uapi/linux/utsname.h`).

use super::Kernel;
use crate::addr::VirtAddr;
use crate::bytes::cstr;
pub use crate::dump::Utsname;

/// `struct new_utsname`: six fields of this many bytes.
const FIELD: usize = 65;

/// Reads it; what cannot be read stays as VMCOREINFO says, or empty.
pub(super) fn read(kernel: &Kernel) -> Utsname {
    let info = kernel.vmcoreinfo();
    let mut out = Utsname { release: info.release().unwrap_or_default().to_owned(), ..Utsname::default() };
    let offset = info
        .offset("uts_namespace.name")
        .or_else(|| kernel.types().field("uts_namespace", "name").map(|f| f.offset))
        .unwrap_or(0);
    let at = info.symbol("init_uts_ns").map(VirtAddr).or_else(|| kernel.symbol("init_uts_ns"));
    let Some(bytes) =
        at.and_then(|a| a.checked_add(offset)).and_then(|a| kernel.space().read_vec(a, 6 * FIELD).ok())
    else {
        return out;
    };
    let mut fields = bytes.chunks(FIELD).map(|f| cstr(f).into_owned());
    let mut next = || fields.next().unwrap_or_default();
    (out.sysname, out.nodename) = (next(), next());
    let release = next();
    if !release.is_empty() {
        out.release = release;
    }
    (out.version, out.machine) = (next(), next());
    out
}
