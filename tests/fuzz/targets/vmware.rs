//! A state of VMware's, with the memory in a file beside it.

pub fn run(bytes: &[u8]) {
    let (state, memory) = (super::scratch("vmware.vmss"), super::scratch("vmware.vmem"));
    let written = memory.exists() || std::fs::write(&memory, [7; 10 * 4096]).is_ok();
    if written && std::fs::write(&state, bytes).is_ok() {
        super::vmcore::read(&state);
    }
}

/// Without and with the memory inside.
pub fn seeds() -> Vec<Vec<u8>> {
    ["vmss", "vmsn"].map(super::seed).into()
}
