//! A userspace core.

use std::path::Path;
use std::sync::Arc;

use corestub::bytes::source::InMemory;
use corestub::process::core_file::CoreFile;

pub fn run(bytes: &[u8]) {
    let _ = CoreFile::parse(Path::new("core"), Arc::new(InMemory::new("core", bytes.to_vec())));
}

pub fn seeds() -> Vec<Vec<u8>> {
    vec![super::fixture("plain.core")[..16 << 10].to_vec()]
}
