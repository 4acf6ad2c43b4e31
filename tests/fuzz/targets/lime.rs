//! An image of LiME's or AVML's.

pub fn run(bytes: &[u8]) {
    let path = super::scratch("lime");
    if std::fs::write(&path, bytes).is_ok() {
        super::vmcore::read(&path);
    }
}

/// Two ranges, plain and packed.
pub fn seeds() -> Vec<Vec<u8>> {
    ["lime", "avml"].map(super::seed).into()
}
