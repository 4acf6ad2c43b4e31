//! A stream of QEMU's migration: memory, devices, and the description of them.

pub fn run(bytes: &[u8]) {
    let path = super::scratch("migration");
    if std::fs::write(&path, bytes).is_ok() {
        super::vmcore::read(&path);
    }
}

/// Pages of each kind and two CPUs, whole and without the description.
pub fn seeds() -> Vec<Vec<u8>> {
    let whole = super::seed("migration");
    let cut = whole[..whole.len() - 2000].to_vec();
    vec![whole, cut]
}
